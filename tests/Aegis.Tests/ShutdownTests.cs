using Aegis.Server;
using Dapper;
using Grpc.Core;
using Grpc.Health.V1;
using Npgsql;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>SIGTERM: first health tells, then calls are served on for the drain window, then what runs is finished.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ShutdownTests
{
    private static readonly string[] Names = [StoreMonitor.Liveness, .. StoreMonitor.Callable, StoreMonitor.Writes, StoreMonitor.Integrity];

    [Test]
    public async Task Every_health_name_but_liveness_turns_at_once_and_for_the_whole_window()
    {
        await using var server = await ServerProcess.StartAsync("sqlite::memory:", ("AEGIS_DRAIN_SECONDS", "3"));
        var health = new Health.HealthClient(server.Channel);
        using var watch = health.Watch(new HealthCheckRequest { Service = StoreMonitor.Writes });
        await watch.ResponseStream.MoveNext(CancellationToken.None);

        await server.SendAsync(Signal.Terminate);
        await watch.ResponseStream.MoveNext(CancellationToken.None);
        var atOnce = await StatusesAsync(health);
        // The monitor's next probe finds the store well; it must not turn anything back.
        await Task.Delay(TimeSpan.FromSeconds(1.5));
        var later = await StatusesAsync(health);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(watch.ResponseStream.Current.Status, Is.EqualTo(ServingStatus.NotServing));
            Assert.That(atOnce.Where(s => s.Status == ServingStatus.Serving).Select(s => s.Name), Is.EqualTo(new[] { "liveness" }));
            Assert.That(later, Is.EqualTo(atOnce));
            Assert.That(await server.ExitCodeAsync(), Is.Zero);
        }
    }

    [Test]
    public async Task A_call_that_runs_when_the_window_ends_is_finished()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await ServerProcess.StartAsync(database, ("AEGIS_DRAIN_SECONDS", "1")))
        {
            var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
            using var watch = workflows.WatchRecords(new Pb.WatchRecordsRequest());
            await watch.ResponseStream.MoveNext(CancellationToken.None);
            Task<Pb.StartWorkflowResponse>[] running;
            await using (await HeldLog.TakeAsync(database))
            {
                // One is taken and waits for the log, the others wait in the queue.
                running = [.. Enumerable.Range(0, 5).Select(async i => await workflows.StartWorkflowAsync(Given.Start($"{i}")))];
                await Task.Delay(200);
                await server.SendAsync(Signal.Terminate);
                await ErrorAssert.RefusedAsync(async () =>
                {
                    while (await watch.ResponseStream.MoveNext(CancellationToken.None))
                    {
                    }
                }, "SHUTTING_DOWN", StatusCode.Unavailable);
                await Task.Delay(500);
                Assert.That(server.HasExited, Is.False, "Calls are running.");
            }

            var finished = await Task.WhenAll(running);

            Assert.That(finished.Select(f => (int)f.Record.LogIndex).Order(), Is.EqualTo(Enumerable.Range(1, 5)));
            Assert.That(await server.ExitCodeAsync(), Is.Zero);
        }
        await PostgresCluster.DropDatabaseAsync(database);
    }

    [Test]
    public async Task Resuming_what_is_pending_ends_with_the_window_and_strands_nothing()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await ServerProcess.StartAsync(database, ("AEGIS_DRAIN_SECONDS", "0")))
        await using (var other = await TestServer.StartAsync(database))
        {
            // Large enough that what is not read holds the stream up.
            await Task.WhenAll(Enumerable.Range(0, 100).Select(async i => await other.Workflows.StartWorkflowAsync(
                new Pb.StartWorkflowRequest(Given.Start($"{i}")) { Snapshot = Given.Snapshot(new string('x', 300_000)) })));
            using var call = new Pb.RecoveryService.RecoveryServiceClient(server.Channel).ResumePendingWorkflows(
                new Pb.ResumePendingWorkflowsRequest { Owner = "worker" });
            await call.ResponseStream.MoveNext(CancellationToken.None);
            var delivered = 1;
            // Until a message is on its way that does not fit into what the client takes unread.
            await Task.Delay(1000);

            await server.SendAsync(Signal.Terminate);
            await Task.Delay(500);
            await ErrorAssert.RefusedAsync(async () =>
            {
                while (await call.ResponseStream.MoveNext(CancellationToken.None))
                    delivered++;
            }, "SHUTTING_DOWN", StatusCode.Unavailable);
            var code = await server.ExitCodeAsync();
            var rest = 0;
            using var again = other.Recovery.ResumePendingWorkflows(new Pb.ResumePendingWorkflowsRequest { Owner = "other" });
            await foreach (var message in again.ResponseStream.ReadAllAsync())
                rest += message.Resumed is null ? 0 : 1;

            using (Assert.EnterMultipleScope())
            {
                Assert.That(code, Is.Zero);
                Assert.That(delivered, Is.LessThan(100));
                Assert.That(rest, Is.InRange(100 - delivered - 1, 100 - delivered), "What was not delivered was given back at once.");
            }
        }
        await PostgresCluster.DropDatabaseAsync(database);
    }

    [Test]
    public async Task A_verification_of_the_log_ends_with_the_window()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await ServerProcess.StartAsync(database, ("AEGIS_DRAIN_SECONDS", "0")))
        await using (var locking = new NpgsqlConnection(database))
        {
            await locking.OpenAsync();
            await using var transaction = await locking.BeginTransactionAsync();
            await locking.ExecuteAsync("LOCK TABLE record IN ACCESS EXCLUSIVE MODE");
            using var call = new Pb.IntegrityService.IntegrityServiceClient(server.Channel).VerifyLog(new Pb.VerifyLogRequest());
            var ended = ErrorAssert.RefusedAsync(
                () => call.ResponseStream.MoveNext(CancellationToken.None), "SHUTTING_DOWN", StatusCode.Unavailable);
            await Task.Delay(500);
            Assert.That(ended.IsCompleted, Is.False, "It reads what is locked.");

            await server.SendAsync(Signal.Terminate);
            await ended;

            Assert.That(await server.ExitCodeAsync(), Is.Zero);
        }
        await PostgresCluster.DropDatabaseAsync(database);
    }

    [Test]
    public async Task A_caller_that_does_not_read_keeps_no_server_from_ending()
    {
        await using var server = await ServerProcess.StartAsync("sqlite::memory:", ("AEGIS_DRAIN_SECONDS", "0"));
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        await Task.WhenAll(Enumerable.Range(0, 100).Select(async i => await workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest(Given.Start($"{i}")) { Snapshot = Given.Snapshot(new string('x', 300_000)) })));
        using var call = new Pb.RecoveryService.RecoveryServiceClient(server.Channel).ResumePendingWorkflows(
            new Pb.ResumePendingWorkflowsRequest { Owner = "worker" });
        await call.ResponseHeadersAsync;
        await Task.Delay(500);

        await server.SendAsync(Signal.Terminate);

        Assert.That(await server.ExitCodeAsync(timeoutSeconds: 20), Is.Zero, server.Output);
    }

    private static async Task<(string Name, ServingStatus Status)[]> StatusesAsync(Health.HealthClient health)
    {
        var statuses = new List<(string, ServingStatus)>();
        foreach (var name in Names)
            statuses.Add((name, (await health.CheckAsync(new HealthCheckRequest { Service = name })).Status));
        return [.. statuses];
    }
}
