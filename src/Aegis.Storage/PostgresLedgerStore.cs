using System.Data.Common;
using System.Diagnostics;
using Aegis.Core;
using Dapper;
using Npgsql;

namespace Aegis.Storage;

/// <summary>
/// The ledger in PostgreSQL. Writers of all servers take turns on the row of log_lock; a batch costs one
/// round trip where the server remembers all that it touches (<see cref="WriterMemory"/>), and otherwise two. READ COMMITTED, so that
/// each statement after the lock sees what the writer before has committed.
/// </summary>
public sealed partial class PostgresLedgerStore : ILedgerStore
{
    private const long MigrationLock = 0x6165676973; // "aegis"
    private const int ConnectSeconds = 5;

    // Whoever comes after a migration that waits for a table waits behind it. So it waits less than any caller's patience, and
    // lets all of them go on before it asks again.
    private const string MigrationLockTimeout = "500ms";
    private static readonly TimeSpan MigrationPause = TimeSpan.FromSeconds(3);
    // Shorter than a probe's patience: else one host that is gone without a word and is listed first would hide the others from it.
    private const int ConnectSecondsOfMany = 2;

    // The ledger's, and those that a commit of unknown outcome keeps or is made sure of on.
    private const int WritersAtOnce = 4;

    // The log is read in rows and tiles of many kilobytes, which a small buffer would have to be filled for again and again.
    private const int LogBufferBytes = 256 * 1024;
    private static readonly int LogReadersAtOnce = (2 * Environment.ProcessorCount) + 4;

    // More than the processors of a database that has many; who comes meanwhile waits for microseconds.
    internal const int LookupsAtOnce = 32;

    private readonly string _connectionString;
    private readonly PostgresPool _writer;
    private readonly PostgresPool _reader;
    private readonly PostgresPool _lookup;
    private readonly PostgresPool _log;
    private long? _migrationGaveWay;

    static PostgresLedgerStore() => DefaultTypeMap.MatchNamesWithUnderscores = true;

    private PostgresLedgerStore(NpgsqlConnectionStringBuilder settings)
    {
        _connectionString = settings.ToString();
        Location = $"{settings.Host}:{settings.Port}/{settings.Database ?? settings.Username}";
        _writer = new PostgresPool(settings, WritersAtOnce, seconds: 15, WriterSession, PlannedOnce);
        _reader = new PostgresPool(settings, settings.MaxPoolSize, seconds: 5);
        _lookup = new PostgresPool(settings, Math.Min(settings.MaxPoolSize, LookupsAtOnce), seconds: 5, PlannedOnce);
        _log = new PostgresPool(new NpgsqlConnectionStringBuilder(settings.ToString()) { ReadBufferSize = LogBufferBytes },
            Math.Min(settings.MaxPoolSize, LogReadersAtOnce), seconds: 5);
    }

    public string Kind => "postgresql";

    public string Location { get; }

    /// <summary>Takes an Npgsql connection string; connects to nothing yet.</summary>
    /// <exception cref="StoreException">It is not one.</exception>
    public static PostgresLedgerStore Open(string connectionString)
    {
        try
        {
            var isOfMany = new NpgsqlConnectionStringBuilder(connectionString).Host?.Contains(',', StringComparison.Ordinal) == true;
            var settings = Settings(connectionString, isOfMany ? ConnectSecondsOfMany : ConnectSeconds);
            if (isOfMany)
                settings.TargetSessionAttributes = WhatTakesWrites(settings);
            return new PostgresLedgerStore(settings);
        }
        catch (Exception e) when (e is ArgumentException or FormatException or InvalidOperationException)
        {
            throw new StoreException(StoreFailure.Unusable,
                $"AEGIS_DATABASE is neither sqlite:PATH nor an Npgsql connection string: {e.Message}", e);
        }
    }

    /// <summary>The ledger is written: of several hosts only one that takes writes will do.</summary>
    private static string WhatTakesWrites(NpgsqlConnectionStringBuilder settings) => settings.TargetSessionAttributes switch
    {
        null => "primary",
        "primary" or PostgresPool.ReadWrite => settings.TargetSessionAttributes,
        var other => throw new StoreException(StoreFailure.Unusable,
            $"AEGIS_DATABASE asks for Target Session Attributes={other}, which need not take writes: say primary, which is the default, or read-write."),
    };

    /// <exception cref="ArgumentException">It is no Npgsql connection string, or names no host.</exception>
    internal static NpgsqlConnectionStringBuilder Settings(string connectionString, int connectSeconds)
    {
        var settings = new NpgsqlConnectionStringBuilder(connectionString)
        {
            ApplicationName = "aegis",
            // A writer must never stay with an old primary: ask again soon.
            HostRecheckSeconds = 1,
            IncludeErrorDetail = false,
        };
        if (string.IsNullOrEmpty(settings.Host))
            throw new ArgumentException("it names no Host");
        // A socket of this machine knows nothing of it, and refuses.
        if (!settings.Host.Split(',').Any(host => host.TrimStart() is ['/' or '@', ..]))
            (settings.TcpKeepAlive, settings.TcpKeepAliveTime, settings.TcpKeepAliveInterval) = (true, 5, 1);
        // A host that is gone without a word must not keep the others waiting; no token shortens this.
        if (!new DbConnectionStringBuilder { ConnectionString = connectionString }.ContainsKey("Timeout"))
            settings.Timeout = connectSeconds;
        return settings;
    }

    public async Task MigrateAsync(CancellationToken cancellationToken)
    {
        if (_migrationGaveWay is { } since && MigrationPause - Stopwatch.GetElapsedTime(since) is { Ticks: > 0 } rest)
            await Task.Delay(rest, cancellationToken);
        try
        {
            await using var connection = await _reader.OpenAsync(cancellationToken);
            if (await IsMigratedAsync(connection, cancellationToken))
                return;
            // The lock lives with this connection: a server that dies while it migrates lets the next one go on.
            await connection.ExecuteAsync(new CommandDefinition("SELECT pg_advisory_lock(@MigrationLock)",
                new { MigrationLock }, commandTimeout: 120, cancellationToken: cancellationToken));
            try
            {
                Migrator.Run(DbUp.DeployChanges.To.PostgresqlDatabase(MigrationConnectionString(connection)), "PostgreSql");
            }
            finally
            {
                await connection.ExecuteAsync("SELECT pg_advisory_unlock(@MigrationLock)", new { MigrationLock });
            }
        }
        catch (PostgresException e) when (e.SqlState == PostgresErrorCodes.LockNotAvailable)
        {
            // It was rolled back as a whole.
            _migrationGaveWay = Stopwatch.GetTimestamp();
            throw new StoreException(StoreFailure.Unavailable, "A migration has to wait for a long transaction, such as a dump, "
                + "to end (pg_stat_activity tells whose). Callers go before: it is tried again every few seconds.");
        }
        catch (Exception e) when (e is NpgsqlException or TimeoutException)
        {
            throw Classify(e);
        }
    }

    private static async Task<bool> IsMigratedAsync(NpgsqlConnection connection, CancellationToken cancellationToken) =>
        await connection.ExecuteScalarAsync<bool>(new CommandDefinition(
            "SELECT to_regclass('schemaversions') IS NOT NULL", cancellationToken: cancellationToken))
        && Migrator.IsDone(await connection.QueryAsync<string>(new CommandDefinition(
            "SELECT scriptname FROM schemaversions", cancellationToken: cancellationToken)), "PostgreSql");

    public async Task<StoreProbe> ProbeAsync(CancellationToken cancellationToken)
    {
        var probe = await ReadAtPrimaryAsync(async connection =>
        {
            // The writer's session asks for synchronous_commit itself, whatever the database's default: its commits wait for a standby
            // as soon as one is named, be it connected or not. PostgreSQL waits for none where it takes no replication at all.
            await using var results = await connection.QueryMultipleAsync(new CommandDefinition(
                """
                SELECT
                    NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean,
                    current_setting('synchronous_standby_names') <> '' AND current_setting('max_wal_senders')::int > 0,
                    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
                SELECT log_id, size, frontier, signed_note, last_recorded_at FROM log_head ORDER BY size DESC LIMIT 1
                """,
                cancellationToken: cancellationToken));
            var (isWritable, namesStandby, now) = await results.ReadSingleAsync<(bool, bool, long)>();
            return new StoreProbe(isWritable, (await results.ReadSingleOrDefaultAsync<HeadRow>())?.ToStoredHead(), now)
            {
                WaitsForStandby = isWritable && namesStandby,
            };
        }, cancellationToken);
        if (!probe.IsWritable)
        {
            // Leave the old primary: connections opened from now on look for the new one.
            await ForgetAsync();
            _writer.Leave();
            _reader.Leave();
            _lookup.Leave();
            _log.Leave();
        }
        return probe;
    }

    public async ValueTask DisposeAsync()
    {
        if (_isView)
            return;
        await ForgetAsync();
        await _writer.DisposeAsync();
        await _reader.DisposeAsync();
        await _lookup.DisposeAsync();
        await _log.DisposeAsync();
    }

    /// <summary>
    /// A frozen server must not hold the log, nor a dead one's socket: hence the timeouts. Durability is raised, never lowered. Each
    /// transaction moves log_turn itself.
    /// </summary>
    private const string WriterSession =
        """
        SELECT
            set_config('synchronous_commit',
                CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
            set_config('idle_in_transaction_session_timeout', '5s', false),
            set_config('tcp_user_timeout', '5s', false),
            set_config('tcp_keepalives_idle', '5', false),
            set_config('tcp_keepalives_interval', '1', false),
            set_config('tcp_keepalives_count', '5', false),
            set_config('lock_timeout', '8s', false),
            set_config('statement_timeout', '0', false),
            set_config('aegis.takes_turns', 'on', false)
        """;

    /// <summary>
    /// For rows that are looked up by their keys, as every write and every resume does. Making a plan takes longer than such a look:
    /// plans are made once, perhaps on empty tables, and last, hence generic ones that look every row up by its index, and scan,
    /// hash or keep no table: kept rows of one that was empty would be gone through for every key.
    /// </summary>
    internal const string PlannedOnce =
        """
        SELECT
            set_config('plan_cache_mode', 'force_generic_plan', false),
            set_config('enable_seqscan', 'off', false),
            set_config('enable_hashjoin', 'off', false),
            set_config('enable_mergejoin', 'off', false),
            set_config('enable_bitmapscan', 'off', false),
            set_config('enable_material', 'off', false),
            set_config('jit', 'off', false)
        """;

    /// <summary>
    /// DbUp opens its own connections: none of them may linger in a pool. What a migration does once it has its locks may take
    /// long, an index say. They go to the host that has the lock: of several no other is looked for.
    /// </summary>
    private string MigrationConnectionString(NpgsqlConnection locked)
    {
        var settings = new NpgsqlConnectionStringBuilder(_connectionString) { Pooling = false, CommandTimeout = 0 };
        (settings.Host, settings.Port, settings.TargetSessionAttributes) = (locked.Host, locked.Port, null);
        settings.Options = $"{settings.Options} -c lock_timeout={MigrationLockTimeout}".TrimStart();
        return settings.ToString();
    }

    private Task<T> ReadAsync<T>(Func<NpgsqlConnection, Task<T>> read, CancellationToken cancellationToken) =>
        ReadAsync(_replica?.Reader, _reader, read, cancellationToken);

    private Task<T> LookUpAsync<T>(Func<NpgsqlConnection, Task<T>> read, CancellationToken cancellationToken) =>
        ReadAsync(_replica?.Lookup, _lookup, read, cancellationToken);

    /// <summary>The log and its tiles, over connections with a buffer of their size.</summary>
    private Task<T> ReadLogAsync<T>(Func<NpgsqlConnection, Task<T>> read, CancellationToken cancellationToken) =>
        ReadAsync(_replica?.Reader, _log, read, cancellationToken);

    /// <summary>
    /// What is beside the log, so that no size says how new it is at a replica: violations, and how far the scrub has come.
    /// </summary>
    private Task<T> ReadAtPrimaryAsync<T>(Func<NpgsqlConnection, Task<T>> read, CancellationToken cancellationToken) =>
        ReadAsync(_reader, read, cancellationToken);

    internal static async Task<T> ReadAsync<T>(PostgresPool pool, Func<NpgsqlConnection, Task<T>> read,
        CancellationToken cancellationToken)
    {
        // A restart of the database leaves broken connections in the pool, and a read can be done again: the second
        // try opens a new one.
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await using var connection = await pool.OpenAsync(cancellationToken);
                return await UnlessBrokenAsync(connection, () => read(connection));
            }
            catch (Exception e) when (e is NpgsqlException or TimeoutException)
            {
                if (attempt > 1 || !WasCutOff(e))
                    throw Classify(e);
                pool.Clear();
            }
        }
    }

    /// <summary>
    /// A connection that breaks between two results can also show as a closed reader or a value that cannot be read: whatever
    /// it was, it is the connection that was lost.
    /// </summary>
    private static async Task<T> UnlessBrokenAsync<T>(NpgsqlConnection connection, Func<Task<T>> use)
    {
        try
        {
            return await use();
        }
        catch (Exception e) when (e is not NpgsqlException and not TimeoutException and not OperationCanceledException
            && connection.State != System.Data.ConnectionState.Open)
        {
            throw new NpgsqlException("The connection broke while it was in use.", e);
        }
    }

    /// <summary>The connection broke or its session was ended. One that took too long is no such case.</summary>
    internal static bool WasCutOff(Exception e) => e switch
    {
        PostgresException postgres => postgres.SqlState is PostgresErrorCodes.AdminShutdown or PostgresErrorCodes.CrashShutdown,
        NpgsqlException { InnerException: not TimeoutException } => true,
        _ => false,
    };

    /// <summary>Before a commit was tried, and where a statement failed, nothing can have been stored.</summary>
    private static StoreException Classify(Exception e) => e is not PostgresException { SqlState: var state }
        ? new StoreException(StoreFailure.Unavailable, "PostgreSQL cannot be reached.", e)
        : state switch
        {
            PostgresErrorCodes.DiskFull =>
                new StoreException(StoreFailure.Full, "The disk of the database is full.", e),
            PostgresErrorCodes.InvalidCatalogName or PostgresErrorCodes.InvalidPassword
                or PostgresErrorCodes.InvalidAuthorizationSpecification or PostgresErrorCodes.InsufficientPrivilege =>
                new StoreException(StoreFailure.Unusable, $"PostgreSQL refuses: {((PostgresException)e).MessageText}.", e),
            PostgresErrorCodes.DataCorrupted or PostgresErrorCodes.IndexCorrupted or PostgresErrorCodes.IoError
                or PostgresErrorCodes.UndefinedFile =>
                new StoreException(StoreFailure.Damaged,
                    $"PostgreSQL reports damage: {((PostgresException)e).MessageText} (SQLSTATE {state}).", e),
            _ when state[..2] is "22" or "23" or "54" =>
                new StoreException(StoreFailure.Rejected, $"PostgreSQL refused a value (SQLSTATE {state}).", e),
            _ => new StoreException(StoreFailure.Unavailable, $"PostgreSQL failed (SQLSTATE {state}).", e),
        };
}
