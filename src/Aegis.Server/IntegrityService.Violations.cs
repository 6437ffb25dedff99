using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// What was found, and its release.
public sealed partial class IntegrityService
{
    public override async Task<Pb.ListViolationsResponse> ListViolations(
        Pb.ListViolationsRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        if (request.AllNamespaces && request.Namespace.Length > 0)
            fields.Wrong("namespace", "cannot be combined with all_namespaces");
        var filter = new ViolationFilter
        {
            Namespace = request.AllNamespaces ? null : fields.Namespace(request.Namespace),
            WorkflowId = request.WorkflowId.Length == 0 ? null : fields.Text("workflow_id", request.WorkflowId),
            IncludeReleased = request.IncludeReleased,
        };
        var pageSize = fields.PageSize(request.PageSize);
        var query = request.Clone();
        (query.PageToken, query.PageSize) = ("", 0);
        var cursor = PageToken.Read(query, request.PageToken, fields) ?? long.MaxValue;
        fields.Check();

        var found = await store.ListViolationsAsync(filter, cursor, pageSize + 1, context.CancellationToken);
        var response = new Pb.ListViolationsResponse();
        var bytes = 0;
        foreach (var violation in found.Take(pageSize))
        {
            var message = violation.ToPb();
            bytes += message.CalculateSize() + 8;
            if (bytes > ViolationBytesMax && response.Violations.Count > 0)
                break;
            response.Violations.Add(message);
        }
        if (response.Violations.Count < found.Count)
            response.NextPageToken = PageToken.Write(query, found[response.Violations.Count - 1].Number);
        return response;
    }

    public override async Task<Pb.ReleaseQuarantineResponse> ReleaseQuarantine(
        Pb.ReleaseQuarantineRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var (actor, reason) = OperatorOf(fields, request.Actor, request.Reason);
        var filter = FilterOf(fields, request);
        fields.Check();
        // What this server found a moment ago is to be released with the rest.
        await findings.SettleAsync(context.CancellationToken);
        var open = await OpenAsync(filter, context.CancellationToken);
        if (open.Count == 0)
            throw new RefusalException(NothingOpen(filter));

        IEnumerable<KeyValuePair<string, string>> what = filter.Ids is null
            ? [KeyValuePair.Create("namespace", filter.Namespace!), KeyValuePair.Create("workflow_id", filter.WorkflowId!)]
            : [KeyValuePair.Create("violation_ids", string.Join(',', open.Select(v => v.Id)))];
        var command = new LogActCommand(LogActCommand.Released,
            OperatorParts(actor, reason, new Core.Metadata([.. what, KeyValuePair.Create("count", Refusal.Text(open.Count))])))
        {
            Violations = new ViolationChange(ViolationFate.Released, [.. open.Select(v => v.Violation.Key).Distinct()],
                filter.Ids is null ? null : [.. open.Select(v => v.Id)], open[0].Number),
        };
        var record = await ActAsync(command, context);
        findings.Forget();
        await findings.SettleAsync(CancellationToken.None);
        return new Pb.ReleaseQuarantineResponse { Record = record.ToPb(), Released = (ulong)open.Count };
    }

    private static ViolationFilter FilterOf(Fields fields, Pb.ReleaseQuarantineRequest request)
    {
        if (request.ViolationIds.Count == 0)
        {
            var key = fields.Key(request.Namespace, request.WorkflowId);
            return new ViolationFilter { Namespace = key.Namespace, WorkflowId = key.WorkflowId };
        }
        if (request.WorkflowId.Length > 0)
            fields.Wrong("violation_ids", "cannot be combined with a workflow_id");
        if (request.ViolationIds.Count > ViolationIdsMax)
            fields.Wrong("violation_ids", $"must have at most {ViolationIdsMax} entries, has {request.ViolationIds.Count}");
        foreach (var id in request.ViolationIds)
            fields.Required("violation_ids", id);
        return new ViolationFilter { Ids = [.. request.ViolationIds.Distinct()] };
    }

    /// <summary>All open violations that match, newest first.</summary>
    private async Task<List<FoundViolation>> OpenAsync(ViolationFilter filter, CancellationToken cancellationToken)
    {
        var open = new List<FoundViolation>();
        for (var cursor = long.MaxValue; ; cursor = open[^1].Number)
        {
            var page = await store.ListViolationsAsync(filter, cursor, PageSize, cancellationToken);
            open.AddRange(page);
            if (page.Count < PageSize)
                return open;
        }
    }

    private static Refusal NothingOpen(ViolationFilter filter) => filter.Ids is { } ids
        ? new Refusal(Reason.WorkflowNotFound, "None of these violations is open.", ("violation_ids", string.Join(',', ids)))
        : new Refusal(Reason.WorkflowNotFound,
            $"No violation of the workflow \"{filter.WorkflowId}\" in the namespace \"{filter.Namespace}\" is open.",
            ("namespace", filter.Namespace!), ("workflow_id", filter.WorkflowId!));
}
