using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

// Violations: beside the log, so that they can be kept while the log takes no writes.
public sealed partial class SqliteLedgerStore
{
    public async Task<AddedViolations> AddViolationsAsync(
        IReadOnlyList<FoundViolation> violations, CancellationToken cancellationToken)
    {
        await _writing.WaitAsync(cancellationToken);
        SqliteConnection? connection = null;
        try
        {
            connection = OpenForWriting();
            connection.Execute("BEGIN IMMEDIATE");
            var repaired = connection.Query<RecordRow>(
                """
                SELECT *
                FROM record
                WHERE namespace = 'aegis.system'
                  AND workflow_id = 'log'
                  AND to_state = 'REPAIRED'
                  AND log_index >= @from
                  AND log_index < (SELECT coalesce(max(size), 0) FROM log_head)
                """,
                new { from = violations.Min(v => v.ReadAt) }).Select(row => row.ToStoredRecord()).ToList();
            var overtaken = violations.Where(v => Overtaken.IsSo(v, repaired)).Select(v => v.Id).ToHashSet();
            var opened = violations.Where(v => !overtaken.Contains(v.Id) && Add(connection, v)).Select(v => v.Id).ToHashSet();
            connection.Execute("COMMIT");
            connection.Dispose();
            return new AddedViolations(opened, overtaken);
        }
        catch (SqliteException e)
        {
            Discard(connection);
            throw Classify(e);
        }
        finally
        {
            _writing.Release();
        }
    }

    private static bool Add(SqliteConnection connection, FoundViolation violation) => connection.Execute(
        """
        INSERT INTO violation (
            violation_id, class, namespace, workflow_id, sequence, log_index, expected_hash, actual_hash, differences, message,
            last_good_log_size, found_at)
        VALUES (
            @Id, @class, @Namespace, @WorkflowId, @Sequence, @LogIndex, @expectedHash, @actualHash, @differences, @Message,
            @LastGoodLogSize, @FoundAt)
        ON CONFLICT (violation_id) DO UPDATE SET
            found_at = excluded.found_at,
            recorded_at = 0,
            released_at = 0,
            is_repaired = 0
        WHERE is_repaired
        """,
        new
        {
            violation.Id,
            @class = (long)violation.Violation.Class,
            violation.Violation.Key.Namespace,
            violation.Violation.Key.WorkflowId,
            violation.Violation.Sequence,
            violation.Violation.LogIndex,
            expectedHash = violation.Violation.ExpectedHash?.ToArray(),
            actualHash = violation.Violation.ActualHash?.ToArray(),
            differences = DifferencesJson.Write(violation.Violation.Differences),
            violation.Violation.Message,
            violation.Violation.LastGoodLogSize,
            violation.FoundAt,
        }) > 0;

    public Task<IReadOnlyList<FoundViolation>> ListViolationsAsync(ViolationFilter filter, long beforeNumber, int limit,
        CancellationToken cancellationToken) => ReadAsync<IReadOnlyList<FoundViolation>>(connection =>
        [.. connection.Query<ViolationRow>(
            """
            SELECT *
            FROM violation
            WHERE number < @beforeNumber
              AND (@IncludeReleased OR released_at = 0)
              AND (@Namespace IS NULL OR namespace = @Namespace)
              AND (@WorkflowId IS NULL OR workflow_id = @WorkflowId)
              AND (@ids IS NULL OR violation_id IN (SELECT value FROM json_each(@ids)))
            ORDER BY number DESC
            LIMIT @limit
            """,
            new
            {
                beforeNumber,
                filter.IncludeReleased,
                filter.Namespace,
                filter.WorkflowId,
                ids = IdsJson(filter.Ids),
                limit,
            }).Select(row => row.ToFoundViolation())]);

    public Task<OpenViolations> CountOpenViolationsAsync(CancellationToken cancellationToken) => ReadAsync(connection =>
    {
        var (count, recorded, number, foundAt) = connection.QuerySingle<(long, long, long, long)>(
            """
            SELECT
                count(*),
                count(*) FILTER (WHERE recorded_at <> 0),
                coalesce(max(number), 0),
                coalesce(max(found_at), 0)
            FROM violation
            WHERE released_at = 0
            """);
        return new OpenViolations(count, recorded, number, foundAt);
    });

    private static string? IdsJson(IReadOnlyCollection<string>? ids) =>
        ids is null ? null : System.Text.Json.JsonSerializer.Serialize(ids);
}
