using Aegis.Core;

namespace Aegis.Client;

/// <summary>How an engine works. Read once, when the engine is made.</summary>
public sealed class EngineOptions
{
    /// <summary>
    /// Who takes leases, up to 255 bytes, and the actor of writes that name none. By default a name that no other process has.
    /// A worker that keeps its name across restarts can take back at once what it held, see
    /// <see cref="ResumeOptions.TakeOverOwn"/>; no two processes may then have one name at once.
    /// </summary>
    public string Owner { get; set; } = $"{Environment.MachineName}/{Environment.ProcessId}/{Guid.NewGuid():N}";

    /// <summary>Whether a transition carries the state object; on by default.</summary>
    public bool CheckpointOnTransition { get; set; } = true;

    /// <summary>
    /// How often a leased workflow is checkpointed while it stays in one state, if its object has changed; 5 minutes by default,
    /// <see cref="Timeout.InfiniteTimeSpan"/> for never.
    /// </summary>
    public TimeSpan CheckpointInterval { get; set; } = TimeSpan.FromMinutes(5);

    /// <summary>
    /// How long a lease lasts unless it is renewed, which is done at a third of it: 1 s to 1 h, 30 s by default. After a crash
    /// so long until another takes over.
    /// </summary>
    public TimeSpan LeaseDuration { get; set; } = TimeSpan.FromSeconds(30);
}

/// <summary>What is told along with a write. All of it may be left out.</summary>
public record WriteDetails
{
    /// <summary>
    /// The idempotency key, up to 128 bytes; the layer makes one by default. A caller that repeats a write after a crash of its
    /// own gives the one of before, and gets the same record again.
    /// </summary>
    public string RequestId { get; init; } = "";

    /// <summary>Who acts, up to 255 bytes; the engine's owner by default.</summary>
    public string? Actor { get; init; }

    /// <summary>Why, up to 4 KiB.</summary>
    public string Reason { get; init; } = "";

    /// <summary>Further facts: up to 64 entries and 16 KiB in all. Of the first record: by which workflows are found.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; init; } = new Dictionary<string, string>();

    /// <summary>When it happened, as the caller says, truncated to microseconds; null for not said.</summary>
    public DateTimeOffset? OccurredAt { get; init; }

    /// <summary>How long the write may take with all its repetitions; the client's timeout by default.</summary>
    public TimeSpan? Timeout { get; init; }
}

/// <summary>How to start a workflow.</summary>
public sealed record StartDetails : WriteDetails
{
    /// <summary>Whether the engine takes the first lease, to work on it; on by default. Off, any worker may take it.</summary>
    public bool TakeLease { get; init; } = true;

    /// <summary>RUNNING by default, or WAITING.</summary>
    public WorkflowStatus Status { get; init; } = WorkflowStatus.Running;
}

/// <summary>How to move a workflow.</summary>
public sealed record TransitionDetails : WriteDetails
{
    /// <summary>Whether the state object goes along; as the engine's options say by default.</summary>
    public bool? Checkpoint { get; init; }
}

/// <summary>How to resume workflows.</summary>
public sealed record ResumeOptions
{
    /// <summary>
    /// Take over at once the live leases of the engine's owner, from before it crashed. Over all pending workflows that is one
    /// call for all of them, held from its beginning.
    /// </summary>
    public bool TakeOverOwn { get; init; }

    /// <summary>Only workflows in these states; empty for all. Over all pending workflows only.</summary>
    public IReadOnlyList<string> States { get; init; } = [];

    /// <summary>
    /// How many are leased at once before they are handed out; 8 by default. The more, the fewer calls and the less other
    /// workers get. Over all pending workflows only.
    /// </summary>
    public int Ahead { get; init; } = 8;

    /// <summary>
    /// When nothing is pending, look again after this time and go on for ever, also while the service is away; null, the default,
    /// ends then, and fails when the service is away for longer than a call may take. Over all pending workflows only.
    /// </summary>
    public TimeSpan? Poll { get; init; }

    /// <summary>
    /// Called for each workflow that the server could not hand out, or that could not be verified or decoded here; all are logged.
    /// The others are handed out all the same.
    /// </summary>
    public Action<ResumeFailure>? OnFailed { get; init; }
}

/// <summary>A workflow that could not be handed out. Its lease is released.</summary>
/// <param name="WorkflowId">The workflow.</param>
/// <param name="Reason">
/// Why: one of ErrorReason without its prefix, such as <c>CHAIN_BROKEN</c>; one of <see cref="IntegrityException.Reason"/>; or
/// <c>CODEC</c> where its snapshot could not be decoded.
/// </param>
/// <param name="Message">Why, for people to read.</param>
public sealed record ResumeFailure(string WorkflowId, string Reason, string Message);
