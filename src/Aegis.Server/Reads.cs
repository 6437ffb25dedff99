using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Chooses where a call reads: at a replica that is as far as the call needs it, by turns, or else at the primary. Looks at each
/// replica every second, as the monitor does at the primary, and leaves out one that does not answer, is too far behind, is no
/// standby, or holds another history. None of that ever touches health, nor what the memory of the log's head says: a replica that
/// is behind is only behind.
/// </summary>
public sealed class Reads : BackgroundService, IAsyncDisposable
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan ProbePatience = TimeSpan.FromSeconds(3);

    // How long a call waits for a replica to have what it needs, before the primary serves it, and how long between two looks.
    private static readonly TimeSpan CatchUpPatience = TimeSpan.FromMilliseconds(250);
    private static readonly TimeSpan LookInterval = TimeSpan.FromMilliseconds(10);

    // So long it is known how far the primary was.
    private static readonly TimeSpan SizesKept = TimeSpan.FromHours(2);

    private readonly ILedgerStore _store;
    private readonly LogTail _tail;
    private readonly LogSigner _signer;
    private readonly SignerMemory _memory;
    private readonly ChainReader _chains;
    private readonly Findings _findings;
    private readonly Metrics _metrics;
    private readonly TimeProvider _time;
    private readonly TimeSpan _lagMax;
    private readonly IReadOnlyList<Replica> _replicas;
    private readonly WakeUp _wake = new();

    // Owned by the loop: how far the primary was, and until when it was not further. The oldest first.
    private readonly List<(long Size, long At)> _sizes = [];
    private uint _turn;

    public Reads(ILedgerStore store, LogTail tail, LogSigner signer, SignerMemory memory, LogProofs proofs, ChainReader chains,
        Findings findings, ServerOptions options, Metrics metrics, TimeProvider time, ILogger<Reads> logger)
    {
        (_store, _tail, _signer, _memory, _chains, _findings, _metrics, _time, _lagMax) =
            (store, tail, signer, memory, chains, findings, metrics, time, options.ReadLagMax);
        Primary = new ReadPlace(store, proofs, chains, 0);
        _replicas = [.. options.OpenReplicas().Select(source => new Replica(source, store, time, logger))];
        foreach (var replica in _replicas)
            replica.Source.Lost += e => OnLost(replica, e);
        if (HasReplicas)
            metrics.WatchReplicas(() => _replicas.Select(r => (r.Location, r.LagSeconds)));
    }

    /// <summary>Whether there are any, in order or not.</summary>
    public bool HasReplicas => _replicas.Count > 0;

    /// <summary>In the order of the connection string.</summary>
    public IReadOnlyList<Replica> Replicas => _replicas;

    /// <summary>The primary, whatever its size.</summary>
    public ReadPlace Primary { get; }

    /// <summary>
    /// Where a call reads that is content with what was there a while ago, AEGIS_READ_LAG_MAX at most, unless it says what it has
    /// seen already.
    /// </summary>
    /// <param name="minLogSize">What the caller has seen: the log is waited for until it has that size.</param>
    /// <param name="pageSize">How far the log was where the page before this one was read; long.MaxValue where that is unknown.</param>
    /// <param name="cancellationToken">Ends the waiting.</param>
    /// <exception cref="RefusalException">The log is not that large in time: CURSOR_AHEAD_OF_LOG.</exception>
    public async Task<ReadPlace> AtLeastAsync(ulong minLogSize, long pageSize, CancellationToken cancellationToken)
    {
        // What no commit has made known here yet, the primary waits for.
        if (minLogSize <= (ulong)_tail.Size && pageSize <= _tail.Size
            && await ReplicaAsync(Math.Max((long)minLogSize, pageSize), cancellationToken) is { } place)
        {
            return place;
        }
        return await AtPrimaryAsync(minLogSize, cancellationToken);
    }

    /// <summary>
    /// Where a call reads whose answer proves something: at what the log is now, so that nobody is given a head that is smaller
    /// than one they have seen.
    /// </summary>
    /// <exception cref="RefusalException">The log is not that large in time: CURSOR_AHEAD_OF_LOG.</exception>
    public async Task<ReadPlace> CurrentAsync(ulong minLogSize, CancellationToken cancellationToken)
    {
        if (Serving().Count > 0 && await _tail.CurrentAsync(cancellationToken) is var size && minLogSize <= (ulong)size
            && await ReplicaAsync(size, cancellationToken) is { } place)
        {
            return place;
        }
        return await AtPrimaryAsync(minLogSize, cancellationToken);
    }

    /// <summary>Where the scrub goes on that has come to a size.</summary>
    public async Task<ReadPlace> ToScrubAsync(long size, bool atReplica, CancellationToken cancellationToken) =>
        (atReplica ? await ReplicaAsync(size, cancellationToken) : null) ?? Counted(Primary);

    /// <summary>Has a call read; one that met with something wrong at a replica is answered by the primary.</summary>
    public async Task<T> ReadAsync<T>(ReadPlace place, Func<ReadPlace, Task<T>> read)
    {
        try
        {
            return await read(place);
        }
        catch (DoubtException e)
        {
            var answer = await read(Counted(place.Primary!));
            Judge(place, e.Found);
            return answer;
        }
    }

    /// <summary>Says of a replica, once the primary was asked, whether what was found there is wrong with it alone.</summary>
    public void Judge(ReadPlace place, IReadOnlyList<Violation> found)
    {
        // One that was lost in the middle may have been ahead of the primary by a commit that was under way.
        if (!place.HasTurned && !_findings.HasReported(found))
            place.Replica?.Distrust(found);
    }

    /// <summary>Has a run along the log read there from its next page on.</summary>
    public void SendTo(ReadPlace place, LogRun run) => run.ReadAt(place.Store, place.Primary?.Store, found => Judge(place, found));

    /// <summary>Looks at all of them.</summary>
    /// <exception cref="StoreException">Unusable: one of them holds another log.</exception>
    public async Task ProbeAsync(CancellationToken cancellationToken)
    {
        Sample();
        await Task.WhenAll(_replicas.Select(replica => ProbeAsync(replica, cancellationToken)));
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        // Off the thread that starts the host.
        await Task.Yield();
        while (HasReplicas && !stoppingToken.IsCancellationRequested)
        {
            try
            {
                if (_memory.Newest is not null)
                    await ProbeAsync(stoppingToken);
            }
            catch (StoreException)
            {
                // It was left out, and that was told.
            }
            await _wake.RestAsync(Interval, stoppingToken);
        }
    }

    private async Task ProbeAsync(Replica replica, CancellationToken cancellationToken)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        patience.CancelAfter(ProbePatience);
        ReplicaProbe probe;
        try
        {
            probe = await replica.Source.ProbeAsync(_tail.Size, patience.Token);
        }
        catch (Exception e) when (e is StoreException or OperationCanceledException && !cancellationToken.IsCancellationRequested)
        {
            replica.LagSeconds = LagOf(replica.LogSize).Time.TotalSeconds;
            replica.LeaveOut(Unreachable(e));
            return;
        }
        try
        {
            if (await ProblemOfAsync(replica, probe, patience.Token) is { } problem)
                replica.LeaveOut(problem.Text, problem.IsWrong);
            else if (!replica.IsDistrusted)
                replica.TakeIn(probe.Head!);
        }
        catch (Exception e) when (e is StoreException or OperationCanceledException && !cancellationToken.IsCancellationRequested)
        {
            // The primary is away, so that nobody writes: what was known of the replica holds.
        }
        if (probe.Head is { } head && IsOther(head))
        {
            throw new StoreException(StoreFailure.Unusable,
                $"AEGIS_READ_DATABASE names {replica.Location}, which holds the log \"{head.LogId}\", and AEGIS_DATABASE holds "
                + $"\"{_memory.Newest!.Head.LogId}\".");
        }
    }

    private bool IsOther(StoredHead head) => LogName.Split(head.LogId).Base != LogName.Split(_memory.Newest!.Head.LogId).Base;

    /// <summary>Why a replica that answers is not read at, or null.</summary>
    private async Task<(string Text, bool IsWrong)?> ProblemOfAsync(Replica replica, ReplicaProbe probe, CancellationToken cancellationToken)
    {
        var (lag, isKnown) = LagOf(replica.LogSize = probe.LogSize);
        replica.LagSeconds = lag.TotalSeconds;
        if (probe.Head is not { } head || !head.IsSealed)
            return ("it has no log yet", false);
        if (IsOther(head))
            return ("it holds another log", true);
        if (!await IsOfThisHistoryAsync(head, cancellationToken))
            return ("it holds another history: it was written to by itself, or follows one that was. Clone it anew", true);
        if (!probe.IsStandby)
            return ("it is no standby: it is the primary, or was promoted", false);
        // It may have what the primary has flushed and not yet acknowledged, but not for long.
        if (probe.LogSize > _tail.Size && !await IsAcknowledgedAsync(probe.LogSize, cancellationToken))
            return ("it is ahead of the primary: it follows another", true);
        return !isKnown || lag > _lagMax ? ("it is too far behind", false) : null;
    }

    /// <summary>
    /// Whether the primary has the head too. Those of a moment ago this server remembers; of others the primary has the rows.
    /// </summary>
    private async Task<bool> IsOfThisHistoryAsync(StoredHead head, CancellationToken cancellationToken)
    {
        if (_signer.Sealed(head.SignedNote, head.Size, head.Frontier) is not { } found)
            return false;
        if (_memory.Newest is { } newest && newest.Head.Size == head.Size && newest.Head.Root == found.Head.Root)
            return true;
        var remembered = new RememberedHead(head.Size, Convert.ToBase64String(found.Head.Root.ToArray()));
        return _memory.Earlier.Contains(remembered)
            || (await _store.ReadHeadsBackAsync(head.Size, 1, cancellationToken) is [var row]
                && row.Size == head.Size && row.Root == found.Head.Root);
    }

    private async Task<bool> IsAcknowledgedAsync(long size, CancellationToken cancellationToken)
    {
        for (var tries = 0; await _tail.CurrentAsync(cancellationToken) < size; tries++)
        {
            if (tries == 10)
                return false;
            await Task.Delay(Interval / 10, _time, cancellationToken);
        }
        return true;
    }

    /// <summary>Those that calls are sent to.</summary>
    private List<Replica> Serving() =>
        HasReplicas && _memory.RolledBack is null ? [.. _replicas.Where(r => r.Head is not null)] : [];

    /// <summary>The next replica that has the log up to a size, or has it in a moment; null where none does.</summary>
    private async Task<ReadPlace?> ReplicaAsync(long size, CancellationToken cancellationToken)
    {
        var begun = _time.GetTimestamp();
        while (Serving() is { Count: > 0 } serving)
        {
            var turn = (int)(Interlocked.Increment(ref _turn) % (uint)serving.Count);
            if (serving.Skip(turn).Concat(serving.Take(turn)).FirstOrDefault(r => r.Head?.Size >= size) is { Head: { } head } replica
                && head.Size >= size)
            {
                return PlaceAt(replica, head);
            }
            // Never cancelled: others wait for it too.
            await serving[turn].LookedAtAsync(LookAsync).WaitAsync(cancellationToken);
            if (serving[turn].Head?.Size >= size)
                continue;
            if (_time.GetElapsedTime(begun) > CatchUpPatience)
                return null;
            await Task.Delay(LookInterval, _time, cancellationToken);
        }
        return null;
    }

    /// <summary>Looks how far a replica is now.</summary>
    private async Task LookAsync(Replica replica)
    {
        using var patience = new CancellationTokenSource(ProbePatience);
        try
        {
            var probe = await replica.Source.ProbeAsync(_tail.Size, patience.Token);
            if (probe is { IsStandby: true, Head: { } head } && await IsOfThisHistoryAsync(head, patience.Token))
                replica.Advance(head);
        }
        catch (Exception e) when (e is StoreException or OperationCanceledException)
        {
            // The loop tells of it.
            _wake.Wake();
        }
    }

    private ReadPlace PlaceAt(Replica replica, StoredHead head)
    {
        var view = ((PostgresLedgerStore)_store).ReadingAt(replica.Source);
        return Counted(new ReadPlace(view, replica.Proofs.By(view), _chains.By(view), head.Size)
        {
            Replica = replica,
            Head = head,
            Primary = Primary with { Size = head.Size },
        });
    }

    private async Task<ReadPlace> AtPrimaryAsync(ulong minLogSize, CancellationToken cancellationToken) =>
        Counted(Primary with { Size = await _tail.AtLeastAsync(minLogSize, cancellationToken) });

    private ReadPlace Counted(ReadPlace place)
    {
        _metrics.Read(place.Replica?.Location ?? "primary");
        return place;
    }

    /// <summary>Notes how far the primary is. Replicas are measured against that, so that no clock of theirs is asked.</summary>
    private void Sample()
    {
        var (size, now) = (_tail.Size, _time.GetTimestamp());
        if (_sizes.Count > 0 && _sizes[^1].Size > size)
            _sizes.Clear();
        if (_sizes.Count > 0 && _sizes[^1].Size == size)
            _sizes[^1] = (size, now);
        else
            _sizes.Add((size, now));
        _sizes.RemoveAll(s => _time.GetElapsedTime(s.At, now) > SizesKept);
    }

    /// <summary>
    /// How long ago the primary was no further than a replica is. Of one that is behind all that is known, it is longer ago than
    /// this server, or the two hours that are kept, can tell.
    /// </summary>
    private (TimeSpan Time, bool IsKnown) LagOf(long size)
    {
        if (size >= _sizes[^1].Size)
            return (TimeSpan.Zero, true);
        var last = _sizes.FindLastIndex(s => s.Size <= size);
        return (_time.GetElapsedTime(_sizes[Math.Max(last, 0)].At), last >= 0);
    }

    private void OnLost(Replica replica, StoreException e)
    {
        replica.LeaveOut(Unreachable(e));
        _wake.Wake();
    }

    private static string Unreachable(Exception e) => e is StoreException { InnerException: { } inner }
        ? $"it does not answer: {inner.Message}"
        : "it does not answer in time";

    public async ValueTask DisposeAsync()
    {
        foreach (var replica in _replicas)
            await replica.Source.DisposeAsync();
        Dispose();
    }

    public override void Dispose()
    {
        _wake.Dispose();
        base.Dispose();
    }
}
