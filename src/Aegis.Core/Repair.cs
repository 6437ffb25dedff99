namespace Aegis.Core;

/// <summary>
/// What a repair writes, over what stands there: each part only where it was altered or is gone. The REPAIRED record of the
/// same transaction names the place.
/// </summary>
public sealed record Repair
{
    /// <summary>The place: a workflow, and a sequence of it or 0.</summary>
    public required WorkflowKey Key { get; init; }
    public required long Sequence { get; init; }

    /// <summary>The record that belongs there, at its log_index; null to leave what is there.</summary>
    public StoredRecord? Record { get; init; }

    /// <summary>The log_index of every row that stands there and does not belong.</summary>
    public IReadOnlyList<long> Removed { get; init; } = [];

    /// <summary>The snapshot that the record carries; null to leave it.</summary>
    public Snapshot? Snapshot { get; init; }

    /// <summary>The head of the workflow; null to leave it.</summary>
    public Workflow? Head { get; init; }

    /// <summary>Tiles of the log.</summary>
    public IReadOnlyList<StoredTile> Tiles { get; init; } = [];

    public int Weight => (Record?.SizeEstimate() ?? 0) + (Snapshot?.Content.Length ?? 0) + Tiles.Sum(t => t.Entries.Length + 16384);
}

/// <summary>A tile with all that is stored of it.</summary>
/// <param name="Tile">Its place and root.</param>
/// <param name="Hashes">Its 256 hashes.</param>
/// <param name="Entries">
/// Of level 0 the encoded records, each with its length (4 bytes, big-endian) before it; empty above.
/// </param>
public sealed record StoredTile(Tile Tile, IReadOnlyList<Hash> Hashes, ReadOnlyMemory<byte> Entries);
