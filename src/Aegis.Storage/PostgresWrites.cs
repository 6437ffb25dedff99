using Aegis.Core;
using Dapper;
using Npgsql;
using NpgsqlTypes;

namespace Aegis.Storage;

/// <summary>
/// The statements that store what a batch decided, sent together with the commit; the log's head comes last. They take turns for
/// every caller there is: parameters by place and of their type, one array a column, and no statement without rows.
/// </summary>
internal static class PostgresWrites
{
    /// <param name="connection">Holds the lock of the log, unless something is assumed.</param>
    /// <param name="batch">All of it, sealed.</param>
    /// <param name="assumed">What the batch was decided by where the log was not locked yet: it is locked first.</param>
    /// <returns>What the commit left.</returns>
    public static async Task<Turn> StoreAndCommitAsync(NpgsqlConnection connection, LedgerBatch batch, Assumption? assumed)
    {
        await using var statements = new NpgsqlBatch(connection) { Timeout = 0 };
        var takesSteps = TakesSteps(batch);
        // Statements that are sent together are one transaction, which their end commits: it needs no statements for that. Only on a
        // connection that is in no transaction, or that one would stay open: whoever gives one back has ended it.
        var isOpen = assumed is null || takesSteps;
        if (assumed is { } assumption)
        {
            if (takesSteps)
                statements.Add("BEGIN");
            // Who has to wait has others before, and looks again.
            statements.Add("SELECT id FROM log_lock WHERE id = 1 FOR UPDATE NOWAIT");
            AddCheck(statements, assumption);
        }
        if (takesSteps)
        {
            await ExecuteAsync(statements);
            statements.BatchCommands.Clear();
            await StoreInStepsAsync(connection, batch);
        }
        else
        {
            Add(statements, batch.Records, [.. batch.Workflows], batch.Snapshots, [.. batch.Leases]);
            Add(statements, batch.Tiles);
        }
        if (batch.Records.Count > 0)
            AddHead(statements, batch);
        else
            statements.Add("SELECT nextval('log_turn'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
        if (isOpen)
            statements.Add("COMMIT");
        await using var reader = await statements.ExecuteReaderAsync();
        Turn turn = default;
        do
        {
            // The lock and the check give one column each.
            if (reader.FieldCount == 2 && await reader.ReadAsync())
                turn = new Turn(reader.GetInt64(0), reader.GetInt64(1));
        }
        while (await reader.NextResultAsync());
        return turn;
    }

    /// <summary>Whether a batch takes several round trips, and so a transaction that is begun and ended by statements.</summary>
    public static bool TakesSteps(LedgerBatch batch) => batch.Erased.Count > 0 || batch.Tiles.Any(t => t.Level > 0)
        || batch.Repairs.Count > 0 || batch.ViolationChanges.Count > 0;

    /// <summary>READ COMMITTED: each statement after it sees what the holder before has committed.</summary>
    public static void AddLock(NpgsqlBatch statements)
    {
        statements.Add("BEGIN");
        statements.Add("SELECT id FROM log_lock WHERE id = 1 FOR UPDATE");
    }

    /// <summary>
    /// Under the lock: nobody has written since, the newest head is the one that is gone on from, and what was taken for the database's
    /// clock is it, at most a second ago; and what is taken for absent is. Else the transaction ends here.
    /// </summary>
    private static void AddCheck(NpgsqlBatch statements, Assumption assumed)
    {
        statements.Add(
            """
            SELECT go_on_if(
                last_value = $1
                AND (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2 BETWEEN -1000 AND 1000000
                AND (SELECT signed_note FROM log_head ORDER BY size DESC LIMIT 1) = $3)
            FROM log_turn
            """,
            new NpgsqlParameter<long> { TypedValue = assumed.Turn },
            new NpgsqlParameter<long> { TypedValue = assumed.Now },
            new NpgsqlParameter<string> { TypedValue = assumed.SignedNote });
        // Each by one look into an index: see ReadStateAsync.
        statements.AddRows(
            """
            SELECT go_on_if(NOT bool_or(
                key.workflow_id IS NOT DISTINCT FROM (
                    SELECT w.workflow_id
                    FROM workflow AS w
                    WHERE w.namespace = key.namespace AND w.workflow_id >= key.workflow_id
                    ORDER BY w.workflow_id
                    LIMIT 1)
                OR EXISTS (
                    SELECT
                    FROM violation AS v
                    WHERE v.released_at = 0 AND v.namespace = key.namespace AND v.workflow_id = key.workflow_id)))
            FROM unnest($1, $2) AS key (namespace, workflow_id)
            """,
            assumed.Absent, keys => [keys.Texts(w => w.Namespace), keys.Texts(w => w.WorkflowId)]);
    }

    /// <summary>What a repair writes: no new record, and so no head.</summary>
    public static async Task StoreAsync(NpgsqlConnection connection, IReadOnlyList<StoredRecord> records,
        IReadOnlyList<Workflow> workflows, IReadOnlyCollection<Snapshot> snapshots)
    {
        await using var statements = new NpgsqlBatch(connection) { Timeout = 0 };
        Add(statements, records, workflows, snapshots, []);
        await ExecuteAsync(statements);
    }

    /// <summary>
    /// Rare: an erasure or a repair needs its record stored before and the log's head after it, and a tile needs those below it.
    /// </summary>
    private static async Task StoreInStepsAsync(NpgsqlConnection connection, LedgerBatch batch)
    {
        if (batch.Repairs.Count > 0)
            await PostgresRepairs.RemoveStraysAsync(connection, batch);
        await using var statements = new NpgsqlBatch(connection) { Timeout = 0 };
        Add(statements, batch.Records, [.. batch.Workflows], batch.Snapshots, [.. batch.Leases]);
        await ExecuteAsync(statements);
        await EraseAsync(connection, batch);
        await PostgresRepairs.StoreAsync(connection, batch);
        foreach (var tile in batch.Tiles)
        {
            await using var statement = new NpgsqlBatch(connection) { Timeout = 0 };
            Add(statement, [tile]);
            await ExecuteAsync(statement);
        }
    }

    private static Task ExecuteAsync(NpgsqlBatch statements) =>
        statements.BatchCommands.Count > 0 ? statements.ExecuteNonQueryAsync() : Task.CompletedTask;

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
            FROM unnest($1, $2, $3) AS tile (level, tile_index, root)
            LEFT JOIN LATERAL (
                SELECT
                    string_agg(hash, ''::bytea ORDER BY log_index) AS hashes,
                    string_agg(int4send(octet_length(encoded)) || encoded, ''::bytea ORDER BY log_index) AS entries
                FROM record
                WHERE tile.level = 0
                  AND log_index >= tile.tile_index * 256
                  AND log_index < (tile.tile_index + 1) * 256) AS leaves ON true) AS built
        WHERE octet_length(hashes) = 8192
        """;

    private static void Add(NpgsqlBatch statements, IReadOnlyList<StoredRecord> records, IReadOnlyList<Workflow> workflows,
        IReadOnlyCollection<Snapshot> snapshots, IReadOnlyList<(WorkflowKey Key, Lease Lease)> leases)
    {
        AddRecords(statements, records);
        AddSnapshots(statements, snapshots);
        AddWorkflows(statements, workflows);
        AddLeases(statements, leases);
    }

    private static void AddRecords(NpgsqlBatch statements, IReadOnlyList<StoredRecord> records)
    {
        statements.AddRows(
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
                $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
                $24, $25, $26, $27) AS r (
                log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state, status,
                request_id, request_key, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal,
                content_salt, reason, metadata, snapshot_salt, snapshot_content_type, snapshot_size, snapshot_sha256,
                hash, encoded)
            """,
            records,
            some =>
            [
                some.Bigints(s => s.LogIndex),
                some.Texts(s => s.Record.LogId),
                some.Texts(s => s.Record.Namespace),
                some.Texts(s => s.Record.WorkflowId),
                some.Bigints(s => s.Record.Sequence),
                some.Smallints(s => (short)s.Record.Kind),
                some.Texts(s => s.Record.WorkflowType),
                some.Texts(s => s.Record.FromState),
                some.Texts(s => s.Record.ToState),
                some.Smallints(s => (short)s.Record.Status),
                some.Texts(s => s.Record.RequestId),
                some.Byteas(s => s.Record.RequestId.Length == 0
                    ? null
                    : RecordFormat.RequestKey(s.Record.Key, s.Record.RequestId).ToArray()),
                some.Bigints(s => s.Record.LeaseEpoch),
                some.Bigints(s => s.Record.OccurredAt),
                some.Bigints(s => s.Record.RecordedAt),
                some.Byteas(s => s.Record.Person?.Salt.ToArray()),
                some.Texts(s => s.Record.Person?.Actor),
                some.Texts(s => s.Record.Person?.Principal),
                some.Byteas(s => s.Record.Content?.Salt.ToArray()),
                some.Texts(s => s.Record.Content?.Reason),
                some.Texts(s => s.Record.Content is { } content ? MetadataJson.Write(content.Metadata) : null),
                some.Byteas(s => s.Record.Snapshot?.Salt.ToArray()),
                some.Texts(s => s.Record.Snapshot?.ContentType),
                some.Column(NpgsqlDbType.Bigint, s => s.Record.Snapshot?.Size),
                some.Byteas(s => s.Record.Snapshot?.Sha256.ToArray()),
                some.Byteas(s => s.Hash.ToArray()),
                some.Byteas(s => s.Encoded.ToArray()),
            ]);
    }

    private static void AddSnapshots(NpgsqlBatch statements, IReadOnlyCollection<Snapshot> snapshots)
    {
        statements.AddRows(
            """
            INSERT INTO snapshot (namespace, workflow_id, sha256, content)
            SELECT namespace, workflow_id, sha256, content
            FROM unnest($1, $2, $3, $4) AS s (namespace, workflow_id, sha256, content)
            WHERE NOT EXISTS (
                SELECT 1
                FROM snapshot AS kept
                WHERE kept.namespace = s.namespace AND kept.workflow_id = s.workflow_id AND kept.sha256 = s.sha256)
            """,
            snapshots,
            some =>
            [
                some.Texts(s => s.Key.Namespace),
                some.Texts(s => s.Key.WorkflowId),
                some.Byteas(s => s.Sha256.ToArray()),
                some.Byteas(s => s.Content.ToArray()),
            ]);
    }

    private static void AddWorkflows(NpgsqlBatch statements, IReadOnlyList<Workflow> workflows)
    {
        statements.AddRows(
            """
            INSERT INTO workflow (
                namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence, metadata,
                forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index, created_at,
                updated_at, importing)
            SELECT
                namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
                metadata::jsonb, forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index,
                created_at, updated_at, importing
            FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) AS w (
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
                importing = excluded.importing
            """,
            workflows,
            some =>
            [
                some.Texts(w => w.Key.Namespace),
                some.Texts(w => w.Key.WorkflowId),
                some.Texts(w => w.WorkflowType),
                some.Texts(w => w.State),
                some.Smallints(w => (short)w.Status),
                some.Bigints(w => w.Sequence),
                some.Byteas(w => w.HeadHash.ToArray()),
                some.Bigints(w => w.CheckpointSequence),
                some.Texts(w => MetadataJson.Write(w.Metadata)),
                some.Texts(w => w.ForkedFrom?.WorkflowId),
                some.Column(NpgsqlDbType.Bigint, w => w.ForkedFrom?.Sequence),
                some.Byteas(w => w.ForkedFrom?.Hash.ToArray()),
                some.Bigints(w => w.CreatedLogIndex),
                some.Bigints(w => w.CreatedAt),
                some.Bigints(w => w.UpdatedAt),
                some.Column(NpgsqlDbType.Boolean, w => w.Importing),
            ]);
    }

    private static void AddLeases(NpgsqlBatch statements, IReadOnlyList<(WorkflowKey Key, Lease Lease)> leases)
    {
        statements.AddRows(
            """
            INSERT INTO lease (namespace, workflow_id, owner, epoch, expires_at)
            SELECT namespace, workflow_id, owner, epoch, expires_at
            FROM unnest($1, $2, $3, $4, $5) AS l (namespace, workflow_id, owner, epoch, expires_at)
            ON CONFLICT (namespace, workflow_id) DO UPDATE SET
                owner = excluded.owner,
                epoch = excluded.epoch,
                expires_at = excluded.expires_at
            """,
            leases,
            some =>
            [
                some.Texts(l => l.Key.Namespace),
                some.Texts(l => l.Key.WorkflowId),
                some.Texts(l => l.Lease.Owner),
                some.Bigints(l => l.Lease.Epoch),
                some.Bigints(l => l.Lease.ExpiresAt),
            ]);
    }

    private static void Add(NpgsqlBatch statements, IReadOnlyList<Tile> tiles)
    {
        statements.AddRows(StoreTiles, tiles, some =>
        [
            some.Smallints(t => (short)t.Level), some.Bigints(t => t.Index), some.Byteas(t => t.Root.ToArray()),
        ]);
    }

    private static void AddHead(NpgsqlBatch statements, LedgerBatch batch)
    {
        statements.Add(
            """
            INSERT INTO log_head (size, log_id, last_recorded_at, root, frontier, signed_note)
            VALUES ($1, $2, $3, $4, $5, $6)
            RETURNING nextval('log_turn'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
            """,
            new NpgsqlParameter<long> { TypedValue = batch.LogSize },
            new NpgsqlParameter<string> { TypedValue = batch.LogId },
            new NpgsqlParameter<long> { TypedValue = batch.LastRecordedAt },
            new NpgsqlParameter<byte[]> { TypedValue = batch.Head!.Head.Root.ToArray() },
            new NpgsqlParameter<byte[]> { TypedValue = batch.Head.Frontier.ToArray() },
            new NpgsqlParameter<string> { TypedValue = batch.Head.SignedNote });
    }
}
