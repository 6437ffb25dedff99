namespace Aegis.Core;

/// <summary>What must hold between a record and the one before it, beyond their hashes.</summary>
internal static class ChainRules
{
    /// <summary>
    /// What is wrong with a record after <paramref name="previous"/> (null when that is unknown), or null.
    /// </summary>
    public static string? Problem(Record record, Record? previous)
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
        if (previous is null)
            return null;
        if (record.WorkflowType != previous.WorkflowType)
            return "The workflow_type is not that of the record before.";
        if (record.FromState != previous.ToState)
            return "The from_state is not the state that the record before left.";
        if (record.Kind != RecordKind.Transition && record.Status != previous.Status)
            return "A record of this kind cannot change the status.";
        if (previous.Status.IsClosed() && record.Kind != RecordKind.Erasure)
            return "The workflow was closed by the record before.";
        return null;
    }

    /// <summary>How a stored head differs from the one that the records give.</summary>
    public static IReadOnlyList<Difference> HeadDifferences(
        Workflow head, Record last, Hash hash, long checkpointSequence, StoredRecord? start)
    {
        var differences = new List<Difference>();
        Compare("workflow_type", last.WorkflowType, head.WorkflowType);
        Compare("state", last.ToState, head.State);
        Compare("status", last.Status.ToString().ToUpperInvariant(), head.Status.ToString().ToUpperInvariant());
        Compare("sequence", Refusal.Text(last.Sequence), Refusal.Text(head.Sequence));
        Compare("head_hash", hash.ToString(), head.HeadHash.ToString());
        Compare("updated_at", Refusal.Text(last.RecordedAt), Refusal.Text(head.UpdatedAt));
        if (start is { Record: var first })
        {
            Compare("checkpoint_sequence", Refusal.Text(checkpointSequence), Refusal.Text(head.CheckpointSequence));
            Compare("created_log_index", Refusal.Text(start.LogIndex), Refusal.Text(head.CreatedLogIndex));
            Compare("created_at", Refusal.Text(first.RecordedAt), Refusal.Text(head.CreatedAt));
            // Altered or erased values of record 1 say nothing about the head.
            if ((first.Content is { } c ? Recomputed.Of(c) : default) == first.ContentDigest)
            {
                // By content: as text, one entry can read like two.
                var metadata = first.Content?.Metadata ?? Metadata.Empty;
                if (!metadata.Equals(head.Metadata))
                    differences.Add(new Difference("metadata", null, null));
            }
            var origin = head.ForkedFrom?.Hash ?? Hash.Zero;
            Compare("forked_from", first.PreviousHash.ToString(), origin.ToString());
        }
        return differences;

        void Compare(string field, string original, string found)
        {
            if (original != found)
                differences.Add(new Difference(field, original, found));
        }
    }
}
