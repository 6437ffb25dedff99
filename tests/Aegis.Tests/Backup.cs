using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Tests;

/// <summary>A copy of a whole database, and its coming back in the database's place: what a restore of an old backup does.</summary>
internal sealed class Backup : IAsyncDisposable
{
    private readonly string _copy;

    private Backup(string copy) => _copy = copy;

    /// <summary>Copies a database that no server has open.</summary>
    public static async Task<Backup> TakeAsync(string database)
    {
        if (SqlitePath(database) is { } path)
        {
            var file = $"{path}.{Guid.NewGuid():N}";
            File.Copy(path, file);
            return new Backup(file);
        }
        var copy = new NpgsqlConnectionStringBuilder(database);
        var name = copy.Database!;
        copy.Database = $"{name}_copy_{Guid.NewGuid().ToString("N")[..8]}";
        await AdministerAsync(database, name, $"CREATE DATABASE {copy.Database} TEMPLATE {name}");
        return new Backup(copy.ConnectionString);
    }

    /// <summary>Puts the copy in the place of the database, which no server has open.</summary>
    public async Task RestoreAsync(string database)
    {
        if (SqlitePath(database) is { } path)
        {
            File.Delete(path + "-wal");
            File.Delete(path + "-shm");
            File.Copy(_copy, path, overwrite: true);
            return;
        }
        var name = new NpgsqlConnectionStringBuilder(database).Database!;
        var copy = new NpgsqlConnectionStringBuilder(_copy).Database!;
        await AdministerAsync(database, name, $"DROP DATABASE {name} WITH (FORCE)");
        await AdministerAsync(database, copy, $"CREATE DATABASE {name} TEMPLATE {copy}");
    }

    public async ValueTask DisposeAsync()
    {
        if (File.Exists(_copy))
            File.Delete(_copy);
        else if (!_copy.StartsWith('/'))
            await AdministerAsync(_copy, new NpgsqlConnectionStringBuilder(_copy).Database!,
                $"DROP DATABASE {new NpgsqlConnectionStringBuilder(_copy).Database} WITH (FORCE)");
    }

    private static string? SqlitePath(string database) =>
        database.StartsWith("sqlite:", StringComparison.Ordinal) ? database["sqlite:".Length..] : null;

    private static async Task AdministerAsync(string database, string freed, string sql)
    {
        using (var pooled = new NpgsqlConnection(database))
            NpgsqlConnection.ClearPool(pooled);
        await using var connection = new NpgsqlConnection(
            new NpgsqlConnectionStringBuilder(database) { Database = "postgres", Pooling = false }.ConnectionString);
        await connection.OpenAsync();
        await using var end = new NpgsqlCommand(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", connection)
        {
            Parameters = { new() { Value = freed } },
        };
        await end.ExecuteNonQueryAsync();
        await using var command = new NpgsqlCommand(sql, connection);
        await command.ExecuteNonQueryAsync();
    }
}
