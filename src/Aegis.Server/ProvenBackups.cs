using System.Globalization;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// What the log's own history tells of backups that were proven good: up to when one holds all that was recorded. It is followed
/// there, so that every server knows of a backup whoever it was told to, and a restart forgets none. Thread-safe.
/// </summary>
public sealed class ProvenBackups : BackgroundService
{
    private const int PageSize = 500;
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(2);

    private readonly ILedgerStore _store;
    private readonly SignerMemory _memory;
    private readonly ServerOptions _options;
    private readonly TimeProvider _time;

    // Microseconds since 1970; 0 for none. Written by the task that follows and by the service.
    private long _coveredUntil;

    // Owned by the task that follows: the newest record of the log's own history, and the size of the log when it was read.
    private StoredRecord? _seen;
    private long _sizeSeen;

    public ProvenBackups(ILedgerStore store, SignerMemory memory, ServerOptions options, Metrics metrics, TimeProvider time)
    {
        (_store, _memory, _options, _time) = (store, memory, options, time);
        metrics.WatchBackups(() => Age);
    }

    /// <summary>Called when another backup reaches further, or the history that told of one was taken back.</summary>
    public event Action? Changed;

    /// <summary>How long ago something was recorded that no proven backup holds; null when none was ever proven.</summary>
    public TimeSpan? Age => Interlocked.Read(ref _coveredUntil) is > 0 and var covered
        ? _time.GetUtcNow() - DateTimeOffset.UnixEpoch.AddTicks(covered * TimeSpan.TicksPerMicrosecond)
        : null;

    /// <summary>Whether a backup was proven that is no older than it may be.</summary>
    public bool IsRecent => Age <= _options.BackupAgeMax;

    /// <summary>A record of this server's own, known at once.</summary>
    public void Note(StoredRecord record)
    {
        long known;
        var covered = CoveredBy(record);
        do
            known = Interlocked.Read(ref _coveredUntil);
        while (covered > known && Interlocked.CompareExchange(ref _coveredUntil, covered, known) != known);
        if (covered > known)
            Changed?.Invoke();
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        // Off the thread that starts the host.
        await Task.Yield();
        while (!stoppingToken.IsCancellationRequested)
        {
            try
            {
                // Until it is set the store was not prepared; while it stays the same, nothing new can be there.
                if (_memory.Newest is { } newest && (newest.Head.Size != _sizeSeen || _memory.RolledBack is not null))
                {
                    await SyncAsync(stoppingToken);
                    _sizeSeen = newest.Head.Size;
                }
            }
            catch (StoreException)
            {
                // The monitor tells of it; what is known stays, and is gone on from.
            }
            await Task.Delay(Interval, _time, stoppingToken);
        }
    }

    private async Task SyncAsync(CancellationToken cancellationToken)
    {
        var next = _seen is null ? [] : await PageAsync(_seen.Record.Sequence, descending: false, cancellationToken);
        if (_seen is null || next.Count == 0 || next[0].Hash != _seen.Hash)
        {
            await ReadAllAsync(cancellationToken);
            return;
        }
        while (true)
        {
            foreach (var record in next)
                Note(record);
            _seen = next[^1];
            if (next.Count < PageSize)
                return;
            next = await PageAsync(_seen.Record.Sequence, descending: false, cancellationToken);
        }
    }

    /// <summary>
    /// From the newest record backwards, for the first time or because the history that was followed is no more. No backup holds what
    /// was recorded after its proof, so that the records before the furthest need not be read.
    /// </summary>
    private async Task ReadAllAsync(CancellationToken cancellationToken)
    {
        var (furthest, from, isEnd) = (0L, long.MaxValue, false);
        StoredRecord? newest = null;
        while (!isEnd)
        {
            var page = await PageAsync(from, descending: true, cancellationToken);
            newest ??= page.Count > 0 ? page[0] : null;
            foreach (var record in page)
                furthest = Math.Max(furthest, CoveredBy(record));
            isEnd = page.Count < PageSize || page[^1].Record.RecordedAt <= furthest;
            from = isEnd ? 0 : page[^1].Record.Sequence - 1;
        }
        _seen = newest;
        if (Interlocked.Exchange(ref _coveredUntil, furthest) != furthest)
            Changed?.Invoke();
    }

    private Task<IReadOnlyList<StoredRecord>> PageAsync(long fromSequence, bool descending, CancellationToken cancellationToken) =>
        _store.ReadChainAsync(WorkflowKey.Log, fromSequence, descending, PageSize, cancellationToken);

    /// <summary>Up to when the backup that a record tells of holds everything; 0 when it tells of none, or was altered.</summary>
    private static long CoveredBy(StoredRecord stored) =>
        stored.Record.ToState == LogActCommand.BackupProven && stored.IsConsistent()
        && ProvenBackup.Of(stored.Record.Content?.Metadata) is { } backup
            ? Math.Min(backup.CoveredUntil, stored.Record.RecordedAt)
            : 0;
}

/// <summary>What a record BACKUP_PROVEN says.</summary>
/// <param name="Head">The newest head in the backup.</param>
/// <param name="Kind">What it is.</param>
/// <param name="Location">Where it is kept; may be empty.</param>
/// <param name="CoveredUntil">Up to when it holds all that was recorded, in microseconds since 1970.</param>
public sealed record ProvenBackup(LogHead Head, string Kind, string Location, long CoveredUntil)
{
    public Metadata ToMetadata() => new(
    [
        KeyValuePair.Create("log_id", Head.LogId),
        KeyValuePair.Create("size", Refusal.Text(Head.Size)),
        KeyValuePair.Create("root", Head.Root.ToString()),
        KeyValuePair.Create("kind", Kind),
        KeyValuePair.Create("location", Location),
        KeyValuePair.Create("covered_until", Refusal.Text(CoveredUntil)),
    ]);

    /// <summary>What such metadata say, or null where they say none of it.</summary>
    public static ProvenBackup? Of(Metadata? metadata)
    {
        if (metadata is null || metadata["log_id"] is not { } logId || metadata["kind"] is not { } kind
            || metadata["location"] is not { } location || !Number("size", out var size) || !Number("covered_until", out var covered)
            || metadata["root"] is not { Length: 2 * Hash.Size } root || !root.All(char.IsAsciiHexDigit))
        {
            return null;
        }
        return new ProvenBackup(new LogHead(logId, size, new Hash(Convert.FromHexString(root))), kind, location, covered);

        bool Number(string key, out long value) =>
            long.TryParse(metadata[key], NumberStyles.None, CultureInfo.InvariantCulture, out value);
    }
}
