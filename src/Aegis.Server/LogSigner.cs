using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>The key of the log. Several servers of one log share the file.</summary>
public sealed class LogSigner(ServerOptions options, ILogger<LogSigner> logger) : IDisposable
{
    // The newest notes that were signed here, those at least over the records that the audit looks at: each of the two has what was
    // signed while the log grew by so many, and no more notes than that, since a batch that cannot be stored is signed again.
    private readonly Lock _signedLock = new();
    private Dictionary<string, LogHead> _signed = [];
    private Dictionary<string, LogHead> _signedBefore = [];
    private long _signedFrom;
    private SigningKey? _key;
    private volatile SealedHead? _demanded;

    private SigningKey Key => _key ?? throw new InvalidOperationException("The signing key has not been loaded.");

    /// <summary>The key that verifies what is signed under the name of a log or of one of its generations.</summary>
    public VerifierKey VerifierKey(string logId) => Key.VerifierKey(logId);

    public string Sign(LogHead head)
    {
        var note = Key.Sign(head);
        lock (_signedLock)
        {
            if (Math.Abs(head.Size - _signedFrom) >= Auditor.WindowRecords || _signed.Count >= Auditor.WindowRecords)
                (_signedBefore, _signed, _signedFrom) = (_signed, [], head.Size);
            _signed[note] = head;
        }
        return note;
    }

    public string Sign(WorkflowStatement statement) => Key.Sign(statement.LogId, statement.Text);

    /// <summary>
    /// Signs that a record, which the head was found to prove, is the newest of a workflow; empty where its fields say otherwise.
    /// </summary>
    public string Sign(SealedHead head, WorkflowKey key, StoredRecord last) => last.Record.Key == key && last.IsConsistent()
        ? Sign(new WorkflowStatement(head.Head.LogId, head.Head.Size, key, last.Record.Sequence, last.Hash))
        : "";

    /// <summary>Signs any other note of this log, such as how far its audit has come.</summary>
    public string Sign(string logId, string text) => Key.Sign(logId, text);

    /// <summary>The head that a note says, if this log's key has signed it: what was signed here lately is not verified.</summary>
    public LogHead? Verify(string note)
    {
        lock (_signedLock)
        {
            if (_signed.TryGetValue(note, out var head) || _signedBefore.TryGetValue(note, out head))
                return head;
        }
        var said = SignedNote.TryParse(note) is { } signed ? LogHead.TryParse(signed.Text) : null;
        return said is null ? null : LogHead.Verify(note, [VerifierKey(said.LogId)], Ed25519Signatures.Check);
    }

    /// <summary>
    /// What is stored of a head, if this log's key has signed a head of that size and the stored tree is the one that was signed;
    /// otherwise null.
    /// </summary>
    public SealedHead? Sealed(string signedNote, long size, MerkleFrontier? frontier) =>
        frontier is not null && Verify(signedNote) is { } head && head.Size == size && head.Root == frontier.Root
            ? new SealedHead(head, frontier, signedNote)
            : null;

    /// <summary>The newest head of the log as it was stored, once this log's key is found to have signed it.</summary>
    /// <exception cref="RefusalException">CHAIN_BROKEN when it has not; STORE_UNAVAILABLE when there is no head yet.</exception>
    public SealedHead Demand(StoredHead? stored)
    {
        if (stored is null || !stored.IsSealed)
            throw new RefusalException(StatusMapping.StoreUnavailable);
        // The newest head is asked for again and again, and what it says under a signature stays so.
        if (_demanded is { } last && last.SignedNote == stored.SignedNote && last.Head.Size == stored.Size
            && last.Frontier.Peaks.SequenceEqual(stored.Frontier!.Peaks))
        {
            return last;
        }
        if (Sealed(stored.SignedNote, stored.Size, stored.Frontier) is { } head)
            return _demanded = head;
        throw new RefusalException(new Refusal(Reason.ChainBroken,
            $"The newest head of the log, of {stored.Size} records, is not one that the log's key has signed. Verify the log.",
            ("log_id", stored.LogId), ("log_size", Refusal.Text(stored.Size))));
    }

    /// <summary>
    /// Loads the key and compares it with the newest head. A key is made only for a log that has none yet: beside a log that has
    /// one a new key would sign another history.
    /// </summary>
    /// <exception cref="StoreException">Unusable: the key is missing, cannot be read, or is not that of the log.</exception>
    public void Load(StoredHead? head)
    {
        _key ??= Read(mayCreate: head is null || !head.IsSealed);
        if (head is null || !head.IsSealed || SignedNote.TryParse(head.SignedNote) is not { } note)
            return;
        // A note that does not name the key is one of another key; one that names it and does not verify was altered, which
        // verification tells.
        if (!note.Names(VerifierKey(head.LogId)))
        {
            throw new StoreException(StoreFailure.Unusable,
                $"The signing key {options.SigningKeyPath} is not the key of the log \"{head.LogId}\": its verifier key is "
                + $"{VerifierKey(head.LogId)}. Set AEGIS_SIGNING_KEY to the file that all servers of this log share.");
        }
    }

    public void Dispose() => _key?.Dispose();

    private SigningKey Read(bool mayCreate)
    {
        var path = options.SigningKeyPath;
        try
        {
            if (path is null)
                return SigningKey.Create();
            if (!mayCreate && !File.Exists(path))
            {
                throw new StoreException(StoreFailure.Unusable,
                    $"The signing key {path} is missing, and the log has one already. Copy the file from another server of this "
                    + "log, or set AEGIS_SIGNING_KEY to it.");
            }
            var key = SigningKey.LoadOrCreate(path, out var isNew);
            if (isNew)
                logger.LogInformation("Made the signing key {Path}: keep a copy of it in a safe place", path);
            return key;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
        {
            throw new StoreException(StoreFailure.Unusable, $"Cannot use the signing key {path}: {e.Message}", e);
        }
    }
}
