namespace Aegis.Core;

/// <summary>
/// The current head of a workflow: what its newest record left, and what the ledger knows beside the chain.
/// </summary>
public sealed record Workflow
{
    public required WorkflowKey Key { get; init; }
    public required string WorkflowType { get; init; }
    public required string State { get; init; }
    public required WorkflowStatus Status { get; init; }
    public required long Sequence { get; init; }
    public required Hash HeadHash { get; init; }

    /// <summary>The newest record that carries a snapshot; 0 for none.</summary>
    public required long CheckpointSequence { get; init; }

    /// <summary>That of record 1.</summary>
    public required Metadata Metadata { get; init; }

    /// <summary>Null when it is no fork.</summary>
    public required ForkPoint? ForkedFrom { get; init; }

    /// <summary>The log index of record 1: the order in which workflows are listed.</summary>
    public required long CreatedLogIndex { get; init; }
    public required long CreatedAt { get; init; }
    public required long UpdatedAt { get; init; }

    /// <summary>An import has stored some of its records and not yet the last: closed to callers until then.</summary>
    public bool Importing { get; init; }

    /// <summary>A violation that is open concerns it: closed to writes until an operator releases or repairs it.</summary>
    public bool Quarantined { get; init; }

    /// <summary>The newest lease, perhaps expired or void; null when there never was one.</summary>
    public Lease? Lease { get; init; }

    public bool IsClosed => Status.IsClosed();
}

/// <summary>The record a fork starts from, in the same namespace.</summary>
public sealed record ForkPoint(string WorkflowId, long Sequence, Hash Hash);

/// <summary>
/// The newest lease of a workflow. Without an owner it is void: released, or followed by a write without a
/// lease; only its epoch is kept, so that the next is higher.
/// </summary>
public sealed record Lease(string Owner, long Epoch, long ExpiresAt)
{
    public bool IsVoid => Owner.Length == 0;

    public bool IsLive(long now) => !IsVoid && ExpiresAt > now;

    public Lease Void() => new("", Epoch, 0);
}

public static class WorkflowStatusExtensions
{
    public static bool IsClosed(this WorkflowStatus status) =>
        status is WorkflowStatus.Completed or WorkflowStatus.Failed or WorkflowStatus.Cancelled;
}
