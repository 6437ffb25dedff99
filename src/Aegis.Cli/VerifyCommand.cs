using System.Collections.Concurrent;
using System.CommandLine;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Verifies one workflow, or all of a namespace.</summary>
internal static class VerifyCommand
{
    private const int Parallel = 16;

    public static Command Create()
    {
        var target = new Argument<string?>("ID|FILE")
        {
            Description = "The workflow to verify; without one, all of the namespace. An existing file, or anything with --key, is an "
                + "export that is verified without a server.",
            Arity = ArgumentArity.ZeroOrOne,
        };
        var file = Inputs.Text("--file", "FILE", "An export to verify without a server, or - for standard input.");
        var workflow = Inputs.Text("--workflow", "ID", "A workflow, also where a file has its name.");
        var keys = TrustedKeys.Option("--key", "The key that has to have signed the export's head.");
        var unproven = new Option<bool>("--unproven")
        {
            Description = "Be content with an export that agrees with itself, though no key proves where it comes from.",
        };
        return Session.Define("verify", "Check that nobody rewrote the history: of workflows by asking the server (exit code 5 when somebody "
            + "did), of an export offline (exit code 1). With --json the answer for one workflow or export; for all, that of each broken "
            + "one and a summary.",
            session =>
            {
                var (named, path, id) = (session.Get(target), session.Get(file), session.Get(workflow));
                if (new[] { named, path, id }.Count(t => t is not null) > 1)
                    throw new UsageException("Give a workflow or a file, not both.");
                var trusted = TrustedKeys.Of(session.Get(keys));
                var isOffline = trusted.Count > 0 || session.Get(unproven);
                if (named is not null && (isOffline || File.Exists(named)))
                    path = named;
                if (path is not null)
                    return Task.FromResult(VerifyFile.Run(session, path, trusted, session.Get(unproven)));
                if (isOffline)
                    throw new UsageException("--key and --unproven need an export to verify.");
                return (named ?? id) is { } one ? OneAsync(session, one) : AllAsync(session);
            }, target, file, workflow, keys, unproven);
    }

    private static async Task<int> OneAsync(Session session, string id)
    {
        var response = await AskAsync(session, id);
        session.Output.Message(response);
        if (!response.Intact)
            return Tell(session, id, response);
        session.Output.Line($"{id} is intact: {response.RecordsVerified} records, {response.SnapshotsVerified} snapshots, "
            + $"head {Output.Hex(response.HeadHash)}");
        return ExitCode.Success;
    }

    private static async Task<int> AllAsync(Session session)
    {
        var counts = await session.Workflows.CountWorkflowsAsync(
            new Pb.CountWorkflowsRequest { Namespace = session.Namespace }, session.Unary);
        var broken = new ConcurrentBag<(string Id, Pb.VerifyWorkflowResponse Response)>();
        long workflows = 0, records = 0, snapshots = 0;
        await session.Output.ProgressAsync("Verifying", counts.Counts.Sum(c => (double)c.Count), advance =>
            global::System.Threading.Tasks.Parallel.ForEachAsync(
                ListCommands.AllAsync(session, new Pb.ListWorkflowsRequest { Namespace = session.Namespace }),
                new ParallelOptions { MaxDegreeOfParallelism = Parallel, CancellationToken = session.Cancellation },
                async (workflow, _) =>
                {
                    var response = await AskAsync(session, workflow.WorkflowId);
                    Interlocked.Increment(ref workflows);
                    Interlocked.Add(ref records, (long)response.RecordsVerified);
                    Interlocked.Add(ref snapshots, (long)response.SnapshotsVerified);
                    if (!response.Intact)
                        broken.Add((workflow.WorkflowId, response));
                    advance(1);
                }));
        var code = ExitCode.Success;
        foreach (var (id, response) in broken.OrderBy(b => b.Id, StringComparer.Ordinal))
        {
            session.Output.Message(response);
            code = Tell(session, id, response);
        }
        session.Output.Object(new { workflows, records, snapshots, broken = broken.Count });
        session.Output.Line($"{workflows} workflows, {records} records, {snapshots} snapshots verified: "
            + (broken.IsEmpty ? "all intact" : $"{broken.Count} broken"));
        return code;
    }

    private static async Task<Pb.VerifyWorkflowResponse> AskAsync(Session session, string id) =>
        await session.Integrity.VerifyWorkflowAsync(
            new Pb.VerifyWorkflowRequest { Namespace = session.Namespace, WorkflowId = id }, session.Unary);

    private static int Tell(Session session, string id, Pb.VerifyWorkflowResponse response)
    {
        session.Output.Line($"{id} is broken: {response.Violations.Count} "
            + (response.Violations.Count == 1 ? "violation" : "violations"));
        foreach (var violation in response.Violations)
            Tell(session, violation, violation.Sequence == 0 ? "the workflow" : $"record {violation.Sequence}");
        return ExitCode.Violation;
    }

    public static void Tell(Session session, Pb.Violation violation, string place)
    {
        session.Output.Line($"  {place}: {Output.Name(violation.Class)}: {violation.Message}");
        TellDifferences(session.Output, violation);
    }

    /// <summary>Of a part that can be erased only its name is known.</summary>
    public static void TellDifferences(Output output, Pb.Violation violation)
    {
        foreach (var difference in violation.Differences)
        {
            output.Line(difference.HasOriginal || difference.HasFound
                ? $"    {difference.Field} was {(difference.HasOriginal ? $"\"{difference.Original}\"" : "unknown")}, "
                    + $"is {(difference.HasFound ? $"\"{difference.Found}\"" : "gone")}"
                : $"    {difference.Field} differs");
        }
    }
}
