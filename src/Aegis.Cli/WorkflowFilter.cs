using System.CommandLine;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>The options that choose workflows, the same wherever workflows are chosen.</summary>
internal sealed class WorkflowFilter
{
    private readonly Option<string[]> _types = Inputs.Many("--type", "TYPE", "Only this type. May be repeated.");
    private readonly Option<string[]> _states = Inputs.Many("--state", "STATE", "Only this state. May be repeated.");
    private readonly Option<string[]> _statuses = Inputs.Many("--status", "STATUS",
        "Only this status: RUNNING, WAITING, COMPLETED, FAILED or CANCELLED. May be repeated.");
    private readonly Option<string[]> _metadata = Inputs.Metadata("Only workflows that were started with this entry.");
    private readonly Option<string?> _before = Inputs.Text("--updated-before", "TIME",
        "Only those updated before this time, exclusive.");
    private readonly Option<string?> _after = Inputs.Text("--updated-after", "TIME", "Only those updated at or after this time.");

    public Symbol[] All => [_types, _states, _statuses, _metadata, _before, _after];

    public Pb.ListWorkflowsRequest ToList(Session session)
    {
        var request = new Pb.ListWorkflowsRequest
        {
            Namespace = session.Namespace,
            WorkflowTypes = { session.Get(_types) },
            States = { session.Get(_states) },
            Statuses = { session.Get(_statuses).Select(Inputs.Status) },
            UpdatedBefore = Inputs.Time(session.Get(_before)),
            UpdatedAfter = Inputs.Time(session.Get(_after)),
        };
        Inputs.Add(request.Metadata, session.Get(_metadata));
        return request;
    }

    public Pb.ExportWorkflowsRequest ToExport(Session session, string workflowId)
    {
        var filter = ToList(session);
        return new Pb.ExportWorkflowsRequest
        {
            Namespace = filter.Namespace,
            WorkflowId = workflowId,
            WorkflowTypes = { filter.WorkflowTypes },
            States = { filter.States },
            Statuses = { filter.Statuses },
            Metadata = { filter.Metadata },
            UpdatedBefore = filter.UpdatedBefore,
            UpdatedAfter = filter.UpdatedAfter,
        };
    }
}
