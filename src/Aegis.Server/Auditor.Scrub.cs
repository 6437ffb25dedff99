using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// Round and round through the whole history, in small steps: one round at the replicas, the next at the primary, since what is
// altered beneath PostgreSQL, in the files of one of them, is not to be seen in the others.
public sealed partial class Auditor
{
    private const int RowsAtOnce = 500;
    private static readonly TimeSpan NoteInterval = TimeSpan.FromSeconds(5);

    /// <summary>What a round goes through, one after the other.</summary>
    private enum ScrubPart
    {
        Log,
        Workflows,
        Snapshots,
    }

    // Owned by the task that scrubs; null until the noted position was looked at.
    private ScrubPosition? _position;
    private LogRun? _scrub;
    private ScrubPart _part;
    private WorkflowKey _afterWorkflow;
    private SnapshotUse? _afterSnapshot;
    private long _notedAt;

    // The size of the log up to which the last whole round of this process found everything in order.
    private long _wholeSize;
    private long _roundSize;

    /// <summary>Notes how far the scrub has come, once more.</summary>
    public override async Task StopAsync(CancellationToken cancellationToken)
    {
        await base.StopAsync(cancellationToken);
        try
        {
            if (_position is not null && memory.RolledBack is null)
                await NoteAsync(cancellationToken);
        }
        catch (StoreException)
        {
            // The next start goes on from the note before.
        }
    }

    /// <summary>One step of a round. Gives the pause until the next.</summary>
    private async Task<TimeSpan> ScrubAsync(CancellationToken cancellationToken)
    {
        if (memory.RolledBack is not null)
        {
            (_position, _scrub) = (null, null);
            return Interval;
        }
        if (!status.FirstAudit.IsCompleted || await store.ReadHeadAsync(cancellationToken) is not { IsSealed: true } newest)
            return Patience;
        if (_scrub is null || _position is null)
            await ResumeAsync(newest, cancellationToken);
        var place = await reads.ToScrubAsync(_scrub!.Size, IsOfReplicas(_position!), cancellationToken);
        reads.SendTo(place, _scrub);
        if (await place.HeadAsync(cancellationToken) is not { } head)
            return Patience;
        var (run, began, bytes, from) = (_scrub!, time.GetTimestamp(), _scrub!.BytesRead, _scrub!.Size);
        var (violations, isEnd) = _part switch
        {
            ScrubPart.Log => await ScrubLogAsync(run, head, cancellationToken),
            ScrubPart.Workflows => await ScrubWorkflowsAsync(run, cancellationToken),
            _ => await ScrubSnapshotsAsync(run, cancellationToken),
        };
        await ReportAsync(violations, v => v.LogIndex < _wholeSize ? _wholeSize : 0, cancellationToken);
        var records = run.Size - from;
        metrics.Verified(records);
        _position = _position! with { LogId = head.LogId, Position = run.Size, Size = run.Size, Root = run.Frontier.Root };
        if (isEnd)
            NextPart(head);
        if (isEnd || time.GetElapsedTime(_notedAt) > NoteInterval)
            await NoteAsync(cancellationToken);
        return Pause(records, head.Size, run.BytesRead - bytes, time.GetElapsedTime(began));
    }

    private static async Task<(IReadOnlyList<Violation>, bool)> ScrubLogAsync(LogRun run, StoredHead head, CancellationToken cancellationToken)
    {
        var violations = new List<Violation>();
        await foreach (var page in run.PagesAsync(head.Size, cancellationToken))
        {
            var step = await run.JudgeAsync(page, cancellationToken);
            violations.AddRange(step.Violations);
            var broken = step.Violations.Select(v => v.Key).ToHashSet();
            violations.AddRange(await run.CheckHeadsAsync(isEnd: true, broken, cancellationToken));
            violations.AddRange(await run.CheckSnapshotsAsync(step.Carried, cancellationToken));
            break;
        }
        if (run.Size < head.Size)
            return (violations, false);
        violations.AddRange(await run.CheckStraysAsync(head.Size, all: true, cancellationToken));
        return (violations, true);
    }

    /// <summary>Workflows that have no records are met nowhere else.</summary>
    private async Task<(IReadOnlyList<Violation>, bool)> ScrubWorkflowsAsync(LogRun run, CancellationToken cancellationToken)
    {
        var workflows = await run.Store.ScanWorkflowsAsync(_afterWorkflow, RowsAtOnce, cancellationToken);
        if (workflows.Count > 0)
            _afterWorkflow = workflows[^1].Key;
        return (await run.CheckHeadsOfAsync([.. workflows.Select(w => w.Key)], cancellationToken), workflows.Count < RowsAtOnce);
    }

    private async Task<(IReadOnlyList<Violation>, bool)> ScrubSnapshotsAsync(LogRun run, CancellationToken cancellationToken)
    {
        var snapshots = await run.Store.ScanSnapshotsAsync(_afterSnapshot, RowsAtOnce, cancellationToken);
        if (run.Primary is not null && snapshots.Any(s => !s.IsCarried))
            snapshots = await store.ScanSnapshotsAsync(_afterSnapshot, RowsAtOnce, cancellationToken);
        if (snapshots.Count > 0)
            _afterSnapshot = snapshots[^1];
        return ([.. snapshots.Where(s => !s.IsCarried).Select(s => new Violation(ViolationClass.SnapshotModified, s.Key, 0,
            "There is a snapshot that no record of the workflow carries.") { ActualHash = s.Sha256 })], snapshots.Count < RowsAtOnce);
    }

    private void NextPart(StoredHead head)
    {
        if (_part == ScrubPart.Log)
            _roundSize = head.Size;
        if (_part != ScrubPart.Snapshots)
        {
            (_part, _afterWorkflow, _afterSnapshot) = (_part + 1, WorkflowKey.None, null);
            return;
        }
        var now = Now();
        status.Scrubbed(time.GetUtcNow());
        _wholeSize = _roundSize;
        var began = IsOfReplicas(_position!) ? now & ~1L : (now - 1) | 1;
        Begin(new MerkleFrontier(), _position! with { RoundBegan = began, WholeEnded = now });
    }

    /// <summary>Whether a round is read at the replicas, where there are any: the last bit of when it began, so that it is noted.</summary>
    private static bool IsOfReplicas(ScrubPosition position) => (position.RoundBegan & 1) == 1;

    private void Begin(MerkleFrontier start, ScrubPosition position)
    {
        _scrub = new LogRun(store, new LogVerifier(start, row => signer.Verify(row.SignedNote))) { ByOutline = true };
        (_part, _afterWorkflow, _afterSnapshot) = (ScrubPart.Log, WorkflowKey.None, null);
        _position = position with { Position = start.Size, Size = start.Size, Root = start.Root };
    }

    /// <summary>Goes on from the noted position, if it is one to believe.</summary>
    private async Task ResumeAsync(StoredHead head, CancellationToken cancellationToken)
    {
        var note = await store.ReadAuditPositionAsync(cancellationToken);
        var said = note is null ? null : ScrubPosition.Verify(note, signer);
        var start = said is null ? null : await StartOfAsync(said, head, cancellationToken);
        if (said is null || start is null)
        {
            if (note is not null)
                logger.LogWarning("How far the history was verified is noted, and not as this log would: it is verified from its beginning");
            said = new ScrubPosition(head.LogId, 0, (Now() - 1) | 1, 0, 0, MerkleTree.EmptyRoot);
            start = new MerkleFrontier();
        }
        status.Scrubbed(DateTimeOffset.UnixEpoch.AddTicks(
            (said.WholeEnded > 0 ? said.WholeEnded : said.RoundBegan) * TimeSpan.TicksPerMicrosecond));
        Begin(start, said);
    }

    /// <summary>The tree at a position, if its head is signed and the beginning of the log as it is; else null.</summary>
    private async Task<MerkleFrontier?> StartOfAsync(ScrubPosition said, StoredHead head, CancellationToken cancellationToken)
    {
        if (LogName.Split(said.LogId).Base != LogName.Split(head.LogId).Base || said.Position != said.Size || said.Size > head.Size
            || said.RoundBegan > Now() || said.WholeEnded > Now())
        {
            return null;
        }
        if (said.Size == 0)
            return new MerkleFrontier();
        var start = await TrustedStartAsync(store, signer, said.Size, cancellationToken);
        return start.Size == said.Size && start.Root == said.Root && await proofs.RootAsync(said.Size, cancellationToken) == said.Root
            ? start
            : null;
    }

    private async Task NoteAsync(CancellationToken cancellationToken)
    {
        await store.WriteAuditPositionAsync(signer.Sign(_position!.LogId, _position.Text), cancellationToken);
        _notedAt = time.GetTimestamp();
    }

    /// <summary>
    /// As long as the bytes of the step take under their budget. Beyond that, steps are spread so that a round takes half the
    /// period: what is altered behind a round is met by the next, within the period. A round that is late is not spread.
    /// </summary>
    private TimeSpan Pause(long records, long size, long bytes, TimeSpan taken)
    {
        var pause = TimeSpan.FromSeconds((double)bytes / options.ScrubBytesPerSecond) - taken;
        var round = options.ScrubPeriod / 2;
        if ((Now() - _position!.RoundBegan) * TimeSpan.TicksPerMicrosecond < round.Ticks)
        {
            var share = Math.Min((double)Math.Max(records, RowsAtOnce) / Math.Max(size, 1), 0.02);
            pause = TimeSpan.FromTicks(Math.Max(pause.Ticks, (long)(round.Ticks * share) - taken.Ticks));
        }
        return pause > Patience ? pause : Patience;
    }

    private long Now() => (time.GetUtcNow() - DateTimeOffset.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;
}
