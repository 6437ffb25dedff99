using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// Resuming what is pending: page by page, first leased, then verified, then sent.
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

    private async Task ResumePendingAsync(PendingRun run,
        IServerStreamWriter<Pb.ResumePendingWorkflowsResponse> responseStream, CancellationToken cancellationToken)
    {
        var filter = new WorkflowFilter(run.Filter.Namespace)
        {
            WorkflowTypes = run.Filter.WorkflowTypes,
            States = run.Filter.States,
            Statuses = run.Filter.Statuses,
        };
        // What is started from now on is not waited for, or a busy namespace would never end.
        var end = await tail.CurrentAsync(cancellationToken);
        for (var cursor = -1L; !run.IsDone;)
        {
            var limit = (int)Math.Min(PageSize, run.Max - (long)run.Summary.Resumed);
            var found = await store.ListWorkflowsAsync(filter, cursor, limit, cancellationToken);
            var page = found.Where(w => w.CreatedLogIndex < end && !w.Importing).ToList();
            if (page.Count > 0)
                await ResumePageAsync(run, page, responseStream, cancellationToken);
            if (found.Count < limit || found[^1].CreatedLogIndex >= end)
                break;
            cursor = found[^1].CreatedLogIndex;
        }
        await responseStream.WriteAsync(
            new Pb.ResumePendingWorkflowsResponse { Summary = run.Summary }, cancellationToken);
    }

    private async Task ResumePageAsync(PendingRun run, IReadOnlyList<Workflow> page,
        IServerStreamWriter<Pb.ResumePendingWorkflowsResponse> responseStream, CancellationToken cancellationToken)
    {
        var answers = await AcquireAsync([.. page.Select(w => w.Key)], run.Owner, run.Duration, run.TakeOverOwn,
            run.Filter, cancellationToken);
        foreach (var answer in answers.Where(a => a.Refusal?.Reason == Reason.WorkflowQuarantined))
            await responseStream.WriteAsync(FailedOf(run, answer.Key, answer.Refusal!), cancellationToken);
        run.Summary.HeldByOthers += (ulong)answers.Count(a => a.Refusal?.Reason == Reason.LeaseHeld);
        // Leased and not delivered: whatever ends this loop, they are given back at once if that can be done, and
        // run out by themselves if not.
        var held = new Queue<Workflow>(answers.Select(a => a.Workflow).OfType<Workflow>());
        var failed = new List<Workflow>();
        try
        {
            var read = (await store.ReadResumableAsync([.. held.Select(w => w.Key)], RecordsReadAtOnce, SnapshotBytesReadAtOnce,
                cancellationToken)).ToDictionary(r => r.Workflow.Key);
            while (held.TryPeek(out var workflow))
            {
                var response = await TryResumeAsync(run, workflow, read.GetValueOrDefault(workflow.Key), cancellationToken);
                await responseStream.WriteAsync(response, cancellationToken);
                held.Dequeue();
                if (response.ResultCase == Pb.ResumePendingWorkflowsResponse.ResultOneofCase.Failed)
                    failed.Add(workflow);
            }
        }
        finally
        {
            await ReleaseQuietlyAsync(run.Owner, [.. held, .. failed]);
        }
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
