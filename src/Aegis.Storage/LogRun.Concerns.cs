using Aegis.Core;

namespace Aegis.Storage;

// What the pages alone do not tell: erasures, snapshots, and the heads of workflows.
public sealed partial class LogRun
{
    private const int KeysAtOnce = 1000;
    private const int AheadMax = 200_000;
    private const long SnapshotBytesAtOnce = 8L * 1024 * 1024;

    /// <summary>
    /// The violations of a page, and the values that are gone from it without a record of their erasure.
    /// </summary>
    private async Task<List<Violation>> ConcernsAsync(LogPage page, LogFindings findings, CancellationToken cancellationToken)
    {
        var concerns = findings.Violations.ToList();
        foreach (var chain in findings.Gone.GroupBy(g => g.Record.Record.Key))
        {
            var erasures = await Store.ErasuresAsync(chain.Key, 1, cancellationToken).ToListAsync(cancellationToken);
            foreach (var (stored, part) in chain)
            {
                // What an ERASURE says can never be erased itself.
                var mayBeErased = stored.Record.Kind != RecordKind.Erasure || part != "content";
                if (mayBeErased && erasures.Exists(e => e.Covers(stored.Record.Sequence, part)))
                    continue;
                concerns.Add(new Violation(ViolationClass.ErasedWithoutRecord, chain.Key, stored.Record.Sequence,
                    $"The values of the part \"{part}\" are gone and no ERASURE record covers them.")
                {
                    LogIndex = stored.LogIndex,
                    Differences = [new Difference(part, null, null)],
                });
            }
        }
        return concerns;
    }

    /// <summary>
    /// An import enters in slices: until its last, values may be gone whose erasure is still to come, and a chain that comes home
    /// to this log was recorded before.
    /// </summary>
    private async Task<List<Violation>> WithoutImportsAsync(List<Violation> violations, CancellationToken cancellationToken)
    {
        var kept = new List<Violation>();
        foreach (var violation in violations)
        {
            var excused = violation.Class switch
            {
                ViolationClass.ErasedWithoutRecord => await IsImportingAsync(violation.Key, cancellationToken),
                ViolationClass.ClockRegression => await IsImportingAsync(violation.Key, cancellationToken)
                    || await Store.LastImportActAsync(violation.Key, cancellationToken) is not null,
                _ => false,
            };
            if (!excused)
                kept.Add(violation);
        }
        return kept;
    }

    /// <summary>Whether an import has begun whose end lies beyond what the run reads.</summary>
    private Task<bool> IsImportingAsync(WorkflowKey key, CancellationToken cancellationToken) =>
        Store.IsImportUnderWayAsync(key, _end, cancellationToken);

    /// <summary>Compares the bytes of snapshots with the records that carry them.</summary>
    public async Task<IReadOnlyList<Violation>> CheckSnapshotsAsync(
        IEnumerable<CarriedSnapshot> carried, CancellationToken cancellationToken)
    {
        var violations = new List<Violation>();
        foreach (var some in AtOnce(carried))
            violations.AddRange(await CheckSnapshotsAtOnceAsync(some, cancellationToken));
        return violations;
    }

    private static IEnumerable<List<CarriedSnapshot>> AtOnce(IEnumerable<CarriedSnapshot> carried)
    {
        var (waiting, bytes) = (new List<CarriedSnapshot>(), 0L);
        foreach (var snapshot in carried)
        {
            // One that record after record carries is read once.
            if (waiting.Count == 0 || (waiting[^1].Key, waiting[^1].Sha256) != (snapshot.Key, snapshot.Sha256))
                bytes += snapshot.Size;
            waiting.Add(snapshot);
            if (bytes < SnapshotBytesAtOnce && waiting.Count < KeysAtOnce)
                continue;
            yield return waiting;
            (waiting, bytes) = ([], 0);
        }
        if (waiting.Count > 0)
            yield return waiting;
    }

    private async Task<IReadOnlyList<Violation>> CheckSnapshotsAtOnceAsync(
        List<CarriedSnapshot> carried, CancellationToken cancellationToken)
    {
        var found = await HashAsync(carried, cancellationToken);
        SnapshotsVerified += found.Count;
        var suspicious = carried.Where(s => ProblemOf(s, found) is not null).ToList();
        if (suspicious.Count == 0)
            return [];
        var (before, at) = (suspicious.ConvertAll(r => ProblemOf(r, found)!), TurnToPrimary());
        // Erased meanwhile, perhaps: the records are read again, and then the bytes.
        var current = (await Store.ReadRecordsAsync([.. suspicious.Select(s => (s.Key, s.Sequence))], cancellationToken))
            .ToDictionary(r => (r.Record.Key, r.Record.Sequence));
        suspicious = [.. suspicious.Where(s => current.GetValueOrDefault((s.Key, s.Sequence))?.Record.Snapshot is not null)];
        found = await HashAsync(suspicious, cancellationToken);
        var violations = new List<Violation>();
        foreach (var snapshot in suspicious)
        {
            if (ProblemOf(snapshot, found) is not { } problem)
                continue;
            if (problem.Class == ViolationClass.SnapshotMissing
                && (await Store.ErasuresAsync(snapshot.Key, 1, cancellationToken)
                        .AnyAsync(e => e.CoversBytes(snapshot.Sequence), cancellationToken)
                    || await IsImportingAsync(snapshot.Key, cancellationToken)))
            {
                continue;
            }
            violations.Add(problem);
        }
        Confirm(at, before, violations);
        return violations;
    }

    private async Task<Dictionary<(WorkflowKey, Hash), SnapshotHash>> HashAsync(
        IReadOnlyCollection<CarriedSnapshot> carried, CancellationToken cancellationToken)
    {
        var hashes = await Store.HashSnapshotsAsync([.. carried.Select(s => (s.Key, s.Sha256)).Distinct()], cancellationToken);
        BytesRead += hashes.Sum(h => h.Size);
        return hashes.ToDictionary(h => (h.Key, h.Sha256));
    }

    private static Violation? ProblemOf(CarriedSnapshot snapshot, Dictionary<(WorkflowKey, Hash), SnapshotHash> found)
    {
        if (!found.TryGetValue((snapshot.Key, snapshot.Sha256), out var actual))
        {
            return new Violation(ViolationClass.SnapshotMissing, snapshot.Key, snapshot.Sequence,
                "The bytes of the snapshot are gone and no ERASURE record covers them.")
            { LogIndex = snapshot.LogIndex, ExpectedHash = snapshot.Sha256 };
        }
        return actual.Actual == snapshot.Sha256 && actual.Size == snapshot.Size
            ? null
            : new Violation(ViolationClass.SnapshotModified, snapshot.Key, snapshot.Sequence,
                "The bytes of the snapshot are not those that were recorded.")
            { LogIndex = snapshot.LogIndex, ExpectedHash = snapshot.Sha256, ActualHash = actual.Actual };
    }

    /// <summary>
    /// Compares the heads of the workflows whose records went by. Of those that are further than the run, the records to come
    /// tell; at its end those that never came.
    /// </summary>
    /// <param name="isEnd">Whether no more records come.</param>
    /// <param name="broken">Workflows of which worse is known: their heads need not be told too.</param>
    /// <param name="cancellationToken">Ends it.</param>
    public async Task<IReadOnlyList<Violation>> CheckHeadsAsync(bool isEnd, IReadOnlySet<WorkflowKey> broken,
        CancellationToken cancellationToken)
    {
        var violations = new List<Violation>();
        foreach (var keys in _touched.Keys.Concat(isEnd ? _ahead.Where(k => !_touched.ContainsKey(k)) : [])
            .Where(k => !broken.Contains(k)).Chunk(KeysAtOnce))
        {
            var rows = (await Store.ReadWorkflowsAsync(keys, cancellationToken)).ToDictionary(w => w.Key);
            var unsure = new List<WorkflowKey>();
            foreach (var key in keys)
            {
                var (row, seen) = (rows.GetValueOrDefault(key), _touched.GetValueOrDefault(key));
                if (row is not null && row.Sequence > seen && !isEnd)
                {
                    if (_ahead.Count < AheadMax)
                        _ahead.Add(key);
                }
                else if (row is null || row.Sequence != seen || (GoodHeads.GetValueOrDefault(key) != row && !IsWitnessed(row)))
                {
                    unsure.Add(key);
                }
            }
            // Records that went by and are gone since are told by whoever looks next, each by its name.
            violations.AddRange((await CheckHeadsOfAsync(unsure, cancellationToken)).Where(
                v => v.Class != ViolationClass.TailTruncated || v.Sequence > _touched.GetValueOrDefault(v.Key)));
            _ahead.ExceptWith(unsure);
        }
        _touched.Clear();
        return violations;
    }

    /// <summary>Whether all records of a workflow went by and its head is what they give.</summary>
    private bool IsWitnessed(Workflow head)
    {
        if (head.ForkedFrom is not null || head.Importing || !_witnesses.Remove(head.Key, out var witnesses)
            || witnesses.Last.Sequence != head.Sequence
            || WorkflowHeads.Check(head, witnesses.Last, witnesses.Checkpoint, witnesses.Start) is not null)
        {
            return false;
        }
        // Kept for the records to come, unless none can come.
        if (!head.IsClosed)
            _witnesses[head.Key] = witnesses;
        if (GoodHeads.Count < AheadMax)
            GoodHeads[head.Key] = head;
        return true;
    }

    /// <summary>Compares the heads of workflows with their records, whatever went by.</summary>
    public async Task<IReadOnlyList<Violation>> CheckHeadsOfAsync(
        IReadOnlyCollection<WorkflowKey> keys, CancellationToken cancellationToken)
    {
        if (keys.Count == 0)
            return [];
        var violations = await HeadViolationsAsync(keys, cancellationToken);
        if (violations.Count == 0)
            return [];
        var at = TurnToPrimary();
        var again = await HeadViolationsAsync([.. violations.Select(v => v.Key)], cancellationToken);
        again.RemoveAll(v => !violations.Exists(w => IsSame(v, w)));
        Confirm(at, violations, again);
        return again;
    }

    /// <summary>
    /// Reads the newest records, then the heads, which are as new or newer, then the records of those that are newer.
    /// </summary>
    private async Task<List<Violation>> HeadViolationsAsync(IReadOnlyCollection<WorkflowKey> keys, CancellationToken cancellationToken)
    {
        var newest = await ByKeyAsync(keys.Select(k => (k, long.MaxValue)), Store.ReadRecordsAsync, cancellationToken);
        var heads = (await Store.ReadWorkflowsAsync(keys, cancellationToken)).ToDictionary(w => w.Key);
        var moved = heads.Values.Where(h => newest.TryGetValue(h.Key, out var last) && last.Record.Sequence < h.Sequence);
        foreach (var (key, record) in await ByKeyAsync(moved.Select(h => (h.Key, h.Sequence)), Store.ReadRecordsAsync, cancellationToken))
            newest[key] = record;
        var first = await ByKeyAsync(keys.Select(k => (k, 1L)), Store.ReadRecordsAsync, cancellationToken);
        var checkpoints = await ByKeyAsync(heads.Values.Select(h => (h.Key, h.Sequence)), Store.ReadCheckpointsAsync, cancellationToken);
        var violations = new List<Violation>();
        foreach (var key in keys)
        {
            var head = heads.GetValueOrDefault(key);
            var checkpoint = checkpoints.GetValueOrDefault(key)?.Record.Sequence ?? 0;
            if (head?.CheckpointSequence > checkpoint && !await IsThereAsync(key, head.CheckpointSequence, cancellationToken))
                checkpoint = head.CheckpointSequence;
            var violation = WorkflowHeads.Check(key, head, newest.GetValueOrDefault(key), first.GetValueOrDefault(key), checkpoint);
            violation ??= await Store.CheckForkAsync(head, cancellationToken);
            if (violation is null && head is { Importing: true } && !await Store.IsImportingAsync(head, cancellationToken))
                violation = WorkflowHeads.NotImporting(key);
            if (violation is not null)
                violations.Add(violation);
            else if (head is not null && GoodHeads.Count < AheadMax)
                GoodHeads[key] = head;
        }
        return violations;
    }

    /// <summary>
    /// Whether a record is there and in order. The head that names one which is not has nothing to answer for: the record's own
    /// place tells of it.
    /// </summary>
    private async Task<bool> IsThereAsync(WorkflowKey key, long sequence, CancellationToken cancellationToken) =>
        await Store.ReadRecordsAsync([(key, sequence)], cancellationToken) is [var record] && record.Record.Sequence == sequence
            && RecordVote.Of(record).IsSound;

    private static async Task<Dictionary<WorkflowKey, StoredRecord>> ByKeyAsync(
        IEnumerable<(WorkflowKey, long)> places,
        Func<IReadOnlyCollection<(WorkflowKey, long)>, CancellationToken, Task<IReadOnlyList<StoredRecord>>> read,
        CancellationToken cancellationToken)
    {
        List<(WorkflowKey, long)> wanted = [.. places];
        return wanted.Count == 0 ? [] : (await read(wanted, cancellationToken)).ToDictionary(r => r.Record.Key);
    }

    /// <summary>
    /// Rows that have no place in the log: records before its beginning or behind a head that was read after them, and, where all
    /// is looked at, tiles beyond the tree and leases of no workflow.
    /// </summary>
    public async Task<IReadOnlyList<Violation>> CheckStraysAsync(long size, bool all, CancellationToken cancellationToken)
    {
        const int limit = 100;
        List<StoredRecord> records =
        [
            .. (await Store.ReadLogAsync(long.MinValue, 0, limit, cancellationToken)).Select(v => v.Stored),
            .. (await Store.ReadLogAsync(size, long.MaxValue, limit, cancellationToken)).Select(v => v.Stored),
        ];
        var strays = all ? await Store.FindStraysAsync(size, limit, cancellationToken) : new LogStrays([], []);
        if (records.Count + strays.Tiles.Count + strays.Leases.Count == 0)
            return [];
        // What was written while this read lies below a head that is read now.
        var now = (await Store.ReadHeadAsync(cancellationToken))?.Size ?? 0;
        var violations = records.Where(r => r.LogIndex < 0 || r.LogIndex >= now).Select(r =>
            new Violation(ViolationClass.RecordInserted, r.Record.Key, r.Record.Sequence,
                $"The log has {now} records, and no place {r.LogIndex} for it.")
            { LogIndex = r.LogIndex, ActualHash = r.Hash }).ToList();
        foreach (var (level, index) in strays.Tiles.Where(t => t.Level is < 0 or > 6 || t.Index < 0
            || now >> (Tile.Levels * (t.Level + 1)) <= t.Index))
        {
            violations.Add(new Violation(ViolationClass.TileModified, WorkflowKey.None, 0,
                $"The log has {now} records, and no tile {index} of level {level}.")
            { LogIndex = now, Differences = [new Difference($"tile/{level}/{index}", null, null)] });
        }
        var heads = strays.Leases.Count == 0 ? [] : await Store.ReadWorkflowsAsync(strays.Leases, cancellationToken);
        violations.AddRange(strays.Leases.Except(heads.Select(h => h.Key)).Select(key => new Violation(
            ViolationClass.WorkflowHeadModified, key, 0, "There is a lease of a workflow that is not there.")));
        if (violations.Count == 0 || Primary is null)
            return violations;
        var at = TurnToPrimary();
        var again = await CheckStraysAsync(size, all, cancellationToken);
        Confirm(at, violations, again);
        return again;
    }
}
