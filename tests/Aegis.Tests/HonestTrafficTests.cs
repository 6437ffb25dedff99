namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// The negative of all tampering: much honest traffic, with servers that are killed, restarted and stopped in the middle of it, two
/// of them on one database, gives no violation, to no auditor and to no verification.
/// </summary>
[Parallelizable(ParallelScope.All)]
[Category("Crash")]
public sealed class HonestTrafficTests
{
    private static readonly TimeSpan Stretch = TimeSpan.FromSeconds(4);

    [Test]
    public async Task Two_servers_that_crash_and_restart_give_no_violation()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        try
        {
            await using var first = await ServerProcess.StartAsync(database);
            await using var second = await ServerProcess.StartAsync(database);
            var (load, otherLoad) = (new CrashLoad(first.Channel, "first"), new CrashLoad(second.Channel, "second"));

            var traffic = Task.WhenAll(load.RunAsync(16, Stretch * 4), otherLoad.RunAsync(16, Stretch * 4));
            await Task.Delay(Stretch);
            await first.KillAsync();
            await first.RestartAsync();
            await Task.Delay(Stretch);
            await second.SendAsync(Signal.Terminate);
            await second.ExitCodeAsync();
            await second.RestartAsync();
            await traffic;

            TestContext.Out.WriteLine($"{load.Acknowledged + otherLoad.Acknowledged} records acknowledged");
            await NothingFoundAsync(first);
            await NothingFoundAsync(second);
        }
        finally
        {
            await PostgresCluster.DropDatabaseAsync(database);
        }
    }

    [Test]
    public async Task One_server_on_SQLite_that_crashes_and_restarts_gives_no_violation()
    {
        using var directory = new TemporaryDirectory("honest");
        await using var server = await ServerProcess.StartAsync($"sqlite:{Path.Combine(directory.Path, "aegis.db")}");
        var load = new CrashLoad(server.Channel);

        var traffic = load.RunAsync(16, Stretch * 3);
        await Task.Delay(Stretch);
        await server.KillAsync();
        await server.RestartAsync();
        await Task.Delay(Stretch);
        await server.SendAsync(Signal.Terminate);
        await server.ExitCodeAsync();
        await server.RestartAsync();
        await traffic;

        TestContext.Out.WriteLine($"{load.Acknowledged} records acknowledged");
        await NothingFoundAsync(server);
    }

    private static async Task NothingFoundAsync(ServerProcess server)
    {
        await server.UntilServingAsync("aegis.integrity");
        var integrity = new Pb.IntegrityService.IntegrityServiceClient(server.Channel);
        using var verification = integrity.VerifyLog(new Pb.VerifyLogRequest());
        Pb.VerifyLogSummary? summary = null;
        while (await verification.ResponseStream.MoveNext(CancellationToken.None))
        {
            Assert.That(verification.ResponseStream.Current.Violation, Is.Null);
            summary = verification.ResponseStream.Current.Summary ?? summary;
        }
        // Long enough for the audit to have gone over it a few times.
        await Task.Delay(Stretch * 2);
        var listed = await integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true, IncludeReleased = true });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(summary?.Intact, Is.True);
            Assert.That(summary?.RecordsVerified, Is.GreaterThan(100));
            Assert.That(listed.Violations, Is.Empty);
            Assert.That(server.Output, Does.Not.Contain("iolation"));
        }
        await server.UntilServingAsync("aegis.integrity");
    }
}
