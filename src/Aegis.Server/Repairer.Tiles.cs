using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// The tiles of the log follow from its records.
public sealed partial class Repairer
{
    /// <summary>More than these are restored by asking again.</summary>
    private const int TileBytesMax = 32 * 1024 * 1024;

    /// <summary>What restores the log's tiles, and the head of its own history.</summary>
    /// <returns>The repair, and whether no tile is wrong after it.</returns>
    /// <exception cref="RefusalException">RECORD_NOT_FOUND, CHAIN_BROKEN: records have to be repaired first.</exception>
    public async Task<(Repair Repair, bool IsWhole)> LogAsync(CancellationToken cancellationToken)
    {
        var size = (await store.ReadHeadAsync(cancellationToken))?.Size ?? 0;
        var tiles = new List<StoredTile>();
        var roots = new List<Hash>();
        var bytes = 0L;
        for (var index = 0L; index < size / Tile.Width; index++)
        {
            var (tile, isSound) = await LowestAsync(index, cancellationToken);
            roots.Add(tile.Tile.Root);
            if (isSound)
                continue;
            tiles.Add(tile);
            bytes += tile.Entries.Length;
            if (bytes > TileBytesMax)
                return (new Repair { Key = WorkflowKey.Log, Tiles = tiles }, false);
        }
        for (var level = 1; roots.Count >= Tile.Width; level++)
        {
            var above = new List<Hash>();
            foreach (var (index, hashes) in roots.Chunk(Tile.Width).Where(c => c.Length == Tile.Width).Index())
            {
                var tile = new StoredTile(new Tile(level, index, MerkleTree.Root(hashes)), hashes, default);
                above.Add(tile.Tile.Root);
                var stored = await store.FindTileAsync(level, index, cancellationToken);
                if (stored?.Tile != tile.Tile || !stored.Hashes.SequenceEqual(hashes))
                    tiles.Add(tile);
            }
            roots = above;
        }
        var head = (await HeadAsync(WorkflowKey.Log, cancellationToken)).Head;
        var current = await store.FindWorkflowAsync(WorkflowKey.Log, cancellationToken);
        return (new Repair { Key = WorkflowKey.Log, Tiles = tiles, Head = IsSame(head, current) ? null : head }, true);
    }

    /// <summary>Whether two heads say the same of the records.</summary>
    public static bool IsSame(Workflow? head, Workflow? stored) =>
        head == (stored is null ? null : stored with { Lease = null, Quarantined = false });

    /// <summary>A tile of level 0 as it has to be, and whether it is stored so.</summary>
    private async Task<(StoredTile Tile, bool IsSound)> LowestAsync(long index, CancellationToken cancellationToken)
    {
        var from = index * Tile.Width;
        var stored = await store.FindTileAsync(0, index, cancellationToken);
        var records = stored?.Records() ?? [];
        if (stored is not null && stored.Hashes.Count == Tile.Width && records.Count == Tile.Width
            && stored.Tile.Root == MerkleTree.Root([.. stored.Hashes])
            && records.Select(r => RecordFormat.HashOf(r.Span)).SequenceEqual(stored.Hashes)
            && (await store.ReadHashesAsync(from, Tile.Width, fromEncoded: false, cancellationToken)).SequenceEqual(stored.Hashes))
        {
            return (stored, true);
        }
        var hashes = new List<Hash>();
        while (hashes.Count < Tile.Width)
        {
            var next = from + hashes.Count;
            var (first, proven) = await leaves.ProveAsync(next, null, cancellationToken)
                ?? throw new RefusalException(new Refusal(Reason.ChainBroken,
                    $"Nothing that is stored gives the tree that was signed over the records from log index {next}; repair them first.",
                    ("log_index", Refusal.Text(next))));
            hashes.AddRange(proven.Skip((int)(next - first)).Take(Tile.Width - hashes.Count));
        }
        var rows = (await store.ListRecordsAsync(new RecordFilter(), from, descending: false, Tile.Width, cancellationToken))
            .ToDictionary(r => r.LogIndex);
        var entries = new List<ReadOnlyMemory<byte>>();
        foreach (var (i, hash) in hashes.Index())
        {
            List<ReadOnlyMemory<byte>> candidates = i < records.Count ? [records[i]] : [];
            if (rows.TryGetValue(from + i, out var row))
                candidates.Add(row.Encoded);
            var at = candidates.FindIndex(c => RecordFormat.HashOf(c.Span) == hash);
            entries.Add(at >= 0
                ? candidates[at]
                : throw new RefusalException(new Refusal(Reason.RecordNotFound,
                    $"The record at log index {from + i} is not as it was recorded; repair it first.",
                    ("log_index", Refusal.Text(from + i)))));
        }
        var tile = new StoredTile(
            new Tile(0, index, MerkleTree.Root([.. hashes])), hashes, TileEntries.Write(entries));
        // The records alone differ: the tile may be right.
        var isSame = stored is not null && stored.Tile == tile.Tile && stored.Hashes.SequenceEqual(hashes)
            && stored.Entries.Span.SequenceEqual(tile.Entries.Span);
        return (tile, isSame);
    }
}
