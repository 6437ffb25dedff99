using Aegis.Cli;
using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// A database that never had what others hold signed heads of, as a standby in another region that was promoted: nothing is
/// written over what was acknowledged until an operator has accepted the loss, and what is lost is told exactly.
/// </summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class KnownHeadsTests(Database database) : IAsyncDisposable
{
    private readonly TemporaryDirectory _data = new("known");
    private string _connection = "";

    private string Heads => Path.Combine(_data.Path, "heads");

    [SetUp]
    public async Task CreateAsync()
    {
        Directory.CreateDirectory(Heads);
        _connection = database == Database.Sqlite
            ? $"sqlite:{Path.Combine(_data.Path, "aegis.db")}"
            : await PostgresCluster.CreateLedgerDatabaseAsync();
    }

    public async ValueTask DisposeAsync()
    {
        if (database == Database.PostgreSql && _connection.Length > 0)
            await PostgresCluster.DropDatabaseAsync(_connection);
        _data.Dispose();
    }

    [Test]
    public async Task What_others_hold_heads_of_is_missed_told_and_written_over_only_once_it_is_accepted()
    {
        await RegionLostAsync(acknowledged: 4);
        var request = new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "region lost", DryRun = true };
        string logId;
        await using (var server = await StartAsync("other region"))
        {
            var info = await ErrorAssert.RefusedAsync(
                () => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync, "LOG_ROLLED_BACK",
                StatusCode.FailedPrecondition);
            await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
            await Until.HealthAsync(server.Health, "aegis.v1.WorkflowService", serving: true);
            var told = await server.Integrity.AcceptRollbackAsync(request);
            var size = (await server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest())).Size;
            request.DryRun = false;
            var accepted = await server.Integrity.AcceptRollbackAsync(request);
            logId = accepted.LogId;
            await WriteAsync(server, "after", 1);
            await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
            await Until.HealthAsync(server.Health, "aegis.integrity", serving: true);

            using (Assert.EnterMultipleScope())
            {
                Assert.That((info.Metadata["log_size"], info.Metadata["seen_log_size"]), Is.EqualTo(("4", "8")));
                Assert.That(info.Metadata["problem"], Is.EqualTo("the records from 4 to 7 are gone"));
                Assert.That(size, Is.EqualTo(4), "A dry run accepts nothing.");
                Assert.That((told.LostFromLogIndex, told.LostToLogIndex), Is.EqualTo((4UL, 8UL)));
                Assert.That((accepted.LostFromLogIndex, accepted.LostToLogIndex), Is.EqualTo((4UL, 8UL)));
                Assert.That(accepted.LostHead, Is.EqualTo((await new HeadFile(Kept("watch")).ReadAsync(default))!.SignedNote));
                Assert.That((accepted.Record.ToState, accepted.Record.LogIndex), Is.EqualTo(("ROLLBACK_ACCEPTED", 4UL)));
                Assert.That((accepted.Record.Metadata["lost_from"], accepted.Record.Metadata["lost_size"]), Is.EqualTo(("4", "8")));
            }
        }

        // The file still keeps the lost head: accepted once, it stays so, here and for another server.
        await using var again = await StartAsync("other region");
        await WriteAsync(again, "again", 1);
        await using var fresh = database == Database.PostgreSql ? await StartAsync("third") : null;
        await WriteAsync(fresh ?? again, "fresh", 1);

        // Whoever kept it goes on only when told.
        var alarm = await WatchAsync(again, "watch");
        var goesOn = await WatchAsync(again, "watch", "--accept-generation", logId);
        Assert.That((alarm, goesOn), Is.EqualTo((ExitCode.Failed, ExitCode.Success)));
    }

    [Test]
    public async Task A_head_that_comes_to_light_later_stops_the_writes_then()
    {
        await RegionLostAsync(acknowledged: 2);
        File.Move(Kept("watch"), Path.Combine(_data.Path, "on its way"));
        await using var server = await StartAsync("other region");
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);

        File.Move(Path.Combine(_data.Path, "on its way"), Kept("watch"));
        await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
        await ErrorAssert.RefusedAsync(() => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync,
            "LOG_ROLLED_BACK", StatusCode.FailedPrecondition);
        // Gone again, it stays known.
        File.Delete(Kept("watch"));
        await Task.Delay(1500);
        var accepted = await server.Integrity.AcceptRollbackAsync(new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "x" });

        Assert.That((accepted.LostFromLogIndex, accepted.LostToLogIndex), Is.EqualTo((4UL, 6UL)));
        await WriteAsync(server, "after", 1);
    }

    [Test]
    public async Task A_log_that_has_gone_its_own_way_is_parted_where_heads_are_last_known_to_be_in_both()
    {
        await using (var main = await StartAsync("main"))
        {
            await WriteAsync(main, "old", 2);
            await WatchAsync(main, "client");
            await WriteAsync(main, "older", 1);
        }
        await RegionLostAsync(acknowledged: 3, old: 0);
        // A server that nobody has told of any head writes past the lost one.
        await using (var unaware = await TestServer.StartAsync(_connection, Memory("other region")))
            await WriteAsync(unaware, "unaware", 5);

        await using var server = await StartAsync("other region");
        var info = await ErrorAssert.RefusedAsync(() => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync,
            "LOG_ROLLED_BACK", StatusCode.FailedPrecondition);
        var accepted = await server.Integrity.AcceptRollbackAsync(new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "x" });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(info.Metadata["problem"], Is.EqualTo("it is no continuation of that head"));
            Assert.That((accepted.LostFromLogIndex, accepted.LostToLogIndex), Is.EqualTo((3UL, 7UL)));
        }
        await WriteAsync(server, "after", 1);

        // One who has seen more of what was lost comes to light only now: it was lost from the same place on.
        var (newer, keys) = NewerThanLost(accepted.LostHead);
        await new HeadFile(Kept("late")).ReplaceAsync(new KeptHead(newer, keys), null, default);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
        var late = await server.Integrity.AcceptRollbackAsync(new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "y" });
        Assert.That((late.LostFromLogIndex, late.LostToLogIndex), Is.EqualTo((3UL, 9UL)));
        Assert.That(late.LogId, Does.EndWith("/3"));
        await WriteAsync(server, "late", 1);
    }

    [Test]
    public async Task Its_own_memory_and_what_others_have_kept_are_one_loss()
    {
        await RegionLostAsync(acknowledged: 4, seen: 2);

        await using var server = await StartAsync("other region");
        var accepted = await server.Integrity.AcceptRollbackAsync(new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "x" });

        Assert.That((accepted.LostFromLogIndex, accepted.LostToLogIndex), Is.EqualTo((4UL, 8UL)));
        await WriteAsync(server, "after", 1);
        await Task.Delay(1500);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
    }

    [Test]
    public async Task Heads_that_the_log_holds_are_no_hindrance_while_it_grows()
    {
        await using var server = await StartAsync("main");
        for (var i = 0; i < 5; i++)
        {
            await WriteAsync(server, $"w{i}", 60);
            await WatchAsync(server, "watch");
            await Task.Delay(300);
        }
        await WriteAsync(server, "after", 1);

        await Task.Delay(1500);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
        var violations = await server.Integrity.ListViolationsAsync(
            new Pb.ListViolationsRequest { AllNamespaces = true, IncludeReleased = true });
        Assert.That(violations.Violations, Is.Empty);
    }

    [Test]
    public async Task A_file_that_is_no_head_of_this_log_stops_the_start_and_is_told_later()
    {
        await using (var main = await StartAsync("main"))
        {
            await WriteAsync(main, "w", 1);
            await WatchAsync(main, "watch");
        }
        var logId = LogHead.TryParse(SignedNote.TryParse((await new HeadFile(Kept("watch")).ReadAsync(default))!.SignedNote)!.Text)!.LogId;
        var absent = await FailureAsync(Kept("absent"));
        var garbage = await FailureAsync(await FileAsync("garbage", "{}"));
        var unsigned = await FailureAsync(await FileAsync("unsigned", """{"signed_note": "x", "verifier_keys": []}"""));
        using var other = SigningKey.Create();
        var head = new LogHead(logId, 9, Hash.Of([1]));
        var forged = await FailureAsync(await HeadAsync("forged", other.Sign(head)));
        var foreign = await FailureAsync(await HeadAsync("foreign", SharedKey.Key.Sign(head with { LogId = "other.example/log" })));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(absent, Does.Contain(Kept("absent")).And.Contain("is not there"));
            Assert.That(garbage, Does.Contain("does not hold a head as clients"));
            Assert.That(unsigned, Does.Contain("does not hold a signed head"));
            Assert.That(forged, Does.Contain("that the log's signing key has not signed"));
            Assert.That(foreign, Does.Contain("is of the log \"other.example/log\", and the database holds"));
        }

        await using var server = await StartAsync("main");
        await HeadAsync("heads/forged.json", other.Sign(head));
        await Task.Delay(1500);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
        await WriteAsync(server, "goes on", 1);
    }

    [Test]
    public async Task An_empty_database_is_not_begun_where_others_keep_a_head()
    {
        await RegionLostAsync(acknowledged: 1);
        var empty = database == Database.Sqlite
            ? $"sqlite:{Path.Combine(_data.Path, "empty.db")}"
            : await PostgresCluster.CreateLedgerDatabaseAsync();

        var message = await FailureAsync(Heads, empty);

        Assert.That(message, Does.Contain("holds a head of a log, and the database is empty"));
        if (database == Database.PostgreSql)
            await PostgresCluster.DropDatabaseAsync(empty);
    }

    /// <summary>
    /// A log of 1 + old records, of which a copy is left, to which more were added and acknowledged, as the watch knows that kept
    /// the last head, and a server of the other region as far as it has seen.
    /// </summary>
    private async Task RegionLostAsync(int acknowledged, int seen = 0, int old = 3)
    {
        await using (var main = await StartAsync("main"))
            await WriteAsync(main, "old", old);
        await using var copy = await Backup.TakeAsync(_connection);
        await using (var main = await TestServer.StartAsync(_connection, Memory(seen > 0 ? "other region" : "main")))
            await WriteAsync(main, "seen", seen);
        await using (var main = await StartAsync("main"))
        {
            await WriteAsync(main, "new", acknowledged - seen);
            Assert.That(await WatchAsync(main, "watch"), Is.Zero);
        }
        await copy.RestoreAsync(_connection);
    }

    /// <summary>A server that keeps its memory under a name, and knows the heads in the directory.</summary>
    private Task<TestServer> StartAsync(string memory) =>
        TestServer.StartAsync(_connection, Memory(memory), KeyValuePair.Create("AEGIS_KNOWN_HEADS", Heads));

    private KeyValuePair<string, string> Memory(string name) =>
        KeyValuePair.Create("AEGIS_MEMORY_FILE", Path.Combine(_data.Path, $"memory-{name}.json"));

    private string Kept(string name) => Path.Combine(Heads, $"{name}.json");

    private async Task<string> FileAsync(string name, string text)
    {
        var path = Path.Combine(_data.Path, name);
        await File.WriteAllTextAsync(path, text);
        return path;
    }

    private async Task<string> HeadAsync(string name, string note)
    {
        var path = Path.Combine(_data.Path, name);
        await new HeadFile(path).ReplaceAsync(new KeptHead(note, []), null, default);
        return path;
    }

    /// <summary>A head of the lost log, of two records more, as its key would have signed it.</summary>
    private static (string Note, IReadOnlyList<string> Keys) NewerThanLost(string lost)
    {
        var head = LogHead.TryParse(SignedNote.TryParse(lost)!.Text)!;
        var newer = head with { Size = head.Size + 2, Root = Hash.Of([2]) };
        return (SharedKey.Key.Sign(newer), [SharedKey.Key.VerifierKey(head.LogId).ToString()]);
    }

    private async Task<string> FailureAsync(string heads, string? connection = null)
    {
        try
        {
            await using var server = await TestServer.StartAsync(connection ?? _connection, KeyValuePair.Create("AEGIS_KNOWN_HEADS", heads));
            return "it started";
        }
        catch (StoreException e) when (e.Failure == StoreFailure.Unusable)
        {
            return e.Message;
        }
    }

    private async Task<int> WatchAsync(TestServer server, string name, params string[] options)
    {
        using var output = new StringWriter();
        return await AegisCommand.RunAsync(
            ["head", "watch", "--once", "--state", Kept(name), "--server", server.Address, .. options], output, output);
    }

    private static async Task WriteAsync(TestServer server, string name, int count)
    {
        for (var i = 0; i < count; i++)
            await server.Workflows.StartWorkflowAsync(Given.Start($"{name} {i}"));
    }
}
