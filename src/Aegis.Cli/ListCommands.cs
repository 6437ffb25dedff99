using System.CommandLine;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Commands that tell which workflows there are.</summary>
internal static class ListCommands
{
    private const uint PageSize = 1000;

    public static Command List()
    {
        var filter = new WorkflowFilter();
        var limit = new Option<int>("--limit")
        {
            Description = "How many at most; 0 for all.",
            HelpName = "N",
            DefaultValueFactory = _ => 100,
        };
        return Session.Define("list", "List workflows in order of creation.", async session =>
        {
            var most = session.Get(limit) switch
            {
                < 0 => throw new UsageException("--limit must not be negative."),
                0 => int.MaxValue,
                var given => given,
            };
            var page = new List<Pb.Workflow>();
            var listed = 0;
            await foreach (var workflow in AllAsync(session, filter.ToList(session)))
            {
                if (listed == most)
                {
                    Tell(session, page);
                    session.Output.Notice($"There are more than {most}; --limit 0 lists all.");
                    return ExitCode.Success;
                }
                listed++;
                session.Output.Message(workflow);
                page.Add(workflow);
                // A table of everything might not fit into memory, and would be long in coming.
                if (page.Count == PageSize)
                {
                    Tell(session, page);
                    page.Clear();
                }
            }
            Tell(session, page);
            if (listed == 0)
                session.Output.Notice("There are no such workflows.");
            return ExitCode.Success;
        }, [.. filter.All, limit]);
    }

    public static Command Count() => Session.Define("count", "Count workflows by type, state and status.", async session =>
    {
        var response = await session.Workflows.CountWorkflowsAsync(
            new Pb.CountWorkflowsRequest { Namespace = session.Namespace }, session.Unary);
        session.Output.Message(response);
        session.Output.Table([new("type", Wraps: true), new("state", Wraps: true), "status", "count"],
            response.Counts.Select(c => new[] { c.WorkflowType, c.State, Output.Name(c.Status), $"{c.Count}" }));
        session.Output.Line($"{response.Counts.Sum(c => (long)c.Count)} workflows");
        return ExitCode.Success;
    });

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

    /// <summary>Who leases, and how long.</summary>
    public static string LeaseText(Pb.Lease lease) =>
        $"{lease.Owner} {(lease.ExpiresAt.ToDateTime() > DateTime.UtcNow ? "until" : "ended")} {Output.Time(lease.ExpiresAt)}";

    private static void Tell(Session session, List<Pb.Workflow> page)
    {
        var columns = new List<Column>
        {
            new("workflow", Wraps: true), new("type", Wraps: true), new("state", Wraps: true), "status", "seq", "updated",
        };
        // Few workflows are leased, and on a narrow terminal the column would cost the others.
        var areLeased = page.Any(w => w.Lease is not null);
        if (areLeased)
            columns.Add(new("lease", Wraps: true));
        session.Output.Table(columns, page.Select(w =>
        {
            string[] row = [w.WorkflowId, w.WorkflowType, w.State, Output.Name(w.Status), $"{w.Sequence}", Output.Time(w.UpdatedAt)];
            return areLeased ? [.. row, w.Lease is null ? "" : LeaseText(w.Lease)] : row;
        }));
    }
}
