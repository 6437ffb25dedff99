namespace Aegis.Core;

// Leases: each workflow of a command is decided by itself, and a refused one does not stand in the others' way.
public sealed partial class LedgerBatch
{
    private LeasesDecided Decide(AcquireLeasesCommand command) => new([.. command.Keys.Select(key =>
        Acquire(command, key, out var workflow) is { } refusal
            ? new LeaseAnswer(key, null, refusal)
            : new LeaseAnswer(key, workflow, null))]);

    private Refusal? Acquire(AcquireLeasesCommand command, WorkflowKey key, out Workflow workflow)
    {
        if (FindOpen(key, out workflow) is { } closed)
            return closed.Refusal;
        if (command.Filter is { } filter && !filter.Matches(workflow))
        {
            return Refusal.Conflict(Reason.StateMismatch,
                $"The workflow {key} has moved on and is no longer what was asked for.", workflow);
        }
        var lease = workflow.Lease;
        if (lease is not null && lease.IsLive(_state.Now) && !(command.TakeOverOwn && lease.Owner == command.Owner))
        {
            return WithLease(Reason.LeaseHeld,
                $"The workflow {key} is leased to \"{lease.Owner}\" until {Time(lease.ExpiresAt)}.", workflow, lease);
        }
        // Above the old epoch, and above any that a restored database may have forgotten.
        var epoch = Math.Max((lease?.Epoch ?? 0) + 1, _state.Now);
        workflow = workflow with { Lease = new Lease(command.Owner, epoch, LeaseEnd(command.Duration)) };
        StoreLease(workflow);
        return null;
    }

    private LeasesDecided Decide(KeepLeasesCommand command) => new([.. command.Leases.Select(lease =>
        Keep(command, lease.Key, lease.Epoch, out var workflow) is { } refusal
            ? new LeaseAnswer(lease.Key, null, refusal)
            : new LeaseAnswer(lease.Key, workflow, null))]);

    private Refusal? Keep(KeepLeasesCommand command, WorkflowKey key, long epoch, out Workflow workflow)
    {
        // Giving a lease up is no write to the history: a quarantine does not stand against it.
        if (FindOpen(key, out workflow) is { } closed
            && (command.Duration > 0 || workflow is null || closed.Refusal.Reason != Reason.WorkflowQuarantined))
        {
            return closed.Refusal;
        }
        var lease = workflow.Lease;
        if (lease is null || lease.IsVoid || lease.Epoch != epoch || lease.Owner != command.Owner)
            return Stale(workflow, epoch);
        var kept = command.Duration == 0
            ? lease.Void()
            : lease with { ExpiresAt = LeaseEnd(command.Duration) };
        workflow = workflow with { Lease = kept };
        StoreLease(workflow);
        return null;
    }

    /// <summary>When a lease ends that lasts so long at least.</summary>
    private long LeaseEnd(long duration) => _state.Now + _state.ClockDoubt + duration;

    private void StoreLease(Workflow workflow)
    {
        _workflows[workflow.Key] = workflow;
        _changedLeases.Add(workflow.Key);
    }
}
