using System.Numerics;

namespace Aegis.Core;

/// <summary>
/// What a page of the log comes to when everything in it is in order, which most pages are: told from the bytes of its records as
/// they pass by, none of which is kept unless it is to be remembered. It only ever says that all is well. Where it does not, the
/// page is read again, and <see cref="LogVerifier.Verify(LogPage)"/> tells what is wrong, or that nothing is: values that were
/// erased are in order too. Used by one task at a time.
/// </summary>
public sealed class LogOutline
{
    private readonly Dictionary<WorkflowKey, ChainStretch> _chains = [];
    private readonly Dictionary<(int, long), LogTileRow> _tiles;
    private readonly IReadOnlyList<LogHeadRow> _heads;
    private readonly HashLanes _lanes = new();
    private readonly Texts _texts = new();
    private readonly byte[] _logId = [];
    private readonly Func<long, ReadOnlyMemory<byte>?>? _remembered;
    private readonly List<ReadOnlyMemory<byte>> _encoded = [];

    // The tree in the page, a tile's width at a time: the leaves from Tile.Width on, and each node at half the place of its children.
    private readonly Hash[][] _blocks;
    private LogTileRow? _tile;
    private bool _isComplete;
    private int _count;

    /// <param name="from">The log_index of its first record.</param>
    /// <param name="to">The log_index after its last: the size of a head.</param>
    /// <param name="heads">As <see cref="LogPage.Heads"/>; their signatures are checked here.</param>
    /// <param name="tiles">As <see cref="LogPage.Tiles"/>.</param>
    /// <param name="check">As <see cref="LogVerifier"/> takes it.</param>
    /// <param name="remembered">As <see cref="LogVerifier"/> takes it.</param>
    public LogOutline(long from, long to, IReadOnlyList<LogHeadRow> heads, IReadOnlyList<LogTileRow> tiles,
        Func<LogHeadRow, LogHead?> check, Func<long, ReadOnlyMemory<byte>?>? remembered = null)
    {
        (From, To, _remembered) = (from, to, remembered);
        _blocks = [.. Enumerable.Range(0, BlockOf(to - 1) + 1).Select(_ => new Hash[2 * Tile.Width])];
        _heads = [.. heads.OrderBy(h => h.Size)];
        _tiles = tiles.ToDictionary(t => (t.Level, t.Index));
        // What is unsigned, or of two generations of the log, is looked at more closely.
        IsSpoilt = _heads.Count == 0 || _heads[^1].Size != to
            || _heads.Any(h => h.LogId != _heads[0].LogId || h.Size <= from || !h.Says(check(h)));
        if (!IsSpoilt)
            _logId = System.Text.Encoding.UTF8.GetBytes(_heads[0].LogId);
    }

    public long From { get; }

    public long To { get; }

    /// <summary>How many rows are enough to tell that there are too many.</summary>
    public int RowsMax => (int)(To - From) + 1;

    /// <summary>How many bytes were read, roughly.</summary>
    public long Bytes { get; private set; }

    /// <summary>The chains whose records it has, of each from its first to its last here.</summary>
    public IReadOnlyCollection<ChainStretch> Chains => _chains.Values;

    /// <summary>Its encoded records, one after the other, where the verifier's caller remembers them; else none.</summary>
    public IReadOnlyList<ReadOnlyMemory<byte>> Encoded => _encoded;

    /// <summary>Whether something is not in order, or cannot be told from here: what else the page has needs no look.</summary>
    public bool IsSpoilt { get; private set; }

    /// <summary>Whether all its records are there and in order as far as they tell by themselves.</summary>
    internal bool IsInOrder => !IsSpoilt && _isComplete;

    /// <summary>The recorded_at of the first and of the last record that was written to this log.</summary>
    internal long FirstRecordedAt { get; private set; } = long.MaxValue;

    internal long LastRecordedAt { get; private set; }

    internal LogHeadRow Head => _heads[^1];

    /// <summary>The record that comes next.</summary>
    public void Add(in RawRecord record)
    {
        Bytes += record.Encoded.Length + record.Actor.Length + record.Principal.Length + record.Reason.Length + StoredRecord.FieldBytes;
        if (IsSpoilt)
            return;
        IsSpoilt = !record.IsConsistent(_lanes) || !IsInItsPlace(record.LogIndex, record.Hash, record.Encoded);
        if (IsSpoilt)
            return;
        var step = record.ToChainStep(_texts);
        Follow(step, record.Hash, record.LogId.SequenceEqual(_logId),
            record.SnapshotSalt is null
                ? null
                : new CarriedSnapshot(step.Key, step.Sequence, record.LogIndex, record.SnapshotSha256, record.SnapshotSize),
            step.Sequence == 1
                ? new ChainStart(record.LogIndex, step.RecordedAt, step.PreviousHash,
                    record.ContentSalt is null ? Metadata.Empty : record.Metadata)
                : null);
    }

    /// <summary>No more records come. What is left to hash is hashed: the work of the thread that read them.</summary>
    public void Complete()
    {
        _lanes.Complete();
        IsSpoilt |= !_lanes.AreAsExpected || _count < To - From;
        if (IsSpoilt)
            return;
        for (var i = 0; i < _blocks.Length; i++)
        {
            var begin = ((From / Tile.Width) + i) * Tile.Width;
            var (first, end) = ((int)Math.Max(From - begin, 0), (int)Math.Min(To - begin, Tile.Width));
            for (var width = Tile.Width; width > 1; width /= 2)
            {
                // Of a node that begins before the page or ends behind it one child alone is here.
                (first, end) = ((first + 1) / 2, end / 2);
                if (first < end)
                    _lanes.Parents(_blocks[i].AsSpan(width + (2 * first), 2 * (end - first)), _blocks[i].AsSpan((width / 2) + first));
            }
        }
        _isComplete = true;
    }

    /// <summary>
    /// Appends the leaves to the tree before them. Gives whether that leads to every head, and the tiles that are completed there
    /// are what the tree gives.
    /// </summary>
    internal bool LeadsToHeads(MerkleFrontier frontier)
    {
        var isInOrder = true;
        Action<Subtree, Hash> completed = (subtree, hash) =>
            isInOrder &= subtree.Level % Tile.Levels != 0 || IsTile((subtree.Level / Tile.Levels) - 1, subtree.Index, hash);
        foreach (var head in _heads)
        {
            while (frontier.Size < head.Size)
            {
                // The largest subtree that may begin here and ends before the head.
                var level = Math.Min(Tile.Levels, Math.Min(
                    BitOperations.TrailingZeroCount(frontier.Size), BitOperations.Log2((ulong)(head.Size - frontier.Size))));
                var subtree = new Subtree(level, frontier.Size >> level);
                var hash = HashOf(subtree);
                if (level == Tile.Levels)
                    completed(subtree, hash);
                frontier.Append(level, hash, completed);
            }
            isInOrder &= frontier.Size == head.Size && frontier.Root == head.Root;
        }
        return isInOrder;
    }

    private int BlockOf(long index) => (int)((index / Tile.Width) - (From / Tile.Width));

    /// <summary>The hash of a subtree that lies in the page and is no larger than a tile.</summary>
    private Hash HashOf(Subtree subtree)
    {
        var width = Tile.Width >> subtree.Level;
        return _blocks[BlockOf(subtree.From)][width + (int)(subtree.Index % width)];
    }

    private bool IsTile(int level, long index, Hash root)
    {
        if (!_tiles.TryGetValue((level, index), out var tile) || tile.Root != root || !tile.HasAllHashes)
            return false;
        // Its hashes were compared with the leaves, one by one, where all of them are of this page.
        return (level == 0 && tile.From >= From) || tile.RootOfHashes() == root;
    }

    /// <summary>Whether a record comes next, and the tile of its place, where that was written already, holds it.</summary>
    private bool IsInItsPlace(long logIndex, Hash hash, ReadOnlySpan<byte> encoded)
    {
        if (logIndex != From + _count || logIndex >= To)
            return false;
        _count++;
        _blocks[BlockOf(logIndex)][Tile.Width + (int)(logIndex % Tile.Width)] = hash;
        if (_remembered is not null)
            _encoded.Add(_remembered(logIndex) is { } known && known.Span.SequenceEqual(encoded) ? known : encoded.ToArray());
        if (_tile is null || logIndex >= _tile.To)
            _tile = _tiles.GetValueOrDefault((0, logIndex / Tile.Width));
        if (_tile is null)
            return true;
        var place = (int)(logIndex - _tile.From);
        return _tile.HashAt(place) == hash && _tile.EntryAt(place) is { } entry && entry.Span.SequenceEqual(encoded);
    }

    private void Follow(in ChainStep step, Hash hash, bool isOfThisLog, CarriedSnapshot? snapshot, ChainStart? start)
    {
        if (isOfThisLog)
        {
            IsSpoilt |= step.RecordedAt < LastRecordedAt && FirstRecordedAt < long.MaxValue;
            FirstRecordedAt = Math.Min(FirstRecordedAt, step.RecordedAt);
            LastRecordedAt = step.RecordedAt;
        }
        if (!_chains.TryGetValue(step.Key, out var chain))
            _chains[step.Key] = chain = new ChainStretch(step, hash, start, From + _count - 1);
        else if (!chain.TryFollow(step, hash))
            IsSpoilt = true;
        if (snapshot is { } carried)
            chain.Carry(carried);
    }
}

/// <summary>The records of one chain in a page: what those before and after them, and its head, have to agree with.</summary>
public sealed class ChainStretch
{
    private readonly ChainStep _first;
    private readonly List<CarriedSnapshot> _snapshots = [];
    private long _firstEpoch;

    internal ChainStretch(in ChainStep first, Hash hash, ChainStart? start, long logIndex)
    {
        (_first, Start, FirstLogIndex) = (first, start, logIndex);
        Take(first, hash);
    }

    public WorkflowKey Key => _first.Key;

    public long FirstSequence => _first.Sequence;

    /// <summary>Where its first record here is in the log.</summary>
    public long FirstLogIndex { get; }

    /// <summary>Where the chain stands after its last record here; its lease_epoch is the highest here.</summary>
    public ChainPoint Last { get; private set; }

    /// <summary>Where the chain began, if here.</summary>
    public ChainStart? Start { get; }

    /// <summary>Its last record here that carries a snapshot; 0 for none.</summary>
    public long CheckpointSequence { get; private set; }

    /// <summary>The snapshots that are carried here, by each record that carries one.</summary>
    public IReadOnlyList<CarriedSnapshot> Snapshots => _snapshots;

    /// <summary>Adds the record that comes next; or not, where it does not follow.</summary>
    internal bool TryFollow(in ChainStep step, Hash hash)
    {
        if (!IsAfter(step, Last))
            return false;
        Take(step, hash);
        return true;
    }

    /// <summary>Whether it goes on from where its chain stood, as far as that is known.</summary>
    internal bool Follows(in ChainPoint? before) =>
        IsAfter(_first, before) && (_firstEpoch == 0 || _firstEpoch >= (before?.LeaseEpoch ?? 0));

    internal void Carry(in CarriedSnapshot snapshot) => _snapshots.Add(snapshot);

    private void Take(in ChainStep step, Hash hash)
    {
        Last = step.PointOf(hash, Last.LeaseEpoch);
        if (step.IsCheckpoint)
            CheckpointSequence = step.Sequence;
        // They only grow: the first is the lowest.
        if (_firstEpoch == 0)
            _firstEpoch = step.LeaseEpoch;
    }

    private static bool IsAfter(in ChainStep step, in ChainPoint? before) =>
        (before is not { } point || step.Sequence == point.Sequence + 1)
        && ChainRules.Problems(step, before, before?.Hash, null, before?.LeaseEpoch ?? 0).Count == 0;
}

/// <summary>A snapshot that a record carries, as the record describes it.</summary>
public readonly record struct CarriedSnapshot(WorkflowKey Key, long Sequence, long LogIndex, Hash Sha256, long Size)
{
    /// <summary>Of a record that describes one.</summary>
    public static CarriedSnapshot Of(StoredRecord stored) => new(stored.Record.Key, stored.Record.Sequence, stored.LogIndex,
        stored.Record.Snapshot!.Sha256, stored.Record.Snapshot.Size);
}
