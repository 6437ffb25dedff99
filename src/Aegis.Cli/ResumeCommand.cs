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
    private static readonly Option<string[]> Types = Inputs.Many("--types", "TYPE", "Of all: only this type. May be repeated.");
    private static readonly Option<string[]> States = Inputs.Many("--states", "STATE", "Of all: only this state. May be repeated.");
    private static readonly Option<string[]> Statuses = Inputs.Many("--statuses", "STATUS",
        "Of all: only this status, RUNNING (by default) or WAITING. May be repeated.");
    private static readonly Option<ulong> Max = new("--max") { Description = "Of all: how many at most; 0 for all.", HelpName = "N" };
    private static readonly Option<bool> OmitSnapshots = new("--omit-snapshots")
    {
        Description = "Of all: leave the snapshots' content out, verified all the same.",
    };
    private static readonly Option<string?> SnapshotOut = Inputs.Text("--snapshot-out", "FILE",
        "Of one: write its snapshot to this file, or to standard output for - and print nothing else.");

    public static Command Create()
    {
        // Plural where they choose among all, and singular too, as other commands call them.
        Types.Aliases.Add("--type");
        States.Aliases.Add("--state");
        Statuses.Aliases.Add("--status");
        return Session.Define("resume",
            "Resume a workflow (to look, or with --owner to lease it), or all that are pending (with --owner). "
            + "Exit code 5 when one of them does not verify.",
            session => session.Get(Id) is { } id ? OneAsync(session, id) : AllAsync(session),
            Id, Owner, Duration, TakeOverOwn, Types, States, Statuses, Max, OmitSnapshots, SnapshotOut);
    }

    private static async Task<int> OneAsync(Session session, string id)
    {
        if (session.Get(Types).Length + session.Get(States).Length + session.Get(Statuses).Length > 0 || session.Get(Max) > 0)
            throw new UsageException("--types, --states, --statuses and --max choose among all: give them without an id.");
        var response = await session.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest
        {
            Namespace = session.Namespace,
            WorkflowId = id,
            Owner = session.Get(Owner) ?? "",
            LeaseDuration = Inputs.LeaseDurationOf(session.Get(Duration)),
            TakeOverOwn = session.Get(TakeOverOwn),
        }, session.Unary);
        var path = session.Get(SnapshotOut);
        // Told before a file is written that may fail: a lease may have been taken.
        if (path != OutputFile.StandardOutputPath)
        {
            session.Output.Message(response);
            Tell(session, response);
            foreach (var record in response.RecordsSince)
                session.Output.Line($"  {record.Sequence}  {Output.Time(record.RecordedAt)}  {ShowCommand.Move(record)}");
            if (response.MoreRecords)
                session.Output.Line("  … and more: see aegis show");
        }
        if (path is null)
            return ExitCode.Success;
        if (response.Checkpoint is not { } checkpoint)
        {
            session.Output.Fail(Failure.OfNoCheckpoint(id));
            return ExitCode.NotFound;
        }
        await OutputFile.WriteAsync(path, stream =>
            stream.WriteAsync(checkpoint.Snapshot.Content.Memory, session.Cancellation).AsTask());
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
            Statuses = { session.Get(Statuses).Select(Inputs.Status) },
            Owner = session.Get(Owner) ?? throw new UsageException("--owner is required: who takes the leases?"),
            LeaseDuration = Inputs.LeaseDurationOf(session.Get(Duration)),
            TakeOverOwn = session.Get(TakeOverOwn),
            MaxWorkflows = session.Get(Max),
            OmitSnapshots = session.Get(OmitSnapshots),
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
                session.Output.Line($"{failed.WorkflowId} not resumed: {failed.Reason}: {failed.Message}");
                code = Math.Max(code, failed.Reason is "CHAIN_BROKEN" or "SNAPSHOT_CORRUPT" ? ExitCode.Violation : ExitCode.Failed);
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
            + $"{workflow.Sequence}, {checkpoint}, {resumed.RecordsSince.Count}{(resumed.MoreRecords ? "+" : "")} records since{lease}");
    }
}
