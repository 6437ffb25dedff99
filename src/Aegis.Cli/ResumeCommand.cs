using System.CommandLine;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Resumes one workflow, or all that are pending.</summary>
internal static class ResumeCommand
{
    private static readonly Argument<string?> Id = Inputs.OptionalId("The workflow to resume; without one, all that are pending.");
    private static readonly Option<string?> Owner = Inputs.Owner();
    private static readonly Option<double?> Duration = Inputs.LeaseDuration();
    private static readonly Option<bool> TakeOverOwn = new("--take-over-own")
    {
        Description = "Take over live leases that the same owner holds, from before it crashed.",
    };
    private static readonly Option<string[]> Types = Inputs.Types();
    private static readonly Option<string[]> States = Inputs.States();
    private static readonly Option<string[]> Statuses = Inputs.Statuses();
    private static readonly Option<ulong> Max = new("--max") { Description = "How many at most; 0 for all." };
    private static readonly Option<string?> SnapshotOut = new("--snapshot-out")
    {
        Description = "Write the snapshot of the one workflow to this file, - for standard output.",
    };

    public static Command Create() => Session.Define("resume",
        "Resume a workflow (to look, or with --owner to lease it), or all that are pending (with --owner).",
        session => session.Get(Id) is { } id ? OneAsync(session, id) : AllAsync(session),
        Id, Owner, Duration, TakeOverOwn, Types, States, Statuses, Max, SnapshotOut);

    private static async Task<int> OneAsync(Session session, string id)
    {
        var response = await session.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest
        {
            Namespace = session.Namespace,
            WorkflowId = id,
            Owner = session.Get(Owner) ?? "",
            LeaseDuration = Inputs.Seconds(session.Get(Duration)),
            TakeOverOwn = session.Get(TakeOverOwn),
        }, session.Unary);
        if (session.Get(SnapshotOut) is { } path)
        {
            var snapshot = response.Checkpoint?.Snapshot
                ?? throw new UsageException($"{id} has no checkpoint: there is no snapshot to write.");
            await using var stream = path == "-" ? Console.OpenStandardOutput() : File.Create(path);
            await stream.WriteAsync(snapshot.Content.Memory, session.Cancellation);
            if (path == "-")
                return ExitCode.Success;
        }
        session.Output.Message(response);
        Tell(session, response);
        foreach (var record in response.RecordsSince)
            session.Output.Line($"  {record.Sequence}  {Output.Time(record.RecordedAt)}  {ReadCommands.Move(record)}");
        if (response.MoreRecords)
            session.Output.Line("  … and more: aegis show");
        return ExitCode.Success;
    }

    private static async Task<int> AllAsync(Session session)
    {
        if (session.Get(SnapshotOut) is not null)
            throw new UsageException("--snapshot-out needs the id of one workflow.");
        using var call = session.Recovery.ResumePendingWorkflows(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = session.Namespace,
            WorkflowTypes = { session.Get(Types) },
            States = { session.Get(States) },
            Statuses = { session.Get(Statuses).Select(s => Inputs.Status(s)) },
            Owner = session.Get(Owner) ?? throw new UsageException("--owner is required: who takes the leases?"),
            LeaseDuration = Inputs.Seconds(session.Get(Duration)),
            TakeOverOwn = session.Get(TakeOverOwn),
            MaxWorkflows = session.Get(Max),
            OmitSnapshots = !session.Output.IsJson,
        }, session.Streaming);
        var code = ExitCode.Success;
        await foreach (var message in call.ResponseStream.ReadAllAsync(session.Cancellation))
        {
            session.Output.Message(message);
            if (message.Resumed is { } resumed)
            {
                Tell(session, resumed);
            }
            else if (message.Failed is { } failed)
            {
                session.Output.Line($"{failed.WorkflowId}: {failed.Reason}: {failed.Message}");
                code = ExitCode.Violation;
            }
            else if (message.Summary is { } summary)
            {
                session.Output.Line($"{summary.Resumed} resumed, {summary.Failed} failed, {summary.HeldByOthers} held by others");
            }
        }
        return code;
    }

    private static void Tell(Session session, Pb.ResumeWorkflowResponse resumed)
    {
        var workflow = resumed.Workflow;
        var checkpoint = resumed.Checkpoint is { } c
            ? $"checkpoint at {c.Record.Sequence} ({c.Record.SnapshotSize} bytes {c.Record.SnapshotContentType}".TrimEnd() + ")"
            : "no checkpoint";
        var lease = resumed.Lease is { } l ? $", lease epoch {l.Epoch} until {Output.Time(l.ExpiresAt)}" : "";
        session.Output.Line($"{workflow.WorkflowId}: {workflow.State} ({Output.Name(workflow.Status)}) at sequence "
            + $"{workflow.Sequence}, {checkpoint}, {resumed.RecordsSince.Count} records since{lease}");
    }
}
