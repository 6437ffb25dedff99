using System.CommandLine;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Shows one workflow and its history.</summary>
internal static class ShowCommand
{
    private const uint PageSize = 1000;

    public static Command Create()
    {
        var id = Inputs.Id();
        return Session.Define("show", "Show a workflow and its timeline. WHEN is when it happened, where the caller said so.",
            async session =>
            {
                var workflow = (await session.Workflows.GetWorkflowAsync(
                    new Pb.GetWorkflowRequest { Namespace = session.Namespace, WorkflowId = session.Get(id) },
                    session.Unary)).Workflow;
                // Told before the records are read, which fails when they were altered.
                Tell(session.Output, workflow);
                var records = await RecordsAsync(session, workflow.WorkflowId);
                if (session.Output.IsJson)
                {
                    session.Output.Document($"{{ \"workflow\": {Output.ToJson(workflow)}, "
                        + $"\"records\": [{string.Join(", ", records.Select(Output.ToJson))}] }}");
                }
                session.Output.Table(["seq", "when", new("what", Wraps: true), new("actor", Wraps: true), "hash"], records.Select(r =>
                    new[] { $"{r.Sequence}", Output.Time(r.OccurredAt ?? r.RecordedAt), Details(r), r.Actor, Output.Hex(r.Hash, 4) }));
                return ExitCode.Success;
            }, id);
    }

    /// <summary>What a record did, in a few words.</summary>
    public static string Move(Pb.Record record) => record.Kind switch
    {
        Pb.RecordKind.Started => $"STARTED {record.ToState}{StatusText(record)}",
        Pb.RecordKind.Transition => $"{record.FromState} → {record.ToState}{StatusText(record)}",
        _ => Output.Name(record.Kind),
    };

    private static string StatusText(Pb.Record record) =>
        record.Status == Pb.WorkflowStatus.Running ? "" : $" ({Output.Name(record.Status)})";

    private static void Tell(Output output, Pb.Workflow workflow)
    {
        output.Line($"{workflow.Namespace}/{workflow.WorkflowId} ({workflow.WorkflowType})");
        output.Line($"  state    {workflow.State}, {Output.Name(workflow.Status)}{(workflow.Quarantined ? ", quarantined" : "")}");
        output.Line($"  created  {Output.Time(workflow.CreatedAt)}");
        output.Line($"  updated  {Output.Time(workflow.UpdatedAt)}");
        output.Line($"  head     sequence {workflow.Sequence}, {Output.Hex(workflow.HeadHash)}");
        if (workflow.Lease is { } lease)
            output.Line($"  lease    {ListCommands.LeaseText(lease)}, epoch {lease.Epoch}");
        if (workflow.ForkedFrom is { } fork)
            output.Line($"  forked   from {fork.WorkflowId} at sequence {fork.Sequence}");
        foreach (var (key, value) in workflow.Metadata)
            output.Line($"  {key} = {value}");
        output.Line("");
    }

    /// <summary>The move, and what there is to add, each on a line of its own.</summary>
    private static string Details(Pb.Record record)
    {
        List<string> lines = [Output.Clean(Move(record))];
        if (record.Reason.Length > 0)
            lines.Add(Output.Clean($"reason: {record.Reason}"));
        // Those of the first record are the workflow's, and stand above.
        if (record.Sequence > 1)
            lines.AddRange(record.Metadata.Select(m => Output.Clean($"{m.Key} = {m.Value}")));
        if (!record.SnapshotSha256.IsEmpty)
            lines.Add(Output.Clean($"snapshot: {record.SnapshotSize} bytes {record.SnapshotContentType}".TrimEnd()));
        if (record.Principal.Length > 0)
            lines.Add(Output.Clean($"authenticated: {record.Principal}"));
        if (record.OccurredAt is not null)
            lines.Add($"recorded {Output.Time(record.RecordedAt)}");
        return string.Join('\n', lines);
    }

    private static async Task<List<Pb.Record>> RecordsAsync(Session session, string workflowId)
    {
        var request = new Pb.ListRecordsRequest
        {
            Namespace = session.Namespace,
            WorkflowId = workflowId,
            PageSize = PageSize,
        };
        var records = new List<Pb.Record>();
        do
        {
            var page = await session.Workflows.ListRecordsAsync(request, session.Unary);
            records.AddRange(page.Records);
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
        return records;
    }
}
