using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// The newest records of the log as they were when they were first verified, and the tree before them. What is altered or deleted
/// among them is told against this memory, also where the log's own tiles are altered too. Used by one task.
/// </summary>
internal sealed class AuditWindow(MerkleFrontier start, LogSigner signer)
{
    private readonly Dictionary<long, Known> _records = [];
    private readonly Dictionary<long, (string Note, LogHead Head)> _heads = [];
    private readonly List<MerkleFrontier> _steps = [];
    private MerkleFrontier _start = start;
    private long _lookedAt;

    /// <summary>The first log_index in it.</summary>
    public long From => _start.Size;

    /// <summary>How far it goes.</summary>
    public long Size { get; private set; } = start.Size;

    /// <summary>The heads of workflows as they were last found to be in order.</summary>
    public Dictionary<WorkflowKey, Workflow> GoodHeads { get; } = [];

    /// <summary>Looks at the whole window once more, and at what came since.</summary>
    /// <param name="store">The store.</param>
    /// <param name="size">That of the newest head, which was read before: what is found in order from now on still was at that head.</param>
    public LogRun Again(ILedgerStore store, long size)
    {
        _lookedAt = size;
        _steps.Clear();
        // One page at a time: nothing is remembered while a page is compared with it.
        var verifier = new LogVerifier(_start.Clone(), Check,
            index => _records.TryGetValue(index, out var known) ? known.Encoded : null);
        return new LogRun(store, verifier) { LinksFrom = Size, GoodHeads = GoodHeads, ByOutline = true };
    }

    /// <summary>Remembers what was verified.</summary>
    public void Take(LogRun run, LogStep step)
    {
        var findings = step.Findings;
        foreach (var vote in step.Page.Records)
        {
            var place = vote.Stored.LogIndex - findings.From;
            if (place >= 0 && place < findings.Leaves.Count && vote.IsSound && findings.Leaves[(int)place] == vote.Hash)
                Remember(vote.Stored.LogIndex, vote.Stored.Encoded);
        }
        if (step.Page.Outline is { } outline)
        {
            for (var i = 0; i < outline.Encoded.Count; i++)
                Remember(outline.From + i, outline.Encoded[i]);
        }
        _steps.Add(run.Frontier);
    }

    private void Remember(long index, ReadOnlyMemory<byte> encoded)
    {
        if (_records.TryGetValue(index, out var known))
            known.GoodAt = _lookedAt;
        else
            _records[index] = new Known(encoded) { GoodAt = _lookedAt };
    }

    /// <summary>Lets go of what lies further back than wanted. The window begins where a page, and so a head, ended.</summary>
    public void MoveOn(long size, int records)
    {
        Size = size;
        if (_steps.FindLast(s => s.Size <= size - records) is not { } start || start.Size <= From)
            return;
        _start = start;
        foreach (var index in _records.Keys.Where(i => i < From).ToList())
            _records.Remove(index);
        foreach (var head in _heads.Keys.Where(s => s <= From).ToList())
            _heads.Remove(head);
        if (GoodHeads.Count > 4 * records)
            GoodHeads.Clear();
    }

    /// <summary>The size of the newest head at which a place was found in order; 0 when it never was.</summary>
    public long GoodAt(Violation violation) =>
        violation.LogIndex is { } index ? _records.GetValueOrDefault(index)?.GoodAt ?? 0
        : GoodHeads.ContainsKey(violation.Key) ? Size
        : 0;

    /// <summary>A note that was found to be signed need not be checked again while it stays the same.</summary>
    private LogHead? Check(LogHeadRow row)
    {
        if (_heads.TryGetValue(row.Size, out var known) && known.Note == row.SignedNote)
            return known.Head;
        if (signer.Verify(row.SignedNote) is not { } head)
            return null;
        _heads[row.Size] = (row.SignedNote, head);
        return head;
    }

    private sealed class Known(ReadOnlyMemory<byte> encoded)
    {
        public ReadOnlyMemory<byte> Encoded { get; } = encoded;
        public long GoodAt { get; set; }
    }
}
