using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// How far the log has come, as this server knows: by its own commits at once, by those of others within
/// <see cref="PollInterval"/> while anyone waits. Who sees size n can read all records below n. The size only grows, unless
/// the database is taken back: then <see cref="History"/> changes, and whoever followed the log has to stop.
/// </summary>
public sealed class LogTail(ILedgerStore store) : BackgroundService
{
    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(100);

    /// <summary>The longest wait of a read for a log that is behind.</summary>
    public static readonly TimeSpan WaitMax = TimeSpan.FromSeconds(5);

    private readonly Lock _lock = new();

    // Guarded by _lock; completed and replaced whenever the size grows.
    private TaskCompletionSource _growth = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _size;
    private int _history;
    private int _waiting;

    public long Size => Interlocked.Read(ref _size);

    /// <summary>Counts how often the log was taken back while this server followed it.</summary>
    public int History => Volatile.Read(ref _history);

    /// <summary>Tells of a size that was seen.</summary>
    public void Advance(long size)
    {
        TaskCompletionSource? growth = null;
        lock (_lock)
        {
            if (size <= _size)
                return;
            Interlocked.Exchange(ref _size, size);
            (growth, _growth) = (_growth, new(TaskCreationOptions.RunContinuationsAsynchronously));
        }
        growth.SetResult();
    }

    /// <summary>Tells that the log was taken back to a size: what was told of it beyond, or even below, may be no more.</summary>
    public void TakeBack(long size)
    {
        TaskCompletionSource growth;
        lock (_lock)
        {
            Interlocked.Exchange(ref _size, size);
            Interlocked.Increment(ref _history);
            (growth, _growth) = (_growth, new(TaskCreationOptions.RunContinuationsAsynchronously));
        }
        growth.SetResult();
    }

    /// <summary>Waits until the log is larger than a size, or the time is over.</summary>
    /// <returns>Whether it is larger, or was taken back meanwhile.</returns>
    public async Task<bool> WaitBeyondAsync(long size, TimeSpan patience, CancellationToken cancellationToken)
    {
        using var timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        timeout.CancelAfter(patience);
        Interlocked.Increment(ref _waiting);
        try
        {
            var history = History;
            while (true)
            {
                Task growth;
                lock (_lock)
                {
                    if (_size > size || _history != history)
                        return true;
                    growth = _growth.Task;
                }
                await growth.WaitAsync(timeout.Token);
            }
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            return false;
        }
        finally
        {
            Interlocked.Decrement(ref _waiting);
        }
    }

    /// <summary>Gives a size of the log that a read from now on reflects, once it is what the caller demands.</summary>
    /// <exception cref="RefusalException">The log is not that large in time: CURSOR_AHEAD_OF_LOG.</exception>
    public async Task<long> AtLeastAsync(ulong minLogSize, CancellationToken cancellationToken)
    {
        if (minLogSize > 0 && (minLogSize > long.MaxValue
            || !await WaitBeyondAsync((long)minLogSize - 1, WaitMax, cancellationToken) || Size < (long)minLogSize))
        {
            throw new RefusalException(AheadOfLog("min_log_size", minLogSize));
        }
        return Size;
    }

    /// <summary>
    /// Asks the store for the size of the log: all that any server has acknowledged before this call lies below it.
    /// </summary>
    public async Task<long> CurrentAsync(CancellationToken cancellationToken)
    {
        Advance((await store.ProbeAsync(cancellationToken)).LogSize);
        return Size;
    }

    public Refusal AheadOfLog(string field, ulong wanted) => new(Reason.CursorAheadOfLog,
        $"The log has {Size} records, and {field} asks for {wanted}.",
        ("log_size", Refusal.Text(Size)), (field, wanted.ToString(System.Globalization.CultureInfo.InvariantCulture)));

    /// <summary>Looks for what other servers wrote, while anyone waits.</summary>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        using var timer = new PeriodicTimer(PollInterval);
        while (await timer.WaitForNextTickAsync(stoppingToken))
        {
            if (Volatile.Read(ref _waiting) == 0)
                continue;
            try
            {
                Advance((await store.ProbeAsync(stoppingToken)).LogSize);
            }
            catch (StoreException)
            {
                // The monitor tells of it; who waits here has a deadline of their own.
            }
        }
    }
}
