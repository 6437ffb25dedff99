using System.Runtime.CompilerServices;
using Aegis.Core;

namespace Aegis.Storage;

/// <summary>
/// Reads the log page by page and has it verified, up to the size of a head that was read before it began. Whatever is found is
/// read once more before it is told: several servers write while this reads, and none of that may ever look like a violation.
/// Used by one task.
/// </summary>
/// <param name="store">Where it reads.</param>
/// <param name="verifier">What goes along the log.</param>
public sealed partial class LogRun(ILedgerStore store, LogVerifier verifier)
{
    // Larger pages are read in fewer round trips.
    private const int RecordsPerLargePage = 8192;

    // Where heads are missing, the distance over which the next one is looked for.
    private const int RecordsPerPageMax = 16_384;

    private const int WitnessesMax = 50_000;

    private readonly HashSet<WorkflowKey> _toldGone = [];

    // The newest record that went by of each workflow whose head was not looked at since, and those whose heads were further.
    private readonly Dictionary<WorkflowKey, long> _touched = [];
    private readonly HashSet<WorkflowKey> _ahead = [];

    // Of workflows whose records went by from the first on: they tell what the head has to say without being read again.
    private readonly Dictionary<WorkflowKey, Witnesses> _witnesses = [];

    private Action<IReadOnlyList<Violation>>? _unconfirmed;

    // How far the pages go that were asked for.
    private long _end = long.MaxValue;

    /// <summary>One that goes through the log as fast as it can: on all cores, by the outlines of its pages.</summary>
    public static LogRun OnAllCores(ILedgerStore store, LogVerifier verifier) => new(store, verifier)
    {
        PagesAtOnce = Environment.ProcessorCount + 1,
        RecordsPerPage = RecordsPerLargePage,
        ByOutline = true,
    };

    /// <summary>Where it reads.</summary>
    public ILedgerStore Store { get; private set; } = store;

    /// <summary>While it reads at a replica, where what is found is read once more, and all that follows; else null.</summary>
    public ILedgerStore? Primary { get; private set; }

    /// <summary>Reads elsewhere from the next page on.</summary>
    /// <param name="at">Where.</param>
    /// <param name="primary">See <see cref="Primary"/>.</param>
    /// <param name="unconfirmed">Is told what was found at a replica and the primary does not confirm.</param>
    public void ReadAt(ILedgerStore at, ILedgerStore? primary, Action<IReadOnlyList<Violation>>? unconfirmed) =>
        (Store, Primary, _unconfirmed) = (at, primary, unconfirmed);

    /// <summary>Records below this place are followed from those before them in this run alone: they were checked before.</summary>
    public long LinksFrom { get; init; }

    /// <summary>Heads of workflows that were found to be as they should; those that are still the same need no further look.</summary>
    public Dictionary<WorkflowKey, Workflow> GoodHeads { get; init; } = [];

    /// <summary>How many pages are read, and their records hashed, at once.</summary>
    public int PagesAtOnce { get; init; } = 1;

    /// <summary>How many records a page has, roughly: it ends with a head.</summary>
    public int RecordsPerPage { get; init; } = 2048;

    /// <summary>
    /// Whether a page is looked at as a whole first, and its records are made only where that leaves a doubt. Its
    /// <see cref="LogPage.Records"/> are then not to be had.
    /// </summary>
    public bool ByOutline { get; init; }

    /// <summary>How many bytes of records, tiles and snapshots were read, roughly.</summary>
    public long BytesRead { get; private set; }

    public long SnapshotsVerified { get; private set; }

    /// <summary>The newest head that the records led to.</summary>
    public LogHeadRow? Head => verifier.Head;

    /// <summary>How far it has come.</summary>
    public long Size => verifier.Size;

    /// <summary>The tree so far.</summary>
    public MerkleFrontier Frontier => verifier.Frontier;

    /// <summary>The pages from where the run stands to an end, in order. Those to come are read while one is judged.</summary>
    public async IAsyncEnumerable<LogPage> PagesAsync(long end, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        _end = end;
        var reading = new Queue<Task<LogPage>>();
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        try
        {
            for (var from = Size; from < end || reading.Count > 0;)
            {
                while (from < end && reading.Count < PagesAtOnce)
                {
                    var (first, to) = (from, await EndOfPageAsync(from, end, cancellationToken));
                    reading.Enqueue(Task.Run(() => ByOutline
                        ? OutlineAsync(first, to, ending.Token)
                        : ReadAsync(first, to, ending.Token), cancellationToken));
                    from = to;
                }
                yield return await reading.Dequeue();
            }
        }
        finally
        {
            await ending.CancelAsync();
            foreach (var page in reading)
                await ((Task)page).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    /// <summary>Judges the page that comes next. Gives what is wrong in it.</summary>
    public async Task<LogStep> JudgeAsync(LogPage page, CancellationToken cancellationToken)
    {
        var from = Size;
        if (page.Outline is { } outline)
        {
            if (await FollowAsync(page, outline, cancellationToken) is { } step)
                return step;
            BytesRead += outline.Bytes + BytesOf(page.Tiles);
            page = await ReadAsync(from, page.To, cancellationToken);
        }
        page = await WithBeforeAsync(page, cancellationToken);
        var findings = verifier.Verify(page);
        var concerns = await ConcernsAsync(page, findings, cancellationToken);
        if (concerns.Count > 0)
        {
            var (before, at) = (concerns, TurnToPrimary());
            page = await WithBeforeAsync(await ReadAsync(from, page.To, cancellationToken), cancellationToken);
            findings = verifier.Verify(page);
            var again = await ConcernsAsync(page, findings, cancellationToken);
            concerns = [.. again.Where(v => before.Exists(c => IsSame(c, v)))];
            Confirm(at, before, concerns);
        }
        verifier.Advance(findings);
        BytesRead += BytesOf(page.Tiles);
        foreach (var vote in page.Records)
        {
            BytesRead += vote.Stored.SizeEstimate();
            Touch(vote.Record.Key, vote.Record.Sequence);
            Witness(vote);
        }
        concerns = await WithoutImportsAsync(concerns, cancellationToken);
        return new LogStep(page, findings, await NamedAsync(concerns, cancellationToken));
    }

    /// <summary>Goes on behind a page if all of it is in order.</summary>
    private async Task<LogStep?> FollowAsync(LogPage page, LogOutline outline, CancellationToken cancellationToken)
    {
        var wanted = verifier.Wanted(outline.Chains.Where(c => c.FirstLogIndex >= LinksFrom));
        if (verifier.Verify(outline, await BeforeAsync(wanted, cancellationToken)) is not { } findings)
            return null;
        verifier.Advance(findings);
        BytesRead += outline.Bytes + BytesOf(page.Tiles);
        foreach (var chain in outline.Chains)
        {
            Touch(chain.Key, chain.Last.Sequence);
            Witness(chain.Key, chain.FirstSequence, chain.Start, chain.Last, chain.CheckpointSequence);
        }
        return new LogStep(page, findings, []);
    }

    private static long BytesOf(IReadOnlyList<LogTileRow> tiles) => tiles.Sum(t => (long)t.Hashes.Length + t.Entries.Length);

    private void Touch(WorkflowKey key, long sequence) => _touched[key] = Math.Max(sequence, _touched.GetValueOrDefault(key));

    /// <summary>What was found is looked at again where nothing but the log itself can be wrong. Gives who is told of what is not.</summary>
    private Action<IReadOnlyList<Violation>>? TurnToPrimary()
    {
        var unconfirmed = _unconfirmed;
        (Store, Primary, _unconfirmed) = (Primary ?? Store, null, null);
        return unconfirmed;
    }

    private static void Confirm(
        Action<IReadOnlyList<Violation>>? unconfirmed, IReadOnlyList<Violation> found, IReadOnlyList<Violation> confirmed)
    {
        if (confirmed.Count == 0)
            unconfirmed?.Invoke(found);
    }

    private void Witness(RecordVote vote)
    {
        var record = vote.Record;
        if (vote.IsSound)
        {
            Witness(record.Key, record.Sequence, record.Sequence == 1 ? ChainStart.Of(record, vote.Stored.LogIndex) : null,
                ChainPoint.Of(record, vote.Hash), record.IsCheckpoint ? record.Sequence : 0);
        }
        else
        {
            _witnesses.Remove(record.Key);
        }
    }

    private void Witness(WorkflowKey key, long firstSequence, ChainStart? start, in ChainPoint last, long checkpoint)
    {
        var before = _witnesses.GetValueOrDefault(key);
        start = before?.Start ?? start;
        if (start is null || (firstSequence == 1 ? _witnesses.Count >= WitnessesMax : before?.Last.Sequence != firstSequence - 1))
            _witnesses.Remove(key);
        else
            _witnesses[key] = new Witnesses(start, last, checkpoint > 0 ? checkpoint : before?.Checkpoint ?? 0);
    }

    private async Task<long> EndOfPageAsync(long from, long end, CancellationToken cancellationToken)
    {
        var near = await Store.ReadHeadsBackAsync(Math.Min(end, from + RecordsPerPage), 1, cancellationToken);
        if (near is [var last] && last.Size > from)
            return last.Size;
        var next = await Store.ReadHeadsAsync(from, end, 1, cancellationToken);
        return next is [var far] && far.Size - from <= RecordsPerPageMax ? far.Size : Math.Min(end, from + RecordsPerPage);
    }

    private async Task<LogPage> ReadAsync(long from, long to, CancellationToken cancellationToken)
    {
        var count = (int)(to - from);
        var reading = Store.ReadLogAsync(from, to, 2 * count, cancellationToken);
        var heads = await Store.ReadHeadsAsync(from, to, 2 * count, cancellationToken);
        var tiles = await TilesAsync(from, to, cancellationToken);
        return new LogPage { To = to, Records = await reading, Heads = heads, Tiles = tiles };
    }

    /// <summary>The tiles of level 0 that the page touches, and those above that it completes.</summary>
    private async Task<List<LogTileRow>> TilesAsync(long from, long to, CancellationToken cancellationToken)
    {
        var tiles = new List<LogTileRow>();
        for (var level = 0; to >> (Tile.Levels * (level + 1)) > 0; level++)
        {
            var shift = Tile.Levels * (level + 1);
            var last = level == 0 ? ((to - 1) >> shift) + 1 : to >> shift;
            if (from >> shift < last)
                tiles.AddRange(await Store.ReadTilesAsync(level, from >> shift, last, cancellationToken));
        }
        return tiles;
    }

    private async Task<LogPage> OutlineAsync(long from, long to, CancellationToken cancellationToken)
    {
        var heads = Store.ReadHeadsAsync(from, to, 2 * (int)(to - from), cancellationToken);
        var tiles = await TilesAsync(from, to, cancellationToken);
        var signed = await heads;
        var outline = await Store.ReadOutlineAsync(() => verifier.Outline(from, to, signed, tiles), cancellationToken);
        outline.Complete();
        return new LogPage { To = to, Outline = outline, Heads = signed, Tiles = tiles };
    }

    private async Task<LogPage> WithBeforeAsync(LogPage page, CancellationToken cancellationToken) => page with
    {
        Before = await BeforeAsync(verifier.Wanted(page.Records.Where(r => r.Stored.LogIndex >= LinksFrom)), cancellationToken),
    };

    private async Task<IReadOnlyDictionary<WorkflowKey, ChainPoint>> BeforeAsync(
        IReadOnlyCollection<(WorkflowKey Key, long Sequence)> wanted, CancellationToken cancellationToken)
    {
        var before = new Dictionary<WorkflowKey, ChainPoint>();
        if (wanted.Count == 0)
            return before;
        foreach (var stored in await Store.ReadRecordsAsync(wanted, cancellationToken))
        {
            var vote = RecordVote.Of(stored);
            before[vote.Record.Key] = ChainPoint.Of(vote.Record, vote.Hash);
        }
        // One that is gone says nothing of its successor, and is told in its own place.
        foreach (var (key, sequence) in wanted.Where(w => before.TryGetValue(w.Key, out var point) && point.Sequence != w.Sequence))
            before.Remove(key);
        return before;
    }

    private static bool IsSame(Violation a, Violation b) =>
        (a.Class, a.Key, a.Sequence, a.LogIndex) == (b.Class, b.Key, b.Sequence, b.LogIndex);

    /// <summary>
    /// Says of missing records what they are together: a workflow that is gone, once; a tail that is cut, once; else each.
    /// </summary>
    private async Task<List<Violation>> NamedAsync(List<Violation> violations, CancellationToken cancellationToken)
    {
        var keys = violations.Where(v => v.Class == ViolationClass.RecordMissing && v.Key != WorkflowKey.None)
            .Select(v => v.Key).Distinct().ToList();
        if (keys.Count == 0)
            return violations;
        var newest = (await Store.ReadRecordsAsync([.. keys.Select(k => (k, long.MaxValue))], cancellationToken))
            .ToDictionary(r => r.Record.Key, r => r.Record.Sequence);
        var named = new List<Violation>();
        foreach (var violation in violations)
        {
            if (violation.Class != ViolationClass.RecordMissing || violation.Key == WorkflowKey.None
                || newest.GetValueOrDefault(violation.Key) > violation.Sequence)
            {
                named.Add(violation);
            }
            else if (_toldGone.Add(violation.Key))
            {
                named.Add(newest.ContainsKey(violation.Key)
                    ? violation with
                    {
                        Class = ViolationClass.TailTruncated,
                        Message = $"The records from {violation.Sequence} on, the newest, are gone.",
                    }
                    : violation with
                    {
                        Class = ViolationClass.WorkflowDeleted,
                        Message = "The workflow is gone with all its records.",
                    });
            }
        }
        return named;
    }
}

/// <summary>What a workflow's records went by with, from the first on: its head is compared with it.</summary>
internal sealed record Witnesses(ChainStart Start, ChainPoint Last, long Checkpoint);

/// <summary>One page, what came out of it, and what is wrong in it.</summary>
public sealed record LogStep(LogPage Page, LogFindings Findings, IReadOnlyList<Violation> Violations)
{
    /// <summary>The snapshots that its records describe, as they are vouched for; of an outline chain by chain.</summary>
    public IEnumerable<CarriedSnapshot> Carried => Page.Outline is { } outline
        ? outline.Chains.SelectMany(c => c.Snapshots)
        : Page.Records.Where(v => v.IsSound && v.Record.Snapshot is not null).Select(v => CarriedSnapshot.Of(v.Stored));
}
