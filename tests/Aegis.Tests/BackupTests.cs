using System.Diagnostics.Metrics;
using System.Text.Json.Nodes;
using Aegis.Cli;
using Aegis.Core;
using Aegis.Server;
using Grpc.Core;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Backups as an operator takes them, beside a server that writes.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
[System.Runtime.Versioning.UnsupportedOSPlatform("windows")]
public sealed class BackupTests(Database database) : IDisposable
{
    private readonly TemporaryDirectory _directory = new("backup");

    private string To => Path.Combine(_directory.Path, "backups");

    private string Suffix => database == Database.Sqlite ? ".sqlite" : ".dump";

    public void Dispose() => _directory.Dispose();

    [Test]
    public async Task A_backup_taken_while_the_server_writes_is_proven_counted_and_known_to_every_server()
    {
        await using var server = await TestServer.StartAsync(database);
        await BackupRuns.WriteAsync(server, "before", 20);
        await Until.HealthAsync(server.Health, "aegis.backup", serving: false);
        using var ending = new CancellationTokenSource();
        var writing = BackupRuns.WriteUntilAsync(server, ending.Token);
        var before = await server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest());

        var run = await BackupRuns.CreateAsync(server, To, "--name", "first", "--actor", "night", "--reason", "as every night", "--json");
        await ending.CancelAsync();
        var written = await writing;

        Assert.That((run.Code, run.Error), Is.EqualTo((ExitCode.Success, "")));
        var told = JsonNode.Parse(run.Output)!;
        await Until.HealthAsync(server.Health, "aegis.backup", serving: true);
        var record = (await server.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log" })).Records.Last(r => r.ToState == "BACKUP_PROVEN");
        await using var other = database == Database.PostgreSql ? await TestServer.StartAsync(server.Connection) : null;
        if (other is not null)
            await Until.HealthAsync(other.Health, "aegis.backup", serving: true);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(written, Is.GreaterThan(0), "The server went on writing.");
            Assert.That((ulong)(long)told["size"]!, Is.GreaterThanOrEqualTo(before.Size));
            Assert.That((long?)told["records"], Is.EqualTo((long?)told["size"]));
            Assert.That((ulong)(long)told["recorded_as"]!, Is.EqualTo(record.LogIndex));
            Assert.That((record.Actor, record.Reason), Is.EqualTo(("night", "as every night")));
            Assert.That(record.Metadata["location"], Does.EndWith("first" + Suffix));
            Assert.That(record.Metadata["kind"], Is.EqualTo(database == Database.Sqlite ? "sqlite" : "pg_dump"));
            Assert.That(Directory.GetFiles(To).Select(Path.GetFileName).Order(),
                Is.EqualTo(new[] { ".lock", "first" + Suffix, "first" + Suffix + ".json" }));
            Assert.That(File.GetUnixFileMode(Path.Combine(To, "first" + Suffix)), Is.EqualTo(UnixFileMode.UserRead | UnixFileMode.UserWrite));
            Assert.That((await BackupRuns.RunAsync(server, "backup", "list", To)).Output, Does.Match($"first{Suffix} .* PROVEN "));
        }
    }

    [Test]
    public async Task A_restart_forgets_no_backup()
    {
        var connection = database == Database.Sqlite
            ? $"sqlite:{Path.Combine(_directory.Path, "aegis.db")}"
            : await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await TestServer.StartAsync(connection))
            Assert.That((await BackupRuns.CreateAsync(server, To)).Code, Is.EqualTo(ExitCode.Success));

        await using (var server = await TestServer.StartAsync(connection))
            await Until.HealthAsync(server.Health, "aegis.backup", serving: true);
        if (database == Database.PostgreSql)
            await PostgresCluster.DropDatabaseAsync(connection);
    }

    [Test]
    public async Task Age_turns_its_own_health_name_alone_and_counts_from_what_the_backup_does_not_hold()
    {
        await using var server = await TestServer.StartAsync(database, KeyValuePair.Create("AEGIS_BACKUP_MAX_AGE", "3s"));
        await BackupRuns.CreateAsync(server, To, "--name", "old");
        await Until.HealthAsync(server.Health, "aegis.backup", serving: true);
        var measured = Measured();

        await Until.HealthAsync(server.Health, "aegis.backup", serving: false);
        var first = await server.Workflows.StartWorkflowAsync(Given.Start("first that it has not"));
        var plain = await BackupRuns.RunAsync(server, "health");
        var demanded = await BackupRuns.RunAsync(server, "health", "--protected");
        await BackupRuns.WriteAsync(server, "more", 3);
        var again = await BackupRuns.ProveAsync(server, Path.Combine(To, "old" + Suffix), "--json");
        var records = await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log" });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(measured, Has.Some.InRange(0, 30));
            Assert.That((plain.Code, demanded.Code), Is.EqualTo((ExitCode.Success, ExitCode.Violation)));
            Assert.That(plain.Output, Does.Match("aegis.backup +NOT_SERVING"));
            Assert.That(again.Code, Is.EqualTo(ExitCode.Success), again.Error);
            // The record of its own proof is the first that it does not hold, and comes before those of callers.
            Assert.That(DateTimeOffset.Parse((string)JsonNode.Parse(again.Output)!["covered_until"]!, null),
                Is.EqualTo(records.Records.First(r => r.ToState == "BACKUP_PROVEN").RecordedAt.ToDateTimeOffset())
                    .And.LessThan(first.Record.RecordedAt.ToDateTimeOffset()));
            Assert.That(server.Services.GetRequiredService<ProvenBackups>().IsRecent, Is.False, "Proving it again made it no younger.");
        }
    }

    [Test]
    public async Task A_single_byte_that_was_flipped_is_found_with_and_without_what_was_noted()
    {
        await using var server = await TestServer.StartAsync(database);
        await BackupRuns.WriteAsync(server, "w", 30);
        await BackupRuns.CreateAsync(server, To, "--name", "b");
        var path = Path.Combine(To, "b" + Suffix);
        var bytes = await File.ReadAllBytesAsync(path);
        // In SQLite a snapshot; in an archive of pg_dump the compressed rows of the last table. Of the schema nothing proves itself.
        var place = database == Database.Sqlite ? bytes.AsSpan().IndexOf("{\"number\": 17}"u8) + 11 : bytes.Length - 200;
        bytes[place] ^= 1;
        await File.WriteAllBytesAsync(path, bytes);

        var noted = await BackupRuns.ProveAsync(server, path);
        var listed = await BackupRuns.RunAsync(server, "backup", "list", To);
        File.Delete(path + ".json");
        var bare = await BackupRuns.ProveAsync(server, path);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((noted.Code, noted.Error), Is.EqualTo((ExitCode.Violation, noted.Error)));
            Assert.That(noted.Error, Does.Contain("is not the file that was written"));
            Assert.That(listed.Output, Does.Contain("UNPROVEN"));
            Assert.That(bare.Code, Is.EqualTo(ExitCode.Violation), bare.Error);
            Assert.That(bare.Error, Does.Contain(database == Database.Sqlite ? "not what was recorded" : "cannot be"));
        }
    }

    [Test]
    public async Task What_was_altered_before_the_backup_is_found_by_its_proof()
    {
        await using var server = await TestServer.StartAsync(database);
        await BackupRuns.WriteAsync(server, "w", 3);
        await Tampering.RunAsync(server, "UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = 'w 1'");

        var run = await BackupRuns.CreateAsync(server, To, "--name", "b");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Violation));
            Assert.That(run.Error, Does.Contain("FieldModified of default/w 1, record 1"));
            Assert.That((await BackupRuns.RunAsync(server, "backup", "list", To)).Output, Does.Contain("UNPROVEN"));
            Assert.That(server.Services.GetRequiredService<ProvenBackups>().Age, Is.Null);
        }
    }

    [Test]
    public async Task A_wrong_key_and_another_log_prove_nothing()
    {
        await using var server = await TestServer.StartAsync(database);
        await using var other = await TestServer.StartAsync(database);
        await BackupRuns.CreateAsync(server, To, "--name", "mine");
        await BackupRuns.CreateAsync(other, To, "--name", "others");
        using var stranger = Evidence.SigningKey.Create();
        var wrong = stranger.VerifierKey((await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).LogId).ToString();
        var keys = new[] { "--key", await BackupRuns.KeyAsync(other) };

        var wrongKey = await BackupRuns.RunAsync(server, "backup", "prove", Path.Combine(To, "mine" + Suffix), "--key", wrong);
        var wrongKeyOffline = await BackupRuns.RunAsync(server, "backup", "prove", Path.Combine(To, "mine" + Suffix), "--key", wrong, "--offline");
        var otherLog = await BackupRuns.ProveAsync(server, Path.Combine(To, "others" + Suffix));
        var bothKeys = await BackupRuns.ProveAsync(server, [Path.Combine(To, "others" + Suffix), .. keys]);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((wrongKey.Code, wrongKey.Error), Is.EqualTo((ExitCode.Failed, wrongKey.Error)));
            Assert.That(wrongKey.Error, Does.Contain("SIGNATURE_INVALID"));
            Assert.That((wrongKeyOffline.Code, otherLog.Code), Is.EqualTo((ExitCode.Usage, ExitCode.Usage)));
            Assert.That(wrongKeyOffline.Error, Does.Contain("no key that was given has signed"));
            Assert.That(bothKeys.Code, Is.EqualTo(ExitCode.Failed));
            Assert.That(bothKeys.Error, Does.Contain("LOG_ID_CHANGED: The backup is of another log"));
        }
    }

    [Test]
    public async Task A_backup_of_what_was_rolled_back_is_kept_apart_and_an_older_one_counts()
    {
        var connection = database == Database.Sqlite
            ? $"sqlite:{Path.Combine(_directory.Path, "aegis.db")}"
            : await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await TestServer.StartAsync(connection, Memory()))
        {
            await BackupRuns.WriteAsync(server, "old", 3);
            Assert.That((await BackupRuns.CreateAsync(server, To, "--name", "older")).Code, Is.EqualTo(ExitCode.Success));
        }
        await using var yesterday = await Backup.TakeAsync(connection);
        await using (var server = await TestServer.StartAsync(connection, Memory()))
        {
            await BackupRuns.WriteAsync(server, "new", 3);
            Assert.That((await BackupRuns.CreateAsync(server, To, "--name", "newer")).Code, Is.EqualTo(ExitCode.Success));
        }
        await yesterday.RestoreAsync(connection);
        await using (var server = await TestServer.StartAsync(connection, Memory()))
        {
            var rolledBack = await BackupRuns.ProveAsync(server, Path.Combine(To, "newer" + Suffix));
            await BackupRuns.RunAsync(server, "recover", "accept-rollback", "--actor", "op", "--reason", "lost");
            var still = await BackupRuns.ProveAsync(server, Path.Combine(To, "newer" + Suffix));
            await BackupRuns.WriteAsync(server, "again", 9);
            var forked = await BackupRuns.ProveAsync(server, Path.Combine(To, "newer" + Suffix));
            var older = await BackupRuns.ProveAsync(server, Path.Combine(To, "older" + Suffix));
            var taken = await BackupRuns.CreateAsync(server, To, "--name", "of the new generation");

            using (Assert.EnterMultipleScope())
            {
                Assert.That((rolledBack.Code, still.Code, forked.Code), Is.EqualTo((ExitCode.Failed, ExitCode.Failed, ExitCode.Failed)));
                Assert.That(rolledBack.Error, Does.Contain("LOG_ROLLED_BACK").And.Contain("Keep this backup"));
                Assert.That(still.Error, Does.Contain("LOG_ROLLED_BACK"));
                Assert.That(forked.Error, Does.Contain("LOG_FORKED"));
                Assert.That((older.Code, older.Error), Is.EqualTo((ExitCode.Success, "")));
                Assert.That((taken.Code, taken.Error), Is.EqualTo((ExitCode.Success, "")));
            }
        }
        if (database == Database.PostgreSql)
            await PostgresCluster.DropDatabaseAsync(connection);
    }

    [Test]
    public async Task A_copy_of_what_the_server_does_not_write_to_is_not_counted()
    {
        await using var server = await TestServer.StartAsync(database);
        await BackupRuns.CreateAsync(server, To, "--name", "small");
        await BackupRuns.WriteAsync(server, "w", 2);
        var copy = database == Database.Sqlite ? $"sqlite:{Path.Combine(To, "small.sqlite")}" : await PostgresCluster.CreateDatabaseAsync();
        if (database == Database.PostgreSql)
            await BackupRuns.LoadAsync(copy, Path.Combine(To, "small.dump"));

        var run = await BackupRuns.RunAsync(server, "backup", "create", "--to", To, "--database", copy, "--key", await BackupRuns.KeyAsync(server));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Failed), run.Error);
            Assert.That(run.Error, Does.Contain("and the server had").And.Contain("not the one that the server writes to"));
        }
        if (database == Database.PostgreSql)
            await PostgresCluster.DropDatabaseAsync(copy);
    }

    [Test]
    public async Task The_server_itself_takes_only_heads_that_its_log_continues()
    {
        await using var server = await TestServer.StartAsync(database);
        await BackupRuns.WriteAsync(server, "w", 3);
        var head = await server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest());
        var id = (await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).LogId;
        var root = Hash.Of("another root"u8);
        using var stranger = Evidence.SigningKey.Create();

        await RefusedAsync(new Pb.RecordBackupRequest(), "INVALID_FIELD", StatusCode.InvalidArgument);
        await RefusedAsync(Asked("no note"), "INVALID_FIELD", StatusCode.InvalidArgument);
        await RefusedAsync(Asked(stranger.Sign(new LogHead(id, 3, root))), "INVALID_FIELD", StatusCode.InvalidArgument);
        await RefusedAsync(Asked(SharedKey.Key.Sign(new LogHead("another", 3, root))), "INVALID_FIELD", StatusCode.InvalidArgument);
        await RefusedAsync(Asked(SharedKey.Key.Sign(new LogHead(id, 99, root))), "CURSOR_AHEAD_OF_LOG", StatusCode.OutOfRange);
        await RefusedAsync(Asked(SharedKey.Key.Sign(new LogHead(id, 3, root))), "LOG_FORKED", StatusCode.DataLoss);
        var taken = await server.Integrity.RecordBackupAsync(Asked(head.SignedNote));

        Assert.That(taken.Record.ToState, Is.EqualTo("BACKUP_PROVEN"));

        static Pb.RecordBackupRequest Asked(string note) =>
            new() { SignedHead = note, Kind = "k", Location = "l", Actor = "a", Reason = "r" };

        Task RefusedAsync(Pb.RecordBackupRequest request, string reason, StatusCode code) =>
            ErrorAssert.RefusedAsync(() => server.Integrity.RecordBackupAsync(request).ResponseAsync, reason, code);
    }

    private KeyValuePair<string, string> Memory() => KeyValuePair.Create("AEGIS_MEMORY_FILE", Path.Combine(_directory.Path, "memory.json"));

    private static List<double> Measured()
    {
        var values = new List<double>();
        using var listener = new MeterListener
        {
            InstrumentPublished = (instrument, l) =>
            {
                if (instrument.Name == "aegis.backup.age")
                    l.EnableMeasurementEvents(instrument);
            },
        };
        listener.SetMeasurementEventCallback<double>((_, value, _, _) => values.Add(value));
        listener.Start();
        listener.RecordObservableInstruments();
        return values;
    }
}
