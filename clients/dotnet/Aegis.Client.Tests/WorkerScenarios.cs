using System.Collections.Concurrent;
using System.Diagnostics;
using Aegis.Core;
using Aegis.Tests;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Client.Tests;

using Pb = Aegis.V1;

/// <summary>Workers, leases, and what becomes of the work of those that die.</summary>
public sealed class WorkerScenarios
{
    [Test]
    public async Task Shared_pending()
    {
        const int count = 40;
        var engine = await Kit.EngineAsync(isTrusting: false);
        for (var i = 0; i < count; i++)
            await engine.StartAsync($"w-{i}");
        DurableWorkflowEngine[] workers = [await Kit.EngineAsync(engine.Client.Namespace), await Kit.EngineAsync(engine.Client.Namespace)];
        var handedOut = new ConcurrentBag<(string Worker, string WorkflowId)>();

        await Task.WhenAll(workers.Select(async worker =>
        {
            await foreach (var workflow in worker.ResumeAllPendingAsync<Permit>())
            {
                handedOut.Add((worker.Owner, workflow.WorkflowId));
                await worker.TransitionAsync(workflow, "DONE", WorkflowStatus.Completed);
            }
        }));

        Assert.That(handedOut.Select(h => h.WorkflowId), Is.Unique);
        Assert.That(handedOut, Has.Count.EqualTo(count));
        Assert.That(handedOut.Select(h => h.Worker).Distinct().Count(), Is.EqualTo(2));
        foreach (var one in workers.Append(engine))
            await one.CloseAsync();
    }

    [Test]
    public async Task Work_side_by_side_keeps_its_leases_until_all_of_it_is_done()
    {
        var engine = await Kit.EngineAsync(isTrusting: false);
        for (var i = 0; i < 6; i++)
            await engine.StartAsync($"w-{i}");
        var worker = await Kit.EngineAsync(engine.Client.Namespace);
        var atWork = new CountdownEvent(6);

        // The iteration is exhausted long before the last of them is moved.
        await Parallel.ForEachAsync(worker.ResumeAllPendingAsync<Permit>(), new ParallelOptions { MaxDegreeOfParallelism = 6 }, async (workflow, ct) =>
        {
            atWork.Signal();
            await Task.Run(() => atWork.Wait(ct), ct);
            await worker.TransitionAsync(workflow, "DONE", WorkflowStatus.Completed, cancellationToken: ct);
        });

        for (var i = 0; i < 6; i++)
            Assert.That((await engine.ReadAsync<Permit>($"w-{i}")).Status, Is.EqualTo(WorkflowStatus.Completed));
        await engine.CloseAsync();
        await worker.CloseAsync();
    }

    [Test]
    public async Task What_cannot_be_moved_does_not_keep_others_from_being_handed_out()
    {
        var engine = await Kit.EngineAsync(isTrusting: false);
        for (var i = 0; i < 5; i++)
            await engine.StartAsync($"w-{i}");
        var seen = new List<string>();

        await foreach (var workflow in engine.ResumeAllPendingAsync<Permit>(new ResumeOptions { Ahead = 2 }))
        {
            seen.Add(workflow.WorkflowId);
            await workflow.DisposeAsync();
        }

        Assert.That(seen, Is.EqualTo(Enumerable.Range(0, 5).Select(i => $"w-{i}")));
        Assert.That(await LeaseOfAsync(engine, "w-0"), Is.Null, "closing releases");
        await engine.CloseAsync();
    }

    [TestCase(1)]
    [TestCase(8)]
    public async Task What_cannot_be_read_is_reported_and_keeps_no_other_from_being_handed_out(int ahead)
    {
        var odd = await Kit.EngineAsync(isTrusting: false);
        odd.Register<Count>("count");
        for (var i = 0; i < 4; i++)
            await odd.StartAsync("count", $"w-{i}", "NEW", new Count(i), new StartDetails { TakeLease = false });
        var engine = await Kit.EngineAsync(odd.Client.Namespace, engine: new EngineOptions { CheckpointInterval = TimeSpan.FromMilliseconds(20) });
        engine.Register("count", new CodecWithout<Count>(new Count(1)));
        var failures = new List<ResumeFailure>();
        var seen = new List<string>();

        await foreach (var workflow in engine.ResumeAllPendingAsync<Count>(new ResumeOptions { Ahead = ahead, OnFailed = failures.Add }))
        {
            seen.Add(workflow.WorkflowId);
            await Task.Delay(100);
        }

        Assert.That(seen, Is.EqualTo(new[] { "w-0", "w-2", "w-3" }));
        Assert.That(failures.Select(f => (f.WorkflowId, f.Reason)), Is.EqualTo(new[] { ("w-1", "CODEC") }));
        Assert.That(failures[0].Message, Does.Contain("no such count"));
        Assert.That(await LeaseOfAsync(engine, "w-1"), Is.Null, "its lease is released");
        Assert.That(await engine.HistoryAsync("w-1"), Has.Count.EqualTo(1), "nothing is stored over what was not read");
        await odd.CloseAsync();
        await engine.CloseAsync();
    }

    [Test]
    public async Task Polling_outlasts_a_server_that_is_away_for_longer_than_a_call_may_take()
    {
        var failing = new Queue<RpcException>(
        [
            new(new Status(StatusCode.Unavailable, "away")),
            new(new Status(StatusCode.DeadlineExceeded, "late")),
            new Google.Rpc.Status
            {
                Code = (int)StatusCode.Unknown,
                Details = { Any.Pack(new Google.Rpc.ErrorInfo { Domain = "aegis.v1", Reason = "OUTCOME_UNKNOWN" }) },
            }.ToRpcException(),
        ]);
        var engine = await Kit.EngineAsync(isTrusting: false, configure: options =>
        {
            options.Timeout = TimeSpan.FromMilliseconds(90);
            options.Interceptors.Add(new LyingInterceptor(message =>
            {
                if (message is Pb.ResumePendingWorkflowsRequest && failing.TryDequeue(out var failure))
                    throw failure;
            }));
        });
        var patient = await Kit.EngineAsync(engine.Client.Namespace, isTrusting: false);
        await patient.StartAsync("w-1");
        string? handedOut = null;

        await foreach (var workflow in engine.ResumeAllPendingAsync<Permit>(new ResumeOptions { Poll = TimeSpan.FromMilliseconds(20) }))
        {
            handedOut = workflow.WorkflowId;
            break;
        }

        Assert.That((handedOut, failing.Count), Is.EqualTo(("w-1", 0)));
        await patient.CloseAsync();
        await engine.CloseAsync();
    }

    [Test]
    public async Task Killed_worker()
    {
        var server = await Kit.ServerAsync();
        var engine = await Kit.EngineAsync();
        engine.Register("building-permit", new JsonCodec<Dictionary<string, object>>());
        await engine.StartAsync("building-permit", "k-1", "RECEIVED",
            new Dictionary<string, object> { ["applicant"] = "Anna", ["plot"] = "1", ["findings"] = Array.Empty<string>(), ["decision"] = "" },
            new StartDetails { TakeLease = false });
        using var directory = new TemporaryDirectory("worker");
        using var worker = Process.Start(new ProcessStartInfo(ServerProcess.Host(),
            [ServerProcess.Assembly("ExampleAssembly"), "permit-worker", server.Address, engine.Client.Namespace])
        { WorkingDirectory = directory.Path, RedirectStandardOutput = true })!;
        try
        {
            await Kit.UntilAsync(async () => (await engine.HistoryAsync("k-1")).Count >= 3);
        }
        finally
        {
            worker.Kill();
        }
        var dead = (await LeaseOfAsync(engine, "k-1"))!;
        var before = await engine.ReadAsync<Dictionary<string, object>>("k-1");

        Workflow<Dictionary<string, object>>? taken = null;
        await foreach (var workflow in engine.ResumeAllPendingAsync<Dictionary<string, object>>(new ResumeOptions { Poll = TimeSpan.FromMilliseconds(50) }))
        {
            taken = workflow;
            break;
        }
        var again = await engine.ResumeAsync<Dictionary<string, object>>("k-1");
        var late = (await Assert.ThrowsAsync<RpcException>(async () => await engine.Client.Workflows.TransitionWorkflowAsync(
            new Pb.TransitionWorkflowRequest
            {
                Namespace = engine.Client.Namespace,
                WorkflowId = "k-1",
                FromState = again.State,
                ToState = "LATE",
                LeaseEpoch = dead.Epoch,
            })))!;

        Assert.That(taken!.Sequence, Is.EqualTo(before.Sequence));
        Assert.That(AegisException.FailureOf(late).Reason, Is.EqualTo("LEASE_STALE"));
        // The server grants it no sooner than the dead one's ends, and this worker asks often.
        Assert.That(again.LeaseEpoch, Is.GreaterThan((long)dead.Epoch));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Lost_lease()
    {
        var options = new EngineOptions { Owner = "same", LeaseDuration = TimeSpan.FromSeconds(1.2) };
        var engine = await Kit.EngineAsync(engine: options);
        var thief = await Kit.EngineAsync(engine.Client.Namespace, engine: new EngineOptions { Owner = "same" });
        await engine.StartAsync("l-1");
        await engine.StartAsync("l-2");
        await engine.StartAsync("l-3");
        var handedOut = new List<string>();
        var stolen = new List<Workflow<Permit>>();

        await foreach (var workflow in engine.ResumeAllPendingAsync<Permit>(new ResumeOptions { Ahead = 3 }))
        {
            handedOut.Add(workflow.WorkflowId);
            if (handedOut.Count > 1)
                continue;
            // The one at hand, and one that waits to be handed out.
            stolen.Add(await thief.ResumeAsync<Permit>("l-1", new ResumeOptions { TakeOverOwn = true }));
            stolen.Add(await thief.ResumeAsync<Permit>("l-2", new ResumeOptions { TakeOverOwn = true }));
            Assert.That(async () => await Task.Delay(Kit.Patience, workflow.LeaseLost), Throws.InstanceOf<OperationCanceledException>());
            await Assert.ThrowsAsync<LeaseLostException>(() => engine.TransitionAsync(workflow, "CHECKED"));
            await Task.Delay(options.LeaseDuration / 2);
        }

        Assert.That(handedOut, Is.EqualTo(new[] { "l-1", "l-3" }));
        foreach (var workflow in stolen)
        {
            Assert.That((await LeaseOfAsync(engine, workflow.WorkflowId))?.Epoch, Is.EqualTo((ulong)workflow.LeaseEpoch));
            await workflow.DisposeAsync();
            await Task.Delay(options.LeaseDuration / 2);
            Assert.That(await LeaseOfAsync(engine, workflow.WorkflowId), Is.Null, "it is not renewed again");
        }
        await engine.CloseAsync();
        await thief.CloseAsync();
    }

    [Test]
    public async Task A_lease_is_renewed_while_the_work_goes_on()
    {
        var engine = await Kit.EngineAsync(engine: new EngineOptions { LeaseDuration = TimeSpan.FromSeconds(1) });
        var other = await Kit.EngineAsync(engine.Client.Namespace);
        var workflow = await engine.StartAsync("k-1", takeLease: true);
        var first = workflow.LeaseExpiresAt;
        await Kit.UntilAsync(() => Task.FromResult(workflow.LeaseExpiresAt > first!.Value.AddSeconds(1)));

        await Assert.ThrowsAsync<LeaseHeldException>(() => other.ResumeAsync<Permit>("k-1"));
        await engine.CloseAsync();

        Assert.That(workflow.LeaseLost.IsCancellationRequested, "closing tells who is at work");
        Assert.That((await other.ResumeAsync<Permit>("k-1")).IsLeased, "closing releases");
        await other.CloseAsync();
    }

    [Test]
    public async Task Periodic_checkpoint()
    {
        var engine = await Kit.EngineAsync(engine: new EngineOptions { CheckpointInterval = TimeSpan.FromMilliseconds(100) });
        var workflow = await engine.StartAsync("p-1", takeLease: true);
        for (var step = 1; step <= 2; step++)
        {
            workflow.Data = workflow.Data! with { Step = step };
            await Kit.UntilAsync(async () => (await engine.LoadCheckpointAsync<Permit>("p-1")).Data.Step == step);
        }
        await Task.Delay(300);
        var unchanged = await engine.HistoryAsync("p-1");
        await workflow.DisposeAsync();
        workflow.Data = workflow.Data! with { Step = 3 };
        await Task.Delay(300);

        Assert.That(unchanged.Select(r => r.Record.Kind), Is.EqualTo(new[] { RecordKind.Started, RecordKind.Checkpoint, RecordKind.Checkpoint }));
        Assert.That(await engine.HistoryAsync("p-1"), Has.Count.EqualTo(3), "they stop with the work");
        Assert.That(workflow.Sequence, Is.EqualTo(3), "the handle follows them");
        await engine.CloseAsync();
    }

    [Test]
    public async Task Waiting_for_a_human()
    {
        var worker = await Kit.EngineAsync(engine: new EngineOptions { Owner = "worker" });
        var approver = await Kit.EngineAsync(worker.Client.Namespace, engine: new EngineOptions { Owner = "approver" });
        var workflow = await worker.StartAsync("h-1", takeLease: true);
        await worker.WaitAsync(workflow, "AWAITING_APPROVAL");
        var pending = 0;
        await foreach (var _ in worker.ResumeAllPendingAsync<Permit>())
            pending++;

        var waiting = await approver.ReadAsync<Permit>("h-1");
        waiting.Data = waiting.Data! with { Note = "granted" };
        await approver.TransitionAsync(waiting, "APPROVED", details: new TransitionDetails { Actor = "alderman", Reason = "no objections" });
        await foreach (var approved in worker.ResumeAllPendingAsync<Permit>())
        {
            Assert.That(approved.Data!.Note, Is.EqualTo("granted"));
            await worker.TransitionAsync(approved, "DONE", WorkflowStatus.Completed);
        }

        Assert.That(pending, Is.Zero);
        Assert.That((waiting.Status, waiting.IsLeased), Is.EqualTo((WorkflowStatus.Running, false)));
        Assert.That((await worker.HistoryAsync("h-1")).Select(r => (r.Record.ToState, r.Record.Person!.Actor)), Is.EqualTo(new[]
        {
            ("RECEIVED", "worker"), ("AWAITING_APPROVAL", "worker"), ("APPROVED", "alderman"), ("DONE", "worker"),
        }));
        await worker.CloseAsync();
        await approver.CloseAsync();
    }

    [Test]
    public async Task A_restarted_worker_takes_back_at_once_what_it_held()
    {
        var server = await Kit.ServerAsync();
        var crashed = await Kit.EngineAsync(engine: new EngineOptions { Owner = "w" });
        for (var i = 0; i < 12; i++)
            await crashed.StartAsync($"w-{i}", takeLease: true);
        var again = await Kit.EngineAsync(crashed.Client.Namespace, engine: new EngineOptions { Owner = "w" });
        var count = 0;

        await foreach (var workflow in again.ResumeAllPendingAsync<Permit>(new ResumeOptions { TakeOverOwn = true }))
        {
            await again.TransitionAsync(workflow, "DONE", WorkflowStatus.Completed);
            count++;
        }

        Assert.That(count, Is.EqualTo(12));
        await crashed.CloseAsync();
        await again.CloseAsync();
    }

    [Test]
    public async Task A_program_gets_its_engine_by_dependency_injection()
    {
        var server = await Kit.ServerAsync();
        await using var program = new ServiceCollection().AddLogging().AddAegisClient(
            (_, options) => options.Addresses.Add(server.Address),
            engine => engine.Register<Permit>("permit"),
            options => options.Owner = "di").BuildServiceProvider();

        var engine = program.GetRequiredService<DurableWorkflowEngine>();
        var workflow = await engine.StartAsync($"di-{Guid.NewGuid():N}", takeLease: true);

        Assert.That(workflow.IsLeased);
        Assert.That(program.GetRequiredService<DurableWorkflowEngine>(), Is.SameAs(engine));
        Assert.That(engine.Client, Is.SameAs(program.GetRequiredService<AegisClient>()));
    }

    private readonly record struct Count(int Value);

    /// <summary>Reads all but one.</summary>
    private sealed class CodecWithout<T>(T unread) : ICodec<T>
    {
        private readonly JsonCodec<T> _json = new();

        public EncodedState Encode(T value) => _json.Encode(value);

        public T Decode(EncodedState state) =>
            _json.Decode(state) is var value && Equals(value, unread) ? throw new NotSupportedException("no such count") : value;
    }

    private static async Task<Pb.Lease?> LeaseOfAsync(DurableWorkflowEngine engine, string id) => (await engine.Client.Workflows.GetWorkflowAsync(
        new Pb.GetWorkflowRequest { Namespace = engine.Client.Namespace, WorkflowId = id })).Workflow.Lease;
}
