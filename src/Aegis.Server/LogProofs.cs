using System.Collections.Concurrent;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Paths through the log's tree, from its tiles: a record's tile and those above it, and the unfinished ones at the end, are all
/// that a path needs. What a tile has never changes, it only fills: so tiles are kept in memory, with their inner hashes.
/// </summary>
public sealed class LogProofs
{
    // 16 KiB each, their inner hashes included.
    private const int TilesKept = 2048;

    private readonly ILedgerStore _store;
    private readonly ConcurrentDictionary<(int Level, long Index), TileHashes> _tiles;

    public LogProofs(ILedgerStore store) : this(store, [])
    {
    }

    private LogProofs(ILedgerStore store, ConcurrentDictionary<(int Level, long Index), TileHashes> tiles) =>
        (_store, _tiles) = (store, tiles);

    /// <summary>The same, with the tiles that are kept, for a call that reads by another store.</summary>
    public LogProofs By(ILedgerStore store) => new(store, _tiles);

    /// <summary>The inclusion path of a leaf at a size.</summary>
    public Task<IReadOnlyList<Hash>> InclusionPathAsync(long index, long size, CancellationToken cancellationToken) =>
        HashesAsync(MerkleTree.InclusionPath(index, size), cancellationToken);

    public Task<IReadOnlyList<Hash>> ConsistencyPathAsync(long first, long second, CancellationToken cancellationToken) =>
        HashesAsync(MerkleTree.ConsistencyPath(first, second), cancellationToken);

    /// <summary>The root that the stored tree has at a size.</summary>
    public async Task<Hash> RootAsync(long size, CancellationToken cancellationToken) =>
        (await HashesAsync([new LeafRange(0, size)], cancellationToken))[0];

    /// <summary>The hash of one complete subtree; zero where hashes of it are gone, which proves nothing.</summary>
    public async ValueTask<Hash> HashAsync(Subtree subtree, CancellationToken cancellationToken) =>
        (await TileAsync(subtree, cancellationToken)).HashOf(subtree);

    /// <summary>Lets go of the tiles that are kept, since one of them proved nothing: it may have been altered, or repaired.</summary>
    public void Forget() => _tiles.Clear();

    private async Task<IReadOnlyList<Hash>> HashesAsync(IReadOnlyList<LeafRange> ranges, CancellationToken cancellationToken)
    {
        // Of each tile the subtree that needs most of it, all tiles at once.
        var subtrees = ranges.SelectMany(r => r.Subtrees()).ToList();
        var needed = subtrees.GroupBy(TileHashes.Of).Select(tile => tile.MaxBy(TileHashes.Needed));
        var read = await Task.WhenAll(needed.Select(async s => (TileHashes.Of(s), await TileAsync(s, cancellationToken))));
        var tiles = read.ToDictionary(tile => tile.Item1, tile => tile.Item2);
        return [.. ranges.Select(range => MerkleTree.HashOf(range, s => tiles[TileHashes.Of(s)].HashOf(s)))];
    }

    /// <summary>The tile of a subtree, as far at least as the subtree needs it and it is there.</summary>
    private async ValueTask<TileHashes> TileAsync(Subtree subtree, CancellationToken cancellationToken)
    {
        var tile = TileHashes.Of(subtree);
        if (_tiles.TryGetValue(tile, out var kept) && kept.Count >= TileHashes.Needed(subtree))
            return kept;
        var hashes = new TileHashes(await _store.ReadTileAsync(tile.Level, tile.Index, cancellationToken));
        if (_tiles.Count >= TilesKept)
            Evict();
        return _tiles[tile] = hashes;
    }

    /// <summary>Any one: what is asked for again is soon there again.</summary>
    private void Evict()
    {
        using var any = _tiles.GetEnumerator();
        if (any.MoveNext())
            _tiles.TryRemove(any.Current.Key, out _);
    }

    /// <summary>The hashes of one tile, and above them those of its complete subtrees, level by level.</summary>
    private sealed class TileHashes
    {
        private readonly Hash[][] _levels = new Hash[Tile.Levels][];

        public TileHashes(IReadOnlyList<Hash> hashes)
        {
            _levels[0] = [.. hashes];
            for (var level = 1; level < _levels.Length; level++)
            {
                var below = _levels[level - 1];
                _levels[level] = new Hash[below.Length / 2];
                for (var i = 0; i < _levels[level].Length; i++)
                    _levels[level][i] = MerkleTree.Node(below[2 * i], below[(2 * i) + 1]);
            }
        }

        public int Count => _levels[0].Length;

        /// <summary>The tile whose hashes a subtree consists of.</summary>
        public static (int Level, long Index) Of(Subtree subtree) =>
            (subtree.Level / Tile.Levels, subtree.From >> (Tile.Levels * ((subtree.Level / Tile.Levels) + 1)));

        /// <summary>How many hashes the tile must have for a subtree.</summary>
        public static int Needed(Subtree subtree) => (int)((IndexWithin(subtree) + 1) << (subtree.Level % Tile.Levels));

        public Hash HashOf(Subtree subtree)
        {
            var level = _levels[subtree.Level % Tile.Levels];
            var index = IndexWithin(subtree);
            return index < level.Length ? level[index] : default;
        }

        private static long IndexWithin(Subtree subtree) =>
            subtree.Index % (Tile.Width >> (subtree.Level % Tile.Levels));
    }
}
