using Aegis.Core;
using Aegis.Storage;
using Grpc.Health.V1;
using Grpc.HealthCheck;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Aegis.Server;

/// <summary>
/// Prepares the store, watches it, and keeps the health statuses, which are read from memory: probes never load the
/// database.
/// </summary>
public sealed class StoreMonitor : BackgroundService
{
    public const string Liveness = "liveness";
    public const string Writes = "aegis.writes";
    public const string Integrity = "aegis.integrity";
    public const string Replication = "aegis.replication";
    public const string Backup = "aegis.backup";

    /// <summary>The services by their names, and the empty name for all.</summary>
    public static readonly string[] Callable =
    [
        "", "aegis.v1.WorkflowService", "aegis.v1.RecoveryService", "aegis.v1.IntegrityService",
        "aegis.v1.SystemService",
    ];

    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan IntervalWhileDown = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan ProbePatience = TimeSpan.FromSeconds(3);
    private static readonly TimeSpan FullPatience = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan SkewMax = TimeSpan.FromMinutes(5);

    private readonly ILedgerStore _store;
    private readonly LogTail _tail;
    private readonly ServerOptions _options;
    private readonly Findings _findings;
    private readonly LogSigner _signer;
    private readonly SignerMemory _memory;
    private readonly KnownHeads _known;
    private readonly AuditStatus _audit;
    private readonly ProvenBackups _backups;
    private readonly HealthServiceImpl _health;
    private readonly TimeProvider _time;
    private readonly ILogger<StoreMonitor> _logger;
    private readonly WakeUp _wake = new();
    private readonly Lock _statusLock = new();

    // Guarded by _statusLock.
    private bool _answers;
    private bool _isWritable;
    private bool _waitsForStandby;
    private bool _isDraining;
    private bool _wasObserved;
    private bool? _wasReplicated;

    /// <summary>That of a log that was replaced by an empty one.</summary>
    private static readonly StoredHead NoHead = new("", 0, "", new MerkleFrontier(), 0);

    private bool _wasRolledBack;
    private long _fullUntil;
    private bool _toldSkew;

    public StoreMonitor(ILedgerStore store, LogTail tail, Ledger ledger, LogSigner signer, SignerMemory memory, KnownHeads known,
        ServerOptions options, Findings findings, AuditStatus audit, ProvenBackups backups, HealthServiceImpl health, Metrics metrics,
        TimeProvider time, ILogger<StoreMonitor> logger)
    {
        (_store, _tail, _signer, _memory, _known, _options, _findings, _audit, _backups, _health, _time, _logger) =
            (store, tail, signer, memory, known, options, findings, audit, backups, health, time, logger);
        memory.Changed += Publish;
        ledger.StoreFailed += OnStoreFailed;
        findings.Changed += Publish;
        audit.Changed += Publish;
        backups.Changed += Publish;
        metrics.Watch(() => ledger.QueueLength, () => ClockSkew.TotalSeconds, () => tail.Size);
        metrics.WatchViolations(() => findings.Open);
        metrics.WatchReplication(() => WaitsForStandby);
        Publish();
    }

    /// <summary>The id of the log, of its current generation; empty until the store has been prepared.</summary>
    public string LogId => _memory.Newest?.Head.LogId ?? "";

    /// <summary>Whether the store has been prepared: migrated, and the log opened.</summary>
    public bool IsReady { get; private set; }

    /// <summary>Whether commits wait for another machine, as last seen; false while the store does not answer.</summary>
    public bool WaitsForStandby
    {
        get
        {
            lock (_statusLock)
                return _waitsForStandby;
        }
    }

    /// <summary>This server's clock less the store's, as last seen.</summary>
    public TimeSpan ClockSkew { get; private set; }

    /// <summary>
    /// Migrates the store and opens the log. Idempotent; servers that start at once take turns.
    /// </summary>
    /// <exception cref="StoreException">Unusable: the start has to stop. Otherwise: try again.</exception>
    public async Task PrepareAsync(CancellationToken cancellationToken)
    {
        await _store.MigrateAsync(cancellationToken);
        var heard = await _known.ReadAsync(cancellationToken);
        var head = await _store.ReadHeadAsync(cancellationToken);
        if (head is not null && _options.LogId is { } wanted && wanted != LogName.Split(head.LogId).Base)
        {
            throw new StoreException(StoreFailure.Unusable,
                $"AEGIS_LOG_ID is \"{wanted}\", and the database holds the log \"{head.LogId}\".");
        }
        if (head is null)
            KnownHeads.RefuseEmpty(heard);
        _signer.Load(head);
        if (head is { IsSealed: true })
            _known.Take(heard, head.LogId, isStart: true);
        await _memory.LoadAsync(head, cancellationToken);
        await OpenAsync(head, cancellationToken);
        await _findings.SyncAsync(cancellationToken);
        await ProbeAsync(cancellationToken);
        IsReady = true;
    }

    /// <summary>
    /// Begins the log, or seals one that the version before wrote without a signature: its key is added, and the first head that
    /// is signed covers all that was there.
    /// </summary>
    private async Task OpenAsync(StoredHead? head, CancellationToken cancellationToken)
    {
        var tiles = new List<Tile>();
        var unsealed = new MerkleFrontier();
        if (head is { IsSealed: false })
        {
            await foreach (var hash in _store.HashesAsync(0, head.Size, fromEncoded: true, cancellationToken))
                Tile.Append(unsealed, hash, tiles);
        }
        await using var transaction = await _store.BeginAsync([WorkflowKey.Log], [],
            head is { IsSealed: true } ? head.Size : unsealed.Size, cancellationToken);
        var state = transaction.State;
        if (state.LogSize > 0 && state.SignedNote.Length > 0)
            return;
        if (state.LogSize > 0)
        {
            foreach (var hash in state.HashesSince)
                Tile.Append(unsealed, hash, tiles);
            if (unsealed.Size != state.LogSize)
                throw new StoreException(StoreFailure.Unavailable, "The log grows faster than it can be sealed.");
            state = state with { Frontier = unsealed, MissingTiles = tiles };
        }
        var batch = new LedgerBatch(state);
        var logId = _options.LogId ?? $"aegis/{Guid.NewGuid()}";
        if (state.LogSize == 0)
        {
            batch.Decide(new OpenLogCommand(logId, SystemParts(new Metadata([KeyValuePair.Create("log_id", logId)]))));
        }
        else
        {
            var key = _signer.VerifierKey(state.LogId).ToString();
            batch.Decide(new LogActCommand(LogActCommand.KeyAdded,
                SystemParts(new Metadata([KeyValuePair.Create("verifier_key", key)]))));
        }
        batch.Seal(_signer.Sign);
        await transaction.CommitAsync(batch);
        _memory.Remember(batch.Head!);
        _tail.Advance(batch.LogSize);
    }

    /// <summary>The parts of a record that the service writes by itself.</summary>
    public static Parts SystemParts(Metadata metadata) =>
        new(new Person(Fields.NewSalt(), "", ""), new Content(Fields.NewSalt(), "", metadata), null, default);

    /// <summary>From here on only liveness is told to serve.</summary>
    public void Drain()
    {
        lock (_statusLock)
            _isDraining = true;
        Publish();
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        while (!stoppingToken.IsCancellationRequested)
        {
            try
            {
                if (IsReady)
                    await ProbeAsync(stoppingToken);
                else
                    await PrepareAsync(stoppingToken);
            }
            catch (Exception e) when (!stoppingToken.IsCancellationRequested)
            {
                // Whatever it is, a probe that failed must not end the probing.
                Observe(answers: false, isWritable: false, waitsForStandby: false, e);
            }
            await _wake.RestAsync(_answers ? Interval : IntervalWhileDown, stoppingToken);
        }
    }

    private async Task ProbeAsync(CancellationToken cancellationToken)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        patience.CancelAfter(ProbePatience);
        _known.Take(await _known.ReadAsync(patience.Token), LogId, isStart: false);
        var seen = _memory.Look();
        // A driver that is told to give up asks the database first, which may be as silent: it is left to itself.
        var probe = await _store.ProbeAsync(patience.Token).WaitAsync(ProbePatience, cancellationToken);
        await _memory.FollowAsync(probe.Head ?? NoHead, seen, cancellationToken);
        var isRolledBack = _memory.RolledBack is not null;
        if (isRolledBack && !_wasRolledBack)
            _tail.TakeBack(probe.LogSize);
        else
            _tail.Advance(probe.LogSize);
        _wasRolledBack = isRolledBack;
        ClockSkew = _time.GetUtcNow() - DateTimeOffset.UnixEpoch.AddTicks(probe.Clock * TimeSpan.TicksPerMicrosecond);
        if (ClockSkew.Duration() > SkewMax != _toldSkew)
        {
            _toldSkew = !_toldSkew;
            if (_toldSkew)
                _logger.LogWarning("This server's clock is off by {Skew} from the store's", ClockSkew);
            else
                _logger.LogInformation("This server's clock agrees with the store's again");
        }
        var isFull = _time.GetTimestamp() < Interlocked.Read(ref _fullUntil);
        Observe(answers: true, probe.IsWritable && !isFull, probe.WaitsForStandby, null);
    }

    private void Observe(bool answers, bool isWritable, bool waitsForStandby, Exception? e)
    {
        lock (_statusLock)
        {
            if (answers != _answers || isWritable != _isWritable)
            {
                if (!answers)
                    _logger.LogWarning("The store does not answer: {Reason}", e?.InnerException?.Message ?? e?.Message);
                else if (!isWritable)
                    _logger.LogWarning("The store takes no writes");
                else if (_wasObserved)
                    _logger.LogInformation("The store answers and takes writes");
            }
            // Of a store that is away nothing is known: told is what the next one that takes writes does.
            if (isWritable && _wasReplicated is { } before && before != waitsForStandby)
            {
                if (waitsForStandby)
                    _logger.LogInformation("Commits wait for a standby again: a reply survives the loss of the database's machine");
                else
                    _logger.LogWarning("Commits no longer wait for a standby: a reply may be lost with the database's machine");
            }
            if (isWritable)
                _wasReplicated = waitsForStandby;
            (_answers, _isWritable, _waitsForStandby, _wasObserved) = (answers, isWritable, waitsForStandby, true);
        }
        Publish();
    }

    private void OnStoreFailed(StoreFailure failure)
    {
        if (failure == StoreFailure.Full)
        {
            // Room cannot be seen from outside: writes are told to fail for a while, then tried again.
            Interlocked.Exchange(ref _fullUntil,
                _time.GetTimestamp() + (long)(FullPatience.TotalSeconds * _time.TimestampFrequency));
        }
        _wake.Wake();
    }

    private void Publish()
    {
        lock (_statusLock)
        {
            _health.SetStatus(Liveness, ServingStatus.Serving);
            foreach (var name in Callable)
                Set(name, _answers);
            Set(Writes, _answers && _isWritable && _memory.RolledBack is null);
            Set(Integrity, _answers && _findings.IsClean && _audit.IsCurrent);
            Set(Replication, _waitsForStandby);
            // A database that is away is when it matters most; that time has passed is seen at the next probe.
            Set(Backup, _backups.IsRecent);
        }

        void Set(string name, bool serves) => _health.SetStatus(name,
            serves && !_isDraining ? ServingStatus.Serving : ServingStatus.NotServing);
    }

    public override void Dispose()
    {
        _wake.Dispose();
        base.Dispose();
    }
}
