using System.Collections.Concurrent;
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

    /// <summary>
    /// A statement over rows: <paramref name="statement"/> has them from an unnest of one array a column. A single row is sent as
    /// values: of 27 columns PostgreSQL takes longer to set up the arrays than to store the row.
    /// </summary>
    /// <param name="statements">Those it is sent with.</param>
    /// <param name="statement">What is done, with <c>unnest(…) AS name (column, …)</c> in one place.</param>
    /// <param name="isOne">Whether there is one row. The columns have been made of as many.</param>
    /// <param name="columns">The rows, a parameter a column: see <see cref="Column"/>.</param>
    public static void AddRows(
        this NpgsqlBatch statements, string statement, bool isOne, params ReadOnlySpan<NpgsqlParameter> columns) =>
        statements.Add(isOne ? OfOneRow.GetOrAdd(statement, WithValues) : statement, columns);

    private static readonly ConcurrentDictionary<string, string> OfOneRow = [];

    private static string WithValues(string statement)
    {
        var begin = statement.IndexOf("unnest(", StringComparison.Ordinal);
        var end = statement.IndexOf(") AS ", begin, StringComparison.Ordinal);
        return string.Concat(statement[..begin], "(VALUES (", statement[(begin + "unnest(".Length)..end], ")", statement[end..]);
    }

    public static NpgsqlParameter Bigints<T>(this IReadOnlyCollection<T> rows, Func<T, long> value) =>
        rows.Column(NpgsqlDbType.Bigint, value);

    public static NpgsqlParameter Smallints<T>(this IReadOnlyCollection<T> rows, Func<T, short> value) =>
        rows.Column(NpgsqlDbType.Smallint, value);

    public static NpgsqlParameter Texts<T>(this IReadOnlyCollection<T> rows, Func<T, string?> value) =>
        rows.Column(NpgsqlDbType.Text, value);

    public static NpgsqlParameter Byteas<T>(this IReadOnlyCollection<T> rows, Func<T, byte[]?> value) =>
        rows.Column(NpgsqlDbType.Bytea, value);

    /// <summary>The values of a column, for <see cref="AddRows"/>: of a single row the value itself.</summary>
    public static NpgsqlParameter Column<T, TValue>(this IReadOnlyCollection<T> rows, NpgsqlDbType type, Func<T, TValue> value) =>
        rows.Count == 1
            ? new NpgsqlParameter<TValue> { NpgsqlDbType = type, TypedValue = value(rows.First()) }
            : rows.Array(type, value);

    /// <summary>The values as one array, be they one or many.</summary>
    public static NpgsqlParameter Array<T, TValue>(this IReadOnlyCollection<T> rows, NpgsqlDbType type, Func<T, TValue> value) =>
        new NpgsqlParameter<TValue[]>
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
