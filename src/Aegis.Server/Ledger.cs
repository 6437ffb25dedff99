using System.Diagnostics;
using System.Threading.Channels;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// The single writer. Commands wait in one queue; the writer takes all that wait as one batch, decides them in order under
/// the lock of the log, or by what it remembers and the lock then confirms, and stores them in one transaction: one flush serves many
/// callers. Each caller is answered after the commit, with its own result. The writer is no thread of its own: whoever submits while it
/// rests wakes it.
/// </summary>
public sealed partial class Ledger(
    ILedgerStore store, LogTail tail, LogSigner signer, SignerMemory memory, ServerOptions options, Metrics metrics,
    ILogger<Ledger> logger) : IHostedService
{
    private readonly Channel<Pending> _queue = Channel.CreateUnbounded<Pending>(
        new UnboundedChannelOptions { SingleReader = true });

    // Of more callers enough wait already, and the others are on their way while a batch is written.
    private const int GatheredCallersMax = 16;
    private static readonly TimeSpan Linger = TimeSpan.FromMilliseconds(1);
    private static readonly TimeSpan UntilRest = TimeSpan.FromMilliseconds(5);

    // After a batch in which somebody was refused, or asked for what was done already: what is told then has to be read, and such callers
    // do not come alone.
    private const int LooksAfterRefusal = 4;

    private long _queuedBytes;
    private int _queuedCommands;

    // Whether the writer is at work; who changes it to 1 is the writer, and all below is the writer's alone.
    private int _isAwake;

    // How many callers there seem to be: those of the last batch, and who came while it was written.
    private int _callers;
    private int _awaited = int.MaxValue;
    private TaskCompletionSource _gathered = new();

    // Whether another server has had the log since this one's last batch.
    private bool _othersWrite;

    // How many of the next batches look.
    private int _looks;

    // What the only caller of the last batch is told.
    private (Pending Caller, Outcome Outcome)? _answer;

    /// <summary>Called after a failure of the store, so that health follows at once.</summary>
    public event Action<StoreFailure>? StoreFailed;

    /// <summary>How many commands wait.</summary>
    public int QueueLength => Volatile.Read(ref _queuedCommands);

    /// <summary>
    /// Has a command decided and stored. A token that is cancelled while the command waits takes it out of the queue;
    /// once it is taken, its outcome stands and is returned.
    /// </summary>
    /// <exception cref="OperationCanceledException">The command was never taken.</exception>
    /// <exception cref="RefusalException">
    /// OVERLOADED, LOG_ROLLED_BACK, STORE_UNAVAILABLE, STORE_FULL, OUTCOME_UNKNOWN, SHUTTING_DOWN.
    /// </exception>
    public async Task<Outcome> SubmitAsync(Command command, CancellationToken cancellationToken)
    {
        var weight = command.Weight;
        var bytes = Interlocked.Add(ref _queuedBytes, weight);
        var commands = Interlocked.Increment(ref _queuedCommands);
        if (bytes > options.QueueBytesMax || commands > options.QueueCommandsMax)
        {
            Leave(weight);
            throw new RefusalException(new Refusal(Reason.Overloaded,
                "More commands wait than this server takes on; nothing was written. Try again."));
        }
        var pending = new Pending(command, weight, isAlone: Volatile.Read(ref _callers) <= 1);
        if (!_queue.Writer.TryWrite(pending))
        {
            Leave(weight);
            throw new RefusalException(ShuttingDown);
        }
        if (commands >= Volatile.Read(ref _awaited))
            _gathered.TrySetResult();
        await using var registration = cancellationToken.Register(() => pending.TryCancel(cancellationToken));
        Wake();
        return await pending.Completion.Task;
    }

    public static readonly Refusal ShuttingDown = new(Reason.ShuttingDown,
        "The server is shutting down; nothing was written. Try again, here or on another.");

    public Task StartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    /// <summary>Takes no more commands, and ends once those that wait are answered.</summary>
    public async Task StopAsync(CancellationToken cancellationToken)
    {
        _queue.Writer.TryComplete();
        while (Interlocked.Exchange(ref _isAwake, 1) == 1)
        {
            if (cancellationToken.IsCancellationRequested)
                return;
            await Task.Delay(UntilRest, CancellationToken.None);
        }
        // Who came just before the end may not have woken the writer yet.
        await WriteAllAsync();
    }

    /// <summary>
    /// A lone caller becomes the writer: another thread would have to be woken, which takes longer than the work that it takes over.
    /// Of several callers the others are still being read from the same socket: none of them is kept from it.
    /// </summary>
    private void Wake()
    {
        if (Interlocked.Exchange(ref _isAwake, 1) == 1)
            return;
        if (Volatile.Read(ref _callers) > 1 || ExecutionContext.IsFlowSuppressed())
        {
            ThreadPool.UnsafeQueueUserWorkItem(static ledger => _ = ledger.WriteAllAsync(), this, preferLocal: false);
            return;
        }
        // What is written later is not this caller's.
        using (ExecutionContext.SuppressFlow())
            _ = WriteAllAsync();
    }

    /// <summary>Writes until nobody waits, and rests.</summary>
    private async Task WriteAllAsync()
    {
        for (var isFirst = true; ; isFirst = false)
        {
            if (_queue.Reader.TryPeek(out _))
                await GatherAsync();
            var batch = new List<Pending>();
            try
            {
                Take(batch);
                if (batch.Count > 0)
                    await WriteAsync(batch, mayGrow: true);
            }
            catch (Exception e)
            {
                // Nothing may end this: whoever waits would wait for ever.
                logger.LogError(e, "A batch of {Commands} commands failed", batch.Count);
                FailAll(batch, e);
            }
            if (batch.Count > 0)
                Volatile.Write(ref _callers, batch.Count + QueueLength);
            var answer = _answer;
            _answer = null;
            var rests = Rests();
            // At last: the caller goes on on this thread.
            answer?.Caller.Completion.TrySetResult(answer.Value.Outcome);
            if (rests)
                return;
            // A store that never waits would keep the caller who woke the writer at the others' work.
            if (isFirst)
                await Task.Yield();
        }
    }

    /// <summary>Leaves the writer's place, unless somebody waits whom nobody else will serve.</summary>
    private bool Rests()
    {
        if (_queue.Reader.TryPeek(out _))
            return false;
        Interlocked.Exchange(ref _isAwake, 0);
        // Who came meanwhile may have found the writer still awake.
        return !_queue.Reader.TryPeek(out _) || Interlocked.Exchange(ref _isAwake, 1) == 1;
    }

    /// <summary>
    /// Waits a moment for the callers that were just answered: one that comes right after a batch has begun waits for two flushes, and
    /// two batches cost the database more than one. Those who do not come back are not waited for again.
    /// </summary>
    private async Task GatherAsync()
    {
        var awaited = _callers;
        if (awaited > GatheredCallersMax || QueueLength >= awaited)
            return;
        _gathered = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Interlocked.Exchange(ref _awaited, awaited);
        // Who came in between has not told.
        if (QueueLength < awaited)
            await _gathered.Task.WaitAsync(Linger).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        Volatile.Write(ref _awaited, int.MaxValue);
    }

    /// <summary>Adds all that wait to a batch, up to its limits; who has gone away is dropped here.</summary>
    private void Take(List<Pending> batch)
    {
        var bytes = batch.Sum(p => (long)p.Weight);
        while (batch.Count < Limits.BatchCommandsMax && _queue.Reader.TryPeek(out var next))
        {
            if (batch.Count > 0 && bytes + next.Weight > Limits.BatchBytesMax)
                break;
            _queue.Reader.TryRead(out _);
            Leave(next.Weight);
            if (!next.TryTake())
                continue;
            metrics.Taken(Stopwatch.GetElapsedTime(next.Arrived));
            batch.Add(next);
            bytes += next.Weight;
        }
    }

    private void Leave(int weight)
    {
        Interlocked.Add(ref _queuedBytes, -weight);
        Interlocked.Decrement(ref _queuedCommands);
    }

    private async Task WriteAsync(
        List<Pending> commands, bool isSecondTry = false, bool mayGrow = false, bool mayBeRemembered = true)
    {
        var begun = Stopwatch.GetTimestamp();
        LedgerTransaction? transaction = null;
        LedgerBatch? batch = null;
        Outcome[] outcomes = [];
        try
        {
            var sight = memory.Look();
            transaction = await BeginAsync(commands, mayGrow, sight.Size, mayBeRemembered);
            // What is gone on from without a look is the newest head that this server knows, which needs no judgement.
            if (transaction.IsRemembered && transaction.State.SignedNote != memory.Newest?.SignedNote)
                throw new StoreException(StoreFailure.Outdated, "Another head is remembered.");
            if (!transaction.IsRemembered)
            {
                _othersWrite = transaction.OthersCame || transaction.State.HashesSince.Count > 0;
                var rolledBack = await memory.CheckAsync(transaction.State, sight, CancellationToken.None);
                if (rolledBack is null)
                    tail.Advance(transaction.State.LogSize);
                commands = Admit(commands, rolledBack, transaction.State);
            }
            batch = new LedgerBatch(transaction.State);
            outcomes = [.. commands.Select(c => batch.Decide(c.Command))];
            var refuses = outcomes.Any(Refuses);
            _looks = refuses || outcomes.Any(o => o is Written { Replayed: true }) ? LooksAfterRefusal : Math.Max(0, _looks - 1);
            if (transaction.IsRemembered && (refuses || batch.IsEmpty))
                throw new StoreException(StoreFailure.Outdated, "Nobody is told what is only remembered.");
            batch.Seal(signer.Sign);
            if (!batch.IsEmpty)
                await transaction.CommitAsync(batch);
        }
        catch (StoreException e) when (e.Failure == StoreFailure.Outdated)
        {
            await DisposeAsync(transaction);
            await WriteAsync(commands, isSecondTry, mayGrow, mayBeRemembered: false);
            return;
        }
        catch (StoreException e)
        {
            await DisposeAsync(transaction);
            await RecoverAsync(commands, batch, outcomes, e, isSecondTry);
            return;
        }
        catch (Exception e) when (commands.Count > 1)
        {
            // A command that cannot even be decided fails alone, like one that the database refuses.
            await DisposeAsync(transaction);
            logger.LogError(e, "A batch of {Commands} commands could not be decided", commands.Count);
            await SplitAsync(commands);
            return;
        }
        catch
        {
            await DisposeAsync(transaction);
            throw;
        }
        await DisposeAsync(transaction);
        Answer(commands, batch, outcomes, Stopwatch.GetElapsedTime(begun));
    }

    /// <summary>A broken connection in the pool tells of a restart that is over: the second try opens a new one.</summary>
    private async Task<LedgerTransaction> BeginAsync(List<Pending> commands, bool mayGrow, long seenSize, bool mayBeRemembered)
    {
        var look = (_othersWrite, _callers) switch
        {
            // While another server has the log all callers of this one come together, and each turn serves them all.
            (true, > 1) => Look.OnceLocked,
            (false, _) when mayBeRemembered && _looks == 0 && memory.RolledBack is null
                && commands.TrueForAll(c => c.Command is not (ImportCommand or OpenLogCommand or LogActCommand)) => Look.Remembered,
            _ => Look.AtOnce,
        };
        try
        {
            return await TryAsync();
        }
        catch (StoreException e) when (e.Failure == StoreFailure.Unavailable)
        {
            return await TryAsync();
        }

        Task<LedgerTransaction> TryAsync() => store.BeginAsync(Keys, look, seenSize, CancellationToken.None);

        BatchKeys Keys()
        {
            if (mayGrow && look == Look.OnceLocked)
                Take(commands);
            return new BatchKeys(
                commands.SelectMany(c => c.Command.Workflows).ToHashSet(),
                commands.Select(c => (c.Command as WriteCommand)?.RequestKey).OfType<Bytes16>().ToHashSet())
            {
                Started = commands.Select(c => c.Command).OfType<StartCommand>().Select(c => c.Key).ToHashSet(),
            };
        }
    }

    /// <summary>
    /// On a log that was rolled back only an operator's acceptance of the loss is let through, and only onto a head that the
    /// log's key has signed; on any other log there is nothing to accept.
    /// </summary>
    private List<Pending> Admit(List<Pending> commands, Refusal? rolledBack, BatchState state)
    {
        var admitted = new List<Pending>(commands.Count);
        foreach (var pending in commands)
        {
            var accepts = pending.Command is LogActCommand { NewLogId: not null };
            if (!accepts && rolledBack is null || accepts && memory.Surviving?.SignedNote == state.SignedNote)
                admitted.Add(pending);
            else
                pending.Completion.TrySetException(new RefusalException(rolledBack ?? NothingToAccept));
        }
        return admitted;
    }

    public static readonly Refusal NothingToAccept = Refusal.Invalid("log", "is not rolled back: there is nothing to accept");

    private void Answer(IReadOnlyList<Pending> commands, LedgerBatch batch, Outcome[] outcomes, TimeSpan time)
    {
        if (!batch.IsEmpty)
        {
            if (batch.Head is { } head)
                memory.Remember(head);
            tail.Advance(batch.LogSize);
            metrics.Committed(commands.Count, batch.Records.Count, time);
        }
        var covering = batch.Head ?? memory.Newest;
        var tree = batch.Head is not null && commands.Any(c => c.Command is WriteCommand { IncludeProof: true }) ? batch.Tree() : null;
        if (commands.Count == 1 && commands[0].IsAlone && _answer is null)
        {
            _answer = (commands[0], WithProof(outcomes[0], covering, tree));
            return;
        }
        for (var i = 0; i < commands.Count; i++)
            commands[i].Completion.TrySetResult(WithProof(outcomes[i], covering, tree));
    }

    /// <summary>Adds to a record that is durable now the head that covers it, and what its path is computed from.</summary>
    private static Outcome WithProof(Outcome outcome, SealedHead? head, GrownTree? tree) => outcome is not Written written
        ? outcome
        : written with { Head = head, Tree = written.Replayed ? null : tree };

    private static bool Refuses(Outcome outcome) =>
        outcome is Refused || outcome is LeasesDecided { Answers: var answers } && answers.Any(a => a.Refusal is not null);

    private static async Task DisposeAsync(LedgerTransaction? transaction)
    {
        if (transaction is not null)
            await transaction.DisposeAsync();
    }

    private static void FailAll(IReadOnlyList<Pending> commands, Exception e)
    {
        foreach (var command in commands)
            command.Completion.TrySetException(e);
    }

    /// <summary>A command on its way, with the caller that waits for it.</summary>
    private sealed class Pending(Command command, int weight, bool isAlone)
    {
        private const int Waiting = 0, Taken = 1, Cancelled = 2;

        private int _state = Waiting;

        public Command Command { get; } = command;

        public int Weight { get; } = weight;

        public long Arrived { get; } = Stopwatch.GetTimestamp();

        /// <summary>Whether the caller seems to be the only one, who may go on on the writer's thread.</summary>
        public bool IsAlone { get; } = isAlone;

        public TaskCompletionSource<Outcome> Completion { get; } =
            new(isAlone ? TaskCreationOptions.None : TaskCreationOptions.RunContinuationsAsynchronously);

        /// <summary>From here on the command's outcome stands.</summary>
        public bool TryTake() => Interlocked.CompareExchange(ref _state, Taken, Waiting) == Waiting;

        public void TryCancel(CancellationToken cancellationToken)
        {
            if (Interlocked.CompareExchange(ref _state, Cancelled, Waiting) == Waiting)
                Completion.TrySetCanceled(cancellationToken);
        }
    }
}
