using System.Diagnostics;
using Aegis.Server;
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

    private static readonly TimeSpan LoadTime = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan ServingBound = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan ReconnectedBound = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan ResumedBound = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan HealthBound = TimeSpan.FromSeconds(5);

    private static int Kills => Environment.GetEnvironmentVariable("AEGIS_TEST_FULL") == "1" ? 10 : 2;

    [Test]
    public async Task Nothing_acknowledged_is_lost_when_the_server_on_SQLite_is_killed()
    {
        using var directory = new TemporaryDirectory("crash");
        await using var server = await ServerProcess.StartAsync($"sqlite:{Path.Combine(directory.Path, "aegis.db")}");

        await KillUnderLoadAsync(server, null, "the server on SQLite", KillServerAsync);
    }

    [Test]
    public async Task Nothing_acknowledged_is_lost_when_the_server_on_PostgreSQL_is_killed()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await ServerProcess.StartAsync(cluster.ConnectionString);

        await KillUnderLoadAsync(server, null, "the server on PostgreSQL", KillServerAsync);
    }

    [Test]
    public async Task Nothing_acknowledged_is_lost_when_PostgreSQL_is_killed()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await ServerProcess.StartAsync(cluster.ConnectionString);

        await KillUnderLoadAsync(server, cluster, "PostgreSQL", _ => KillDatabaseAsync(cluster), ReconnectedBound);
    }

    [Test]
    public async Task Nothing_acknowledged_is_lost_when_both_are_killed()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await ServerProcess.StartAsync(cluster.ConnectionString);

        await KillUnderLoadAsync(server, cluster, "PostgreSQL and the server", async s =>
        {
            await Task.WhenAll(cluster.KillPostmasterAsync(), s.KillAsync());
            s.Launch();
            await cluster.RestartAsync();
        });
    }

    private static async Task KillServerAsync(ServerProcess server)
    {
        await server.KillAsync();
        server.Launch();
    }

    private static async Task KillDatabaseAsync(PostgresCluster cluster)
    {
        await cluster.KillPostmasterAsync();
        await cluster.RestartAsync();
    }

    /// <param name="server">What is called.</param>
    /// <param name="cluster">The database, when it is killed: it has come back when the kill returns.</param>
    /// <param name="what">What is killed, for people to read.</param>
    /// <param name="killAsync">Kills and starts again, and does not wait for the service.</param>
    /// <param name="reconnectedBound">For a server that runs on: how soon it serves once the database accepts connections.</param>
    private static async Task KillUnderLoadAsync(
        ServerProcess server, PostgresCluster? cluster, string what, Func<ServerProcess, Task> killAsync, TimeSpan? reconnectedBound = null)
    {
        var load = new CrashLoad(server.Channel);
        for (var kill = 1; kill <= Kills; kill++)
        {
            var few = await PendingAsync(server, 100);
            var many = await PendingAsync(server, 1000);
            var running = load.RunAsync(Callers, LoadTime * 2);
            await Task.Delay(LoadTime);

            var sinceKill = Stopwatch.StartNew();
            await killAsync(server);
            var sinceAccepted = Stopwatch.StartNew();
            await server.UntilServingAsync();
            var (serving, reconnected) = (sinceKill.Elapsed, sinceAccepted.Elapsed);
            var health = await HealthAsync(server);
            await WriteAsync(server);
            var written = sinceAccepted.Elapsed;
            await TakeOverAsync(server, few, 100);
            var fewResumed = sinceKill.Elapsed;
            await TakeOverAsync(server, many, 1000);
            var manyResumed = sinceKill.Elapsed;

            await running;
            var (lost, doubled) = await load.CheckAsync();
            Print($"{what} killed ({kill} of {Kills}): {load.Acknowledged} records acknowledged, {lost} lost, {doubled} doubled. "
                + $"Seconds after the kill: serving {serving.TotalSeconds:F2}, 100 resumed {fewResumed.TotalSeconds:F2}, "
                + $"1000 resumed {manyResumed.TotalSeconds:F2}; every health name answered in {health.TotalSeconds:F2}"
                + (cluster is null ? "" : $"; after the database accepted connections: reconnected {reconnected.TotalSeconds:F2}, "
                    + $"first write {written.TotalSeconds:F2}"));
            using (Assert.EnterMultipleScope())
            {
                Assert.That(lost, Is.Zero);
                Assert.That(doubled, Is.Zero);
                Assert.That(serving, Is.LessThan(ServingBound));
                Assert.That(health, Is.LessThan(HealthBound));
                Assert.That(manyResumed, Is.LessThan(ResumedBound));
                if (reconnectedBound is { } bound)
                    Assert.That(reconnected, Is.LessThan(bound));
            }
            await load.CheckLogAsync();
            await server.UntilServingAsync(StoreMonitor.Integrity);
        }
    }

    /// <summary>
    /// Asks for every name once, as `aegis health` does; all of them serve, but for integrity, which takes until the first audit.
    /// </summary>
    private static async Task<TimeSpan> HealthAsync(ServerProcess server)
    {
        var watch = Stopwatch.StartNew();
        var health = new Health.HealthClient(server.Channel);
        foreach (var name in (string[])[StoreMonitor.Liveness, .. StoreMonitor.Callable, StoreMonitor.Writes, StoreMonitor.Integrity])
        {
            var reply = await health.CheckAsync(new HealthCheckRequest { Service = name });
            if (name != StoreMonitor.Integrity)
                Assert.That(reply.Status, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.Serving), name);
        }
        return watch.Elapsed;
    }

    private static async Task WriteAsync(ServerProcess server)
    {
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        await Until.SucceedsAsync(async () => await workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest(Given.Start($"{Guid.NewGuid()}")) { Namespace = "first-write" }));
    }

    /// <summary>Workflows in a namespace of their own, each leased to a worker that will have died with what is killed.</summary>
    private static async Task<string> PendingAsync(ServerProcess server, int count)
    {
        var @namespace = $"pending-{Guid.NewGuid():N}";
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        await Task.WhenAll(Enumerable.Range(0, count).Select(async i => await workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest(Given.Start($"{i}", owner: "worker"))
            {
                Namespace = @namespace,
                Snapshot = Given.Snapshot(new string('x', 1024)),
            })));
        return @namespace;
    }

    private static async Task TakeOverAsync(ServerProcess server, string @namespace, int count)
    {
        var recovery = new Pb.RecoveryService.RecoveryServiceClient(server.Channel);
        using var call = recovery.ResumePendingWorkflows(
            new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "worker", TakeOverOwn = true });
        var resumed = new HashSet<string>();
        await foreach (var message in call.ResponseStream.ReadAllAsync())
        {
            if (message.Resumed is { } one && one.Checkpoint.Snapshot.Content.Length == 1024)
                Assert.That(resumed.Add(one.Workflow.WorkflowId), Is.True, "Delivered twice.");
        }
        Assert.That(resumed, Has.Count.EqualTo(count));
    }

    private static void Print(string line) => TestContext.Progress.WriteLine(line);
}
