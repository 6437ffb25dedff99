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
        await foreach (var record in ChainAsync(key, repair, cancellationToken))
        {
            verifier.Add(record);
            if (record.Record.Snapshot is not { } part)
                continue;
            var brought = repair.Snapshot is { } snapshot && snapshot.Key == key && snapshot.Sha256 == part.Sha256
                ? snapshot.Content.ToArray()
                : null;
            var content = brought ?? await store.ReadSnapshotAsync(key, part.Sha256, cancellationToken);
            verifier.AddSnapshot(record, content is null ? null : (Hash.Of(content), content.Length));
        }
        var stored = await store.FindWorkflowAsync(key, cancellationToken);
        var head = repair.Key != key ? stored : repair.RemovesHead ? null : repair.Head ?? stored;
        var violations = verifier.Complete(head);
        return head is null && verifier.RecordsVerified > 0
            ? [.. violations, new Violation(ViolationClass.WorkflowHeadModified, key, 0,
                "The stored head of the workflow is gone, and its records are there.")]
            : violations;
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

    /// <summary>The records of a chain, those of a repair among them, by sequence.</summary>
    private async IAsyncEnumerable<StoredRecord> ChainAsync(WorkflowKey key, Repair repair,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var restored = new Queue<StoredRecord>(repair.Records.Where(r => r.Record.Key == key).OrderBy(r => r.Record.Sequence));
        await foreach (var row in store.ChainAsync(key, 1, cancellationToken))
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
