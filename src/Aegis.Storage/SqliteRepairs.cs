using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

/// <summary>
/// The statements that restore what was altered, and say what becomes of violations. They come after the records of the
/// batch, which the guards of the tables look for, and before its head.
/// </summary>
internal static class SqliteRepairs
{
    /// <summary>Rows beyond the log go first: one can stand where the next record has to.</summary>
    public static void RemoveStrays(SqliteConnection connection, LedgerBatch batch)
    {
        foreach (var logIndex in batch.Repairs.SelectMany(r => r.Removed).Where(i => i >= batch.LogSizeBefore))
            connection.Execute("DELETE FROM record WHERE log_index = @logIndex", new { logIndex });
    }

    public static void Store(SqliteWriter writer, LedgerBatch batch)
    {
        foreach (var repair in batch.Repairs)
            Restore(writer, repair, batch.LogSizeBefore);
        foreach (var change in batch.ViolationChanges)
            Change(writer.Connection, change, batch.Now);
    }

    private static void Restore(SqliteWriter writer, Repair repair, long logSize)
    {
        var connection = writer.Connection;
        foreach (var logIndex in repair.Removed.Where(i => i < logSize))
            connection.Execute("DELETE FROM record WHERE log_index = @logIndex", new { logIndex });
        SqliteWrites.StoreRecords(writer, repair.Records);
        if (repair.Snapshot is { } snapshot)
        {
            connection.Execute(
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
            SqliteWrites.StoreSnapshots(writer, [snapshot]);
        }
        if (repair.Head is not null || repair.RemovesHead)
        {
            // Not updated: what is set when a workflow begins is otherwise never set again.
            connection.Execute(
                "DELETE FROM workflow WHERE namespace = @Namespace AND workflow_id = @WorkflowId", repair.Key);
        }
        if (repair.Head is { } head)
            SqliteWrites.StoreWorkflows(writer, [head]);
        foreach (var tile in repair.Tiles)
        {
            connection.Execute(
                "DELETE FROM log_tile WHERE level = @Level AND tile_index = @Index", new { tile.Tile.Level, tile.Tile.Index });
            connection.Execute(
                """
                INSERT INTO log_tile (level, tile_index, root, hashes, entries)
                VALUES (@Level, @Index, @root, @hashes, @entries)
                """,
                new
                {
                    tile.Tile.Level,
                    tile.Tile.Index,
                    root = tile.Tile.Root.ToArray(),
                    hashes = tile.Hashes.SelectMany(h => h.ToArray()).ToArray(),
                    entries = tile.Tile.Level > 0 ? null : tile.Entries.ToArray(),
                });
        }
    }

    private static void Change(SqliteConnection connection, ViolationChange change, long at)
    {
        foreach (var key in change.Keys)
        {
            connection.Execute(
                """
                UPDATE violation SET
                    recorded_at = iif(@isRecorded, @at, recorded_at),
                    released_at = iif(@isRecorded, released_at, @at),
                    is_repaired = is_repaired OR @isRepaired
                WHERE released_at = 0
                  AND namespace = @Namespace
                  AND workflow_id = @WorkflowId
                  AND number <= @UpToNumber
                  AND (@ids IS NULL OR violation_id IN (SELECT value FROM json_each(@ids)))
                """,
                new
                {
                    isRecorded = change.Fate == ViolationFate.Recorded,
                    isRepaired = change.Fate == ViolationFate.Repaired,
                    at,
                    key.Namespace,
                    key.WorkflowId,
                    change.UpToNumber,
                    ids = change.Ids is null ? null : System.Text.Json.JsonSerializer.Serialize(change.Ids),
                });
        }
    }
}
