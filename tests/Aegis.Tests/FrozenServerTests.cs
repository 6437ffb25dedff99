using System.Diagnostics;
using Grpc.Core;
using Grpc.Health.V1;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// A server that stands still in the middle of a batch, as a paused machine does, or whose connection goes silent: another
/// takes over within about 10 s, and when the first goes on, nothing is lost, doubled or forked.
/// </summary>
[Parallelizable(ParallelScope.All)]
public sealed class FrozenServerTests
{
    // What is promised is about 10 s; a busy machine adds to it.
    private static readonly TimeSpan TakenOverBound = TimeSpan.FromSeconds(12);

    [Test]
    public async Task A_commit_that_was_sent_before_the_freeze_stands_and_is_told_as_success_after_it()
    {
        await using var setup = await Frozen.StartAsync();
        var id = await Given.WorkflowAsync(setup.Other);

        // The request for the commit passes and is done; its reply comes back only after the freeze.
        var sent = setup.Proxy.HoldRepliesFromRequest(CuttingProxy.Text("batch-of-the-frozen"));
        var moving = setup.MoveAsync(id);
        await sent;
        await Until.TrueAsync(async () => (await Given.ReadAsync(setup.Other, id)).Sequence == 2);
        await setup.Server.SendAsync(Signal.Stop);
        var next = await setup.Other.Workflows.TransitionWorkflowAsync(Given.Move(id, "BY-THE-FROZEN", "BY-THE-OTHER"));
        setup.Proxy.ReleaseReplies();
        await setup.Server.SendAsync(Signal.Continue);
        var moved = await moving;

        using (Assert.EnterMultipleScope())
        {
            Assert.That((moved.Record.Sequence, next.Record.Sequence), Is.EqualTo((2UL, 3UL)));
            Assert.That(moved.Replayed, Is.False);
            Assert.That(next.Record.PreviousHash, Is.EqualTo(moved.Record.Hash));
        }
        await setup.GoesOnAsync(id, "BY-THE-OTHER");
    }

    [Test]
    public async Task A_batch_that_was_sent_in_part_holds_the_log_no_longer_than_another()
    {
        await using var setup = await Frozen.StartAsync();
        var id = await Given.WorkflowAsync(setup.Other);

        // PostgreSQL has the beginning of the batch, and waits for the rest while it holds the log.
        var begun = setup.Proxy.SilenceFromRequest(CuttingProxy.Text("batch-of-the-frozen"));
        var moving = setup.MoveAsync(id, new string('x', 1_000_000));
        await begun;
        await setup.Server.SendAsync(Signal.Stop);
        var watch = Stopwatch.StartNew();
        var taken = await setup.Other.Workflows.TransitionWorkflowAsync(
            Given.Move(id, "NEW", "BY-THE-OTHER"), deadline: DateTime.UtcNow.AddSeconds(40));
        var waited = watch.Elapsed;
        await setup.Server.SendAsync(Signal.Continue);
        setup.Proxy.EndSilence();
        await ErrorAssert.RefusedAsync(() => moving, "STATE_MISMATCH", StatusCode.Aborted);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(taken.Record.Sequence, Is.EqualTo(2));
            Assert.That(waited, Is.LessThan(TakenOverBound));
        }
        await setup.GoesOnAsync(id, "BY-THE-OTHER");
    }

    [Test]
    public async Task A_connection_that_goes_silent_in_a_batch_does_not_stop_the_server_that_sent_it()
    {
        await using var setup = await Frozen.StartAsync();
        var id = await Given.WorkflowAsync(setup.Other);

        // As after a firewall has forgotten one connection: others can be made.
        var silent = setup.Proxy.SilenceFromRequest(CuttingProxy.Text("batch-of-the-frozen"));
        var moving = setup.MoveAsync(id, new string('x', 1_000_000));
        await silent;
        var moved = await moving;

        Assert.That(moved.Record.Sequence, Is.EqualTo(2));
        await setup.GoesOnAsync(id, "BY-THE-FROZEN");
    }

    [Test]
    public async Task A_server_that_reads_an_old_log_after_it_lost_the_lock_does_not_take_it_for_one_taken_back()
    {
        await using var setup = await Frozen.StartAsync();
        var id = await Given.WorkflowAsync(setup.Other);

        // The log is locked, and what was read under the lock arrives only once others have written and the server has seen it.
        var begun = setup.Proxy.SilenceFromRequest(CuttingProxy.Text(id));
        var moving = setup.MoveAsync(id);
        await begun;
        await setup.Other.Workflows.TransitionWorkflowAsync(
            Given.Move(id, "NEW", "BY-THE-OTHER"), deadline: DateTime.UtcNow.AddSeconds(40));
        await Task.Delay(2500);
        setup.Proxy.EndSilence();
        var error = await Assert.ThrowsAsync<RpcException>(() => moving);

        Assert.That(error!.StatusCode, Is.AnyOf(StatusCode.Unavailable, StatusCode.Aborted), error.Status.Detail);
        await setup.GoesOnAsync(id, "BY-THE-OTHER");
        Assert.That(setup.Server.Output, Does.Not.Contain("are gone"));
    }

    [Test]
    public async Task Under_load_a_frozen_server_costs_its_callers_time_and_nobody_a_record()
    {
        await using var setup = await Frozen.StartAsync();
        var loads = new[] { new CrashLoad(setup.Server.Channel, "frozen"), new CrashLoad(setup.Other.Channel, "other") };
        var running = loads.Select(load => load.RunAsync(8, TimeSpan.FromSeconds(10))).ToList();
        await Task.Delay(1500);

        // A short request that names its workflows: the first of a batch, which locks the log.
        await setup.Proxy.HoldRepliesFromRequest(r => r.Length < 2000 && CuttingProxy.Text("frozen-")(r));
        await setup.Server.SendAsync(Signal.Stop);
        setup.Proxy.ReleaseReplies();
        var before = loads[1].Acknowledged;
        var watch = Stopwatch.StartNew();
        await Until.TrueAsync(() => Task.FromResult(loads[1].Acknowledged > before + 100));
        var waited = watch.Elapsed;
        await Task.Delay(1000);
        await setup.Server.SendAsync(Signal.Continue);
        await Task.WhenAll(running);

        TestContext.Progress.WriteLine($"a server frozen under load: the other went on after {waited.TotalSeconds:F2} s; "
            + $"{loads.Sum(l => l.Acknowledged)} records acknowledged by both");
        Assert.That(waited, Is.LessThan(TakenOverBound));
        foreach (var load in loads)
            Assert.That(await load.CheckAsync(), Is.EqualTo((0, 0)), "lost, doubled");
        await loads[1].CheckLogAsync();
    }

    /// <summary>A server process behind a proxy, and another server on the same database that is not.</summary>
    private sealed class Frozen(string database, CuttingProxy proxy, ServerProcess server, TestServer other) : IAsyncDisposable
    {
        private readonly Pb.WorkflowService.WorkflowServiceClient _workflows = new(server.Channel);

        public CuttingProxy Proxy => proxy;
        public ServerProcess Server => server;
        public TestServer Other => other;

        public static async Task<Frozen> StartAsync()
        {
            var database = await PostgresCluster.CreateLedgerDatabaseAsync();
            var settings = new NpgsqlConnectionStringBuilder(database);
            var proxy = new CuttingProxy(settings.Host!, settings.Port);
            (settings.Host, settings.Port) = ("127.0.0.1", proxy.Port);
            return new Frozen(database, proxy, await ServerProcess.StartAsync(settings.ToString()), await TestServer.StartAsync(database));
        }

        public async Task<Pb.TransitionWorkflowResponse> MoveAsync(string id, string snapshot = "")
        {
            var move = Given.Move(id, "NEW", "BY-THE-FROZEN");
            (move.Reason, move.Snapshot) = ("batch-of-the-frozen", Given.Snapshot(snapshot));
            return await _workflows.TransitionWorkflowAsync(move, deadline: DateTime.UtcNow.AddSeconds(60));
        }

        /// <summary>The server that was frozen writes again, and the chain verifies.</summary>
        public async Task GoesOnAsync(string id, string state)
        {
            await Until.HealthAsync(new Health.HealthClient(server.Channel), "aegis.writes", serving: true);
            await Until.SucceedsAsync(async () => await _workflows.TransitionWorkflowAsync(Given.Move(id, state, "AFTER")));
            Assert.That((await other.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id })).Intact, Is.True);
            Assert.That((await Given.RecordsAsync(other, id)).Select(r => r.Sequence), Is.Unique);
        }

        public async ValueTask DisposeAsync()
        {
            await server.DisposeAsync();
            await other.DisposeAsync();
            await proxy.DisposeAsync();
            await PostgresCluster.DropDatabaseAsync(database);
        }
    }
}
