using System.Text.Json;
using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;
using SQLitePCL;

namespace Aegis.Storage;

// Reading for verification, by the order of the columns.
public sealed partial class SqliteLedgerStore
{
    public Task<IReadOnlyList<RecordVote>> ReadLogAsync(long fromLogIndex, long toLogIndex, int limit,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<RecordVote>>(connection =>
    {
        using var command = LogCommand(connection, fromLogIndex, toLogIndex, limit);
        return [.. Records(command).Select(RecordVote.Of)];
    });

    public Task<LogOutline> ReadOutlineAsync(Func<LogOutline> begin, CancellationToken cancellationToken) => ReadAsync(connection =>
    {
        var outline = begin();
        using var command = LogCommand(connection, outline.From, outline.To, outline.RowsMax);
        using var reader = command.ExecuteReader();
        while (!outline.IsSpoilt && reader.Read())
            outline.Add(RawRow.ToRecord(new SqliteRow(reader.Handle!)));
        return outline;
    });

    private static SqliteCommand LogCommand(SqliteConnection connection, long fromLogIndex, long toLogIndex, int limit)
    {
        var command = connection.CreateCommand();
        command.CommandText =
            """
            SELECT
                log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state, status, request_id,
                request_key, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal, content_salt, reason, metadata,
                snapshot_salt, snapshot_content_type, snapshot_size, snapshot_sha256, hash, encoded
            FROM record
            WHERE log_index >= $from AND log_index < $to
            ORDER BY log_index
            LIMIT $limit
            """;
        command.Parameters.AddWithValue("$from", fromLogIndex);
        command.Parameters.AddWithValue("$to", toLogIndex);
        command.Parameters.AddWithValue("$limit", limit);
        return command;
    }

    public Task<IReadOnlyList<StoredRecord>> ReadRecordsAsync(IReadOnlyCollection<(WorkflowKey Key, long Sequence)> places,
        CancellationToken cancellationToken) => ReadAsync(connection =>
    {
        using var command = connection.CreateCommand();
        command.CommandText =
            """
            SELECT
                r.log_index, r.log_id, r.namespace, r.workflow_id, r.sequence, r.kind, r.workflow_type, r.from_state, r.to_state, r.status, r.request_id,
                r.request_key, r.lease_epoch, r.occurred_at, r.recorded_at, r.person_salt, r.actor, r.principal, r.content_salt, r.reason, r.metadata,
                r.snapshot_salt, r.snapshot_content_type, r.snapshot_size, r.snapshot_sha256, r.hash, r.encoded
            FROM json_each($places) AS place
            CROSS JOIN record AS r
            WHERE r.namespace = place.value ->> 0
              AND r.workflow_id = place.value ->> 1
              AND r.sequence = (
                SELECT max(sequence)
                FROM record
                WHERE namespace = place.value ->> 0 AND workflow_id = place.value ->> 1 AND sequence <= place.value ->> 2)
            """;
        command.Parameters.AddWithValue("$places",
            JsonSerializer.Serialize(places.Select(p => new object[] { p.Key.Namespace, p.Key.WorkflowId, p.Sequence })));
        return Records(command);
    });

    public Task<IReadOnlyList<StoredRecord>> ReadCheckpointsAsync(IReadOnlyCollection<(WorkflowKey Key, long Sequence)> places,
        CancellationToken cancellationToken) => ReadAsync(connection =>
    {
        using var command = connection.CreateCommand();
        command.CommandText =
            """
            SELECT
                r.log_index, r.log_id, r.namespace, r.workflow_id, r.sequence, r.kind, r.workflow_type, r.from_state, r.to_state, r.status, r.request_id,
                r.request_key, r.lease_epoch, r.occurred_at, r.recorded_at, r.person_salt, r.actor, r.principal, r.content_salt, r.reason, r.metadata,
                r.snapshot_salt, r.snapshot_content_type, r.snapshot_size, r.snapshot_sha256, r.hash, r.encoded
            FROM json_each($places) AS place
            CROSS JOIN record AS r
            WHERE r.namespace = place.value ->> 0
              AND r.workflow_id = place.value ->> 1
              AND r.sequence = (
                SELECT max(sequence)
                FROM record
                WHERE namespace = place.value ->> 0
                  AND workflow_id = place.value ->> 1
                  AND sequence <= place.value ->> 2
                  AND substr(encoded, -64, 32) <> x'0000000000000000000000000000000000000000000000000000000000000000')
            """;
        command.Parameters.AddWithValue("$places",
            JsonSerializer.Serialize(places.Select(p => new object[] { p.Key.Namespace, p.Key.WorkflowId, p.Sequence })));
        return Records(command);
    });

    public Task<IReadOnlyList<LogHeadRow>> ReadHeadsAsync(long afterSize, long toSize, int limit,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<LogHeadRow>>(connection =>
        [.. connection.Query<HeadRow>(
            """
            SELECT size, log_id, root, frontier, signed_note, last_recorded_at
            FROM log_head
            WHERE size > @afterSize AND size <= @toSize
            ORDER BY size
            LIMIT @limit
            """,
            new { afterSize, toSize, limit }).Select(row => row.ToLogHeadRow())]);

    public Task<IReadOnlyList<LogHeadRow>> ReadHeadsBackAsync(long toSize, int limit, CancellationToken cancellationToken) =>
        ReadAsync<IReadOnlyList<LogHeadRow>>(connection =>
        [.. connection.Query<HeadRow>(
            """
            SELECT size, log_id, root, frontier, signed_note, last_recorded_at
            FROM log_head
            WHERE size <= @toSize
            ORDER BY size DESC
            LIMIT @limit
            """,
            new { toSize, limit }).Select(row => row.ToLogHeadRow())]);

    public Task<IReadOnlyList<LogTileRow>> ReadTilesAsync(int level, long fromIndex, long toIndex,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<LogTileRow>>(connection =>
        [.. connection.Query<TileRow>(
            """
            SELECT level, tile_index, root, hashes, entries
            FROM log_tile
            WHERE level = @level AND tile_index >= @fromIndex AND tile_index < @toIndex
            ORDER BY tile_index
            """,
            new { level, fromIndex, toIndex }).Select(row => row.ToLogTileRow())]);

    public Task<IReadOnlyList<Workflow>> ReadWorkflowsAsync(IReadOnlyCollection<WorkflowKey> keys,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<Workflow>>(connection =>
        [.. connection.Query<WorkflowRow>(
            """
            SELECT w.*
            FROM json_each(@keys) AS wanted
            CROSS JOIN workflow AS w
            WHERE w.namespace = wanted.value ->> 0 AND w.workflow_id = wanted.value ->> 1
            """,
            new { keys = JsonSerializer.Serialize(keys.Select(k => new[] { k.Namespace, k.WorkflowId })) })
            .Select(row => row.ToWorkflow())]);

    public Task<IReadOnlyList<Workflow>> ScanWorkflowsAsync(WorkflowKey after, int limit, CancellationToken cancellationToken) =>
        ReadAsync<IReadOnlyList<Workflow>>(connection =>
        [.. connection.Query<WorkflowRow>(
            """
            SELECT *
            FROM workflow
            WHERE (namespace, workflow_id) > (@Namespace, @WorkflowId)
            ORDER BY namespace, workflow_id
            LIMIT @limit
            """,
            new { after.Namespace, after.WorkflowId, limit }).Select(row => row.ToWorkflow())]);

    /// <summary>
    /// One at a time, so that no more than one snapshot is in memory, and all by one statement in one transaction: to compile the one
    /// and to begin and end the other takes longer than what is looked for.
    /// </summary>
    public Task<IReadOnlyList<SnapshotHash>> HashSnapshotsAsync(IReadOnlyCollection<(WorkflowKey Key, Hash Sha256)> snapshots,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<SnapshotHash>>(connection =>
    {
        using var transaction = connection.BeginTransaction(deferred: true);
        using var command = connection.CreateCommand();
        command.Transaction = transaction;
        command.CommandText =
            """
            SELECT content
            FROM snapshot
            WHERE namespace = $namespace AND workflow_id = $id AND sha256 = $sha256
            """;
        var (@namespace, id, hash) = (command.Parameters.Add("$namespace", SqliteType.Text),
            command.Parameters.Add("$id", SqliteType.Text), command.Parameters.Add("$sha256", SqliteType.Blob));
        var hashes = new List<SnapshotHash>();
        foreach (var (key, sha256) in snapshots)
        {
            (@namespace.Value, id.Value, hash.Value) = (key.Namespace, key.WorkflowId, sha256.ToArray());
            using var reader = command.ExecuteReader();
            if (!reader.Read())
                continue;
            var content = new SqliteRow(reader.Handle!)[0];
            hashes.Add(new SnapshotHash(key, sha256, Hash.Of(content), content.Length));
        }
        return hashes;
    });

    public Task<IReadOnlyList<SnapshotUse>> ScanSnapshotsAsync(SnapshotUse? after, int limit, CancellationToken cancellationToken) =>
        ReadAsync<IReadOnlyList<SnapshotUse>>(connection =>
        [.. connection.Query<SnapshotRow>(
            """
            SELECT
                s.namespace,
                s.workflow_id,
                s.sha256,
                EXISTS (
                    SELECT 1
                    FROM record AS r
                    WHERE r.namespace = s.namespace AND r.workflow_id = s.workflow_id AND r.snapshot_sha256 = s.sha256) AS is_carried
            FROM snapshot AS s
            WHERE (s.namespace, s.workflow_id, s.sha256) > (@namespace, @id, @hash)
            ORDER BY s.namespace, s.workflow_id, s.sha256
            LIMIT @limit
            """,
            new
            {
                @namespace = after?.Key.Namespace ?? "",
                id = after?.Key.WorkflowId ?? "",
                hash = after?.Sha256.ToArray() ?? [],
                limit,
            }).Select(row => row.ToUse())]);

    public Task<LogStrays> FindStraysAsync(long size, int limit, CancellationToken cancellationToken) => ReadAsync(connection =>
    {
        var tiles = connection.Query<(long Level, long Index)>(
            """
            SELECT level, tile_index
            FROM log_tile
            WHERE level NOT BETWEEN 0 AND 6 OR tile_index < 0 OR tile_index >= (@size >> (8 * (level + 1)))
            LIMIT @limit
            """, new { size, limit });
        var leases = connection.Query<(string Namespace, string WorkflowId)>(
            """
            SELECT l.namespace, l.workflow_id
            FROM lease AS l
            WHERE NOT EXISTS (
                SELECT 1
                FROM workflow AS w
                WHERE w.namespace = l.namespace AND w.workflow_id = l.workflow_id)
            LIMIT @limit
            """, new { limit });
        return new LogStrays([.. tiles.Select(t => ((int)t.Level, t.Index))],
            [.. leases.Select(l => new WorkflowKey(l.Namespace, l.WorkflowId))]);
    });

    public Task<string?> ReadAuditPositionAsync(CancellationToken cancellationToken) => ReadAsync(connection =>
        connection.QuerySingleOrDefault<string>("SELECT signed_note FROM audit_position WHERE id = 1"));

    public async Task WriteAuditPositionAsync(string signedNote, CancellationToken cancellationToken)
    {
        await _writing.WaitAsync(cancellationToken);
        try
        {
            using var connection = OpenForWriting();
            connection.Execute(
                """
                INSERT INTO audit_position (id, signed_note)
                VALUES (1, @signedNote)
                ON CONFLICT (id) DO UPDATE SET signed_note = excluded.signed_note
                """, new { signedNote });
        }
        catch (SqliteException e)
        {
            throw Classify(e);
        }
        finally
        {
            _writing.Release();
        }
    }

    private static IReadOnlyList<StoredRecord> Records(SqliteCommand command)
    {
        var records = new List<StoredRecord>();
        using var reader = command.ExecuteReader();
        while (reader.Read())
            records.Add(RecordRow.Read(reader));
        return records;
    }

    /// <summary>The row that a statement stands at, in SQLite's own memory until it goes on.</summary>
    private readonly ref struct SqliteRow(sqlite3_stmt statement) : IRawRow
    {
        private readonly sqlite3_stmt _statement = statement;

        public ReadOnlySpan<byte> this[int column] => raw.sqlite3_column_blob(_statement, column);

        public bool IsNull(int column) => raw.sqlite3_column_type(_statement, column) == raw.SQLITE_NULL;

        public long Integer(int column) => raw.sqlite3_column_int64(_statement, column);

        public ReadOnlySpan<byte> Json(int column) => this[column];
    }
}
