using System.Diagnostics;
using Aegis.Storage;
using Npgsql;

namespace Aegis.Tests;

/// <summary>Several hosts in one connection string: what is written goes to the one that takes writes, whichever that is.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class FailoverTests
{
    [Test]
    public async Task A_primary_among_several_hosts_that_becomes_read_only_takes_no_writes_until_it_is_one_again()
    {
        await using var standby = await PostgresCluster.StartPrivateAsync("default_transaction_read_only=on");
        await using var primary = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(Hosts(standby, primary));
        var id = await Given.WorkflowAsync(server);

        await primary.SetAsync("default_transaction_read_only", "on");
        await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
        await Until.HealthAsync(server.Health, "liveness", serving: true);
        await ErrorAssert.RefusedAsync(async () => await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID")),
            "STORE_UNAVAILABLE", Grpc.Core.StatusCode.Unavailable);
        await primary.SetAsync("default_transaction_read_only", "off");
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);

        // The driver looks at a host again a second after it was read-only: until then a write may be told to try again.
        var moved = await Until.SucceedsAsync(
            () => server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID")).ResponseAsync);
        Assert.That(moved.Record.Sequence, Is.EqualTo(2));
    }

    [Test]
    public async Task A_standby_that_is_promoted_is_written_to_and_has_all_that_was_acknowledged()
    {
        await using var primary = await PostgresCluster.StartPrivateAsync();
        await using var standby = await primary.StartStandbyAsync();
        await using var server = await ServerProcess.StartAsync(Hosts(primary, standby));
        await primary.SetAsync("synchronous_standby_names", "*");
        var load = new CrashLoad(server.Channel);
        // Beyond what a promotion takes: the callers have to be there when it is over.
        var running = load.RunAsync(16, TimeSpan.FromSeconds(12));
        await Task.Delay(2000);

        await primary.KillPostmasterAsync();
        var acknowledged = load.Acknowledged;
        await standby.PromoteAsync();
        var promoted = Stopwatch.StartNew();
        await server.UntilServingAsync();
        var serving = promoted.Elapsed;
        await Until.TrueAsync(() => Task.FromResult(load.Acknowledged > acknowledged + 50));
        var written = promoted.Elapsed;
        await running;
        var (lost, doubled) = await load.CheckAsync();
        await load.CheckLogAsync();

        TestContext.Progress.WriteLine($"failover to a synchronous standby: {acknowledged} records acknowledged before, "
            + $"{load.Acknowledged} in all, {lost} lost; seconds after the promotion: serving {serving.TotalSeconds:F2}, "
            + $"callers go on {written.TotalSeconds:F2}");
        Assert.That((lost, doubled), Is.EqualTo((0, 0)));
        Assert.That(load.Acknowledged, Is.GreaterThan(acknowledged));
    }

    [Test]
    public async Task A_host_that_is_silent_and_listed_first_keeps_nobody_waiting_once_the_primary_is_known()
    {
        await using var primary = await PostgresCluster.StartPrivateAsync();
        // Takes connections and never says anything, as a machine whose cable was pulled.
        await using var silent = new CuttingProxy("127.0.0.1", primary.Port);
        silent.HoldReplies();
        await using var server = await TestServer.StartAsync(new NpgsqlConnectionStringBuilder(primary.ConnectionString)
        {
            Host = $"127.0.0.1:{silent.Port},127.0.0.1:{primary.Port}",
        }.ToString());
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
        var id = await Given.WorkflowAsync(server);
        await ReadAsync(server, id, callers: 1);
        var asked = silent.Accepted;

        await ReadAsync(server, id, callers: 64);

        Assert.That(asked, Is.Positive, "it was not asked first");
        Assert.That(silent.Accepted, Is.EqualTo(asked));
    }

    [Test]
    public async Task A_standby_that_becomes_the_primary_is_found_while_another_host_is_silent()
    {
        await using var standby = await PostgresCluster.StartPrivateAsync();
        await standby.SetAsync("default_transaction_read_only", "on");
        await using var silent = new CuttingProxy("127.0.0.1", standby.Port);
        silent.HoldReplies();
        await using var store = PostgresLedgerStore.Open(new NpgsqlConnectionStringBuilder(standby.ConnectionString)
        {
            Host = $"127.0.0.1:{silent.Port},127.0.0.1:{standby.Port}",
            TargetSessionAttributes = "read-write",
            Timeout = 20,
        }.ToString());

        var migrating = store.MigrateAsync(default);
        await Task.Delay(500);
        await standby.SetAsync("default_transaction_read_only", "off");

        Assert.That(async () => await migrating.WaitAsync(TimeSpan.FromSeconds(15)), Throws.Nothing);
    }

    /// <summary>So many at once that connections are opened.</summary>
    private static Task ReadAsync(TestServer server, string workflowId, int callers) =>
        Task.WhenAll(Enumerable.Range(0, callers).Select(_ => Given.ReadAsync(server, workflowId)));

    private static string Hosts(PostgresCluster first, PostgresCluster second) =>
        new NpgsqlConnectionStringBuilder(first.ConnectionString)
        {
            Host = $"127.0.0.1:{first.Port},127.0.0.1:{second.Port}",
            TargetSessionAttributes = "read-write",
        }.ToString();
}
