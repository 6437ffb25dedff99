using System.Runtime.CompilerServices;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Reads the log page by page and has it verified, up to the size of a head that was read before it began. Whatever is found is
/// read once more before it is told: several servers write while this reads, and none of that may ever look like a violation.
/// Used by one task.
/// </summary>
/// <param name="place">Where it reads. At a replica, what is found is read once more at the primary, and so is all that follows.</param>
/// <param name="verifier">What goes along the log.</param>
public sealed partial class LogRun(ReadPlace place, LogVerifier verifier)
{
    private const int RecordsPerPage = 2048;

    // Where heads are missing, the distance over which the next one is looked for.
    private const int RecordsPerPageMax = 16_384;

    // Each holds two records.
    private const int WitnessesMax = 50_000;

    private readonly HashSet<WorkflowKey> _toldGone = [];

    // The newest record that went by of each workflow whose head was not looked at since, and those whose heads were further.
    private readonly Dictionary<WorkflowKey, long> _touched = [];
    private readonly HashSet<WorkflowKey> _ahead = [];

    // Of workflows whose records went by from the first on: they tell what the head has to say without being read again.
    private readonly Dictionary<WorkflowKey, Witnesses> _witnesses = [];

    /// <summary>Where it reads from the next page on.</summary>
    public ReadPlace Place { get; set; } = place;

    private ILedgerStore Store => Place.Store;

    /// <summary>Is told what was found at a replica and not confirmed by the primary.</summary>
    public Action<ReadPlace, IReadOnlyList<Violation>>? Judge { get; init; }

    /// <summary>Records below this place are followed from those before them in this run alone: they were checked before.</summary>
    public long LinksFrom { get; init; }

    /// <summary>Heads of workflows that were found to be as they should; those that are still the same need no further look.</summary>
    public Dictionary<WorkflowKey, Workflow> GoodHeads { get; init; } = [];

    /// <summary>How many pages are read, and their records hashed, at once.</summary>
    public int PagesAtOnce { get; init; } = 1;

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
        var reading = new Queue<Task<LogPage>>();
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        try
        {
            for (var from = Size; from < end || reading.Count > 0;)
            {
                while (from < end && reading.Count < PagesAtOnce)
                {
                    var (first, to) = (from, await EndOfPageAsync(from, end, cancellationToken));
                    reading.Enqueue(Task.Run(() => ReadAsync(first, to, ending.Token), cancellationToken));
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
        BytesRead += page.Tiles.Sum(t => (long)t.Hashes.Length + t.Entries.Length);
        foreach (var vote in page.Records)
        {
            BytesRead += vote.Stored.SizeEstimate();
            _touched[vote.Record.Key] = Math.Max(vote.Record.Sequence, _touched.GetValueOrDefault(vote.Record.Key));
            Witness(vote);
        }
        concerns = await WithoutImportsAsync(concerns, cancellationToken);
        return new LogStep(page, findings, await NamedAsync(concerns, cancellationToken));
    }

    /// <summary>What was found is looked at again where nothing but the log itself can be wrong. Gives where it was found.</summary>
    private ReadPlace TurnToPrimary()
    {
        var found = Place;
        Place = Place.Primary ?? Place;
        return found;
    }

    private void Confirm(ReadPlace place, IReadOnlyList<Violation> found, IReadOnlyList<Violation> confirmed)
    {
        if (place.Replica is not null && confirmed.Count == 0)
            Judge?.Invoke(place, found);
    }

    private void Witness(RecordVote vote)
    {
        var (key, sequence) = (vote.Record.Key, vote.Record.Sequence);
        var before = _witnesses.GetValueOrDefault(key);
        if (!vote.IsSound || (sequence == 1 ? _witnesses.Count >= WitnessesMax : before?.Last.Record.Sequence != sequence - 1))
            _witnesses.Remove(key);
        else
            _witnesses[key] = new Witnesses(before?.First ?? vote, vote, vote.Record.IsCheckpoint ? sequence : before?.Checkpoint ?? 0);
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

    private async Task<LogPage> WithBeforeAsync(LogPage page, CancellationToken cancellationToken)
    {
        var wanted = verifier.Wanted(page.Records.Where(r => r.Stored.LogIndex >= LinksFrom));
        if (wanted.Count == 0)
            return page;
        var before = new Dictionary<WorkflowKey, ChainPoint>();
        foreach (var stored in await Store.ReadRecordsAsync(wanted, cancellationToken))
        {
            var vote = RecordVote.Of(stored);
            before[vote.Record.Key] = ChainPoint.Of(vote.Record, vote.Hash);
        }
        // One that is gone says nothing of its successor, and is told in its own place.
        foreach (var (key, sequence) in wanted.Where(w => before.TryGetValue(w.Key, out var point) && point.Sequence != w.Sequence))
            before.Remove(key);
        return page with { Before = before };
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

/// <summary>The records that a workflow's head is compared with.</summary>
internal sealed record Witnesses(RecordVote First, RecordVote Last, long Checkpoint);

/// <summary>One page, what came out of it, and what is wrong in it.</summary>
public sealed record LogStep(LogPage Page, LogFindings Findings, IReadOnlyList<Violation> Violations)
{
    /// <summary>Its records that describe a snapshot, as they are vouched for.</summary>
    public IEnumerable<StoredRecord> Carrying =>
        Page.Records.Where(v => v.IsSound && v.Record.Snapshot is not null).Select(v => v.Stored);
}
