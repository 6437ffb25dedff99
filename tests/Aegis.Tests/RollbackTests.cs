using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>A database that is taken back behind a signed head, and what an operator does about it.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class RollbackTests(Database database) : IAsyncDisposable
{
    private readonly TemporaryDirectory _data = new("rollback");
    private string _connection = "";

    [SetUp]
    public async Task CreateAsync() => _connection = database == Database.Sqlite
        ? $"sqlite:{Path.Combine(_data.Path, "aegis.db")}"
        : await PostgresCluster.CreateLedgerDatabaseAsync();

    public async ValueTask DisposeAsync()
    {
        if (database == Database.PostgreSql && _connection.Length > 0)
            await PostgresCluster.DropDatabaseAsync(_connection);
        _data.Dispose();
    }

    [Test]
    public async Task Yesterdays_database_takes_no_writes_and_says_why_and_reads_go_on()
    {
        await RunAsync("a", server => WriteAsync(server, "old", 3));
        await using var yesterday = await Backup.TakeAsync(_connection);
        await RunAsync("a", server => WriteAsync(server, "new", 4));
        await yesterday.RestoreAsync(_connection);

        await RunAsync("a", async server =>
        {
            var info = await ErrorAssert.RefusedAsync(
                () => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync, "LOG_ROLLED_BACK",
                StatusCode.FailedPrecondition);
            var lease = Given.Start("leased", owner: "worker");
            await ErrorAssert.RefusedAsync(() => server.Workflows.StartWorkflowAsync(lease).ResponseAsync, "LOG_ROLLED_BACK",
                StatusCode.FailedPrecondition);
            await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
            await Until.HealthAsync(server.Health, "aegis.v1.WorkflowService", serving: true);
            var read = await Given.ReadAsync(server, "old 2");

            using (Assert.EnterMultipleScope())
            {
                Assert.That((info.Metadata["log_size"], info.Metadata["seen_log_size"]), Is.EqualTo(("4", "8")));
                Assert.That(info.Metadata["problem"], Is.EqualTo("the records from 4 to 7 are gone"));
                Assert.That(read.WorkflowId, Is.EqualTo("old 2"));
            }
        });
    }

    [Test]
    public async Task An_operator_accepts_the_loss_and_a_new_generation_begins()
    {
        await RunAsync("a", server => WriteAsync(server, "old", 3));
        await using var yesterday = await Backup.TakeAsync(_connection);
        await RunAsync("a", server => WriteAsync(server, "new", 4));
        await yesterday.RestoreAsync(_connection);

        string logId = "";
        await RunAsync("a", async server =>
        {
            var request = new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "disk lost", DryRun = true };
            var told = await server.Integrity.AcceptRollbackAsync(request);
            request.DryRun = false;
            var accepted = await server.Integrity.AcceptRollbackAsync(request);
            await WriteAsync(server, "after", 1);
            await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
            await Until.HealthAsync(server.Health, "aegis.integrity", serving: true);
            var violations = await server.Integrity.ListViolationsAsync(
                new Pb.ListViolationsRequest { AllNamespaces = true, IncludeReleased = true });
            Assert.That(violations.Violations.Select(v => (v.Class, v.Released)),
                Is.EqualTo(new[] { (Pb.ViolationClass.LogRolledBack, true) }));
            var info = await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest());
            var base_ = told.LogId[..^2];
            logId = accepted.LogId;

            using (Assert.EnterMultipleScope())
            {
                Assert.That((told.LostFromLogIndex, told.LostToLogIndex), Is.EqualTo((4UL, 8UL)));
                Assert.That((accepted.LostFromLogIndex, accepted.LostToLogIndex), Is.EqualTo((4UL, 8UL)));
                Assert.That(told.Record, Is.Null);
                Assert.That(accepted.LogId, Is.EqualTo($"{base_}/2"));
                Assert.That(info.LogId, Is.EqualTo(accepted.LogId));
                Assert.That(info.VerifierKeys, Is.EqualTo(new[] { SharedKey.Key.VerifierKey(accepted.LogId).ToString() }));
                Assert.That(accepted.Record.ToState, Is.EqualTo("ROLLBACK_ACCEPTED"));
                Assert.That((accepted.Record.LogId, accepted.Record.LogIndex), Is.EqualTo((accepted.LogId, 4UL)));
                Assert.That((accepted.Record.Actor, accepted.Record.Reason), Is.EqualTo(("olga", "disk lost")));
                Assert.That(accepted.Record.Metadata["log_id"], Is.EqualTo(base_));
                Assert.That(accepted.Record.Metadata["surviving_size"], Is.EqualTo("4"));
                Assert.That(accepted.Record.Metadata["lost_size"], Is.EqualTo("8"));
                Assert.That(Head(accepted.SurvivingHead), Is.EqualTo((base_, 4)));
                Assert.That(Head(accepted.LostHead), Is.EqualTo((base_, 8)));
            }
            await ErrorAssert.InvalidFieldsAsync(() => server.Integrity.AcceptRollbackAsync(request).ResponseAsync);
        });

        // It stays accepted, and the next loss begins a third generation.
        await using var today = await Backup.TakeAsync(_connection);
        await RunAsync("a", server => WriteAsync(server, "lost again", 1));
        await today.RestoreAsync(_connection);
        await RunAsync("a", async server =>
        {
            var accepted = await server.Integrity.AcceptRollbackAsync(
                new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "again" });
            Assert.That(accepted.LogId, Is.EqualTo(logId[..^1] + "3"));
            await WriteAsync(server, "third", 1);
        });
    }

    [Test]
    public async Task A_log_that_grew_again_after_it_was_taken_back_is_no_continuation()
    {
        await RunAsync("a", server => WriteAsync(server, "old", 3));
        await using var yesterday = await Backup.TakeAsync(_connection);
        await RunAsync("a", server => WriteAsync(server, "new", 4));
        await yesterday.RestoreAsync(_connection);
        // Another server, which has no memory of it, writes past the size that the first has seen.
        await RunAsync("b", server => WriteAsync(server, "other", 7));

        await RunAsync("a", async server =>
        {
            var info = await ErrorAssert.RefusedAsync(
                () => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync, "LOG_ROLLED_BACK",
                StatusCode.FailedPrecondition);
            Assert.That(info.Metadata["problem"], Is.EqualTo("it is no continuation of that head"));

            var accepted = await server.Integrity.AcceptRollbackAsync(
                new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "two histories" });
            Assert.That((accepted.LostFromLogIndex, accepted.LostToLogIndex), Is.EqualTo((4UL, 8UL)));
            await WriteAsync(server, "after", 1);
        });
        // The other goes on in the new generation, which extends what it has seen.
        await RunAsync("b", server => WriteAsync(server, "after too", 1));
    }

    [Test]
    public async Task Of_two_servers_the_one_that_has_seen_more_notices()
    {
        if (database == Database.Sqlite)
            Assert.Pass("A SQLite file serves one server.");
        await RunAsync("both", async server =>
        {
            await RunAsync("b", other => WriteAsync(other, "old", 2));
            await WriteAsync(server, "old too", 1);
        });
        await using var yesterday = await Backup.TakeAsync(_connection);
        await RunAsync("both", server => WriteAsync(server, "new", 3));
        await yesterday.RestoreAsync(_connection);

        // It has seen less than the database has: it cannot know.
        await RunAsync("b", server => WriteAsync(server, "unaware", 1));
        await RunAsync("both", async server =>
        {
            await ErrorAssert.RefusedAsync(() => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync,
                "LOG_ROLLED_BACK", StatusCode.FailedPrecondition);
            var accepted = await server.Integrity.AcceptRollbackAsync(
                new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "restored" });
            Assert.That((accepted.LostFromLogIndex, accepted.LostToLogIndex), Is.EqualTo((4UL, 7UL)));
        });
    }

    [Test]
    public async Task An_acceptance_on_one_server_covers_another_that_has_seen_no_more()
    {
        await RunAsync("a", server => WriteAsync(server, "old", 3));
        await using var yesterday = await Backup.TakeAsync(_connection);
        await RunAsync("a", server => WriteAsync(server, "new", 2));
        await RunAsync("b", server => WriteAsync(server, "newer", 2));
        await yesterday.RestoreAsync(_connection);

        await RunAsync("b", server => server.Integrity.AcceptRollbackAsync(
            new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "restored" }).ResponseAsync);

        await RunAsync("a", server => WriteAsync(server, "after", 1));
    }

    [Test]
    public async Task Another_log_an_empty_database_or_another_key_stops_the_start()
    {
        await RunAsync("a", server => WriteAsync(server, "w", 1));
        await using var other = await TestServer.StartAsync(database);
        var memory = Memory("a");
        using var directory = new TemporaryDirectory("other");
        using var key = new TemporaryDirectory("key");

        var anotherLog = await FailureAsync(() => TestServer.StartAsync(other.Connection, Memory("a")), database == Database.Sqlite);
        var empty = await FailureAsync(() => TestServer.StartAsync(database, Memory("a")));
        var anotherKey = await FailureAsync(() => TestServer.StartAsync(_connection,
            KeyValuePair.Create("AEGIS_SIGNING_KEY", MadeKey(Path.Combine(key.Path, "k.pem")))));
        var missingKey = await FailureAsync(() => TestServer.StartAsync(_connection,
            KeyValuePair.Create("AEGIS_SIGNING_KEY", Path.Combine(key.Path, "absent.pem"))));
        var noMemory = await FailureAsync(() => TestServer.StartAsync(_connection,
            KeyValuePair.Create("AEGIS_MEMORY", "required")));
        var anotherName = await FailureAsync(() => TestServer.StartAsync(_connection,
            KeyValuePair.Create("AEGIS_LOG_ID", "another.example/log")));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(anotherLog, Does.Contain("is of the log").Or.Contain("in use by another server"));
            Assert.That(empty, Does.Contain("the database is empty"));
            Assert.That(anotherKey, Does.Contain("is not the key of the log"));
            Assert.That(missingKey, Does.Contain("is missing"));
            Assert.That(noMemory, Does.Contain("AEGIS_MEMORY is required"));
            Assert.That(anotherName, Does.Contain("AEGIS_LOG_ID is"));
            Assert.That(File.Exists(Path.Combine(key.Path, "absent.pem")), Is.False, "A key for a log that has one.");
        }
        await RunAsync("a", server => WriteAsync(server, "still", 1));
    }

    [Test]
    public async Task A_memory_that_was_altered_stops_the_start()
    {
        await RunAsync("a", server => WriteAsync(server, "w", 1));
        var path = Memory("a").Value;
        var text = await File.ReadAllTextAsync(path);
        await File.WriteAllTextAsync(path, text.Replace("\\n2\\n", "\\n1\\n", StringComparison.Ordinal));

        var altered = await FailureAsync(() => TestServer.StartAsync(_connection, Memory("a")));
        await File.WriteAllTextAsync(path, "{");
        var broken = await FailureAsync(() => TestServer.StartAsync(_connection, Memory("a")));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(altered, Does.Contain("does not hold a head that this server's signing key has signed"));
            Assert.That(broken, Does.Contain("cannot be read"));
        }
    }

    [Test]
    public async Task A_database_that_is_taken_back_under_a_running_server_is_noticed_and_watches_end()
    {
        var (_, value) = Memory("a");
        await using var server = await TestServer.StartAsync(_connection, KeyValuePair.Create("AEGIS_MEMORY_FILE", value));
        await WriteAsync(server, "old", 5);
        using var watch = server.Workflows.WatchRecords(new Pb.WatchRecordsRequest { FromLogIndex = 0 });
        await watch.ResponseStream.MoveNext(CancellationToken.None);

        await Tampering.RunAsync(server, "DELETE FROM record WHERE log_index >= 4");
        await Tampering.RunAsync(server, "DELETE FROM log_head WHERE size > 4");

        await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
        await ErrorAssert.RefusedAsync(() => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync,
            "LOG_ROLLED_BACK", StatusCode.FailedPrecondition);
        await ErrorAssert.RefusedAsync(async () =>
        {
            while (await watch.ResponseStream.MoveNext(CancellationToken.None))
            {
            }
        }, "LOG_FORKED", StatusCode.DataLoss);
    }

    [Test]
    public async Task A_head_that_someone_else_has_made_takes_no_writes()
    {
        await RunAsync("a", server => WriteAsync(server, "w", 3));
        // The whole log is rewritten, tree and head too; only the key is missing.
        using var forger = SigningKey.Create();
        var frontier = new MerkleFrontier();
        for (var i = 0; i < 4; i++)
            frontier.Append(Hash.Of([(byte)i]));
        var logId = "";
        await RunAsync("a", async server => logId = (await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).LogId);
        await Tampering.RunAsync(_connection,
            "UPDATE log_head SET root = @root, frontier = @frontier, signed_note = @note WHERE size = 4",
            new
            {
                root = frontier.Root.ToArray(),
                frontier = frontier.ToArray(),
                note = SignedNote.Write(new LogHead(logId, 4, frontier.Root).Text, SharedKey.Key.VerifierKey(logId), new byte[64]),
            });

        await RunAsync("a", async server =>
        {
            var info = await ErrorAssert.RefusedAsync(
                () => server.Workflows.StartWorkflowAsync(Given.Start("more")).ResponseAsync, "LOG_ROLLED_BACK",
                StatusCode.FailedPrecondition);
            Assert.That(info.Metadata["problem"], Is.EqualTo("its newest head is not one that the log's key has signed"));
            // There is nothing sound to go on from.
            await ErrorAssert.RefusedAsync(() => server.Integrity.AcceptRollbackAsync(
                new Pb.AcceptRollbackRequest { Actor = "olga", Reason = "x" }).ResponseAsync, "LOG_ROLLED_BACK",
                StatusCode.FailedPrecondition);
        });
    }

    [Test]
    public async Task A_log_without_signatures_is_sealed_at_the_start()
    {
        await RunAsync("a", server => WriteAsync(server, "w", 300));
        await Tampering.RunAsync(_connection, "DELETE FROM log_tile");
        await Tampering.RunAsync(_connection, "UPDATE log_head SET root = NULL, frontier = NULL, signed_note = NULL");

        await RunAsync("b", async server =>
        {
            await WriteAsync(server, "after", 1);
            var head = await server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest());
            var proof = await server.Integrity.GetInclusionProofAsync(
                new Pb.GetInclusionProofRequest { WorkflowId = "w 7", Sequence = 1 });
            var records = await server.Workflows.ListRecordsAsync(
                new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log" });

            using (Assert.EnterMultipleScope())
            {
                Assert.That(head.Size, Is.EqualTo(303));
                Assert.That(proof.Path, Is.Not.Empty);
                Assert.That(records.Records.Select(r => r.ToState), Is.EqualTo(new[] { "OPEN", "KEY_ADDED" }));
            }
        });
    }

    private KeyValuePair<string, string> Memory(string name) =>
        KeyValuePair.Create("AEGIS_MEMORY_FILE", Path.Combine(_data.Path, $"memory-{name}.json"));

    private static string MadeKey(string path)
    {
        using var key = SigningKey.LoadOrCreate(path, out _);
        return path;
    }

    /// <summary>A life of a server that keeps its memory under a name.</summary>
    private async Task RunAsync(string memory, Func<TestServer, Task> use)
    {
        await using var server = await TestServer.StartAsync(_connection, Memory(memory));
        await use(server);
    }

    private static async Task WriteAsync(TestServer server, string name, int count)
    {
        for (var i = 0; i < count; i++)
            await server.Workflows.StartWorkflowAsync(Given.Start($"{name} {i}"));
    }

    private static async Task<string> FailureAsync(Func<Task<TestServer>> start, bool isInUse = false)
    {
        try
        {
            await using var server = await start();
            return "it started";
        }
        catch (StoreException e) when (e.Failure == StoreFailure.Unusable || isInUse)
        {
            return e.Message;
        }
    }

    private static (string LogId, long Size) Head(string note) =>
        LogHead.TryParse(SignedNote.TryParse(note)!.Text) is { } head ? (head.LogId, head.Size) : default;
}
