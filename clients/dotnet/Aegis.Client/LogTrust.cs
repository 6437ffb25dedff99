using Aegis.Core;
using Aegis.Evidence;
using Grpc.Core;
using Microsoft.Extensions.Logging;

namespace Aegis.Client;

using Pb = Aegis.V1;

/// <summary>
/// What a client believes of a log: only what a trusted key has signed, and only what continues the last head that was seen.
/// Thread-safe.
/// </summary>
/// <remarks>
/// Every head that comes is linked with the one that is kept before anything it proves is given out: the smaller of the two
/// must be the beginning of the larger, by a proof that is verified here. The larger is then kept, durably. A head that cannot
/// be linked is an alarm: it stops the client for good, since everything after it belongs to another history.
/// </remarks>
public sealed class LogTrust : IDisposable
{
    /// <summary>Heads that were linked: callers whose writes went into one batch share one head.</summary>
    private const int LinkedMax = 64;

    private readonly IReadOnlyList<VerifierKey> _keys;
    private readonly HashSet<string> _accepted;
    private readonly IHeadStore _store;
    private readonly Func<long, long, CancellationToken, Task<IReadOnlyList<Hash>>> _prove;
    private readonly ILogger _logger;
    private readonly SemaphoreSlim _gate = new(1);

    // Written by who holds _gate.
    private readonly Queue<LogHead> _linked = new();
    private bool _isLoaded;
    private volatile LogHead? _kept;
    private volatile string? _keptNote;
    private volatile LogAlarmException? _alarm;

    /// <exception cref="FormatException">One of the keys is no verifier key.</exception>
    internal LogTrust(IEnumerable<string> keys, IHeadStore store, IEnumerable<string> accepted,
        Func<long, long, CancellationToken, Task<IReadOnlyList<Hash>>> prove, ILogger logger)
    {
        _keys = [.. keys.Select(VerifierKey.Parse)];
        (_store, _accepted, _prove, _logger) = (store, [.. accepted], prove, logger);
    }

    /// <summary>The last head; null until there is one.</summary>
    public LogHead? Kept => _kept;

    /// <summary>The last head as a signed note, to be given to others who compare; null until there is one.</summary>
    public string? KeptNote => _keptNote;

    /// <summary>What stopped the client; null while nothing has.</summary>
    public LogAlarmException? Alarm => _alarm;

    /// <summary>
    /// Goes on with a log that was refused: a new generation, or another log whose key is trusted. What the kept head proved
    /// is then given up.
    /// </summary>
    /// <param name="logId">The new log_id, as the alarm names it.</param>
    public void Accept(string logId)
    {
        lock (_accepted)
            _accepted.Add(logId);
        if (_alarm is { Reason: "LOG_ID_CHANGED" })
            _alarm = null;
    }

    /// <summary>The trusted keys, those of accepted generations under their names too.</summary>
    internal IReadOnlyList<VerifierKey> Keys
    {
        get
        {
            string[] names;
            lock (_accepted)
                names = [.. _accepted, .. _kept is { } kept ? [kept.LogId] : Array.Empty<string>()];
            return [.. _keys.Concat(names.SelectMany(KeysOf)).DistinctBy(k => k.ToString())];
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _gate.Dispose();

    /// <summary>Stops who comes after an alarm.</summary>
    /// <exception cref="LogAlarmException">The log is not the one that was followed.</exception>
    internal void ThrowIfStopped()
    {
        if (_alarm is { } alarm)
            throw new LogAlarmException(alarm.Reason, alarm.Message, alarm.KeptNote, alarm.NewNote);
    }

    /// <summary>The last head, read from the store at first.</summary>
    internal async ValueTask<LogHead?> KnownAsync(CancellationToken cancellationToken)
    {
        if (!Volatile.Read(ref _isLoaded))
        {
            await _gate.WaitAsync(cancellationToken);
            try
            {
                await LoadAsync(cancellationToken);
            }
            finally
            {
                _gate.Release();
            }
        }
        return _kept;
    }

    /// <summary>The trusted keys under the name that a log, or a generation of it, gives them.</summary>
    internal IReadOnlyList<VerifierKey> KeysOf(string logId)
    {
        var @base = LogName.Split(logId).Base;
        return [.. _keys.Where(k => LogName.Split(k.Name).Base == @base).Select(k => k.Named(logId))];
    }

    /// <summary>Verifies a head and links it with the kept one; keeps the larger.</summary>
    /// <param name="note">The signed head that came.</param>
    /// <param name="known">What was kept when the server was asked: the head cannot be smaller.</param>
    /// <param name="path">The consistency path from <paramref name="known"/> that came along; null where none was asked for.</param>
    /// <param name="cancellationToken">Ends the waiting; nothing is kept then.</param>
    /// <exception cref="IntegrityException">The head or the path was altered on the way, or proves nothing.</exception>
    /// <exception cref="LogAlarmException">The log is not the one that was followed.</exception>
    internal async Task<LogHead> LinkAsync(
        string note, LogHead? known, IReadOnlyList<Hash>? path, CancellationToken cancellationToken)
    {
        await _gate.WaitAsync(cancellationToken);
        try
        {
            ThrowIfStopped();
            await LoadAsync(cancellationToken);
            while (true)
            {
                var stored = await CatchUpAsync(cancellationToken);
                var head = await LinkedAsync(note, known, path, cancellationToken);
                if (await KeepAsync(head, note, stored, cancellationToken))
                    return head;
                // Another process was faster: what that one has kept is linked first.
            }
        }
        finally
        {
            _gate.Release();
        }
    }

    /// <summary>The head of a note, verified and linked with the kept one.</summary>
    private async Task<LogHead> LinkedAsync(string note, LogHead? known, IReadOnlyList<Hash>? path, CancellationToken cancellationToken)
    {
        var head = await VerifiedAsync(note);
        if (known?.LogId == head.LogId && head.Size < known.Size)
        {
            throw await AlarmAsync("LOG_ROLLED_BACK",
                $"The log has {head.Size} records and had {known.Size}: what was acknowledged was taken back.", note);
        }
        var isPathGood = path is null || known is null || known.LogId != head.LogId || Continues(known, head, path);
        if (!await IsLinkedAsync(head, note, isPathGood && path is not null ? known : null, cancellationToken))
        {
            throw await AlarmAsync("LOG_FORKED",
                $"The logs of {_kept!.Size} and of {head.Size} records are not one: history was rewritten.", note);
        }
        if (!isPathGood)
            throw new IntegrityException("CONSISTENCY_PATH", $"The consistency path does not lead from {known!.Size} to {head.Size} records.");
        return head;
    }

    /// <summary>Whether the smaller of head and kept head is the beginning of the larger; from <c>proven</c> a path was verified already.</summary>
    private async Task<bool> IsLinkedAsync(LogHead head, string note, LogHead? proven, CancellationToken cancellationToken)
    {
        if (_kept is not { } kept || kept.LogId != head.LogId)
            return true;
        if (_linked.FirstOrDefault(l => l.Size == head.Size) is { } same)
            return same.Root == head.Root;
        if (proven == kept)
            return true;
        var (first, second) = head.Size < kept.Size ? (head, kept) : (kept, head);
        try
        {
            return Continues(first, second, await _prove(first.Size, second.Size, cancellationToken));
        }
        catch (HistoryDamagedException)
        {
            // The server says itself that what it stores proves nothing.
            return false;
        }
        catch (CursorAheadOfLogException)
        {
            throw await AlarmAsync("LOG_ROLLED_BACK", $"The log has fewer than {second.Size} records and had as many.", note);
        }
    }

    private static bool Continues(LogHead first, LogHead second, IReadOnlyList<Hash> path) => first.Size == 0
        ? first.Root == MerkleTree.EmptyRoot
        : MerkleTree.VerifyConsistency((ulong)first.Size, (ulong)second.Size, first.Root, second.Root, path);

    private async Task<LogHead> VerifiedAsync(string note)
    {
        var claimed = SignedNote.TryParse(note) is { } signed ? LogHead.TryParse(signed.Text) : null;
        if (claimed is null)
            throw new IntegrityException("SIGNATURE_INVALID", "What came is not a signed head of a log.");
        var keys = KeysOf(claimed.LogId);
        var isExpected = _kept is { } kept ? kept.LogId == claimed.LogId : _keys.Any(k => k.Name == claimed.LogId);
        if (!isExpected && !IsAccepted(claimed.LogId))
        {
            // A log signs under its own name: where it does not, the text was altered and tells nothing of another log.
            if (!note.Contains($"\n— {claimed.LogId} ", StringComparison.Ordinal))
                throw new IntegrityException("SIGNATURE_INVALID", $"The head of \"{claimed.LogId}\" is not signed by that log.");
            throw await AlarmAsync("LOG_ID_CHANGED", _kept is null
                ? $"The log is \"{claimed.LogId}\", and no trusted key is of that name."
                : $"The log is \"{claimed.LogId}\" and was \"{_kept.LogId}\". Accept it only if you know why.", note);
        }
        return LogHead.Verify(note, keys, Ed25519Signatures.Check)
            ?? throw new IntegrityException("SIGNATURE_INVALID", "The head is not signed by a trusted key, or was altered.");
    }

    /// <summary>Whether a log_id may follow: no generation goes back.</summary>
    private bool IsAccepted(string logId)
    {
        lock (_accepted)
        {
            if (!_accepted.Contains(logId))
                return false;
        }
        var (@base, generation) = LogName.Split(logId);
        return _kept is not { } kept || LogName.Split(kept.LogId) is var before
            && (before.Base != @base || before.Generation < generation);
    }

    /// <summary>Keeps a head that was linked, if it is the larger one.</summary>
    /// <returns>Whether that is done; not where another than <paramref name="stored"/> is kept by now.</returns>
    private async Task<bool> KeepAsync(LogHead head, string note, KeptHead? stored, CancellationToken cancellationToken)
    {
        var before = _kept;
        var isOther = before?.LogId != head.LogId;
        var isNewer = isOther || head.Size > before!.Size;
        if (isNewer && !await _store.SaveAsync(
            new KeptHead(note, [.. KeysOf(head.LogId).Select(k => k.ToString())]), stored, cancellationToken))
        {
            return false;
        }
        if (isOther)
        {
            _linked.Clear();
            if (before is null)
                _logger.LogInformation("First use: the head of {LogId} with {Size} records is trusted, since a trusted key has signed it", head.LogId, head.Size);
            else
                _logger.LogWarning("The log {LogId} was accepted after {Before}, of {Size} records", head.LogId, before.LogId, before.Size);
        }
        if (!_linked.Contains(head))
            _linked.Enqueue(head);
        if (_linked.Count > LinkedMax)
            _linked.Dequeue();
        if (isNewer)
            (_kept, _keptNote) = (head, note);
        return true;
    }

    private async Task LoadAsync(CancellationToken cancellationToken)
    {
        if (_isLoaded)
            return;
        if (await _store.LoadAsync(cancellationToken) is { } stored)
        {
            _kept = StoredHead(stored);
            _keptNote = stored.SignedNote;
            _linked.Enqueue(_kept);
        }
        Volatile.Write(ref _isLoaded, true);
    }

    /// <summary>Links the head that another process has put into the store meanwhile: what that one saw must hold here too.</summary>
    /// <returns>What the store holds.</returns>
    private async Task<KeptHead?> CatchUpAsync(CancellationToken cancellationToken)
    {
        var stored = await _store.LoadAsync(cancellationToken);
        if (stored is null || stored.SignedNote == _keptNote)
            return stored;
        var head = StoredHead(stored);
        if (_kept is { } kept && kept.LogId != head.LogId && !IsAccepted(head.LogId))
            throw await AlarmAsync("LOG_ID_CHANGED", $"Another process went on with the log \"{head.LogId}\" after \"{kept.LogId}\".", stored.SignedNote);
        if (!await IsLinkedAsync(head, stored.SignedNote, null, cancellationToken))
        {
            throw await AlarmAsync("LOG_FORKED",
                $"The logs of {_kept!.Size} and, as another process saw it, of {head.Size} records are not one: history was rewritten.", stored.SignedNote);
        }
        if (_kept?.LogId == head.LogId && head.Size <= _kept.Size)
            return stored;
        _linked.Clear();
        _linked.Enqueue(head);
        (_kept, _keptNote) = (head, stored.SignedNote);
        return stored;
    }

    private LogHead StoredHead(KeptHead stored)
    {
        var claimed = SignedNote.TryParse(stored.SignedNote) is { } signed ? LogHead.TryParse(signed.Text) : null;
        var head = claimed is null ? null : LogHead.Verify(stored.SignedNote, KeysOf(claimed.LogId), Ed25519Signatures.Check);
        return head ?? throw new InvalidDataException(
            "The head that was kept is not signed by a trusted key: trust its key too, or keep the new log's head elsewhere.");
    }

    private async Task<LogAlarmException> AlarmAsync(string reason, string message, string note)
    {
        var alarm = new LogAlarmException(reason, message, _keptNote, note);
        _alarm = alarm;
        _logger.LogCritical("{Reason}: {Message} No more calls are made. Kept: {Kept} Came: {New}", reason, message, _keptNote, note);
        try
        {
            await _store.RejectAsync(note, CancellationToken.None);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            _logger.LogError(e, "The head that was rejected cannot be kept");
        }
        return alarm;
    }

    /// <summary>The path of a message; anything that is no hash makes it prove nothing.</summary>
    internal static IReadOnlyList<Hash> PathOf(IReadOnlyCollection<Google.Protobuf.ByteString> path) =>
        path.All(p => p.Length == Hash.Size) ? [.. path.Select(p => new Hash(p.Span))] : [Hash.Zero];
}
