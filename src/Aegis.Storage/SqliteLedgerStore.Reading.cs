using System.Text.Json;
using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

// Reading. Rows are read by the names of their columns, so that those a later version adds are passed over.
public sealed partial class SqliteLedgerStore
{
    public Task<StoredHead?> ReadHeadAsync(CancellationToken cancellationToken) => ReadAsync(ReadHead);

    private static StoredHead? ReadHead(SqliteConnection connection) => connection.QuerySingleOrDefault<HeadRow>(
        "SELECT log_id, size, frontier, signed_note, last_recorded_at FROM log_head ORDER BY size DESC LIMIT 1")
        ?.ToStoredHead();

    public Task<IReadOnlyList<Hash>> ReadHashesAsync(long fromLogIndex, int limit, bool fromEncoded,
        CancellationToken cancellationToken) =>
        ReadAsync(connection => ReadHashes(connection, fromLogIndex, limit, fromEncoded));

    private static IReadOnlyList<Hash> ReadHashes(SqliteConnection connection, long fromLogIndex, int limit, bool fromEncoded)
    {
        var read = connection.Query<byte[]>(
            fromEncoded
                ? "SELECT encoded FROM record WHERE log_index >= @fromLogIndex ORDER BY log_index LIMIT @limit"
                : "SELECT hash FROM record WHERE log_index >= @fromLogIndex ORDER BY log_index LIMIT @limit",
            new { fromLogIndex, limit });
        return [.. read.Select(bytes => fromEncoded ? RecordFormat.HashOf(bytes) : HashBytes.One(bytes))];
    }

    public Task<IReadOnlyList<Hash>> ReadTileAsync(int level, long index, CancellationToken cancellationToken) =>
        ReadAsync<IReadOnlyList<Hash>>(connection =>
        {
            var stored = connection.QuerySingleOrDefault<byte[]>(
                "SELECT hashes FROM log_tile WHERE level = @level AND tile_index = @index", new { level, index });
            if (stored is not null)
                return HashBytes.Many(stored);
            var hashes = connection.Query<byte[]>(
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
                new { level, index });
            return [.. hashes.Select(HashBytes.One)];
        });

    public Task<Workflow?> FindWorkflowAsync(WorkflowKey key, CancellationToken cancellationToken) =>
        ReadAsync(connection => connection.QuerySingleOrDefault<WorkflowRow>(
            "SELECT * FROM workflow_and_lease WHERE namespace = @Namespace AND workflow_id = @WorkflowId", key)
            ?.ToWorkflow());

    public Task<IReadOnlyList<Resumable>> ReadResumableAsync(IReadOnlyCollection<WorkflowKey> keys, int recordsMax,
        long snapshotBytesMax, CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<Resumable>>(connection =>
    {
        // One look: what is written meanwhile is not seen.
        using var look = connection.BeginTransaction(deferred: true);
        var found = new List<Resumable>();
        foreach (var key in keys)
        {
            var workflow = connection.QuerySingleOrDefault<WorkflowRow>(
                "SELECT * FROM workflow_and_lease WHERE namespace = @Namespace AND workflow_id = @WorkflowId", key)?.ToWorkflow();
            if (workflow is null)
                continue;
            var records = connection.Query<RecordRow>(
                """
                SELECT *
                FROM record
                WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sequence >= max(1, @CheckpointSequence)
                ORDER BY sequence
                LIMIT @recordsMax
                """,
                new { key.Namespace, key.WorkflowId, workflow.CheckpointSequence, recordsMax })
                .Select(row => row.ToStoredRecord()).ToList();
            var sha256 = records.Find(r => r.Record.Sequence == workflow.CheckpointSequence)?.Record.Snapshot?.Sha256;
            found.Add(new Resumable(workflow, records, sha256 is null ? null : connection.QuerySingleOrDefault<byte[]>(
                """
                SELECT content
                FROM snapshot
                WHERE namespace = @Namespace
                  AND workflow_id = @WorkflowId
                  AND sha256 = @sha256
                  AND length(content) <= @snapshotBytesMax
                """,
                new { key.Namespace, key.WorkflowId, sha256 = sha256.Value.ToArray(), snapshotBytesMax })));
        }
        return found;
    });

    public Task<IReadOnlyList<PendingWorkflow>> ListPendingAsync(PendingFilter filter, long afterLogIndex, int limit,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<PendingWorkflow>>(connection =>
        [.. connection.Query<(string WorkflowId, long CreatedLogIndex)>(
            """
            SELECT workflow_id, created_log_index
            FROM workflow
            WHERE namespace = @Namespace
              AND created_log_index > @afterLogIndex
              AND status <= 2
              AND status IN (SELECT value FROM json_each(@statuses))
              AND (@types IS NULL OR workflow_type IN (SELECT value FROM json_each(@types)))
              AND (@states IS NULL OR state IN (SELECT value FROM json_each(@states)))
              AND NOT importing
            ORDER BY created_log_index
            LIMIT @limit
            """,
            new
            {
                filter.Namespace,
                afterLogIndex,
                types = Json(filter.WorkflowTypes),
                states = Json(filter.States),
                statuses = Json([.. filter.Statuses.Select(s => (int)s)]),
                limit,
            }).Select(w => new PendingWorkflow(new WorkflowKey(filter.Namespace, w.WorkflowId), w.CreatedLogIndex))]);

    public Task<IReadOnlyList<Workflow>> ListWorkflowsAsync(WorkflowFilter filter, long afterLogIndex, int limit,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<Workflow>>(connection =>
        [.. connection.Query<WorkflowRow>(
            // What is open has an index of its own, which SQLite takes only where the query says so itself: a worker must find
            // what is pending among any number of closed workflows.
            filter.Statuses.Count > 0 && !filter.Statuses.Any(s => s.IsClosed())
                ? """
                  SELECT *
                  FROM workflow_and_lease AS w
                  WHERE namespace = @Namespace
                    AND created_log_index > @afterLogIndex
                    AND status <= 2
                    AND status IN (SELECT value FROM json_each(@statuses))
                    AND (@types IS NULL OR workflow_type IN (SELECT value FROM json_each(@types)))
                    AND (@states IS NULL OR state IN (SELECT value FROM json_each(@states)))
                    AND (@UpdatedBefore IS NULL OR updated_at < @UpdatedBefore)
                    AND (@UpdatedAfter IS NULL OR updated_at >= @UpdatedAfter)
                    AND (@metadata IS NULL OR NOT EXISTS (
                        SELECT 1
                        FROM json_each(@metadata) AS wanted
                        WHERE NOT EXISTS (
                            SELECT 1
                            FROM json_each(w.metadata) AS had
                            WHERE had.key = wanted.key AND had.value = wanted.value)))
                  ORDER BY created_log_index
                  LIMIT @limit
                  """
                : """
                  SELECT *
                  FROM workflow_and_lease AS w
                  WHERE namespace = @Namespace
                    AND created_log_index > @afterLogIndex
                    AND (@types IS NULL OR workflow_type IN (SELECT value FROM json_each(@types)))
                    AND (@states IS NULL OR state IN (SELECT value FROM json_each(@states)))
                    AND (@statuses IS NULL OR status IN (SELECT value FROM json_each(@statuses)))
                    AND (@UpdatedBefore IS NULL OR updated_at < @UpdatedBefore)
                    AND (@UpdatedAfter IS NULL OR updated_at >= @UpdatedAfter)
                    AND (@metadata IS NULL OR NOT EXISTS (
                        SELECT 1
                        FROM json_each(@metadata) AS wanted
                        WHERE NOT EXISTS (
                            SELECT 1
                            FROM json_each(w.metadata) AS had
                            WHERE had.key = wanted.key AND had.value = wanted.value)))
                  ORDER BY created_log_index
                  LIMIT @limit
                  """,
            new
            {
                filter.Namespace,
                afterLogIndex,
                types = Json(filter.WorkflowTypes),
                states = Json(filter.States),
                statuses = Json([.. filter.Statuses.Select(s => (int)s)]),
                filter.UpdatedBefore,
                filter.UpdatedAfter,
                metadata = filter.Metadata.Count == 0 ? null : MetadataJson.Write(filter.Metadata),
                limit,
            }).Select(row => row.ToWorkflow())]);

    public Task<IReadOnlyList<WorkflowCount>> CountWorkflowsAsync(string @namespace,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<WorkflowCount>>(connection =>
        [.. connection.Query<(string Type, string State, long Status, long Count)>(
            """
            SELECT workflow_type, state, status, count(*)
            FROM workflow
            WHERE namespace = @namespace
            GROUP BY workflow_type, state, status
            ORDER BY workflow_type, state, status
            """,
            new { @namespace })
            .Select(c => new WorkflowCount(c.Type, c.State, (WorkflowStatus)c.Status, c.Count))]);

    public Task<IReadOnlyList<StoredRecord>> ReadChainAsync(WorkflowKey key, long fromSequence, bool descending,
        int limit, CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<StoredRecord>>(connection =>
        [.. connection.Query<RecordRow>(
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
            new { key.Namespace, key.WorkflowId, fromSequence, limit })
            .Select(row => row.ToStoredRecord())]);

    public Task<IReadOnlyList<StoredRecord>> ListRecordsAsync(RecordFilter filter, long fromLogIndex, bool descending,
        int limit, CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<StoredRecord>>(connection =>
        [.. connection.Query<RecordRow>(
            descending
                ? """
                  SELECT *
                  FROM record
                  WHERE log_index <= @fromLogIndex
                    AND (@Namespace IS NULL OR namespace = @Namespace)
                    AND (@WorkflowId IS NULL OR workflow_id = @WorkflowId)
                    AND (@WorkflowType IS NULL OR workflow_type = @WorkflowType)
                    AND (@Actor IS NULL OR actor = @Actor)
                    AND (@Principal IS NULL OR principal = @Principal)
                    AND (@RecordedAfter IS NULL OR recorded_at >= @RecordedAfter)
                    AND (@RecordedBefore IS NULL OR recorded_at < @RecordedBefore)
                  ORDER BY log_index DESC
                  LIMIT @limit
                  """
                : """
                  SELECT *
                  FROM record
                  WHERE log_index >= @fromLogIndex
                    AND (@Namespace IS NULL OR namespace = @Namespace)
                    AND (@WorkflowId IS NULL OR workflow_id = @WorkflowId)
                    AND (@WorkflowType IS NULL OR workflow_type = @WorkflowType)
                    AND (@Actor IS NULL OR actor = @Actor)
                    AND (@Principal IS NULL OR principal = @Principal)
                    AND (@RecordedAfter IS NULL OR recorded_at >= @RecordedAfter)
                    AND (@RecordedBefore IS NULL OR recorded_at < @RecordedBefore)
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
            }).Select(row => row.ToStoredRecord())]);

    public Task<StoredRecord?> FindCheckpointAsync(WorkflowKey key, long maxSequence, long asOf,
        CancellationToken cancellationToken) => ReadAsync(connection => connection.QuerySingleOrDefault<RecordRow>(
        """
        SELECT *
        FROM record
        WHERE namespace = @Namespace
          AND workflow_id = @WorkflowId
          AND sequence <= @maxSequence
          AND recorded_at <= @asOf
          AND substr(encoded, -64, 32) <> x'0000000000000000000000000000000000000000000000000000000000000000'
        ORDER BY sequence DESC
        LIMIT 1
        """,
        new { key.Namespace, key.WorkflowId, maxSequence, asOf })?.ToStoredRecord());

    public Task<byte[]?> ReadSnapshotAsync(WorkflowKey key, Hash sha256, CancellationToken cancellationToken) =>
        ReadAsync(connection => connection.QuerySingleOrDefault<byte[]>(
            """
            SELECT content
            FROM snapshot
            WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sha256 = @sha256
            """,
            new { key.Namespace, key.WorkflowId, sha256 = sha256.ToArray() }));

    private static string? Json<T>(IReadOnlyCollection<T> values) =>
        values.Count == 0 ? null : JsonSerializer.Serialize(values);
}
