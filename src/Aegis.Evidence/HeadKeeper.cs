using Aegis.Core;

namespace Aegis.Evidence;

/// <summary>Asks the server to prove that one size of the log is the beginning of another.</summary>
public delegate Task<IReadOnlyList<Hash>> ConsistencySource(long firstSize, long secondSize, CancellationToken cancellationToken);

/// <summary>
/// Keeps the last head of a log that was seen and lets it be replaced only by one that continues it: signed by a trusted key,
/// under the same log_id, no smaller, and proven to hold all that the kept one held. Whoever keeps a head so, out of the
/// operator's reach, notices when history is taken back or rewritten, even with the log's own key. Used by one task.
/// </summary>
public sealed class HeadKeeper
{
    private readonly IReadOnlyCollection<VerifierKey> _keys;
    private readonly IReadOnlyCollection<string> _acceptedGenerations;

    /// <param name="keys">The keys that are trusted. Other generations of their logs have the same keys under other names.</param>
    /// <param name="keptNote">The head that was kept, as a signed note; null for none yet.</param>
    /// <param name="acceptedGenerations">The log_ids that may follow the kept one.</param>
    /// <exception cref="FormatException">None of the keys has signed the kept head.</exception>
    public HeadKeeper(IReadOnlyCollection<VerifierKey> keys, string? keptNote, IReadOnlyCollection<string> acceptedGenerations)
    {
        (_keys, _acceptedGenerations) = (keys, acceptedGenerations);
        if (keptNote is null)
            return;
        if (Claimed(keptNote) is null)
            throw new FormatException("What was kept is not a signed head.");
        // Written only once its generation was accepted.
        Kept = TrustedHead.Verify(keptNote, keys) ?? throw new FormatException("The head that was kept is not signed by a trusted key.");
        KeptNote = keptNote;
    }

    /// <summary>Null until the first one was taken.</summary>
    public LogHead? Kept { get; private set; }

    public string? KeptNote { get; private set; }

    /// <summary>Takes a newer head.</summary>
    /// <returns>What it is to the kept one.</returns>
    /// <exception cref="HeadAlarmException">It does not continue the kept one. That one stays.</exception>
    public async Task<HeadStep> AdvanceAsync(string note, ConsistencySource source, CancellationToken cancellationToken)
    {
        var claimed = Claimed(note) ?? throw Alarm("SIGNATURE_INVALID", "What the server gives is not a signed head.", note);
        var isKnown = Kept is { } k ? k.LogId == claimed.LogId : _keys.Any(key => key.Name == claimed.LogId);
        if (!isKnown && !IsAcceptedGeneration(claimed.LogId))
        {
            throw Alarm("LOG_ID_CHANGED", Kept is null
                ? $"The log is \"{claimed.LogId}\", and no trusted key is of that name."
                : $"The log is now \"{claimed.LogId}\". A new generation begins only when an operator accepts that records are lost.",
                note);
        }
        var head = TrustedHead.Verify(note, _keys)
            ?? throw Alarm("SIGNATURE_INVALID", "The head is not signed by a trusted key.", note);
        var step = await StepAsync(head, note, source, cancellationToken);
        (Kept, KeptNote) = (head, note);
        return step;
    }

    /// <summary>
    /// Takes over what another has kept who follows the same log. It may be older than the kept one: then that one stays.
    /// </summary>
    /// <exception cref="HeadAlarmException">The two are not of one history. The kept one stays.</exception>
    public async Task TakeOverAsync(string note, ConsistencySource source, CancellationToken cancellationToken)
    {
        var isOlder = Kept is { } k && Claimed(note) is { } claimed && claimed.LogId == k.LogId && claimed.Size < k.Size;
        if (!isOlder)
        {
            await AdvanceAsync(note, source, cancellationToken);
            return;
        }
        var kept = Kept!;
        var head = TrustedHead.Verify(note, _keys) ?? throw Alarm("SIGNATURE_INVALID", "The head is not signed by a trusted key.", note);
        if (!await IsContinuationAsync(head, kept, source, cancellationToken))
        {
            throw Alarm("LOG_FORKED",
                $"The log of {kept.Size} records does not continue the one of {head.Size}, which another has kept: history was rewritten.", note);
        }
    }

    private async Task<HeadStep> StepAsync(
        LogHead head, string note, ConsistencySource source, CancellationToken cancellationToken)
    {
        if (Kept is not { } kept)
            return HeadStep.First;
        if (head.LogId != kept.LogId)
        {
            // What is lost was accepted; whether anything is can still be told.
            return head.Size >= kept.Size && await IsContinuationAsync(kept, head, source, cancellationToken)
                ? HeadStep.Grown
                : HeadStep.LostRecords;
        }
        if (head.Size < kept.Size)
        {
            throw Alarm("LOG_ROLLED_BACK",
                $"The log has {head.Size} records and had {kept.Size}: what was acknowledged was taken back.", note);
        }
        if (head == kept)
            return HeadStep.Same;
        if (head.Size > kept.Size && await IsContinuationAsync(kept, head, source, cancellationToken))
            return HeadStep.Grown;
        throw Alarm("LOG_FORKED", $"The log of {head.Size} records does not continue the one of {kept.Size}: history was rewritten.", note);
    }

    /// <summary>Whether the log of one head holds all that another, no larger, covers; names of logs are not looked at.</summary>
    public static async Task<bool> IsContinuationAsync(
        LogHead kept, LogHead head, ConsistencySource source, CancellationToken cancellationToken)
    {
        // From the empty log everything follows.
        if (kept.Size == 0)
            return kept.Root == MerkleTree.EmptyRoot;
        var path = kept.Size == head.Size ? [] : await source(kept.Size, head.Size, cancellationToken);
        return MerkleTree.VerifyConsistency((ulong)kept.Size, (ulong)head.Size, kept.Root, head.Root, path);
    }

    /// <summary>Whether a log_id was accepted, as a later generation of the kept log or of one whose key is trusted.</summary>
    private bool IsAcceptedGeneration(string logId)
    {
        var (@base, generation) = LogName.Split(logId);
        var before = Kept is { } kept ? [kept.LogId] : _keys.Select(k => k.Name);
        return _acceptedGenerations.Contains(logId)
            && before.Select(LogName.Split).Any(b => b.Base == @base && b.Generation < generation);
    }

    private static LogHead? Claimed(string note) =>
        SignedNote.TryParse(note) is { } signed ? LogHead.TryParse(signed.Text) : null;

    private HeadAlarmException Alarm(string reason, string message, string note) => new(reason, message, KeptNote, note);
}

/// <summary>What a head is to the one that was kept before.</summary>
public enum HeadStep
{
    /// <summary>There was none before: it is trusted as it is.</summary>
    First,

    Same,

    /// <summary>It holds all that the kept one held, and more.</summary>
    Grown,

    /// <summary>It begins an accepted generation, and does not hold all that the kept one held.</summary>
    LostRecords,
}

/// <summary>A head that does not continue the one that was kept. Two signed notes that contradict each other are evidence.</summary>
/// <param name="reason">LOG_FORKED, LOG_ROLLED_BACK, SIGNATURE_INVALID or LOG_ID_CHANGED.</param>
/// <param name="message">What is wrong.</param>
/// <param name="keptNote">The head that was kept, a signed note; null for none.</param>
/// <param name="newNote">What came instead of a continuation; empty where nothing did.</param>
public sealed class HeadAlarmException(string reason, string message, string? keptNote, string newNote) : Exception(message)
{
    public string Reason => reason;
    public string? KeptNote => keptNote;
    public string NewNote => newNote;
}
