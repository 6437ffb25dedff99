using System.Diagnostics;
using Aegis.Core;
using Dapper;
using Npgsql;
using NpgsqlTypes;

namespace Aegis.Storage;

// Writing: the lock and all reads in one round trip, all writes and the commit in the other; where everything is remembered, the lock,
// the writes and the commit in one. Npgsql sends the statements of one batch together and reads their results together.
public sealed partial class PostgresLedgerStore
{
    /// <summary>How long a commit may stand still before its connection is given up and the outcome is unknown.</summary>
    private static readonly TimeSpan CommitPatience = TimeSpan.FromSeconds(10);

    // Of the writer that is between two batches; whoever takes it has it alone.
    private WriterMemory? _memory;

    public async Task<LedgerTransaction> BeginAsync(
        Func<BatchKeys> keys, Look look, long seenSize, CancellationToken cancellationToken)
    {
        var memory = Interlocked.Exchange(ref _memory, null);
        var connection = memory?.Connection;
        try
        {
            var touched = look == Look.Remembered ? keys() : null;
            if (touched is not null && memory?.StateOf(touched, seenSize) is var (remembered, assumed))
                return new Transaction(this, memory, remembered, assumed);
            connection ??= await _writer.OpenAsync(cancellationToken);
            var since = Stopwatch.GetTimestamp();
            var (state, turn) = await UnlessBrokenAsync(connection, async () =>
            {
                // Alone it is there at once, and a round trip of its own would be all that it costs.
                if (look == Look.OnceLocked)
                    await LockAsync(connection);
                return await ReadStateAsync(connection, touched ?? keys(), seenSize, isLocked: look == Look.OnceLocked);
            });
            memory ??= new WriterMemory(connection);
            return new Transaction(this, memory, state, assumed: null) { OthersCame = memory.Read(state, turn, Stopwatch.GetElapsedTime(since)) };
        }
        catch (Exception e)
        {
            await GiveUpAsync(connection, e);
            throw;
        }
    }

    /// <summary>Keeps what a writer knows for its next batch, and with it the connection.</summary>
    private async ValueTask KeepAsync(WriterMemory memory)
    {
        if (Interlocked.Exchange(ref _memory, memory) is { } other)
            await other.DisposeAsync();
    }

    /// <summary>The next batch looks, on a connection that is opened then.</summary>
    private async ValueTask ForgetAsync()
    {
        if (Interlocked.Exchange(ref _memory, null) is { } memory)
            await memory.DisposeAsync();
    }

    /// <summary>Ends what was begun under the lock of the log, or could not get it. A failure of the database's is told as the store's.</summary>
    private async Task GiveUpAsync(NpgsqlConnection? connection, Exception e)
    {
        await DiscardAsync(connection);
        if (e is PostgresException { SqlState: PostgresErrorCodes.LockNotAvailable })
            await EndSilentHolderAsync();
        if (e is NpgsqlException or TimeoutException)
            throw Failed(e);
    }

    public async Task<bool> ConfirmAsync(long logIndex, Hash hash, CancellationToken cancellationToken)
    {
        _writer.Clear();
        NpgsqlConnection? connection = null;
        try
        {
            connection = await _writer.OpenAsync(cancellationToken);
            var warned = false;
            connection.Notice += (_, e) => warned |= IsWarning(e.Notice);
            var found = await UnlessBrokenAsync(connection, () => FindAndCommitAsync(connection, logIndex));
            // Only now: the warning comes with the commit's own answer.
            if (warned)
                throw new StoreException(StoreFailure.Unavailable, "PostgreSQL warned on the commit that was to confirm.");
            await connection.DisposeAsync();
            return found is not null && new Hash(found) == hash;
        }
        catch (Exception e)
        {
            await GiveUpAsync(connection, e);
            throw;
        }
    }

    /// <summary>
    /// The lock is free only once the commit in question is over, or has yet to come: then the turn that is taken here ends it, since
    /// it was sent by what was remembered. The message is a write of its own: its commit waits for the replicas again, and so covers
    /// what was found.
    /// </summary>
    private static async Task<byte[]?> FindAndCommitAsync(NpgsqlConnection connection, long logIndex)
    {
        await using var results = await connection.QueryMultipleAsync(
            """
            BEGIN;
            SELECT id FROM log_lock WHERE id = 1 FOR UPDATE;
            SELECT nextval('log_turn');
            SELECT hash FROM record WHERE log_index = @logIndex;
            SELECT pg_logical_emit_message(true, 'aegis', 'confirm')::text;
            COMMIT
            """,
            new { logIndex });
        await results.ReadAsync<short>();
        await results.ReadAsync<long>();
        var found = await results.ReadSingleOrDefaultAsync<byte[]>();
        await results.ReadAsync<string>();
        return found;
    }

    /// <summary>
    /// Ends the session that holds the log and has long had nothing from its server, which froze, or its connection went
    /// silent. Between statements PostgreSQL does so by itself; a session that waits for the rest of a batch of which it has the
    /// beginning has no timeout. Nothing of such a batch is stored, and its server, once it goes on, finds that out. A lock that
    /// is in other hands, an operator's perhaps, is left there.
    /// </summary>
    private async Task EndSilentHolderAsync()
    {
        try
        {
            await using var connection = await _reader.OpenAsync(CancellationToken.None);
            await connection.ExecuteAsync(
                """
                SELECT pg_terminate_backend(holder.pid)
                FROM log_lock
                JOIN pg_stat_activity AS holder ON holder.backend_xid = log_lock.xmax
                WHERE holder.application_name = 'aegis'
                  AND holder.wait_event = 'ClientRead'
                  AND holder.state_change < clock_timestamp() - interval '5 seconds'
                """);
        }
        catch (Exception e) when (e is NpgsqlException or TimeoutException)
        {
            // Whoever waits for the log is told that it is not to be had, and tries again.
        }
    }

    private static async Task LockAsync(NpgsqlConnection connection)
    {
        await using var statements = new NpgsqlBatch(connection);
        PostgresWrites.AddLock(statements);
        await statements.ExecuteNonQueryAsync();
    }

    private static async Task<(BatchState State, long Turn)> ReadStateAsync(
        NpgsqlConnection connection, BatchKeys keys, long seenSize, bool isLocked)
    {
        var (workflows, requestKeys) = keys;
        await using var statements = new NpgsqlBatch(connection);
        if (!isLocked)
            PostgresWrites.AddLock(statements);
        statements.Add(
            """
            SELECT
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now,
                (SELECT last_value FROM log_turn) AS turn,
                ARRAY(SELECT hash FROM record WHERE log_index >= $1 ORDER BY log_index LIMIT $2) AS hashes,
                (SELECT encoded FROM record WHERE log_index = head.size - 1) AS newest_record,
                head.*
            FROM (SELECT) AS one
            LEFT JOIN (
                SELECT log_id, size, frontier, signed_note, last_recorded_at FROM log_head ORDER BY size DESC LIMIT 1) AS head ON true
            """,
            new NpgsqlParameter<long> { TypedValue = seenSize }, new NpgsqlParameter<int> { TypedValue = ILedgerStore.HashesMax });
        // The first from the id on: asked for the id itself on a table that is empty, PostgreSQL may settle for ever on an index that
        // has the namespace alone.
        statements.AddLook(
            """
            SELECT
                found.namespace, found.workflow_id, found.workflow_type, found.state, found.status, found.sequence, found.head_hash,
                found.checkpoint_sequence, found.metadata, found.forked_from_workflow_id, found.forked_from_sequence,
                found.forked_from_hash, found.created_log_index, found.created_at, found.updated_at, found.importing,
                found.lease_owner, found.lease_epoch, found.lease_expires_at,
                key.namespace <> 'aegis.system' AND violated.is_recorded IS NOT NULL AS quarantined,
                key.namespace, key.workflow_id, violated.is_recorded, violated.count, violated.newest,
                newest.encoded
            FROM unnest($1, $2) AS key (namespace, workflow_id)
            LEFT JOIN LATERAL (
                SELECT *
                FROM workflow_and_lease AS w
                WHERE w.namespace = key.namespace AND w.workflow_id >= key.workflow_id
                ORDER BY w.workflow_id
                LIMIT 1) AS found ON found.workflow_id = key.workflow_id
            CROSS JOIN LATERAL (
                SELECT bool_or(recorded_at <> 0) AS is_recorded, count(*) AS count, max(number) AS newest
                FROM violation
                WHERE released_at = 0 AND violation.namespace = key.namespace AND violation.workflow_id = key.workflow_id) AS violated
            LEFT JOIN LATERAL (
                SELECT encoded
                FROM record
                WHERE record.namespace = found.namespace
                  AND record.workflow_id = found.workflow_id
                  AND record.sequence <= found.sequence
                ORDER BY record.sequence DESC
                LIMIT 1) AS newest ON true
            """,
            workflows, all => [all.Texts(w => w.Namespace), all.Texts(w => w.WorkflowId)]);
        if (requestKeys.Count > 0)
        {
            statements.Add("SELECT * FROM record WHERE request_key = ANY ($1)",
                requestKeys.Array(NpgsqlDbType.Bytea, k => k.ToArray()));
        }

        await using var reader = await statements.ExecuteReaderAsync();
        if (!isLocked)
            await reader.NextResultAsync();
        await reader.ReadAsync();
        var now = reader.GetInt64(0);
        var turn = reader.GetInt64(1);
        IReadOnlyList<Hash> hashes = [.. (await reader.GetFieldValueAsync<byte[][]>(2)).Select(HashBytes.One)];
        var newest = await reader.IsDBNullAsync(3) ? null : await reader.GetFieldValueAsync<byte[]>(3);
        var head = await reader.IsDBNullAsync(4) ? null : reader.GetRowParser<HeadRow>()(reader).ToStoredHead();
        await reader.NextResultAsync();
        var found = await reader.RowsAsync(r => (
            Workflow: r.IsDBNull(0) ? null : WorkflowRow.Read(r),
            Quarantine: r.IsDBNull(WorkflowRow.Columns + 2)
                ? null
                : new Quarantine(
                    new OpenOf(new WorkflowKey(r.GetString(WorkflowRow.Columns), r.GetString(WorkflowRow.Columns + 1)),
                        r.GetInt64(WorkflowRow.Columns + 3), r.GetInt64(WorkflowRow.Columns + 4)),
                    r.GetBoolean(WorkflowRow.Columns + 2)),
            Newest: r.IsDBNull(WorkflowRow.Columns + 5) ? null : r.GetFieldValue<byte[]>(WorkflowRow.Columns + 5)));
        var known = requestKeys.Count > 0 ? await reader.RowsAsync(reader.GetRowParser<RecordRow>()) : [];
        var state = new BatchState
        {
            LogSize = head?.Size ?? 0,
            LogId = head?.LogId ?? "",
            Frontier = head is null ? new MerkleFrontier() : head.Frontier,
            SignedNote = head?.SignedNote ?? "",
            HashesSince = hashes,
            LastRecordedAt = head?.LastRecordedUntil(now, newest) ?? 0,
            Now = now,
            Workflows = [.. found.Select(f => f.Workflow).OfType<Workflow>()],
            Quarantines = [.. found.Select(f => f.Quarantine).OfType<Quarantine>()],
            Broken = found.Where(f => f.Workflow is { } head && !WorkflowHeads.IsOf(head, f.Newest)).Select(f => f.Workflow!.Key).ToHashSet(),
            KnownRequests = [.. known.Select(row => row.ToStoredRecord())],
        };
        return (state, turn);
    }

    /// <summary>Classifies, and leaves a server that has become read-only: connections from now on look for another.</summary>
    private StoreException Failed(Exception e)
    {
        if (e is not PostgresException || e is PostgresException { SqlState: PostgresErrorCodes.ReadOnlySqlTransaction })
            _writer.Leave();
        return Classify(e);
    }

    /// <summary>Rolls back what may be open, and closes.</summary>
    private static async Task DiscardAsync(NpgsqlConnection? connection)
    {
        if (connection is null)
            return;
        await TryRollBackAsync(connection);
        await connection.DisposeAsync();
    }

    /// <returns>Whether the connection is as good as new. One that is broken the server rolls back by itself.</returns>
    private static async Task<bool> TryRollBackAsync(NpgsqlConnection connection)
    {
        try
        {
            if (connection.State != System.Data.ConnectionState.Open)
                return false;
            await connection.ExecuteAsync("ROLLBACK");
            return true;
        }
        catch (Exception e) when (e is NpgsqlException or TimeoutException or InvalidOperationException)
        {
            return false;
        }
    }

    /// <summary>A warning on a commit may mean that the wait for the replicas was cut short.</summary>
    private static bool IsWarning(PostgresNotice notice) =>
        notice is { InvariantSeverity: "WARNING", SqlState: PostgresErrorCodes.Warning };

    /// <param name="store">Where the memory goes back to.</param>
    /// <param name="memory">What is known, of which the connection is.</param>
    /// <param name="state">What the batch is decided by.</param>
    /// <param name="assumed">What has to be so still, where the log was not locked yet.</param>
    private sealed class Transaction(PostgresLedgerStore store, WriterMemory memory, BatchState state, Assumption? assumed)
        : LedgerTransaction(state, isRemembered: assumed is not null)
    {
        private NpgsqlConnection? _connection = memory.Connection;
        private bool _isBegun = assumed is null;
        private bool _isInDoubt;

        public override async Task CommitAsync(LedgerBatch batch)
        {
            var connection = _connection ?? throw new InvalidOperationException("The transaction is over.");
            if (!batch.IsSealed)
                throw new ArgumentException("The batch is not sealed.", nameof(batch));
            var since = Stopwatch.GetTimestamp();
            (_isBegun, _isInDoubt) = (true, true);
            var warned = false;
            void OnNotice(object _, NpgsqlNoticeEventArgs e) => warned |= IsWarning(e.Notice);
            connection.Notice += OnNotice;
            try
            {
                var commit = UnlessBrokenAsync(connection, () => PostgresWrites.StoreAndCommitAsync(connection, batch, assumed));
                Turn turn;
                try
                {
                    turn = await commit.WaitAsync(CommitPatience);
                }
                catch (TimeoutException) when (!commit.IsCompleted)
                {
                    // Never cancelled: a cancelled commit may have happened. The connection is left to itself and closed
                    // once it comes back.
                    _connection = null;
                    _ = commit.ContinueWith(_ => connection.DisposeAsync().AsTask(), TaskScheduler.Default);
                    throw new StoreException(StoreFailure.OutcomeUnknown, "The commit stands still.");
                }
                if (warned)
                    throw new StoreException(StoreFailure.OutcomeUnknown, "PostgreSQL warned on the commit.");
                memory.Stored(batch, turn, Stopwatch.GetElapsedTime(since));
                _connection = null;
                await store.KeepAsync(memory);
            }
            catch (PostgresException e) when (e.InvariantSeverity == "ERROR")
            {
                // An error, be it of a statement or of the commit, means that the transaction did not happen.
                if (!IsRemembered)
                    throw Classify(e);
                // Another has the log, or had it, or knows a request or a workflow; whatever else it is shows again after a look.
                // What was sent at once has ended with its error; after any other failure something of it may still be under way, and
                // only a rollback ends that.
                (_isInDoubt, _isBegun) = (false, PostgresWrites.TakesSteps(batch));
                throw new StoreException(StoreFailure.Outdated, $"Not as remembered: {e.MessageText}", e);
            }
            catch (Exception e) when (e is NpgsqlException or TimeoutException)
            {
                // The connection was lost, or the server was ended: before the commit or after it.
                throw new StoreException(StoreFailure.OutcomeUnknown, "The connection was lost in the commit.", e);
            }
            finally
            {
                connection.Notice -= OnNotice;
            }
        }

        public override async ValueTask DisposeAsync()
        {
            if (_connection is not { } connection)
                return;
            _connection = null;
            if ((!_isBegun || await TryRollBackAsync(connection)) && !_isInDoubt)
                await store.KeepAsync(memory);
            else
                await connection.DisposeAsync();
        }
    }
}
