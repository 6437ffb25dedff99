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
    /// A statement that stores or checks rows, which it has from an <c>unnest(…) AS name (column, …)</c> of one array a column. It is
    /// sent in another form, since PostgreSQL would build a table of its own of each array: a single row as values, several by their
    /// places in the arrays, and as few at a time as make it cheap to walk to a place. What it answers comes once for each few.
    /// </summary>
    /// <param name="statements">Those it is sent with.</param>
    /// <param name="statement">What is done.</param>
    /// <param name="rows">All rows; of none nothing is sent.</param>
    /// <param name="columns">A parameter a column of some of the rows: see <see cref="Column"/>.</param>
    public static void AddRows<T>(this NpgsqlBatch statements, string statement, IReadOnlyCollection<T> rows,
        Func<IReadOnlyCollection<T>, NpgsqlParameter[]> columns)
    {
        foreach (var some in rows.Chunk(RowsAtOnce))
            statements.Add(some.Length == 1 ? WithValues(statement) : WithPlaces(statement), columns(some));
    }

    /// <summary>A statement over such rows that has to answer for all of them at once, also where there are none.</summary>
    /// <param name="statements">Those it is sent with.</param>
    /// <param name="statement">What is asked for.</param>
    /// <param name="rows">All rows.</param>
    /// <param name="columns">A parameter a column of the rows: see <see cref="Column"/>.</param>
    public static void AddLook<T>(this NpgsqlBatch statements, string statement, IReadOnlyCollection<T> rows,
        Func<IReadOnlyCollection<T>, NpgsqlParameter[]> columns) =>
        statements.Add(rows.Count == 1 ? WithValues(statement) : statement, columns(rows));

    private const int RowsAtOnce = 64;
    private static readonly ConcurrentDictionary<string, string> ValuesOf = [];
    private static readonly ConcurrentDictionary<string, string> PlacesOf = [];

    private static string WithValues(string statement) => ValuesOf.GetOrAdd(statement, static statement =>
        With(statement, columns => string.Concat("VALUES (", string.Join(", ", columns), ")")));

    private static string WithPlaces(string statement) => PlacesOf.GetOrAdd(statement, static statement =>
        With(statement, columns => string.Concat(
            "SELECT ", string.Join(", ", columns.Skip(1).Select(column => string.Concat("(", column, ")[one.place]")).Prepend("one.value")),
            " FROM unnest(", columns[0], ") WITH ORDINALITY AS one (value, place)")));

    private static string With(string statement, Func<string[], string> rows)
    {
        var begin = statement.IndexOf("unnest(", StringComparison.Ordinal);
        var end = statement.IndexOf(") AS ", begin, StringComparison.Ordinal);
        var columns = statement[(begin + "unnest(".Length)..end].Split(',', StringSplitOptions.TrimEntries);
        return string.Concat(statement[..begin], "(", rows(columns), statement[end..]);
    }

    public static NpgsqlParameter Bigints<T>(this IReadOnlyCollection<T> rows, Func<T, long> value) =>
        rows.Column(NpgsqlDbType.Bigint, value);

    public static NpgsqlParameter Smallints<T>(this IReadOnlyCollection<T> rows, Func<T, short> value) =>
        rows.Column(NpgsqlDbType.Smallint, value);

    public static NpgsqlParameter Texts<T>(this IReadOnlyCollection<T> rows, Func<T, string?> value) =>
        rows.Column(NpgsqlDbType.Text, value);

    public static NpgsqlParameter Byteas<T>(this IReadOnlyCollection<T> rows, Func<T, byte[]?> value) =>
        rows.Column(NpgsqlDbType.Bytea, value);

    /// <summary>The values of a column, for <see cref="AddRows"/> and <see cref="AddLook"/>: of a single row the value itself.</summary>
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
