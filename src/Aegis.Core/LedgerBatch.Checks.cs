namespace Aegis.Core;

// The checks every write goes through, in the order of the contract: size of the log, replay, existence, quarantine,
// closed, lease, state, expectation.
public sealed partial class LedgerBatch
{
    /// <summary>What comes before a write's own conditions; null when nothing stands against it.</summary>
    private Outcome? CheckBefore(WriteCommand command, long leaseEpoch, out Workflow workflow)
    {
        workflow = null!;
        return CheckLogSize(command) ?? Replay(command) ?? FindOpen(command.Key, out workflow) ?? CheckLease(workflow, leaseEpoch);
    }

    private Refused? CheckLogSize(WriteCommand command) => command.KnownLogSize <= LogSize
        ? null
        : new Refused(new Refusal(Reason.CursorAheadOfLog,
            $"The log has {LogSize} records, and the request knows of {command.KnownLogSize}.",
            ("log_size", Refusal.Text(LogSize)), ("known_log_size", Refusal.Text(command.KnownLogSize))));

    private Refused? FindOpen(WorkflowKey key, out Workflow workflow)
    {
        if (!_workflows.TryGetValue(key, out workflow!))
            return CheckQuarantine(key) ?? new Refused(Refusal.NotFound(key));
        if (CheckQuarantine(key) is { } quarantined)
            return quarantined;
        if (CheckHead(key) is { } broken)
            return broken;
        if (workflow.Importing)
        {
            return new Refused(Refusal.Conflict(Reason.WorkflowClosed,
                $"The workflow {key} is being imported, and closed until its last record is stored.", workflow));
        }
        return workflow.IsClosed
            ? new Refused(WithFacts(
                Refusal.Conflict(Reason.WorkflowClosed,
                    $"The workflow {key} is closed: {workflow.Status.ToString().ToUpperInvariant()} in the state "
                    + $"\"{workflow.State}\".", workflow),
                ("current_status", workflow.Status.ToString().ToUpperInvariant())))
            : null;
    }

    private Refused? CheckHead(WorkflowKey key) => _state.Broken.Contains(key)
        ? new Refused(new Refusal(Reason.ChainBroken,
            $"The stored head of the workflow {key} is not what its newest record says, and nothing is written upon it. "
            + "VerifyWorkflow tells what differs.", Refusal.Of(key)))
        : null;

    /// <summary>Also of a workflow that is not there: one that was deleted behind the service must not be started anew.</summary>
    private Refused? CheckQuarantine(WorkflowKey key)
    {
        _workflows.TryGetValue(key, out var workflow);
        if (workflow is not { Quarantined: true } && (!_quarantines.ContainsKey(key) || key == WorkflowKey.Log))
            return null;
        var message = $"A violation closed the workflow {key} to writes; ListViolations tells which.";
        return new Refused(workflow is null
            ? new Refusal(Reason.WorkflowQuarantined, message, Refusal.Of(key))
            : Refusal.Conflict(Reason.WorkflowQuarantined, message, workflow));
    }

    private Refused? CheckLease(Workflow workflow, long epoch)
    {
        var lease = workflow.Lease;
        if (epoch == 0)
        {
            return lease is not null && lease.IsLive(_state.Now)
                ? new Refused(WithLease(Reason.LeaseRequired,
                    $"The workflow {workflow.Key} is leased to \"{lease.Owner}\" until {Time(lease.ExpiresAt)}, and "
                    + "the request gives no lease_epoch.", workflow, lease))
                : null;
        }
        return lease is null || lease.IsVoid || lease.Epoch != epoch
            ? new Refused(Stale(workflow, epoch))
            : null;
    }

    private static Refused? CheckExpectation(Workflow workflow, Expectation expected)
    {
        if (expected.Sequence is { } sequence && sequence != workflow.Sequence)
        {
            return new Refused(WithFacts(
                Refusal.Conflict(Reason.SequenceMismatch,
                    $"The workflow {workflow.Key} is at sequence {workflow.Sequence}, not {sequence}.", workflow),
                ("expected_sequence", Refusal.Text(sequence))));
        }
        if (expected.Hash is { } hash && hash != workflow.HeadHash)
        {
            return new Refused(WithFacts(
                Refusal.Conflict(Reason.HashMismatch,
                    $"The head of the workflow {workflow.Key} has the hash {workflow.HeadHash}, not {hash}.", workflow),
                ("expected_hash", hash.ToString())));
        }
        return null;
    }

    /// <summary>
    /// The answer to a request that is known already, or null. Comes before everything that may have changed since:
    /// a request is answered alike years later, when the workflow is closed and the lease is gone.
    /// </summary>
    private Outcome? Replay(WriteCommand command)
    {
        if (command.RequestKey is not { } requestKey || !_requests.TryGetValue(requestKey, out var known))
            return null;
        var record = known.Record;
        if (record.Key != command.Key || record.RequestId != command.RequestId
            || !_workflows.TryGetValue(command.Key, out var workflow) || !known.IsConsistent())
        {
            return new Refused(new Refusal(Reason.ChainBroken,
                $"The record of the request_id \"{command.RequestId}\" is not as it was recorded.",
                [.. Refusal.Of(command.Key), ("request_id", command.RequestId)]));
        }
        if (FirstDifference(command, record, workflow) is { } field)
        {
            return new Refused(new Refusal(Reason.RequestIdReused,
                $"The request_id \"{command.RequestId}\" was used for another request, with another {field}.",
                [.. Refusal.Of(command.Key), ("request_id", command.RequestId), ("field", field),
                    ("sequence", Refusal.Text(record.Sequence))]));
        }
        // The lease is told only while it is still the one that this very request was granted.
        var lease = command is StartCommand { Owner.Length: > 0 } start && workflow.Lease is { } current
            && current.Epoch == record.LeaseEpoch && current.Owner == start.Owner ? current : null;
        return new Written(known, workflow, lease, Replayed: true);
    }

    /// <summary>
    /// The first field in which a request differs from the record that its request_id made, or null. Values erased
    /// since cannot differ; leases and expectations do not count.
    /// </summary>
    private static string? FirstDifference(WriteCommand command, Record record, Workflow workflow)
    {
        var parts = command.Parts;
        if (KindAndStates(command, record, workflow) is { } field)
            return field;
        if (command.OccurredAt != record.OccurredAt)
            return "occurred_at";
        if (record.Person is { } person && person.Actor != parts.Person.Actor)
            return "actor";
        if (record.Content is not null || record.ContentDigest.IsZero)
        {
            if ((record.Content?.Reason ?? "") != (parts.Content?.Reason ?? ""))
                return "reason";
            if (!(record.Content?.Metadata ?? Metadata.Empty).Equals(parts.Content?.Metadata ?? Metadata.Empty))
                return "metadata";
        }
        // What the request left to the source is compared as long as the source can be had.
        if (command is StartCommand { SnapshotFromFork: true, ForkRefusal: not null })
            return null;
        if (record.IsCheckpoint != (parts.Snapshot is not null))
            return "snapshot";
        return record.Snapshot is { } snapshot && parts.Snapshot is { } other
            && (snapshot.ContentType != other.ContentType || snapshot.Sha256 != other.Sha256)
            ? "snapshot"
            : null;
    }

    private static string? KindAndStates(WriteCommand command, Record record, Workflow workflow)
    {
        switch (command)
        {
            case StartCommand start:
                if (record.Kind != RecordKind.Started)
                    return "kind";
                if (record.WorkflowType != start.WorkflowType)
                    return "workflow_type";
                if (!SamePoint(workflow.ForkedFrom, start.ForkedFrom))
                    return "forked_from";
                if ((!start.StateFromFork || start.ForkRefusal is null) && record.ToState != start.InitialState)
                    return "initial_state";
                return record.Status == start.Status ? null : "status";
            case TransitionCommand transition:
                if (record.Kind != RecordKind.Transition)
                    return "kind";
                if (record.FromState != transition.FromState)
                    return "from_state";
                if (record.ToState != transition.ToState)
                    return "to_state";
                return record.Status == transition.Status ? null : "status";
            default:
                return record.Kind == RecordKind.Checkpoint ? null : "kind";
        }
    }

    private static bool SamePoint(ForkPoint? a, ForkPoint? b) =>
        a?.WorkflowId == b?.WorkflowId && a?.Sequence == b?.Sequence;

    private static Refusal Stale(Workflow workflow, long epoch) => WithFacts(
        Refusal.Conflict(Reason.LeaseStale,
            $"The lease_epoch {epoch} is not, or no longer, that of the workflow {workflow.Key}.", workflow),
        ("lease_epoch", Refusal.Text(epoch)), ("current_epoch", Refusal.Text(workflow.Lease?.Epoch ?? 0)));

    private static Refusal WithLease(Reason reason, string message, Workflow workflow, Lease lease) => WithFacts(
        Refusal.Conflict(reason, message, workflow),
        ("owner", lease.Owner), ("expires_at", Time(lease.ExpiresAt)));

    private static Refusal WithFacts(Refusal refusal, params (string Name, string Value)[] facts) => refusal with
    {
        Facts = refusal.Facts.Concat(facts.Select(f => KeyValuePair.Create(f.Name, f.Value))).ToDictionary(),
    };

    private static string Time(long microseconds) =>
        DateTime.UnixEpoch.AddTicks(microseconds * TimeSpan.TicksPerMicrosecond)
            .ToString("yyyy-MM-dd'T'HH:mm:ss.ffffff'Z'", System.Globalization.CultureInfo.InvariantCulture);
}
