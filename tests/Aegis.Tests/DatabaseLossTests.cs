using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Grpc.Health.V1;
using Npgsql;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The database goes away, is silent, or shuts the server out: callers are told the truth, and all comes back.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class DatabaseLossTests
{
    [Test]
    public async Task A_database_that_is_away_refuses_and_says_that_nothing_was_written()
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        // What is sent right after a write goes over the same connection: whether it had arrived would not be known.
        await Task.Delay(500);
        setup.Proxy.CutNow();

        await ErrorAssert.RefusedAsync(
            async () => await setup.Server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID")),
            "STORE_UNAVAILABLE", StatusCode.Unavailable);
        await ErrorAssert.RefusedAsync(() => Given.ReadAsync(setup.Server, id), "STORE_UNAVAILABLE", StatusCode.Unavailable);
        await Until.HealthAsync(setup.Server.Health, "aegis.writes", serving: false);
        setup.Proxy.Restore();
        await Until.HealthAsync(setup.Server.Health, "aegis.writes", serving: true);

        Assert.That((await setup.Server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"))).Record.Sequence, Is.EqualTo(2));
    }

    [TestCase(true)]
    [TestCase(false)]
    public async Task Callers_who_cannot_ask_again_are_told_the_truth_when_the_database_goes_in_a_batch(bool killed)
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(cluster.ConnectionString);
        var ids = await Task.WhenAll(Enumerable.Range(0, 32).Select(_ => Given.WorkflowAsync(server, "S")));
        using var stop = new CancellationTokenSource();

        var callers = ids.Select(id => MoveUntilToldAsync(server, id, stop.Token)).ToList();
        await Task.Delay(500);
        if (killed)
            await cluster.KillPostmasterAsync();
        else
            await cluster.StopAsync();
        await cluster.RestartAsync();
        await Task.Delay(300);
        await stop.CancelAsync();

        foreach (var (id, moves, reason, code) in await Task.WhenAll(callers))
        {
            var sequence = (await Until.SucceedsAsync(() => Given.ReadAsync(server, id))).Sequence;
            var told = $"{moves} moves, then {reason} {code}";
            Assert.That((reason, code), Is.AnyOf(
                ("", StatusCode.OK), ("STORE_UNAVAILABLE", StatusCode.Unavailable), ("OUTCOME_UNKNOWN", StatusCode.Unknown)), told);
            Assert.That(sequence, reason == "OUTCOME_UNKNOWN" ? Is.InRange(moves + 1, moves + 2) : Is.EqualTo(moves + 1), told);
        }
    }

    [Test]
    public async Task A_database_that_falls_silent_is_told_within_seconds()
    {
        await using var setup = await ProxiedServer.StartAsync();
        await Until.HealthAsync(setup.Server.Health, "aegis.writes", serving: true);

        // As when its machine's cable is pulled: connections stay, new ones are taken, and nothing comes back.
        setup.Proxy.HoldReplies();
        var since = Stopwatch.StartNew();
        await Until.HealthAsync(setup.Server.Health, "aegis.writes", serving: false);
        var told = since.Elapsed;
        setup.Proxy.ReleaseReplies();
        await Until.HealthAsync(setup.Server.Health, "aegis.writes", serving: true);

        TestContext.Progress.WriteLine($"a silent database was told after {told.TotalSeconds:F1} s");
        Assert.That(told, Is.LessThan(TimeSpan.FromSeconds(6)));
    }

    [Test]
    public async Task A_caller_who_is_too_early_is_told_when_to_come_again()
    {
        await using var server = ServerProcess.Create($"Host=127.0.0.1;Port={FreePort.Next()};Username=postgres");
        server.Launch();
        await server.UntilServingAsync("liveness");

        var error = await Assert.ThrowsAsync<RpcException>(async () =>
            await new Pb.WorkflowService.WorkflowServiceClient(server.Channel).StartWorkflowAsync(Given.Start("early")));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(error!.GetRpcStatus()!.GetDetail<ErrorInfo>()!.Reason, Is.EqualTo("STORE_UNAVAILABLE"));
            Assert.That(error.GetRpcStatus()!.GetDetail<RetryInfo>()!.RetryDelay.ToTimeSpan(), Is.GreaterThan(TimeSpan.Zero));
        }
    }

    [Test]
    public async Task A_database_that_is_silent_at_the_start_does_not_keep_the_server_from_living()
    {
        // Takes connections and never says anything, as behind a firewall that drops.
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        await using var server = ServerProcess.Create($"Host=127.0.0.1;Port={((IPEndPoint)silent.LocalEndpoint).Port};Username=postgres");
        server.Launch();

        // It gives the database up after a few seconds; what does not would stand here for minutes.
        await server.UntilServingAsync("liveness", timeoutSeconds: 30);

        var health = new Health.HealthClient(server.Channel);
        Assert.That((await health.CheckAsync(new HealthCheckRequest())).Status,
            Is.EqualTo(HealthCheckResponse.Types.ServingStatus.NotServing));
    }

    [Test]
    public async Task A_database_that_shuts_the_server_out_is_unavailable_until_it_lets_it_in()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var owner = new NpgsqlConnection(cluster.ConnectionString);
        await owner.OpenAsync();
        await RunAsync(owner, "CREATE ROLE aegis LOGIN", "CREATE DATABASE aegis OWNER aegis");
        await using var server = await TestServer.StartAsync(
            new NpgsqlConnectionStringBuilder(cluster.ConnectionString) { Username = "aegis", Database = "aegis" }.ConnectionString);
        var id = await Given.WorkflowAsync(server);

        // As when the password was changed and the server not told. What is sent right after a write could be in doubt.
        await Task.Delay(500);
        await RunAsync(owner, "ALTER ROLE aegis NOLOGIN", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'aegis'");
        await ErrorAssert.RefusedAsync(async () => await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID")),
            "STORE_UNAVAILABLE", StatusCode.Unavailable);
        await ErrorAssert.RefusedAsync(() => Given.ReadAsync(server, id), "STORE_UNAVAILABLE", StatusCode.Unavailable);
        await Until.HealthAsync(server.Health, "", serving: false);
        await RunAsync(owner, "ALTER ROLE aegis LOGIN");
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);

        Assert.That((await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"))).Record.Sequence, Is.EqualTo(2));
    }

    [TestCase(true)]
    [TestCase(false)]
    public async Task After_a_restart_in_the_middle_the_same_worker_takes_over_at_once_and_each_workflow_once(bool killed)
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(cluster.ConnectionString);
        await Given.WorkflowsAsync(server, 300);
        var request = new Pb.ResumePendingWorkflowsRequest { Owner = "worker", LeaseDuration = Duration.FromTimeSpan(TimeSpan.FromHours(1)) };
        using var call = server.Recovery.ResumePendingWorkflows(request);
        for (var i = 0; i < 20; i++)
            await call.ResponseStream.MoveNext(CancellationToken.None);

        if (killed)
            await cluster.KillPostmasterAsync();
        else
            await cluster.StopAsync();
        var error = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (await call.ResponseStream.MoveNext(CancellationToken.None))
            {
            }
        });
        await cluster.RestartAsync();
        request.TakeOverOwn = true;
        var resumed = await Until.SucceedsAsync(async () =>
        {
            using var again = server.Recovery.ResumePendingWorkflows(request);
            var ids = new List<string>();
            await foreach (var message in again.ResponseStream.ReadAllAsync())
                ids.AddRange(message.Resumed is { } one ? [one.Workflow.WorkflowId] : []);
            return ids;
        });

        using (Assert.EnterMultipleScope())
        {
            // Unknown where it met the commit of leases, which have no request_id to try again with.
            Assert.That(error!.StatusCode, Is.AnyOf(StatusCode.Unavailable, StatusCode.Unknown));
            Assert.That(resumed, Is.Unique);
            Assert.That(resumed, Has.Count.EqualTo(300), "Nobody waits an hour for what was leased before.");
        }
    }

    /// <summary>Moves a workflow, without a request_id, until told to stop or told anything but success.</summary>
    private static async Task<(string Id, ulong Moves, string Reason, StatusCode Code)> MoveUntilToldAsync(
        TestServer server, string id, CancellationToken stop)
    {
        for (var moves = 0UL; ; moves++)
        {
            if (stop.IsCancellationRequested)
                return (id, moves, "", StatusCode.OK);
            try
            {
                var move = new Pb.TransitionWorkflowRequest(Given.Move(id, "S", "S")) { ExpectedSequence = moves + 1 };
                await server.Workflows.TransitionWorkflowAsync(move, cancellationToken: CancellationToken.None);
            }
            catch (RpcException e)
            {
                return (id, moves, e.GetRpcStatus()?.GetDetail<ErrorInfo>()?.Reason ?? e.Status.Detail, e.StatusCode);
            }
        }
    }

    private static async Task RunAsync(NpgsqlConnection owner, params string[] statements)
    {
        foreach (var statement in statements)
        {
            await using var command = new NpgsqlCommand(statement, owner);
            await command.ExecuteNonQueryAsync();
        }
    }
}
