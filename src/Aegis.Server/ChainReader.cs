using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Reads chains and re-checks what it reads: nothing is handed on whose hashes, links and snapshots do not check out. What
/// does not is told to <see cref="Findings"/> and refused as CHAIN_BROKEN or SNAPSHOT_CORRUPT.
/// </summary>
public sealed class ChainReader(ILedgerStore store, Findings findings)
{
    private const int PageSize = 500;

    /// <summary>A workflow to go on with: its newest checkpoint, and the records since, cut by bytes.</summary>
    public async Task<ResumedChain> ResumeAsync(Workflow workflow, int bytesMax,
        CancellationToken cancellationToken)
    {
        var from = Math.Max(1, workflow.CheckpointSequence);
        var verifier = new ChainVerifier(workflow.Key, from);
        StoredRecord? checkpoint = null;
        var since = new List<StoredRecord>();
        var bytes = 0;
        var isCut = false;
        for (var next = from; next <= workflow.Sequence;)
        {
            var page = await store.ReadChainAsync(workflow.Key, next, descending: false,
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
        Demand(verifier.Complete(workflow));
        var snapshot = checkpoint is null ? null : await SnapshotOfAsync(checkpoint, cancellationToken);
        return new ResumedChain(checkpoint, snapshot, since, isCut);
    }

    /// <summary>The bytes of a record's snapshot, checked.</summary>
    /// <exception cref="RefusalException">SNAPSHOT_ERASED or SNAPSHOT_CORRUPT.</exception>
    public async Task<byte[]> SnapshotOfAsync(StoredRecord record, CancellationToken cancellationToken)
    {
        var key = record.Record.Key;
        if (record.Record.Snapshot is not { } part)
            throw new RefusalException(Erased(record));
        var content = await store.ReadSnapshotAsync(key, part.Sha256, cancellationToken);
        if (content is null && await IsErasedAsync(record, cancellationToken))
            throw new RefusalException(Erased(record));
        var verifier = new ChainVerifier(key, record.Record.Sequence);
        verifier.AddSnapshot(record, content is null ? null : (Hash.Of(content), content.Length));
        var violations = verifier.Complete(null);
        if (violations.Count == 0)
            return content!;
        findings.Report(violations);
        throw new RefusalException(new Refusal(Reason.SnapshotCorrupt,
            $"The snapshot of record {record.Record.Sequence} of {key} is not as it was recorded; verify it.",
            [.. Refusal.Of(key), ("sequence", Refusal.Text(record.Record.Sequence))]));
    }

    /// <summary>The record that a fork starts from, and the snapshot that was current there.</summary>
    public async Task<ForkSource> ForkSourceAsync(WorkflowKey key, long sequence, bool withSnapshot,
        CancellationToken cancellationToken)
    {
        var workflow = await store.FindWorkflowAsync(key, cancellationToken)
            ?? throw new RefusalException(Refusal.NotFound(key));
        if (sequence > workflow.Sequence)
        {
            throw new RefusalException(new Refusal(Reason.RecordNotFound,
                $"The workflow {key} has {workflow.Sequence} records, and no record {sequence}.",
                [.. Refusal.Of(key), ("sequence", Refusal.Text(sequence))]));
        }
        var records = await store.ReadChainAsync(key, sequence, descending: false, 1, cancellationToken);
        var record = CheckPage(key, sequence, records)[0];
        if (!withSnapshot)
            return new ForkSource(record, null);
        var checkpoint = await store.FindCheckpointAsync(key, sequence, long.MaxValue, cancellationToken);
        if (checkpoint is null)
            return new ForkSource(record, null);
        CheckPage(key, checkpoint.Record.Sequence, [checkpoint]);
        var content = await SnapshotOfAsync(checkpoint, cancellationToken);
        return new ForkSource(record, (checkpoint.Record.Snapshot!, content));
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
    /// Checks records of many workflows, each by itself. They are handed on as they are, so that one altered record does not
    /// stop whoever follows the log; health tells.
    /// </summary>
    public IReadOnlyList<StoredRecord> Note(IReadOnlyList<StoredRecord> records)
    {
        foreach (var record in records.Where(r => !r.IsConsistent()))
        {
            var verifier = new ChainVerifier(record.Record.Key, Math.Max(1, record.Record.Sequence));
            verifier.Add(record);
            findings.Report(verifier.Violations);
        }
        return records;
    }

    /// <exception cref="RefusalException">CHAIN_BROKEN, when there is a violation.</exception>
    public void Demand(IReadOnlyList<Violation> violations)
    {
        if (violations.Count == 0)
            return;
        findings.Report(violations);
        var first = violations[0];
        throw new RefusalException(new Refusal(Reason.ChainBroken,
            $"The history of {first.Key} is not as it was recorded, at sequence {first.Sequence}: {first.Message}",
            [.. Refusal.Of(first.Key), ("sequence", Refusal.Text(first.Sequence)), ("problem", first.Message),
                ("class", first.Class.ToString())]));
    }

    /// <summary>Whether a later ERASURE record of the chain covers the bytes of a record's snapshot.</summary>
    private async Task<bool> IsErasedAsync(StoredRecord record, CancellationToken cancellationToken)
    {
        for (var next = record.Record.Sequence + 1; ;)
        {
            var page = await store.ReadChainAsync(record.Record.Key, next, descending: false, PageSize, cancellationToken);
            if (page.Any(r => Erasure.Of(r.Record) is { } e && e.CoversBytes(record.Record.Sequence) && r.IsConsistent()))
                return true;
            if (page.Count < PageSize)
                return false;
            next = page[^1].Record.Sequence + 1;
        }
    }

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
