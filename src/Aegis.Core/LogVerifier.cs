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
    private readonly Func<long, ReadOnlyMemory<byte>?> _remembered;
    private readonly Dictionary<WorkflowKey, ChainPoint> _chains = [];
    private MerkleFrontier _frontier;
    private long _lastRecordedAt;

    /// <param name="start">The tree up to where verification begins, vouched for by a signed head.</param>
    /// <param name="check">The head that a stored note says under a valid signature of the log's key, or null.</param>
    /// <param name="remembered">The encoded record of a log_index where the caller knows it, else null.</param>
    public LogVerifier(MerkleFrontier start, Func<LogHeadRow, LogHead?> check,
        Func<long, ReadOnlyMemory<byte>?>? remembered = null)
    {
        _frontier = start;
        _check = check;
        _remembered = remembered ?? (_ => null);
    }

    /// <summary>How far it has come: the log_index of the next record.</summary>
    public long Size => _frontier.Size;

    /// <summary>The tree so far.</summary>
    public MerkleFrontier Frontier => _frontier.Clone();

    /// <summary>The newest head that the records led to.</summary>
    public LogHeadRow? Head { get; private set; }

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

    /// <summary>Verifies the page that comes next; changes nothing, so that a page that was found wanting can be read again.</summary>
    public LogFindings Verify(LogPage page) =>
        new LogPass(page, _frontier, _check, _remembered, Chain, _lastRecordedAt).Run();

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
