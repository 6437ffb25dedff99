using Aegis.Core;

namespace Aegis.Storage;

// Reading for verification: what is stored as it is stored, in the order of the log, in as few round trips as can be.
public partial interface ILedgerStore
{
    /// <summary>
    /// Records by log_index, from one on (inclusive) to another (exclusive), up to a limit, with the vote on each. Votes are taken
    /// while more is read.
    /// </summary>
    Task<IReadOnlyList<RecordVote>> ReadLogAsync(long fromLogIndex, long toLogIndex, int limit, CancellationToken cancellationToken);

    /// <summary>The records of a page, as its outline sees them: it is begun anew where the reading is.</summary>
    Task<LogOutline> ReadOutlineAsync(Func<LogOutline> begin, CancellationToken cancellationToken);

    /// <summary>Heads of the log by size, those larger than one size and up to another, up to a limit.</summary>
    Task<IReadOnlyList<LogHeadRow>> ReadHeadsAsync(long afterSize, long toSize, int limit, CancellationToken cancellationToken);

    /// <summary>Heads of the log up to a size, the largest first, up to a limit.</summary>
    Task<IReadOnlyList<LogHeadRow>> ReadHeadsBackAsync(long toSize, int limit, CancellationToken cancellationToken);

    /// <summary>The tiles of a level that are stored, from one index on (inclusive) to another (exclusive).</summary>
    Task<IReadOnlyList<LogTileRow>> ReadTilesAsync(int level, long fromIndex, long toIndex, CancellationToken cancellationToken);

    /// <summary>The heads of workflows, of those that exist; without their leases.</summary>
    Task<IReadOnlyList<Workflow>> ReadWorkflowsAsync(IReadOnlyCollection<WorkflowKey> keys, CancellationToken cancellationToken);

    /// <summary>Of each chain the newest record not behind a sequence, of those that exist.</summary>
    Task<IReadOnlyList<StoredRecord>> ReadRecordsAsync(IReadOnlyCollection<(WorkflowKey Key, long Sequence)> places,
        CancellationToken cancellationToken);

    /// <summary>The same of those records alone that carry a snapshot.</summary>
    Task<IReadOnlyList<StoredRecord>> ReadCheckpointsAsync(IReadOnlyCollection<(WorkflowKey Key, long Sequence)> places,
        CancellationToken cancellationToken);

    /// <summary>What the stored bytes of snapshots hash to, of those that exist. PostgreSQL computes it itself.</summary>
    Task<IReadOnlyList<SnapshotHash>> HashSnapshotsAsync(IReadOnlyCollection<(WorkflowKey Key, Hash Sha256)> snapshots,
        CancellationToken cancellationToken);

    /// <summary>All workflows in the order of their names, from the first after one, up to a limit; without their leases.</summary>
    Task<IReadOnlyList<Workflow>> ScanWorkflowsAsync(WorkflowKey after, int limit, CancellationToken cancellationToken);

    /// <summary>
    /// Snapshots in the order of their keys, from the first after one, up to a limit, and whether any record of the workflow
    /// carries them.
    /// </summary>
    Task<IReadOnlyList<SnapshotUse>> ScanSnapshotsAsync(SnapshotUse? after, int limit, CancellationToken cancellationToken);

    /// <summary>What belongs to no log of this size: tiles that its tree has no place for, and leases without a workflow.</summary>
    Task<LogStrays> FindStraysAsync(long size, int limit, CancellationToken cancellationToken);

    /// <summary>How far the scrub has come, as it was signed; null where nothing is noted.</summary>
    Task<string?> ReadAuditPositionAsync(CancellationToken cancellationToken);

    /// <summary>Notes how far the scrub has come.</summary>
    Task WriteAuditPositionAsync(string signedNote, CancellationToken cancellationToken);
}

/// <summary>The key of a stored snapshot, and what its bytes are.</summary>
public sealed record SnapshotHash(WorkflowKey Key, Hash Sha256, Hash Actual, long Size);

/// <summary>The key of a stored snapshot, and whether a record carries it.</summary>
public sealed record SnapshotUse(WorkflowKey Key, Hash Sha256, bool IsCarried);

/// <summary>Rows that belong to nothing: tiles by level and index, and leases by their workflow.</summary>
public sealed record LogStrays(IReadOnlyList<(int Level, long Index)> Tiles, IReadOnlyList<WorkflowKey> Leases);
