using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Tells which record the log has at an index, when what is stored there cannot be trusted: a record is the one if the tree of
/// a signed head comes out with its hash.
/// </summary>
public sealed class LogLeaves(ILedgerStore store, LogSigner signer, LogProofs proofs)
{
    private const int PageSize = 500;

    /// <summary>How many sets of leaves are tried where several in one batch can be one or the other.</summary>
    private const int TriesMax = 4096;

    /// <summary>Whether the record with this hash is the one that the log has at an index.</summary>
    public async Task<bool> IsLeafAsync(long index, Hash hash, CancellationToken cancellationToken)
    {
        if (await store.ReadHeadAsync(cancellationToken) is not { } newest || index >= newest.Size)
            return false;
        if (signer.Verify(newest.SignedNote) is { } head && head.Size == newest.Size)
        {
            proofs.Forget();
            var path = await proofs.InclusionPathAsync(index, head.Size, cancellationToken);
            if (MerkleTree.VerifyInclusion((ulong)index, (ulong)head.Size, hash, path, head.Root))
                return true;
        }
        // What else was altered spoils the path: the records between two heads prove themselves.
        return await ProveAsync(index, hash, cancellationToken) is not null;
    }

    /// <summary>
    /// The leaves of the batch around an index, and the index of the first of them; null where none of what is stored gives the
    /// tree of the head that was signed over them. <paramref name="wanted"/>: the leaf that has to be at the index.
    /// </summary>
    public async Task<(long First, IReadOnlyList<Hash> Leaves)?> ProveAsync(long index, Hash? wanted,
        CancellationToken cancellationToken)
    {
        // The newest head under which it is not, and the oldest under which it is.
        if (await store.ReadHeadsAsync(index, long.MaxValue, 1, cancellationToken) is not [var after]
            || signer.Verify(after.SignedNote) is not { } head || head.Size != after.Size)
        {
            return null;
        }
        var frontier = new MerkleFrontier();
        if (await store.ReadHeadsBackAsync(index, 1, cancellationToken) is [var before])
        {
            if (signer.Sealed(before.SignedNote, before.Size, before.Frontier) is not { } known)
                return null;
            frontier = known.Frontier;
        }
        var told = await ToldAsync(frontier.Size, head.Size, cancellationToken);
        if (wanted is { } only)
            told[(int)(index - frontier.Size)] = [only, only, only, only];
        return told.TrueForAll(t => t.Any(h => h is not null)) && Choose(frontier, told, head.Root) is { } leaves
            ? (frontier.Size, leaves)
            : null;
    }

    /// <summary>For each index the hash as four witnesses tell it: the tile, its entries, the row, and the row's bytes.</summary>
    private async Task<List<Hash?[]>> ToldAsync(long from, long to, CancellationToken cancellationToken)
    {
        var told = Enumerable.Range(0, (int)(to - from)).Select(_ => new Hash?[4]).ToList();
        for (var tile = from / Tile.Width; tile * Tile.Width < to; tile++)
        {
            if (await store.FindTileAsync(0, tile, cancellationToken) is not { } stored)
                continue;
            foreach (var (i, hash) in stored.Hashes.Index())
                Tell((tile * Tile.Width) + i, 0, hash);
            foreach (var (i, encoded) in stored.Records().Index())
                Tell((tile * Tile.Width) + i, 1, RecordFormat.HashOf(encoded.Span));
        }
        for (var next = from; next < to;)
        {
            var page = await store.ListRecordsAsync(new RecordFilter(), next, descending: false, PageSize, cancellationToken);
            foreach (var record in page)
            {
                Tell(record.LogIndex, 2, record.Hash);
                Tell(record.LogIndex, 3, RecordFormat.HashOf(record.Encoded.Span));
            }
            if (page.Count < PageSize)
                break;
            next = page[^1].LogIndex + 1;
        }
        return told;

        void Tell(long index, int witness, Hash hash)
        {
            if (index >= from && index < to)
                told[(int)(index - from)][witness] = hash;
        }
    }

    /// <summary>
    /// The leaves under which the tree comes out: as one witness tells them all, as most of them tell each, and then, one after
    /// the other, as others tell.
    /// </summary>
    private static List<Hash>? Choose(MerkleFrontier before, List<Hash?[]> told, Hash root)
    {
        var choices = told.Select(t => t.OfType<Hash>().GroupBy(h => h).OrderByDescending(g => g.Count()).Select(g => g.Key).ToList())
            .ToList();
        for (var witness = 0; witness < 4; witness++)
        {
            var leaves = told.Select((t, i) => t[witness] ?? choices[i][0]).ToList();
            if (IsRoot(leaves))
                return leaves;
        }
        var chosen = new int[choices.Count];
        for (var tries = 0; tries < TriesMax; tries++)
        {
            var leaves = choices.Select((c, i) => c[chosen[i]]).ToList();
            if (IsRoot(leaves))
                return leaves;
            var place = 0;
            while (place < chosen.Length && ++chosen[place] == choices[place].Count)
                chosen[place++] = 0;
            if (place == chosen.Length)
                return null;
        }
        return null;

        bool IsRoot(List<Hash> leaves)
        {
            var frontier = before.Clone();
            foreach (var leaf in leaves)
                frontier.Append(leaf);
            return frontier.Root == root;
        }
    }
}
