using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

/// <summary>The statements that store what a batch decided; the head of the log comes last.</summary>
internal static class SqliteWrites
{
    public static void Store(SqliteConnection connection, LedgerBatch batch)
    {
        SqliteRepairs.RemoveStrays(connection, batch);
        StoreRecords(connection, batch.Records);
        StoreSnapshots(connection, batch.Snapshots);
        StoreWorkflows(connection, batch.Workflows);
        StoreLeases(connection, batch.Leases);
        Erase(connection, batch.Erased);
        SqliteRepairs.Store(connection, batch);
        StoreTiles(connection, batch.Tiles);
        if (batch.Head is { } head)
        {
            connection.Execute(
                """
                INSERT INTO log_head (size, log_id, last_recorded_at, root, frontier, signed_note)
                VALUES (@LogSize, @LogId, @LastRecordedAt, @root, @frontier, @SignedNote)
                """,
                new
                {
                    batch.LogSize,
                    batch.LogId,
                    batch.LastRecordedAt,
                    root = head.Head.Root.ToArray(),
                    frontier = head.Frontier.ToArray(),
                    head.SignedNote,
                });
        }
    }

    /// <summary>
    /// Built from what is stored, the lower levels first. Where some of it is gone behind the service's back no tile is stored,
    /// which verification tells, and writing goes on.
    /// </summary>
    private static void StoreTiles(SqliteConnection connection, IReadOnlyList<Tile> tiles)
    {
        foreach (var tile in tiles)
        {
            var below = connection.Query<(byte[] Hash, byte[]? Encoded)>(
                tile.Level == 0
                    ? """
                      SELECT hash, encoded
                      FROM record
                      WHERE log_index >= @Index * 256 AND log_index < (@Index + 1) * 256
                      ORDER BY log_index
                      """
                    : """
                      SELECT root, NULL
                      FROM log_tile
                      WHERE level = @Level - 1 AND tile_index >= @Index * 256 AND tile_index < (@Index + 1) * 256
                      ORDER BY tile_index
                      """,
                new { tile.Level, tile.Index }).ToList();
            if (below.Count != Tile.Width || below.Exists(b => b.Hash.Length != Hash.Size))
                continue;
            connection.Execute(
                """
                INSERT INTO log_tile (level, tile_index, root, hashes, entries)
                VALUES (@Level, @Index, @root, @hashes, @entries)
                """,
                new
                {
                    tile.Level,
                    tile.Index,
                    root = tile.Root.ToArray(),
                    hashes = below.SelectMany(b => b.Hash).ToArray(),
                    entries = tile.Level > 0 ? null : TileEntries.Write([.. below.Select(b => new ReadOnlyMemory<byte>(b.Encoded))]),
                });
        }
    }

    public static void StoreRecords(SqliteConnection connection, IReadOnlyList<StoredRecord> records)
    {
        using var command = connection.CreateCommand();
        command.CommandText =
            """
            INSERT INTO record (
                log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state,
                status, request_id, request_key, lease_epoch, occurred_at, recorded_at, person_salt, actor,
                principal, content_salt, reason, metadata, snapshot_salt, snapshot_content_type, snapshot_size,
                snapshot_sha256, hash, encoded)
            VALUES (
                $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                $23, $24, $25, $26, $27)
            """;
        for (var i = 1; i <= 27; i++)
            command.Parameters.Add(new SqliteParameter { ParameterName = "$" + i });
        foreach (var stored in records)
        {
            var r = stored.Record;
            object?[] values =
            [
                stored.LogIndex, r.LogId, r.Namespace, r.WorkflowId, r.Sequence, (long)r.Kind, r.WorkflowType,
                r.FromState, r.ToState, (long)r.Status, r.RequestId,
                r.RequestId.Length == 0 ? null : RecordFormat.RequestKey(r.Key, r.RequestId).ToArray(),
                r.LeaseEpoch, r.OccurredAt, r.RecordedAt,
                r.Person?.Salt.ToArray(), r.Person?.Actor, r.Person?.Principal,
                r.Content?.Salt.ToArray(), r.Content?.Reason,
                r.Content is null ? null : MetadataJson.Write(r.Content.Metadata),
                r.Snapshot?.Salt.ToArray(), r.Snapshot?.ContentType, r.Snapshot?.Size, r.Snapshot?.Sha256.ToArray(),
                stored.Hash.ToArray(), stored.Encoded.ToArray(),
            ];
            for (var i = 0; i < values.Length; i++)
                command.Parameters[i].Value = values[i] ?? DBNull.Value;
            command.ExecuteNonQuery();
        }
    }

    public static void StoreSnapshots(SqliteConnection connection, IReadOnlyCollection<Snapshot> snapshots)
    {
        foreach (var snapshot in snapshots)
        {
            connection.Execute(
                """
                INSERT INTO snapshot (namespace, workflow_id, sha256, content)
                SELECT @Namespace, @WorkflowId, @sha256, @content
                WHERE NOT EXISTS (
                    SELECT 1
                    FROM snapshot
                    WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sha256 = @sha256)
                """,
                new
                {
                    snapshot.Key.Namespace,
                    snapshot.Key.WorkflowId,
                    sha256 = snapshot.Sha256.ToArray(),
                    content = snapshot.Content.ToArray(),
                });
        }
    }

    public static void StoreWorkflows(SqliteConnection connection, IEnumerable<Workflow> workflows)
    {
        foreach (var workflow in workflows)
        {
            connection.Execute(
                """
                INSERT INTO workflow (
                    namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
                    metadata, forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index,
                    created_at, updated_at, importing)
                VALUES (
                    @Namespace, @WorkflowId, @WorkflowType, @State, @status, @Sequence, @headHash,
                    @CheckpointSequence, @metadata, @forkId, @forkSequence, @forkHash, @CreatedLogIndex, @CreatedAt,
                    @UpdatedAt, @Importing)
                ON CONFLICT (namespace, workflow_id) DO UPDATE SET
                    state = excluded.state,
                    status = excluded.status,
                    sequence = excluded.sequence,
                    head_hash = excluded.head_hash,
                    checkpoint_sequence = excluded.checkpoint_sequence,
                    metadata = excluded.metadata,
                    updated_at = excluded.updated_at,
                    importing = excluded.importing
                """,
                new
                {
                    workflow.Key.Namespace,
                    workflow.Key.WorkflowId,
                    workflow.WorkflowType,
                    workflow.State,
                    status = (long)workflow.Status,
                    workflow.Sequence,
                    headHash = workflow.HeadHash.ToArray(),
                    workflow.CheckpointSequence,
                    metadata = MetadataJson.Write(workflow.Metadata),
                    forkId = workflow.ForkedFrom?.WorkflowId,
                    forkSequence = workflow.ForkedFrom?.Sequence,
                    forkHash = workflow.ForkedFrom?.Hash.ToArray(),
                    workflow.CreatedLogIndex,
                    workflow.CreatedAt,
                    workflow.UpdatedAt,
                    workflow.Importing,
                });
        }
    }

    private static void StoreLeases(SqliteConnection connection, IEnumerable<(WorkflowKey Key, Lease Lease)> leases)
    {
        foreach (var (key, lease) in leases)
        {
            connection.Execute(
                """
                INSERT INTO lease (namespace, workflow_id, owner, epoch, expires_at)
                VALUES (@Namespace, @WorkflowId, @Owner, @Epoch, @ExpiresAt)
                ON CONFLICT (namespace, workflow_id) DO UPDATE SET
                    owner = excluded.owner,
                    epoch = excluded.epoch,
                    expires_at = excluded.expires_at
                """,
                new { key.Namespace, key.WorkflowId, lease.Owner, lease.Epoch, lease.ExpiresAt });
        }
    }

    private static void Erase(SqliteConnection connection, IReadOnlyList<ErasedValues> erased)
    {
        foreach (var values in erased)
        {
            connection.Execute(
                """
                UPDATE record SET
                    person_salt = iif(@Person, NULL, person_salt),
                    actor = iif(@Person, NULL, actor),
                    principal = iif(@Person, NULL, principal),
                    content_salt = iif(@Content, NULL, content_salt),
                    reason = iif(@Content, NULL, reason),
                    metadata = iif(@Content, NULL, metadata),
                    snapshot_salt = iif(@Snapshot, NULL, snapshot_salt),
                    snapshot_content_type = iif(@Snapshot, NULL, snapshot_content_type),
                    snapshot_size = iif(@Snapshot, NULL, snapshot_size),
                    snapshot_sha256 = iif(@Snapshot, NULL, snapshot_sha256)
                WHERE namespace = @Namespace
                  AND workflow_id = @WorkflowId
                  AND sequence = @Sequence
                """,
                new
                {
                    values.Key.Namespace,
                    values.Key.WorkflowId,
                    values.Sequence,
                    values.Person,
                    values.Content,
                    values.Snapshot,
                });
            if (values.Bytes is { } sha256)
            {
                connection.Execute(
                    """
                    DELETE FROM snapshot
                    WHERE namespace = @Namespace
                      AND workflow_id = @WorkflowId
                      AND sha256 = @sha256
                    """,
                    new { values.Key.Namespace, values.Key.WorkflowId, sha256 = sha256.ToArray() });
            }
        }
    }
}
