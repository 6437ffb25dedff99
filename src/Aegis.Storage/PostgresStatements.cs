using Npgsql;
using NpgsqlTypes;

namespace Aegis.Storage;

/// <summary>
/// Statements that are sent together, with parameters by place and of their type, and one array a column: what the writer sends
/// for every batch is neither parsed nor guessed at again.
/// </summary>
internal static class PostgresStatements
{
    public static void Add(this NpgsqlBatch statements, string statement, params ReadOnlySpan<NpgsqlParameter> parameters)
    {
        var command = new NpgsqlBatchCommand(statement);
        foreach (var parameter in parameters)
            command.Parameters.Add(parameter);
        statements.BatchCommands.Add(command);
    }

    public static NpgsqlParameter Bigints<T>(this IReadOnlyCollection<T> rows, Func<T, long> value) =>
        rows.Column(NpgsqlDbType.Bigint, value);

    public static NpgsqlParameter Smallints<T>(this IReadOnlyCollection<T> rows, Func<T, short> value) =>
        rows.Column(NpgsqlDbType.Smallint, value);

    public static NpgsqlParameter Texts<T>(this IReadOnlyCollection<T> rows, Func<T, string?> value) =>
        rows.Column(NpgsqlDbType.Text, value);

    public static NpgsqlParameter Byteas<T>(this IReadOnlyCollection<T> rows, Func<T, byte[]?> value) =>
        rows.Column(NpgsqlDbType.Bytea, value);

    public static NpgsqlParameter Column<T, TValue>(
        this IReadOnlyCollection<T> rows, NpgsqlDbType type, Func<T, TValue> value) => new NpgsqlParameter<TValue[]>
        {
            NpgsqlDbType = NpgsqlDbType.Array | type,
            TypedValue = [.. rows.Select(value)],
        };

    /// <summary>All rows of a result; the next one follows.</summary>
    public static async Task<List<T>> RowsAsync<T>(
        this NpgsqlDataReader reader, Func<NpgsqlDataReader, T> row, CancellationToken cancellationToken = default)
    {
        var rows = new List<T>();
        while (await reader.ReadAsync(cancellationToken))
            rows.Add(row(reader));
        await reader.NextResultAsync(cancellationToken);
        return rows;
    }
}
