using System.Diagnostics;
using Npgsql;

namespace Aegis.Tests;

/// <summary>
/// Two servers on one PostgreSQL, and between each and its database a proxy that cuts, delays, stalls, and loses requests and
/// answers around the commit, by a random schedule; the servers are killed and restarted in between. Nothing that was acknowledged
/// is lost, nothing is there twice, the log has no gap, and everything verifies.
/// <para>
/// AEGIS_TEST_SEED repeats a schedule; AEGIS_TEST_FAULT_SECONDS says how long it goes on: 20 s, ten minutes with AEGIS_TEST_FULL=1.
/// </para>
/// </summary>
[Category("Crash")]
[Parallelizable(ParallelScope.All)]
public sealed class FaultScheduleTests
{
    private static int Seed => Number("AEGIS_TEST_SEED") ?? Random.Shared.Next();

    private static TimeSpan Time => TimeSpan.FromSeconds(Number("AEGIS_TEST_FAULT_SECONDS")
        ?? (Environment.GetEnvironmentVariable("AEGIS_TEST_FULL") == "1" ? 600 : 20));

    [Test]
    public async Task Nothing_is_lost_or_doubled_whatever_happens_between_servers_and_database()
    {
        var (seed, time) = (Seed, Time);
        await TestContext.Progress.WriteLineAsync($"AEGIS_TEST_SEED={seed} AEGIS_TEST_FAULT_SECONDS={time.TotalSeconds}");
        await using var elsewhere = await TestServer.StartAsync(Database.Sqlite);
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        try
        {
            await using var first = await FaultyServer.StartAsync(database, "first");
            await using var second = await FaultyServer.StartAsync(database, "second");
            var load = new FaultLoad([first.Server.Channel, second.Server.Channel], seed);

            var working = load.RunAsync(time, elsewhere);
            await Task.WhenAll(first.TroubleAsync(new Random(seed), time), second.TroubleAsync(new Random(~seed), time));
            await working;
            await Task.WhenAll(first.Server.UntilServingAsync("aegis.integrity"), second.Server.UntilServingAsync("aegis.integrity"));
            await load.CheckAsync(first.Server.Channel);

            TestContext.Out.WriteLine($"seed {seed}, {time.TotalSeconds} s: {load.Acknowledged} records acknowledged; {load.Counts}; "
                + $"first: {first.Faults}; second: {second.Faults}");
            Assert.That(load.Misses, Is.Empty, $"Seed {seed}.{Environment.NewLine}{first.Log}{second.Log}");
            Assert.That(load.Acknowledged, Is.GreaterThan(time.TotalSeconds), "There was hardly any load.");
        }
        finally
        {
            await PostgresCluster.DropDatabaseAsync(database);
        }
    }

    private static int? Number(string variable) =>
        Environment.GetEnvironmentVariable(variable) is { Length: > 0 } text
            ? int.Parse(text, System.Globalization.CultureInfo.InvariantCulture)
            : null;
}

/// <summary>A server whose connections to its database go through a proxy that makes trouble.</summary>
internal sealed class FaultyServer : IAsyncDisposable
{
    // Longer than a frozen server is let to hold the log, so that its session is ended too.
    private const int StallMilliseconds = 7_000;

    private readonly string _name;
    private readonly CuttingProxy _proxy;
    private readonly Dictionary<string, int> _faults = [];
    private readonly List<string> _log = [];

    private FaultyServer(string name, CuttingProxy proxy, ServerProcess server) => (_name, _proxy, Server) = (name, proxy, server);

    public ServerProcess Server { get; }

    /// <summary>What happened how often.</summary>
    public string Faults => string.Join(", ", _faults.OrderBy(f => f.Key).Select(f => $"{f.Value} {f.Key}"));

    /// <summary>What happened when, a line each.</summary>
    public string Log => string.Concat(_log.Select(line => line + Environment.NewLine));

    public static async Task<FaultyServer> StartAsync(string database, string name)
    {
        var settings = new NpgsqlConnectionStringBuilder(database);
        var proxy = new CuttingProxy(settings.Host!, settings.Port);
        (settings.Host, settings.Port) = ("127.0.0.1", proxy.Port);
        try
        {
            return new FaultyServer(name, proxy, await ServerProcess.StartAsync(settings.ToString(), ("AEGIS_DRAIN_SECONDS", "1")));
        }
        catch
        {
            await proxy.DisposeAsync();
            throw;
        }
    }

    /// <summary>One fault after the other, with pauses, for a time. All is as it should be at the end.</summary>
    public async Task TroubleAsync(Random random, TimeSpan time)
    {
        for (var since = Stopwatch.StartNew(); since.Elapsed < time;)
        {
            await Task.Delay(random.Next(20, 1200));
            await OneAsync(random);
        }
    }

    private async Task OneAsync(Random random)
    {
        var commit = CuttingProxy.Text(FaultLoad.Reason);
        var any = CuttingProxy.Text("");
        var (choice, bytes, pause) = (random.Next(20), random.Next(1, 400), random.Next(0, 1500));
        switch (choice)
        {
            case < 3:
                await WhenAsync("answer lost after the commit", _proxy.CutAfterRequest(commit, thenRefuse: choice == 0), pause);
                break;
            case < 5:
                await WhenAsync("commit lost", _proxy.CutBeforeRequest(commit, thenRefuse: choice == 3), pause);
                break;
            case < 7:
                await WhenAsync("commit cut in the middle", _proxy.CutWithinRequest(commit, bytes), pause);
                break;
            case < 9:
                await WhenAsync("answer cut in the middle", _proxy.CutWithinReply(commit, bytes), pause);
                break;
            case < 11:
                await WhenAsync("any answer lost", _proxy.CutAfterRequest(any), pause);
                break;
            case < 12:
                await WhenAsync("any request cut in the middle", _proxy.CutWithinRequest(any, bytes), pause);
                break;
            case < 14:
                Note("all cut");
                _proxy.CutNow();
                await Task.Delay(pause);
                break;
            case < 17:
                Note("answers delayed");
                _proxy.HoldReplies();
                await Task.Delay(pause / 3);
                break;
            case < 18:
                await WhenAsync("stalled in the commit", _proxy.SilenceFromRequest(commit), random.Next(StallMilliseconds));
                break;
            case < 19:
                Note("killed");
                await Server.KillAsync();
                await Server.RestartAsync();
                break;
            default:
                Note("told to end");
                await Server.SendAsync(Signal.Terminate);
                await Server.ExitCodeAsync();
                await Server.RestartAsync();
                break;
        }
        _proxy.Disarm();
        _proxy.ReleaseReplies();
        _proxy.EndSilence();
        _proxy.Restore();
    }

    /// <summary>Waits for a fault that was armed, if it comes to it, and then for as long as it lasts.</summary>
    private async Task WhenAsync(string fault, Task armed, int pause)
    {
        if (await Task.WhenAny(armed, Task.Delay(3000)) != armed)
            return;
        Note(fault);
        await Task.Delay(pause);
    }

    private void Note(string fault)
    {
        _faults[fault] = _faults.GetValueOrDefault(fault) + 1;
        _log.Add($"{DateTime.UtcNow:HH:mm:ss.fff} {_name} {fault}");
    }

    public async ValueTask DisposeAsync()
    {
        await Server.DisposeAsync();
        await _proxy.DisposeAsync();
    }
}
