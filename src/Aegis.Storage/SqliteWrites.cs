using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

/// <summary>The statements that store what a batch decided; the head of the log comes last.</summary>
internal static class SqliteWrites
{
    public static void Store(SqliteWriter writer, LedgerBatch batch)
    {
        SqliteRepairs.RemoveStrays(writer.Connection, batch);
        StoreRecords(writer, batch.Records);
        StoreSnapshots(writer, batch.Snapshots);
        StoreWorkflows(writer, batch.Workflows);
        StoreLeases(writer, batch.Leases);
        Erase(writer.Connection, batch.Erased);
        SqliteRepairs.Store(writer, batch);
        StoreTiles(writer.Connection, batch.Tiles);
        if (batch.Head is { } head)
        {
            writer.Execute(
                """
                INSERT INTO log_head (size, log_id, last_recorded_at, root, frontier, signed_note)
                VALUES ($1, $2, $3, $4, $5, $6)
                """,
                batch.LogSize, batch.LogId, batch.LastRecordedAt, head.Head.Root.ToArray(), head.Frontier.ToArray(), head.SignedNote);
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

    public static void StoreRecords(SqliteWriter writer, IReadOnlyList<StoredRecord> records)
    {
        foreach (var stored in records)
        {
            var r = stored.Record;
            writer.Execute(
                """
                INSERT INTO record (
                    log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state,
                    status, request_id, request_key, lease_epoch, occurred_at, recorded_at, person_salt, actor,
                    principal, content_salt, reason, metadata, snapshot_salt, snapshot_content_type, snapshot_size,
                    snapshot_sha256, hash, encoded)
                VALUES (
                    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                    $23, $24, $25, $26, $27)
                """,
                stored.LogIndex, r.LogId, r.Namespace, r.WorkflowId, r.Sequence, (long)r.Kind, r.WorkflowType,
                r.FromState, r.ToState, (long)r.Status, r.RequestId,
                r.RequestId.Length == 0 ? null : RecordFormat.RequestKey(r.Key, r.RequestId).ToArray(),
                r.LeaseEpoch, r.OccurredAt, r.RecordedAt,
                r.Person?.Salt.ToArray(), r.Person?.Actor, r.Person?.Principal,
                r.Content?.Salt.ToArray(), r.Content?.Reason,
                r.Content is null ? null : MetadataJson.Write(r.Content.Metadata),
                r.Snapshot?.Salt.ToArray(), r.Snapshot?.ContentType, r.Snapshot?.Size, r.Snapshot?.Sha256.ToArray(),
                stored.Hash.ToArray(), stored.Encoded.ToArray());
        }
    }

    public static void StoreSnapshots(SqliteWriter writer, IReadOnlyCollection<Snapshot> snapshots)
    {
        foreach (var snapshot in snapshots)
        {
            writer.Execute(
                """
                INSERT INTO snapshot (namespace, workflow_id, sha256, content)
                SELECT $1, $2, $3, $4
                WHERE NOT EXISTS (SELECT 1 FROM snapshot WHERE namespace = $1 AND workflow_id = $2 AND sha256 = $3)
                """,
                snapshot.Key.Namespace, snapshot.Key.WorkflowId, snapshot.Sha256.ToArray(), snapshot.Content.ToArray());
        }
    }

    public static void StoreWorkflows(SqliteWriter writer, IEnumerable<Workflow> workflows)
    {
        foreach (var workflow in workflows)
        {
            writer.Execute(
                """
                INSERT INTO workflow (
                    namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
                    metadata, forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index,
                    created_at, updated_at, importing)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
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
                workflow.Key.Namespace, workflow.Key.WorkflowId, workflow.WorkflowType, workflow.State, (long)workflow.Status,
                workflow.Sequence, workflow.HeadHash.ToArray(), workflow.CheckpointSequence, MetadataJson.Write(workflow.Metadata),
                workflow.ForkedFrom?.WorkflowId, workflow.ForkedFrom?.Sequence, workflow.ForkedFrom?.Hash.ToArray(),
                workflow.CreatedLogIndex, workflow.CreatedAt, workflow.UpdatedAt, workflow.Importing);
        }
    }

    private static void StoreLeases(SqliteWriter writer, IEnumerable<(WorkflowKey Key, Lease Lease)> leases)
    {
        foreach (var (key, lease) in leases)
        {
            writer.Execute(
                """
                INSERT INTO lease (namespace, workflow_id, owner, epoch, expires_at)
                VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (namespace, workflow_id) DO UPDATE SET
                    owner = excluded.owner,
                    epoch = excluded.epoch,
                    expires_at = excluded.expires_at
                """,
                key.Namespace, key.WorkflowId, lease.Owner, lease.Epoch, lease.ExpiresAt);
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
