using Aegis.Core;

namespace Aegis.Client;

/// <summary>
/// One workflow that an engine handed out: its state object, where it stands, and its lease if it has one. It moves only by the
/// engine's calls, of which it takes one at a time. Disposing it releases the lease.
/// </summary>
/// <typeparam name="T">The type of the state object.</typeparam>
public sealed class Workflow<T> : IHeldWorkflow, IAsyncDisposable
{
    private readonly DurableWorkflowEngine _engine;
    private readonly CancellationTokenSource _lost = new();

    internal Workflow(DurableWorkflowEngine engine, ICodec<T> codec, WorkflowKey key, string workflowType)
    {
        (_engine, Codec, Key, WorkflowType) = (engine, codec, key, workflowType);
        LeaseLost = _lost.Token;
    }

    /// <summary>Its namespace and id.</summary>
    public WorkflowKey Key { get; }

    /// <summary>Its id.</summary>
    public string WorkflowId => Key.WorkflowId;

    /// <summary>Its type.</summary>
    public string WorkflowType { get; }

    /// <summary>The state it is in.</summary>
    public string State { get; internal set; } = "";

    /// <summary>Its status.</summary>
    public WorkflowStatus Status { get; internal set; }

    /// <summary>The sequence of its newest record.</summary>
    public long Sequence { get; internal set; }

    /// <summary>The hash of its newest record.</summary>
    public Hash HeadHash { get; internal set; }

    /// <summary>The metadata of its first record.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; internal set; } = new Dictionary<string, string>();

    /// <summary>
    /// The state object: of the newest checkpoint when the workflow was handed out, then whatever the caller puts here. The next
    /// checkpoint stores it. Null, where the type allows it, is no object: no checkpoint is made.
    /// </summary>
    /// <remarks>
    /// A periodic checkpoint encodes it beside the caller's work: put a new object here instead of changing the one that is here,
    /// as with records and <c>with</c>.
    /// </remarks>
    public T? Data { get; set; }

    /// <summary>
    /// The records after the checkpoint that <see cref="Data"/> is of, oldest first, when the workflow was resumed: moves that
    /// carried no object. Empty in the ordinary case that all did.
    /// </summary>
    public IReadOnlyList<Record> RecordsSince { get; internal set; } = [];

    /// <summary>What the newest write through this handle recorded; null before the first.</summary>
    public WrittenRecord? LastWritten { get; internal set; }

    /// <summary>Whether the engine holds its lease and renews it.</summary>
    public bool IsLeased => LeaseEpoch != 0 && !_lost.IsCancellationRequested;

    /// <summary>The fencing token that goes with every write under the lease; 0 without one.</summary>
    public long LeaseEpoch { get; internal set; }

    /// <summary>When the lease ends unless renewed, by the database's clock; null without one.</summary>
    public DateTimeOffset? LeaseExpiresAt { get; internal set; }

    /// <summary>
    /// Cancelled when the lease is lost to another worker, or given up by closing what handed it out, while the caller may still
    /// be at work: stop then. While the server cannot be reached the lease is not known to be lost; should another have taken it
    /// meanwhile, the next write fails with <see cref="LeaseLostException"/>, and what was done outside is done twice.
    /// </summary>
    public CancellationToken LeaseLost { get; }

    internal ICodec<T> Codec { get; }

    /// <summary>One write at a time: each follows from the one before.</summary>
    internal SemaphoreSlim Gate { get; } = new(1);

    /// <summary>The SHA-256 of the newest snapshot; null for none. Guarded by <see cref="Gate"/>.</summary>
    internal Hash? StoredSha256 { get; set; }

    /// <summary>Ends the periodic checkpoints.</summary>
    internal CancellationTokenSource AtWork { get; } = new();

    string IHeldWorkflow.WorkflowId => WorkflowId;

    void IHeldWorkflow.Renewed(long expiresAt) => LeaseExpiresAt = Times.FromMicroseconds(expiresAt);

    void IHeldWorkflow.Lost()
    {
        AtWork.Cancel();
        _lost.Cancel();
    }

    void IHeldWorkflow.Ended() => EndLease();

    /// <summary>Releases the lease, if there is one, so that another worker can go on at once.</summary>
    public async ValueTask DisposeAsync() => await _engine.ReleaseAsync([this]);

    internal void EndLease()
    {
        AtWork.Cancel();
        (LeaseEpoch, LeaseExpiresAt) = (0, null);
    }
}

/// <summary>A leased workflow as those see it who keep leases.</summary>
internal interface IHeldWorkflow
{
    string WorkflowId { get; }
    long LeaseEpoch { get; }
    bool IsLeased { get; }
    void Renewed(long expiresAt);

    /// <summary>Against the worker's will.</summary>
    void Lost();

    /// <summary>As it should.</summary>
    void Ended();
}

/// <summary>What a write recorded. With trusted keys it was proven to be in the log.</summary>
/// <param name="Record">The record, recomputed from its own fields.</param>
/// <param name="Hash">Its hash.</param>
/// <param name="LogIndex">Its place in the log.</param>
/// <param name="LogHead">The signed head of the log that proves it.</param>
/// <param name="Replayed">Whether an earlier request with the same request_id made it.</param>
public sealed record WrittenRecord(Record Record, Hash Hash, long LogIndex, string LogHead, bool Replayed);

/// <summary>Times of the contract and of .NET.</summary>
internal static class Times
{
    public static DateTimeOffset FromMicroseconds(long microseconds) => DateTimeOffset.UnixEpoch.AddTicks(microseconds * TimeSpan.TicksPerMicrosecond);

    public static long ToMicroseconds(DateTimeOffset time) => (time - DateTimeOffset.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;
}
