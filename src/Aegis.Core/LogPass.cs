namespace Aegis.Core;

/// <summary>One page's way through <see cref="LogVerifier"/>.</summary>
internal sealed partial class LogPass
{
    private const int ForkedHeadsMax = 4;

    private readonly LogPage _page;
    private readonly MerkleFrontier _start;
    private readonly Func<LogHeadRow, LogHead?> _check;
    private readonly Func<long, ReadOnlyMemory<byte>?> _remembered;
    private readonly Func<WorkflowKey, ChainPoint?> _known;
    private readonly RecordVote?[] _rows;
    private readonly List<Violation> _violations = [];
    private readonly List<(StoredRecord, string)> _gone = [];
    private readonly List<Hash?> _leaves = [];
    private readonly List<(Subtree Subtree, Hash Hash)> _completed = [];
    private readonly Dictionary<WorkflowKey, ChainPoint> _chains = [];
    private MerkleFrontier _frontier;
    private long _lastRecordedAt;
    private LogHeadRow? _head;

    public LogPass(LogPage page, MerkleFrontier start, Func<LogHeadRow, LogHead?> check,
        Func<long, ReadOnlyMemory<byte>?> remembered, Func<WorkflowKey, ChainPoint?> known, long lastRecordedAt)
    {
        (_page, _start, _check, _remembered, _known, _lastRecordedAt) = (page, start, check, remembered, known, lastRecordedAt);
        _frontier = start.Clone();
        _rows = new RecordVote?[page.To - start.Size];
    }

    private long From => _start.Size;

    public LogFindings Run()
    {
        Place();
        var heads = _page.Heads.OrderBy(h => h.Size).Select(row => (Row: row, Head: Checked(row)))
            .Where(h => h.Head is not null).Select(h => (h.Row, Head: h.Head!)).ToList();
        var at = From;
        for (var i = 0; i < heads.Count; i++)
        {
            if (heads[i].Head.Size > at)
                at = Segment(at, heads, ref i);
        }
        // Behind the last good head there is no signature: the records can only speak for themselves.
        for (; at < _page.To; at++)
            AcceptOrMiss(at, null);
        CheckTiles();
        return new LogFindings
        {
            From = From,
            To = _page.To,
            Violations = _violations,
            Gone = _gone,
            Head = _head,
            Leaves = _leaves,
            Frontier = _frontier,
            Chains = _chains,
            LastRecordedAt = _lastRecordedAt,
        };
    }

    private void Place()
    {
        foreach (var vote in _page.Records)
        {
            var index = vote.Stored.LogIndex - From;
            if (index >= 0 && index < _rows.Length && _rows[index] is null)
                _rows[index] = vote;
            else
                ReportInserted(vote.Stored, $"The log has no place {vote.Stored.LogIndex} for it.");
        }
    }

    /// <summary>The head that a row says, or null where it proves nothing.</summary>
    private LogHead? Checked(LogHeadRow row)
    {
        // The version before signed nothing; the first head that is signed covers what was there.
        if (row.SignedNote.Length == 0 && row.Frontier is null)
            return null;
        var head = _check(row);
        if (row.Says(head))
            return head;
        _violations.Add(new Violation(ViolationClass.SignatureInvalid, WorkflowKey.None, 0,
            head is null
                ? $"The stored head of size {row.Size} is not one that the log's key has signed."
                : $"What is stored of the head of size {row.Size} is not what was signed.")
        {
            LogIndex = row.Size,
            ExpectedHash = head?.Root,
            ActualHash = row.Root,
        });
        return head is not null && head.Size == row.Size ? head : null;
    }

    /// <summary>Goes from one place to the next head. Gives the place it came to.</summary>
    private long Segment(long from, List<(LogHeadRow Row, LogHead Head)> heads, ref int i)
    {
        var (row, head) = heads[i];
        if (TryFollow(from, head))
        {
            _head = row;
            return head.Size;
        }
        if (Resolve(from, head.Size, head.Root) is { } leaves)
        {
            _head = row;
            for (var index = from; index < head.Size; index++)
                Settle(index, leaves[index - from], head.LogId);
            return head.Size;
        }
        for (var later = i + 1; later < heads.Count && later <= i + ForkedHeadsMax; later++)
        {
            if (!TryFollow(from, heads[later].Head))
                continue;
            foreach (var (forkedRow, forked) in heads.Skip(i).Take(later - i))
            {
                _violations.Add(new Violation(ViolationClass.LogForked, WorkflowKey.None, 0,
                    $"The signed head of size {forked.Size} contradicts that of size {heads[later].Head.Size}.")
                { LogIndex = forkedRow.Size, ExpectedHash = null, ActualHash = forked.Root });
            }
            i = later;
            _head = heads[later].Row;
            return heads[later].Head.Size;
        }
        GiveUp(from, row, head);
        return head.Size;
    }

    /// <summary>Whether the records as they vote lead to a head; if they do, they are accepted.</summary>
    private bool TryFollow(long from, LogHead head)
    {
        for (var index = from; index < head.Size; index++)
        {
            if (index - From >= _rows.Length || _rows[index - From] is null)
                return false;
        }
        var completed = new List<(Subtree, Hash)>();
        for (var index = from; index < head.Size; index++)
            Append(_rows[index - From]!.Hash, completed);
        if (_frontier.Root != head.Root)
        {
            TakeBack();
            return false;
        }
        _completed.AddRange(completed);
        for (var index = from; index < head.Size; index++)
            Accept(_rows[index - From]!, head.LogId);
        return true;
    }

    private void Append(Hash leaf, List<(Subtree, Hash)> completed) => _frontier.Append(leaf, (subtree, hash) =>
    {
        if (subtree.Level % Tile.Levels == 0)
            completed.Add((subtree, hash));
    });

    /// <summary>The tree as it was before what was only tried.</summary>
    private void TakeBack()
    {
        _frontier = _anchor?.Clone() ?? _start.Clone();
        foreach (var leaf in _leaves.Skip((int)(_frontier.Size - From)))
            _frontier.Append(leaf ?? default);
    }

    private void AcceptOrMiss(long index, string? logId)
    {
        if (_rows[index - From] is { } vote)
        {
            Append(vote.Hash, _completed);
            Accept(vote, logId);
            return;
        }
        var leaf = Array.Find(Sources(index), hash => hash is not null);
        Append(leaf ?? default, []);
        _leaves.Add(leaf);
        ReportMissing(index, leaf is { } hash ? Original(index, hash, null) : null, leaf);
    }

    /// <summary>The record's own hash is its leaf.</summary>
    private void Accept(RecordVote vote, string? logId)
    {
        _leaves.Add(vote.Hash);
        var record = vote.Record;
        if (vote.Finding is not null)
            ReportUnsound(vote);
        foreach (var part in vote.Parts)
        {
            if (part.Actual is null)
                _gone.Add((vote.Stored with { Record = record }, part.Name));
            else
                _violations.Add(part.Altered(record.Key, record.Sequence, vote.Stored.LogIndex));
        }
        if (vote.IsSound)
            CheckRules(record, vote.Stored.LogIndex, logId);
        Follow(record, vote.Hash);
    }

    private void CheckRules(Record record, long logIndex, string? logId)
    {
        var before = Before(record.Key, record.Sequence);
        if (before is { } previous && record.Sequence != previous.Sequence + 1)
        {
            var isGap = record.Sequence > previous.Sequence;
            _violations.Add(new Violation(isGap ? ViolationClass.RecordMissing : ViolationClass.RecordInserted, record.Key,
                isGap ? previous.Sequence + 1 : record.Sequence,
                $"Record {previous.Sequence + 1} was expected here, and record {record.Sequence} was found.")
            { LogIndex = logIndex, ExpectedHash = previous.Hash });
            return;
        }
        foreach (var problem in ChainRules.Problems(ChainStep.Of(record), before, before?.Hash, null, before?.LeaseEpoch ?? 0))
            Report(problem.Class, problem.Message, problem.Expected, problem.Actual);
        if (record.LogId != logId)
            return;
        if (record.RecordedAt < _lastRecordedAt)
            Report(ViolationClass.ClockRegression, "Its recorded_at is before that of a record before it in the log.");
        _lastRecordedAt = Math.Max(_lastRecordedAt, record.RecordedAt);

        void Report(ViolationClass @class, string message, Hash? expected = null, Hash? actual = null) =>
            _violations.Add(new Violation(@class, record.Key, record.Sequence, message)
            { LogIndex = logIndex, ExpectedHash = expected, ActualHash = actual });
    }

    /// <summary>Where the chain stood. What was read beforehand was read for the rows as they stand, which may be out of place.</summary>
    private ChainPoint? Before(WorkflowKey key, long sequence) =>
        _chains.TryGetValue(key, out var point) ? point
        : _known(key) is { } known ? known
        : _page.Before.TryGetValue(key, out var read) && read.Sequence == sequence - 1 ? read
        : null;

    private void Follow(Record record, Hash hash) =>
        _chains[record.Key] = ChainPoint.Of(record, hash, Before(record.Key, record.Sequence)?.LeaseEpoch ?? 0);

    private void ReportInserted(StoredRecord stored, string message) =>
        _violations.Add(new Violation(ViolationClass.RecordInserted, stored.Record.Key, stored.Record.Sequence, message)
        { LogIndex = stored.LogIndex, ActualHash = stored.Hash });

    private void ReportMissing(long index, Record? original, Hash? leaf) =>
        _violations.Add(new Violation(ViolationClass.RecordMissing, original?.Key ?? WorkflowKey.None, original?.Sequence ?? 0,
            original is null
                ? $"The record {index} of the log is gone, and which one it was is kept nowhere."
                : $"Record {original.Sequence} is gone.")
        { LogIndex = index, ExpectedHash = leaf });
}
