using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Where one call reads: the primary, or a replica whose log is the beginning of the primary's. All reads of a call are made at one
/// place. Where a replica fails a call, the place turns into the primary by itself, which is as far or further.
/// </summary>
/// <param name="Store">What is read.</param>
/// <param name="Proofs">Paths through the tree that is stored there.</param>
/// <param name="Chains">Reads chains there; at a replica it throws what it finds as <see cref="DoubtException"/>.</param>
/// <param name="Size">A size of the log that whatever is read there reflects.</param>
public sealed record ReadPlace(ILedgerStore Store, LogProofs Proofs, ChainReader Chains, long Size)
{
    /// <summary>The replica; null at the primary.</summary>
    public Replica? Replica { get; init; }

    /// <summary>The primary, where what was found at a replica is looked at again; null at the primary itself.</summary>
    public ReadPlace? Primary { get; init; }

    /// <summary>That of a replica; see <see cref="HeadAsync"/>.</summary>
    public StoredHead? Head { get; init; }

    /// <summary>Whether the replica failed the call, so that the primary has taken over.</summary>
    public bool HasTurned => Replica is not null && Store is PostgresLedgerStore { IsAtReplica: false };

    /// <summary>
    /// The newest head there. At a replica it is one that the primary has too: what is signed or proven of a call rests on no head
    /// whose commit might still be lost, nor on one of another history.
    /// </summary>
    public async Task<StoredHead?> HeadAsync(CancellationToken cancellationToken) =>
        Replica is null ? await Store.ReadHeadAsync(cancellationToken) : Head;

    /// <summary>At a replica, stops the call: whether something is wrong is for the primary to say.</summary>
    /// <exception cref="DoubtException">This is a replica.</exception>
    public void Doubt(IReadOnlyList<Violation> found)
    {
        if (Replica is not null)
            throw new DoubtException(found);
    }
}

/// <summary>
/// What was read at a replica does not verify, or is not there. That alone is no violation: a replica may be damaged, or another
/// history. Whoever catches it asks the primary.
/// </summary>
public sealed class DoubtException(IReadOnlyList<Violation> found) : Exception("What a replica gave does not verify.")
{
    public IReadOnlyList<Violation> Found { get; } = found;
}
