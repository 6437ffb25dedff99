using System.Diagnostics;
using Aegis.Backup;
using Aegis.Cli;
using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Tests;

/// <summary>What goes wrong with backups: each has its exit code and its message, and leaves nothing that looks like a backup.</summary>
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
[System.Runtime.Versioning.UnsupportedOSPlatform("windows")]
public sealed class BackupFailureTests : IDisposable
{
    private readonly TemporaryDirectory _directory = new("backup");

    private string To => Path.Combine(_directory.Path, "backups");

    public void Dispose() => _directory.Dispose();

    [Test]
    public async Task Programs_that_are_missing_or_too_old_are_named_before_anything_is_written()
    {
        await using var server = await TestServer.StartAsync(Database.PostgreSql);
        var none = Directory.CreateDirectory(Path.Combine(_directory.Path, "none")).FullName;
        var old = OldPrograms();

        var missing = await BackupRuns.CreateAsync(server, To, "--pg-bin", none);
        var tooOld = await BackupRuns.CreateAsync(server, To, "--pg-bin", old);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((missing.Code, missing.Error.Trim()), Is.EqualTo((ExitCode.Usage, $"aegis: {none} does not have pg_dump.")));
            Assert.That(tooOld.Code, Is.EqualTo(ExitCode.Usage));
            Assert.That(tooOld.Error, Does.Contain($"pg_dump in {old} is of version 9, and the database is of ")
                .And.Contain("install postgresql-client-"));
            Assert.That(Directory.Exists(To), Is.False);
        }
    }

    [Test]
    public async Task A_server_that_runs_no_server_can_prove_on_one_that_is_named()
    {
        await using var server = await TestServer.StartAsync(Database.PostgreSql);
        await BackupRuns.WriteAsync(server, "w", 5);
        await using var cluster = await PostgresCluster.StartPrivateAsync();

        var run = await BackupRuns.CreateAsync(server, To, "--restore-on", cluster.ConnectionString);
        var unreachable = await BackupRuns.CreateAsync(server, To, "--restore-on", $"Host=127.0.0.1;Port={FreePort.Next()};Username=nobody");

        await using var connection = new NpgsqlConnection(cluster.ConnectionString);
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand("SELECT count(*) FROM pg_database WHERE datname LIKE 'aegis_proof%'", connection);
        using (Assert.EnterMultipleScope())
        {
            Assert.That((run.Code, run.Error), Is.EqualTo((ExitCode.Success, "")));
            Assert.That(await command.ExecuteScalarAsync(), Is.Zero, "The database of the proof is dropped.");
            Assert.That(unreachable.Code, Is.EqualTo(ExitCode.Unavailable));
        }
    }

    [Test]
    public async Task A_database_that_is_not_there_is_told()
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        string[] create = ["backup", "create", "--to", To, "--key", await BackupRuns.KeyAsync(server), "--database"];

        var file = await BackupRuns.RunAsync(server, [.. create, $"sqlite:{To}/none.db"]);
        var port = await BackupRuns.RunAsync(server, [.. create, $"Host=127.0.0.1;Port={FreePort.Next()};Username=nobody;Timeout=2"]);
        var neither = await BackupRuns.RunAsync(server, [.. create, "mysql://nowhere"]);
        var away = await BackupRuns.RunAsync($"http://127.0.0.1:{FreePort.Next()}", [.. create, server.Connection]);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((file.Code, port.Code, neither.Code, away.Code),
                Is.EqualTo((ExitCode.Unavailable, ExitCode.Unavailable, ExitCode.Usage, ExitCode.Unavailable)));
            Assert.That(file.Error, Does.Contain("There is no database"));
            Assert.That(port.Error, Does.Contain("cannot be reached"));
            Assert.That(away.Error, Does.Contain("The server at"));
            Assert.That(Directory.Exists(To), Is.False);
        }
    }

    [TestCase(Database.Sqlite)]
    [TestCase(Database.PostgreSql)]
    public async Task A_full_disk_leaves_no_backup_and_no_draft(Database database)
    {
        await using var server = await TestServer.StartAsync(database);
        await BackupRuns.WriteAsync(server, "w", 200);
        await using var disk = await TinyDisk.MountAsync("64k");
        disk.Fill();

        var run = await BackupRuns.CreateAsync(server, disk.Path);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Failed), run.Error);
            Assert.That(run.Error, Does.Contain("No space left").Or.Contain("no room"));
            Assert.That(Directory.GetFiles(disk.Path).Select(Path.GetFileName), Is.SubsetOf(new[] { ".lock", "filling" }));
        }
    }

    [Test]
    public async Task A_full_disk_for_the_proof_leaves_the_backup_unproven()
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        await BackupRuns.WriteAsync(server, "w", 10);
        await using var disk = await TinyDisk.MountAsync("64k");

        var run = await BackupRuns.CreateAsync(server, To, "--scratch", disk.Path);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Failed), run.Error);
            Assert.That(run.Error, Does.Contain("No space left"));
            Assert.That(Directory.GetFileSystemEntries(disk.Path), Is.Empty);
            Assert.That(BackupDirectory.List(To).Single().Proof, Is.Null);
        }
    }

    [Test]
    public async Task What_is_there_is_never_written_over_and_one_process_works_at_a_time()
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        await BackupRuns.CreateAsync(server, To, "--name", "b");

        var again = await BackupRuns.CreateAsync(server, To, "--name", "b");
        var outside = await BackupRuns.CreateAsync(server, To, "--name", "../b");
        (int Code, string Output, string Error) locked;
        using (BackupDirectory.Open(To, create: false))
            locked = await BackupRuns.CreateAsync(server, To);
        var file = await BackupRuns.CreateAsync(server, Path.Combine(To, "b.sqlite"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That((again.Code, outside.Code, locked.Code, file.Code),
                Is.EqualTo((ExitCode.Usage, ExitCode.Usage, ExitCode.Failed, ExitCode.Usage)));
            Assert.That(again.Error, Does.Contain("There is a backup").And.Contain("already"));
            Assert.That(outside.Error, Does.Contain("is not the name of a file"));
            Assert.That(locked.Error, Does.Contain("Another process works in"));
        }
    }

    [TestCase(Database.Sqlite, false)]
    [TestCase(Database.PostgreSql, false)]
    [TestCase(Database.PostgreSql, true)]
    public async Task Interrupted_or_killed_it_leaves_nothing_that_looks_like_a_backup(Database database, bool isKilled)
    {
        var source = database == Database.Sqlite ? $"sqlite:{Path.Combine(_directory.Path, "aegis.db")}" : await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await TestServer.StartAsync(source))
            await BackupRuns.WriteAsync(server, "w", 3);
        await using var held = await HoldAsync(source);
        using var process = Start("create", "--to", To, "--database", source);
        await Until.TrueAsync(() => Task.FromResult(Directory.Exists(To) && Directory.GetFiles(To, "*.part").Length > 0));

        await process.SendAsync(isKilled ? Signal.Kill : Signal.Interrupt);
        await process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(60));

        var drafts = Directory.GetFiles(To, "*.part").Length;
        BackupDirectory.Open(To, create: false).Dispose();
        using (Assert.EnterMultipleScope())
        {
            Assert.That(process.ExitCode, Is.EqualTo(isKilled ? 137 : ExitCode.Interrupted));
            Assert.That(drafts, Is.EqualTo(isKilled ? 1 : 0));
            Assert.That(Directory.GetFiles(To).Select(Path.GetFileName), Is.EqualTo(new[] { ".lock" }), "The next run takes the draft away.");
        }
        if (database == Database.PostgreSql)
            await PostgresCluster.DropDatabaseAsync(source);
    }

    [Test]
    public async Task A_scratch_directory_that_is_too_deep_for_a_socket_is_told_to_be()
    {
        var source = await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await TestServer.StartAsync(source))
        {
            await BackupRuns.CreateAsync(server, To, "--name", "b", "--offline");
            var deep = Directory.CreateDirectory(Path.Combine(_directory.Path, new string('d', 100))).FullName;

            var proof = await BackupRuns.ProveAsync(server, Path.Combine(To, "b.dump"), "--scratch", deep);

            using (Assert.EnterMultipleScope())
            {
                Assert.That(proof.Code, Is.EqualTo(ExitCode.Usage));
                Assert.That(proof.Error, Does.Contain("too long for a socket").And.Contain("--scratch"));
                Assert.That(Directory.EnumerateFileSystemEntries(deep), Is.Empty);
            }
        }
        await PostgresCluster.DropDatabaseAsync(source);
    }

    [Test]
    public async Task A_proof_that_is_killed_takes_its_server_with_it()
    {
        var source = await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var server = await TestServer.StartAsync(source))
            await BackupRuns.CreateAsync(server, To, "--name", "b", "--offline");
        // A socket's path has to be short, and tests may run deep in a directory of their own.
        var scratch = Directory.CreateDirectory($"/tmp/aegis-scratch-{Guid.NewGuid().ToString("N")[..8]}").FullName;
        using var process = Start("prove", Path.Combine(To, "b.dump"), "--scratch", scratch);
        string[] sockets = [];
        await EventuallyAsync(() => (sockets = [.. Directory.GetDirectories(scratch, "aegis-proof-*")
            .Select(d => Path.Combine(d, ".s.PGSQL.5432")).Where(File.Exists)]).Length > 0);
        var postmaster = File.ReadLines(Path.Combine(Path.GetDirectoryName(sockets[0])!, "data", "postmaster.pid")).First();

        await process.SendAsync(Signal.Kill);
        await process.WaitForExitAsync();

        // The database's user may not remove its directory from one that belongs to another.
        await EventuallyAsync(() => !Directory.Exists($"/proc/{postmaster}")
            && Directory.GetDirectories(scratch, "aegis-proof-*").All(d => !Directory.EnumerateFileSystemEntries(d).Any()));
        Directory.Delete(scratch, recursive: true);
        await PostgresCluster.DropDatabaseAsync(source);
    }

    [Test]
    public async Task What_pg_basebackup_or_pgBackRest_restored_is_proven_and_a_servers_own_directory_is_refused()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(cluster.ConnectionString);
        await BackupRuns.WriteAsync(server, "w", 5);
        var copy = Path.Combine(_directory.Path, "restored");
        await ChildProcess.RunAsync(PostgresBinaries.Find()!.PathOf("pg_basebackup"), "-D", copy, "-h", "127.0.0.1", "-p", $"{cluster.Port}",
            "-U", "postgres", "--checkpoint=fast", "--no-sync");
        if (PostgresBinaries.Find()!.Owner is { } owner)
        {
            await ChildProcess.RunAsync("chown", "-R", owner, copy);
            LetOthersThrough();
        }

        var proven = await BackupRuns.ProveAsync(server, copy, "--location", "stanza main");
        var again = await BackupRuns.ProveAsync(server, copy);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((proven.Code, proven.Error), Is.EqualTo((ExitCode.Success, "")));
            Assert.That(proven.Output, Does.Contain("counted"));
            Assert.That(again.Code, Is.EqualTo(ExitCode.Usage));
            Assert.That(again.Error, Does.Contain("was not restored just now"));
        }
    }

    [Test]
    public async Task Pruning_never_gives_up_the_newest_proven_one()
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        string[] prune = ["backup", "prune", To, "--keep", "1"];
        for (var i = 1; i <= 3; i++)
            await BackupRuns.CreateAsync(server, To, "--name", $"{i}");
        foreach (var name in new[] { "2", "3" })
            Disprove(name);
        await BackupRuns.CreateAsync(server, To, "--name", "4");
        Disprove("4");

        var none = await BackupRuns.RunAsync(server, "backup", "prune", To, "--keep", "0");
        var dry = await BackupRuns.RunAsync(server, [.. prune, "--dry-run"]);
        var before = Names();
        await BackupRuns.RunAsync(server, prune);
        var kept = Names();
        await BackupRuns.CreateAsync(server, To, "--name", "5");
        await BackupRuns.RunAsync(server, prune);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(none.Code, Is.EqualTo(ExitCode.Usage));
            Assert.That(dry.Output, Is.Empty, "The only proven one stays, and those after it may be proven yet.");
            Assert.That(before, Is.EqualTo(new[] { "1", "2", "3", "4" }));
            Assert.That(kept, Is.EqualTo(before));
            Assert.That(Names(), Is.EqualTo(new[] { "5" }), "What is older than the newest proven one goes.");
        }

        void Disprove(string name)
        {
            var path = Path.Combine(To, name + ".sqlite.json");
            (BackupNote.Read(path)! with { Proof = null }).Write(path);
        }

        string[] Names() => [.. Directory.GetFiles(To, "*.sqlite").Select(f => Path.GetFileNameWithoutExtension(f)!).Order()];
    }

    [Test]
    public void Retention_keeps_the_newest_of_days_and_weeks_that_have_one()
    {
        // Two a day over six weeks, the newest first.
        var newest = new DateTimeOffset(2026, 11, 29, 20, 0, 0, TimeSpan.Zero);
        List<DateTimeOffset> taken = [.. Enumerable.Range(0, 84).Select(i => newest.AddHours(-12 * i))];

        var kept = new Retention(3, 4, 3).Keep(taken).Order().Select(i => (newest - taken[i]).TotalDays);

        // The last three; the evenings of four days; the Sunday evenings of three weeks.
        Assert.That(kept, Is.EqualTo(new[] { 0, 0.5, 1, 2, 3, 7, 14 }));
        Assert.That(new Retention(1, 0, 0).Keep([newest.AddDays(-1), newest]), Is.EqualTo(new[] { 1 }));
        Assert.That(new Retention(1, 5, 5).Keep([]), Is.Empty);
    }

    /// <summary>The command in a process of its own, which asks no server.</summary>
    private Process Start(params IEnumerable<string> args)
    {
        var start = new ProcessStartInfo(ServerProcess.Host(),
            [ServerProcess.Assembly("CliAssembly"), "backup", .. args, "--offline", "--key", SharedKey.Key.VerifierKey("aegis").ToString()])
        {
            WorkingDirectory = _directory.Path,
        };
        // What the developer has set must not reach it.
        foreach (var name in start.Environment.Keys.Where(name => name.StartsWith("AEGIS_", StringComparison.Ordinal)).ToList())
            start.Environment.Remove(name);
        return Process.Start(start)!;
    }

    /// <summary>Starting a cluster takes a while on a busy machine.</summary>
    private static async Task EventuallyAsync(Func<bool> condition)
    {
        for (var until = DateTime.UtcNow.AddMinutes(3); !condition(); await Task.Delay(5))
            Assert.That(DateTime.UtcNow, Is.LessThan(until), "It does not come true.");
    }

    /// <summary>PostgreSQL does not run as root, and has to get to its own directory.</summary>
    private void LetOthersThrough() =>
        File.SetUnixFileMode(_directory.Path, File.GetUnixFileMode(_directory.Path) | UnixFileMode.OtherExecute);

    /// <summary>Keeps a copy of a database from going on: SQLite by its own lock, PostgreSQL by that of a table.</summary>
    private static async Task<IAsyncDisposable> HoldAsync(string source)
    {
        if (source.StartsWith("sqlite:", StringComparison.Ordinal))
        {
            var sqlite = new SqliteConnection($"Data Source={source["sqlite:".Length..]};Pooling=False");
            await sqlite.OpenAsync();
            await using var command = sqlite.CreateCommand();
            command.CommandText = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE workflow SET state = state";
            await command.ExecuteNonQueryAsync();
            return sqlite;
        }
        var postgres = new NpgsqlConnection(new NpgsqlConnectionStringBuilder(source) { Pooling = false }.ConnectionString);
        await postgres.OpenAsync();
        await using var locking = new NpgsqlCommand("BEGIN; LOCK TABLE record IN ACCESS EXCLUSIVE MODE", postgres);
        await locking.ExecuteNonQueryAsync();
        return postgres;
    }

    private string OldPrograms()
    {
        var directory = Directory.CreateDirectory(Path.Combine(_directory.Path, "old")).FullName;
        var program = Path.Combine(directory, "pg_dump");
        File.WriteAllText(program, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n");
        File.SetUnixFileMode(program, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        return directory;
    }
}
