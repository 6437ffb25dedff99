namespace Aegis.Core;

/// <summary>
/// Verifies the log in its own order, page by page, so that a log of any length can stream through. It begins with a tree that is
/// trusted, lets every record vote on its own hash, and follows the tree from one signed head to the next: what leads to a signed
/// root is the truth, and where the stored records do not, the tiles, what the caller remembers, and the stored hashes are asked
/// which leaves do. Not thread-safe.
/// </summary>
public sealed class LogVerifier
{
    private const int ChainsMax = 16_384;

    private readonly Func<LogHeadRow, LogHead?> _check;
    private readonly Func<long, ReadOnlyMemory<byte>?>? _remembered;
    private readonly Dictionary<WorkflowKey, ChainPoint> _chains = [];
    private MerkleFrontier _frontier;
    private long _lastRecordedAt;

    /// <param name="start">The tree up to where verification begins, vouched for by a signed head.</param>
    /// <param name="check">The head that a stored note says under a valid signature of the log's key, or null.</param>
    /// <param name="remembered">The encoded record of a log_index where the caller knows it, else null. Whoever gives it remembers.</param>
    public LogVerifier(MerkleFrontier start, Func<LogHeadRow, LogHead?> check,
        Func<long, ReadOnlyMemory<byte>?>? remembered = null)
    {
        _frontier = start;
        _check = check;
        _remembered = remembered;
    }

    /// <summary>How far it has come: the log_index of the next record.</summary>
    public long Size => _frontier.Size;

    /// <summary>The tree so far.</summary>
    public MerkleFrontier Frontier => _frontier.Clone();

    /// <summary>The newest head that the records led to.</summary>
    public LogHeadRow? Head { get; private set; }

    /// <summary>
    /// Begins to look at the page after a size, whose head it ends with, at the bytes alone. Signatures are checked meanwhile, so on
    /// whatever thread this is called on.
    /// </summary>
    public LogOutline Outline(long from, long to, IReadOnlyList<LogHeadRow> heads, IReadOnlyList<LogTileRow> tiles) =>
        new(from, to, heads, tiles, _check, _remembered);

    /// <summary>The records, of those before a page, that the chains in it go on from and that are not known any more.</summary>
    public IReadOnlyList<(WorkflowKey Key, long Sequence)> Wanted(IEnumerable<RecordVote> records)
    {
        var seen = new HashSet<WorkflowKey>();
        var wanted = new List<(WorkflowKey, long)>();
        foreach (var vote in records)
        {
            if (seen.Add(vote.Record.Key) && vote.Record.Sequence > 1 && !_chains.ContainsKey(vote.Record.Key))
                wanted.Add((vote.Record.Key, vote.Record.Sequence - 1));
        }
        return wanted;
    }

    /// <summary>The same of the chains of a page that was only looked at.</summary>
    public IReadOnlyList<(WorkflowKey Key, long Sequence)> Wanted(IEnumerable<ChainStretch> chains) =>
        [.. chains.Where(c => c.FirstSequence > 1 && !_chains.ContainsKey(c.Key)).Select(c => (c.Key, c.FirstSequence - 1))];

    /// <summary>
    /// What the page that comes next gives where all of it is in order; null where it has to be verified record by record, since
    /// something is not, or cannot be told from its outline alone. Changes nothing.
    /// </summary>
    /// <param name="outline">The page.</param>
    /// <param name="before">As <see cref="LogPage.Before"/>.</param>
    public LogFindings? Verify(LogOutline outline, IReadOnlyDictionary<WorkflowKey, ChainPoint> before)
    {
        var frontier = _frontier.Clone();
        if (!outline.IsInOrder || outline.From != Size || outline.FirstRecordedAt < _lastRecordedAt || !outline.LeadsToHeads(frontier))
            return null;
        var chains = new Dictionary<WorkflowKey, ChainPoint>(outline.Chains.Count);
        foreach (var chain in outline.Chains)
        {
            var point = Chain(chain.Key) ?? (before.TryGetValue(chain.Key, out var read) && read.Sequence == chain.FirstSequence - 1
                ? read
                : (ChainPoint?)null);
            if (!chain.Follows(point))
                return null;
            chains[chain.Key] = chain.Last with { LeaseEpoch = Math.Max(chain.Last.LeaseEpoch, point?.LeaseEpoch ?? 0) };
        }
        return new LogFindings
        {
            From = outline.From,
            To = outline.To,
            Violations = [],
            Gone = [],
            Head = outline.Head,
            Leaves = [],
            Frontier = frontier,
            Chains = chains,
            LastRecordedAt = Math.Max(_lastRecordedAt, outline.LastRecordedAt),
        };
    }

    /// <summary>Verifies the page that comes next; changes nothing, so that a page that was found wanting can be read again.</summary>
    public LogFindings Verify(LogPage page) =>
        new LogPass(page, _frontier, _check, _remembered ?? (_ => null), Chain, _lastRecordedAt).Run();

    /// <summary>Goes on behind a page.</summary>
    public void Advance(LogFindings findings)
    {
        _frontier = findings.Frontier;
        _lastRecordedAt = findings.LastRecordedAt;
        Head = findings.Head ?? Head;
        if (_chains.Count + findings.Chains.Count > ChainsMax)
            _chains.Clear();
        foreach (var (key, point) in findings.Chains)
            _chains[key] = point;
    }

    private ChainPoint? Chain(WorkflowKey key) => _chains.TryGetValue(key, out var point) ? point : null;
}
