using Npgsql;

namespace Aegis.Storage;

// Reading at a replica. Every read is one page, addressed by its place in the log, a chain or a listing: what a replica does not
// give, the primary gives from the same place on, and nothing is repeated or left out.
public sealed partial class PostgresLedgerStore
{
    private readonly bool _isView;

    // Of a view: where it reads, until that fails it.
    private volatile PostgresReplica? _replica;

    private PostgresLedgerStore(PostgresLedgerStore primary, PostgresReplica replica)
    {
        (_connectionString, Location) = (primary._connectionString, primary.Location);
        (_writer, _reader, _lookup, _log) = (primary._writer, primary._reader, primary._lookup, primary._log);
        (_isView, _replica) = (true, replica);
    }

    /// <summary>Whether it is a view that reads at a replica still.</summary>
    public bool IsAtReplica => _replica is not null;

    /// <summary>
    /// This store for one call that reads the log at a replica. Once that fails it, all that follows is read at the primary, which
    /// is as far or further; never the other way about. Whatever is written, and violations, are the primary's from the start.
    /// Disposing it does nothing.
    /// </summary>
    public PostgresLedgerStore ReadingAt(PostgresReplica replica) => new(this, replica);

    private async Task<T> ReadAsync<T>(PostgresPool? atReplica, PostgresPool atPrimary,
        Func<NpgsqlConnection, Task<T>> read, CancellationToken cancellationToken)
    {
        if (atReplica is not null)
        {
            try
            {
                return await ReadAsync(atReplica, read, cancellationToken);
            }
            catch (StoreException e) when (e.Failure != StoreFailure.Rejected)
            {
                // It is gone, or ended the read since what was read is vacuumed away (SQLSTATE 40001), or lacks a migration still.
                Interlocked.Exchange(ref _replica, null)?.Failed(e);
            }
        }
        return await ReadAsync(atPrimary, read, cancellationToken);
    }
}
