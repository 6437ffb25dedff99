using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>A head that somebody else has kept, and the file it is kept in.</summary>
public sealed record KnownHead(LogHead Head, string SignedNote, string Path);

/// <summary>What a file of AEGIS_KNOWN_HEADS was found to hold, or what is wrong with it.</summary>
public sealed record HeardNote(string Path, string? SignedNote, string? Problem);

/// <summary>
/// Heads that others have kept, clients and <c>aegis head watch</c>, in the files of AEGIS_KNOWN_HEADS. They may be newer than
/// anything that this server or its database has seen, as after the loss of the region that had acknowledged them: so each has to
/// be found in the log, as one of the server's own memory has. What was heard once stays known for as long as the server lives.
/// </summary>
public sealed class KnownHeads(ServerOptions options, LogSigner signer, ILogger<KnownHeads> logger)
{
    private readonly Lock _lock = new();

    // Guarded by _lock. By their notes, and those that the log was found to hold by their files.
    private readonly Dictionary<string, KnownHead> _open = [];
    private readonly Dictionary<string, KnownHead> _found = [];
    private readonly HashSet<string> _told = [];
    private IReadOnlyList<KnownHead> _opened = [];

    /// <summary>Those that the log has not been found to hold.</summary>
    public IReadOnlyList<KnownHead> Open
    {
        get
        {
            lock (_lock)
                return _opened;
        }
    }

    /// <summary>Those that it has.</summary>
    public IReadOnlyList<KnownHead> Found
    {
        get
        {
            lock (_lock)
                return [.. _found.Values];
        }
    }

    /// <summary>
    /// Reads the files. Whoever compares the log with them reads it afterwards: it then holds what was signed before, and is not
    /// taken for one that lacks what was written in between.
    /// </summary>
    public async Task<IReadOnlyList<HeardNote>> ReadAsync(CancellationToken cancellationToken)
    {
        var heard = new List<HeardNote>();
        foreach (var path in options.KnownHeads)
        {
            try
            {
                if (Directory.Exists(path))
                {
                    foreach (var file in Directory.EnumerateFiles(path, "*.json").Order(StringComparer.Ordinal))
                        heard.Add(await ReadAsync(file, cancellationToken));
                }
                else
                {
                    heard.Add(await ReadAsync(path, cancellationToken));
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                heard.Add(new HeardNote(path, null, $"cannot be read: {e.Message}"));
            }
        }
        return heard;
    }

    /// <summary>Takes what was read for known, as far as the log's key has signed it.</summary>
    /// <param name="heard">What was read.</param>
    /// <param name="logId">The log that is kept here.</param>
    /// <param name="isStart">Whether a file that cannot be used stops the server; later it is told, once.</param>
    /// <exception cref="StoreException">Unusable: at the start, a file is not what it should be.</exception>
    public void Take(IReadOnlyList<HeardNote> heard, string logId, bool isStart)
    {
        foreach (var (path, note, unread) in heard)
        {
            KnownHead? head = null;
            lock (_lock)
            {
                if (note is not null && (_open.ContainsKey(note) || (_found.TryGetValue(path, out var found) && found.SignedNote == note)))
                    continue;
            }
            var problem = unread ?? ProblemOf(note!, path, logId, out head);
            if (problem is not null && isStart)
                throw Unusable(path, problem);
            lock (_lock)
            {
                if (head is not null)
                {
                    _open[note!] = head;
                    _opened = [.. _open.Values];
                }
                else if (_told.Add($"{path} {problem}"))
                {
                    logger.LogError("AEGIS_KNOWN_HEADS: {Path} {Problem}. It is passed over", path, problem);
                }
            }
        }
    }

    /// <summary>Heads of a log are no more to be compared with: the log was found to hold this one, or its loss was accepted.</summary>
    public void Settle(KnownHead head)
    {
        lock (_lock)
        {
            _open.Remove(head.SignedNote);
            _opened = [.. _open.Values];
            _found[head.Path] = head;
        }
    }

    /// <summary>The start on an empty database, though others keep heads of a log: it was replaced, or is another.</summary>
    public static void RefuseEmpty(IReadOnlyList<HeardNote> heard)
    {
        if (heard.FirstOrDefault(h => h.SignedNote is not null) is { } kept)
            throw Unusable(kept.Path, "holds a head of a log, and the database is empty");
    }

    private static async Task<HeardNote> ReadAsync(string path, CancellationToken cancellationToken)
    {
        try
        {
            var kept = await new HeadFile(path).ReadAsync(cancellationToken);
            return kept is null ? new HeardNote(path, null, "is not there") : new HeardNote(path, kept.SignedNote, null);
        }
        catch (InvalidDataException)
        {
            return new HeardNote(path, null, "does not hold a head as clients and \"aegis head watch\" keep it");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return new HeardNote(path, null, $"cannot be read: {e.Message}");
        }
    }

    private string? ProblemOf(string note, string path, string logId, out KnownHead? head)
    {
        head = null;
        if (SignedNote.TryParse(note) is not { } signed || LogHead.TryParse(signed.Text) is not { } said)
            return "does not hold a signed head";
        if (LogName.Split(said.LogId).Base != LogName.Split(logId).Base)
            return $"is of the log \"{said.LogId}\", and the database holds \"{logId}\"";
        if (signer.Verify(note) is null)
            return "holds a head that the log's signing key has not signed";
        head = new KnownHead(said, note, path);
        return null;
    }

    private static StoreException Unusable(string path, string problem) => new(StoreFailure.Unusable,
        $"AEGIS_KNOWN_HEADS: {path} {problem}. Put the file right, or take it out of AEGIS_KNOWN_HEADS.");
}
