using Dapper;
using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Tests;

/// <summary>
/// Whoever owns the database, with a connection of their own: takes the guards away and changes rows behind the service.
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
            foreach (var trigger in await sqlite.QueryAsync<string>("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
                await sqlite.ExecuteAsync($"DROP TRIGGER IF EXISTS {trigger}");
            await sqlite.ExecuteAsync(sql, parameters);
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
