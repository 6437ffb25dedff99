using System.Runtime.CompilerServices;
using Aegis.Core;

namespace Aegis.Storage;

/// <summary>
/// Where the ledger is kept. Two stores keep this one contract, and one suite of tests runs on both.
/// <para>
/// Writing: <see cref="BeginAsync"/> locks the log, so that all writers of all servers take turns, and
/// <see cref="LedgerTransaction.CommitAsync"/> stores everything a batch decided, or nothing. When it returns, the
/// batch is durable.
/// </para>
/// <para>
/// Reading: what is returned is what is stored, altered or not; whoever hands it on re-checks it. Records, snapshots
/// and the log are append-only and become visible in the order of the log: who sees log_index n sees all below. No
/// read holds a transaction open for longer than one page.
/// </para>
/// <para>
/// Failures are <see cref="StoreException"/>s. All methods but those of one transaction are thread-safe.
/// </para>
/// </summary>
public partial interface ILedgerStore : IAsyncDisposable
{
    /// <summary>The most hashes that are read at once.</summary>
    const int HashesMax = 4096;

    /// <summary>"sqlite" or "postgresql".</summary>
    string Kind { get; }

    /// <summary>Where the data is, for people, without secrets.</summary>
    string Location { get; }

    /// <summary>
    /// Brings the schema up to this version. Servers that start at once take turns; those that run already are not held up. Fails
    /// with <see cref="StoreFailure.Unavailable"/> while somebody keeps a table: call again, as often as it takes.
    /// </summary>
    Task MigrateAsync(CancellationToken cancellationToken);

    /// <summary>
    /// Locks the log, then reads its head, the clock, and what the batch touches; or takes all of that from memory, where it may and can.
    /// Waits for other writers; fails with <see cref="StoreFailure.Unavailable"/> when the lock is not to be had in time.
    /// </summary>
    /// <param name="keys">
    /// Tells what the batch touches. It is asked once the lock is there, or before where that saves a round trip; only once.
    /// </param>
    /// <param name="look">How what the batch touches is looked at.</param>
    /// <param name="seenSize">
    /// How far the writer has seen the log: of what came after it the hashes are wanted, up to <see cref="HashesMax"/>.
    /// </param>
    /// <param name="cancellationToken">Gives up waiting for the lock.</param>
    Task<LedgerTransaction> BeginAsync(Func<BatchKeys> keys, Look look, long seenSize, CancellationToken cancellationToken);

    /// <summary>
    /// Makes sure of a commit whose outcome is unknown: on a new connection locks the log, so that the commit is over,
    /// looks for its first record, and commits one more write, so that what was found is durable.
    /// </summary>
    /// <returns>Whether the record is there.</returns>
    Task<bool> ConfirmAsync(long logIndex, Hash hash, CancellationToken cancellationToken);

    /// <summary>Whether the store answers, takes writes, and how far its log is. Cheap.</summary>
    Task<StoreProbe> ProbeAsync(CancellationToken cancellationToken);

    /// <summary>The newest head of the log, or null while it has no record.</summary>
    Task<StoredHead?> ReadHeadAsync(CancellationToken cancellationToken);

    /// <summary>
    /// The hashes of records from one log_index on, in order, up to a limit. <paramref name="fromEncoded"/> takes those that the
    /// encoded records give instead of those that are stored beside them.
    /// </summary>
    Task<IReadOnlyList<Hash>> ReadHashesAsync(long fromLogIndex, int limit, bool fromEncoded, CancellationToken cancellationToken);

    /// <summary>
    /// The hashes of one tile, complete or as far as they are there: of level 0 those of records, above the roots of the
    /// tiles below. A tile that was stored is read as it was stored.
    /// </summary>
    Task<IReadOnlyList<Hash>> ReadTileAsync(int level, long index, CancellationToken cancellationToken);

    /// <summary>The hashes of records in order, from one log_index on to another (exclusive), as far as they are there.</summary>
    async IAsyncEnumerable<Hash> HashesAsync(long fromLogIndex, long toLogIndex, bool fromEncoded,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        while (fromLogIndex < toLogIndex)
        {
            var hashes = await ReadHashesAsync(
                fromLogIndex, (int)Math.Min(HashesMax, toLogIndex - fromLogIndex), fromEncoded, cancellationToken);
            if (hashes.Count == 0)
                yield break;
            foreach (var hash in hashes)
                yield return hash;
            fromLogIndex += hashes.Count;
        }
    }

    /// <summary>A tile with all that is stored of it, or null.</summary>
    async Task<StoredTile?> FindTileAsync(int level, long index, CancellationToken cancellationToken) =>
        await ReadTilesAsync(level, index, index + 1, cancellationToken) is [var tile] ? StoredTile.Of(tile) : null;

    /// <summary>A workflow, or null.</summary>
    Task<Workflow?> FindWorkflowAsync(WorkflowKey key, CancellationToken cancellationToken);

    /// <summary>
    /// What workflows go on from, in one look: each as it is, its records from the newest checkpoint on, or from the first, and the
    /// bytes of that checkpoint. Those that are not there are left out.
    /// </summary>
    /// <param name="keys">The workflows.</param>
    /// <param name="recordsMax">How many records of each; what follows, ReadChainAsync gives.</param>
    /// <param name="snapshotBytesMax">Larger snapshots are left out; ReadSnapshotAsync gives them.</param>
    /// <param name="cancellationToken">Ends the reading.</param>
    Task<IReadOnlyList<Resumable>> ReadResumableAsync(IReadOnlyCollection<WorkflowKey> keys, int recordsMax, long snapshotBytesMax,
        CancellationToken cancellationToken);

    /// <summary>
    /// What a worker may take, in order of creation, from the first whose CreatedLogIndex is above the cursor, up to a limit; none whose
    /// import is not over. Whoever takes them reads them again under their leases.
    /// </summary>
    Task<IReadOnlyList<PendingWorkflow>> ListPendingAsync(PendingFilter filter, long afterLogIndex, int limit,
        CancellationToken cancellationToken);

    /// <summary>Workflows in order of creation, from the first whose CreatedLogIndex is above the cursor.</summary>
    Task<IReadOnlyList<Workflow>> ListWorkflowsAsync(WorkflowFilter filter, long afterLogIndex, int limit,
        CancellationToken cancellationToken);

    /// <summary>How many workflows share a type, a state and a status, ordered by these.</summary>
    Task<IReadOnlyList<WorkflowCount>> CountWorkflowsAsync(string @namespace, CancellationToken cancellationToken);

    /// <summary>
    /// Records of one workflow, by their stored sequence, from one sequence on (inclusive) upwards or, descending,
    /// downwards.
    /// </summary>
    Task<IReadOnlyList<StoredRecord>> ReadChainAsync(WorkflowKey key, long fromSequence, bool descending, int limit,
        CancellationToken cancellationToken);

    /// <summary>All records of one workflow from a sequence on, by their stored sequence, a page at a time.</summary>
    async IAsyncEnumerable<StoredRecord> ChainAsync(WorkflowKey key, long fromSequence,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        const int pageSize = 500;
        while (true)
        {
            var page = await ReadChainAsync(key, fromSequence, descending: false, pageSize, cancellationToken);
            foreach (var record in page)
                yield return record;
            if (page.Count < pageSize)
                yield break;
            fromSequence = page[^1].Record.Sequence + 1;
        }
    }

    /// <summary>
    /// Goes along a chain, and gives the head that was read after it: it is as new as the records or newer, and if it is newer the
    /// walk goes on, so that a workflow that moves meanwhile is not taken for one that lacks records.
    /// </summary>
    async Task<Workflow?> WalkAsync(WorkflowKey key, Func<StoredRecord, Task> visit, CancellationToken cancellationToken)
    {
        Workflow? head = null;
        for (var next = 1L; ;)
        {
            var from = next;
            await foreach (var record in ChainAsync(key, from, cancellationToken))
            {
                await visit(record);
                next = record.Record.Sequence + 1;
            }
            // The head promised more than there is. One read before it was found would only have come too early.
            if (head is not null && next == from)
                return head;
            head = await FindWorkflowAsync(key, cancellationToken);
            if (head is null || head.Sequence < next)
                return head;
        }
    }

    /// <summary>What the ERASURE records of a chain say, from a sequence on: those alone that are as they were recorded.</summary>
    async IAsyncEnumerable<Erasure> ErasuresAsync(WorkflowKey key, long fromSequence,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        await foreach (var stored in ChainAsync(key, fromSequence, cancellationToken))
        {
            if (Erasure.Of(stored.Record) is { } erasure && stored.IsConsistent())
                yield return erasure;
        }
    }

    /// <summary>
    /// What the log's own history says last of imports of a workflow: a record that leads to one of <see cref="ImportActs"/>; null
    /// where it says nothing.
    /// </summary>
    async Task<StoredRecord?> LastImportActAsync(WorkflowKey key, CancellationToken cancellationToken)
    {
        const int pageSize = 500;
        for (var next = long.MaxValue; next > 0;)
        {
            var page = await ReadChainAsync(WorkflowKey.Log, next, descending: true, pageSize, cancellationToken);
            var act = page.FirstOrDefault(r => r.Record.ToState is ImportActs.Begun or ImportActs.Done && r.IsConsistent()
                && r.Record.Content?.Metadata is { } metadata
                && metadata["namespace"] == key.Namespace && metadata["workflow_id"] == key.WorkflowId);
            if (act is not null)
                return act;
            next = page.Count < pageSize ? 0 : page[^1].Record.Sequence - 1;
        }
        return null;
    }

    /// <summary>
    /// Whether an import of a workflow has begun that is not over below a size of the log: the log's own history tells, whatever the
    /// workflow's head says.
    /// </summary>
    async Task<bool> IsImportUnderWayAsync(WorkflowKey key, long size, CancellationToken cancellationToken) =>
        await LastImportActAsync(key, cancellationToken) is { } act
        && (act.Record.ToState == ImportActs.Begun || act.LogIndex >= size);

    /// <summary>
    /// Whether an import of a workflow is under way: its head says so, and the log's own history too. One that only its head tells
    /// of would excuse that values of it are gone.
    /// </summary>
    async Task<bool> IsImportingAsync(Workflow? head, CancellationToken cancellationToken) =>
        head is { Importing: true } && await IsImportUnderWayAsync(head.Key, long.MaxValue, cancellationToken);

    /// <summary>
    /// What is wrong with what a head says of the record that it was forked from: where that is here and in order, it has to have the
    /// hash. One that was altered is told in its own place, and no head has to answer for it.
    /// </summary>
    async Task<Violation?> CheckForkAsync(Workflow? head, CancellationToken cancellationToken)
    {
        if (head?.ForkedFrom is not { } fork)
            return null;
        var place = (new WorkflowKey(head.Key.Namespace, fork.WorkflowId), fork.Sequence);
        return await ReadRecordsAsync([place], cancellationToken) is [var source] && source.Record.Sequence == fork.Sequence
            && RecordVote.Of(source) is { IsSound: true } vote && vote.Hash != fork.Hash
            ? WorkflowHeads.ForkedElsewhere(head.Key, fork, vote.Hash)
            : null;
    }

    /// <summary>Records across workflows, by log_index.</summary>
    Task<IReadOnlyList<StoredRecord>> ListRecordsAsync(RecordFilter filter, long fromLogIndex, bool descending,
        int limit, CancellationToken cancellationToken);

    /// <summary>
    /// The newest record of a workflow that carries a snapshot, not after a sequence nor a recorded_at; or null.
    /// </summary>
    Task<StoredRecord?> FindCheckpointAsync(WorkflowKey key, long maxSequence, long asOf,
        CancellationToken cancellationToken);

    /// <summary>The bytes of a snapshot, or null.</summary>
    Task<byte[]?> ReadSnapshotAsync(WorkflowKey key, Hash sha256, CancellationToken cancellationToken);

    /// <summary>
    /// Keeps violations, beside the log and under its lock: no repair comes between. One that is kept already stays as it is,
    /// open or released; one that was repaired is opened again; one that was read before a repair which may have mended it is
    /// <see cref="Overtaken"/> and not kept. Durable on return; doing it again changes nothing.
    /// </summary>
    /// <param name="violations">What was found, each id once.</param>
    /// <param name="cancellationToken">Gives up.</param>
    Task<AddedViolations> AddViolationsAsync(IReadOnlyList<FoundViolation> violations, CancellationToken cancellationToken);

    /// <summary>Violations, newest first, from the first whose number is below the cursor.</summary>
    Task<IReadOnlyList<FoundViolation>> ListViolationsAsync(ViolationFilter filter, long beforeNumber, int limit,
        CancellationToken cancellationToken);

    /// <summary>How many violations are open: cheap, to see whether there is anything new to read.</summary>
    Task<OpenViolations> CountOpenViolationsAsync(CancellationToken cancellationToken);
}

/// <summary>
/// One batch's transaction, holding the lock of the log unless its state is remembered. Disposing it without a commit rolls back.
/// Used by one task.
/// </summary>
public abstract class LedgerTransaction(BatchState state, bool isRemembered = false) : IAsyncDisposable
{
    /// <summary>What was read under the lock, or is remembered.</summary>
    public BatchState State { get; } = state;

    /// <summary>
    /// Whether nothing was locked nor read: the state is what this store remembers, and which requests are known was not looked
    /// up. It must not be told to anybody, be it by a refusal, before the commit has made sure of it.
    /// </summary>
    public bool IsRemembered { get; } = isRemembered;

    /// <summary>Whether the look found that somebody else had the log since this store's last transaction.</summary>
    public bool OthersCame { get; init; }

    /// <summary>
    /// Stores all that a sealed batch decided, and returns when it is durable. It cannot be cancelled: a commit that is cut
    /// short may have happened. Fails with <see cref="StoreFailure.Rejected"/> when the database refuses a value,
    /// <see cref="StoreFailure.Full"/> or <see cref="StoreFailure.Unavailable"/> when nothing was stored, and
    /// <see cref="StoreFailure.OutcomeUnknown"/> when that cannot be told; <see cref="StoreFailure.Outdated"/>, and nothing was stored,
    /// when the remembered state is not, or may not be, what is there.
    /// </summary>
    public abstract Task CommitAsync(LedgerBatch batch);

    public abstract ValueTask DisposeAsync();
}

/// <summary>What a probe found.</summary>
/// <param name="IsWritable">Whether the store takes writes: a primary, not read-only.</param>
/// <param name="Head">The newest head of the log; null while it has no record.</param>
/// <param name="Clock">The store's clock in microseconds since 1970.</param>
public sealed record StoreProbe(bool IsWritable, StoredHead? Head, long Clock)
{
    /// <summary>How many records the log has.</summary>
    public long LogSize => Head?.Size ?? 0;

    /// <summary>
    /// Whether a commit waits until another machine has flushed it too, so that a reply survives the loss of the database's machine.
    /// </summary>
    public bool WaitsForStandby { get; init; }
}

/// <summary>
/// A head of the log as it is stored, altered or not. <see cref="SignedNote"/> is empty and <see cref="Frontier"/> null for a head
/// that was stored without, by the version before.
/// </summary>
public sealed record StoredHead(string LogId, long Size, string SignedNote, MerkleFrontier? Frontier, long LastRecordedAt)
{
    /// <summary>Whether it has what a writer goes on from.</summary>
    public bool IsSealed => Frontier is not null && SignedNote.Length > 0;

    /// <summary>
    /// The latest recorded_at among the log's own records, in microseconds. The head's own word for it is not proven: it is believed
    /// up to 5 minutes ahead of the clock, and beyond that only what the newest record says. Else one altered number would date all
    /// that is written from then on.
    /// </summary>
    /// <param name="now">The store's clock.</param>
    /// <param name="newest">The encoded bytes of the newest record; null where that is gone.</param>
    internal long LastRecordedUntil(long now, ReadOnlySpan<byte> newest)
    {
        // As far as the records of an import may be ahead of it, which others have to follow.
        var believed = Math.Min(LastRecordedAt, now + Limits.ImportAheadMax);
        return RecordFormat.TryDecode(newest) is { } record && record.LogId == LogId
            ? Math.Max(record.RecordedAt, believed)
            : believed;
    }
}

/// <summary>Which workflows; empty and null mean all.</summary>
public sealed record WorkflowFilter(string Namespace)
{
    public IReadOnlyCollection<string> WorkflowTypes { get; init; } = [];
    public IReadOnlyCollection<string> States { get; init; } = [];
    public IReadOnlyCollection<WorkflowStatus> Statuses { get; init; } = [];

    /// <summary>All of these entries.</summary>
    public Metadata Metadata { get; init; } = Metadata.Empty;

    /// <summary>Exclusive.</summary>
    public long? UpdatedBefore { get; init; }

    /// <summary>Inclusive.</summary>
    public long? UpdatedAfter { get; init; }
}

/// <summary>Which records; null means all.</summary>
public sealed record RecordFilter
{
    public string? Namespace { get; init; }
    public string? WorkflowId { get; init; }
    public string? WorkflowType { get; init; }
    public string? Actor { get; init; }
    public string? Principal { get; init; }

    /// <summary>Inclusive.</summary>
    public long? RecordedAfter { get; init; }

    /// <summary>Exclusive.</summary>
    public long? RecordedBefore { get; init; }
}

/// <summary>Which violations; null means all.</summary>
public sealed record ViolationFilter
{
    public string? Namespace { get; init; }
    public string? WorkflowId { get; init; }
    public IReadOnlyCollection<string>? Ids { get; init; }

    /// <summary>Those too that were released.</summary>
    public bool IncludeReleased { get; init; }
}

/// <summary>What became of violations that were found.</summary>
/// <param name="Opened">The ids of those that are open now and were not before.</param>
/// <param name="Overtaken">The ids of those that have to be looked at again, since a repair came after they were read.</param>
public sealed record AddedViolations(IReadOnlySet<string> Opened, IReadOnlySet<string> Overtaken);

/// <summary>Changes whenever the set of open violations does.</summary>
public readonly record struct OpenViolations(long Count, long Recorded, long NewestNumber, long NewestFoundAt);

/// <summary>A workflow, its records from the newest checkpoint on, as many as were asked for, and the bytes of that checkpoint.</summary>
public sealed record Resumable(Workflow Workflow, IReadOnlyList<StoredRecord> Records, byte[]? Snapshot);

/// <summary>The number of workflows that share a type, a state and a status.</summary>
public sealed record WorkflowCount(string WorkflowType, string State, WorkflowStatus Status, long Count);

/// <summary>How a writer looks at what its batch touches.</summary>
public enum Look
{
    /// <summary>It is read under the lock, in the round trip that takes it.</summary>
    AtOnce,

    /// <summary>
    /// Other servers write too: the lock is waited for before it is asked what the batch touches, so that the batch can grow meanwhile.
    /// </summary>
    OnceLocked,

    /// <summary>
    /// Not at all where the store remembers it from the batches before: <see cref="LedgerTransaction.IsRemembered"/> tells. Else at once.
    /// </summary>
    Remembered,
}

/// <summary>How a store failed.</summary>
public enum StoreFailure
{
    /// <summary>What was remembered is not what is there: begin again, with a look. Nothing was stored.</summary>
    Outdated,

    /// <summary>It cannot be reached, or not in time. Nothing was stored.</summary>
    Unavailable,

    /// <summary>It has no room. Nothing was stored.</summary>
    Full,

    /// <summary>It refused a value. Nothing was stored.</summary>
    Rejected,

    /// <summary>The commit may or may not have happened.</summary>
    OutcomeUnknown,

    /// <summary>
    /// The database says that its files are damaged: what was asked for cannot be read or written there. Nothing was stored, and
    /// other places may well be in order.
    /// </summary>
    Damaged,

    /// <summary>The store is not one that can be used: in use by another server, of a later version, altered.</summary>
    Unusable,
}

/// <summary>A failure of the store, classified by the driver's codes, never by message text.</summary>
public sealed class StoreException(StoreFailure failure, string message, Exception? inner = null)
    : Exception(message, inner)
{
    public StoreFailure Failure { get; } = failure;
}

/// <summary>The name of an open workflow, and where its first record is in the log.</summary>
public readonly record struct PendingWorkflow(WorkflowKey Key, long CreatedLogIndex);

/// <summary>What a batch touches.</summary>
/// <param name="Workflows">The workflows whose heads are wanted.</param>
/// <param name="RequestKeys">The requests whose records are wanted.</param>
public sealed record BatchKeys(IReadOnlyCollection<WorkflowKey> Workflows, IReadOnlyCollection<Bytes16> RequestKeys)
{
    /// <summary>
    /// Those of the workflows that it starts. One of which nothing is remembered may be taken for absent, which is made sure of when
    /// the batch is stored.
    /// </summary>
    public IReadOnlySet<WorkflowKey> Started { get; init; } = new HashSet<WorkflowKey>();
}

/// <summary>Shorter ways to use a store.</summary>
public static class LedgerStoreExtensions
{
    /// <summary>Begins where it is known from the start what is touched.</summary>
    public static Task<LedgerTransaction> BeginAsync(this ILedgerStore store, IReadOnlyCollection<WorkflowKey> workflows,
        IReadOnlyCollection<Bytes16> requestKeys, long seenSize, CancellationToken cancellationToken) =>
        store.BeginAsync(() => new BatchKeys(workflows, requestKeys), Look.AtOnce, seenSize, cancellationToken);
}
