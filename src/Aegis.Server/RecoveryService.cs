using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>Gives workflows back to workers, keeps leases, and moves workflows between deployments.</summary>
public sealed partial class RecoveryService(
    ILedgerStore store, Ledger ledger, LogTail tail, ChainReader chains, ResumableReader resumables, Exporter exporter, Importer importer, Drain drain,
    ILogger<RecoveryService> logger) : Pb.RecoveryService.RecoveryServiceBase
{
    // What a response holds beside snapshot and records: the workflow, the checkpoint's record, tags.
    private const int ResponseOverhead = 128 * 1024;
    private const int PageSizeMin = 100;
    private const int PageSizeMax = 500;
    private static readonly TimeSpan TakenFast = TimeSpan.FromMilliseconds(250);

    // Of each workflow, before more is read of those that have more.
    private const int RecordsReadAtOnce = 5;
    private const long SnapshotBytesReadAtOnce = 64 * 1024;

    public override async Task<Pb.ResumeWorkflowResponse> ResumeWorkflow(
        Pb.ResumeWorkflowRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var owner = fields.Text("owner", request.Owner);
        var key = owner.Length == 0
            ? fields.Key(request.Namespace, request.WorkflowId)
            : fields.WritableKey(request.Namespace, request.WorkflowId);
        var duration = fields.LeaseDuration(request.LeaseDuration);
        if (owner.Length == 0 && request.LeaseDuration is not null)
            fields.Wrong("lease_duration", "needs an owner");
        if (owner.Length == 0 && request.TakeOverOwn)
            fields.Wrong("take_over_own", "needs an owner");
        if (owner.Length > 0 && request.AllowQuarantined)
            fields.Wrong("allow_quarantined", "cannot be combined with an owner: a quarantined workflow is not moved");
        fields.Check();

        if (owner.Length == 0)
        {
            var found = await chains.FindResumableAsync(key, request.AllowQuarantined, context.CancellationToken);
            return await ResumeAsync(found.Workflow, found, withSnapshot: true, !request.AllowQuarantined, context.CancellationToken);
        }
        var answer = (await AcquireAsync([key], owner, duration, request.TakeOverOwn, null, context.CancellationToken))[0];
        if (answer.Workflow is not { } workflow)
            throw new RefusalException(await chains.ToldAsync(key, answer.Refusal!, context.CancellationToken));
        try
        {
            var read = await resumables.FindAsync(key, context.CancellationToken);
            var response = await ResumeAsync(workflow, read, withSnapshot: true, isChecked: true, context.CancellationToken);
            response.Lease = workflow.Lease.ToPb();
            // Nobody is there to take it.
            context.CancellationToken.ThrowIfCancellationRequested();
            return response;
        }
        catch (Exception e)
        {
            // Whoever takes it next need not wait for this lease to run out.
            await ReleaseQuietlyAsync(owner, [workflow]);
            if (e is StoreException { Failure: StoreFailure.Unavailable })
                throw new RefusalException(LeasedInVain, e);
            throw;
        }
    }

    private static readonly Refusal LeasedInVain = new(Reason.StoreUnavailable,
        "The store was lost once the lease was taken. If that could not be given back it runs out by itself: until then "
        + "take_over_own takes it again. Try again.");

    public override async Task ResumePendingWorkflows(Pb.ResumePendingWorkflowsRequest request,
        IServerStreamWriter<Pb.ResumePendingWorkflowsResponse> responseStream, ServerCallContext context)
    {
        var fields = new Fields();
        var statuses = fields.Statuses("statuses", request.Statuses);
        if (statuses.Any(s => s.IsClosed()))
            fields.Wrong("statuses", "must be RUNNING or WAITING, a closed workflow is not resumed");
        var filter = new PendingFilter(
            fields.WritableNamespace(request.Namespace),
            fields.Texts("workflow_types", request.WorkflowTypes),
            fields.Texts("states", request.States),
            statuses.Count == 0 ? [WorkflowStatus.Running] : statuses);
        var pending = new PendingRun
        {
            Filter = filter,
            Owner = fields.Required("owner", request.Owner),
            Duration = fields.LeaseDuration(request.LeaseDuration),
            TakeOverOwn = request.TakeOverOwn,
            Max = request.MaxWorkflows == 0 ? long.MaxValue : fields.Integer("max_workflows", request.MaxWorkflows),
            WithSnapshots = !request.OmitSnapshots,
        };
        fields.Check();

        await drain.StreamAsync(context, ending => ResumePendingAsync(pending, responseStream, ending));
    }

    public override async Task<Pb.RenewLeasesResponse> RenewLeases(
        Pb.RenewLeasesRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var command = new KeepLeasesCommand
        {
            Leases = Leases(fields, request.Namespace, request.Leases),
            Owner = fields.Required("owner", request.Owner),
            Duration = fields.LeaseDuration(request.LeaseDuration),
        };
        fields.Check();
        var decided = (LeasesDecided)await ledger.SubmitAsync(command, context.CancellationToken);
        var response = new Pb.RenewLeasesResponse();
        foreach (var answer in decided.Answers)
        {
            response.Results.Add(new Pb.LeaseRenewal { WorkflowId = answer.Key.WorkflowId });
            if (answer.Workflow is { } workflow)
            {
                response.Results[^1].Renewed = workflow.Lease.ToPb();
            }
            else
            {
                response.Results[^1].Lost = new Pb.LostLease
                {
                    Reason = answer.Refusal!.Reason.Name(),
                    Message = answer.Refusal.Message,
                };
            }
        }
        return response;
    }

    public override async Task<Pb.ReleaseLeasesResponse> ReleaseLeases(
        Pb.ReleaseLeasesRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var command = new KeepLeasesCommand
        {
            Leases = Leases(fields, request.Namespace, request.Leases),
            Owner = fields.Required("owner", request.Owner),
            Duration = 0,
        };
        fields.Check();
        await ledger.SubmitAsync(command, context.CancellationToken);
        return new Pb.ReleaseLeasesResponse();
    }

    public override Task ExportWorkflows(Pb.ExportWorkflowsRequest request,
        IServerStreamWriter<Pb.ExportWorkflowsResponse> responseStream, ServerCallContext context) =>
        drain.StreamAsync(context, ending => exporter.ExportAsync(request, responseStream, ending));

    public override Task ImportWorkflows(IAsyncStreamReader<Pb.ImportWorkflowsRequest> requestStream,
        IServerStreamWriter<Pb.ImportWorkflowsResponse> responseStream, ServerCallContext context) =>
        drain.StreamAsync(context, ending => importer.ImportAsync(requestStream, responseStream, ending));

    private static List<(WorkflowKey, long)> Leases(
        Fields fields, string @namespace, IReadOnlyCollection<Pb.LeaseReference> leases)
    {
        if (leases.Count is 0 or > Limits.LeasesMax)
            fields.Wrong("leases", $"must have 1 to {Limits.LeasesMax} entries, has {leases.Count}");
        @namespace = fields.WritableNamespace(@namespace);
        return [.. leases.Take(Limits.LeasesMax).Select(lease => (
            new WorkflowKey(@namespace, fields.Required("leases.workflow_id", lease.WorkflowId)),
            fields.Integer("leases.epoch", lease.Epoch)))];
    }

    private async Task<IReadOnlyList<LeaseAnswer>> AcquireAsync(IReadOnlyList<WorkflowKey> keys, string owner,
        long duration, bool takeOverOwn, PendingFilter? filter, CancellationToken cancellationToken)
    {
        var command = new AcquireLeasesCommand
        {
            Keys = keys,
            Owner = owner,
            Duration = duration,
            TakeOverOwn = takeOverOwn,
            Filter = filter,
        };
        return ((LeasesDecided)await ledger.SubmitAsync(command, cancellationToken)).Answers;
    }

    private async Task ReleaseQuietlyAsync(string owner, IReadOnlyList<Workflow> workflows)
    {
        if (workflows.Count == 0)
            return;
        try
        {
            await ledger.SubmitAsync(new KeepLeasesCommand
            {
                Leases = [.. workflows.Select(w => (w.Key, w.Lease!.Epoch))],
                Owner = owner,
                Duration = 0,
            }, CancellationToken.None);
        }
        catch (Exception e) when (e is RefusalException or StoreException)
        {
            logger.LogDebug(e, "{Count} leases are left to run out", workflows.Count);
        }
    }

    private async Task<Pb.ResumeWorkflowResponse> ResumeAsync(Workflow workflow, Resumable? read, bool withSnapshot, bool isChecked,
        CancellationToken cancellationToken)
    {
        // The snapshot's size is not known yet: what the largest leaves is always free for records.
        const int recordBytesMax = Limits.ResponseBytesMax - ResponseOverhead - Limits.SnapshotBytesMax;
        var chain = await chains.ResumeAsync(workflow, read, recordBytesMax, isChecked, cancellationToken);
        var response = new Pb.ResumeWorkflowResponse { Workflow = workflow.ToPb(), MoreRecords = chain.IsCut };
        if (chain.Checkpoint is { } checkpoint)
        {
            response.Checkpoint = new Pb.Checkpoint { Record = checkpoint.ToPb() };
            if (withSnapshot && chain.Snapshot is { } content)
                response.Checkpoint.Snapshot = Mapping.ToPb(checkpoint.Record.Snapshot!, content);
        }
        foreach (var record in chain.RecordsSince)
            response.RecordsSince.Add(record.ToPb());
        return response;
    }
}
