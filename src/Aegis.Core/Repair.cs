using System.Buffers.Binary;

namespace Aegis.Core;

/// <summary>
/// What a repair writes, over what stands there: each part only where it was altered or is gone. The REPAIRED record of the
/// same transaction names the place.
/// </summary>
public sealed record Repair
{
    /// <summary>The workflow that the REPAIRED record names.</summary>
    public required WorkflowKey Key { get; init; }

    /// <summary>
    /// The log_index of every row that is taken away: it does not belong where it stands, or is stored again as it was recorded.
    /// </summary>
    public IReadOnlyList<long> Removed { get; init; } = [];

    /// <summary>The records that belong there, at their log_index.</summary>
    public IReadOnlyList<StoredRecord> Records { get; init; } = [];

    /// <summary>The snapshot that a record carries; null to leave it.</summary>
    public Snapshot? Snapshot { get; init; }

    /// <summary>The head of the workflow; null to leave it.</summary>
    public Workflow? Head { get; init; }

    /// <summary>Whether the head of the workflow is taken away, since there is no such workflow.</summary>
    public bool RemovesHead { get; init; }

    /// <summary>Tiles of the log.</summary>
    public IReadOnlyList<StoredTile> Tiles { get; init; } = [];

    public int Weight => Records.Sum(r => r.SizeEstimate()) + (Snapshot?.Content.Length ?? 0)
        + Tiles.Sum(t => t.Entries.Length + (Tile.Width * Hash.Size));
}

/// <summary>A tile with all that is stored of it.</summary>
/// <param name="Tile">Its place and root.</param>
/// <param name="Hashes">Its 256 hashes.</param>
/// <param name="Entries">
/// Of level 0 the encoded records, each with its length (4 bytes, big-endian) before it; empty above.
/// </param>
public sealed record StoredTile(Tile Tile, IReadOnlyList<Hash> Hashes, ReadOnlyMemory<byte> Entries)
{
    public static StoredTile Of(LogTileRow row)
    {
        var hashes = new List<Hash>();
        for (var place = 0; row.HashAt(place) is { } hash; place++)
            hashes.Add(hash);
        return new StoredTile(new Tile(row.Level, row.Index, row.Root), hashes, row.Entries);
    }

    /// <summary>The encoded records; as many as can be read.</summary>
    public IReadOnlyList<ReadOnlyMemory<byte>> Records() => TileEntries.Read(Entries);
}

/// <summary>Encoded records as a tile keeps them, each with its length (4 bytes, big-endian) before it.</summary>
public static class TileEntries
{
    /// <summary>As many as can be read: what was cut short ends early.</summary>
    public static IReadOnlyList<ReadOnlyMemory<byte>> Read(ReadOnlyMemory<byte> entries)
    {
        var records = new List<ReadOnlyMemory<byte>>(Tile.Width);
        for (var rest = entries; rest.Length >= 4;)
        {
            var length = BinaryPrimitives.ReadInt32BigEndian(rest.Span);
            if (length < 0 || length > rest.Length - 4)
                break;
            records.Add(rest.Slice(4, length));
            rest = rest[(4 + length)..];
        }
        return records;
    }

    /// <summary>What <see cref="Read"/> reads.</summary>
    public static byte[] Write(IReadOnlyCollection<ReadOnlyMemory<byte>> records)
    {
        var entries = new byte[records.Sum(r => 4 + r.Length)];
        var rest = entries.AsSpan();
        foreach (var record in records)
        {
            BinaryPrimitives.WriteInt32BigEndian(rest, record.Length);
            record.Span.CopyTo(rest[4..]);
            rest = rest[(4 + record.Length)..];
        }
        return entries;
    }
}
