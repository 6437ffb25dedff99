using Aegis.Core;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Storage;

// Writing: BEGIN IMMEDIATE is the lock of the log.
public sealed partial class SqliteLedgerStore
{
    public async Task<LedgerTransaction> BeginAsync(
        Func<BatchKeys> keys, Look look, long seenSize, CancellationToken cancellationToken)
    {
        await _writing.WaitAsync(cancellationToken);
        try
        {
            _writer ??= new SqliteWriter(OpenForWriting());
            _writer.Execute("BEGIN IMMEDIATE");
            return new Transaction(this, _writer, ReadState(_writer, keys(), seenSize));
        }
        catch (Exception e)
        {
            DiscardWriter();
            _writing.Release();
            if (e is SqliteException sqlite)
                throw Classify(sqlite);
            throw;
        }
    }

    public async Task<bool> ConfirmAsync(long logIndex, Hash hash, CancellationToken cancellationToken)
    {
        await _writing.WaitAsync(cancellationToken);
        SqliteConnection? connection = null;
        try
        {
            connection = OpenForWriting();
            connection.Execute("BEGIN IMMEDIATE");
            var found = connection.QuerySingleOrDefault<byte[]>(
                "SELECT hash FROM record WHERE log_index = @logIndex", new { logIndex });
            // Also where nothing was found: frames of a failed commit may lie in the WAL, and a crash could bring them
            // back; the next commit overwrites them.
            connection.Execute("UPDATE log_lock SET confirmed = @logIndex WHERE id = 1", new { logIndex });
            connection.Execute("COMMIT");
            connection.Dispose();
            return found is not null && new Hash(found) == hash;
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

    private BatchState ReadState(SqliteWriter writer, BatchKeys keys, long seenSize)
    {
        var head = ReadHead(writer.Connection);
        var heads = new List<Workflow>();
        var quarantines = new List<Quarantine>();
        var broken = new HashSet<WorkflowKey>();
        foreach (var key in keys.Workflows)
        {
            var open = writer.First<OpenRow>(
                """
                SELECT count(*) AS count, max(number) AS newest_number, max(recorded_at <> 0) AS is_recorded
                FROM violation
                WHERE released_at = 0 AND namespace = $1 AND workflow_id = $2
                HAVING count(*) > 0
                """, key.Namespace, key.WorkflowId);
            if (open is not null)
                quarantines.Add(new Quarantine(new OpenOf(key, open.Count, open.NewestNumber), open.IsRecorded != 0));
            var row = writer.First<WorkflowRow>(
                "SELECT * FROM workflow_and_lease WHERE namespace = $1 AND workflow_id = $2", key.Namespace, key.WorkflowId);
            if (row is null)
                continue;
            var workflow = row.ToWorkflow();
            heads.Add(workflow);
            var newest = writer.First<EncodedRow>(
                "SELECT encoded FROM record WHERE namespace = $1 AND workflow_id = $2 AND sequence = $3",
                key.Namespace, key.WorkflowId, workflow.Sequence);
            if (!WorkflowHeads.IsOf(workflow, newest?.Encoded))
                broken.Add(key);
        }
        var known = new List<StoredRecord>();
        foreach (var requestKey in keys.RequestKeys)
        {
            if (writer.First<RecordRow>("SELECT * FROM record WHERE request_key = $1", requestKey.ToArray()) is { } row)
                known.Add(row.ToStoredRecord());
        }
        var now = Now();
        return new BatchState
        {
            LogId = head?.LogId ?? "",
            LogSize = head?.Size ?? 0,
            Frontier = head is null ? new MerkleFrontier() : head.Frontier,
            SignedNote = head?.SignedNote ?? "",
            HashesSince = ReadHashes(writer.Connection, seenSize, ILedgerStore.HashesMax, fromEncoded: false),
            Quarantines = quarantines,
            Broken = broken,
            LastRecordedAt = head?.LastRecordedUntil(
                now, writer.First<EncodedRow>("SELECT encoded FROM record WHERE log_index = $1", head.Size - 1)?.Encoded) ?? 0,
            Now = now,
            Workflows = heads,
            KnownRequests = known,
        };
    }

    /// <summary>Rolls back, and keeps a connection in doubt out of the pool.</summary>
    private static void Discard(SqliteConnection? connection)
    {
        if (connection is null)
            return;
        try
        {
            connection.Execute("ROLLBACK");
        }
        catch (SqliteException)
        {
            // Nothing to roll back, or SQLite has done so by itself.
        }
        SqliteConnection.ClearPool(connection);
        connection.Dispose();
    }

    /// <summary>Nothing was written.</summary>
    private void RollBack()
    {
        try
        {
            _writer!.Execute("ROLLBACK");
        }
        catch (SqliteException)
        {
            DiscardWriter();
        }
    }

    /// <summary>The writer's connection is in doubt: the next transaction opens another.</summary>
    private void DiscardWriter()
    {
        Discard(_writer?.Connection);
        _writer?.Dispose();
        _writer = null;
    }

    private sealed class Transaction(SqliteLedgerStore store, SqliteWriter writer, BatchState state) : LedgerTransaction(state)
    {
        private bool _isOver;
        private bool _isInDoubt;
        private bool _isDisposed;

        public override Task CommitAsync(LedgerBatch batch)
        {
            if (!batch.IsSealed)
                throw new ArgumentException("The batch is not sealed.", nameof(batch));
            // Until it is known to be stored.
            _isInDoubt = true;
            try
            {
                SqliteWrites.Store(writer, batch);
            }
            catch (SqliteException e)
            {
                return Task.FromException(Classify(e));
            }
            try
            {
                // A crash here: the WAL either holds the whole transaction, synced, or it never was.
                writer.Execute("COMMIT");
                (_isOver, _isInDoubt) = (true, false);
                return Task.CompletedTask;
            }
            catch (SqliteException e) when (e.SqliteErrorCode is SQLitePCL.raw.SQLITE_BUSY or SQLitePCL.raw.SQLITE_FULL)
            {
                // Full means that a frame did not fit into the WAL: its last one, that with the commit, is not there.
                return Task.FromException(Classify(e));
            }
            catch (SqliteException e)
            {
                // Its frames may be in the WAL all the same.
                return Task.FromException(new StoreException(
                    StoreFailure.OutcomeUnknown, "SQLite failed in the commit.", e));
            }
        }

        public override ValueTask DisposeAsync()
        {
            if (_isDisposed)
                return ValueTask.CompletedTask;
            _isDisposed = true;
            if (_isInDoubt)
                store.DiscardWriter();
            else if (!_isOver)
                store.RollBack();
            store._writing.Release();
            return ValueTask.CompletedTask;
        }
    }
}
