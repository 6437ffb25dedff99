using System.Diagnostics;
using Grpc.Core;
using Grpc.Health.V1;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// Real processes, killed under load. Twice in a normal run, ten times with AEGIS_TEST_FULL=1:
/// <c>AEGIS_TEST_FULL=1 dotnet test Aegis.Grpc.sln --filter Category=Crash</c>. Prints what was acknowledged, what was lost
/// (nothing), and the seconds until everything is back.
/// </summary>
[Category("Crash")]
[NonParallelizable]
public sealed class CrashTests
{
    private const int Callers = 32;

    private static readonly TimeSpan LoadTime = TimeSpan.FromSeconds(1.5);
    private static readonly TimeSpan LeaseOut = TimeSpan.FromSeconds(30);

    private static int Kills => Environment.GetEnvironmentVariable("AEGIS_TEST_FULL") == "1" ? 10 : 2;

    [Test]
    public async Task Nothing_acknowledged_is_lost_when_the_server_on_SQLite_is_killed()
    {
        using var directory = new TemporaryDirectory("crash");
        await using var server = await ServerProcess.StartAsync($"sqlite:{Path.Combine(directory.Path, "aegis.db")}");
        var load = new CrashLoad(server.Channel);
        for (var kill = 0; kill < Kills; kill++)
        {
            await KillServerUnderLoadAsync(server, load, "server on SQLite");
            await ResumeAllAsync(server, pending: kill % 2 == 0 ? 100 : 1000);
        }
    }

    [Test]
    public async Task Nothing_acknowledged_is_lost_when_the_server_on_PostgreSQL_is_killed()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await ServerProcess.StartAsync(cluster.ConnectionString);
        var load = new CrashLoad(server.Channel);
        for (var kill = 0; kill < Kills; kill++)
        {
            await KillServerUnderLoadAsync(server, load, "server on PostgreSQL");
            await ResumeAllAsync(server, pending: kill % 2 == 0 ? 100 : 1000);
        }
    }

    [Test]
    public async Task Nothing_acknowledged_is_lost_when_PostgreSQL_is_killed()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await ServerProcess.StartAsync(cluster.ConnectionString);
        var load = new CrashLoad(server.Channel);
        for (var kill = 0; kill < Kills; kill++)
        {
            var running = load.RunAsync(Callers, LoadTime * 2);
            await Task.Delay(LoadTime);
            await cluster.KillPostmasterAsync();
            await cluster.RestartAsync();
            var up = Stopwatch.StartNew();
            await server.UntilServingAsync();
            var reconnected = up.Elapsed;
            await running;
            var (lost, doubled) = await load.CheckAsync();
            Print($"PostgreSQL killed: {load.Acknowledged} acknowledged, {lost} lost; "
                + $"reconnected {reconnected.TotalSeconds:F2} s after it accepted connections");
            using (Assert.EnterMultipleScope())
            {
                Assert.That(lost, Is.Zero);
                Assert.That(doubled, Is.Zero);
                Assert.That(reconnected, Is.LessThan(TimeSpan.FromSeconds(2)));
            }
            await load.CheckLogAsync();
            await ResumeAllAsync(server, pending: kill % 2 == 0 ? 100 : 1000);
        }
    }

    private static async Task KillServerUnderLoadAsync(ServerProcess server, CrashLoad load, string what)
    {
        var running = load.RunAsync(Callers, LoadTime * 2);
        await Task.Delay(LoadTime);
        var killed = Stopwatch.StartNew();
        await server.KillAsync();
        await server.RestartAsync();
        var serving = killed.Elapsed;
        var health = Stopwatch.StartNew();
        await CheckHealthAsync(server);
        var answered = health.Elapsed;
        await running;
        var (lost, doubled) = await load.CheckAsync();
        Print($"{what} killed: {load.Acknowledged} acknowledged, {lost} lost; serving "
            + $"{serving.TotalSeconds:F2} s after the kill, every health name answered within {answered.TotalSeconds:F2} s");
        using (Assert.EnterMultipleScope())
        {
            Assert.That(lost, Is.Zero);
            Assert.That(doubled, Is.Zero);
            Assert.That(serving, Is.LessThan(TimeSpan.FromSeconds(5)));
            Assert.That(answered, Is.LessThan(TimeSpan.FromSeconds(5)));
        }
        await load.CheckLogAsync();
    }

    private static async Task CheckHealthAsync(ServerProcess server)
    {
        var health = new Health.HealthClient(server.Channel);
        foreach (var name in new[] { "liveness", "", "aegis.v1.WorkflowService", "aegis.writes", "aegis.integrity" })
        {
            var reply = await health.CheckAsync(new HealthCheckRequest { Service = name });
            Assert.That(reply.Status, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.Serving), name);
        }
    }

    /// <summary>Leases many workflows to a worker that dies with the server, and has it take them over after a restart.</summary>
    private static async Task ResumeAllAsync(ServerProcess server, int pending)
    {
        var @namespace = $"pending-{Guid.NewGuid():N}";
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        await Task.WhenAll(Enumerable.Range(0, pending).Select(async i => await workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest
            {
                Namespace = @namespace,
                WorkflowId = $"{i}",
                WorkflowType = "order",
                InitialState = "NEW",
                Owner = "worker",
                Snapshot = Given.Snapshot(new string('x', 1024)),
            })));
        var killed = Stopwatch.StartNew();
        await server.KillAsync();
        await server.RestartAsync();
        var recovery = new Pb.RecoveryService.RecoveryServiceClient(server.Channel);
        using var call = recovery.ResumePendingWorkflows(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = @namespace,
            Owner = "worker",
            TakeOverOwn = true,
        });
        var resumed = 0;
        await foreach (var message in call.ResponseStream.ReadAllAsync())
            resumed += message.Resumed is null ? 0 : 1;
        Print($"{resumed} pending workflows resumed {killed.Elapsed.TotalSeconds:F2} s after the kill");
        using (Assert.EnterMultipleScope())
        {
            Assert.That(resumed, Is.EqualTo(pending));
            Assert.That(killed.Elapsed, Is.LessThan(LeaseOut));
        }
    }

    private static void Print(string line) => TestContext.Progress.WriteLine(line);
}
