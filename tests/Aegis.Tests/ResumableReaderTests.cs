using System.Reflection;
using Aegis.Core;
using Aegis.Server;
using Aegis.Storage;

namespace Aegis.Tests;

/// <summary>Many who resume at once are read for together, and each as if it were alone.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ResumableReaderTests
{
    [Test]
    public async Task Who_waits_is_read_for_together()
    {
        var (reader, store, _) = Create();
        var first = reader.FindAsync(Ask.Key("a"), default);
        var waiting = Enumerable.Range(0, 10).Select(i => reader.FindAsync(Ask.Key($"w{i % 5}"), default)).ToList();

        Assert.That(store.Reads, Is.EqualTo(new[] { "a" }));
        store.Answer(0);
        await first;
        await store.HasReadAsync(2);
        Assert.That(store.Reads[1], Is.EqualTo("w0 w1 w2 w3 w4"));
        store.Answer(1);

        using (Assert.EnterMultipleScope())
        {
            for (var i = 0; i < waiting.Count; i++)
                Assert.That((await waiting[i])!.Workflow.Key, Is.EqualTo(Ask.Key($"w{i % 5}")));
        }
    }

    [Test]
    public async Task Who_waits_behind_a_long_read_is_read_for_beside_it_but_not_without_end()
    {
        var (reader, store, clock) = Create();
        var found = new List<Task<Resumable?>>();
        for (var read = 0; read < 5; read++)
        {
            found.Add(reader.FindAsync(Ask.Key($"a{read}"), default));
            found.Add(reader.FindAsync(Ask.Key($"b{read}"), default));
            if (read == 0)
                continue;
            Assert.That(store.Reads, Has.Count.EqualTo(Math.Min(read, 4)), "None before the time.");
            clock.Pass();
        }

        Assert.That(store.Reads, Is.EqualTo(new[] { "a0", "b0 a1 b1", "a2 b2", "a3 b3" }));
        store.Answer(2);
        await store.HasReadAsync(5);
        Assert.That(store.Reads[4], Is.EqualTo("a4 b4"));
        foreach (var read in (int[])[0, 1, 3, 4])
            store.Answer(read);
        Assert.That((await Task.WhenAll(found)).Select(f => f!.Workflow.Key.WorkflowId),
            Is.EqualTo(new[] { "a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4" }));
    }

    [Test]
    public async Task Time_that_passes_after_its_read_has_begun_begins_no_other()
    {
        var (reader, store, clock) = Create();
        var first = reader.FindAsync(Ask.Key("a"), default);
        var second = reader.FindAsync(Ask.Key("b"), default);
        store.Answer(0);
        await first;
        await store.HasReadAsync(2);
        var third = reader.FindAsync(Ask.Key("c"), default);

        clock.PassOfTheFirst();

        Assert.That(store.Reads, Is.EqualTo(new[] { "a", "b" }), "The third has only just come.");
        store.Answer(1);
        await second;
        await store.HasReadAsync(3);
        store.Answer(2);
        Assert.That(await third, Is.Not.Null);
    }

    [Test]
    public async Task More_than_one_read_can_take_are_not_kept_waiting()
    {
        var (reader, store, _) = Create();
        var found = Enumerable.Range(0, 66).Select(i => reader.FindAsync(Ask.Key($"w{i}"), default)).ToList();

        Assert.That(store.Reads.Select(read => read.Split(' ').Length), Is.EqualTo(new[] { 1, 64 }));
        store.Answer(0);
        await store.HasReadAsync(3);
        store.Answer(1);
        store.Answer(2);
        Assert.That(await Task.WhenAll(found), Has.All.Not.Null);
    }

    [Test]
    public async Task A_read_that_fails_fails_those_it_was_for_and_nobody_after()
    {
        var (reader, store, _) = Create();
        var failing = reader.FindAsync(Ask.Key("a"), default);
        store.Fail(0, new StoreException(StoreFailure.Unavailable, "away"));
        var failure = await Assert.ThrowsAsync<StoreException>(() => failing);

        var next = reader.FindAsync(Ask.Key("a"), default);
        await store.HasReadAsync(2);
        store.Answer(1);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Unavailable));
            Assert.That(await next, Is.Not.Null);
        }
    }

    [Test]
    public async Task Who_goes_away_keeps_nobody_waiting_and_what_is_not_there_is_null()
    {
        var (reader, store, clock) = Create();
        using var gone = new CancellationTokenSource();
        var cancelled = reader.FindAsync(Ask.Key("a"), gone.Token);
        var absent = reader.FindAsync(Ask.Key("absent"), default);
        clock.Pass();
        await gone.CancelAsync();

        Assert.That(() => cancelled, Throws.InstanceOf<OperationCanceledException>());
        store.Answer(1);
        Assert.That(await absent, Is.Null);
        store.Answer(0);
        var after = reader.FindAsync(Ask.Key("b"), default);
        await store.HasReadAsync(3);
        store.Answer(2);
        Assert.That(await after, Is.Not.Null);
    }

    private static (ResumableReader Reader, HeldReads Store, Clock Clock) Create()
    {
        var store = DispatchProxy.Create<ILedgerStore, HeldReads>();
        var clock = new Clock();
        return (new ResumableReader(store, clock), (HeldReads)store, clock);
    }

    /// <summary>Time that passes when the test says so: each timer ends once, on the test's thread.</summary>
    private sealed class Clock : TimeProvider
    {
        private readonly Queue<Action> _timers = [];

        public void PassOfTheFirst() => _timers.Dequeue()();

        public void Pass()
        {
            while (_timers.TryDequeue(out var end))
                end();
        }

        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
        {
            _timers.Enqueue(() => callback(state));
            return new Timer();
        }

        private sealed class Timer : ITimer
        {
            public bool Change(TimeSpan dueTime, TimeSpan period) => true;

            public void Dispose()
            {
            }

            public ValueTask DisposeAsync() => ValueTask.CompletedTask;
        }
    }

    /// <summary>A store whose reads end when the test says so. Whatever is asked for is there, but "absent".</summary>
    public class HeldReads : DispatchProxy
    {
        private readonly List<(WorkflowKey[] Keys, TaskCompletionSource<IReadOnlyList<Resumable>> Read)> _reads = [];

        public IReadOnlyList<string> Reads
        {
            get
            {
                lock (_reads)
                    return [.. _reads.Select(r => string.Join(' ', r.Keys.Select(k => k.WorkflowId)))];
            }
        }

        public Task HasReadAsync(int times) => Until.TrueAsync(() => Task.FromResult(Reads.Count == times));

        public void Answer(int read) => _reads[read].Read.SetResult(
            [.. _reads[read].Keys.Where(k => k.WorkflowId != "absent").Select(k => new Resumable(Given(k), [], null))]);

        public void Fail(int read, Exception e) => _reads[read].Read.SetException(e);

        protected override object? Invoke(MethodInfo? targetMethod, object?[]? args)
        {
            Assert.That(targetMethod!.Name, Is.EqualTo(nameof(ILedgerStore.ReadResumableAsync)));
            var read = new TaskCompletionSource<IReadOnlyList<Resumable>>(TaskCreationOptions.RunContinuationsAsynchronously);
            lock (_reads)
                _reads.Add(([.. (IReadOnlyCollection<WorkflowKey>)args![0]!], read));
            return read.Task;
        }

        private static Workflow Given(WorkflowKey key) => new()
        {
            Key = key,
            WorkflowType = "order",
            State = "NEW",
            Status = WorkflowStatus.Running,
            Sequence = 1,
            HeadHash = default,
            CheckpointSequence = 0,
            Metadata = Metadata.Empty,
            ForkedFrom = null,
            CreatedLogIndex = 0,
            CreatedAt = 0,
            UpdatedAt = 0,
        };
    }
}
