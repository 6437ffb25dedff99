using System.Threading.Channels;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// The violations that verification and the checks of every read find. They are kept in the store, which all servers read, so
/// that what one finds is known to all and survives restarts; until one is stored it is kept here and tried again. A workflow
/// that verifies again later stays quarantined: an edit that was undone is evidence still. Only an operator's release or
/// repair closes a violation. What was read before a repair and is told after it is looked at again before it is kept.
/// </summary>
public sealed partial class Findings(
    ILedgerStore store, Ledger ledger, SignerMemory memory, TimeProvider time, ILogger<Findings> logger) : BackgroundService
{
    /// <summary>How many open violations are kept at hand, and how many may wait to be stored.</summary>
    private const int KeptMax = 10_000;
    private const int StoredAtOnce = 500;
    private const int QuarantinesAtOnce = 50;

    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan SettlePatience = TimeSpan.FromSeconds(2);

    // Longer than whoever reads takes to tell what it found, so that a repair which came since is noticed.
    private static readonly TimeSpan TellingTime = TimeSpan.FromMinutes(1);

    // What was stored lately need not be stored again: reads find the same again and again.
    private static readonly TimeSpan StoredLately = TimeSpan.FromSeconds(5);

    // One at a time stores and reads: the loop, or whoever wants to see the outcome at once.
    private readonly SemaphoreSlim _syncing = new(1, 1);
    private readonly WakeUp _wake = new();
    private readonly Lock _lock = new();

    // Guarded by _lock.
    private readonly Dictionary<string, Waiting> _waiting = [];
    private readonly Dictionary<string, long> _stored = [];
    private readonly Queue<(long At, long Size)> _sizes = [];
    private bool _isClean;

    private readonly Channel<FoundViolation> _overtaken = Channel.CreateBounded<FoundViolation>(
        new BoundedChannelOptions(KeptMax) { FullMode = BoundedChannelFullMode.DropWrite, SingleReader = true });

    // Under _syncing: what a repair has overtaken, and so was not stored.
    private readonly List<FoundViolation> _passedOver = [];

    // Written under _syncing.
    private volatile Known? _known;
    private OpenViolations _counted;
    private long _open;
    private long _readAt;

    /// <summary>Called when <see cref="IsClean"/> may have changed.</summary>
    public event Action? Changed;

    /// <summary>How many are open, as last read.</summary>
    public long Open => Interlocked.Read(ref _open);

    /// <summary>Whether no violation is open; false until the store has told.</summary>
    public bool IsClean
    {
        get
        {
            lock (_lock)
                return _isClean;
        }
    }

    /// <summary>
    /// Takes what was found: it is logged once, stored in the background, and never lost while this server lives. Returns at
    /// once, and may be called from anywhere.
    /// </summary>
    public void Report(IReadOnlyList<Violation> violations) => Report(violations, null);

    /// <summary>The same of what has to be kept once <see cref="SettleAsync"/> returns, though it was stored a moment ago.</summary>
    /// <param name="violations">What was found.</param>
    /// <param name="readAt">The size of the log before it was read, as the store said; null for not known.</param>
    public void Report(IReadOnlyList<Violation> violations, long? readAt)
    {
        if (violations.Count == 0)
            return;
        var areFresh = readAt is not null;
        var now = time.GetTimestamp();
        var foundAt = Microseconds();
        lock (_lock)
        {
            foreach (var violation in violations)
            {
                var found = new FoundViolation(violation, foundAt) { ReadAt = readAt ?? SizeBefore(now) };
                var isStored = _stored.TryGetValue(found.Id, out var at) && time.GetElapsedTime(at, now) < StoredLately;
                // Beyond so many they are found again once there is room.
                if ((areFresh || !isStored) && _waiting.Count < KeptMax)
                {
                    // The later reading counts.
                    if (!_waiting.TryAdd(found.Id, new Waiting(found)) && _waiting[found.Id].Found.ReadAt < found.ReadAt)
                        _waiting[found.Id].Found = found;
                }
            }
        }
        _wake.Wake();
    }

    /// <summary>
    /// What was found now, each as it is kept where it is: when it was found first, at which head it was good, and whether it is
    /// released. What was repaired and is found again is new.
    /// </summary>
    public async Task<IReadOnlyList<FoundViolation>> AsKeptAsync(IReadOnlyList<Violation> violations, CancellationToken cancellationToken)
    {
        var foundAt = Microseconds();
        var found = violations.Select(v => new FoundViolation(v, foundAt)).ToList();
        var kept = new Dictionary<string, FoundViolation>();
        try
        {
            foreach (var ids in found.Select(f => f.Id).Distinct().Chunk(StoredAtOnce))
            {
                var filter = new ViolationFilter { Ids = ids, IncludeReleased = true };
                foreach (var one in await store.ListViolationsAsync(filter, long.MaxValue, ids.Length, cancellationToken))
                    kept[one.Id] = one;
            }
        }
        catch (StoreException e)
        {
            // It is found all the same.
            logger.LogDebug(e, "What is kept of {Count} violations cannot be read", found.Count);
        }
        return found.ConvertAll(f => kept.TryGetValue(f.Id, out var known) && !known.IsRepaired
            ? f with
            {
                FoundAt = known.FoundAt,
                ReleasedAt = known.ReleasedAt,
                Violation = f.Violation with { LastGoodLogSize = known.Violation.LastGoodLogSize },
            }
            : f);
    }

    /// <summary>Waits for findings that have to be looked at again before they are told: all that there are.</summary>
    public async Task<IReadOnlyList<FoundViolation>> OvertakenAsync(CancellationToken cancellationToken)
    {
        await _overtaken.Reader.WaitToReadAsync(cancellationToken);
        var found = new Dictionary<string, FoundViolation>();
        while (_overtaken.Reader.TryRead(out var one))
            found.TryAdd(one.Id, one);
        return [.. found.Values];
    }

    private long Microseconds() => (time.GetUtcNow().UtcDateTime - DateTime.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;

    /// <summary>A size that the log had before anything was read of which is told now. Called under _lock.</summary>
    private long SizeBefore(long now)
    {
        if (_sizes.Count == 0 || time.GetElapsedTime(_sizes.Last().At, now) > Interval)
            _sizes.Enqueue((now, memory.Size));
        while (_sizes.Count > 1 && time.GetElapsedTime(_sizes.ElementAt(1).At, now) > TellingTime)
            _sizes.Dequeue();
        return _sizes.Peek().Size;
    }

    /// <summary>
    /// Waits until all that was reported is stored and what is open was read anew; not for long where the store is away.
    /// </summary>
    public async Task SettleAsync(CancellationToken cancellationToken)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        patience.CancelAfter(SettlePatience);
        try
        {
            await SyncAsync(patience.Token);
        }
        catch (Exception e) when (e is StoreException || !cancellationToken.IsCancellationRequested)
        {
            // The loop tries again.
        }
    }

    /// <summary>Stores what waits, and reads what is open.</summary>
    /// <exception cref="StoreException">The store is away; nothing is lost.</exception>
    public async Task SyncAsync(CancellationToken cancellationToken)
    {
        await _syncing.WaitAsync(cancellationToken);
        try
        {
            await StoreAsync(cancellationToken);
            await ReadAsync(cancellationToken);
            // What is open all the same needs no further look.
            foreach (var found in _passedOver.Where(f => !IsOpen(f)))
                _overtaken.Writer.TryWrite(found);
            _passedOver.Clear();
        }
        catch (StoreException)
        {
            TellWaiting();
            throw;
        }
        finally
        {
            _syncing.Release();
            Publish();
        }
    }

    /// <summary>
    /// What is known to be wrong at the place of a record, as this server last read it: findings about the record itself and
    /// about its workflow as a whole.
    /// </summary>
    public IReadOnlyList<FoundViolation> At(StoredRecord record) =>
        _known is { } known && known.ByWorkflow.TryGetValue(record.Record.Key, out var violations)
            ? [.. violations.Where(v => v.Violation.Sequence == 0 || v.Violation.Sequence == record.Record.Sequence)]
            : [];

    /// <summary>Whether any of these was reported to this server lately.</summary>
    public bool HasReported(IReadOnlyList<Violation> violations)
    {
        lock (_lock)
            return violations.Select(v => v.Id()).Any(id => _waiting.ContainsKey(id) || _stored.ContainsKey(id));
    }

    /// <summary>What was stored lately may be released or repaired now: found again, it is looked at again.</summary>
    public void Forget()
    {
        lock (_lock)
            _stored.Clear();
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        // Off the thread that starts the host.
        await Task.Yield();
        while (!stoppingToken.IsCancellationRequested)
        {
            try
            {
                await SyncAsync(stoppingToken);
                await RecordQuarantinesAsync(stoppingToken);
            }
            catch (Exception e) when (!stoppingToken.IsCancellationRequested)
            {
                // Whatever it is, it must not end this loop: findings would be lost.
                logger.LogDebug(e, "Violations cannot be stored or read yet");
            }
            await _wake.RestAsync(Interval, stoppingToken);
        }
    }

    public override async Task StopAsync(CancellationToken cancellationToken)
    {
        await base.StopAsync(cancellationToken);
        try
        {
            await SettleAsync(cancellationToken);
        }
        catch (OperationCanceledException)
        {
            // The store is away, and the time to stop is over: the next audit finds again what is not stored.
        }
    }

    private bool IsOpen(FoundViolation found) =>
        _known!.ByWorkflow.TryGetValue(found.Violation.Key, out var open) && open.Exists(v => v.Id == found.Id);

    private async Task StoreAsync(CancellationToken cancellationToken)
    {
        while (true)
        {
            List<(Waiting Waiting, FoundViolation Found)> some;
            lock (_lock)
            {
                SizeBefore(time.GetTimestamp());
                some = [.. _waiting.Values.Take(StoredAtOnce).Select(w => (w, w.Found))];
            }
            if (some.Count == 0)
                return;
            var added = await store.AddViolationsAsync([.. some.Select(s => s.Found)], cancellationToken);
            var now = time.GetTimestamp();
            lock (_lock)
            {
                if (_stored.Count > KeptMax)
                    _stored.Clear();
                foreach (var (waiting, found) in some)
                {
                    // One that was read again meanwhile waits on.
                    if (waiting.Found == found)
                        _waiting.Remove(found.Id);
                    if (!added.Overtaken.Contains(found.Id))
                        _stored[found.Id] = now;
                }
            }
            foreach (var (waiting, _) in some.Where(s => added.Opened.Contains(s.Found.Id)))
                Tell(waiting);
            _passedOver.AddRange(some.Select(s => s.Found).Where(f => added.Overtaken.Contains(f.Id)));
        }
    }

    private async Task ReadAsync(CancellationToken cancellationToken)
    {
        var counted = await store.CountOpenViolationsAsync(cancellationToken);
        // Once in a while even so: what changed may happen to count the same.
        if (_known is not null && counted == _counted && time.GetElapsedTime(_readAt) < StoredLately)
            return;
        var open = counted.Count == 0
            ? []
            : await store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, KeptMax, cancellationToken);
        _known = new Known(counted.Count == 0 && open.Count == 0,
            open.GroupBy(v => v.Violation.Key).ToDictionary(g => g.Key, g => g.ToList()));
        (_counted, _readAt) = (counted, time.GetTimestamp());
        Interlocked.Exchange(ref _open, counted.Count);
    }

    private void Publish()
    {
        bool hasChanged;
        lock (_lock)
        {
            var isClean = _known is { IsClean: true } && !_waiting.Values.Any(w => w.WasTold);
            hasChanged = isClean != _isClean;
            _isClean = isClean;
        }
        if (hasChanged)
            Changed?.Invoke();
    }

    /// <summary>The store is away: whether they are new it cannot tell, so that they are told as if they were.</summary>
    private void TellWaiting()
    {
        List<Waiting> waiting;
        lock (_lock)
            waiting = [.. _waiting.Values];
        foreach (var one in waiting)
            Tell(one);
    }

    private void Tell(Waiting waiting)
    {
        if (waiting.WasTold)
            return;
        waiting.WasTold = true;
        var violation = waiting.Found.Violation;
        logger.LogError(
            "Violation {Class} in {Workflow} at sequence {Sequence}, log index {LogIndex}: {Message} "
            + "Expected hash {Expected}, actual hash {Actual}; differs: {Differences}; id {Id}",
            violation.Class.Name(), violation.IsOfLog ? "the log" : violation.Key.ToString(), violation.Sequence,
            violation.LogIndex, violation.Message, violation.ExpectedHash, violation.ActualHash,
            string.Join("; ", violation.Differences.Select(d => d.Original is null && d.Found is null
                ? d.Field
                : $"{d.Field} was {d.Original ?? "unknown"}, is {d.Found ?? "gone"}")),
            waiting.Found.Id);
    }

    public override void Dispose()
    {
        _syncing.Dispose();
        _wake.Dispose();
        base.Dispose();
    }

    /// <summary>A finding on its way to the store.</summary>
    private sealed class Waiting(FoundViolation found)
    {
        /// <summary>As it was last read. Guarded by _lock.</summary>
        public FoundViolation Found { get; set; } = found;

        /// <summary>Written by whoever holds _syncing.</summary>
        public bool WasTold { get; set; }
    }

    /// <summary>What was open when it was last read.</summary>
    private sealed record Known(bool IsClean, Dictionary<WorkflowKey, List<FoundViolation>> ByWorkflow);
}
