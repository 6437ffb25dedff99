using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Backup;

/// <summary>A database that a server may be writing to, and of which a copy is taken meanwhile.</summary>
public abstract class BackupSource
{
    private const string SqliteScheme = "sqlite:";

    /// <summary>What its backups are.</summary>
    public abstract BackupForm Form { get; }

    /// <summary>The end of the name of their files.</summary>
    public abstract string Suffix { get; }

    /// <param name="database">As the server takes it: sqlite:PATH, or an Npgsql connection string.</param>
    /// <param name="dataDirectory">Where relative paths begin.</param>
    /// <param name="programs">Where PostgreSQL's programs are; null for where they are installed.</param>
    /// <exception cref="BackupException">It is neither.</exception>
    public static BackupSource Of(string database, string dataDirectory, string? programs) =>
        database.StartsWith(SqliteScheme, StringComparison.OrdinalIgnoreCase)
            ? new SqliteSource(Path.GetFullPath(Path.Combine(dataDirectory, database[SqliteScheme.Length..])))
            : new PostgresSource(Settings(database), programs);

    /// <summary>Makes sure that a copy can be taken, before anything is written.</summary>
    public abstract Task PrepareAsync(CancellationToken cancellationToken);

    /// <summary>Writes to an empty file the database as it is at one moment of the call, all that was acknowledged before it included.</summary>
    public abstract Task CopyToAsync(string path, CancellationToken cancellationToken);

    internal static NpgsqlConnectionStringBuilder Settings(string text)
    {
        try
        {
            var settings = new NpgsqlConnectionStringBuilder(text) { Pooling = false };
            return string.IsNullOrEmpty(settings.Host) ? throw new ArgumentException("it names no Host") : settings;
        }
        catch (Exception e) when (e is ArgumentException or FormatException or InvalidOperationException)
        {
            throw new BackupException(BackupProblem.Usage,
                $"The database is neither sqlite:PATH nor an Npgsql connection string: {e.Message}", e);
        }
    }
}

/// <summary>
/// A SQLite file, copied by SQLite's online backup: one read transaction, beside which the server goes on writing to the WAL. It needs
/// neither the server nor its lock.
/// </summary>
internal sealed class SqliteSource(string path) : BackupSource
{
    public override BackupForm Form => BackupForm.Sqlite;
    public override string Suffix => ".sqlite";

    public override Task PrepareAsync(CancellationToken cancellationToken) => File.Exists(path)
        ? Task.CompletedTask
        : throw new BackupException(BackupProblem.Unreachable, $"There is no database {path}.");

    public override async Task CopyToAsync(string target, CancellationToken cancellationToken)
    {
        try
        {
            // The library cannot be interrupted: who does not wait for it leaves, and the process with the copy's thread ends.
            await Task.Run(() => Copy(target), cancellationToken).WaitAsync(cancellationToken);
        }
        catch (SqliteException e) when (e.SqliteErrorCode == SQLitePCL.raw.SQLITE_FULL)
        {
            throw new BackupException(BackupProblem.Failed, $"There is no room for the copy {target}.", e);
        }
        catch (SqliteException e)
        {
            throw new BackupException(BackupProblem.Unreachable, $"The database {path} cannot be copied: {e.Message}", e);
        }
    }

    private void Copy(string target)
    {
        using var from = new SqliteConnection(new SqliteConnectionStringBuilder
        {
            DataSource = path,
            Mode = SqliteOpenMode.ReadOnly,
            Pooling = false,
        }.ToString());
        // Who did not wait may have taken the draft away already: nothing of it, nor a journal, is made again.
        using var to = new SqliteConnection(new SqliteConnectionStringBuilder
        {
            DataSource = target,
            Mode = SqliteOpenMode.ReadWrite,
            Pooling = false,
        }.ToString());
        from.Open();
        to.Open();
        using (var journal = to.CreateCommand())
        {
            journal.CommandText = "PRAGMA journal_mode = OFF";
            journal.ExecuteNonQuery();
        }
        from.BackupDatabase(to);
    }
}

/// <summary>A PostgreSQL database, copied by pg_dump in its custom format: one snapshot, which does not stop writers.</summary>
internal sealed class PostgresSource(NpgsqlConnectionStringBuilder settings, string? directory) : BackupSource
{
    private NpgsqlConnectionStringBuilder _settings = settings;
    private PostgresPrograms? _programs;

    public override BackupForm Form => BackupForm.PgDump;
    public override string Suffix => ".dump";

    public override async Task PrepareAsync(CancellationToken cancellationToken)
    {
        var version = 0;
        try
        {
            await using var connection = new NpgsqlConnection(_settings.ConnectionString);
            await connection.OpenAsync(cancellationToken);
            version = connection.PostgreSqlVersion.Major;
            // Of several hosts the one that was chosen.
            _settings = new NpgsqlConnectionStringBuilder(_settings.ConnectionString) { Host = connection.Host, Port = connection.Port };
        }
        catch (Exception e) when (e is NpgsqlException or TimeoutException)
        {
            throw new BackupException(BackupProblem.Unreachable,
                $"The database at {_settings.Host} cannot be reached: {e.Message}", e);
        }
        _programs = await PostgresPrograms.FindAsync(directory, version, "postgresql-client", ["pg_dump"], cancellationToken);
    }

    public override async Task CopyToAsync(string path, CancellationToken cancellationToken)
    {
        await using var file = new FileStream(path, FileMode.Open, FileAccess.Write);
        await Child.RunAsync(_programs!["pg_dump"], ["--format=custom", "--no-password"], PostgresEnvironment.Of(_settings), file,
            cancellationToken);
    }
}

/// <summary>A connection string as PostgreSQL's own programs are told it.</summary>
internal static class PostgresEnvironment
{
    public static Dictionary<string, string?> Of(NpgsqlConnectionStringBuilder settings) => new()
    {
        ["PGHOST"] = settings.Host,
        ["PGPORT"] = settings.Port.ToString(System.Globalization.CultureInfo.InvariantCulture),
        ["PGUSER"] = settings.Username,
        ["PGDATABASE"] = settings.Database ?? settings.Username,
        ["PGPASSWORD"] = settings.Password,
        ["PGPASSFILE"] = settings.Passfile,
        ["PGOPTIONS"] = settings.Options,
        ["PGSSLMODE"] = settings.SslMode switch
        {
            SslMode.VerifyCA => "verify-ca",
            SslMode.VerifyFull => "verify-full",
            var mode => mode.ToString().ToLowerInvariant(),
        },
        ["PGSSLROOTCERT"] = settings.RootCertificate,
        ["PGSSLCERT"] = settings.SslCertificate,
        ["PGSSLKEY"] = settings.SslKey,
        ["PGAPPNAME"] = "aegis backup",
    };
}
