using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// The head of a workflow follows from its records.
public sealed partial class Repairer
{
    /// <summary>The head as the records give it; or its removal, where the log has no record of such a workflow.</summary>
    /// <exception cref="RefusalException">WORKFLOW_NOT_FOUND; CHAIN_BROKEN while its records are not as they were recorded.</exception>
    public async Task<Repair> HeadAsync(WorkflowKey key, CancellationToken cancellationToken)
    {
        var size = (await store.ReadHeadAsync(cancellationToken))?.Size ?? 0;
        var stored = await store.FindWorkflowAsync(key, cancellationToken);
        var verifier = new ChainVerifier(key);
        StoredRecord? first = null, last = null;
        var checkpoint = 0L;
        await foreach (var record in store.ChainAsync(key, 1, cancellationToken))
        {
            verifier.Add(record);
            first ??= record;
            last = record;
            if (record.Record.IsCheckpoint)
                checkpoint = record.Record.Sequence;
        }
        if (verifier.Complete(null) is [var broken, ..])
            throw new RefusalException(RecordsFirst(key, broken.Sequence, broken.Message));
        var missing = (last?.Record.Sequence ?? 0) + 1;
        if (await FindLeafAsync(key, missing, null, null, size, cancellationToken) is not null)
        {
            // What was written while this read is there now.
            return await AtPlaceAsync(key, missing, cancellationToken) is not null
                ? await HeadAsync(key, cancellationToken)
                : throw new RefusalException(RecordsFirst(key, missing, $"Record {missing} is gone."));
        }
        if (first is null || last is null)
        {
            return stored is null
                ? throw new RefusalException(Refusal.NotFound(key))
                : new Repair { Key = key, RemovesHead = true };
        }
        // Each record names the one before: what proves the last proves them all.
        if (!await leaves.IsLeafAsync(last.LogIndex, last.Hash, cancellationToken)
            || !await leaves.IsLeafAsync(first.LogIndex, first.Hash, cancellationToken))
        {
            throw new RefusalException(RecordsFirst(key, last.Record.Sequence, "The log does not have it where it stands."));
        }
        return new Repair
        {
            Key = key,
            Head = new Workflow
            {
                Key = key,
                WorkflowType = last.Record.WorkflowType,
                State = last.Record.ToState,
                Status = last.Record.Status,
                Sequence = last.Record.Sequence,
                HeadHash = last.Hash,
                CheckpointSequence = checkpoint,
                Metadata = first.Record.Content?.Metadata ?? Core.Metadata.Empty,
                ForkedFrom = await OriginAsync(stored, first.Record.PreviousHash, key.Namespace, size, cancellationToken),
                CreatedLogIndex = first.LogIndex,
                CreatedAt = first.Record.RecordedAt,
                UpdatedAt = last.Record.RecordedAt,
                // Of an import that broke off the records do not tell.
                Importing = await store.IsImportingAsync(stored, cancellationToken),
            },
        };
    }

    /// <summary>
    /// Where a fork comes from: the record whose hash its first record names. Where that was recorded in another log, only the
    /// hash is certain, and the stored name is kept.
    /// </summary>
    private async Task<ForkPoint?> OriginAsync(Workflow? stored, Hash hash, string @namespace, long size,
        CancellationToken cancellationToken)
    {
        if (hash.IsZero)
            return null;
        if (stored?.ForkedFrom is { } fork
            && await AtPlaceAsync(new WorkflowKey(@namespace, fork.WorkflowId), fork.Sequence, cancellationToken) is { } source
            && source.Hash == hash)
        {
            return fork with { Hash = hash };
        }
        for (var from = 0L; from < size; from += ILedgerStore.HashesMax)
        {
            var hashes = await store.ReadHashesAsync(from, ILedgerStore.HashesMax, fromEncoded: true, cancellationToken);
            var place = hashes.Index().FirstOrDefault(h => h.Item == hash, (-1, default)).Index;
            if (place < 0)
                continue;
            // Rows may be missing before it: it is not far behind its place.
            var rows = await store.ListRecordsAsync(
                new RecordFilter { Namespace = @namespace }, from + place, descending: false, PageSize, cancellationToken);
            if (rows.FirstOrDefault(r => r.Hash == hash) is { } found)
                return new ForkPoint(found.Record.WorkflowId, found.Record.Sequence, hash);
        }
        return new ForkPoint(stored?.ForkedFrom?.WorkflowId ?? "", stored?.ForkedFrom?.Sequence ?? 0, hash);
    }

    private static Refusal RecordsFirst(WorkflowKey key, long sequence, string problem) => new(Reason.ChainBroken,
        $"The records of {key} are not as they were recorded, at sequence {sequence}; repair them first. {problem}",
        [.. Refusal.Of(key), ("sequence", Refusal.Text(sequence)), ("problem", problem)]);
}
