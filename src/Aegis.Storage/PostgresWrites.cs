using Aegis.Core;
using Dapper;
using Npgsql;

namespace Aegis.Storage;

/// <summary>The statements that store what a batch decided, sent together with the commit; the log's head comes last.</summary>
internal static class PostgresWrites
{
    public static async Task StoreAndCommitAsync(NpgsqlConnection connection, LedgerBatch batch)
    {
        if (batch.Erased.Count > 0 || batch.Tiles.Any(t => t.Level > 0) || batch.Repairs.Count > 0
            || batch.ViolationChanges.Count > 0)
        {
            await StoreInStepsAsync(connection, batch);
        }
        else
        {
            await ExecuteAsync(batch.Tiles.Count == 0 ? StoreRecords + StoreHead : StoreRecords + StoreTiles + StoreHead);
        }

        Task ExecuteAsync(string statements) =>
            connection.ExecuteAsync(new CommandDefinition(statements, Parameters(batch), commandTimeout: 0));
    }

    /// <summary>
    /// Rare: an erasure or a repair needs its record stored before and the log's head after it, and a tile needs those below it.
    /// </summary>
    private static async Task StoreInStepsAsync(NpgsqlConnection connection, LedgerBatch batch)
    {
        if (batch.Repairs.Count > 0)
            await PostgresRepairs.RemoveStraysAsync(connection, batch);
        await connection.ExecuteAsync(new CommandDefinition(StoreRecords, Parameters(batch), commandTimeout: 0));
        await EraseAsync(connection, batch);
        await PostgresRepairs.StoreAsync(connection, batch);
        foreach (var tile in batch.Tiles)
        {
            await connection.ExecuteAsync(new CommandDefinition(StoreTiles, TileParameters([tile]), commandTimeout: 0));
        }
        await connection.ExecuteAsync(new CommandDefinition(StoreHead, Parameters(batch), commandTimeout: 0));
    }

    private static async Task EraseAsync(NpgsqlConnection connection, LedgerBatch batch)
    {
        foreach (var values in batch.Erased)
        {
            await connection.ExecuteAsync(
                """
                UPDATE record SET
                    person_salt = CASE WHEN @Person THEN NULL ELSE person_salt END,
                    actor = CASE WHEN @Person THEN NULL ELSE actor END,
                    principal = CASE WHEN @Person THEN NULL ELSE principal END,
                    content_salt = CASE WHEN @Content THEN NULL ELSE content_salt END,
                    reason = CASE WHEN @Content THEN NULL ELSE reason END,
                    metadata = CASE WHEN @Content THEN NULL ELSE metadata END,
                    snapshot_salt = CASE WHEN @Snapshot THEN NULL ELSE snapshot_salt END,
                    snapshot_content_type = CASE WHEN @Snapshot THEN NULL ELSE snapshot_content_type END,
                    snapshot_size = CASE WHEN @Snapshot THEN NULL ELSE snapshot_size END,
                    snapshot_sha256 = CASE WHEN @Snapshot THEN NULL ELSE snapshot_sha256 END
                WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sequence = @Sequence;
                DELETE FROM snapshot
                WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sha256 = @sha256
                """,
                new
                {
                    values.Key.Namespace,
                    values.Key.WorkflowId,
                    values.Sequence,
                    values.Person,
                    values.Content,
                    values.Snapshot,
                    sha256 = values.Bytes?.ToArray() ?? [],
                });
        }
    }

    private const string StoreRecords =
        """
        INSERT INTO record (
            log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state, status,
            request_id, request_key, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal,
            content_salt, reason, metadata, snapshot_salt, snapshot_content_type, snapshot_size, snapshot_sha256,
            hash, encoded)
        SELECT
            log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state, status,
            request_id, request_key, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal,
            content_salt, reason, metadata::jsonb, snapshot_salt, snapshot_content_type, snapshot_size,
            snapshot_sha256, hash, encoded
        FROM unnest(
            @logIndex, @logId, @namespace, @workflowId, @sequence, @kind, @workflowType, @fromState, @toState,
            @status, @requestId, @requestKey, @leaseEpoch, @occurredAt, @recordedAt, @personSalt, @actor,
            @principal, @contentSalt, @reason, @metadata, @snapshotSalt, @snapshotContentType, @snapshotSize,
            @snapshotSha256, @hash, @encoded) AS r (
            log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state, status,
            request_id, request_key, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal,
            content_salt, reason, metadata, snapshot_salt, snapshot_content_type, snapshot_size, snapshot_sha256,
            hash, encoded);
        INSERT INTO snapshot (namespace, workflow_id, sha256, content)
        SELECT namespace, workflow_id, sha256, content
        FROM unnest(@sNamespace, @sWorkflowId, @sSha256, @sContent) AS s (namespace, workflow_id, sha256, content)
        ON CONFLICT (namespace, workflow_id, sha256) DO NOTHING;
        INSERT INTO workflow (
            namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence, metadata,
            forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index, created_at,
            updated_at, importing)
        SELECT
            namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
            metadata::jsonb, forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index,
            created_at, updated_at, importing
        FROM unnest(
            @wNamespace, @wWorkflowId, @wWorkflowType, @wState, @wStatus, @wSequence, @wHeadHash,
            @wCheckpointSequence, @wMetadata, @wForkedFromWorkflowId, @wForkedFromSequence, @wForkedFromHash,
            @wCreatedLogIndex, @wCreatedAt, @wUpdatedAt, @wImporting) AS w (
            namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence, metadata,
            forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index, created_at,
            updated_at, importing)
        ON CONFLICT (namespace, workflow_id) DO UPDATE SET
            state = excluded.state,
            status = excluded.status,
            sequence = excluded.sequence,
            head_hash = excluded.head_hash,
            checkpoint_sequence = excluded.checkpoint_sequence,
            metadata = excluded.metadata,
            updated_at = excluded.updated_at,
            importing = excluded.importing;
        INSERT INTO lease (namespace, workflow_id, owner, epoch, expires_at)
        SELECT namespace, workflow_id, owner, epoch, expires_at
        FROM unnest(@lNamespace, @lWorkflowId, @lOwner, @lEpoch, @lExpiresAt) AS l (
            namespace, workflow_id, owner, epoch, expires_at)
        ON CONFLICT (namespace, workflow_id) DO UPDATE SET
            owner = excluded.owner,
            epoch = excluded.epoch,
            expires_at = excluded.expires_at;

        """;

    /// <summary>
    /// Tiles of one level. Built here, since other servers have written some of their leaves. Where some are gone behind the
    /// service's back no tile is stored, which verification tells, and writing goes on.
    /// </summary>
    private const string StoreTiles =
        """
        INSERT INTO log_tile (level, tile_index, root, hashes, entries)
        SELECT level, tile_index, root, hashes, entries
        FROM (
            SELECT
                tile.level,
                tile.tile_index,
                tile.root,
                CASE tile.level
                    WHEN 0 THEN leaves.hashes
                    ELSE (
                        SELECT string_agg(below.root, ''::bytea ORDER BY below.tile_index)
                        FROM log_tile AS below
                        WHERE below.level = tile.level - 1
                          AND below.tile_index >= tile.tile_index * 256
                          AND below.tile_index < (tile.tile_index + 1) * 256)
                END AS hashes,
                leaves.entries
            FROM unnest(@tLevel, @tIndex, @tRoot) AS tile (level, tile_index, root)
            LEFT JOIN LATERAL (
                SELECT
                    string_agg(hash, ''::bytea ORDER BY log_index) AS hashes,
                    string_agg(int4send(octet_length(encoded)) || encoded, ''::bytea ORDER BY log_index) AS entries
                FROM record
                WHERE tile.level = 0
                  AND log_index >= tile.tile_index * 256
                  AND log_index < (tile.tile_index + 1) * 256) AS leaves ON true) AS built
        WHERE octet_length(hashes) = 8192;

        """;

    /// <summary>What a repair writes: no new record, and so no head.</summary>
    public static Task StoreAsync(NpgsqlConnection connection, IReadOnlyList<StoredRecord> records,
        IReadOnlyList<Workflow> workflows, IReadOnlyCollection<Snapshot> snapshots) =>
        connection.ExecuteAsync(new CommandDefinition(
            StoreRecords, Parameters(records, workflows, snapshots, []), commandTimeout: 0));

    private const string StoreHead =
        """
        INSERT INTO log_head (size, log_id, last_recorded_at, root, frontier, signed_note)
        SELECT @newSize, @newLogId, @newLastRecordedAt, @newRoot, @newFrontier, @newSignedNote
        WHERE @hasRecords;
        COMMIT
        """;

    private static DynamicParameters Parameters(IReadOnlyList<StoredRecord> records, IReadOnlyList<Workflow> workflows,
        IReadOnlyCollection<Snapshot> snapshots, IReadOnlyList<(WorkflowKey Key, Lease Lease)> leases)
    {
        var parameters = new DynamicParameters();
        AddRecords(parameters, records);
        AddWorkflows(parameters, workflows);
        parameters.Add("sNamespace", snapshots.Select(s => s.Key.Namespace).ToArray());
        parameters.Add("sWorkflowId", snapshots.Select(s => s.Key.WorkflowId).ToArray());
        parameters.Add("sSha256", snapshots.Select(s => s.Sha256.ToArray()).ToArray());
        parameters.Add("sContent", snapshots.Select(s => s.Content.ToArray()).ToArray());
        parameters.Add("lNamespace", leases.Select(l => l.Key.Namespace).ToArray());
        parameters.Add("lWorkflowId", leases.Select(l => l.Key.WorkflowId).ToArray());
        parameters.Add("lOwner", leases.Select(l => l.Lease.Owner).ToArray());
        parameters.Add("lEpoch", leases.Select(l => l.Lease.Epoch).ToArray());
        parameters.Add("lExpiresAt", leases.Select(l => l.Lease.ExpiresAt).ToArray());
        return parameters;
    }

    private static DynamicParameters Parameters(LedgerBatch batch)
    {
        var parameters = Parameters(batch.Records, [.. batch.Workflows], batch.Snapshots, [.. batch.Leases]);
        parameters.Add("newSize", batch.LogSize);
        parameters.Add("newLogId", batch.LogId);
        parameters.Add("newLastRecordedAt", batch.LastRecordedAt);
        parameters.Add("newRoot", batch.Head?.Head.Root.ToArray() ?? []);
        parameters.Add("newFrontier", batch.Head?.Frontier.ToArray() ?? []);
        parameters.Add("newSignedNote", batch.Head?.SignedNote ?? "");
        parameters.Add("hasRecords", batch.Records.Count > 0);
        AddTiles(parameters, batch.Tiles);
        return parameters;
    }

    private static DynamicParameters TileParameters(IReadOnlyList<Tile> tiles)
    {
        var parameters = new DynamicParameters();
        AddTiles(parameters, tiles);
        return parameters;
    }

    private static void AddTiles(DynamicParameters parameters, IReadOnlyList<Tile> tiles)
    {
        parameters.Add("tLevel", tiles.Select(t => (short)t.Level).ToArray());
        parameters.Add("tIndex", tiles.Select(t => t.Index).ToArray());
        parameters.Add("tRoot", tiles.Select(t => t.Root.ToArray()).ToArray());
    }

    private static void AddRecords(DynamicParameters parameters, IReadOnlyList<StoredRecord> records)
    {
        T[] Column<T>(Func<StoredRecord, T> value) => [.. records.Select(value)];

        parameters.Add("logIndex", Column(s => s.LogIndex));
        parameters.Add("logId", Column(s => s.Record.LogId));
        parameters.Add("namespace", Column(s => s.Record.Namespace));
        parameters.Add("workflowId", Column(s => s.Record.WorkflowId));
        parameters.Add("sequence", Column(s => s.Record.Sequence));
        parameters.Add("kind", Column(s => (short)s.Record.Kind));
        parameters.Add("workflowType", Column(s => s.Record.WorkflowType));
        parameters.Add("fromState", Column(s => s.Record.FromState));
        parameters.Add("toState", Column(s => s.Record.ToState));
        parameters.Add("status", Column(s => (short)s.Record.Status));
        parameters.Add("requestId", Column(s => s.Record.RequestId));
        parameters.Add("requestKey", Column(s => s.Record.RequestId.Length == 0
            ? null
            : RecordFormat.RequestKey(s.Record.Key, s.Record.RequestId).ToArray()));
        parameters.Add("leaseEpoch", Column(s => s.Record.LeaseEpoch));
        parameters.Add("occurredAt", Column(s => s.Record.OccurredAt));
        parameters.Add("recordedAt", Column(s => s.Record.RecordedAt));
        parameters.Add("personSalt", Column(s => s.Record.Person?.Salt.ToArray()));
        parameters.Add("actor", Column(s => s.Record.Person?.Actor));
        parameters.Add("principal", Column(s => s.Record.Person?.Principal));
        parameters.Add("contentSalt", Column(s => s.Record.Content?.Salt.ToArray()));
        parameters.Add("reason", Column(s => s.Record.Content?.Reason));
        parameters.Add("metadata", Column(s =>
            s.Record.Content is { } content ? MetadataJson.Write(content.Metadata) : null));
        parameters.Add("snapshotSalt", Column(s => s.Record.Snapshot?.Salt.ToArray()));
        parameters.Add("snapshotContentType", Column(s => s.Record.Snapshot?.ContentType));
        parameters.Add("snapshotSize", Column(s => s.Record.Snapshot?.Size));
        parameters.Add("snapshotSha256", Column(s => s.Record.Snapshot?.Sha256.ToArray()));
        parameters.Add("hash", Column(s => s.Hash.ToArray()));
        parameters.Add("encoded", Column(s => s.Encoded.ToArray()));
    }

    private static void AddWorkflows(DynamicParameters parameters, IReadOnlyList<Workflow> workflows)
    {
        T[] Column<T>(Func<Workflow, T> value) => [.. workflows.Select(value)];

        parameters.Add("wNamespace", Column(w => w.Key.Namespace));
        parameters.Add("wWorkflowId", Column(w => w.Key.WorkflowId));
        parameters.Add("wWorkflowType", Column(w => w.WorkflowType));
        parameters.Add("wState", Column(w => w.State));
        parameters.Add("wStatus", Column(w => (short)w.Status));
        parameters.Add("wSequence", Column(w => w.Sequence));
        parameters.Add("wHeadHash", Column(w => w.HeadHash.ToArray()));
        parameters.Add("wCheckpointSequence", Column(w => w.CheckpointSequence));
        parameters.Add("wMetadata", Column(w => MetadataJson.Write(w.Metadata)));
        parameters.Add("wForkedFromWorkflowId", Column(w => w.ForkedFrom?.WorkflowId));
        parameters.Add("wForkedFromSequence", Column(w => w.ForkedFrom?.Sequence));
        parameters.Add("wForkedFromHash", Column(w => w.ForkedFrom?.Hash.ToArray()));
        parameters.Add("wCreatedLogIndex", Column(w => w.CreatedLogIndex));
        parameters.Add("wCreatedAt", Column(w => w.CreatedAt));
        parameters.Add("wUpdatedAt", Column(w => w.UpdatedAt));
        parameters.Add("wImporting", Column(w => w.Importing));
    }
}
