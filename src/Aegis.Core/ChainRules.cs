namespace Aegis.Core;

/// <summary>Where a chain stands after one of its records: what the next has to follow from.</summary>
/// <param name="Sequence">That of the record.</param>
/// <param name="Hash">That of the record.</param>
/// <param name="WorkflowType">That of the chain.</param>
/// <param name="State">The state it left.</param>
/// <param name="Status">The status it left.</param>
/// <param name="RecordedAt">When it was recorded.</param>
/// <param name="LeaseEpoch">The highest along the chain, as far as it was read.</param>
public readonly record struct ChainPoint(
    long Sequence, Hash Hash, string WorkflowType, string State, WorkflowStatus Status, long RecordedAt, long LeaseEpoch)
{
    public static ChainPoint Of(Record record, Hash hash, long leaseEpoch = 0) => new(record.Sequence, hash,
        record.WorkflowType, record.ToState, record.Status, record.RecordedAt, Math.Max(leaseEpoch, record.LeaseEpoch));
}

/// <summary>Where a chain began: what its head repeats of record 1.</summary>
/// <param name="LogIndex">The place of record 1 in the log.</param>
/// <param name="RecordedAt">When it was recorded.</param>
/// <param name="PreviousHash">Zero but in a fork.</param>
/// <param name="Metadata">Null where altered or erased values say nothing of the head.</param>
public sealed record ChainStart(long LogIndex, long RecordedAt, Hash PreviousHash, Metadata? Metadata)
{
    /// <summary>What record 1 says, as far as it is there as it was recorded.</summary>
    public static ChainStart Of(Record first, long logIndex) => new(logIndex, first.RecordedAt, first.PreviousHash,
        (first.Content is { } c ? Recomputed.Of(c) : default) == first.ContentDigest ? first.Content?.Metadata ?? Metadata.Empty : null);
}

/// <summary>What the rules of a chain ask of a record.</summary>
internal readonly record struct ChainStep(
    WorkflowKey Key, long Sequence, RecordKind Kind, string WorkflowType, string FromState, string ToState, WorkflowStatus Status,
    long LeaseEpoch, long RecordedAt, bool IsCheckpoint, Hash PreviousHash)
{
    public static ChainStep Of(Record record) => new(record.Key, record.Sequence, record.Kind, record.WorkflowType, record.FromState,
        record.ToState, record.Status, record.LeaseEpoch, record.RecordedAt, record.IsCheckpoint, record.PreviousHash);

    /// <summary>Where the chain stands after it.</summary>
    public ChainPoint PointOf(Hash hash, long leaseEpoch) =>
        new(Sequence, hash, WorkflowType, ToState, Status, RecordedAt, Math.Max(leaseEpoch, LeaseEpoch));
}

/// <summary>A rule that a record breaks.</summary>
internal readonly record struct ChainProblem(ViolationClass Class, string Message, Hash? Expected = null, Hash? Actual = null);

/// <summary>What must hold between a record and the one before it.</summary>
internal static class ChainRules
{
    /// <summary>
    /// What is wrong with a record in its place.
    /// </summary>
    /// <param name="record">The record.</param>
    /// <param name="previous">The record before it, where that is known.</param>
    /// <param name="expected">The hash it has to name; null when that is not known.</param>
    /// <param name="alternative">Another hash that it may name.</param>
    /// <param name="leaseEpoch">The highest lease_epoch before it.</param>
    public static IReadOnlyList<ChainProblem> Problems(
        in ChainStep record, in ChainPoint? previous, Hash? expected, Hash? alternative, long leaseEpoch)
    {
        if (!Enum.IsDefined(record.Kind) || !Enum.IsDefined(record.Status))
            return [new ChainProblem(ViolationClass.FieldModified, "Its kind or status is unknown.")];
        if (expected is { } hash && record.PreviousHash != hash && record.PreviousHash != alternative)
        {
            return [new ChainProblem(ViolationClass.RecordInserted,
                "It does not follow from the record before: its previous_hash is another.", hash, record.PreviousHash)];
        }
        List<ChainProblem>? problems = null;
        if (Problem(record, previous) is { } problem)
            Add(ViolationClass.RecordInserted, problem);
        if (previous is { } before && record.RecordedAt < before.RecordedAt)
            Add(ViolationClass.ClockRegression, "Its recorded_at is before that of the record before.");
        if (record.LeaseEpoch != 0 && record.LeaseEpoch < leaseEpoch)
            Add(ViolationClass.ClockRegression, "Its lease_epoch is lower than one before.");
        return problems ?? (IReadOnlyList<ChainProblem>)[];

        void Add(ViolationClass @class, string message) => (problems ??= []).Add(new ChainProblem(@class, message));
    }

    /// <summary>
    /// What is wrong with a record after <paramref name="previous"/> (null when that is unknown), or null.
    /// </summary>
    private static string? Problem(in ChainStep record, in ChainPoint? previous)
    {
        if (record.Sequence == 1 != (record.Kind == RecordKind.Started))
            return "A chain has exactly one STARTED record, its first.";
        if (record.Kind == RecordKind.Started)
            return record.FromState.Length == 0 ? null : "A STARTED record has no from_state.";
        if (record.FromState.Length == 0)
            return "Only a STARTED record has no from_state.";
        if (record.Kind == RecordKind.Erasure && record.Key == WorkflowKey.Log)
            return "Nothing of the log's own history is ever erased.";
        if (record.Kind is RecordKind.Checkpoint or RecordKind.Erasure && record.FromState != record.ToState)
            return "A record of this kind cannot change the state.";
        if (record.Kind == RecordKind.Checkpoint && !record.IsCheckpoint)
            return "A CHECKPOINT carries a snapshot, and this one has none.";
        if (previous is not { } before)
            return null;
        if (record.WorkflowType != before.WorkflowType)
            return "The workflow_type is not that of the record before.";
        if (record.FromState != before.State)
            return "The from_state is not the state that the record before left.";
        if (record.Kind != RecordKind.Transition && record.Status != before.Status)
            return "A record of this kind cannot change the status.";
        if (before.Status.IsClosed() && record.Kind != RecordKind.Erasure)
            return "The workflow was closed by the record before.";
        return null;
    }

    /// <summary>How a stored head differs from the one that the records give.</summary>
    /// <param name="head">The stored head.</param>
    /// <param name="last">Where the chain stands after the newest record that the head stands for.</param>
    /// <param name="checkpointSequence">The newest record not behind that one that carries a snapshot; 0 for none.</param>
    /// <param name="start">Where the chain began, where that is known.</param>
    public static IReadOnlyList<Difference> HeadDifferences(
        Workflow head, in ChainPoint last, long checkpointSequence, ChainStart? start)
    {
        var differences = new List<Difference>();
        Compare("workflow_type", last.WorkflowType, head.WorkflowType);
        Compare("state", last.State, head.State);
        if (last.Status != head.Status)
            Add("status", last.Status.ToString().ToUpperInvariant(), head.Status.ToString().ToUpperInvariant());
        CompareNumbers("sequence", last.Sequence, head.Sequence);
        CompareHashes("head_hash", last.Hash, head.HeadHash);
        CompareNumbers("updated_at", last.RecordedAt, head.UpdatedAt);
        if (start is not null)
        {
            CompareNumbers("checkpoint_sequence", checkpointSequence, head.CheckpointSequence);
            CompareNumbers("created_log_index", start.LogIndex, head.CreatedLogIndex);
            CompareNumbers("created_at", start.RecordedAt, head.CreatedAt);
            // By content: as text, one entry can read like two.
            if (start.Metadata is { } metadata && !metadata.Equals(head.Metadata))
                differences.Add(new Difference("metadata", null, null));
            CompareHashes("forked_from", start.PreviousHash, head.ForkedFrom?.Hash ?? Hash.Zero);
        }
        return differences;

        void Compare(string field, string original, string found)
        {
            if (original != found)
                Add(field, original, found);
        }

        void CompareNumbers(string field, long original, long found)
        {
            if (original != found)
                Add(field, Refusal.Text(original), Refusal.Text(found));
        }

        void CompareHashes(string field, Hash original, Hash found)
        {
            if (original != found)
                Add(field, original.ToString(), found.ToString());
        }

        void Add(string field, string original, string found) => differences.Add(new Difference(field, original, found));
    }
}
