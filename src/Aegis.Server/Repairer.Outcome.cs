using System.Runtime.CompilerServices;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// What verification will say once a repair is stored, told before it is.
public sealed partial class Repairer
{
    /// <summary>What is wrong with a workflow, with a repair in the place of what it replaces.</summary>
    public async Task<IReadOnlyList<Violation>> VerifyAsync(WorkflowKey key, Repair repair, CancellationToken cancellationToken)
    {
        var verifier = new ChainVerifier(key);
        for (var next = 1L; ;)
        {
            var read = 0;
            await foreach (var record in ChainAsync(key, repair, next, cancellationToken))
            {
                await AddAsync(key, verifier, record, repair, cancellationToken);
                next = Math.Max(next, record.Record.Sequence + 1);
                read++;
            }
            var head = await HeadAsync(key, repair, cancellationToken);
            // The head is read after the records: what it promises beyond them may have been written meanwhile.
            if (head?.Sequence >= next && read > 0)
                continue;
            var violations = verifier.Complete(head);
            return head is null && verifier.RecordsVerified > 0
                ? [.. violations, new Violation(ViolationClass.WorkflowHeadModified, key, 0,
                    "The stored head of the workflow is gone, and its records are there.")]
                : violations;
        }
    }

    private async Task<Workflow?> HeadAsync(WorkflowKey key, Repair repair, CancellationToken cancellationToken) =>
        repair.Key == key && repair.RemovesHead ? null
        : (repair.Key == key ? repair.Head : null) ?? await store.FindWorkflowAsync(key, cancellationToken);

    private async Task AddAsync(WorkflowKey key, ChainVerifier verifier, StoredRecord record, Repair repair,
        CancellationToken cancellationToken)
    {
        verifier.Add(record);
        if (record.Record.Snapshot is not { } part)
            return;
        var brought = repair.Snapshot is { } snapshot && snapshot.Key == key && snapshot.Sha256 == part.Sha256
            ? snapshot.Content.ToArray()
            : null;
        var content = brought ?? await store.ReadSnapshotAsync(key, part.Sha256, cancellationToken);
        verifier.AddSnapshot(record, content is null ? null : (Hash.Of(content), content.Length));
    }

    /// <summary>The rows that a repair takes away, and the keys of all workflows that it concerns.</summary>
    public async Task<(IReadOnlyList<StoredRecord> Removed, IReadOnlyList<WorkflowKey> Keys)> ConcernedAsync(
        Repair repair, CancellationToken cancellationToken)
    {
        var removed = new List<StoredRecord>();
        foreach (var index in repair.Removed)
        {
            if (await AtIndexAsync(index, cancellationToken) is { } row)
                removed.Add(row);
        }
        return (removed, [.. new[] { repair.Key }.Concat(repair.Records.Concat(removed).Select(r => r.Record.Key)).Distinct()]);
    }

    /// <summary>The records of a chain from a sequence on, those of a repair among them, by sequence.</summary>
    private async IAsyncEnumerable<StoredRecord> ChainAsync(WorkflowKey key, Repair repair, long from,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var restored = new Queue<StoredRecord>(repair.Records.Where(r => r.Record.Key == key && r.Record.Sequence >= from).OrderBy(r => r.Record.Sequence));
        await foreach (var row in store.ChainAsync(key, from, cancellationToken))
        {
            if (repair.Removed.Contains(row.LogIndex))
                continue;
            while (restored.TryPeek(out var record) && record.Record.Sequence < row.Record.Sequence)
                yield return restored.Dequeue();
            yield return row;
        }
        while (restored.TryDequeue(out var last))
            yield return last;
    }
}
