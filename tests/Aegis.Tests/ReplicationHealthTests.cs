using System.Diagnostics.Metrics;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Tests;

/// <summary>Health and metrics tell the truth about what a reply survives.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ReplicationHealthTests
{
    private const string Name = "aegis.replication";

    [Test]
    public async Task A_database_without_a_standby_serves_without_that_protection([Values] Database database)
    {
        await using var server = await TestServer.StartAsync(database);

        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
        await Until.HealthAsync(server.Health, "aegis.integrity", serving: true);
        await Until.HealthAsync(server.Health, Name, serving: false);
        var (plain, demanding) = (await HealthAsync(server), await HealthAsync(server, "--protected"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(plain.Output, Does.Match($"{Name} +NOT_SERVING"));
            Assert.That((plain.Code, demanding.Code), Is.EqualTo((Cli.ExitCode.Success, Cli.ExitCode.Violation)));
        }
    }

    [Test]
    public async Task A_cluster_that_falls_back_to_asynchronous_is_told_and_its_return_too()
    {
        await using var primary = await PostgresCluster.StartPrivateAsync();
        await using var standby = await primary.StartStandbyAsync();
        await primary.SetAsync("synchronous_standby_names", "*");
        await using var server = await TestServer.StartAsync(primary.ConnectionString);
        await Until.HealthAsync(server.Health, Name, serving: true);
        Assert.That(Measured(server), Is.EqualTo(1));
        Assert.That((await HealthAsync(server)).Output, Does.Match(@"aegis\.replication +SERVING"));

        await primary.SetAsync("synchronous_standby_names", "");
        await Until.HealthAsync(server.Health, Name, serving: false);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
        Assert.That(Measured(server), Is.Zero);
        await Given.WorkflowAsync(server);

        await primary.SetAsync("synchronous_standby_names", "FIRST 1 (*)");
        await Until.HealthAsync(server.Health, Name, serving: true);
        Assert.That(Measured(server), Is.EqualTo(1));
    }

    [Test]
    public async Task A_default_that_waits_for_less_is_raised_by_the_writer_and_one_that_waits_for_nobody_is_none()
    {
        await using var raised = await PostgresCluster.StartPrivateAsync("synchronous_commit=local");
        await using var alone = await PostgresCluster.StartPrivateAsync(
            "synchronous_standby_names=absent", "max_wal_senders=0", "wal_level=minimal");
        await using var first = await TestServer.StartAsync(raised.ConnectionString);
        await using var second = await TestServer.StartAsync(alone.ConnectionString);
        await Given.WorkflowAsync(first);
        await Given.WorkflowAsync(second);
        await Until.HealthAsync(second.Health, Name, serving: false);

        await raised.SetAsync("synchronous_standby_names", "absent");
        await Until.HealthAsync(first.Health, Name, serving: true);
        var waiting = Given.WorkflowAsync(first);
        await Task.Delay(1500);
        Assert.That(waiting.IsCompleted, Is.False, "It was answered, and no standby has it.");
        await raised.SetAsync("synchronous_standby_names", "");
        await waiting;
    }

    private static async Task<(int Code, string Output)> HealthAsync(TestServer server, params string[] options)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        var code = await Cli.AegisCommand.RunAsync(["health", "--server", server.Address, .. options], output, error);
        return (code, output.ToString());
    }

    /// <summary>What the server's own meter says now.</summary>
    private static int Measured(TestServer server)
    {
        var value = -1;
        var metrics = server.Services.GetRequiredService<Server.Metrics>();
        using var listener = new MeterListener();
        listener.InstrumentPublished = (instrument, _) =>
        {
            if (instrument.Name == "aegis.replication.synchronous" && metrics.Owns(instrument))
                listener.EnableMeasurementEvents(instrument);
        };
        listener.SetMeasurementEventCallback<int>((_, measured, _, _) => value = measured);
        listener.Start();
        listener.RecordObservableInstruments();
        return value;
    }
}
