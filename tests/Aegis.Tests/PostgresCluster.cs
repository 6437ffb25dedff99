using System.Collections.Concurrent;
using System.Diagnostics;
using Aegis.Storage;
using Npgsql;

namespace Aegis.Tests;

/// <summary>
/// PostgreSQL for the tests. Most tests want an empty database on a server that all share
/// (<see cref="CreateDatabaseAsync"/>); a test that kills the server has one of its own
/// (<see cref="StartPrivateAsync"/>).
/// </summary>
/// <remarks>
/// The shared server is the one that AEGIS_TEST_POSTGRES names, an Npgsql connection string that may create
/// databases, or else a throw-away cluster made from the installed server binaries. Without either the test is
/// ignored, and on CI it fails: a skipped test would hide the missing dependency. Durability is never relaxed,
/// so what the tests see of a crash is what a user would see.
/// </remarks>
internal sealed class PostgresCluster : IAsyncDisposable
{
    private const string ServerVariable = "AEGIS_TEST_POSTGRES";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);
    private static readonly Lazy<Task<PostgresCluster>> Shared = new(() => StartPrivateAsync());
    private static readonly Lazy<Task<string>> Initialized = new(InitializeAsync);
    private static readonly Lazy<Task<string>> Ledger = new(CreateLedgerAsync);
    private static readonly ConcurrentDictionary<string, bool> Databases = new();

    private readonly PostgresBinaries _binaries;
    private readonly string[] _settings;
    private readonly string? _preloaded;
    private readonly TemporaryDirectory _directory = new("postgres");
    private int _port = FreePort.Next();
    private Process? _postmaster;

    private PostgresCluster(PostgresBinaries binaries, string[] settings, string? preloaded = null)
    {
        _binaries = binaries;
        _settings = settings;
        _preloaded = preloaded;
    }

    /// <summary>The process id of the postmaster.</summary>
    public int Pid => _postmaster?.Id ?? throw new InvalidOperationException("The cluster is not running.");

    public int Port => _port;

    /// <summary>To the database `postgres`, as superuser; the same after every restart.</summary>
    public string ConnectionString => new NpgsqlConnectionStringBuilder
    {
        Host = "127.0.0.1",
        Port = _port,
        Username = "postgres",
        Database = "postgres",
        IncludeErrorDetail = true,
    }.ConnectionString;

    private string Unpooled => new NpgsqlConnectionStringBuilder(ConnectionString) { Pooling = false, Timeout = 5 }.ConnectionString;

    private string DataDirectory => Path.Combine(_directory.Path, "data");

    private string LogFile => Path.Combine(_directory.Path, "server.log");

    /// <summary>A new empty database on the shared server. Whatever is not dropped ends with the run.</summary>
    public static Task<string> CreateDatabaseAsync() =>
        // A session on template1 would stop others from copying that.
        CreateDatabaseAsync("template0");

    /// <summary>
    /// The same with the tables of a ledger, as migrations leave them, and nothing in them: for all tests but those that migrate.
    /// </summary>
    public static async Task<string> CreateLedgerDatabaseAsync() => await CreateDatabaseAsync(await Ledger.Value);

    private static async Task<string> CreateDatabaseAsync(string template)
    {
        var server = await SharedServerAsync();
        var name = $"aegis_test_{Guid.NewGuid():N}";
        await ExecuteAsync(server, $"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'");
        var database = new NpgsqlConnectionStringBuilder(server) { Database = name }.ConnectionString;
        Databases.TryAdd(database, true);
        return database;
    }

    /// <summary>Drops a database that <see cref="CreateDatabaseAsync"/> made, whoever is still connected to it.</summary>
    public static async Task DropDatabaseAsync(string connectionString)
    {
        if (!Databases.TryRemove(connectionString, out _))
        {
            throw new ArgumentException("Not a database of these tests, or dropped before.", nameof(connectionString));
        }

        using (var connection = new NpgsqlConnection(connectionString))
        {
            NpgsqlConnection.ClearPool(connection);
        }

        var name = new NpgsqlConnectionStringBuilder(connectionString).Database;
        await ExecuteAsync(await SharedServerAsync(), $"DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    }

    /// <summary>Starts a cluster that belongs to the caller alone, who may kill and restart it.</summary>
    /// <param name="settings">Settings besides the defaults, as in `max_connections=20`.</param>
    public static Task<PostgresCluster> StartPrivateAsync(params string[] settings) => StartPreloadedAsync(null, settings);

    /// <summary>The same, with a library in all of its processes that stands before the system's own.</summary>
    public static async Task<PostgresCluster> StartPreloadedAsync(string? library, params string[] settings)
    {
        var binaries = PostgresBinaries.Find();
        if (binaries is null)
        {
            Installed.Missing($"PostgreSQL is not installed (initdb and postgres, on PATH or in {PostgresBinaries.DebianDirectory}/*/bin). "
                + $"{ServerVariable} may name a server, for all tests but those that kill it.");
        }

        var cluster = new PostgresCluster(binaries!, settings, library);
        try
        {
            await cluster.OwnDirectoryAsync();
            // To copy what initdb made costs little beside making it anew. All have the same system identifier.
            await ChildProcess.RunAsync("cp", "-a", await Initialized.Value, cluster.DataDirectory);
            await cluster.StartAsync(mayMove: true);
            return cluster;
        }
        catch
        {
            await cluster.DisposeAsync();
            throw;
        }
    }

    /// <summary>Starts a standby of this cluster, a copy that follows it and belongs to the caller as well.</summary>
    public async Task<PostgresCluster> StartStandbyAsync()
    {
        var standby = new PostgresCluster(_binaries, _settings);
        try
        {
            await standby.OwnDirectoryAsync();
            string[] command = [.. _binaries.Command("pg_basebackup"), "-D", standby.DataDirectory, "-h", "127.0.0.1",
                "-p", $"{_port}", "-U", "postgres", "--checkpoint=fast", "--write-recovery-conf", "--no-sync"];
            await ChildProcess.RunAsync(command[0], command[1..]);
            await standby.StartAsync(mayMove: true);
            return standby;
        }
        catch
        {
            await standby.DisposeAsync();
            throw;
        }
    }

    /// <summary>Makes a standby a primary.</summary>
    public Task PromoteAsync() => ExecuteAsync(Unpooled, "SELECT pg_promote(wait => true)");

    /// <summary>Changes a setting while the cluster runs.</summary>
    public async Task SetAsync(string name, string value)
    {
        await ExecuteAsync(Unpooled, $"ALTER SYSTEM SET {name} = '{value}'");
        await ExecuteAsync(Unpooled, "SELECT pg_reload_conf()");
    }

    /// <summary>SIGKILL for the postmaster, by its process id. Its backends notice and end by themselves.</summary>
    public async Task KillPostmasterAsync()
    {
        var process = _postmaster ?? throw new InvalidOperationException("The cluster is not running.");
        process.Kill();
        await EndedAsync(process);
    }

    /// <summary>Stops it in order: fast (sessions are ended, a last checkpoint is written), or immediate (none is).</summary>
    public async Task StopAsync(bool immediate = false)
    {
        if (_postmaster is { } process)
        {
            if (!process.HasExited)
            {
                await process.SendAsync(immediate ? Signal.Quit : Signal.Interrupt);
            }

            await EndedAsync(process);
        }
    }

    /// <summary>Starts it again on the same data and port, after <see cref="KillPostmasterAsync"/> or <see cref="StopAsync"/>.</summary>
    /// <returns>How long it took until it answered.</returns>
    public async Task<TimeSpan> RestartAsync()
    {
        var watch = Stopwatch.StartNew();
        await StopAsync();
        await StartAsync(mayMove: false);
        return watch.Elapsed;
    }

    /// <summary>The end of the server's own log, for the message of a failed test.</summary>
    public string LogTail()
        => File.Exists(LogFile) ? string.Join(Environment.NewLine, File.ReadLines(LogFile).TakeLast(30)) : "";

    public async ValueTask DisposeAsync()
    {
        await StopAsync(immediate: true);
        _directory.Dispose();
    }

    /// <summary>Leaves nothing behind: neither databases on a server that is not ours, nor a server of our own.</summary>
    public static async Task EndRunAsync()
    {
        if (Environment.GetEnvironmentVariable(ServerVariable) is { Length: > 0 })
        {
            foreach (var database in Databases.Keys)
            {
                await DropDatabaseAsync(database);
            }
        }

        if (Shared.IsValueCreated && Shared.Value.IsCompletedSuccessfully)
        {
            NpgsqlConnection.ClearAllPools();
            await (await Shared.Value).DisposeAsync();
        }
    }

    private static async Task<string> SharedServerAsync()
        => Environment.GetEnvironmentVariable(ServerVariable) is { Length: > 0 } given
            ? new NpgsqlConnectionStringBuilder(given) { IncludeErrorDetail = true }.ConnectionString
            : (await Shared.Value).ConnectionString;

    private static async Task ExecuteAsync(string connectionString, string sql)
    {
        await using var connection = new NpgsqlConnection(connectionString);
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(sql, connection);
        await command.ExecuteNonQueryAsync();
    }

    private async Task OwnDirectoryAsync()
    {
        if (_binaries.Owner is { } owner)
        {
            await ChildProcess.RunAsync("chown", owner, _directory.Path);
        }
    }

    /// <summary>Makes an empty cluster for others to copy. Gives where it is.</summary>
    private static async Task<string> InitializeAsync()
    {
        var cluster = new PostgresCluster(PostgresBinaries.Find()!, []);
        await cluster.OwnDirectoryAsync();
        // Only the empty cluster goes unflushed to disk (--no-sync): what tests write later never does.
        string[] command = [.. cluster._binaries.Command("initdb"), "-D", cluster.DataDirectory, "-U", "postgres", "--auth=trust",
            "--encoding=UTF8", "--locale=C", "--no-sync"];
        await ChildProcess.RunAsync(command[0], command[1..]);
        return cluster.DataDirectory;
    }

    /// <summary>Makes a database for others to copy. Gives its name.</summary>
    private static async Task<string> CreateLedgerAsync()
    {
        var database = await CreateDatabaseAsync();
        await using (var store = PostgresLedgerStore.Open(database))
            await store.MigrateAsync(default);
        return new NpgsqlConnectionStringBuilder(database).Database!;
    }

    private async Task StartAsync(bool mayMove)
    {
        var since = Stopwatch.StartNew();
        while (true)
        {
            _postmaster = Process.Start(PostmasterStart())!;
            if (await AnswersAsync(_postmaster, since))
            {
                return;
            }

            // It ended at once: somebody took the port first, or backends of a killed postmaster still hold its memory.
            await EndedAsync(_postmaster);
            if (since.Elapsed > Patience)
            {
                throw new InvalidOperationException($"PostgreSQL does not start:{Environment.NewLine}{LogTail()}");
            }

            if (mayMove)
            {
                _port = FreePort.Next();
            }

            await Task.Delay(100);
        }
    }

    private ProcessStartInfo PostmasterStart()
    {
        string[] all =
        [
            "listen_addresses=127.0.0.1", $"port={_port}", "unix_socket_directories=", "max_connections=400",
            "fsync=on", "synchronous_commit=on", "full_page_writes=on", .. _settings,
        ];
        // exec, all the way: the process that is started is the postmaster, and none of its output is ours to read.
        string[] command =
        [
            .. _binaries.Command("sh"), "-c", """log=$1; shift; exec "$@" >>"$log" 2>&1 </dev/null""", "sh", LogFile,
            _binaries.PathOf("postgres"), "-D", DataDirectory, .. all.SelectMany(setting => new[] { "-c", setting }),
        ];
        var start = new ProcessStartInfo(command[0], command[1..]) { WorkingDirectory = _directory.Path };
        if (_preloaded is not null)
        {
            start.Environment["LD_PRELOAD"] = _preloaded;
        }

        return start;
    }

    private async Task<bool> AnswersAsync(Process process, Stopwatch since)
    {
        var probe = Unpooled;
        while (!process.HasExited)
        {
            try
            {
                await ExecuteAsync(probe, "SELECT 1");
                // Another server may have answered, while ours is about to find its port taken.
                return File.ReadLines(Path.Combine(DataDirectory, "postmaster.pid")).First() == $"{process.Id}";
            }
            catch (Exception e) when (e is NpgsqlException or IOException && since.Elapsed < Patience)
            {
                await Task.Delay(20);
            }
        }

        return false;
    }

    private async Task EndedAsync(Process process)
    {
        await process.WaitForExitAsync().WaitAsync(Patience);
        process.Dispose();
        _postmaster = null;
    }
}

/// <summary>Where the server's programs are, and as whom they run.</summary>
/// <param name="Directory">The directory of initdb and postgres.</param>
/// <param name="Owner">`uid:gid` of the user they run as, because we are root and they refuse to; null = as we are.</param>
internal sealed record PostgresBinaries(string Directory, string? Owner)
{
    public const string DebianDirectory = "/usr/lib/postgresql";

    public static PostgresBinaries? Find()
    {
        var onPath = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator);
        var installed = System.IO.Directory.Exists(DebianDirectory)
            ? System.IO.Directory.GetDirectories(DebianDirectory)
                .OrderByDescending(version => int.TryParse(Path.GetFileName(version), out var number) ? number : 0)
                .Select(version => Path.Combine(version, "bin"))
            : [];
        var directory = onPath.Concat(installed).FirstOrDefault(candidate =>
            File.Exists(Path.Combine(candidate, "initdb")) && File.Exists(Path.Combine(candidate, "postgres")));
        return directory is null ? null : new PostgresBinaries(directory, Environment.IsPrivilegedProcess ? Unprivileged() : null);
    }

    /// <summary>A directory on PATH may hold links to a few of the programs: the others are where those really are.</summary>
    public string PathOf(string program)
    {
        var path = Path.Combine(Directory, program);
        return !File.Exists(path) && File.ResolveLinkTarget(Path.Combine(Directory, "initdb"), returnFinalTarget: true) is { } initdb
            ? Path.Combine(Path.GetDirectoryName(initdb.FullName)!, program)
            : path;
    }

    /// <summary>The command that runs a program, one of PostgreSQL's or the shell, as the right user.</summary>
    public string[] Command(string program)
    {
        var path = program == "sh" ? program : PathOf(program);
        return Owner?.Split(':') is [var user, var group]
            ? ["setpriv", $"--reuid={user}", $"--regid={group}", "--clear-groups", path]
            : [path];
    }

    private static string Unprivileged()
    {
        var users = File.ReadLines("/etc/passwd").Select(line => line.Split(':')).Where(fields => fields.Length > 3).ToList();
        var user = users.Find(fields => fields[0] == "postgres") ?? users.Find(fields => fields[0] == "nobody")
            ?? throw new InvalidOperationException("PostgreSQL refuses to run as root, and there is no user postgres or nobody.");
        return $"{user[2]}:{user[3]}";
    }
}

/// <summary>Ends what the tests shared, after the last of them.</summary>
[SetUpFixture]
public sealed class EndOfRun
{
    [OneTimeTearDown]
    public async Task End()
    {
        await PostgresCluster.EndRunAsync();
        TemporaryDirectory.RemoveAll();
    }
}
