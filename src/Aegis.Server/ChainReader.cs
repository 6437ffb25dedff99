using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Reads chains and re-checks what it reads: nothing is handed on whose hashes, links and snapshots do not check out. What
/// does not is told to <see cref="Findings"/> and refused as CHAIN_BROKEN or SNAPSHOT_CORRUPT.
/// </summary>
public sealed class ChainReader(ILedgerStore store, ResumableReader resumables, Findings findings, TimeProvider time)
{
    private const int PageSize = 500;

    /// <summary>Who is told what is wrong.</summary>
    private Action<IReadOnlyList<Violation>> Report { get; init; } = findings.Report;

    /// <summary>The same for a call that reads at a replica, and stops at what is wrong there: see <see cref="DoubtException"/>.</summary>
    public ChainReader By(ILedgerStore replica) =>
        new(replica, resumables, findings, time) { Report = found => throw new DoubtException(found) };

    /// <summary>A workflow; with <paramref name="allowQuarantined"/> as it is stored, altered or not.</summary>
    /// <exception cref="RefusalException">WORKFLOW_NOT_FOUND, CHAIN_BROKEN, SNAPSHOT_CORRUPT.</exception>
    public async Task<Workflow> FindAsync(WorkflowKey key, bool allowQuarantined, CancellationToken cancellationToken) =>
        await FoundAsync(key, await store.FindWorkflowAsync(key, cancellationToken), allowQuarantined, cancellationToken);

    /// <summary>
    /// The same, compared with its newest record: a head that was altered behind the service is not handed on. With
    /// <paramref name="allowQuarantined"/> it is.
    /// </summary>
    /// <exception cref="RefusalException">WORKFLOW_NOT_FOUND, CHAIN_BROKEN, SNAPSHOT_CORRUPT.</exception>
    public async Task<Workflow> FindCheckedAsync(WorkflowKey key, bool allowQuarantined, CancellationToken cancellationToken)
    {
        var workflow = await FindAsync(key, allowQuarantined, cancellationToken);
        if (allowQuarantined)
            return workflow;
        var newest = (await store.ReadRecordsAsync([(key, workflow.Sequence)], cancellationToken)).SingleOrDefault();
        if (((newest is null ? null : RecordVote.Of(newest).Finding)
            ?? WorkflowHeads.Check(key, workflow, newest, first: null, workflow.CheckpointSequence)) is { } violation)
        {
            Demand([violation]);
        }
        return workflow;
    }

    /// <summary>
    /// What a writer refused; where that was a head which was altered, as it is told once it was looked at, and
    /// <see cref="Findings"/> knows of it.
    /// </summary>
    public async Task<Refusal> ToldAsync(WorkflowKey key, Refusal refusal, CancellationToken cancellationToken)
    {
        if (refusal.Reason != Reason.ChainBroken)
            return refusal;
        try
        {
            await FindCheckedAsync(key, allowQuarantined: false, cancellationToken);
            return refusal;
        }
        catch (RefusalException e)
        {
            // Of a fork whose source is broken there is nothing yet.
            return e.Refusal.Reason == Reason.ChainBroken ? e.Refusal : refusal;
        }
    }

    /// <summary>A workflow as <see cref="FindAsync"/> gives it, with what it goes on from.</summary>
    /// <exception cref="RefusalException">WORKFLOW_NOT_FOUND, CHAIN_BROKEN, SNAPSHOT_CORRUPT.</exception>
    public async Task<Resumable> FindResumableAsync(WorkflowKey key, bool allowQuarantined, CancellationToken cancellationToken)
    {
        var found = await resumables.FindAsync(key, cancellationToken);
        await FoundAsync(key, found?.Workflow, allowQuarantined, cancellationToken);
        return found!;
    }

    private async Task<Workflow> FoundAsync(WorkflowKey key, Workflow? workflow, bool allowQuarantined,
        CancellationToken cancellationToken)
    {
        // One that is gone may have been deleted behind the service.
        if (!allowQuarantined && (workflow?.Quarantined ?? !findings.IsClean))
            await DemandReleasedAsync(key, cancellationToken);
        return workflow ?? throw new RefusalException(Refusal.NotFound(key));
    }

    /// <exception cref="RefusalException">A violation of the workflow is open: CHAIN_BROKEN or SNAPSHOT_CORRUPT.</exception>
    public async Task DemandReleasedAsync(WorkflowKey key, CancellationToken cancellationToken)
    {
        var open = await OpenOfAsync(key, cancellationToken);
        // The oldest, and what concerns the history before what concerns a snapshot alone.
        if (open.LastOrDefault(v => !v.Violation.IsOfSnapshot) is { } broken)
            throw new RefusalException(RefusalOf(broken.Id, broken.Violation));
        if (open.Count > 0)
            throw new RefusalException(RefusalOf(open[^1].Id, open[^1].Violation));
    }

    /// <summary>The open violations of a workflow, newest first. The log's own history is never quarantined.</summary>
    public async Task<IReadOnlyList<FoundViolation>> OpenOfAsync(WorkflowKey key, CancellationToken cancellationToken) =>
        key == WorkflowKey.Log
            ? []
            : await store.ListViolationsAsync(
                new ViolationFilter { Namespace = key.Namespace, WorkflowId = key.WorkflowId }, long.MaxValue,
                ChainVerifier.ViolationsMax, cancellationToken);

    /// <summary>
    /// A workflow to go on with: its newest checkpoint, and the records since, cut by bytes. Or, unchecked, what there is of it.
    /// </summary>
    /// <param name="workflow">As it is to be gone on with.</param>
    /// <param name="read">What was read of it beforehand, if anything; what is missing is read here.</param>
    /// <param name="bytesMax">How many bytes of records, roughly.</param>
    /// <param name="isChecked">Whether it has to verify.</param>
    /// <param name="cancellationToken">Ends the reading.</param>
    public async Task<ResumedChain> ResumeAsync(Workflow workflow, Resumable? read, int bytesMax, bool isChecked,
        CancellationToken cancellationToken)
    {
        // It may have gone on since, or not yet.
        if (read?.Workflow.CheckpointSequence != workflow.CheckpointSequence)
            read = null;
        var from = Math.Max(1, workflow.CheckpointSequence);
        var verifier = new ChainVerifier(workflow.Key, from);
        StoredRecord? checkpoint = null;
        var since = new List<StoredRecord>();
        var bytes = 0;
        var isCut = false;
        for (var next = from; next <= workflow.Sequence;)
        {
            var page = next == from && read?.Records.Where(r => r.Record.Sequence <= workflow.Sequence).ToList() is { Count: > 0 } first
                ? first
                : await store.ReadChainAsync(workflow.Key, next, descending: false,
                    (int)Math.Min(PageSize, workflow.Sequence - next + 1), cancellationToken);
            if (page.Count == 0)
                break;
            foreach (var record in page)
            {
                verifier.Add(record);
                if (record.Record.Sequence == workflow.CheckpointSequence)
                {
                    checkpoint = record;
                    continue;
                }
                bytes += record.SizeEstimate();
                isCut |= bytes > bytesMax;
                if (!isCut)
                    since.Add(record);
            }
            next = page[^1].Record.Sequence + 1;
        }
        if (isChecked)
            Demand(verifier.Complete(workflow));
        var snapshot = checkpoint is null
            ? null
            : isChecked
                ? await SnapshotOfAsync(checkpoint, cancellationToken, read?.Snapshot)
                : read?.Snapshot ?? await StoredSnapshotOfAsync(checkpoint, cancellationToken);
        return new ResumedChain(checkpoint, snapshot, since, isCut);
    }

    /// <summary>The bytes of a record's snapshot, checked; those that were read already need not be read again.</summary>
    /// <exception cref="RefusalException">SNAPSHOT_ERASED or SNAPSHOT_CORRUPT.</exception>
    public async Task<byte[]> SnapshotOfAsync(StoredRecord record, CancellationToken cancellationToken, byte[]? read = null)
    {
        var key = record.Record.Key;
        if (record.Record.Snapshot is not { } part)
            throw new RefusalException(Erased(record));
        var content = read ?? await store.ReadSnapshotAsync(key, part.Sha256, cancellationToken);
        if (content is null && await IsErasedAsync(record, cancellationToken))
            throw new RefusalException(Erased(record));
        var verifier = new ChainVerifier(key, record.Record.Sequence);
        verifier.AddSnapshot(record, content is null ? null : (Hash.Of(content), content.Length));
        var violations = verifier.Complete(null);
        if (violations.Count == 0)
            return content!;
        Report(violations);
        throw new RefusalException(RefusalOf(violations[0].Id(), violations[0]) with { Reason = Reason.SnapshotCorrupt });
    }

    /// <summary>The bytes of a record's snapshot as they are stored, altered or not; null where there are none.</summary>
    public async Task<byte[]?> StoredSnapshotOfAsync(StoredRecord record, CancellationToken cancellationToken) =>
        record.Record.Snapshot is { } part
            ? await store.ReadSnapshotAsync(record.Record.Key, part.Sha256, cancellationToken)
            : null;

    /// <summary>The record that a fork starts from, and the snapshot that was current there.</summary>
    public async Task<ForkSource> ForkSourceAsync(WorkflowKey key, long sequence, bool withSnapshot,
        CancellationToken cancellationToken)
    {
        var workflow = await FindAsync(key, allowQuarantined: false, cancellationToken);
        if (sequence > workflow.Sequence)
        {
            throw new RefusalException(new Refusal(Reason.RecordNotFound,
                $"The workflow {key} has {workflow.Sequence} records, and no record {sequence}.",
                [.. Refusal.Of(key), ("sequence", Refusal.Text(sequence)),
                    ("current_sequence", Refusal.Text(workflow.Sequence))]));
        }
        var record = await RecordAsync(workflow, sequence, cancellationToken);
        if (!withSnapshot || await CheckpointAsync(workflow, sequence, long.MaxValue, cancellationToken) is not { } checkpoint)
            return new ForkSource(record, null);
        var content = await SnapshotOfAsync(checkpoint, cancellationToken);
        return new ForkSource(record, (checkpoint.Record.Snapshot!, content));
    }

    /// <summary>
    /// The newest checkpoint not after a sequence nor a time, checked as <see cref="RecordAsync"/> does; or null. That an older
    /// one was deleted only a verification of the whole chain can tell; the newest is known to the head.
    /// </summary>
    /// <exception cref="RefusalException">CHAIN_BROKEN.</exception>
    public async Task<StoredRecord?> CheckpointAsync(Workflow workflow, long maxSequence, long asOf,
        CancellationToken cancellationToken)
    {
        var found = await store.FindCheckpointAsync(workflow.Key, maxSequence, asOf, cancellationToken);
        var newest = workflow.CheckpointSequence;
        if (asOf == long.MaxValue && newest <= maxSequence && (found?.Record.Sequence ?? 0) < newest)
        {
            Demand([new Violation(ViolationClass.RecordMissing, workflow.Key, newest,
                $"Record {newest}, the newest checkpoint, is gone.")]);
        }
        return found is null ? null : await RecordAsync(workflow, found.Record.Sequence, cancellationToken);
    }

    /// <summary>
    /// One record that is handed on by itself. It has to be as it was recorded, and what comes after it, a record or the head,
    /// has to follow from it: a forged record with a sound hash of its own is noticed.
    /// </summary>
    /// <exception cref="RefusalException">CHAIN_BROKEN.</exception>
    private async Task<StoredRecord> RecordAsync(Workflow workflow, long sequence, CancellationToken cancellationToken)
    {
        var page = CheckPage(workflow.Key, sequence,
            await store.ReadChainAsync(workflow.Key, sequence, descending: false, 2, cancellationToken));
        if (sequence < workflow.Sequence && page.Count < 2)
        {
            Demand([new Violation(ViolationClass.RecordMissing, workflow.Key, sequence + 1, $"Record {sequence + 1} is gone.")]);
        }
        if (sequence == workflow.Sequence && page[0].Hash != workflow.HeadHash)
        {
            Demand([new Violation(ViolationClass.WorkflowHeadModified, workflow.Key, sequence,
                "The newest record is not the one that the stored head of the workflow names.")
            {
                ExpectedHash = workflow.HeadHash,
                ActualHash = page[0].Hash,
            }]);
        }
        return page[0];
    }

    /// <summary>
    /// Checks consecutive records of one chain, the first of which has to have a certain sequence.
    /// </summary>
    /// <exception cref="RefusalException">CHAIN_BROKEN.</exception>
    public IReadOnlyList<StoredRecord> CheckPage(WorkflowKey key, long firstSequence, IReadOnlyList<StoredRecord> page)
    {
        var verifier = new ChainVerifier(key, firstSequence);
        foreach (var record in page)
            verifier.Add(record);
        Demand(page.Count > 0
            ? verifier.Violations
            : [new Violation(ViolationClass.RecordMissing, key, firstSequence, $"Record {firstSequence} is gone.")]);
        return page;
    }

    /// <summary>
    /// Checks one record of many workflows by itself, and gives what is wrong with it, as known or as found now. It is handed on
    /// as it is, so that one altered record does not stop whoever follows the log; health tells.
    /// </summary>
    public IReadOnlyList<FoundViolation> Note(StoredRecord record)
    {
        var known = findings.At(record);
        if (record.IsConsistent())
            return known;
        var verifier = new ChainVerifier(record.Record.Key, Math.Max(1, record.Record.Sequence));
        verifier.Add(record);
        Report(verifier.Violations);
        var now = Mapping.ToMicroseconds(Google.Protobuf.WellKnownTypes.Timestamp.FromDateTimeOffset(time.GetUtcNow()));
        return [.. known, .. verifier.Violations.Select(v => new FoundViolation(v, now)).ExceptBy(known.Select(k => k.Id), f => f.Id)];
    }

    /// <exception cref="RefusalException">CHAIN_BROKEN, when there is a violation.</exception>
    public void Demand(IReadOnlyList<Violation> violations)
    {
        if (violations.Count == 0)
            return;
        Report(violations);
        throw new RefusalException(RefusalOf(violations[0].Id(), violations[0]) with { Reason = Reason.ChainBroken });
    }

    private static Refusal RefusalOf(string id, Violation violation) => new(
        violation.IsOfSnapshot ? Reason.SnapshotCorrupt : Reason.ChainBroken,
        $"The history of {violation.Key} is not as it was recorded, at sequence {violation.Sequence}: {violation.Message}",
        [.. Refusal.Of(violation.Key), ("class", violation.Class.Name()), ("sequence", Refusal.Text(violation.Sequence)),
            ("problem", violation.Message), ("violation_id", id)]);

    /// <summary>Whether a later ERASURE record of the chain covers the bytes of a record's snapshot.</summary>
    private async Task<bool> IsErasedAsync(StoredRecord record, CancellationToken cancellationToken) =>
        await store.ErasuresAsync(record.Record.Key, record.Record.Sequence + 1, cancellationToken)
            .AnyAsync(e => e.CoversBytes(record.Record.Sequence), cancellationToken);

    private static Refusal Erased(StoredRecord record) => new(Reason.SnapshotErased,
        $"The snapshot of record {record.Record.Sequence} of {record.Record.Key} was erased.",
        [.. Refusal.Of(record.Record.Key), ("sequence", Refusal.Text(record.Record.Sequence))]);
}

/// <summary>A chain that verified back to its checkpoint.</summary>
/// <param name="Checkpoint">Null when there is none.</param>
/// <param name="Snapshot">Null when there is none.</param>
/// <param name="RecordsSince">The records after the checkpoint, as far as they fit.</param>
/// <param name="IsCut">Whether they did not all fit.</param>
public sealed record ResumedChain(
    StoredRecord? Checkpoint, byte[]? Snapshot, IReadOnlyList<StoredRecord> RecordsSince, bool IsCut);

/// <summary>What a fork takes from its source.</summary>
public sealed record ForkSource(StoredRecord Record, (SnapshotPart Part, byte[] Content)? Snapshot);
