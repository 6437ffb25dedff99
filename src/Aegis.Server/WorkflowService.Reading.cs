using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf.Collections;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// Reads go straight to the store, and re-check what they return.
public sealed partial class WorkflowService
{
    // Room for the tags of a page and its token.
    private const int PageBytesMax = Limits.ResponseBytesMax - 1024;

    public override async Task<Pb.GetWorkflowResponse> GetWorkflow(
        Pb.GetWorkflowRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var key = fields.Key(request.Namespace, request.WorkflowId);
        fields.Check();
        var logSize = await tail.AtLeastAsync(request.MinLogSize, context.CancellationToken);
        var workflow = await chains.FindCheckedAsync(key, request.AllowQuarantined, context.CancellationToken);
        return new Pb.GetWorkflowResponse { Workflow = workflow.ToPb(), LogSize = (ulong)logSize };
    }

    public override async Task<Pb.ListWorkflowsResponse> ListWorkflows(
        Pb.ListWorkflowsRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var filter = fields.Filter(request.Namespace, request.WorkflowTypes, request.States, request.Statuses, request.Metadata,
            request.UpdatedBefore, request.UpdatedAfter);
        var pageSize = fields.PageSize(request.PageSize);
        var query = QueryOf(request, filter.Metadata);
        var cursor = PageToken.Read(query, request.PageToken, fields, out var seen) ?? -1;
        fields.Check();

        var place = await reads.AtLeastAsync(request.MinLogSize, seen, context.CancellationToken);
        var found = await place.Store.ListWorkflowsAsync(filter, cursor, pageSize + 1, context.CancellationToken);
        var response = new Pb.ListWorkflowsResponse { LogSize = (ulong)place.Size };
        var bytes = 0;
        foreach (var workflow in found.Take(pageSize))
        {
            var message = workflow.ToPb().Cut();
            bytes += message.CalculateSize() + 8;
            if (bytes > PageBytesMax)
                break;
            response.Workflows.Add(message);
        }
        if (response.Workflows.Count < found.Count)
            response.NextPageToken = PageToken.Write(query, found[response.Workflows.Count - 1].CreatedLogIndex,
                SizeFor(place, found[response.Workflows.Count].CreatedLogIndex));
        return response;
    }

    public override async Task<Pb.CountWorkflowsResponse> CountWorkflows(
        Pb.CountWorkflowsRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var @namespace = fields.Namespace(request.Namespace);
        fields.Check();
        var place = await reads.AtLeastAsync(request.MinLogSize, 0, context.CancellationToken);
        var response = new Pb.CountWorkflowsResponse { LogSize = (ulong)place.Size };
        foreach (var count in await place.Store.CountWorkflowsAsync(@namespace, context.CancellationToken))
        {
            response.Counts.Add(new Pb.WorkflowCount
            {
                WorkflowType = count.WorkflowType,
                State = count.State,
                Status = (Pb.WorkflowStatus)count.Status,
                Count = (ulong)count.Count,
            });
        }
        return response;
    }

    public override async Task<Pb.ListRecordsResponse> ListRecords(
        Pb.ListRecordsRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var @namespace = fields.Namespace(request.Namespace);
        var workflowId = fields.Text("workflow_id", request.WorkflowId);
        var filter = new RecordFilter
        {
            Namespace = @namespace,
            Actor = request.Actor.Length == 0 ? null : fields.Text("actor", request.Actor),
            Principal = request.Principal.Length == 0
                ? null
                : fields.Text("principal", request.Principal, Limits.PrincipalBytesMax),
            RecordedAfter = fields.Bound("recorded_after", request.RecordedAfter),
            RecordedBefore = fields.Bound("recorded_before", request.RecordedBefore),
        };
        if (workflowId.Length > 0 && filter != new RecordFilter { Namespace = @namespace })
            fields.Wrong("workflow_id", "cannot be combined with actor, principal, recorded_after or recorded_before");
        var pageSize = fields.PageSize(request.PageSize);
        var query = QueryOf(request);
        var cursor = PageToken.Read(query, request.PageToken, fields, out var seen);
        fields.Check();

        if (workflowId.Length > 0)
        {
            var logSize = await tail.AtLeastAsync(request.MinLogSize, context.CancellationToken);
            var chain = await ReadChainAsync(new WorkflowKey(@namespace, workflowId), cursor, request, pageSize + 1,
                context.CancellationToken);
            return PageOf(chain, reads.Primary with { Size = logSize }, request, query, pageSize);
        }
        var place = await reads.AtLeastAsync(request.MinLogSize, seen, context.CancellationToken);
        return await reads.ReadAsync(place, async at => PageOf(await at.Store.ListRecordsAsync(filter,
            Start(cursor, request.Descending, 0), request.Descending, pageSize + 1, context.CancellationToken),
            at, request, query, pageSize));
    }

    private Pb.ListRecordsResponse PageOf(IReadOnlyList<StoredRecord> found, ReadPlace place, Pb.ListRecordsRequest request,
        Pb.ListRecordsRequest query, int pageSize)
    {
        var isOfOne = request.WorkflowId.Length > 0;
        var response = new Pb.ListRecordsResponse { LogSize = (ulong)place.Size };
        var bytes = 0;
        var violations = new List<FoundViolation>();
        foreach (var record in found.Take(pageSize))
        {
            var message = record.ToPb().Cut();
            bytes += message.CalculateSize() + 8;
            if (bytes > PageBytesMax)
                break;
            response.Records.Add(message);
            if (!isOfOne || request.AllowQuarantined)
                violations.AddRange(place.Chains.Note(record));
        }
        AddViolations(response.Violations, violations.DistinctBy(v => v.Id), bytes);
        if (response.Records.Count < found.Count)
        {
            var last = found[response.Records.Count - 1];
            response.NextPageToken = PageToken.Write(query,
                isOfOne ? last.Record.Sequence : last.LogIndex,
                isOfOne ? null : SizeFor(place, found[response.Records.Count].LogIndex));
        }
        return response;
    }

    public override async Task<Pb.GetCheckpointResponse> GetCheckpoint(
        Pb.GetCheckpointRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var key = fields.Key(request.Namespace, request.WorkflowId);
        var (maxSequence, asOf) = request.AtCase switch
        {
            Pb.GetCheckpointRequest.AtOneofCase.Sequence =>
                (fields.Integer("sequence", request.Sequence), long.MaxValue),
            Pb.GetCheckpointRequest.AtOneofCase.AsOf =>
                (long.MaxValue, fields.Time("as_of", request.AsOf) ?? long.MaxValue),
            _ => (long.MaxValue, long.MaxValue),
        };
        fields.Check();

        var logSize = await tail.AtLeastAsync(request.MinLogSize, context.CancellationToken);
        var workflow = await chains.FindAsync(key, request.AllowQuarantined, context.CancellationToken);
        var record = (request.AllowQuarantined
                ? await store.FindCheckpointAsync(key, maxSequence, asOf, context.CancellationToken)
                : await chains.CheckpointAsync(workflow, maxSequence, asOf, context.CancellationToken))
            ?? throw new RefusalException(new Refusal(Reason.CheckpointNotFound,
                $"The workflow {key} has no checkpoint{(request.AtCase == 0 ? "" : " that early")}.",
                [.. Refusal.Of(key), ("checkpoint_sequence", Refusal.Text(workflow.CheckpointSequence))]));
        var content = request.AllowQuarantined
            ? await chains.StoredSnapshotOfAsync(record, context.CancellationToken)
            : await chains.SnapshotOfAsync(record, context.CancellationToken);
        return new Pb.GetCheckpointResponse
        {
            Record = record.ToPb(),
            Snapshot = content is null ? null : Mapping.ToPb(record.Record.Snapshot!, content),
            LogSize = (ulong)logSize,
        };
    }

    /// <summary>What is known to be wrong, as much of it as the response has room for.</summary>
    private static void AddViolations(RepeatedField<Pb.Violation> list, IEnumerable<FoundViolation> violations, int bytes)
    {
        foreach (var violation in violations)
        {
            var message = violation.ToPb();
            bytes += message.CalculateSize() + 8;
            if (bytes > PageBytesMax)
                return;
            list.Add(message);
        }
    }

    /// <summary>
    /// Records of one chain, checked, and no fewer than the workflow has; where quarantine is allowed, those that are there.
    /// </summary>
    private async Task<IReadOnlyList<StoredRecord>> ReadChainAsync(WorkflowKey key, long? cursor, Pb.ListRecordsRequest request,
        int limit, CancellationToken cancellationToken)
    {
        var descending = request.Descending;
        if (request.AllowQuarantined)
            return await store.ReadChainAsync(key, Start(cursor, descending, 1), descending, limit, cancellationToken);
        var workflow = await chains.FindAsync(key, allowQuarantined: false, cancellationToken);
        // What is written meanwhile is beyond the workflow that was read: a descending page begins where that ends.
        var from = descending
            ? Math.Min(Start(cursor, descending, 1), workflow.Sequence)
            : Start(cursor, descending, 1);
        if (from < 1 || from > workflow.Sequence)
            return [];
        var page = await store.ReadChainAsync(key, from, descending, limit, cancellationToken);
        var newest = page.Count == 0 ? 0 : page[descending ? 0 : ^1].Record.Sequence;
        if (newest < Math.Min(workflow.Sequence, descending ? from : from + limit - 1))
        {
            chains.Demand([new Violation(ViolationClass.RecordMissing, key, newest + 1,
                $"Record {newest + 1} is gone.")]);
        }
        var lowest = descending ? Math.Max(1, from - limit + 1) : from;
        chains.CheckPage(key, lowest, descending ? [.. page.Reverse()] : page);
        return page;
    }

    /// <summary>How far the log has to be where the next page is read, which begins at an index; null where there is one place only.</summary>
    private long? SizeFor(ReadPlace place, long next) => reads.HasReplicas ? Math.Max(place.Size, next + 1) : null;

    private static long Start(long? cursor, bool descending, long first) =>
        descending ? cursor - 1 ?? long.MaxValue : cursor + 1 ?? first;

    /// <summary>The request without its paging: what a page token belongs to.</summary>
    private static Pb.ListWorkflowsRequest QueryOf(Pb.ListWorkflowsRequest request, Core.Metadata metadata)
    {
        var query = request.Clone();
        (query.PageToken, query.PageSize, query.MinLogSize) = ("", 0, 0);
        query.Metadata.Clear();
        foreach (var (key, value) in metadata)
            query.Metadata.Add(key, value);
        return query;
    }

    private static Pb.ListRecordsRequest QueryOf(Pb.ListRecordsRequest request)
    {
        var query = request.Clone();
        (query.PageToken, query.PageSize, query.MinLogSize) = ("", 0, 0);
        return query;
    }
}
