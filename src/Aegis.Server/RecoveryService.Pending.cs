using System.Diagnostics;
using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// Resuming what is pending: page by page, first leased and read, then verified, then sent.
public sealed partial class RecoveryService
{
    private sealed class PendingRun
    {
        public required PendingFilter Filter { get; init; }
        public required string Owner { get; init; }
        public required long Duration { get; init; }
        public required bool TakeOverOwn { get; init; }
        public required long Max { get; init; }
        public required bool WithSnapshots { get; init; }
        public Pb.ResumeSummary Summary { get; } = new();
        public bool IsDone => Summary.Resumed >= (ulong)Max;
    }

    /// <summary>A page of workflows, what became of their leases, those that are held, and what was read of these.</summary>
    private sealed record LeasedPage(IReadOnlyList<LeaseAnswer> Answers, Queue<Workflow> Held, Dictionary<WorkflowKey, Resumable> Read);

    private async Task ResumePendingAsync(PendingRun run,
        IServerStreamWriter<Pb.ResumePendingWorkflowsResponse> responseStream, CancellationToken cancellationToken)
    {
        // What is started from now on is not waited for, or a busy namespace would never end.
        var end = await tail.CurrentAsync(cancellationToken);
        var cursor = -1L;
        var isEnd = false;
        var size = PageSizeMin;
        Task<LeasedPage>? next = null;
        try
        {
            while (!run.IsDone)
            {
                next ??= isEnd ? null : NextAsync((long)run.Summary.Resumed);
                if (next is null)
                    break;
                var page = await next;
                // For who takes them fast the next are leased and read while these are sent, and more of them. For others a lease
                // would run out before its turn, and be missing to other workers meanwhile.
                var promised = (long)run.Summary.Resumed + page.Held.Count;
                next = size == PageSizeMin || isEnd || promised >= run.Max ? null : NextAsync(promised);
                var begun = Stopwatch.GetTimestamp();
                await SendAsync(run, page, responseStream, cancellationToken);
                size = Stopwatch.GetElapsedTime(begun) < TakenFast ? Math.Min(2 * size, PageSizeMax) : PageSizeMin;
            }
        }
        finally
        {
            if (next is not null)
                await GiveBackAsync(run, next);
        }
        await responseStream.WriteAsync(
            new Pb.ResumePendingWorkflowsResponse { Summary = run.Summary }, cancellationToken);

        async Task<LeasedPage> NextAsync(long promised)
        {
            var limit = (int)Math.Min(size, run.Max - promised);
            var found = await store.ListPendingAsync(run.Filter, cursor, limit, cancellationToken);
            isEnd = found.Count < limit || found[^1].CreatedLogIndex >= end;
            cursor = found.Count > 0 ? found[^1].CreatedLogIndex : cursor;
            return await LeaseAsync(run, [.. found.Where(w => w.CreatedLogIndex < end).Select(w => w.Key)], cancellationToken);
        }
    }

    private async Task<LeasedPage> LeaseAsync(PendingRun run, IReadOnlyList<WorkflowKey> page, CancellationToken cancellationToken)
    {
        if (page.Count == 0)
            return new LeasedPage([], new Queue<Workflow>(), []);
        var answers = await AcquireAsync(page, run.Owner, run.Duration, run.TakeOverOwn,
            run.Filter, cancellationToken);
        var held = answers.Select(a => a.Workflow).OfType<Workflow>().ToList();
        try
        {
            var read = await store.ReadResumableAsync([.. held.Select(w => w.Key)], RecordsReadAtOnce,
                run.WithSnapshots ? SnapshotBytesReadAtOnce : -1, cancellationToken);
            return new LeasedPage(answers, new Queue<Workflow>(held), read.ToDictionary(r => r.Workflow.Key));
        }
        catch
        {
            await ReleaseQuietlyAsync(run.Owner, held);
            throw;
        }
    }

    private async Task SendAsync(PendingRun run, LeasedPage page,
        IServerStreamWriter<Pb.ResumePendingWorkflowsResponse> responseStream, CancellationToken cancellationToken)
    {
        // Leased and not delivered: whatever ends this loop, they are given back at once if that can be done, and
        // run out by themselves if not.
        var failed = new List<Workflow>();
        try
        {
            foreach (var answer in page.Answers.Where(a => a.Refusal?.Reason is Reason.WorkflowQuarantined or Reason.ChainBroken))
            {
                var refusal = await chains.ToldAsync(answer.Key, answer.Refusal!, cancellationToken);
                await responseStream.WriteAsync(FailedOf(run, answer.Key, refusal), cancellationToken);
            }
            run.Summary.HeldByOthers += (ulong)page.Answers.Count(a => a.Refusal?.Reason == Reason.LeaseHeld);
            while (page.Held.TryPeek(out var workflow))
            {
                var response = await TryResumeAsync(run, workflow, page.Read.GetValueOrDefault(workflow.Key), cancellationToken);
                await responseStream.WriteAsync(response, cancellationToken);
                page.Held.Dequeue();
                if (response.ResultCase == Pb.ResumePendingWorkflowsResponse.ResultOneofCase.Failed)
                    failed.Add(workflow);
            }
        }
        finally
        {
            await ReleaseQuietlyAsync(run.Owner, [.. page.Held, .. failed]);
        }
    }

    /// <summary>The stream has ended before this page's turn.</summary>
    private async Task GiveBackAsync(PendingRun run, Task<LeasedPage> next)
    {
        await ((Task)next).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        // One that failed has given its leases back by itself.
        if (next.IsCompletedSuccessfully)
            await ReleaseQuietlyAsync(run.Owner, [.. (await next).Held]);
    }

    /// <summary>A workflow that does not verify fails alone; a store that fails ends the stream.</summary>
    private async Task<Pb.ResumePendingWorkflowsResponse> TryResumeAsync(PendingRun run, Workflow workflow, Resumable? read,
        CancellationToken cancellationToken)
    {
        try
        {
            var resumed = await ResumeAsync(workflow, read, run.WithSnapshots, isChecked: true, cancellationToken);
            resumed.Lease = workflow.Lease.ToPb();
            run.Summary.Resumed++;
            return new Pb.ResumePendingWorkflowsResponse { Resumed = resumed };
        }
        catch (RefusalException e)
        {
            return FailedOf(run, workflow.Key, e.Refusal);
        }
    }

    private static Pb.ResumePendingWorkflowsResponse FailedOf(PendingRun run, WorkflowKey key, Refusal refusal)
    {
        run.Summary.Failed++;
        return new Pb.ResumePendingWorkflowsResponse
        {
            Failed = new Pb.ResumeFailure
            {
                WorkflowId = key.WorkflowId,
                Reason = refusal.Reason.Name(),
                Message = refusal.Message,
            },
        };
    }
}
