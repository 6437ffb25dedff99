using System.Numerics;
using Aegis.Core;

namespace Aegis.Server;

/// <summary>
/// The inclusion paths of many leaves at one size of the log. A tile that was read serves all leaves below it, its inner hashes
/// computed once: a path costs a few look-ups instead of the hashing of whole tiles. Used by one task.
/// </summary>
public sealed class InclusionPaths(LogProofs proofs, SealedHead head)
{
    // 16 KiB each. Chains that move together lie close together in the log.
    private const int TilesKept = 1024;

    private readonly Dictionary<(int Level, long Index), Hash[][]> _tiles = [];

    // The hashes at the tree's right edge, whose subtrees are not complete: one for each level at most.
    private readonly Dictionary<LeafRange, Hash> _edges = [];

    /// <summary>The path of a record, and whether it leads to the head.</summary>
    public async ValueTask<(IReadOnlyList<Hash> Path, bool IsProof)> OfAsync(
        StoredRecord record, CancellationToken cancellationToken)
    {
        if (record.LogIndex < 0 || record.LogIndex >= head.Head.Size)
            return ([], false);
        var ranges = MerkleTree.InclusionPath(record.LogIndex, head.Head.Size);
        var path = new Hash[ranges.Count];
        for (var i = 0; i < path.Length; i++)
            path[i] = await HashAsync(ranges[i], cancellationToken);
        var isProof = MerkleTree.VerifyInclusion(
            (ulong)record.LogIndex, (ulong)head.Head.Size, record.Hash, path, head.Head.Root);
        if (!isProof)
        {
            // A tile may have been altered, or repaired since it was read.
            proofs.Forget();
            _tiles.Clear();
            _edges.Clear();
        }
        return (path, isProof);
    }

    private async ValueTask<Hash> HashAsync(LeafRange range, CancellationToken cancellationToken)
    {
        var size = range.To - range.From;
        if (BitOperations.IsPow2(size))
        {
            var level = BitOperations.Log2((ulong)size);
            return await HashAsync(new Subtree(level, range.From >> level), cancellationToken);
        }
        if (_edges.TryGetValue(range, out var known))
            return known;
        Hash? hash = null;
        foreach (var subtree in range.Subtrees().Reverse())
        {
            var left = await HashAsync(subtree, cancellationToken);
            hash = hash is { } right ? MerkleTree.Node(left, right) : left;
        }
        return _edges[range] = hash!.Value;
    }

    private async ValueTask<Hash> HashAsync(Subtree subtree, CancellationToken cancellationToken)
    {
        var tile = LogProofs.TileOf(subtree);
        if (!_tiles.TryGetValue(tile, out var levels))
        {
            if (_tiles.Count >= TilesKept)
                _tiles.Clear();
            _tiles[tile] = levels = LevelsOf(await proofs.TileAsync(tile, cancellationToken));
        }
        var inner = levels[subtree.Level % Tile.Levels];
        var index = (int)(subtree.Index % (Tile.Width >> (subtree.Level % Tile.Levels)));
        // Hashes that are gone leave a path that proves nothing.
        return index < inner.Length ? inner[index] : default;
    }

    /// <summary>The hashes of a tile, and above them those of its complete subtrees, level by level.</summary>
    private static Hash[][] LevelsOf(IReadOnlyList<Hash> leaves)
    {
        var levels = new Hash[Tile.Levels][];
        levels[0] = [.. leaves];
        for (var level = 1; level < levels.Length; level++)
        {
            var below = levels[level - 1];
            levels[level] = new Hash[below.Length / 2];
            for (var i = 0; i < levels[level].Length; i++)
                levels[level][i] = MerkleTree.Node(below[2 * i], below[(2 * i) + 1]);
        }
        return levels;
    }
}
