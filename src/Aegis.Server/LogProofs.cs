using System.Collections.Concurrent;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Paths through the log's tree, from its tiles: a record's tile and those above it, and the unfinished ones at the end, are all
/// that a path needs. Complete tiles never change and are kept in memory.
/// </summary>
public sealed class LogProofs(ILedgerStore store)
{
    // 8 KiB each.
    private const int TilesKept = 1024;

    private readonly ConcurrentDictionary<(int Level, long Index), IReadOnlyList<Hash>> _tiles = [];

    /// <summary>The inclusion path of a leaf at a size, and the root it leads to.</summary>
    public Task<IReadOnlyList<Hash>> InclusionPathAsync(long index, long size, CancellationToken cancellationToken) =>
        HashesAsync(MerkleTree.InclusionPath(index, size), cancellationToken);

    public Task<IReadOnlyList<Hash>> ConsistencyPathAsync(long first, long second, CancellationToken cancellationToken) =>
        HashesAsync(MerkleTree.ConsistencyPath(first, second), cancellationToken);

    /// <summary>The root that the stored tree has at a size.</summary>
    public async Task<Hash> RootAsync(long size, CancellationToken cancellationToken) =>
        (await HashesAsync([new LeafRange(0, size)], cancellationToken))[0];

    /// <summary>The hash of one complete subtree.</summary>
    public async Task<Hash> HashAsync(Subtree subtree, CancellationToken cancellationToken) =>
        (await HashesAsync([new LeafRange(subtree.From, subtree.To)], cancellationToken))[0];

    /// <summary>Lets go of the tiles that are kept, since one of them proved nothing: it may have been altered, or repaired.</summary>
    public void Forget() => _tiles.Clear();

    private async Task<IReadOnlyList<Hash>> HashesAsync(IReadOnlyList<LeafRange> ranges, CancellationToken cancellationToken)
    {
        var tiles = ranges.SelectMany(r => r.Subtrees()).Select(TileOf).ToHashSet();
        var read = new ConcurrentDictionary<(int, long), IReadOnlyList<Hash>>();
        await Task.WhenAll(tiles.Select(async tile => read[tile] = await TileAsync(tile, cancellationToken)));
        return [.. ranges.Select(range => MerkleTree.HashOf(range, subtree => HashOf(subtree, read[TileOf(subtree)])))];
    }

    /// <summary>The tile whose hashes the subtree consists of.</summary>
    public static (int Level, long Index) TileOf(Subtree subtree) =>
        (subtree.Level / Tile.Levels, subtree.From >> (Tile.Levels * ((subtree.Level / Tile.Levels) + 1)));

    private static Hash HashOf(Subtree subtree, IReadOnlyList<Hash> tile)
    {
        var inner = subtree.Level % Tile.Levels;
        var first = (int)((subtree.Index << inner) % Tile.Width);
        var count = 1 << inner;
        // Hashes that are gone leave a path that proves nothing, which whoever hands it on notices.
        if (first + count > tile.Count)
            return default;
        return MerkleTree.Root([.. tile.Skip(first).Take(count)]);
    }

    /// <summary>The hashes of a tile, as far as they are there.</summary>
    public async Task<IReadOnlyList<Hash>> TileAsync((int Level, long Index) tile, CancellationToken cancellationToken)
    {
        if (_tiles.TryGetValue(tile, out var kept))
            return kept;
        var hashes = await store.ReadTileAsync(tile.Level, tile.Index, cancellationToken);
        if (hashes.Count == Tile.Width)
        {
            if (_tiles.Count >= TilesKept)
                _tiles.Clear();
            _tiles[tile] = hashes;
        }
        return hashes;
    }
}
