using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Reads what workflows go on from, for many callers at once: who comes while a read is under way waits for its end, and all who wait
/// are read together, which costs less. A further read begins when more wait than one can take, or when the one under way takes long.
/// A read begins after its callers came, so each sees all that was committed before its call.
/// </summary>
public sealed class ResumableReader(ILedgerStore store, TimeProvider time)
{
    private const int ReadsAtOnce = 4;
    private const int KeysAtOnce = 64;

    // Several times what a read takes of what the database has in memory.
    private static readonly TimeSpan Patience = TimeSpan.FromMilliseconds(5);

    // Mostly a checkpoint and little more. Larger snapshots are read by themselves: this many at once must fit into memory.
    private const int RecordsMax = 20;
    private const long SnapshotBytesMax = 64 * 1024;

    private readonly Queue<(WorkflowKey Key, TaskCompletionSource<Resumable?> Found)> _waiting = [];
    private int _reads;

    /// <summary>What a workflow goes on from, as far as it is read at once; null where there is no such workflow.</summary>
    /// <exception cref="StoreException">The store cannot be read.</exception>
    public Task<Resumable?> FindAsync(WorkflowKey key, CancellationToken cancellationToken)
    {
        var found = new TaskCompletionSource<Resumable?>(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_waiting)
        {
            _waiting.Enqueue((key, found));
            if (_reads == 0 || _waiting.Count > KeysAtOnce)
                Begin();
            else if (_waiting.Count == 1)
                _ = LosePatienceAsync(found);
        }
        return found.Task.WaitAsync(cancellationToken);
    }

    /// <summary>Whoever waits first, and those who come to wait behind, are kept no longer by reads that take long.</summary>
    private async Task LosePatienceAsync(TaskCompletionSource<Resumable?> first)
    {
        await Task.Delay(Patience, time);
        lock (_waiting)
        {
            if (_waiting.TryPeek(out var next) && next.Found == first)
                Begin();
        }
    }

    private void Begin()
    {
        if (_reads >= ReadsAtOnce)
            return;
        _reads++;
        _ = ReadAllAsync();
    }

    private async Task ReadAllAsync()
    {
        while (Take() is { Count: > 0 } taken)
        {
            try
            {
                // Never cancelled: others wait for it too.
                var read = (await store.ReadResumableAsync([.. taken.Select(t => t.Key).Distinct()], RecordsMax, SnapshotBytesMax,
                    CancellationToken.None)).ToDictionary(r => r.Workflow.Key);
                foreach (var (key, found) in taken)
                    found.TrySetResult(read.GetValueOrDefault(key));
            }
            catch (Exception e)
            {
                foreach (var (_, found) in taken)
                    found.TrySetException(e);
            }
        }
    }

    /// <summary>Who waits; with nobody there the read is over.</summary>
    private List<(WorkflowKey Key, TaskCompletionSource<Resumable?> Found)> Take()
    {
        lock (_waiting)
        {
            var taken = new List<(WorkflowKey, TaskCompletionSource<Resumable?>)>(Math.Min(_waiting.Count, KeysAtOnce));
            while (taken.Count < KeysAtOnce && _waiting.TryDequeue(out var next))
                taken.Add(next);
            if (taken.Count == 0)
                _reads--;
            return taken;
        }
    }
}
