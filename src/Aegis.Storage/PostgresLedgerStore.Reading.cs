using Aegis.Core;
using Dapper;
using Npgsql;
using NpgsqlTypes;

namespace Aegis.Storage;

// Reading. Rows are read by the names of their columns, so that those a later version adds are passed over.
public sealed partial class PostgresLedgerStore
{
    public Task<StoredHead?> ReadHeadAsync(CancellationToken cancellationToken) => ReadAsync(async connection =>
        (await connection.QuerySingleOrDefaultAsync<HeadRow>(new CommandDefinition(
            "SELECT log_id, size, frontier, signed_note, last_recorded_at FROM log_head ORDER BY size DESC LIMIT 1",
            cancellationToken: cancellationToken)))?.ToStoredHead(), cancellationToken);

    public Task<IReadOnlyList<Hash>> ReadHashesAsync(long fromLogIndex, int limit, bool fromEncoded,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<Hash>>(async connection =>
        [.. (await connection.QueryAsync<byte[]>(new CommandDefinition(
            fromEncoded
                ? """
                  SELECT sha256('\x00'::bytea || encoded)
                  FROM record
                  WHERE log_index >= @fromLogIndex
                  ORDER BY log_index
                  LIMIT @limit
                  """
                : """
                  SELECT hash
                  FROM record
                  WHERE log_index >= @fromLogIndex
                  ORDER BY log_index
                  LIMIT @limit
                  """,
            new { fromLogIndex, limit }, cancellationToken: cancellationToken))).Select(HashBytes.One)], cancellationToken);

    public Task<IReadOnlyList<Hash>> ReadTileAsync(int level, long index, CancellationToken cancellationToken) =>
        ReadAsync(async connection =>
        {
            var stored = await connection.QuerySingleOrDefaultAsync<byte[]>(new CommandDefinition(
                "SELECT hashes FROM log_tile WHERE level = @level AND tile_index = @index",
                new { level, index }, cancellationToken: cancellationToken));
            if (stored is not null)
                return HashBytes.Many(stored);
            var hashes = await connection.QueryAsync<byte[]>(new CommandDefinition(
                level == 0
                    ? """
                      SELECT hash
                      FROM record
                      WHERE log_index >= @index * 256 AND log_index < (@index + 1) * 256
                      ORDER BY log_index
                      """
                    : """
                      SELECT root
                      FROM log_tile
                      WHERE level = @level - 1 AND tile_index >= @index * 256 AND tile_index < (@index + 1) * 256
                      ORDER BY tile_index
                      """,
                new { level, index }, cancellationToken: cancellationToken));
            return [.. hashes.Select(HashBytes.One)];
        }, cancellationToken);

    public Task<Workflow?> FindWorkflowAsync(WorkflowKey key, CancellationToken cancellationToken) =>
        LookUpAsync(async connection => (await connection.QuerySingleOrDefaultAsync<WorkflowRow>(new CommandDefinition(
            """
            SELECT found.*
            FROM (
                SELECT *
                FROM workflow_and_lease
                WHERE namespace = @Namespace AND workflow_id >= @WorkflowId
                ORDER BY workflow_id
                LIMIT 1) AS found
            WHERE found.workflow_id = @WorkflowId
            """,
            key, cancellationToken: cancellationToken)))?.ToWorkflow(), cancellationToken);

    public Task<IReadOnlyList<Resumable>> ReadResumableAsync(IReadOnlyCollection<WorkflowKey> keys, int recordsMax,
        long snapshotBytesMax, CancellationToken cancellationToken) => LookUpAsync<IReadOnlyList<Resumable>>(async connection =>
    {
        await using var command = new NpgsqlCommand(
            """
            SELECT
                w.namespace, w.workflow_id, w.workflow_type, w.state, w.status, w.sequence, w.head_hash, w.checkpoint_sequence, w.metadata,
                w.forked_from_workflow_id, w.forked_from_sequence, w.forked_from_hash, w.created_log_index, w.created_at, w.updated_at,
                w.importing, w.lease_owner, w.lease_epoch, w.lease_expires_at, w.quarantined,
                s.content,
                r.log_index, r.log_id, r.namespace, r.workflow_id, r.sequence, r.kind, r.workflow_type, r.from_state, r.to_state, r.status, r.request_id,
                r.request_key, r.lease_epoch, r.occurred_at, r.recorded_at, r.person_salt, r.actor, r.principal, r.content_salt, r.reason, r.metadata,
                r.snapshot_salt, r.snapshot_content_type, r.snapshot_size, r.snapshot_sha256, r.hash, r.encoded
            FROM unnest($1, $2) AS key (namespace, workflow_id)
            CROSS JOIN LATERAL (
                SELECT *
                FROM workflow_and_lease AS found
                WHERE found.namespace = key.namespace AND found.workflow_id >= key.workflow_id
                ORDER BY found.workflow_id
                LIMIT 1) AS w
            LEFT JOIN LATERAL (
                SELECT *
                FROM record
                WHERE record.namespace = w.namespace
                  AND record.workflow_id = w.workflow_id
                  AND record.sequence >= greatest(1, w.checkpoint_sequence)
                ORDER BY record.sequence
                LIMIT $3) AS r ON true
            LEFT JOIN LATERAL (
                SELECT content
                FROM snapshot
                WHERE snapshot.namespace = w.namespace
                  AND snapshot.workflow_id = w.workflow_id
                  AND snapshot.sha256 = r.snapshot_sha256
                  AND r.sequence = w.checkpoint_sequence
                  AND octet_length(snapshot.content) <= $4
                LIMIT 1) AS s ON true
            WHERE w.workflow_id = key.workflow_id
            """, connection);
        command.Parameters.Add(keys.Array(NpgsqlDbType.Text, k => k.Namespace));
        command.Parameters.Add(keys.Array(NpgsqlDbType.Text, k => k.WorkflowId));
        command.Parameters.Add(new NpgsqlParameter<int> { TypedValue = recordsMax });
        command.Parameters.Add(new NpgsqlParameter<long> { TypedValue = snapshotBytesMax });
        var found = new Dictionary<WorkflowKey, (Workflow Workflow, List<StoredRecord> Records, byte[]? Snapshot)>();
        await using var reader = await command.ExecuteReaderAsync(cancellationToken);
        while (await reader.ReadAsync(cancellationToken))
        {
            var key = new WorkflowKey(reader.GetString(0), reader.GetString(1));
            var so = found.TryGetValue(key, out var known) ? known : (Workflow: WorkflowRow.Read(reader), Records: [], Snapshot: null);
            if (!reader.IsDBNull(WorkflowRow.Columns))
                so.Snapshot = reader.GetFieldValue<byte[]>(WorkflowRow.Columns);
            if (!reader.IsDBNull(WorkflowRow.Columns + 1))
                so.Records.Add(RecordRow.Read(reader, WorkflowRow.Columns + 1));
            found[key] = so;
        }
        return [.. found.Values.Select(f => new Resumable(f.Workflow, [.. f.Records.OrderBy(r => r.Record.Sequence)], f.Snapshot))];
    }, cancellationToken);

    public Task<IReadOnlyList<PendingWorkflow>> ListPendingAsync(PendingFilter filter, long afterLogIndex, int limit,
        CancellationToken cancellationToken) => LookUpAsync<IReadOnlyList<PendingWorkflow>>(async connection =>
        [.. (await connection.QueryAsync<(string WorkflowId, long CreatedLogIndex)>(new CommandDefinition(
            """
            SELECT workflow_id, created_log_index
            FROM workflow
            WHERE namespace = @Namespace
              AND created_log_index > @afterLogIndex
              AND status <= 2
              AND status = ANY (@statuses)
              AND (@types::text[] IS NULL OR workflow_type = ANY (@types))
              AND (@states::text[] IS NULL OR state = ANY (@states))
              AND NOT importing
            ORDER BY created_log_index
            LIMIT @limit
            """,
            new
            {
                filter.Namespace,
                afterLogIndex,
                types = filter.WorkflowTypes.Count == 0 ? null : filter.WorkflowTypes.ToArray(),
                states = filter.States.Count == 0 ? null : filter.States.ToArray(),
                statuses = filter.Statuses.Select(s => (short)s).ToArray(),
                limit,
            },
            cancellationToken: cancellationToken)))
            .Select(w => new PendingWorkflow(new WorkflowKey(filter.Namespace, w.WorkflowId), w.CreatedLogIndex))], cancellationToken);

    public Task<IReadOnlyList<Workflow>> ListWorkflowsAsync(WorkflowFilter filter, long afterLogIndex, int limit,
        CancellationToken cancellationToken)
    {
        // By metadata there is an index of another kind, and which one serves better depends on the values.
        if (filter.Metadata.Count > 0)
            return ReadAsync(connection => ListAsync(connection, AnyWorkflows), cancellationToken);
        // What is open has an index of its own, which a plan made once takes only where the query says so itself: a worker must find
        // what is pending among any number of closed workflows.
        var isOpen = filter.Statuses.Count > 0 && !filter.Statuses.Any(s => s.IsClosed());
        return LookUpAsync(connection => ListAsync(connection, isOpen ? OpenWorkflows : AnyWorkflows), cancellationToken);

        async Task<IReadOnlyList<Workflow>> ListAsync(NpgsqlConnection connection, string statement) =>
            [.. (await connection.QueryAsync<WorkflowRow>(new CommandDefinition(statement,
                new
                {
                    filter.Namespace,
                    afterLogIndex,
                    types = filter.WorkflowTypes.Count == 0 ? null : filter.WorkflowTypes.ToArray(),
                    states = filter.States.Count == 0 ? null : filter.States.ToArray(),
                    statuses = filter.Statuses.Count == 0 ? null : filter.Statuses.Select(s => (short)s).ToArray(),
                    filter.UpdatedBefore,
                    filter.UpdatedAfter,
                    metadata = filter.Metadata.Count == 0 ? null : MetadataJson.Write(filter.Metadata),
                    limit,
                },
                cancellationToken: cancellationToken))).Select(row => row.ToWorkflow())];
    }

    private const string OpenWorkflows =
        """
        SELECT found.*
        FROM (
            SELECT namespace, workflow_id
            FROM workflow
            WHERE namespace = @Namespace
              AND created_log_index > @afterLogIndex
              AND status <= 2
              AND status = ANY (@statuses)
              AND (@types::text[] IS NULL OR workflow_type = ANY (@types))
              AND (@states::text[] IS NULL OR state = ANY (@states))
              AND (@UpdatedBefore::bigint IS NULL OR updated_at < @UpdatedBefore)
              AND (@UpdatedAfter::bigint IS NULL OR updated_at >= @UpdatedAfter)
            ORDER BY created_log_index
            LIMIT @limit) AS page
        CROSS JOIN LATERAL (
            SELECT *
            FROM workflow_and_lease AS w
            WHERE w.namespace = page.namespace AND w.workflow_id >= page.workflow_id
            ORDER BY w.workflow_id
            LIMIT 1) AS found
        ORDER BY found.created_log_index
        """;

    private const string AnyWorkflows =
        """
        SELECT *
        FROM workflow_and_lease
        WHERE namespace = @Namespace
          AND created_log_index > @afterLogIndex
          AND (@types::text[] IS NULL OR workflow_type = ANY (@types))
          AND (@states::text[] IS NULL OR state = ANY (@states))
          AND (@statuses::smallint[] IS NULL OR status = ANY (@statuses))
          AND (@UpdatedBefore::bigint IS NULL OR updated_at < @UpdatedBefore)
          AND (@UpdatedAfter::bigint IS NULL OR updated_at >= @UpdatedAfter)
          AND (@metadata::text IS NULL OR metadata @> @metadata::jsonb)
        ORDER BY created_log_index
        LIMIT @limit
        """;

    public Task<IReadOnlyList<WorkflowCount>> CountWorkflowsAsync(string @namespace,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<WorkflowCount>>(async connection =>
        [.. (await connection.QueryAsync<(string Type, string State, short Status, long Count)>(new CommandDefinition(
            """
            SELECT workflow_type, state, status, count(*)
            FROM workflow
            WHERE namespace = @namespace
            GROUP BY workflow_type, state, status
            ORDER BY workflow_type, state, status
            """,
            new { @namespace }, cancellationToken: cancellationToken)))
            .Select(c => new WorkflowCount(c.Type, c.State, (WorkflowStatus)c.Status, c.Count))], cancellationToken);

    public Task<IReadOnlyList<StoredRecord>> ReadChainAsync(WorkflowKey key, long fromSequence, bool descending,
        int limit, CancellationToken cancellationToken) => LookUpAsync<IReadOnlyList<StoredRecord>>(async connection =>
        [.. (await connection.QueryAsync<RecordRow>(new CommandDefinition(
            descending
                ? """
                  SELECT *
                  FROM record
                  WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sequence <= @fromSequence
                  ORDER BY sequence DESC
                  LIMIT @limit
                  """
                : """
                  SELECT *
                  FROM record
                  WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sequence >= @fromSequence
                  ORDER BY sequence
                  LIMIT @limit
                  """,
            new { key.Namespace, key.WorkflowId, fromSequence, limit }, cancellationToken: cancellationToken)))
            .Select(row => row.ToStoredRecord())], cancellationToken);

    public Task<IReadOnlyList<StoredRecord>> ListRecordsAsync(RecordFilter filter, long fromLogIndex, bool descending,
        int limit, CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<StoredRecord>>(async connection =>
        [.. (await connection.QueryAsync<RecordRow>(new CommandDefinition(
            descending
                ? """
                  SELECT *
                  FROM record
                  WHERE log_index <= @fromLogIndex
                    AND (@Namespace::text IS NULL OR namespace = @Namespace)
                    AND (@WorkflowId::text IS NULL OR workflow_id = @WorkflowId)
                    AND (@WorkflowType::text IS NULL OR workflow_type = @WorkflowType)
                    AND (@Actor::text IS NULL OR actor = @Actor)
                    AND (@Principal::text IS NULL OR principal = @Principal)
                    AND (@RecordedAfter::bigint IS NULL OR recorded_at >= @RecordedAfter)
                    AND (@RecordedBefore::bigint IS NULL OR recorded_at < @RecordedBefore)
                  ORDER BY log_index DESC
                  LIMIT @limit
                  """
                : """
                  SELECT *
                  FROM record
                  WHERE log_index >= @fromLogIndex
                    AND (@Namespace::text IS NULL OR namespace = @Namespace)
                    AND (@WorkflowId::text IS NULL OR workflow_id = @WorkflowId)
                    AND (@WorkflowType::text IS NULL OR workflow_type = @WorkflowType)
                    AND (@Actor::text IS NULL OR actor = @Actor)
                    AND (@Principal::text IS NULL OR principal = @Principal)
                    AND (@RecordedAfter::bigint IS NULL OR recorded_at >= @RecordedAfter)
                    AND (@RecordedBefore::bigint IS NULL OR recorded_at < @RecordedBefore)
                  ORDER BY log_index
                  LIMIT @limit
                  """,
            new
            {
                fromLogIndex,
                filter.Namespace,
                filter.WorkflowId,
                filter.WorkflowType,
                filter.Actor,
                filter.Principal,
                filter.RecordedAfter,
                filter.RecordedBefore,
                limit,
            },
            cancellationToken: cancellationToken))).Select(row => row.ToStoredRecord())], cancellationToken);

    public Task<StoredRecord?> FindCheckpointAsync(WorkflowKey key, long maxSequence, long asOf,
        CancellationToken cancellationToken) => ReadAsync(async connection =>
        (await connection.QuerySingleOrDefaultAsync<RecordRow>(new CommandDefinition(
            """
            SELECT *
            FROM record
            WHERE namespace = @Namespace
              AND workflow_id = @WorkflowId
              AND sequence <= @maxSequence
              AND recorded_at <= @asOf
              AND substring(encoded FROM octet_length(encoded) - 63 FOR 32) <> decode(repeat('00', 32), 'hex')
            ORDER BY sequence DESC
            LIMIT 1
            """,
            new { key.Namespace, key.WorkflowId, maxSequence, asOf }, cancellationToken: cancellationToken)))
            ?.ToStoredRecord(), cancellationToken);

    public Task<byte[]?> ReadSnapshotAsync(WorkflowKey key, Hash sha256, CancellationToken cancellationToken) =>
        LookUpAsync(connection => connection.QuerySingleOrDefaultAsync<byte[]>(new CommandDefinition(
            """
            SELECT content
            FROM snapshot
            WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sha256 = @sha256
            """,
            new { key.Namespace, key.WorkflowId, sha256 = sha256.ToArray() },
            cancellationToken: cancellationToken)), cancellationToken);
}
