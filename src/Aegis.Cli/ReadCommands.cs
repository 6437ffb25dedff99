using System.CommandLine;
using Google.Protobuf.WellKnownTypes;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Commands that read.</summary>
internal static class ReadCommands
{
    private const uint PageSize = 1000;

    public static Command List()
    {
        var types = Inputs.Types();
        var states = Inputs.States();
        var statuses = Inputs.Statuses();
        var metadata = Inputs.Metadata("Only workflows that were started with this entry.");
        var before = new Option<string?>("--updated-before") { Description = "Only those updated before this time, exclusive." };
        var after = new Option<string?>("--updated-after") { Description = "Only those updated at or after this time." };
        var limit = new Option<int>("--limit") { Description = "How many at most.", DefaultValueFactory = _ => 100 };
        return Session.Define("list", "List workflows in order of creation.", async session =>
        {
            var request = new Pb.ListWorkflowsRequest
            {
                Namespace = session.Namespace,
                WorkflowTypes = { session.Get(types) },
                States = { session.Get(states) },
                Statuses = { session.Get(statuses).Select(s => Inputs.Status(s)) },
                UpdatedBefore = Inputs.Time(session.Get(before)),
                UpdatedAfter = Inputs.Time(session.Get(after)),
            };
            Inputs.Add(request.Metadata, session.Get(metadata));
            var found = new List<Pb.Workflow>();
            await foreach (var workflow in AllAsync(session, request).Take(session.Get(limit)))
            {
                session.Output.Message(workflow);
                found.Add(workflow);
            }
            session.Output.Table(["workflow", "type", "state", "status", "seq", "updated", "lease"], found.Select(w => new[]
            {
                w.WorkflowId, w.WorkflowType, w.State, Output.Name(w.Status), $"{w.Sequence}", Output.Time(w.UpdatedAt),
                w.Lease is null ? "" : LeaseText(w.Lease),
            }));
            return ExitCode.Success;
        }, types, states, statuses, metadata, before, after, limit);
    }

    public static Command Count() => Session.Define("count", "Count workflows by type, state and status.", async session =>
    {
        var response = await session.Workflows.CountWorkflowsAsync(
            new Pb.CountWorkflowsRequest { Namespace = session.Namespace }, session.Unary);
        session.Output.Message(response);
        session.Output.Table(["type", "state", "status", "count"], response.Counts.Select(c => new[]
        {
            c.WorkflowType, c.State, Output.Name(c.Status), $"{c.Count}",
        }));
        session.Output.Line($"{response.Counts.Sum(c => (long)c.Count)} workflows");
        return ExitCode.Success;
    });

    public static Command Show()
    {
        var id = Inputs.Id();
        return Session.Define("show", "Show a workflow and its timeline.", async session =>
        {
            var workflow = (await session.Workflows.GetWorkflowAsync(
                new Pb.GetWorkflowRequest { Namespace = session.Namespace, WorkflowId = session.Get(id) }, session.Unary)).Workflow;
            session.Output.Message(workflow);
            session.Output.Line($"{workflow.Namespace}/{workflow.WorkflowId}, {workflow.WorkflowType}: "
                + $"{workflow.State} ({Output.Name(workflow.Status)})");
            session.Output.Line($"created {Output.Time(workflow.CreatedAt)}, updated {Output.Time(workflow.UpdatedAt)}, "
                + $"{workflow.Sequence} records, head {Output.Hex(workflow.HeadHash)}");
            if (workflow.Lease is not null)
                session.Output.Line($"leased to {LeaseText(workflow.Lease)}, epoch {workflow.Lease.Epoch}");
            if (workflow.ForkedFrom is { } fork)
                session.Output.Line($"forked from {fork.WorkflowId} at sequence {fork.Sequence}");
            foreach (var (key, value) in workflow.Metadata)
                session.Output.Line($"  {key} = {value}");
            var rows = new List<string[]>();
            await foreach (var record in RecordsAsync(session, workflow.WorkflowId))
            {
                session.Output.Message(record);
                rows.Add([
                    $"{record.Sequence}", Output.Time(record.OccurredAt ?? record.RecordedAt), Move(record),
                    record.Actor, record.Reason, record.SnapshotSha256.IsEmpty ? "" : $"{record.SnapshotSize} B",
                    Output.Hex(record.Hash, 6),
                ]);
            }
            session.Output.Table(["seq", "when", "what", "actor", "reason", "snapshot", "hash"], rows);
            return ExitCode.Success;
        }, id);
    }

    /// <summary>All workflows that match, page after page.</summary>
    public static async IAsyncEnumerable<Pb.Workflow> AllAsync(Session session, Pb.ListWorkflowsRequest request)
    {
        request.PageSize = PageSize;
        do
        {
            var page = await session.Workflows.ListWorkflowsAsync(request, session.Unary);
            foreach (var workflow in page.Workflows)
                yield return workflow;
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
    }

    private static async IAsyncEnumerable<Pb.Record> RecordsAsync(Session session, string workflowId)
    {
        var request = new Pb.ListRecordsRequest
        {
            Namespace = session.Namespace,
            WorkflowId = workflowId,
            PageSize = PageSize,
        };
        do
        {
            var page = await session.Workflows.ListRecordsAsync(request, session.Unary);
            foreach (var record in page.Records)
                yield return record;
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
    }

    public static string Move(Pb.Record record) => record.Kind switch
    {
        Pb.RecordKind.Started => $"STARTED {record.ToState}",
        Pb.RecordKind.Transition when record.Status == Pb.WorkflowStatus.Running => $"{record.FromState} → {record.ToState}",
        Pb.RecordKind.Transition => $"{record.FromState} → {record.ToState} ({Output.Name(record.Status)})",
        _ => Output.Name(record.Kind),
    };

    private static string LeaseText(Pb.Lease lease) =>
        $"{lease.Owner} {(lease.ExpiresAt.ToDateTime() > DateTime.UtcNow ? "until" : "ended")} {Output.Time(lease.ExpiresAt)}";
}
