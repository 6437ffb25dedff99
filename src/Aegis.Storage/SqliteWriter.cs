using System.Data.Common;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

/// <summary>
/// A connection that writes, with the statements of every batch: SQLite compiles each once for as long as the connection is kept.
/// Parameters are named $1, $2 … in the order of the values. Used by one at a time.
/// </summary>
internal sealed class SqliteWriter(SqliteConnection connection) : IDisposable
{
    private readonly Dictionary<string, Statement> _statements = [];

    /// <summary>For what is rarely said.</summary>
    public SqliteConnection Connection => connection;

    public void Execute(string statement, params ReadOnlySpan<object?> values) => Bound(statement, values).Command.ExecuteNonQuery();

    /// <summary>The first row by the names of its columns; null without one.</summary>
    public T? First<T>(string statement, params ReadOnlySpan<object?> values) where T : class
    {
        var bound = Bound(statement, values);
        using var reader = bound.Command.ExecuteReader();
        if (!reader.Read())
            return null;
        bound.Parser ??= reader.GetRowParser<T>();
        return ((Func<DbDataReader, T>)bound.Parser)(reader);
    }

    /// <summary>The first column of the first row; null without one.</summary>
    public object? Scalar(string statement, params ReadOnlySpan<object?> values) =>
        Bound(statement, values).Command.ExecuteScalar() is { } value and not DBNull ? value : null;

    public void Dispose()
    {
        foreach (var statement in _statements.Values)
            statement.Command.Dispose();
        connection.Dispose();
    }

    private Statement Bound(string statement, ReadOnlySpan<object?> values)
    {
        if (!_statements.TryGetValue(statement, out var known))
        {
            var command = connection.CreateCommand();
            command.CommandText = statement;
            for (var i = 1; i <= values.Length; i++)
                command.Parameters.Add(new SqliteParameter { ParameterName = "$" + i });
            _statements.Add(statement, known = new Statement(command));
        }
        for (var i = 0; i < values.Length; i++)
            known.Command.Parameters[i].Value = values[i] ?? DBNull.Value;
        return known;
    }

    private sealed class Statement(SqliteCommand command)
    {
        public SqliteCommand Command { get; } = command;

        public Delegate? Parser { get; set; }
    }
}
