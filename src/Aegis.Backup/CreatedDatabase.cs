using Npgsql;

namespace Aegis.Backup;

/// <summary>A database made for a proof on a server that the operator names, and dropped after it.</summary>
internal sealed class CreatedDatabase : IAsyncDisposable
{
    private readonly PostgresPrograms _programs;
    private readonly NpgsqlConnectionStringBuilder _server;

    private CreatedDatabase(PostgresPrograms programs, NpgsqlConnectionStringBuilder server, string name)
    {
        (_programs, _server) = (programs, server);
        Settings = new NpgsqlConnectionStringBuilder(server.ConnectionString) { Database = name };
    }

    public NpgsqlConnectionStringBuilder Settings { get; }

    /// <exception cref="BackupException">The server cannot be reached, or the programs for it are missing.</exception>
    public static async Task<PostgresPrograms> ProgramsAsync(
        NpgsqlConnectionStringBuilder server, RestoreOptions options, CancellationToken cancellationToken)
    {
        try
        {
            await using var connection = new NpgsqlConnection(server.ConnectionString);
            await connection.OpenAsync(cancellationToken);
            return await PostgresPrograms.FindAsync(options.Programs, connection.PostgreSqlVersion.Major, "postgresql-client",
                ["pg_restore", "createdb", "dropdb"], cancellationToken);
        }
        catch (Exception e) when (e is NpgsqlException or TimeoutException)
        {
            throw new BackupException(BackupProblem.Unreachable,
                $"The server for the proof, at {server.Host}, cannot be reached: {e.Message}", e);
        }
    }

    /// <summary>Makes the database; its name tells what it is, should a crash leave it.</summary>
    public static async Task<CreatedDatabase> CreateAsync(
        PostgresPrograms programs, NpgsqlConnectionStringBuilder server, CancellationToken cancellationToken)
    {
        var name = $"aegis_proof_{Guid.NewGuid().ToString("N")[..12]}";
        var database = new CreatedDatabase(programs, server, name);
        await Child.RunAsync(programs["createdb"], ["--no-password", "--template=template0", "--encoding=UTF8", name],
            PostgresEnvironment.Of(server), null, cancellationToken);
        return database;
    }

    public async ValueTask DisposeAsync() => await Child.RunAsync(_programs["dropdb"],
        ["--no-password", "--if-exists", "--force", Settings.Database!], PostgresEnvironment.Of(_server), null, CancellationToken.None);
}
