using System.Diagnostics;
using Aegis.Core;
using Npgsql;

namespace Aegis.Storage;

/// <summary>
/// What the last batch of this server left in PostgreSQL: the head of the log and the workflows that it and those before it
/// touched, so that the next batch need not read them. It is as good as a look under the lock for as long as the connection lives,
/// which ends with any restart and any failover, and nobody else has moved the sequence log_turn, which the next commit makes sure of
/// under the lock. Used by one task at a time.
/// </summary>
internal sealed class WriterMemory(NpgsqlConnection connection) : IAsyncDisposable
{
    /// <summary>Twice as many are remembered at most: those of the newest generation and of the one before.</summary>
    private const int WorkflowsMax = 8192;

    // The metadata of workflows in a generation, in UTF-16 code units.
    private const int MetadataMax = 4 * 1024 * 1024;

    // A connection that was idle for longer may be broken: a look finds that out while nothing was sent that could have been stored.
    private static readonly TimeSpan IdleMax = TimeSpan.FromMilliseconds(200);

    // What a look or a commit took longer than this for lies too far back to tell the database's clock by.
    private static readonly TimeSpan ClockDoubtMax = TimeSpan.FromMilliseconds(500);

    private Dictionary<WorkflowKey, Workflow> _workflows = [];
    private Dictionary<WorkflowKey, Workflow> _earlier = [];
    private int _metadata;
    private StoredHead? _head;
    private long _turn;
    private long _clock;
    private long _since;
    private TimeSpan _doubt;

    public NpgsqlConnection Connection { get; } = connection;

    /// <summary>The state that a batch finds, and what has to be so still when it is stored; or null where it has to be read.</summary>
    public (BatchState State, Assumption Assumed)? StateOf(BatchKeys keys, long seenSize)
    {
        if (_head is not { IsSealed: true } head || head.Size != seenSize || Stopwatch.GetElapsedTime(_since) > IdleMax)
            return null;
        var workflows = new List<Workflow>(keys.Workflows.Count);
        var absent = new List<WorkflowKey>();
        foreach (var key in keys.Workflows)
        {
            if (Find(key) is { } workflow)
                workflows.Add(workflow);
            else if (keys.Started.Contains(key))
                absent.Add(key);
            else
                return null;
        }
        var state = new BatchState
        {
            LogId = head.LogId,
            LogSize = head.Size,
            Frontier = head.Frontier,
            SignedNote = head.SignedNote,
            LastRecordedAt = head.LastRecordedAt,
            Now = _clock + (long)Stopwatch.GetElapsedTime(_since).TotalMicroseconds,
            ClockDoubt = (long)_doubt.TotalMicroseconds,
            Workflows = workflows,
            // One that is known all the same is met when it is stored.
            KnownRequests = [],
        };
        return (state, new Assumption(_turn, state.Now, state.SignedNote, absent));
    }

    /// <summary>Takes in what was read under the lock; what was remembered is forgotten if another has had the log since.</summary>
    /// <param name="state">What was read.</param>
    /// <param name="turn">How often the log was had before.</param>
    /// <param name="time">How long the look took, the waiting for the lock included.</param>
    /// <returns>Whether another has.</returns>
    public bool Read(BatchState state, long turn, TimeSpan time)
    {
        var othersCame = _turn > 0 && turn != _turn;
        if (othersCame)
            Forget();
        (_turn, _clock, _since, _doubt) = (turn, state.Now, Stopwatch.GetTimestamp(), time);
        _head = time > ClockDoubtMax ? null
            : new StoredHead(state.LogId, state.LogSize, state.SignedNote, state.Frontier, state.LastRecordedAt);
        foreach (var workflow in state.Workflows.Where(w => !state.Broken.Contains(w.Key)))
            Remember(workflow);
        return othersCame;
    }

    /// <summary>Takes in what was stored.</summary>
    /// <param name="batch">All of it.</param>
    /// <param name="turn">What the commit left.</param>
    /// <param name="time">How long the commit took, from its first statement on.</param>
    public void Stored(LedgerBatch batch, Turn turn, TimeSpan time)
    {
        var isNext = turn.Number == _turn + 1;
        (_turn, _clock, _since, _doubt) = (turn.Number, turn.Clock, Stopwatch.GetTimestamp(), time);
        if (!isNext)
        {
            // Somebody has come between without the lock, and may have changed what was stored just now too.
            Forget();
            _head = null;
            return;
        }
        if (batch.Repairs.Count > 0 || batch.ViolationChanges.Count > 0)
            Forget();
        foreach (var workflow in batch.Touched)
            Remember(workflow);
        if (batch.Head is { } head)
            _head = new StoredHead(head.Head.LogId, head.Head.Size, head.SignedNote, head.Frontier, batch.LastRecordedAt);
        if (time > ClockDoubtMax)
            _head = null;
    }

    public ValueTask DisposeAsync() => Connection.DisposeAsync();

    private Workflow? Find(WorkflowKey key)
    {
        if (_workflows.TryGetValue(key, out var workflow))
            return workflow;
        if (_earlier.TryGetValue(key, out workflow))
            Remember(workflow);
        return workflow;
    }

    /// <summary>
    /// The log's own history is looked up by what closes and repairs workflows, which asks for more than heads. One that is
    /// quarantined is asked for with its violations.
    /// </summary>
    private void Remember(Workflow workflow)
    {
        if (workflow.Quarantined || workflow.Key == WorkflowKey.Log)
        {
            _workflows.Remove(workflow.Key);
            _earlier.Remove(workflow.Key);
            return;
        }
        if (_workflows.TryAdd(workflow.Key, workflow))
            _metadata += workflow.Metadata.Sum(entry => entry.Key.Length + entry.Value.Length);
        else
            _workflows[workflow.Key] = workflow;
        if (_workflows.Count >= WorkflowsMax || _metadata >= MetadataMax)
            (_earlier, _workflows, _metadata) = (_workflows, [], 0);
    }

    private void Forget()
    {
        _workflows.Clear();
        _earlier.Clear();
        _metadata = 0;
    }
}

/// <summary>How often the log was had, and the database's clock in microseconds.</summary>
internal readonly record struct Turn(long Number, long Clock);

/// <summary>What a batch was decided by without a look.</summary>
/// <param name="Turn">How often the log was had.</param>
/// <param name="Now">The database's clock.</param>
/// <param name="SignedNote">The newest head.</param>
/// <param name="Absent">Workflows that are not there, and were not deleted behind the service's back.</param>
internal readonly record struct Assumption(long Turn, long Now, string SignedNote, IReadOnlyList<WorkflowKey> Absent);
