namespace Aegis.Core;

/// <summary>Compares the stored head of a workflow with the records that it has to stand for.</summary>
public static class WorkflowHeads
{
    /// <param name="key">The workflow.</param>
    /// <param name="head">Its stored head, or null.</param>
    /// <param name="last">Its newest record not behind the head's sequence, or null.</param>
    /// <param name="first">Its record 1, or null where that is not there.</param>
    /// <param name="checkpointSequence">Its newest record that carries a snapshot, not behind the head's sequence; 0 for none.</param>
    public static Violation? Check(
        WorkflowKey key, Workflow? head, StoredRecord? last, StoredRecord? first, long checkpointSequence)
    {
        if (head is null)
        {
            return last is null
                ? null
                : Gone(key) with { ExpectedHash = last.Hash };
        }
        if (last is null)
            return Modified(key, "The workflow has a stored head and no records.") with { ActualHash = head.HeadHash };
        if (head.Sequence > last.Record.Sequence)
        {
            return new Violation(ViolationClass.TailTruncated, key, last.Record.Sequence + 1,
                $"The stored head of the workflow is at record {head.Sequence}, and its newest record is {last.Record.Sequence}.")
            { ExpectedHash = head.HeadHash, ActualHash = last.Hash };
        }
        // What stands in the place of the newest record was altered, which is told there: the head is judged by what was recorded.
        var vote = RecordVote.Of(last);
        return vote.IsSound
            ? Check(head, ChainPoint.Of(vote.Record, vote.Hash), checkpointSequence,
                first is null ? null : ChainStart.Of(RecordVote.Of(first).Record, first.LogIndex))
            : null;
    }

    /// <param name="head">A stored head.</param>
    /// <param name="last">Where its records lead, which are sound.</param>
    /// <param name="checkpointSequence">Its newest record that carries a snapshot, not behind the head's sequence; 0 for none.</param>
    /// <param name="start">Where they begin, or null where record 1 is not there.</param>
    public static Violation? Check(Workflow head, in ChainPoint last, long checkpointSequence, ChainStart? start)
    {
        var differences = ChainRules.HeadDifferences(head, last, checkpointSequence, start);
        return differences.Count == 0
            ? null
            : Modified(head.Key, "The stored head of the workflow is not the one that its records give.") with
            {
                Differences = differences,
                ExpectedHash = last.Hash,
                ActualHash = head.HeadHash,
            };
    }

    /// <summary>Whether a stored head is what the encoded bytes of its newest record say, as far as a write goes on from it.</summary>
    public static bool IsOf(Workflow head, ReadOnlySpan<byte> newest) =>
        RecordFormat.TryDecode(newest) is { } record
        && RecordFormat.HashOf(newest) == head.HeadHash
        && record.Key == head.Key
        && record.Sequence == head.Sequence
        && record.WorkflowType == head.WorkflowType
        && record.ToState == head.State
        && record.Status == head.Status
        && record.RecordedAt == head.UpdatedAt;

    /// <summary>The finding that a workflow has records and no head.</summary>
    public static Violation Gone(WorkflowKey key) =>
        Modified(key, "The stored head of the workflow is gone, and its records are there.");

    /// <summary>The finding that a fork names a record of another workflow that has another hash.</summary>
    public static Violation ForkedElsewhere(WorkflowKey key, ForkPoint fork, Hash actual) =>
        Modified(key, $"It says to be forked from record {fork.Sequence} of \"{fork.WorkflowId}\", which has another hash.") with
        {
            ExpectedHash = fork.Hash,
            ActualHash = actual,
            Differences = [new Difference("forked_from", null, $"{fork.WorkflowId}/{fork.Sequence}")],
        };

    /// <summary>The finding that a workflow is said to be imported just now, and the log's own history says nothing of it.</summary>
    public static Violation NotImporting(WorkflowKey key) =>
        Modified(key, "Its stored head says that an import of it is under way, and the log's own history knows of none.") with
        {
            Differences = [new Difference("importing", "false", "true")],
        };

    private static Violation Modified(WorkflowKey key, string message) =>
        new(ViolationClass.WorkflowHeadModified, key, 0, message);
}
