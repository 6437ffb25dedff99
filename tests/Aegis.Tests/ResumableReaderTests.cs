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
        var (reader, store) = Create();
        var first = reader.FindAsync(Ask.Key("a"), default);
        var second = reader.FindAsync(Ask.Key("b"), default);
        var waiting = Enumerable.Range(0, 10).Select(i => reader.FindAsync(Ask.Key($"w{i % 5}"), default)).ToList();

        Assert.That(store.Reads, Is.EqualTo(new[] { "a", "b" }), "No more than two reads at once.");
        store.Answer(0);
        await first;
        await Until.TrueAsync(() => Task.FromResult(store.Reads.Count == 3));
        Assert.That(store.Reads[2], Is.EqualTo("w0 w1 w2 w3 w4"));
        store.Answer(2);
        store.Answer(1);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((await second)!.Workflow.Key, Is.EqualTo(Ask.Key("b")));
            for (var i = 0; i < waiting.Count; i++)
                Assert.That((await waiting[i])!.Workflow.Key, Is.EqualTo(Ask.Key($"w{i % 5}")));
        }
    }

    [Test]
    public async Task A_read_that_fails_fails_those_it_was_for_and_nobody_after()
    {
        var (reader, store) = Create();
        var failing = reader.FindAsync(Ask.Key("a"), default);
        store.Fail(0, new StoreException(StoreFailure.Unavailable, "away"));
        var failure = await Assert.ThrowsAsync<StoreException>(() => failing);

        var next = reader.FindAsync(Ask.Key("a"), default);
        await Until.TrueAsync(() => Task.FromResult(store.Reads.Count == 2));
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
        var (reader, store) = Create();
        using var gone = new CancellationTokenSource();
        var cancelled = reader.FindAsync(Ask.Key("a"), gone.Token);
        var absent = reader.FindAsync(Ask.Key("absent"), default);
        await gone.CancelAsync();

        Assert.That(() => cancelled, Throws.InstanceOf<OperationCanceledException>());
        store.Answer(1);
        Assert.That(await absent, Is.Null);
        store.Answer(0);
        var after = reader.FindAsync(Ask.Key("b"), default);
        await Until.TrueAsync(() => Task.FromResult(store.Reads.Count == 3));
        store.Answer(2);
        Assert.That(await after, Is.Not.Null);
    }

    private static (ResumableReader Reader, HeldReads Store) Create()
    {
        var store = DispatchProxy.Create<ILedgerStore, HeldReads>();
        return (new ResumableReader(store), (HeldReads)store);
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
