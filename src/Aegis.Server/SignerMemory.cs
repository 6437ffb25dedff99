using System.Runtime.CompilerServices;
using System.Text.Json;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// The last head that this server has seen or signed, kept outside the database: a signature over a history that is then taken
/// back is the one thing the log must never produce. Every head that is met has to extend it; one that is behind or beside it
/// means that the database was rolled back, and no write is taken until an operator accepts the loss.
/// <para>
/// The file is written after a confirmed commit, within a second, and never before: after a crash it may be behind the
/// log, which is in order, and is never ahead of it.
/// </para>
/// </summary>
public sealed partial class SignerMemory(ILedgerStore store, LogSigner signer, LogProofs proofs, KnownHeads known, ServerOptions options,
    ILogger<SignerMemory> logger) : BackgroundService
{
    private static readonly TimeSpan WriteInterval = TimeSpan.FromMilliseconds(500);

    private readonly Lock _lock = new();

    // Guarded by _lock.
    private SealedHead? _newest;
    private RememberedHeads _earlier = new([]);
    private Refusal? _rolledBack;
    private LostHead? _lost;
    private SealedHead? _surviving;
    private SealedHead? _written;

    /// <summary>Called when the log is found to be rolled back, and when it is in order again.</summary>
    public event Action? Changed;

    /// <summary>The newest head this server knows to be durable; null until it has seen one.</summary>
    public SealedHead? Newest
    {
        get
        {
            lock (_lock)
                return _newest;
        }
    }

    /// <summary>How far this server has seen the log.</summary>
    public long Size => Newest?.Head.Size ?? 0;

    /// <summary>Why no write is taken, while the log is rolled back; otherwise null.</summary>
    public Refusal? RolledBack
    {
        get
        {
            lock (_lock)
                return _rolledBack;
        }
    }

    /// <summary>
    /// The head that a log which is rolled back has, when the log's key has signed it: what a new generation can go on from.
    /// </summary>
    public SealedHead? Surviving
    {
        get
        {
            lock (_lock)
                return _surviving;
        }
    }

    /// <summary>Sizes and roots that were remembered before, the newest first.</summary>
    public IReadOnlyList<RememberedHead> Earlier
    {
        get
        {
            lock (_lock)
                return _earlier.Heads;
        }
    }

    private string? FilePath => options.MemoryPath(store.Location);

    /// <summary>Reads the file and compares it, and what others have kept, with the log as it is.</summary>
    /// <exception cref="StoreException">
    /// Unusable: the memory is that of another log or key, cannot be read, or is required and missing.
    /// </exception>
    public async Task LoadAsync(StoredHead? head, CancellationToken cancellationToken)
    {
        if (Newest is null && Read() is { } file)
            Take(file, head);
        if (head is null)
        {
            // The memory is of a log, and the database holds none: it was replaced by an empty one.
            if (Newest is { } lost)
                throw Unusable($"remembers the log \"{lost.Head.LogId}\" of {lost.Head.Size} records, and the database is empty");
            return;
        }
        if (Newest is null)
        {
            if (options.IsMemoryRequired)
            {
                throw new StoreException(StoreFailure.Unusable,
                    $"There is no memory {FilePath} of the log \"{head.LogId}\", and AEGIS_MEMORY is required.");
            }
            if (FilePath is not null && head.IsSealed)
            {
                logger.LogWarning("There is no memory {Path} of the log {LogId}, which has {Size} records: it is trusted once, as it is",
                    FilePath, head.LogId, head.Size);
            }
        }
        if (head.IsSealed)
            await FollowAsync(head, Look(), cancellationToken);
    }

    /// <summary>
    /// Judges the head that a writer finds under the lock of the log, before anything is decided on it.
    /// </summary>
    /// <param name="state">What was read under the lock.</param>
    /// <param name="sight">What was known before the lock was taken.</param>
    /// <param name="cancellationToken">Ends the reading.</param>
    /// <returns>Why nothing may be written on it, or null.</returns>
    /// <exception cref="StoreException">Unavailable: the lock has been lost.</exception>
    public Task<Refusal?> CheckAsync(BatchState state, Sight sight, CancellationToken cancellationToken)
    {
        if (state.LogSize == 0 && Newest is null)
            return Task.FromResult<Refusal?>(null);
        // A server that froze, or whose connection was silent, has lost the lock meanwhile: what it read is old, and not taken back.
        if (state.LogSize >= sight.Size && state.LogSize < Size && RolledBack is null)
        {
            return Task.FromException<Refusal?>(new StoreException(StoreFailure.Unavailable,
                "Others have written since the log was locked: the lock was lost. Nothing was written."));
        }
        var head = new StoredHead(state.LogId, state.LogSize, state.SignedNote, state.Frontier, state.LastRecordedAt);
        // What others have kept is compared by the monitor, without the lock; here only once it was found to be missing.
        return JudgeAsync(head, state.HashesSince, RolledBack is null ? [] : sight.Known, cancellationToken);
    }

    /// <summary>
    /// Follows a head that was read without the lock. <paramref name="before"/> is what this server knew of the log when the
    /// reading began: a head that is behind that, and not only behind a commit since, is behind.
    /// </summary>
    public async Task FollowAsync(StoredHead head, Sight before, CancellationToken cancellationToken)
    {
        var isMerelyOlder = head.Size < Size && head.Size >= before.Size && RolledBack is null;
        if (isMerelyOlder || (!head.IsSealed && (head.Size > 0 || Newest is null)))
            return;
        await JudgeAsync(head, null, before.Known, cancellationToken);
    }

    /// <summary>
    /// Remembers a head that extends the newest one, or that an operator's acceptance has put in its place, and whose commit is
    /// confirmed. Heads arrive from the writer and from the monitor: one that comes late is passed over.
    /// </summary>
    public void Remember(SealedHead head)
    {
        Keep(head);
        SetRolledBack(null);
    }

    private void Keep(SealedHead head)
    {
        lock (_lock)
        {
            if (_newest is { } newest)
            {
                var (old, @new) = (LogName.Split(newest.Head.LogId).Generation, LogName.Split(head.Head.LogId).Generation);
                if (@new > old || (@new == old && head.Head.Size > newest.Head.Size))
                    (_newest, _earlier) = (head, _earlier.With(newest.Head));
            }
            else
            {
                _newest = head;
            }
        }
    }

    /// <summary>What the log that is rolled back is as a finding: taken back, or with a newest head that nobody has signed.</summary>
    public Violation FindingOf(Refusal rolledBack, StoredHead? stored)
    {
        var isSigned = stored is null || signer.Sealed(stored.SignedNote, stored.Size, stored.Frontier) is not null;
        var lost = Lost;
        return new Violation(isSigned ? ViolationClass.LogRolledBack : ViolationClass.SignatureInvalid, WorkflowKey.None, 0,
            rolledBack.Message)
        {
            LogIndex = stored?.Size ?? 0,
            ExpectedHash = lost?.Head.Root,
            ActualHash = stored?.Frontier?.Root,
            LastGoodLogSize = lost?.Head.Size ?? 0,
        };
    }

    /// <summary>Writes the file once more and stops.</summary>
    public override async Task StopAsync(CancellationToken cancellationToken)
    {
        await base.StopAsync(cancellationToken);
        Write();
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        using var timer = new PeriodicTimer(WriteInterval);
        while (await timer.WaitForNextTickAsync(stoppingToken))
            Write();
    }

    private async Task<Refusal?> JudgeAsync(StoredHead stored, IReadOnlyList<Hash>? hashesSince, IReadOnlyList<KnownHead> heads,
        CancellationToken cancellationToken)
    {
        var newest = Newest;
        var own = newest is null ? null : new LostHead(newest.Head, newest.SignedNote, null);
        // The head that is remembered is in order whatever became of its stored signature, of which verification tells: what is
        // written next is signed anew.
        if (newest is not null && stored.LogId == newest.Head.LogId && stored.Size == newest.Head.Size
            && stored.Frontier?.Root == newest.Head.Root)
        {
            return await JudgeByOthersAsync(newest, heads, cancellationToken);
        }
        if (!stored.IsSealed && stored.Size > 0)
        {
            throw new StoreException(StoreFailure.Unavailable,
                "The newest head of the log has no signature: an older version of Aegis writes to this database. Stop it and "
                + "restart this server.");
        }
        if (stored.Size == 0)
            return SetRolledBack(Behind(own!, "", 0), own);
        if (signer.Sealed(stored.SignedNote, stored.Size, stored.Frontier) is not { } found || found.Head.LogId != stored.LogId)
        {
            return SetRolledBack(RolledBackTo(stored.LogId, stored.Size, own,
                "its newest head is not one that the log's key has signed"), own);
        }
        if (newest is null || await ExtendsAsync(newest, found, hashesSince, cancellationToken))
        {
            Keep(found);
            return await JudgeByOthersAsync(found, heads, cancellationToken);
        }
        var lost = Higher(own, await MissingAsync(found, heads, cancellationToken))!;
        return SetRolledBack(found.Head.Size < newest.Head.Size
            ? Behind(lost, found.Head.LogId, found.Head.Size)
            : RolledBackTo(found.Head.LogId, found.Head.Size, lost, "it is no continuation of that head"), lost, found);
    }

    private async Task<bool> ExtendsAsync(SealedHead newest, SealedHead found, IReadOnlyList<Hash>? hashesSince,
        CancellationToken cancellationToken)
    {
        var (base1, generation1) = LogName.Split(newest.Head.LogId);
        var (base2, generation2) = LogName.Split(found.Head.LogId);
        if (base1 != base2 || generation2 < generation1)
            return false;
        if (found.Head.Size == newest.Head.Size && found.Head.Root == newest.Head.Root)
            return true;
        if (found.Head.Size > newest.Head.Size)
        {
            if (hashesSince is not null && hashesSince.Count >= found.Head.Size - newest.Head.Size
                && Grown(newest, hashesSince.Take((int)(found.Head.Size - newest.Head.Size))) == found.Head.Root)
            {
                return true;
            }
            // A stored hash may have been altered without the record: what the encoded records give counts as much.
            if (await GrownAsync(newest, found.Head.Size, fromEncoded: false, cancellationToken) == found.Head.Root
                || await GrownAsync(newest, found.Head.Size, fromEncoded: true, cancellationToken) == found.Head.Root)
            {
                return true;
            }
        }
        return generation2 > generation1 && await WasAcceptedAsync(newest.Head, found.Head, cancellationToken);
    }

    private static Hash Grown(SealedHead from, IEnumerable<Hash> hashes)
    {
        var frontier = from.Frontier.Clone();
        foreach (var hash in hashes)
            frontier.Append(hash);
        return frontier.Root;
    }

    private async Task<Hash> GrownAsync(SealedHead from, long size, bool fromEncoded, CancellationToken cancellationToken)
    {
        var frontier = from.Frontier.Clone();
        await foreach (var hash in store.HashesAsync(frontier.Size, size, fromEncoded, cancellationToken))
            frontier.Append(hash);
        return frontier.Root;
    }

    /// <summary>
    /// Whether an operator has accepted, on another server, the loss of a head that covers the one remembered here. The new
    /// generation's head is signed by the log's key, and its first record names what was lost.
    /// </summary>
    private async Task<bool> WasAcceptedAsync(LogHead remembered, LogHead found, CancellationToken cancellationToken)
    {
        await foreach (var acceptance in AcceptancesAsync(found, cancellationToken))
        {
            if (acceptance.LostLogId == remembered.LogId && acceptance.LostSize >= remembered.Size)
                return true;
        }
        return false;
    }

    /// <summary>What operators have accepted up to the generation of a head, the newest first.</summary>
    private async IAsyncEnumerable<AcceptedRollback> AcceptancesAsync(
        LogHead found, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        for (var next = long.MaxValue; next > 0;)
        {
            var page = await store.ReadChainAsync(WorkflowKey.Log, next, descending: true, 100, cancellationToken);
            foreach (var stored in page)
            {
                var record = stored.Record;
                if (record.ToState == LogActCommand.RollbackAccepted && stored.IsConsistent()
                    && LogName.Split(record.LogId).Generation <= LogName.Split(found.LogId).Generation
                    && AcceptedRollback.Of(record.Content?.Metadata) is { } acceptance)
                {
                    yield return acceptance;
                }
            }
            if (page.Count < 100)
                yield break;
            next = page[^1].Record.Sequence - 1;
        }
    }

    private Refusal? SetRolledBack(Refusal? refusal, LostHead? lost = null, SealedHead? surviving = null)
    {
        lock (_lock)
        {
            (_lost, _surviving) = (lost, surviving);
            if (refusal?.Message == _rolledBack?.Message)
                return refusal;
            _rolledBack = refusal;
        }
        if (refusal is not null)
            logger.LogCritical("{Message} No write is taken", refusal.Message);
        else
            logger.LogWarning("The log is in order again: it extends the newest head that this server remembers");
        Changed?.Invoke();
        return refusal;
    }

    private static Refusal Behind(LostHead lost, string logId, long size) => RolledBackTo(logId, size, lost,
        $"the records from {size} to {lost.Head.Size - 1} are gone");

    private static Refusal RolledBackTo(string logId, long size, LostHead? lost, string why) => new(Reason.LogRolledBack,
        $"The log \"{logId}\" has {size} records, and "
        + (lost?.Path is { } path ? $"{path} keeps a signed head of " : "this server has seen ")
        + $"{lost?.Head.Size ?? 0} of \"{lost?.Head.LogId ?? logId}\": {why}. Restore the newer database, or accept the loss with "
        + "\"aegis recover accept-rollback\".",
        ("log_id", logId), ("log_size", Refusal.Text(size)), ("seen_log_id", lost?.Head.LogId ?? ""),
        ("seen_log_size", Refusal.Text(lost?.Head.Size ?? 0)), ("problem", why));

    private MemoryFile? Read()
    {
        if (FilePath is not { } path || !File.Exists(path))
            return null;
        try
        {
            return JsonSerializer.Deserialize<MemoryFile>(File.ReadAllBytes(path), MemoryFile.Options)
                ?? throw Unusable("is empty");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            throw Unusable($"cannot be read: {e.Message}", e);
        }
    }

    private void Take(MemoryFile file, StoredHead? stored)
    {
        var said = signer.Verify(file.SignedNote ?? "");
        var frontier = said is null ? null : MerkleFrontier.TryRead(said.Size, file.Frontier);
        if (stored is not null && said is not null && LogName.Split(said.LogId).Base != LogName.Split(stored.LogId).Base)
            throw Unusable($"is of the log \"{said.LogId}\", and the database holds \"{stored.LogId}\"");
        if (said is null || frontier is null || frontier.Root != said.Root)
            throw Unusable("does not hold a head that this server's signing key has signed");
        lock (_lock)
        {
            (_newest, _earlier) = (new SealedHead(said, frontier, file.SignedNote!), new RememberedHeads(file.Earlier ?? []));
            _written = _newest;
        }
    }

    private StoreException Unusable(string problem, Exception? e = null) => new(StoreFailure.Unusable,
        $"The memory {FilePath} {problem}. If that is meant, move the file away, or set AEGIS_MEMORY_FILE to another.", e);

    /// <summary>
    /// Replaces the file whole: a crash leaves the old one or the new one. Two servers that share the file, as they may on one
    /// machine, both keep the larger head of one generation.
    /// </summary>
    private void Write()
    {
        SealedHead? newest;
        RememberedHeads earlier;
        lock (_lock)
            (newest, earlier) = (_newest, _earlier);
        if (newest is null || newest == _written || FilePath is not { } path)
            return;
        try
        {
            var draft = $"{path}.{Environment.ProcessId}.draft";
            Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
            if (File.Exists(path) && Read() is { SignedNote: { } note } && signer.Verify(note) is { } other
                && other.LogId == newest.Head.LogId && other.Size > newest.Head.Size)
            {
                return;
            }
            var file = new MemoryFile(newest.SignedNote, newest.Frontier.ToArray(), earlier.Heads);
            using (var stream = new FileStream(draft, FileMode.Create, FileAccess.Write))
            {
                JsonSerializer.Serialize(stream, file, MemoryFile.Options);
                stream.Flush(flushToDisk: true);
            }
            File.Move(draft, path, overwrite: true);
            _written = newest;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or StoreException)
        {
            logger.LogError("The memory {Path} cannot be written: {Reason}", path, e.Message);
        }
    }

    /// <summary>What the file holds, as JSON.</summary>
    private sealed record MemoryFile(string? SignedNote, byte[] Frontier, IReadOnlyList<RememberedHead>? Earlier)
    {
        public static readonly JsonSerializerOptions Options = new()
        {
            PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
            WriteIndented = true,
            Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        };
    }
}

/// <summary>A head of which size and root are remembered, the root in base64.</summary>
public sealed record RememberedHead(long Size, string Root);

/// <summary>
/// Heads from before the newest, the newest first: the last ones all, older ones ever more sparsely. They tell, when a log was
/// taken back and grew again, from where on.
/// </summary>
internal sealed class RememberedHeads(IReadOnlyList<RememberedHead> heads)
{
    private const int HeadsMax = 128;

    public IReadOnlyList<RememberedHead> Heads { get; } = heads;

    public RememberedHeads With(LogHead head)
    {
        List<RememberedHead> next = [new(head.Size, Convert.ToBase64String(head.Root.ToArray())), .. Heads];
        // Of the older half every second one goes: the distances double with every time that happens.
        return new(next.Count <= HeadsMax ? next : [.. next.Where((_, i) => i < HeadsMax / 2 || i % 2 == 0)]);
    }
}

/// <summary>What the first record of a new generation says of what was lost.</summary>
public sealed record AcceptedRollback(
    string LostLogId, long LostSize, Hash LostRoot, long LostFrom, long SurvivingSize, Hash SurvivingRoot)
{
    /// <summary>The metadata of the record ROLLBACK_ACCEPTED.</summary>
    public Metadata ToMetadata() => new(
    [
        KeyValuePair.Create("log_id", LostLogId),
        KeyValuePair.Create("lost_from", Refusal.Text(LostFrom)),
        KeyValuePair.Create("lost_size", Refusal.Text(LostSize)),
        KeyValuePair.Create("lost_root", LostRoot.ToString()),
        KeyValuePair.Create("surviving_size", Refusal.Text(SurvivingSize)),
        KeyValuePair.Create("surviving_root", SurvivingRoot.ToString()),
    ]);

    /// <summary>What such metadata say, or null where they say none of it.</summary>
    public static AcceptedRollback? Of(Metadata? metadata)
    {
        if (metadata is null || metadata["log_id"] is not { } logId || !Number("lost_from", out var lostFrom)
            || !Number("lost_size", out var lostSize) || !Number("surviving_size", out var survivingSize)
            || HashOf("lost_root") is not { } lostRoot || HashOf("surviving_root") is not { } survivingRoot)
        {
            return null;
        }
        return new AcceptedRollback(logId, lostSize, lostRoot, lostFrom, survivingSize, survivingRoot);

        bool Number(string key, out long value) => long.TryParse(metadata[key],
            System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out value);

        Hash? HashOf(string key) => metadata[key] is { Length: 2 * Hash.Size } hex && hex.All(char.IsAsciiHexDigit)
            ? new Hash(Convert.FromHexString(hex))
            : null;
    }
}
