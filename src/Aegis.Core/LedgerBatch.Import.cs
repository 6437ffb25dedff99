namespace Aegis.Core;

// Import: records that come with their hashes and keep them. The caller has verified them among themselves; here they
// are joined to what is stored, under the lock.
public sealed partial class LedgerBatch
{
    private Outcome Decide(ImportCommand command)
    {
        _workflows.TryGetValue(command.Key, out var local);
        if (Join(command, local) is { } refusal)
            return new Refused(refusal);
        if (command.Records[^1].Record.RecordedAt > _state.Now + Limits.ImportAheadMax)
        {
            return new Refused(new Refusal(Reason.InvalidField,
                $"The records of {command.Key} are from the future: more than 5 minutes ahead of the database's clock.",
                [.. Refusal.Of(command.Key), ("field", "recorded_at")]));
        }

        // From here on values may be gone whose erasure is still to come, and only what the log itself says excuses that.
        if (!command.IsLast && local is not { Importing: true })
            AppendToLogHistory(ImportActs.Begun, command.LogEntry);
        long checkpoint = local?.CheckpointSequence ?? 0, epoch = local?.Lease?.Epoch ?? 0;
        foreach (var incoming in command.Records)
        {
            var record = incoming.Record;
            // A chain that comes back to the log it was written to counts among that log's own records.
            if (record.LogId == LogId)
                LastRecordedAt = Math.Max(LastRecordedAt, record.RecordedAt);
            var stored = incoming with { LogIndex = LogSize };
            _records.Add(stored);
            if (record.RequestId.Length > 0)
                _requests[RecordFormat.RequestKey(command.Key, record.RequestId)] = stored;
            if (record.IsCheckpoint)
                checkpoint = record.Sequence;
            epoch = Math.Max(epoch, record.LeaseEpoch);
        }
        foreach (var snapshot in command.Snapshots)
            _snapshots[(snapshot.Key, snapshot.Sha256)] = snapshot;
        _erased.AddRange(command.Erased);

        var (first, last) = (command.Records[0].Record, command.Records[^1]);
        Store(
            new Workflow
            {
                Key = command.Key,
                WorkflowType = last.Record.WorkflowType,
                State = last.Record.ToState,
                Status = last.Record.Status,
                Sequence = last.Record.Sequence,
                HeadHash = last.Hash,
                CheckpointSequence = checkpoint,
                Metadata = command.Erased.Any(e => e is { Sequence: 1, Content: true })
                    ? Metadata.Empty
                    : local?.Metadata ?? first.Content?.Metadata ?? Metadata.Empty,
                ForkedFrom = local?.ForkedFrom ?? command.ForkedFrom,
                CreatedLogIndex = local?.CreatedLogIndex ?? _records[^command.Records.Count].LogIndex,
                CreatedAt = local?.CreatedAt ?? first.RecordedAt,
                UpdatedAt = last.Record.RecordedAt,
                Importing = !command.IsLast,
                Lease = epoch == 0 ? null : new Lease("", epoch, 0),
            },
            leaseChanged: epoch != 0);
        if (command.IsLast)
            AppendToLogHistory(ImportActs.Done, command.LogEntry);
        return new Imported();
    }

    private Refusal? Join(ImportCommand command, Workflow? local)
    {
        var first = command.Records[0].Record;
        if (CheckQuarantine(command.Key) is { } quarantined)
            return quarantined.Refusal;
        if (local is null)
        {
            return first.Sequence == 1
                ? null
                : new Refusal(Reason.WorkflowNotFound,
                    $"The workflow {command.Key} is not here, and the records begin at {first.Sequence}.",
                    Refusal.Of(command.Key));
        }
        if (first.Sequence != local.Sequence + 1 || first.PreviousHash != local.HeadHash)
        {
            return Refusal.Conflict(Reason.HashMismatch,
                $"The workflow {command.Key} has moved on while it was imported.", local);
        }
        return local.Lease is { } lease && lease.IsLive(_state.Now)
            ? WithLease(Reason.LeaseHeld,
                $"The workflow {command.Key} is leased to \"{lease.Owner}\" until {Time(lease.ExpiresAt)}.",
                local, lease)
            : null;
    }
}

/// <summary>What the log's own history says of imports, each under the name of its workflow.</summary>
public static class ImportActs
{
    /// <summary>The first of several slices is stored.</summary>
    public const string Begun = "IMPORTING";

    /// <summary>All of it is stored.</summary>
    public const string Done = "IMPORTED";
}
