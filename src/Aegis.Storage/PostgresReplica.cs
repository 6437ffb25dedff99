using Dapper;
using Npgsql;

namespace Aegis.Storage;

/// <summary>
/// A standby of the ledger's PostgreSQL, where the log can be read (<see cref="PostgresLedgerStore.ReadingAt"/>). Nothing is ever
/// written through it, also when it is a primary by now. Thread-safe.
/// </summary>
public sealed class PostgresReplica : IAsyncDisposable
{
    private const int ConnectSeconds = 2;

    // A replica that is silent: its socket is closed, rather than waited for to confirm that a read was cancelled.
    private const int CancellationMilliseconds = 250;

    private const string ReadOnlySession = "SELECT set_config('default_transaction_read_only', 'on', false)";

    private PostgresReplica(NpgsqlConnectionStringBuilder settings)
    {
        Location = settings.Host!.EndsWith(']') || !settings.Host.Contains(':', StringComparison.Ordinal)
            ? $"{settings.Host}:{settings.Port}"
            : settings.Host;
        Reader = new PostgresPool(settings, settings.MaxPoolSize, seconds: 5, ReadOnlySession);
        Lookup = new PostgresPool(settings, Math.Min(settings.MaxPoolSize, PostgresLedgerStore.LookupsAtOnce), seconds: 5,
            ReadOnlySession, PostgresLedgerStore.PlannedOnce);
    }

    /// <summary>Its host and port, for people.</summary>
    public string Location { get; }

    /// <summary>Called when it cannot be reached, or sends no answer.</summary>
    public event Action<StoreException>? Lost;

    internal PostgresPool Reader { get; }

    internal PostgresPool Lookup { get; }

    /// <summary>Takes an Npgsql connection string, each host of which is a replica; connects to nothing yet.</summary>
    /// <exception cref="StoreException">It is not one.</exception>
    public static IReadOnlyList<PostgresReplica> Open(string connectionString)
    {
        try
        {
            var settings = PostgresLedgerStore.Settings(connectionString, ConnectSeconds);
            settings.CancellationTimeout = CancellationMilliseconds;
            // Which of several hosts is read at is chosen by what each of them has of the log.
            settings.Remove("Target Session Attributes");
            settings.Remove("Load Balance Hosts");
            return
            [
                .. settings.Host!.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Distinct()
                    .Select(host => new PostgresReplica(new NpgsqlConnectionStringBuilder(settings.ToString()) { Host = host })),
            ];
        }
        catch (Exception e) when (e is ArgumentException or FormatException or InvalidOperationException or NotSupportedException)
        {
            throw new StoreException(StoreFailure.Unusable,
                $"AEGIS_READ_DATABASE is not an Npgsql connection string: {e.Message}", e);
        }
    }

    /// <summary>Whether it answers, is a standby, and how far its log is. Cheap.</summary>
    /// <param name="size">How far the log is that is known from elsewhere.</param>
    /// <param name="cancellationToken">Gives up.</param>
    public Task<ReplicaProbe> ProbeAsync(long size, CancellationToken cancellationToken) =>
        PostgresLedgerStore.ReadAsync(Reader, async connection =>
        {
            await using var results = await connection.QueryMultipleAsync(new CommandDefinition(
                """
                SELECT pg_is_in_recovery(), coalesce((SELECT max(size) FROM log_head), 0);
                SELECT log_id, size, frontier, signed_note, last_recorded_at
                FROM log_head
                WHERE size <= @size
                ORDER BY size DESC
                LIMIT 1
                """,
                new { size }, cancellationToken: cancellationToken));
            var (isStandby, logSize) = await results.ReadSingleAsync<(bool, long)>();
            return new ReplicaProbe(isStandby, logSize, (await results.ReadSingleOrDefaultAsync<HeadRow>())?.ToStoredHead());
        }, cancellationToken);

    public async ValueTask DisposeAsync()
    {
        await Reader.DisposeAsync();
        await Lookup.DisposeAsync();
    }

    /// <summary>A read failed here. One that was ended for its own sake says nothing of the next.</summary>
    internal void Failed(StoreException e)
    {
        if (e.InnerException is not PostgresException { SqlState: not PostgresErrorCodes.CannotConnectNow } answered
            || PostgresLedgerStore.WasCutOff(answered))
        {
            Lost?.Invoke(e);
        }
    }
}

/// <summary>What a probe of a replica found.</summary>
/// <param name="IsStandby">Whether it follows a primary: one that was promoted does not.</param>
/// <param name="LogSize">How many records its log has.</param>
/// <param name="Head">Its newest head not beyond the size that was asked for; null where it has none.</param>
public sealed record ReplicaProbe(bool IsStandby, long LogSize, StoredHead? Head);
