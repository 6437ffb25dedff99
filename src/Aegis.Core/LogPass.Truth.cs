namespace Aegis.Core;

// Where the records as they are stored do not lead to a signed head.
internal sealed partial class LogPass
{
    private const int CombinationsMax = 1024;

    // The tree that a signed head said, where the leaves before it cannot be told.
    private MerkleFrontier? _anchor;

    /// <summary>
    /// The leaves that lead to a signed root, put together from all that says something of them; null where nothing does.
    /// </summary>
    private Hash[]? Resolve(long from, long to, Hash root)
    {
        var sources = Enumerable.Range(0, (int)(to - from)).Select(i => Sources(from + i)).ToArray();
        if (Array.Exists(sources, s => !Array.Exists(s, hash => hash is not null)))
            return null;
        var tried = new HashSet<Hash>();
        for (var source = 0; source < sources[0].Length; source++)
        {
            Hash[] leaves = [.. sources.Select(s => s[source] ?? s.First(hash => hash is not null)!.Value)];
            if (Leads(leaves, root, tried))
                return leaves;
        }
        // More than one source may have been altered: the leaves on which they disagree in all combinations, if they are few.
        Hash[][] choices = [.. sources.Select(s => s.OfType<Hash>().Distinct().ToArray())];
        var count = choices.Aggregate(1L, (product, c) => Math.Min(product * c.Length, CombinationsMax + 1));
        for (var n = 0L; count <= CombinationsMax && n < count; n++)
        {
            var rest = n;
            var leaves = new Hash[choices.Length];
            for (var i = 0; i < leaves.Length; i++)
            {
                leaves[i] = choices[i][rest % choices[i].Length];
                rest /= choices[i].Length;
            }
            if (Leads(leaves, root, tried))
                return leaves;
        }
        return null;
    }

    /// <summary>What says something of a leaf, the most trusted first.</summary>
    private Hash?[] Sources(long index)
    {
        var vote = Row(index);
        var (tile, place) = (TileOf(index), (int)(index % Tile.Width));
        return
        [
            _remembered(index) is { } known ? RecordFormat.HashOf(known.Span) : null,
            tile?.HashAt(place),
            tile?.EntryAt(place) is { } entry ? RecordFormat.HashOf(entry.Span) : null,
            vote?.Hash,
            vote is null ? null : RecordFormat.HashOf(vote.Stored.Encoded.Span),
            vote?.Stored.Hash,
            vote is null ? null : Recomputed.Of(vote.Stored.Record),
        ];
    }

    private bool Leads(Hash[] leaves, Hash root, HashSet<Hash> tried)
    {
        if (!tried.Add(MerkleTree.Root(leaves)))
            return false;
        var frontier = _frontier.Clone();
        foreach (var leaf in leaves)
            frontier.Append(leaf);
        return frontier.Root == root;
    }

    /// <summary>The true leaf is known: tells what the row in its place is against it.</summary>
    private void Settle(long index, Hash leaf, string logId)
    {
        Append(leaf, _completed);
        var vote = Row(index);
        if (vote is not null && vote.Hash == leaf)
        {
            Accept(vote, logId);
            return;
        }
        _leaves.Add(leaf);
        var original = Original(index, leaf, vote);
        if (vote is null)
            ReportMissing(index, original, leaf);
        else
            ReportAltered(vote, original, leaf);
        if (original is not null)
            Follow(original, leaf);
        else if (vote is not null)
            _chains.Remove(vote.Record.Key);
    }

    /// <summary>The record that a leaf stands for, where its bytes are kept anywhere.</summary>
    private Record? Original(long index, Hash leaf, RecordVote? vote)
    {
        if (vote is not null && Recomputed.Of(vote.Stored.Record) == leaf)
            return vote.Stored.Record;
        ReadOnlyMemory<byte>?[] kept = [vote?.Stored.Encoded, _remembered(index), TileOf(index)?.EntryAt((int)(index % Tile.Width))];
        foreach (var bytes in kept.OfType<ReadOnlyMemory<byte>>())
        {
            if (RecordFormat.HashOf(bytes.Span) == leaf)
                return RecordFormat.TryDecode(bytes.Span);
        }
        return null;
    }

    /// <summary>The record's hash is its leaf and something else of it was altered: where it does not say what, the kept bytes do.</summary>
    private void ReportUnsound(RecordVote vote)
    {
        var stored = vote.Stored;
        // With the hash of the record before more can be told, and in the words in which the chain alone would tell it.
        var finding = RecordVote.Of(stored, vote.Record.Key, Before(vote.Record.Key, vote.Record.Sequence)?.Hash).Finding
            ?? vote.Finding!;
        var original = finding.Differences.Count == 0 ? Original(stored.LogIndex, vote.Hash, vote) : null;
        if (original is null)
        {
            _violations.Add(finding with { Key = vote.Record.Key, Sequence = vote.Record.Sequence });
            return;
        }
        var differences = Difference.Between(original, stored.Record with
        {
            PersonDigest = original.PersonDigest,
            ContentDigest = original.ContentDigest,
            SnapshotDigest = original.SnapshotDigest,
            PreviousHash = original.PreviousHash,
        }).ToList();
        if (RecordFormat.HashOf(stored.Encoded.Span) != vote.Hash)
        {
            differences.Add(new Difference("encoded", Convert.ToHexStringLower(RecordFormat.Encode(original)),
                Convert.ToHexStringLower(stored.Encoded.Span)));
        }
        _violations.Add(finding with { Key = original.Key, Sequence = original.Sequence, Differences = differences });
    }

    private void ReportAltered(RecordVote vote, Record? original, Hash leaf)
    {
        var (stored, found) = (vote.Stored, vote.Stored.Record);
        if (original is null)
        {
            _violations.Add(new Violation(ViolationClass.FieldModified, found.Key, found.Sequence,
                "It is not the record that the log has in this place, and what that was is kept nowhere.")
            { LogIndex = stored.LogIndex, ExpectedHash = leaf, ActualHash = vote.Hash });
            return;
        }
        var moved = Array.Exists(_rows, r => r is not null && r != vote && r.Hash == leaf)
            || (original.Key, original.Sequence) != (vote.Record.Key, vote.Record.Sequence);
        // The digests of what was found are those of its encoded bytes, which may be as they were.
        var differences = Difference.Between(original, found).ToList();
        if (stored.Hash != leaf)
            differences.Add(new Difference("hash", leaf.ToString(), stored.Hash.ToString()));
        _violations.Add(new Violation(moved ? ViolationClass.RecordsReordered : ViolationClass.FieldModified,
            original.Key, original.Sequence,
            moved
                ? $"In the place of this record stands record {vote.Record.Sequence} of {vote.Record.Key}."
                : "The stored record is not the one that was recorded.")
        { LogIndex = stored.LogIndex, ExpectedHash = leaf, ActualHash = vote.Hash, Differences = differences });
    }

    /// <summary>Nothing leads to a signed head. What is suspicious by itself is named, and the tree goes on from that head.</summary>
    private void GiveUp(long from, LogHeadRow row, LogHead head)
    {
        var before = _violations.Count;
        var named = new HashSet<Hash>(_rows.OfType<RecordVote>().Select(r => r.Record.PreviousHash));
        var unnamed = new List<RecordVote>();
        for (var index = from; index < head.Size; index++)
        {
            _leaves.Add(null);
            if (Row(index) is not { } vote)
            {
                ReportMissing(index, null, null);
                continue;
            }
            if (vote.Finding is { } finding)
                _violations.Add(finding with { Key = vote.Record.Key, Sequence = vote.Record.Sequence });
            if (!named.Contains(vote.Hash))
                unnamed.Add(vote);
            Follow(vote.Record, vote.Hash);
        }
        if (_violations.Count == before)
        {
            // A record that its successor names is what it was; of one alone that nobody names it is clear that it is not.
            var one = unnamed is [var only] ? only : head.Size == from + 1 ? Row(from) : null;
            _violations.Add(new Violation(ViolationClass.FieldModified, one?.Record.Key ?? WorkflowKey.None, one?.Record.Sequence ?? 0,
                one is not null
                    ? $"It is not the record under the signed head of size {head.Size}, and what that was is kept nowhere."
                    : $"Of the records {from} to {head.Size - 1} of the log one or more are not those under the signed head of size "
                        + $"{head.Size}, and what they were is kept nowhere.")
            { LogIndex = one?.Stored.LogIndex ?? from, ActualHash = one?.Hash, ExpectedHash = null });
        }
        if (row.Frontier is { } frontier && frontier.Size == head.Size && frontier.Root == head.Root)
        {
            _anchor = frontier.Clone();
            _frontier = frontier.Clone();
            _head = row;
            return;
        }
        foreach (var _ in _leaves.Skip((int)(_frontier.Size - From)).ToList())
            _frontier.Append(default);
    }

    private void CheckTiles()
    {
        var tiles = _page.Tiles.ToDictionary(t => (t.Level, t.Index));
        var told = new HashSet<(int, long)>();
        foreach (var (subtree, hash) in _completed)
        {
            var place = ((subtree.Level / Tile.Levels) - 1, subtree.Index);
            var tile = tiles.GetValueOrDefault(place);
            if (tile is null || tile.Root != hash || !tile.HasAllHashes || (!HoldsLeaves(tile) && tile.RootOfHashes() != hash))
                Report(place, hash, tile is null ? "is gone" : "does not hold the hashes under the signed head", tile?.Root);
        }
        foreach (var tile in _page.Tiles.Where(t => t.Level == 0))
        {
            for (var index = Math.Max(From, tile.From); index < Math.Min(_page.To, tile.To); index++)
            {
                if (_leaves[(int)(index - From)] is { } leaf && !Holds(tile, index, leaf))
                {
                    Report((0, tile.Index), null, $"does not hold record {index} of the log as it was recorded", tile.Root);
                    break;
                }
            }
        }

        void Report((int Level, long Index) place, Hash? expected, string problem, Hash? actual)
        {
            if (told.Add(place))
            {
                _violations.Add(new Violation(ViolationClass.TileModified, WorkflowKey.None, 0,
                    $"The tile {place.Index} of level {place.Level} {problem}.")
                {
                    LogIndex = place.Index << (Tile.Levels * (place.Level + 1)),
                    ExpectedHash = expected,
                    ActualHash = actual,
                    Differences = [new Difference($"tile/{place.Level}/{place.Index}", null, null)],
                });
            }
        }
    }

    /// <summary>Whether a tile holds the very leaves that led to the root: then its own hashes need not be hashed once more.</summary>
    private bool HoldsLeaves(LogTileRow tile)
    {
        if (tile.Level != 0 || tile.From < From || tile.To > From + _leaves.Count)
            return false;
        for (var place = 0; place < Tile.Width; place++)
        {
            if (_leaves[(int)(tile.From - From) + place] != tile.HashAt(place))
                return false;
        }
        return true;
    }

    private bool Holds(LogTileRow tile, long index, Hash leaf)
    {
        var place = (int)(index - tile.From);
        if (tile.HashAt(place) != leaf || tile.EntryAt(place) is not { } entry)
            return false;
        // Bytes that are those of a record which gave this leaf need not be hashed again.
        return Row(index) is { IsSound: true } vote && vote.Hash == leaf
            ? entry.Span.SequenceEqual(vote.Stored.Encoded.Span)
            : RecordFormat.HashOf(entry.Span) == leaf;
    }

    private RecordVote? Row(long index) => index - From < _rows.Length ? _rows[index - From] : null;

    private LogTileRow? TileOf(long index) =>
        _page.Tiles.FirstOrDefault(t => t.Level == 0 && t.From <= index && index < t.To);
}
