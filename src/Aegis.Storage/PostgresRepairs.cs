using Aegis.Core;
using Dapper;
using Npgsql;

namespace Aegis.Storage;

/// <summary>
/// The statements that restore what was altered, and say what becomes of violations. They come after the records of the
/// batch, which the guards of the tables look for, and before its head.
/// </summary>
internal static class PostgresRepairs
{
    public static async Task StoreAsync(NpgsqlConnection connection, LedgerBatch batch)
    {
        foreach (var repair in batch.Repairs)
            await RestoreAsync(connection, repair);
        foreach (var change in batch.ViolationChanges)
            await ChangeAsync(connection, change, batch.Now);
    }

    private static async Task RestoreAsync(NpgsqlConnection connection, Repair repair)
    {
        await connection.ExecuteAsync(
            "DELETE FROM record WHERE log_index = ANY (@removed)", new { removed = repair.Removed.ToArray() });
        if (repair.Snapshot is { } snapshot)
        {
            await connection.ExecuteAsync(
                """
                UPDATE snapshot SET content = @content
                WHERE namespace = @Namespace AND workflow_id = @WorkflowId AND sha256 = @sha256
                """,
                new
                {
                    snapshot.Key.Namespace,
                    snapshot.Key.WorkflowId,
                    sha256 = snapshot.Sha256.ToArray(),
                    content = snapshot.Content.ToArray(),
                });
        }
        if (repair.Head is not null || repair.RemovesHead)
        {
            // Not updated: what is set when a workflow begins is otherwise never set again.
            await connection.ExecuteAsync(
                "DELETE FROM workflow WHERE namespace = @Namespace AND workflow_id = @WorkflowId",
                new { repair.Key.Namespace, repair.Key.WorkflowId });
        }
        await PostgresWrites.StoreAsync(connection,
            repair.Records,
            repair.Head is { } restored ? [restored] : [],
            repair.Snapshot is { } bytes ? [bytes] : []);
        foreach (var tile in repair.Tiles)
        {
            await connection.ExecuteAsync(
                """
                DELETE FROM log_tile WHERE level = @level AND tile_index = @Index;
                INSERT INTO log_tile (level, tile_index, root, hashes, entries)
                VALUES (@level, @Index, @root, @hashes, @entries)
                """,
                new
                {
                    level = (short)tile.Tile.Level,
                    tile.Tile.Index,
                    root = tile.Tile.Root.ToArray(),
                    hashes = tile.Hashes.SelectMany(h => h.ToArray()).ToArray(),
                    entries = tile.Tile.Level > 0 ? null : tile.Entries.ToArray(),
                });
        }
    }

    private static Task ChangeAsync(NpgsqlConnection connection, ViolationChange change, long at) =>
        connection.ExecuteAsync(
            """
            UPDATE violation SET
                recorded_at = CASE WHEN @isRecorded THEN @at ELSE recorded_at END,
                released_at = CASE WHEN @isRecorded THEN released_at ELSE @at END,
                is_repaired = is_repaired OR @isRepaired
            FROM unnest(@namespaces, @workflowIds) AS key (namespace, workflow_id)
            WHERE violation.released_at = 0
              AND violation.namespace = key.namespace
              AND violation.workflow_id = key.workflow_id
              AND violation.number <= @UpToNumber
              AND (@ids::text[] IS NULL OR violation.violation_id = ANY (@ids))
            """,
            new
            {
                isRecorded = change.Fate == ViolationFate.Recorded,
                isRepaired = change.Fate == ViolationFate.Repaired,
                at,
                namespaces = change.Keys.Select(k => k.Namespace).ToArray(),
                workflowIds = change.Keys.Select(k => k.WorkflowId).ToArray(),
                change.UpToNumber,
                ids = change.Ids?.ToArray(),
            });
}
