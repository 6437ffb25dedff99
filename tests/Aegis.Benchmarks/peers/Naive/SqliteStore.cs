using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Benchmarks.Naive;

/// <summary>Over one SQLite file, which has one writer at a time whatever one does: one connection, taken in turn.</summary>
internal sealed class SqliteStore(string path) : IStore, IDisposable
{
    private readonly SemaphoreSlim _turn = new(1);

    // Used only by who has the turn.
    private readonly SqliteConnection _connection = new(new SqliteConnectionStringBuilder { DataSource = path }.ConnectionString);

    public async Task PrepareAsync()
    {
        await _connection.OpenAsync();
        await _connection.ExecuteAsync("""
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL;
            """);
        await _connection.ExecuteAsync(Schema.Read("sqlite.sql"));
    }

    public async Task<Row> StartAsync(string workflowType, Row first, Kept? snapshot, CancellationToken cancellation)
    {
        await _turn.WaitAsync(cancellation);
        try
        {
            return Start(workflowType, first, snapshot);
        }
        finally
        {
            _turn.Release();
        }
    }

    public async Task<(Row Row, bool IsReplay)> MoveAsync(Row wanted, Kept? snapshot, CancellationToken cancellation)
    {
        await _turn.WaitAsync(cancellation);
        try
        {
            return Move(wanted, snapshot);
        }
        finally
        {
            _turn.Release();
        }
    }

    public void Dispose()
    {
        _connection.Dispose();
        _turn.Dispose();
    }

    private Row Start(string workflowType, Row first, Kept? snapshot)
    {
        using var transaction = _connection.BeginTransaction();
        var values = new { first.WorkflowId, workflowType, first.ToState, first.Status, first.Sequence, first.RecordedAt };
        var isNew = _connection.Execute("""
            INSERT INTO workflow (workflow_id, workflow_type, state, status, sequence, created_at, updated_at)
            VALUES (@WorkflowId, @workflowType, @ToState, @Status, @Sequence, @RecordedAt, @RecordedAt)
            ON CONFLICT (workflow_id) DO NOTHING
            """, values, transaction);
        if (isNew == 0)
            throw Refused.Taken(first.WorkflowId);
        Add(transaction, first, snapshot);
        transaction.Commit();
        return first;
    }

    private (Row Row, bool IsReplay) Move(Row wanted, Kept? snapshot)
    {
        using var transaction = _connection.BeginTransaction();
        var known = _connection.QuerySingleOrDefault<Row>("""
            SELECT workflow_id, log_index, sequence, from_state, to_state, status, actor, reason, request_id, recorded_at
            FROM record
            WHERE workflow_id = @WorkflowId AND request_id = @RequestId
            """, new { wanted.WorkflowId, wanted.RequestId }, transaction);
        if (known is not null)
            return (known, true);

        var head = _connection.QuerySingleOrDefault<Head>("""
            SELECT workflow_type, state, status, sequence
            FROM workflow
            WHERE workflow_id = @WorkflowId
            """, new { wanted.WorkflowId }, transaction);
        var row = Refused.Next(wanted, head);
        Add(transaction, row, snapshot);
        _connection.Execute("""
            UPDATE workflow
            SET state = @ToState, status = @Status, sequence = @Sequence, updated_at = @RecordedAt
            WHERE workflow_id = @WorkflowId
            """, new { row.WorkflowId, row.ToState, row.Status, row.Sequence, row.RecordedAt }, transaction);
        transaction.Commit();
        return (row, false);
    }

    private void Add(SqliteTransaction transaction, Row row, Kept? snapshot)
    {
        if (snapshot is not null)
        {
            _connection.Execute("""
                INSERT INTO snapshot (workflow_id, sequence, content_type, content)
                VALUES (@WorkflowId, @Sequence, @ContentType, @Content)
                """, new { row.WorkflowId, row.Sequence, snapshot.ContentType, snapshot.Content }, transaction);
        }
        row.LogIndex = _connection.ExecuteScalar<long>("""
            INSERT INTO record (workflow_id, sequence, from_state, to_state, status, actor, reason, request_id, recorded_at)
            VALUES (@WorkflowId, @Sequence, @FromState, @ToState, @Status, @Actor, @Reason, @RequestId, @RecordedAt)
            RETURNING log_index
            """, row, transaction);
    }
}
