using Aegis.Core;

namespace Aegis.Server;

// Heads that others have kept count like those of this server's own memory.
public sealed partial class SignerMemory
{
    /// <summary>What this server knows, to be taken before the log is read: the log then has to be no less than that.</summary>
    public Sight Look() => new(Size, known.Open);

    /// <summary>The highest head that is known and that the log, while it is rolled back, does not continue.</summary>
    public LostHead? Lost
    {
        get
        {
            lock (_lock)
                return _lost;
        }
    }

    /// <summary>
    /// The first position that was lost, of a head that only others have kept: of it no more is known than its size and root.
    /// </summary>
    public async Task<long> LostFromAsync(LogHead lost, LogHead surviving, CancellationToken cancellationToken)
    {
        // Where this log has parted from the lost one before, it is there that they part.
        await foreach (var acceptance in AcceptancesAsync(surviving, cancellationToken))
        {
            if (acceptance.LostLogId == lost.LogId)
                return acceptance.LostFrom;
        }
        // Both are signed under one name, and of one name there is one history: the smaller is the beginning of the larger.
        if (lost.LogId == surviving.LogId && lost.Size > surviving.Size)
            return surviving.Size;
        // This log has gone its own way before anybody told of the other: as far as heads are known to be in both they are one.
        return known.Found.Where(f => f.Head.LogId == lost.LogId && f.Head.Size < lost.Size).Select(f => f.Head.Size).DefaultIfEmpty(0).Max();
    }

    /// <summary>Judges a head of the log, which extends what this server remembers, by what others have kept.</summary>
    private async Task<Refusal?> JudgeByOthersAsync(SealedHead found, IReadOnlyList<KnownHead> heads, CancellationToken cancellationToken)
    {
        if (await MissingAsync(found, heads, cancellationToken) is not { } missing)
            return SetRolledBack(null);
        var why = missing.Head.LogId == found.Head.LogId && missing.Head.Size > found.Head.Size
            ? $"the records from {found.Head.Size} to {missing.Head.Size - 1} are gone"
            : "it is no continuation of that head";
        return SetRolledBack(RolledBackTo(found.Head.LogId, found.Head.Size, missing, why), missing, found);
    }

    /// <summary>The highest of those heads that the log does not hold, or null; those that it holds are settled.</summary>
    private async Task<LostHead?> MissingAsync(SealedHead found, IReadOnlyList<KnownHead> heads, CancellationToken cancellationToken)
    {
        LostHead? missing = null;
        foreach (var head in heads)
        {
            if (await HoldsAsync(found.Head, head.Head, cancellationToken)
                || (LogName.Split(found.Head.LogId).Generation > LogName.Split(head.Head.LogId).Generation
                    && await WasAcceptedAsync(head.Head, found.Head, cancellationToken)))
            {
                known.Settle(head);
            }
            else
            {
                missing = Higher(missing, new LostHead(head.Head, head.SignedNote, head.Path));
            }
        }
        return missing;
    }

    /// <summary>
    /// Whether the log begins with what a head covers. As with this server's own head a tile or a stored hash may have been altered
    /// without the record, which verification tells: what the encoded records give counts as much.
    /// </summary>
    private async Task<bool> HoldsAsync(LogHead found, LogHead head, CancellationToken cancellationToken)
    {
        if (head.Size > found.Size || LogName.Split(head.LogId).Generation > LogName.Split(found.LogId).Generation)
            return false;
        if (head.Size == 0 || await proofs.RootAsync(head.Size, cancellationToken) == head.Root)
            return true;
        proofs.Forget();
        var empty = new SealedHead(head, new MerkleFrontier(), "");
        return await proofs.RootAsync(head.Size, cancellationToken) == head.Root
            || await GrownAsync(empty, head.Size, fromEncoded: false, cancellationToken) == head.Root
            || await GrownAsync(empty, head.Size, fromEncoded: true, cancellationToken) == head.Root;
    }

    private static LostHead? Higher(LostHead? one, LostHead? other) =>
        one is null || (other is not null && Rank(other).CompareTo(Rank(one)) > 0) ? other : one;

    private static (long Generation, long Size) Rank(LostHead head) => (LogName.Split(head.Head.LogId).Generation, head.Head.Size);
}

/// <summary>What a server knows of the log at one moment.</summary>
/// <param name="Size">How far it has seen the log.</param>
/// <param name="Known">The heads that others have kept and that the log was not yet found to hold.</param>
public readonly record struct Sight(long Size, IReadOnlyList<KnownHead> Known);

/// <summary>A head that the log had and does not continue any more.</summary>
/// <param name="Head">The head.</param>
/// <param name="SignedNote">Its signed note.</param>
/// <param name="Path">The file in which another has kept it; null for this server's own memory.</param>
public sealed record LostHead(LogHead Head, string SignedNote, string? Path);
