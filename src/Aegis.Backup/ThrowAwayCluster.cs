using System.Diagnostics;
using System.Text;
using Npgsql;

namespace Aegis.Backup;

/// <summary>
/// A PostgreSQL server for one proof, in a directory of its own that its user alone can enter: it listens on a socket there and on no
/// network, archives nothing, and ends with this process, however that ends.
/// </summary>
internal sealed class ThrowAwayCluster : IAsyncDisposable
{
    private const string Configuration = """
        listen_addresses = ''
        max_connections = 60
        hot_standby = off
        archive_mode = off
        """;

    // Everybody who can reach the socket.
    private const string Access = "local all all trust\n";

    // A shell watches over the server: its input ends when this process does, and then it stops the server and removes the directory.
    private const string Supervisor = """
        trap '' INT TERM HUP
        dir=$1 data=$2; shift 2
        ( "$@" >"$dir/log" 2>&1 </dev/null; : >"$dir/ended" ) &
        cat >/dev/null
        while [ ! -e "$dir/ended" ]; do
            read -r server <"$data/postmaster.pid"
            case $server in [0-9]*) kill -s INT "$server" ;; esac
            sleep 0.1
        done 2>/dev/null
        rm -rf "$dir"
        """;

    private const string InitializeAndServe = """
        initdb=$1 data=$2; shift 2
        "$initdb" -D "$data" -U postgres --auth=trust --encoding=UTF8 --locale=C && exec "$@"
        """;

    private const string Socket = ".s.PGSQL.5432";

    // What the address of a socket holds (sockaddr_un), its end not counted.
    private const int SocketPathBytesMax = 107;

    // As whom initdb above makes it.
    private const string NewSuperuser = "postgres";

    private static readonly TimeSpan StopPatience = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(50);

    private readonly string _directory;
    private readonly string _user;
    private readonly string? _owner;
    private Process? _supervisor;

    private ThrowAwayCluster(string directory, string user, string? owner) =>
        (_directory, _user, _owner) = (directory, user, owner);

    /// <exception cref="BackupException">They are not installed, or are too old.</exception>
    public static Task<PostgresPrograms> ProgramsAsync(RestoreOptions options, int version, CancellationToken cancellationToken) =>
        PostgresPrograms.FindAsync(options.Programs, version, "postgresql", ["pg_restore", "initdb", "postgres", "createdb"],
            cancellationToken);

    /// <summary>Starts an empty one.</summary>
    public static async Task<ThrowAwayCluster> StartNewAsync(
        PostgresPrograms programs, RestoreOptions options, CancellationToken cancellationToken)
    {
        var cluster = new ThrowAwayCluster(RestoredCopy.Scratch(options), NewSuperuser, Environment.IsPrivilegedProcess ? Unprivileged() : null);
        try
        {
            await cluster.StartAsync(programs, Path.Combine(cluster._directory, "data"), isNew: true, cancellationToken);
            return cluster;
        }
        catch
        {
            await cluster.DisposeAsync();
            throw;
        }
    }

    /// <summary>
    /// Starts one on a data directory that was restored, lets it recover as far as the restore has asked for, and has it take itself
    /// for the primary. What then happens to it is archived nowhere: the directory is good for nothing else afterwards.
    /// </summary>
    public static async Task<ThrowAwayCluster> StartOnAsync(string data, RestoreOptions options, CancellationToken cancellationToken)
    {
        if (!File.Exists(Path.Combine(data, "recovery.signal")) && !File.Exists(Path.Combine(data, "backup_label")))
        {
            throw new BackupException(BackupProblem.Usage,
                $"{data} was not restored just now: it has neither recovery.signal nor backup_label. A proof starts the directory it is "
                + "given, which must never be that of a server: restore the backup to another place and prove that.");
        }
        var text = await File.ReadAllTextAsync(Path.Combine(data, "PG_VERSION"), cancellationToken);
        var version = int.TryParse(text.Trim(), out var number) ? number : 0;
        var programs = await PostgresPrograms.FindAsync(options.Programs, version, "postgresql", ["postgres"], cancellationToken);
        if (programs.Version != version)
            throw new BackupException(BackupProblem.Usage, $"{data} is of PostgreSQL {version}, which is not installed: install postgresql-{version}.");
        var owner = Environment.IsPrivilegedProcess
            ? (await Child.OutputOfAsync("stat", ["-c", "%u:%g", data], cancellationToken)).Trim()
            : null;
        var cluster = new ThrowAwayCluster(RestoredCopy.Scratch(options), options.User, owner);
        try
        {
            await cluster.StartAsync(programs, data, isNew: false, cancellationToken);
            return cluster;
        }
        catch
        {
            await cluster.DisposeAsync();
            throw;
        }
    }

    public NpgsqlConnectionStringBuilder Settings(string database) =>
        new() { Host = _directory, Username = _user, Database = database, Pooling = false };

    /// <summary>How the one database is reached that holds a ledger.</summary>
    public async Task<NpgsqlConnectionStringBuilder> FindLedgerAsync(CancellationToken cancellationToken)
    {
        var found = new List<string>();
        foreach (var name in await NamesAsync("postgres", "SELECT datname FROM pg_database WHERE datallowconn", cancellationToken))
        {
            if ((await NamesAsync(name, "SELECT relname FROM pg_class WHERE relname = 'log_head' AND relkind = 'r'", cancellationToken)).Count > 0)
                found.Add(name);
        }
        return found.Count == 1
            ? Settings(found[0])
            : throw new BackupException(BackupProblem.Damaged, found.Count == 0
                ? "The restored server has no database with a log."
                : $"The restored server has several databases with a log, and a proof is of one: {string.Join(", ", found)}.");
    }

    public async ValueTask DisposeAsync()
    {
        if (_supervisor is null)
        {
            Directory.Delete(_directory, recursive: true);
            return;
        }
        _supervisor.StandardInput.Close();
        using var patience = new CancellationTokenSource(StopPatience);
        try
        {
            await _supervisor.WaitForExitAsync(patience.Token);
        }
        catch (OperationCanceledException)
        {
            _supervisor.Kill(entireProcessTree: true);
        }
        _supervisor.Dispose();
        if (Directory.Exists(_directory))
            Directory.Delete(_directory, recursive: true);
    }

    private async Task StartAsync(PostgresPrograms programs, string data, bool isNew, CancellationToken cancellationToken)
    {
        if (Encoding.UTF8.GetByteCount(Path.Combine(_directory, Socket)) is > SocketPathBytesMax and var bytes)
        {
            throw new BackupException(BackupProblem.Usage, $"{_directory} is {bytes - SocketPathBytesMax} bytes too long for a socket of "
                + "PostgreSQL: name a shorter directory by --scratch.");
        }
        await OwnAsync(cancellationToken);
        foreach (var (name, text) in new[] { ("server.conf", Configuration), ("access.conf", Access), ("ident.conf", "") })
        {
            var path = Path.Combine(_directory, name);
            await File.WriteAllTextAsync(path, text, cancellationToken);
            // Written by root it is not secret, and the server has to read it.
            if (!OperatingSystem.IsWindows())
                File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.GroupRead | UnixFileMode.OtherRead);
        }
        string[] settings =
        [
            $"config_file={Path.Combine(_directory, "server.conf")}", $"hba_file={Path.Combine(_directory, "access.conf")}",
            $"ident_file={Path.Combine(_directory, "ident.conf")}", $"data_directory={data}", $"unix_socket_directories={_directory}",
            // Stronger than what the restore has written: a server that paused at its target would not be ready.
            "archive_mode=off", "recovery_target_action=promote",
        ];
        string[] first = isNew ? ["sh", "-c", InitializeAndServe, "sh", programs["initdb"], data] : [];
        string[] command = [.. AsOwner(), "sh", "-c", Supervisor, "sh", _directory, data, .. first, programs["postgres"],
            .. settings.SelectMany(setting => new[] { "-c", setting })];
        _supervisor = Child.Start(new ProcessStartInfo(command[0], command[1..])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = _directory,
        });
        await UntilReadyAsync(isNew ? BackupProblem.Failed : BackupProblem.Damaged, cancellationToken);
    }

    private async Task UntilReadyAsync(BackupProblem otherwise, CancellationToken cancellationToken)
    {
        while (true)
        {
            try
            {
                await using var connection = new NpgsqlConnection(Settings("postgres").ConnectionString);
                await connection.OpenAsync(cancellationToken);
                return;
            }
            catch (PostgresException e) when (e.SqlState == PostgresErrorCodes.InvalidAuthorizationSpecification)
            {
                throw new BackupException(BackupProblem.Usage, $"The restored server knows no superuser \"{_user}\": see --user.", e);
            }
            catch (Exception e) when (e is NpgsqlException or TimeoutException)
            {
                if (_supervisor!.HasExited || File.Exists(Path.Combine(_directory, "ended")))
                {
                    var log = File.Exists(Path.Combine(_directory, "log")) ? File.ReadLines(Path.Combine(_directory, "log")).TakeLast(4) : [];
                    throw new BackupException(otherwise, $"A server for the proof does not start: {string.Join(" ", log)}", e);
                }
            }
            // Recovery takes as long as there is WAL to replay.
            await Task.Delay(Interval, cancellationToken);
        }
    }

    private async Task<List<string>> NamesAsync(string database, string query, CancellationToken cancellationToken)
    {
        await using var connection = new NpgsqlConnection(Settings(database).ConnectionString);
        await connection.OpenAsync(cancellationToken);
        await using var command = connection.CreateCommand();
#pragma warning disable CA2100 // One of the two constants above.
        command.CommandText = query;
#pragma warning restore CA2100
        await using var reader = await command.ExecuteReaderAsync(cancellationToken);
        var names = new List<string>();
        while (await reader.ReadAsync(cancellationToken))
            names.Add(reader.GetString(0));
        return names;
    }

    private async Task OwnAsync(CancellationToken cancellationToken)
    {
        if (_owner is not null)
            await Child.RunAsync("chown", [_owner, _directory], new Dictionary<string, string?>(), null, cancellationToken);
    }

    /// <summary>PostgreSQL refuses to run as root.</summary>
    private string[] AsOwner() => _owner?.Split(':') is [var user, var group]
        ? ["setpriv", $"--reuid={user}", $"--regid={group}", "--clear-groups"]
        : [];

    private static string Unprivileged()
    {
        var users = File.ReadLines("/etc/passwd").Select(line => line.Split(':')).Where(fields => fields.Length > 3).ToList();
        var user = users.Find(fields => fields[0] == "postgres") ?? users.Find(fields => fields[0] == "nobody")
            ?? throw new BackupException(BackupProblem.Usage,
                "PostgreSQL refuses to run as root, and there is no user postgres or nobody: prove as another user, or give --restore-on.");
        return $"{user[2]}:{user[3]}";
    }
}
