using System.Data.Common;
using Dapper;
using Npgsql;

namespace Aegis.Benchmarks.Naive;

/// <summary>Over PostgreSQL: a connection of the pool for each call.</summary>
internal sealed class PostgresStore(NpgsqlDataSource database) : IStore
{
    public async Task PrepareAsync()
    {
        await using var connection = await database.OpenConnectionAsync();
        await connection.ExecuteAsync(Schema.Read("schema.sql"));
    }

    public async Task<Row> StartAsync(string workflowType, Row first, Kept? snapshot, CancellationToken cancellation)
    {
        await using var connection = await database.OpenConnectionAsync(cancellation);
        await using var transaction = await connection.BeginTransactionAsync(cancellation);
        var values = new { first.WorkflowId, workflowType, first.ToState, first.Status, first.Sequence, first.RecordedAt };
        var isNew = await connection.ExecuteAsync(new CommandDefinition("""
            INSERT INTO workflow (workflow_id, workflow_type, state, status, sequence, created_at, updated_at)
            VALUES (@WorkflowId, @workflowType, @ToState, @Status, @Sequence, @RecordedAt, @RecordedAt)
            ON CONFLICT (workflow_id) DO NOTHING
            """, values, transaction, cancellationToken: cancellation));
        if (isNew == 0)
            throw Refused.Taken(first.WorkflowId);
        await AddAsync(connection, transaction, first, snapshot, cancellation);
        await transaction.CommitAsync(cancellation);
        return first;
    }

    public async Task<(Row Row, bool IsReplay)> MoveAsync(Row wanted, Kept? snapshot, CancellationToken cancellation)
    {
        await using var connection = await database.OpenConnectionAsync(cancellation);
        await using var transaction = await connection.BeginTransactionAsync(cancellation);
        var known = await connection.QuerySingleOrDefaultAsync<Row>(new CommandDefinition("""
            SELECT workflow_id, log_index, sequence, from_state, to_state, status, actor, reason, request_id, recorded_at
            FROM record
            WHERE workflow_id = @WorkflowId AND request_id = @RequestId
            """, new { wanted.WorkflowId, wanted.RequestId }, transaction, cancellationToken: cancellation));
        if (known is not null)
            return (known, true);

        var head = await connection.QuerySingleOrDefaultAsync<Head>(new CommandDefinition("""
            SELECT workflow_type, state, status, sequence
            FROM workflow
            WHERE workflow_id = @WorkflowId
            FOR UPDATE
            """, new { wanted.WorkflowId }, transaction, cancellationToken: cancellation));
        var row = Refused.Next(wanted, head);
        try
        {
            await AddAsync(connection, transaction, row, snapshot, cancellation);
        }
        catch (PostgresException e) when (e.SqlState == PostgresErrorCodes.UniqueViolation)
        {
            throw Refused.Taken(row.WorkflowId);
        }
        await connection.ExecuteAsync(new CommandDefinition("""
            UPDATE workflow
            SET state = @ToState, status = @Status, sequence = @Sequence, updated_at = @RecordedAt
            WHERE workflow_id = @WorkflowId
            """, new { row.WorkflowId, row.ToState, row.Status, row.Sequence, row.RecordedAt }, transaction,
            cancellationToken: cancellation));
        await transaction.CommitAsync(cancellation);
        return (row, false);
    }

    private static async Task AddAsync(DbConnection connection, DbTransaction transaction, Row row, Kept? snapshot,
        CancellationToken cancellation)
    {
        if (snapshot is not null)
        {
            await connection.ExecuteAsync(new CommandDefinition("""
                INSERT INTO snapshot (workflow_id, sequence, content_type, content)
                VALUES (@WorkflowId, @Sequence, @ContentType, @Content)
                """, new { row.WorkflowId, row.Sequence, snapshot.ContentType, snapshot.Content }, transaction,
                cancellationToken: cancellation));
        }
        row.LogIndex = await connection.ExecuteScalarAsync<long>(new CommandDefinition("""
            INSERT INTO record (workflow_id, sequence, from_state, to_state, status, actor, reason, request_id, recorded_at)
            VALUES (@WorkflowId, @Sequence, @FromState, @ToState, @Status, @Actor, @Reason, @RequestId, @RecordedAt)
            RETURNING log_index
            """, row, transaction, cancellationToken: cancellation));
    }
}
