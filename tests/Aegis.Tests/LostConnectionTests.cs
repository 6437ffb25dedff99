using Grpc.Core;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// The connection to PostgreSQL is cut around the commit: callers are told the truth, and exactly one record is there.
/// </summary>
[Parallelizable(ParallelScope.All)]
public sealed class LostConnectionTests
{
    [TestCase("")]
    [TestCase("request")]
    public async Task A_lost_reply_to_the_commit_is_made_sure_of_and_told_as_success(string requestId)
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        var cut = setup.Proxy.CutAfterRequest(CuttingProxy.Text("reason-of-the-second-round-trip"));

        var moved = await setup.Server.Workflows.TransitionWorkflowAsync(Move(id, requestId));
        await cut;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(moved.Replayed, Is.False);
            Assert.That((await Given.RecordsAsync(setup.Server, id)).Select(r => r.Hash), Does.Contain(moved.Record.Hash));
            Assert.That((await Given.ReadAsync(setup.Server, id)).Sequence, Is.EqualTo(2));
            Assert.That((await setup.Server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id })).Intact, Is.True);
        }
    }

    [TestCase("")]
    [TestCase("request")]
    public async Task A_commit_that_never_arrived_is_written_again(string requestId)
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        var cut = setup.Proxy.CutBeforeRequest(CuttingProxy.Text("reason-of-the-second-round-trip"));

        var moved = await setup.Server.Workflows.TransitionWorkflowAsync(Move(id, requestId));
        await cut;

        Assert.That((moved.Record.Sequence, (await Given.ReadAsync(setup.Server, id)).Sequence), Is.EqualTo((2UL, 2UL)));
    }

    [Test]
    public async Task A_database_that_stays_away_leaves_the_outcome_unknown_and_a_retry_makes_one_record()
    {
        await using var setup = await ProxiedServer.StartAsync();
        var (named, nameless) = (await Given.WorkflowAsync(setup.Server), await Given.WorkflowAsync(setup.Server));
        var move = Move(named, "request");
        Task first, second;
        RpcException?[] errors;
        await using (await HeldLog.TakeAsync(setup.Direct))
        {
            // A batch of two: the first in line holds the writer until both are there.
            var head = Given.WorkflowAsync(setup.Server);
            await Task.Delay(200);
            first = setup.Server.Workflows.TransitionWorkflowAsync(move).ResponseAsync;
            second = setup.Server.Workflows.TransitionWorkflowAsync(Move(nameless, "")).ResponseAsync;
            await Task.Delay(200);
            _ = setup.Proxy.CutAfterRequest(CuttingProxy.Text("reason-of-the-second-round-trip"), thenRefuse: true);
            _ = head;
        }

        errors = [await Assert.ThrowsAsync<RpcException>(() => first), await Assert.ThrowsAsync<RpcException>(() => second)];
        setup.Proxy.Restore();
        await ErrorAssert.RefusedAsync(() => first, "OUTCOME_UNKNOWN", StatusCode.Unavailable);
        await ErrorAssert.RefusedAsync(() => second, "OUTCOME_UNKNOWN", StatusCode.Unknown);
        var retried = await Until.SucceedsAsync(async () => await setup.Server.Workflows.TransitionWorkflowAsync(move));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(errors, Has.None.Null);
            Assert.That(retried.Replayed, Is.True, "It had been stored.");
            Assert.That((await Given.ReadAsync(setup.Server, named)).Sequence, Is.EqualTo(2));
            Assert.That((await Given.ReadAsync(setup.Server, nameless)).Sequence, Is.EqualTo(2));
        }
    }

    [Test]
    public async Task A_lease_whose_reply_was_lost_is_granted_once()
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        var cut = setup.Proxy.CutAfterRequest(CuttingProxy.Text("owner-of-the-second-round-trip"));

        var resumed = await setup.Server.Recovery.ResumeWorkflowAsync(
            new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "owner-of-the-second-round-trip" });
        await cut;

        Assert.That((await Given.ReadAsync(setup.Server, id)).Lease, Is.EqualTo(resumed.Lease));
    }

    [Test]
    public async Task A_lease_that_never_arrived_is_granted_once()
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        var cut = setup.Proxy.CutBeforeRequest(CuttingProxy.Text("owner-of-the-second-round-trip"));

        var resumed = await setup.Server.Recovery.ResumeWorkflowAsync(
            new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "owner-of-the-second-round-trip" });
        await cut;

        Assert.That((await Given.ReadAsync(setup.Server, id)).Lease, Is.EqualTo(resumed.Lease));
    }

    [Test]
    public async Task A_lease_from_a_database_that_stays_away_is_unknown_and_taken_over_later()
    {
        // Side by side, since each waits for all the patience that the server has.
        var outcomes = await Task.WhenAll(AwayAsync(arrives: true), AwayAsync(arrives: false));

        foreach (var (error, stored, again, held) in outcomes)
        {
            await ErrorAssert.RefusedAsync(() => throw error!, "OUTCOME_UNKNOWN", StatusCode.Unknown);
            Assert.That(again.Epoch, Is.GreaterThan(stored?.Epoch ?? 0));
            Assert.That(held, Is.EqualTo(again));
        }
        Assert.That(outcomes.Select(o => o.Stored is not null), Is.EqualTo(new[] { true, false }));

        static async Task<(RpcException? Error, Pb.Lease? Stored, Pb.Lease Again, Pb.Lease Held)> AwayAsync(bool arrives)
        {
            await using var setup = await ProxiedServer.StartAsync();
            var id = await Given.WorkflowAsync(setup.Server);
            var resume = new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "owner-of-the-second-round-trip" };
            var request = CuttingProxy.Text(resume.Owner);
            _ = arrives
                ? setup.Proxy.CutAfterRequest(request, thenRefuse: true)
                : setup.Proxy.CutBeforeRequest(request, thenRefuse: true);
            var error = await Assert.ThrowsAsync<RpcException>(async () => await setup.Server.Recovery.ResumeWorkflowAsync(resume));
            var stored = (await Given.ReadAsync(setup.Direct, id)).Lease;
            setup.Proxy.Restore();
            resume.TakeOverOwn = true;
            var again = await Until.SucceedsAsync(async () => await setup.Server.Recovery.ResumeWorkflowAsync(resume));
            return (error, stored, again.Lease, (await Given.ReadAsync(setup.Server, id)).Lease);
        }
    }

    [Test]
    public async Task A_commit_that_never_arrived_at_a_database_that_stays_away_is_unknown_and_a_retry_makes_one_record()
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        var move = Move(id, "request");
        var cut = setup.Proxy.CutBeforeRequest(CuttingProxy.Text(move.Reason), thenRefuse: true);

        var info = await ErrorAssert.RefusedAsync(
            async () => await setup.Server.Workflows.TransitionWorkflowAsync(move), "OUTCOME_UNKNOWN", StatusCode.Unavailable);
        await cut;
        setup.Proxy.Restore();
        var retried = await Until.SucceedsAsync(async () => await setup.Server.Workflows.TransitionWorkflowAsync(move));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(info.Metadata["request_id"], Is.EqualTo("request"));
            Assert.That((retried.Replayed, retried.Record.Sequence), Is.EqualTo((false, 2UL)));
            Assert.That((await Given.ReadAsync(setup.Direct, id)).Sequence, Is.EqualTo(2));
        }
    }

    [Test]
    public async Task A_commit_that_warns_of_its_replicas_is_not_told_as_success_before_another_has_passed()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(cluster.ConnectionString);
        var id = await Given.WorkflowAsync(server);
        await using var owner = new NpgsqlConnection(cluster.ConnectionString);
        await owner.OpenAsync();
        // A standby that is not there: commits wait for it, and a cancelled wait warns.
        await SetAsync(owner, "nobody");

        var moving = server.Workflows.TransitionWorkflowAsync(Move(id, "request")).ResponseAsync;
        await CancelWaitAsync(owner);
        var isTold = await Task.WhenAny(moving, Task.Delay(2000)) == moving;
        await SetAsync(owner, "");
        var moved = await moving;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(isTold, Is.False, "A warning is no success.");
            Assert.That(moved.Record.Sequence, Is.EqualTo(2));
            Assert.That((await Given.ReadAsync(server, id)).Sequence, Is.EqualTo(2));
        }
    }

    private static Pb.TransitionWorkflowRequest Move(string id, string requestId)
    {
        var move = Given.Move(id, "NEW", "PAID");
        (move.RequestId, move.Reason) = (requestId, "reason-of-the-second-round-trip");
        return move;
    }

    private static async Task SetAsync(NpgsqlConnection owner, string standby)
    {
        foreach (var sql in new[] { $"ALTER SYSTEM SET synchronous_standby_names = '{standby}'", "SELECT pg_reload_conf()" })
        {
            await using var command = new NpgsqlCommand(sql, owner);
            await command.ExecuteNonQueryAsync();
        }
        await Task.Delay(300);
    }

    private static async Task CancelWaitAsync(NpgsqlConnection owner)
    {
        for (var until = DateTime.UtcNow.AddSeconds(10); DateTime.UtcNow < until; await Task.Delay(50))
        {
            await using var command = new NpgsqlCommand(
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", owner);
            if ((long)(await command.ExecuteScalarAsync())! > 0)
                return;
        }
        Assert.Fail("No commit waits for the standby.");
    }
}

/// <summary>A server whose connections to its database go through a proxy.</summary>
internal sealed class ProxiedServer : IAsyncDisposable
{
    private ProxiedServer(TestServer direct, CuttingProxy proxy, TestServer server) =>
        (Direct, Proxy, Server) = (direct, proxy, server);

    /// <summary>Another server on the same database, not through the proxy; owns the database.</summary>
    public TestServer Direct { get; }
    public CuttingProxy Proxy { get; }
    public TestServer Server { get; }

    public static async Task<ProxiedServer> StartAsync()
    {
        var direct = await TestServer.StartAsync(Database.PostgreSql);
        var settings = new NpgsqlConnectionStringBuilder(direct.Connection);
        var proxy = new CuttingProxy(settings.Host!, settings.Port);
        (settings.Host, settings.Port) = ("127.0.0.1", proxy.Port);
        return new ProxiedServer(direct, proxy, await TestServer.StartAsync(settings.ToString()));
    }

    public async ValueTask DisposeAsync()
    {
        await Server.DisposeAsync();
        await Proxy.DisposeAsync();
        await Direct.DisposeAsync();
    }
}
