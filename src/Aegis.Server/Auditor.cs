using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Looks after the log behind the service's back: follows what is written, looks at the newest records again and again, and goes
/// round and round through the whole history. What it finds it tells to <see cref="Findings"/>; how recent it is, to
/// <see cref="AuditStatus"/>. A store that is away is told by the monitor, and the audit goes on when it is back.
/// </summary>
public sealed partial class Auditor(ILedgerStore store, StoreMonitor monitor, LogSigner signer, SignerMemory memory,
    LogProofs proofs, Repairer repairer, Findings findings, AuditStatus status, Reads reads, ServerOptions options, Metrics metrics,
    TimeProvider time,
    ILogger<Auditor> logger) : BackgroundService
{
    /// <summary>How many of the newest records are looked at in every round.</summary>
    public const int WindowRecords = 10_000;

    // From the beginning of one round to that of the next: an edit shows within 5 s, and however large the records are, looking at
    // them again takes a small share of the server's time.
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1.5);
    private static readonly TimeSpan IntervalMax = TimeSpan.FromSeconds(3.2);
    private const int RoundShare = 40;
    private static readonly TimeSpan Patience = TimeSpan.FromMilliseconds(50);

    // All of the window's snapshots where they are small; else some in each round, one after the other.
    private const long SnapshotBytesPerRound = 16L * 1024 * 1024;

    // Owned by the task that follows the tail.
    private AuditWindow? _window;
    private string _logId = "";
    private long _nextSnapshot;
    private bool _wasRolledBack;

    protected override Task ExecuteAsync(CancellationToken stoppingToken) => Task.WhenAll(
        RepeatAsync("The newest records", RoundAsync, stoppingToken), RepeatAsync("The history", ScrubAsync, stoppingToken),
        RepeatAsync("What was found before a repair", LookAgainAsync, stoppingToken));

    /// <summary>One round: whatever fails in it must not end the auditing.</summary>
    private async Task RepeatAsync(string what, Func<CancellationToken, Task<TimeSpan>> round, CancellationToken stoppingToken)
    {
        // Off the thread that starts the host.
        await Task.Yield();
        while (!stoppingToken.IsCancellationRequested)
        {
            var pause = Patience;
            try
            {
                if (monitor.IsReady)
                    pause = await round(stoppingToken);
                status.Reads(what, isSo: true);
            }
            catch (StoreException e)
            {
                // The monitor tells of a store that is away, and nobody else of a place that cannot be read.
                if (e.Failure == StoreFailure.Damaged && status.Reads(what, isSo: false))
                    logger.LogError(e, "{What} cannot be audited: {Reason}", what, e.Message);
                pause = Interval;
            }
            catch (Exception e) when (!stoppingToken.IsCancellationRequested)
            {
                logger.LogError(e, "{What} cannot be audited now", what);
                pause = Interval;
            }
            await Task.Delay(pause, time, stoppingToken);
        }
    }

    private async Task<TimeSpan> RoundAsync(CancellationToken cancellationToken)
    {
        var begun = time.GetTimestamp();
        await LookAsync(cancellationToken);
        var taken = time.GetElapsedTime(begun);
        var pause = TimeSpan.FromTicks(Math.Clamp(RoundShare * taken.Ticks, Interval.Ticks, IntervalMax.Ticks)) - taken;
        return pause > Patience ? pause : Patience;
    }

    private async Task LookAsync(CancellationToken cancellationToken)
    {
        if (memory.RolledBack is { } rolledBack)
        {
            var judged = memory.Surviving;
            var stored = await store.ReadHeadAsync(cancellationToken);
            // What is told now of a head that is in order would stay open: that of a standby that was promoted meanwhile and has all of
            // it, or of another generation, which an acceptance begins and which this server has not followed yet.
            if (memory.RolledBack is null || (judged is not null && stored is not null && stored.LogId != judged.Head.LogId))
                return;
            // One finding says it; what else does not fit would be told a thousand times. The memory of what is gone goes too.
            findings.Report([memory.FindingOf(rolledBack, stored)]);
            (_window, _wasRolledBack) = (null, true);
            status.Audited(memory.Size);
            return;
        }
        if (await store.ReadHeadAsync(cancellationToken) is not { IsSealed: true } head)
            return;
        // Where more came than the window holds, the window is the newest again, and what lies between is the scrub's: otherwise the
        // faster the log is written, the more of the machine its audit would take.
        if (_wasRolledBack || head.LogId != _logId || head.Size < _window?.Size || head.Size > _window?.Size + WindowRecords)
            (_window, _logId, _wasRolledBack) = (null, head.LogId, false);
        _window ??= new AuditWindow(
            await TrustedStartAsync(store, signer, head.Size - WindowRecords, cancellationToken), signer);

        var window = _window;
        var run = window.Again(store, head.Size);
        var broken = new HashSet<WorkflowKey>();
        var carried = new List<CarriedSnapshot>();
        await foreach (var page in run.PagesAsync(head.Size, cancellationToken))
        {
            var step = await run.JudgeAsync(page, cancellationToken);
            await TellAsync(step.Violations);
            carried.AddRange(step.Carried.OrderBy(s => s.LogIndex));
            window.Take(run, step);
        }
        await TellAsync(await run.CheckHeadsAsync(isEnd: true, broken, cancellationToken));
        await TellAsync(await run.CheckSnapshotsAsync(SomeOf(carried), cancellationToken));
        await TellAsync(await run.CheckStraysAsync(head.Size, all: false, cancellationToken));
        metrics.Verified(head.Size - window.From);
        window.MoveOn(head.Size, WindowRecords);
        status.Audited(head.Size);

        // At once: what is repaired meanwhile must not be told after it.
        Task TellAsync(IReadOnlyList<Violation> violations)
        {
            broken.UnionWith(violations.Select(v => v.Key));
            return ReportAsync(violations, window.GoodAt, cancellationToken);
        }
    }

    /// <summary>Those snapshots of the window whose turn it is.</summary>
    private IEnumerable<CarriedSnapshot> SomeOf(List<CarriedSnapshot> carried)
    {
        var first = carried.FindIndex(s => s.LogIndex >= _nextSnapshot);
        var bytes = 0L;
        for (var i = 0; i < carried.Count; i++)
        {
            var snapshot = carried[(Math.Max(first, 0) + i) % carried.Count];
            _nextSnapshot = snapshot.LogIndex;
            if ((bytes += Math.Max(0, snapshot.Size)) > SnapshotBytesPerRound && i > 0)
                yield break;
            yield return snapshot;
        }
        _nextSnapshot = 0;
    }

    /// <summary>
    /// The tree at the newest head that is signed and not larger than a size: the signature vouches for it. Without one, the
    /// empty tree.
    /// </summary>
    internal static async Task<MerkleFrontier> TrustedStartAsync(
        ILedgerStore store, LogSigner signer, long size, CancellationToken cancellationToken)
    {
        while (size > 0)
        {
            var heads = await store.ReadHeadsBackAsync(size, 10, cancellationToken);
            foreach (var row in heads)
            {
                if (signer.Sealed(row.SignedNote, row.Size, row.Frontier) is { } head)
                    return head.Frontier.Clone();
            }
            if (heads.Count == 0)
                break;
            size = heads[^1].Size - 1;
        }
        return new MerkleFrontier();
    }

    /// <summary>
    /// Tells what was found, unless the log was taken back while it was looked at: then that is what is to be told.
    /// </summary>
    private async Task ReportAsync(IReadOnlyCollection<Violation> violations, Func<Violation, long> goodAt,
        CancellationToken cancellationToken)
    {
        if (violations.Count == 0)
            return;
        var seen = memory.Look();
        if (await store.ReadHeadAsync(cancellationToken) is { } head)
            await memory.FollowAsync(head, seen, cancellationToken);
        if (memory.RolledBack is null)
            findings.Report([.. violations.Select(v => v with { LastGoodLogSize = goodAt(v) })]);
    }
}
