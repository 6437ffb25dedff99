using System.Text;
using System.Text.RegularExpressions;
using Aegis.Storage;
using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Backup;

/// <summary>What was given to be proven.</summary>
public enum BackupForm
{
    /// <summary>A SQLite file.</summary>
    Sqlite,

    /// <summary>An archive of pg_dump in its custom format.</summary>
    PgDump,

    /// <summary>A data directory of PostgreSQL that was restored, such as by pgBackRest, and not started yet.</summary>
    DataDirectory,
}

/// <summary>How a backup is restored for its proof.</summary>
public sealed record RestoreOptions
{
    /// <summary>Where the copy is put; null for the system's temporary directory.</summary>
    public string? Scratch { get; init; }

    /// <summary>Where PostgreSQL's programs are; null for where they are installed.</summary>
    public string? Programs { get; init; }

    /// <summary>A server on which a database may be made for the proof; null to start one of the installed binaries.</summary>
    public string? RestoreOn { get; init; }

    /// <summary>The superuser of a restored data directory.</summary>
    public string User { get; init; } = "postgres";
}

/// <summary>A backup that was restored somewhere else, as a store to read. Disposing it removes the copy.</summary>
public sealed partial class RestoredCopy : IAsyncDisposable
{
    // Of the readers of a proof; a few more write and look up.
    private const int ConnectionsMax = 20;

    private const string DatabaseName = "aegis_proof";

    private readonly Func<ValueTask> _remove;

    private RestoredCopy(ILedgerStore store, Func<ValueTask> remove) => (Store, _remove) = (store, remove);

    public ILedgerStore Store { get; }

    /// <summary>Tells what a path is.</summary>
    /// <exception cref="BackupException">Nothing that can be proven.</exception>
    public static BackupForm FormOf(string path)
    {
        if (File.Exists(Path.Combine(path, "PG_VERSION")))
            return BackupForm.DataDirectory;
        try
        {
            using var stream = File.OpenRead(path);
            var bytes = new byte[16];
            var start = Encoding.ASCII.GetString(bytes, 0, stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false));
            return start == "SQLite format 3\0" ? BackupForm.Sqlite
                : start.StartsWith("PGDMP", StringComparison.Ordinal) ? BackupForm.PgDump
                : throw new BackupException(BackupProblem.Damaged,
                    $"{path} is neither a SQLite database nor an archive of pg_dump in its custom format.");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BackupException(BackupProblem.Usage, $"The backup cannot be read: {e.Message}", e);
        }
    }

    /// <summary>Makes sure that a restore is possible, before a backup is taken that could not be proven.</summary>
    public static async Task PrepareAsync(BackupForm form, RestoreOptions options, CancellationToken cancellationToken)
    {
        if (form == BackupForm.PgDump && options.RestoreOn is { } server)
            await CreatedDatabase.ProgramsAsync(BackupSource.Settings(server), options, cancellationToken);
        else if (form == BackupForm.PgDump)
            await ThrowAwayCluster.ProgramsAsync(options, version: 0, cancellationToken);
    }

    /// <summary>Restores a backup, and brings the copy to this version.</summary>
    /// <exception cref="BackupException">It cannot be restored.</exception>
    public static async Task<RestoredCopy> RestoreAsync(string path, RestoreOptions options, CancellationToken cancellationToken)
    {
        var copy = await (FormOf(path) switch
        {
            BackupForm.Sqlite => OfSqliteAsync(path, options, cancellationToken),
            BackupForm.PgDump when options.RestoreOn is { } server => OnServerAsync(path, BackupSource.Settings(server), options, cancellationToken),
            BackupForm.PgDump => OnClusterAsync(path, options, cancellationToken),
            _ => OfDirectoryAsync(path, options, cancellationToken),
        });
        try
        {
            await copy.Store.MigrateAsync(cancellationToken);
            return copy;
        }
        catch (StoreException e)
        {
            await copy.DisposeAsync();
            throw new BackupException(BackupProblem.Damaged, $"The restored copy of {path} cannot be used: {e.Message} {e.InnerException?.Message}".TrimEnd(), e);
        }
        catch
        {
            await copy.DisposeAsync();
            throw;
        }
    }

    public async ValueTask DisposeAsync()
    {
        await Store.DisposeAsync();
        await _remove();
    }

    private static async Task<RestoredCopy> OfSqliteAsync(string path, RestoreOptions options, CancellationToken cancellationToken)
    {
        var directory = Scratch(options);
        try
        {
            var copy = Path.Combine(directory, "copy.sqlite");
            await using (var from = File.OpenRead(path))
            await using (var to = BackupDirectory.Create(copy))
                await from.CopyToAsync(to, cancellationToken);
            CheckPages(copy, path);
            return new RestoredCopy(SqliteLedgerStore.Open(copy, TimeProvider.System), () =>
            {
                Directory.Delete(directory, recursive: true);
                return ValueTask.CompletedTask;
            });
        }
        catch (Exception e)
        {
            Directory.Delete(directory, recursive: true);
            if (e is IOException or UnauthorizedAccessException or StoreException)
                throw new BackupException(BackupProblem.Failed, $"{path} cannot be restored: {e.Message}", e);
            throw;
        }
    }

    /// <summary>Indexes, and what else no hash of the log covers.</summary>
    private static void CheckPages(string copy, string path)
    {
        try
        {
            using var connection = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = copy, Pooling = false }.ToString());
            connection.Open();
            using var command = connection.CreateCommand();
            command.CommandText = "PRAGMA integrity_check(1)";
            if (command.ExecuteScalar() as string is not "ok" and var problem)
                throw new BackupException(BackupProblem.Damaged, $"{path} is damaged: {problem}");
        }
        catch (SqliteException e)
        {
            throw new BackupException(BackupProblem.Damaged, $"{path} is damaged: {e.Message}", e);
        }
    }

    private static async Task<RestoredCopy> OnClusterAsync(string path, RestoreOptions options, CancellationToken cancellationToken)
    {
        // What the archive says of itself: the least version that can hold what is in it.
        var newest = await ThrowAwayCluster.ProgramsAsync(options, version: 0, cancellationToken);
        var programs = await ThrowAwayCluster.ProgramsAsync(options, await DumpedFromAsync(newest, path, cancellationToken), cancellationToken);
        var cluster = await ThrowAwayCluster.StartNewAsync(programs, options, cancellationToken);
        try
        {
            var settings = cluster.Settings("postgres");
            await Child.RunAsync(programs["createdb"], ["--template=template0", "--encoding=UTF8", DatabaseName],
                PostgresEnvironment.Of(settings), null, cancellationToken);
            return await LoadAsync(programs, path, cluster.Settings(DatabaseName), cluster.DisposeAsync, cancellationToken);
        }
        catch
        {
            await cluster.DisposeAsync();
            throw;
        }
    }

    private static async Task<RestoredCopy> OnServerAsync(
        string path, NpgsqlConnectionStringBuilder server, RestoreOptions options, CancellationToken cancellationToken)
    {
        var programs = await CreatedDatabase.ProgramsAsync(server, options, cancellationToken);
        var database = await CreatedDatabase.CreateAsync(programs, server, cancellationToken);
        try
        {
            return await LoadAsync(programs, path, database.Settings, database.DisposeAsync, cancellationToken);
        }
        catch
        {
            await database.DisposeAsync();
            throw;
        }
    }

    private static async Task<RestoredCopy> OfDirectoryAsync(string path, RestoreOptions options, CancellationToken cancellationToken)
    {
        var cluster = await ThrowAwayCluster.StartOnAsync(Path.GetFullPath(path), options, cancellationToken);
        try
        {
            return new RestoredCopy(Open(await cluster.FindLedgerAsync(cancellationToken)), cluster.DisposeAsync);
        }
        catch
        {
            await cluster.DisposeAsync();
            throw;
        }
    }

    private static async Task<RestoredCopy> LoadAsync(PostgresPrograms programs, string path, NpgsqlConnectionStringBuilder settings,
        Func<ValueTask> remove, CancellationToken cancellationToken)
    {
        try
        {
            // Neither owners nor grants: the roles of the other server are not here, and prove nothing.
            await Child.RunAsync(programs["pg_restore"],
                ["--exit-on-error", "--no-owner", "--no-privileges", "--no-password", "--dbname", settings.Database!, Path.GetFullPath(path)],
                PostgresEnvironment.Of(settings), null, cancellationToken);
        }
        catch (BackupException e) when (e.Problem == BackupProblem.Failed)
        {
            throw new BackupException(BackupProblem.Damaged, $"{path} cannot be restored: {e.Message}", e);
        }
        return new RestoredCopy(Open(settings), remove);
    }

    private static PostgresLedgerStore Open(NpgsqlConnectionStringBuilder settings) => PostgresLedgerStore.Open(
        new NpgsqlConnectionStringBuilder(settings.ConnectionString) { Pooling = true, MaxPoolSize = ConnectionsMax }.ConnectionString);

    private static async Task<int> DumpedFromAsync(PostgresPrograms programs, string path, CancellationToken cancellationToken)
    {
        try
        {
            var text = await Child.OutputOfAsync(programs["pg_restore"], ["--list", Path.GetFullPath(path)], cancellationToken);
            return DumpedFrom().Match(text) is { Success: true } match
                ? int.Parse(match.Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture)
                : 0;
        }
        catch (BackupException e) when (e.Problem == BackupProblem.Failed)
        {
            throw new BackupException(BackupProblem.Damaged, $"{path} cannot be read: {e.Message}", e);
        }
    }

    internal static string Scratch(RestoreOptions options)
    {
        try
        {
            var path = Path.Combine(Path.GetFullPath(options.Scratch ?? Path.GetTempPath()), $"aegis-proof-{Guid.NewGuid().ToString("N")[..12]}");
            if (OperatingSystem.IsWindows())
                return Directory.CreateDirectory(path).FullName;
            return Directory.CreateDirectory(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute).FullName;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BackupException(BackupProblem.Usage, $"There is no place for the restored copy: {e.Message} See --scratch.", e);
        }
    }

    [GeneratedRegex(@"Dumped from database version: (\d{1,4})", RegexOptions.CultureInvariant)]
    private static partial Regex DumpedFrom();
}
