using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Grpc.Health.V1;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Servers that start too early, together, freeze, or are told to go; databases that go and come back.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ServerTroubleTests
{
    [Test]
    public async Task A_server_starts_before_its_database_and_serves_once_it_is_there()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await cluster.StopAsync();
        await using var server = ServerProcess.Create(cluster.ConnectionString);
        server.Launch();
        await server.UntilServingAsync("liveness");
        var health = new Health.HealthClient(server.Channel);
        await Until.HealthAsync(health, "", serving: false);
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        await ErrorAssert.RefusedAsync(
            async () => await workflows.StartWorkflowAsync(Given.Start("early")), "STORE_UNAVAILABLE", StatusCode.Unavailable);

        await cluster.RestartAsync();
        await server.UntilServingAsync();

        Assert.That((await workflows.StartWorkflowAsync(Given.Start("early"))).Record.LogIndex, Is.EqualTo(1));
    }

    [Test]
    public async Task Two_servers_that_start_at_once_on_an_empty_database_serve_one_log()
    {
        var database = await PostgresCluster.CreateDatabaseAsync();
        try
        {
            var servers = await Task.WhenAll(ServerProcess.StartAsync(database), ServerProcess.StartAsync(database));
            await using var first = servers[0];
            await using var second = servers[1];
            var infos = await Task.WhenAll(servers.Select(async s =>
                await new Pb.SystemService.SystemServiceClient(s.Channel).GetServerInfoAsync(new Pb.GetServerInfoRequest())));
            await Task.WhenAll(servers.SelectMany((s, server) => Enumerable.Range(0, 50).Select(async i =>
                await new Pb.WorkflowService.WorkflowServiceClient(s.Channel).StartWorkflowAsync(Given.Start($"{server}-{i}")))));

            var log = new List<Pb.Record>();
            using var watch = new Pb.WorkflowService.WorkflowServiceClient(first.Channel).WatchRecords(
                new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = 0 });
            while (log.Count < 101 && await watch.ResponseStream.MoveNext(CancellationToken.None))
            {
                if (watch.ResponseStream.Current.Record is { } record)
                    log.Add(record);
            }

            using (Assert.EnterMultipleScope())
            {
                Assert.That(infos[0].LogId, Is.EqualTo(infos[1].LogId));
                Assert.That(log.Select(r => (int)r.LogIndex), Is.EqualTo(Enumerable.Range(0, 101)));
                Assert.That(log.Count(r => r.ToState == "OPEN"), Is.EqualTo(1));
            }
        }
        finally
        {
            await PostgresCluster.DropDatabaseAsync(database);
        }
    }

    [Test]
    public async Task A_watch_sees_what_another_server_writes()
    {
        await using var server = await TestServer.StartAsync(Database.PostgreSql);
        await using var other = await TestServer.StartAsync(server.Connection);
        using var watch = server.Workflows.WatchRecords(new Pb.WatchRecordsRequest());
        await watch.ResponseStream.MoveNext(CancellationToken.None);
        var written = (await other.Workflows.StartWorkflowAsync(Given.Start("theirs"))).Record;

        while (await watch.ResponseStream.MoveNext(CancellationToken.None) && watch.ResponseStream.Current.Record is null)
        {
        }

        Assert.That(watch.ResponseStream.Current.Record, Is.EqualTo(written));
    }

    [Test]
    public async Task A_server_frozen_in_the_middle_of_a_batch_loses_its_turn_and_forks_nothing()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        var settings = new NpgsqlConnectionStringBuilder(database);
        await using var proxy = new CuttingProxy(settings.Host!, settings.Port);
        (settings.Host, settings.Port) = ("127.0.0.1", proxy.Port);
        await using var frozen = await ServerProcess.StartAsync(settings.ToString());
        await using var other = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(other);
        var client = new Pb.WorkflowService.WorkflowServiceClient(frozen.Channel);
        var move = Given.Move(id, "NEW", "BY-THE-FROZEN");
        move.RequestId = "frozen";

        // It has locked the log; the answer does not reach it any more, and then it stands still.
        proxy.HoldReplies();
        var moving = client.TransitionWorkflowAsync(move, deadline: DateTime.UtcNow.AddSeconds(60)).ResponseAsync;
        await Task.Delay(500);
        await frozen.SendAsync(Signal.Stop);
        var watch = Stopwatch.StartNew();
        var taken = await other.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "BY-THE-OTHER"));
        var waited = watch.Elapsed;
        proxy.ReleaseReplies();
        await frozen.SendAsync(Signal.Continue);
        var refused = await Assert.ThrowsAsync<RpcException>(() => moving);
        await Until.HealthAsync(new Health.HealthClient(frozen.Channel), "aegis.writes", serving: true);
        var after = await client.TransitionWorkflowAsync(Given.Move(id, "BY-THE-OTHER", "AFTER"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(waited, Is.LessThan(TimeSpan.FromSeconds(12)));
            Assert.That(refused!.StatusCode, Is.AnyOf(StatusCode.Aborted, StatusCode.Unavailable));
            Assert.That((taken.Record.Sequence, after.Record.Sequence), Is.EqualTo((2UL, 3UL)));
            Assert.That((await other.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id })).Intact, Is.True);
        }
        await frozen.KillAsync();
        await other.DisposeAsync();
        await PostgresCluster.DropDatabaseAsync(database);
    }

    [TestCase(false)]
    [TestCase(true)]
    public async Task A_database_that_restarts_while_pending_workflows_are_resumed_strands_none(bool killed)
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(cluster.ConnectionString);
        // Each of 64 KiB: however slowly they are taken, most are still with the server when the database goes.
        await Task.WhenAll(Enumerable.Range(0, 300).Select(async i =>
        {
            var start = Given.Start($"pending-{i}");
            start.Snapshot = Given.Snapshot(new string('x', 64 * 1024));
            await server.Workflows.StartWorkflowAsync(start);
        }));
        var request = new Pb.ResumePendingWorkflowsRequest
        {
            Owner = "worker",
            LeaseDuration = Duration.FromTimeSpan(TimeSpan.FromSeconds(3)),
        };
        var delivered = new List<string>();
        using var call = server.Recovery.ResumePendingWorkflows(request);
        for (var i = 0; i < 20 && await call.ResponseStream.MoveNext(CancellationToken.None); i++)
            delivered.Add(call.ResponseStream.Current.Resumed.Workflow.WorkflowId);

        if (killed)
            await cluster.KillPostmasterAsync();
        else
            await cluster.StopAsync();
        var error = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            await foreach (var message in call.ResponseStream.ReadAllAsync())
                delivered.Add(message.Resumed.Workflow.WorkflowId);
        });
        await cluster.RestartAsync();
        // All are claimable once the leases have run out: those too that were on their way into the database when it went.
        var later = new List<string>();
        await Until.TrueAsync(() => Until.SucceedsAsync(async () =>
        {
            using var again = server.Recovery.ResumePendingWorkflows(
                new Pb.ResumePendingWorkflowsRequest { Owner = "other", OmitSnapshots = true });
            await foreach (var message in again.ResponseStream.ReadAllAsync())
            {
                if (message.Resumed is { } resumed)
                    later.Add(resumed.Workflow.WorkflowId);
            }
            return later.Count >= 300;
        }));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(error!.StatusCode, Is.EqualTo(StatusCode.Unavailable));
            Assert.That(delivered, Has.Count.LessThan(300));
            Assert.That(later, Has.Count.EqualTo(300).And.Unique);
        }
    }

    [Test]
    public async Task A_primary_that_becomes_read_only_takes_no_writes_until_it_is_one_again()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(cluster.ConnectionString);
        await using var owner = new NpgsqlConnection(cluster.ConnectionString);
        await owner.OpenAsync();
        var id = await Given.WorkflowAsync(server);

        await RunAsync(owner, "ALTER SYSTEM SET default_transaction_read_only = on");
        await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
        await Until.HealthAsync(server.Health, "", serving: true);
        await ErrorAssert.RefusedAsync(async () => await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "X")),
            "STORE_UNAVAILABLE", StatusCode.Unavailable);
        await RunAsync(owner, "ALTER SYSTEM SET default_transaction_read_only = off");
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);

        Assert.That((await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"))).Record.Sequence, Is.EqualTo(2));
    }

    [Test]
    public async Task Of_several_hosts_the_primary_is_written_to()
    {
        await using var standby = await PostgresCluster.StartPrivateAsync("default_transaction_read_only=on");
        await using var primary = await PostgresCluster.StartPrivateAsync();
        var settings = new NpgsqlConnectionStringBuilder(primary.ConnectionString)
        {
            Host = $"127.0.0.1:{standby.Port},127.0.0.1:{primary.Port}",
            TargetSessionAttributes = "read-write",
        };

        await using var server = await TestServer.StartAsync(settings.ToString());

        Assert.That((await server.Workflows.StartWorkflowAsync(Given.Start("here"))).Record.LogIndex, Is.EqualTo(1));
    }

    [Test]
    public async Task A_server_told_to_go_says_so_serves_on_for_its_window_and_finishes()
    {
        await using var server = await ServerProcess.StartAsync("sqlite::memory:", ("AEGIS_DRAIN_SECONDS", "3"));
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        var health = new Health.HealthClient(server.Channel);
        using var healthWatch = health.Watch(new HealthCheckRequest { Service = "aegis.writes" });
        await healthWatch.ResponseStream.MoveNext(CancellationToken.None);
        using var watch = workflows.WatchRecords(new Pb.WatchRecordsRequest());
        await watch.ResponseStream.MoveNext(CancellationToken.None);

        await server.SendAsync(Signal.Terminate);
        await healthWatch.ResponseStream.MoveNext(CancellationToken.None);
        var pushed = healthWatch.ResponseStream.Current.Status;
        var liveness = (await health.CheckAsync(new HealthCheckRequest { Service = "liveness" })).Status;
        var all = (await health.CheckAsync(new HealthCheckRequest())).Status;
        var written = await workflows.StartWorkflowAsync(Given.Start("late"));
        await ErrorAssert.RefusedAsync(async () =>
        {
            while (await watch.ResponseStream.MoveNext(CancellationToken.None))
            {
            }
        }, "SHUTTING_DOWN", StatusCode.Unavailable);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((pushed, liveness, all), Is.EqualTo((HealthCheckResponse.Types.ServingStatus.NotServing,
                HealthCheckResponse.Types.ServingStatus.Serving, HealthCheckResponse.Types.ServingStatus.NotServing)));
            Assert.That(written.Record.Sequence, Is.EqualTo(1));
            Assert.That(await server.ExitCodeAsync(), Is.Zero);
        }
    }

    private static async Task RunAsync(NpgsqlConnection owner, string sql)
    {
        foreach (var statement in new[] { sql, "SELECT pg_reload_conf()" })
        {
            await using var command = new NpgsqlCommand(statement, owner);
            await command.ExecuteNonQueryAsync();
        }
    }
}
