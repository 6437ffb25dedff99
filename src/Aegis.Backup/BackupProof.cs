using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;

namespace Aegis.Backup;

/// <summary>What a backup was found to hold, every record of it verified under the operator's key.</summary>
/// <param name="Head">The newest head in it.</param>
/// <param name="SignedHead">The same as a signed note.</param>
/// <param name="Records">How many records were verified.</param>
/// <param name="Snapshots">How many snapshots were verified.</param>
public sealed record BackupProof(LogHead Head, string SignedHead, long Records, long Snapshots)
{
    private const int ViolationsMax = 100;
    private const int HeadsAtOnce = 500;

    // How many records may go by before the heads of their workflows are looked at.
    private const long RecordsBetweenHeads = 50_000;

    /// <summary>
    /// Verifies a restored copy as VerifyLog does a live log: records, chains, snapshots, tree, tiles, signed heads and the heads of
    /// workflows, from the first record to the newest head.
    /// </summary>
    /// <param name="store">The copy, migrated to this version.</param>
    /// <param name="keys">The keys that may have signed it, under the name of whichever generation.</param>
    /// <param name="progress">Told of how many records were verified, of how many.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="BackupException">It is not what the log's key has signed.</exception>
    public static async Task<BackupProof> OfAsync(ILedgerStore store, IReadOnlyCollection<VerifierKey> keys,
        Action<long, long> progress, CancellationToken cancellationToken)
    {
        var stored = await store.ReadHeadAsync(cancellationToken)
            ?? throw new BackupException(BackupProblem.Damaged, "The backup holds no log.");
        if (TrustedHead.Verify(stored.SignedNote, keys) is not { } head || head.Size != stored.Size)
        {
            throw new BackupException(BackupProblem.Usage,
                $"The backup is of the log \"{stored.LogId}\", of {stored.Size} records, and no key that was given has signed its newest "
                + $"head. Given: {string.Join(", ", keys)}.");
        }
        var run = LogRun.OnAllCores(store, new LogVerifier(new MerkleFrontier(), row => TrustedHead.Verify(row.SignedNote, keys)));
        var (found, broken, looked) = (new List<Violation>(), new HashSet<WorkflowKey>(), 0L);
        await foreach (var page in run.PagesAsync(head.Size, cancellationToken))
        {
            var step = await run.JudgeAsync(page, cancellationToken);
            Take(step.Violations);
            Take(await run.CheckSnapshotsAsync(step.Carried, cancellationToken));
            if (run.Size >= head.Size || run.Size - looked >= RecordsBetweenHeads)
            {
                Take(await run.CheckHeadsAsync(run.Size >= head.Size, broken, cancellationToken));
                looked = run.Size;
                progress(run.Size, head.Size);
            }
        }
        Take(await run.CheckStraysAsync(head.Size, all: true, cancellationToken));
        Take(await WithoutRecordsAsync(store, run, cancellationToken));
        if (found.Count > 0 || run.Size != head.Size || run.Frontier.Root != head.Root)
        {
            throw new BackupException(BackupProblem.Damaged, found.Count == 0
                ? $"The backup has {run.Size} records whose tree is not the one that was signed."
                : $"The backup is not what was recorded: {found.Count} {(found.Count == 1 ? "violation" : "violations")}, the first: "
                    + $"{found[0].Class} of {(found[0].IsOfLog ? "the log" : found[0].Key)}, record {found[0].Sequence}: {found[0].Message}")
            {
                Violations = [.. found.Take(ViolationsMax)],
            };
        }
        return new BackupProof(head, stored.SignedNote, run.Size, run.SnapshotsVerified);

        void Take(IReadOnlyList<Violation> violations)
        {
            found.AddRange(violations);
            broken.UnionWith(violations.Select(v => v.Key));
        }
    }

    /// <summary>Workflows that have no records are met nowhere else.</summary>
    private static async Task<List<Violation>> WithoutRecordsAsync(ILedgerStore store, LogRun run, CancellationToken cancellationToken)
    {
        var found = new List<Violation>();
        for (var after = WorkflowKey.None; ;)
        {
            var workflows = await store.ScanWorkflowsAsync(after, HeadsAtOnce, cancellationToken);
            found.AddRange(await run.CheckHeadsOfAsync([.. workflows.Select(w => w.Key)], cancellationToken));
            if (workflows.Count < HeadsAtOnce)
                return found;
            after = workflows[^1].Key;
        }
    }
}
