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
        var restored = new Queue<StoredRecord>(repair.Records.Where(r => r.Record.Key == key).OrderBy(r => r.Record.Sequence));
        var stored = await store.WalkAsync(key, async row =>
        {
            if (repair.Removed.Contains(row.LogIndex))
                return;
            while (restored.TryPeek(out var record) && record.Record.Sequence < row.Record.Sequence)
                await AddAsync(key, verifier, restored.Dequeue(), repair, cancellationToken);
            await AddAsync(key, verifier, row, repair, cancellationToken);
        }, cancellationToken);
        while (restored.TryDequeue(out var last))
            await AddAsync(key, verifier, last, repair, cancellationToken);
        var head = repair.Key != key ? stored : repair.RemovesHead ? null : repair.Head ?? stored;
        var violations = verifier.Complete(head);
        return head is null && verifier.RecordsVerified > 0 ? [.. violations, WorkflowHeads.Gone(key)] : violations;
    }

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
}
