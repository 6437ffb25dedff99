using Dapper;
using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Tests;

/// <summary>
/// Whoever owns the database, with a connection of their own: takes the guards away, changes rows behind the service, and leaves
/// the guards as they were.
/// </summary>
internal static class Tampering
{
    /// <summary>Runs SQL that both dialects understand, with all triggers off.</summary>
    public static Task RunAsync(TestServer server, string sql, object? parameters = null) =>
        RunAsync(server.Connection, sql, parameters);

    /// <param name="database">As AEGIS_DATABASE names it.</param>
    /// <param name="sql">What to run.</param>
    /// <param name="parameters">Its parameters.</param>
    public static async Task RunAsync(string database, string sql, object? parameters = null)
    {
        if (database.StartsWith("sqlite:", StringComparison.Ordinal))
        {
            await using var sqlite = new SqliteConnection($"Data Source={database["sqlite:".Length..]};Pooling=False");
            await sqlite.OpenAsync();
            await sqlite.ExecuteAsync("BEGIN IMMEDIATE");
            var triggers = (await sqlite.QueryAsync<(string Name, string Sql)>(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).ToList();
            foreach (var (name, _) in triggers)
                await sqlite.ExecuteAsync($"DROP TRIGGER {name}");
            await sqlite.ExecuteAsync(sql, parameters);
            foreach (var (_, create) in triggers)
                await sqlite.ExecuteAsync(create);
            await sqlite.ExecuteAsync("COMMIT");
            return;
        }
        await using var postgres = new NpgsqlConnection(database);
        await postgres.OpenAsync();
        await postgres.ExecuteAsync("SET session_replication_role = replica");
        await postgres.ExecuteAsync(sql, parameters);
    }

    /// <summary>What a query counts, as the owner of the database sees it.</summary>
    public static async Task<long> CountAsync(TestServer server, string sql, object? parameters = null)
    {
        await using System.Data.Common.DbConnection connection = server.Connection.StartsWith("sqlite:", StringComparison.Ordinal)
            ? new SqliteConnection($"Data Source={server.Connection["sqlite:".Length..]};Pooling=False")
            : new NpgsqlConnection(server.Connection);
        return await connection.ExecuteScalarAsync<long>(sql, parameters);
    }
}
