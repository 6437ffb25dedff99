using Aegis.Core;
using Dapper;
using Npgsql;

namespace Aegis.Storage;

// Violations: beside the log, so that they can be kept while the log takes no writes.
public sealed partial class PostgresLedgerStore
{
    public async Task<AddedViolations> AddViolationsAsync(
        IReadOnlyList<FoundViolation> violations, CancellationToken cancellationToken)
    {
        NpgsqlConnection? connection = null;
        try
        {
            connection = await _writer.OpenAsync(cancellationToken);
            var added = await UnlessBrokenAsync(connection, () => AddViolationsAsync(connection, violations, cancellationToken));
            await connection.DisposeAsync();
            return added;
        }
        catch (Exception e)
        {
            await GiveUpAsync(connection, e);
            throw;
        }
    }

    private static async Task<AddedViolations> AddViolationsAsync(
        NpgsqlConnection connection, IReadOnlyList<FoundViolation> violations, CancellationToken cancellationToken)
    {
        await connection.ExecuteAsync(new CommandDefinition(
            "BEGIN; SELECT id FROM log_lock WHERE id = 1 FOR UPDATE; SELECT nextval('log_turn')", cancellationToken: cancellationToken));
        // Read only once the lock is held: a repair that was waited for has to be seen.
        var rows = await connection.QueryAsync<RecordRow>(new CommandDefinition(
            """
            SELECT *
            FROM record
            WHERE namespace = 'aegis.system'
              AND workflow_id = 'log'
              AND to_state = 'REPAIRED'
              AND log_index >= @from
              AND log_index < (SELECT coalesce(max(size), 0) FROM log_head)
            """,
            new { from = violations.Min(v => v.ReadAt) }, cancellationToken: cancellationToken));
        var repaired = rows.Select(row => row.ToStoredRecord()).ToList();
        var overtaken = violations.Where(v => Overtaken.IsSo(v, repaired)).Select(v => v.Id).ToHashSet();
        var opened = await InsertAsync(connection, [.. violations.Where(v => !overtaken.Contains(v.Id))], cancellationToken);
        await connection.ExecuteAsync(new CommandDefinition("COMMIT", cancellationToken: cancellationToken));
        return new AddedViolations(opened.ToHashSet(), overtaken);
    }

    private static Task<IEnumerable<string>> InsertAsync(
        NpgsqlConnection connection, IReadOnlyList<FoundViolation> violations, CancellationToken cancellationToken)
    {
        T[] Column<T>(Func<FoundViolation, T> value) => [.. violations.Select(value)];

        return connection.QueryAsync<string>(new CommandDefinition(
            """
            INSERT INTO violation (
                violation_id, class, namespace, workflow_id, sequence, log_index, expected_hash, actual_hash, differences,
                message, last_good_log_size, found_at)
            SELECT
                violation_id, class, namespace, workflow_id, sequence, log_index, expected_hash, actual_hash,
                differences::jsonb, message, last_good_log_size, found_at
            FROM unnest(
                @id, @class, @namespace, @workflowId, @sequence, @logIndex, @expectedHash, @actualHash, @differences,
                @message, @lastGoodLogSize, @foundAt) WITH ORDINALITY AS v (
                violation_id, class, namespace, workflow_id, sequence, log_index, expected_hash, actual_hash, differences,
                message, last_good_log_size, found_at, place)
            ORDER BY place
            ON CONFLICT (violation_id) DO UPDATE SET
                found_at = excluded.found_at,
                recorded_at = 0,
                released_at = 0,
                is_repaired = false
            WHERE violation.is_repaired
            RETURNING violation_id
            """,
            new
            {
                id = Column(v => v.Id),
                @class = Column(v => (short)v.Violation.Class),
                @namespace = Column(v => DifferencesJson.Clean(v.Violation.Key.Namespace)),
                workflowId = Column(v => DifferencesJson.Clean(v.Violation.Key.WorkflowId)),
                sequence = Column(v => v.Violation.Sequence),
                logIndex = Column(v => v.Violation.LogIndex),
                expectedHash = Column(v => v.Violation.ExpectedHash?.ToArray()),
                actualHash = Column(v => v.Violation.ActualHash?.ToArray()),
                differences = Column(v => DifferencesJson.Write(v.Violation.Differences)),
                message = Column(v => DifferencesJson.Clean(v.Violation.Message)),
                lastGoodLogSize = Column(v => v.Violation.LastGoodLogSize),
                foundAt = Column(v => v.FoundAt),
            },
            cancellationToken: cancellationToken));
    }

    public Task<IReadOnlyList<FoundViolation>> ListViolationsAsync(ViolationFilter filter, long beforeNumber, int limit,
        CancellationToken cancellationToken) => ReadAtPrimaryAsync<IReadOnlyList<FoundViolation>>(async connection =>
        [.. (await connection.QueryAsync<ViolationRow>(new CommandDefinition(
            filter.IncludeReleased
                ? """
                  SELECT *
                  FROM violation
                  WHERE number < @beforeNumber
                    AND (@Namespace::text IS NULL OR namespace = @Namespace)
                    AND (@WorkflowId::text IS NULL OR workflow_id = @WorkflowId)
                    AND (@ids::text[] IS NULL OR violation_id = ANY (@ids))
                  ORDER BY number DESC
                  LIMIT @limit
                  """
                : """
                  SELECT *
                  FROM violation
                  WHERE released_at = 0
                    AND number < @beforeNumber
                    AND (@Namespace::text IS NULL OR namespace = @Namespace)
                    AND (@WorkflowId::text IS NULL OR workflow_id = @WorkflowId)
                    AND (@ids::text[] IS NULL OR violation_id = ANY (@ids))
                  ORDER BY number DESC
                  LIMIT @limit
                  """,
            new { beforeNumber, filter.Namespace, filter.WorkflowId, ids = filter.Ids?.ToArray(), limit },
            cancellationToken: cancellationToken))).Select(row => row.ToFoundViolation())], cancellationToken);

    public Task<OpenViolations> CountOpenViolationsAsync(CancellationToken cancellationToken) =>
        ReadAtPrimaryAsync(async connection =>
        {
            var (count, recorded, number, foundAt) = await connection.QuerySingleAsync<(long, long, long, long)>(
                new CommandDefinition(
                    """
                    SELECT
                        count(*),
                        count(*) FILTER (WHERE recorded_at <> 0),
                        coalesce(max(number), 0),
                        coalesce(max(found_at), 0)
                    FROM violation
                    WHERE released_at = 0
                    """,
                    cancellationToken: cancellationToken));
            return new OpenViolations(count, recorded, number, foundAt);
        }, cancellationToken);
}
