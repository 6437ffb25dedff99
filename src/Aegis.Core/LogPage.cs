using System.Diagnostics.CodeAnalysis;

namespace Aegis.Core;

/// <summary>A head of the log as it is stored, altered or not. Its note is empty where the version before stored it.</summary>
public sealed record LogHeadRow(
    long Size, string LogId, Hash Root, MerkleFrontier? Frontier, string SignedNote, long LastRecordedAt)
{
    /// <summary>Whether what is stored is what was signed.</summary>
    public bool Says([NotNullWhen(true)] LogHead? head) =>
        head is not null && head.Size == Size && head.LogId == LogId && head.Root == Root && Frontier?.Root == head.Root;
}

/// <summary>
/// A tile as it is stored, altered or not. Entries are of level 0 alone: the encoded records, each with its length (4 bytes,
/// big-endian) before it.
/// </summary>
public sealed record LogTileRow(int Level, long Index, Hash Root, ReadOnlyMemory<byte> Hashes, ReadOnlyMemory<byte> Entries)
{
    private IReadOnlyList<ReadOnlyMemory<byte>>? _entries;

    /// <summary>The first leaf under it.</summary>
    public long From => Index << (Tile.Levels * (Level + 1));

    /// <summary>The leaf after the last one under it.</summary>
    public long To => (Index + 1) << (Tile.Levels * (Level + 1));

    public bool HasAllHashes => Hashes.Length == Tile.Width * Hash.Size;

    public Hash? HashAt(int place) => (place + 1) * Hash.Size <= Hashes.Length
        ? new Hash(Hashes.Span.Slice(place * Hash.Size, Hash.Size))
        : null;

    /// <summary>An encoded record; null where the entries are cut short.</summary>
    public ReadOnlyMemory<byte>? EntryAt(int place)
    {
        _entries ??= TileEntries.Read(Entries);
        return place < _entries.Count ? _entries[place] : null;
    }

    /// <summary>The root that its hashes give.</summary>
    public Hash RootOfHashes()
    {
        var frontier = new MerkleFrontier();
        for (var i = 0; HashAt(i) is { } hash; i++)
            frontier.Append(hash);
        return frontier.Root;
    }
}

/// <summary>A part of the log as it was read, from where the verifier stands to the size of a head that was read before it.</summary>
public sealed record LogPage
{
    /// <summary>The log_index after its last.</summary>
    public required long To { get; init; }

    /// <summary>The records with these log_indexes, by log_index, each with its vote.</summary>
    public IReadOnlyList<RecordVote> Records { get; init; } = [];

    /// <summary>What its records come to at a look at their bytes, where that was taken; then there are no <see cref="Records"/>.</summary>
    public LogOutline? Outline { get; init; }

    /// <summary>The heads whose sizes lie behind its first log_index, up to its end.</summary>
    public required IReadOnlyList<LogHeadRow> Heads { get; init; }

    /// <summary>The tiles that begin before its end and end behind its beginning, of levels above 0 those that it completes.</summary>
    public required IReadOnlyList<LogTileRow> Tiles { get; init; }

    /// <summary>Where the chains stood of those that <see cref="LogVerifier.Wanted(IEnumerable{RecordVote})"/> named, as far as they are there.</summary>
    public IReadOnlyDictionary<WorkflowKey, ChainPoint> Before { get; init; } = new Dictionary<WorkflowKey, ChainPoint>();
}

/// <summary>What a page of the log gave.</summary>
public sealed record LogFindings
{
    public required long From { get; init; }
    public required long To { get; init; }
    public required IReadOnlyList<Violation> Violations { get; init; }

    /// <summary>Records some of whose values are gone: in order only where a later ERASURE of their chain covers them.</summary>
    public required IReadOnlyList<(StoredRecord Record, string Part)> Gone { get; init; }

    /// <summary>The newest head of the page that its records lead to.</summary>
    public required LogHeadRow? Head { get; init; }

    /// <summary>
    /// Each record's true leaf, from <see cref="From"/> on; null where it cannot be told. Not told of an outline.
    /// </summary>
    public required IReadOnlyList<Hash?> Leaves { get; init; }

    /// <summary>Where a chain stands behind the page; null for one that has no record in it.</summary>
    public ChainPoint? ChainOf(WorkflowKey key) => Chains.TryGetValue(key, out var point) ? point : null;

    internal MerkleFrontier Frontier { get; init; } = new();
    internal Dictionary<WorkflowKey, ChainPoint> Chains { get; init; } = [];
    internal long LastRecordedAt { get; init; }
}
