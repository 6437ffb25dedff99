using System.CommandLine;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Commands that record something. Each has a request_id, given or made, so that a retry never doubles it.</summary>
internal static class WriteCommands
{
    public static Command Start()
    {
        var id = Inputs.Id();
        var type = new Option<string>("--type") { Description = "The workflow's type.", Required = true };
        var state = new Option<string?>("--state") { Description = "The state it starts in; may be left out in a fork." };
        var status = new Option<string?>("--status") { Description = "RUNNING (by default) or WAITING." };
        var fork = new Option<string?>("--fork") { Description = "The record to fork from, as ID@SEQUENCE." };
        var owner = Inputs.Owner();
        var duration = Inputs.LeaseDuration();
        var common = new CommonOptions();
        return Session.Define("start", "Start a workflow.", async session =>
        {
            var request = new Pb.StartWorkflowRequest
            {
                Namespace = session.Namespace,
                WorkflowId = session.Get(id),
                WorkflowType = session.Get(type),
                InitialState = session.Get(state) ?? "",
                Status = Inputs.Status(session.Get(status)),
                ForkedFrom = ForkOf(session.Get(fork)),
                Owner = session.Get(owner) ?? "",
                LeaseDuration = Inputs.Seconds(session.Get(duration)),
                Actor = session.Get(common.Actor) ?? "",
                Reason = session.Get(common.Reason) ?? "",
                OccurredAt = Inputs.Time(session.Get(common.OccurredAt)),
                RequestId = common.RequestIdOf(session),
                Snapshot = await common.SnapshotAsync(session),
            };
            Inputs.Add(request.Metadata, session.Get(common.Metadata));
            var response = await session.Workflows.StartWorkflowAsync(request, session.Unary);
            session.Output.Message(response);
            Tell(session, response.Record, response.Replayed);
            if (response.Lease is { } lease)
                session.Output.Line($"leased to {lease.Owner}, epoch {lease.Epoch}, until {Output.Time(lease.ExpiresAt)}");
            return ExitCode.Success;
        }, [id, type, state, status, fork, owner, duration, .. common.All]);
    }

    public static Command Transition()
    {
        var id = Inputs.Id();
        var from = new Option<string>("--from") { Description = "The state it must be in.", Required = true };
        var to = new Option<string>("--to") { Description = "The state it moves to.", Required = true };
        var status = new Option<string?>("--status") { Description = "The status after: RUNNING by default." };
        var point = new PointOptions();
        var common = new CommonOptions();
        return Session.Define("transition", "Move a workflow from one state to another.", async session =>
        {
            var request = new Pb.TransitionWorkflowRequest
            {
                Namespace = session.Namespace,
                WorkflowId = session.Get(id),
                FromState = session.Get(from),
                ToState = session.Get(to),
                Status = Inputs.Status(session.Get(status)),
                LeaseEpoch = session.Get(point.LeaseEpoch) ?? 0,
                Actor = session.Get(common.Actor) ?? "",
                Reason = session.Get(common.Reason) ?? "",
                OccurredAt = Inputs.Time(session.Get(common.OccurredAt)),
                RequestId = common.RequestIdOf(session),
                Snapshot = await common.SnapshotAsync(session),
            };
            if (session.Get(point.Sequence) is { } sequence)
                request.ExpectedSequence = sequence;
            if (session.Get(point.Hash) is { } hash)
                request.ExpectedHash = Inputs.Hash(hash);
            Inputs.Add(request.Metadata, session.Get(common.Metadata));
            var response = await session.Workflows.TransitionWorkflowAsync(request, session.Unary);
            session.Output.Message(response);
            Tell(session, response.Record, response.Replayed);
            return ExitCode.Success;
        }, [id, from, to, status, .. point.All, .. common.All]);
    }

    public static Command Checkpoint()
    {
        var id = Inputs.Id();
        var point = new PointOptions();
        var common = new CommonOptions();
        return Session.Define("checkpoint", "Store a snapshot without moving the workflow.", async session =>
        {
            var request = new Pb.CheckpointWorkflowRequest
            {
                Namespace = session.Namespace,
                WorkflowId = session.Get(id),
                LeaseEpoch = session.Get(point.LeaseEpoch) ?? 0,
                Actor = session.Get(common.Actor) ?? "",
                Reason = session.Get(common.Reason) ?? "",
                OccurredAt = Inputs.Time(session.Get(common.OccurredAt)),
                RequestId = common.RequestIdOf(session),
                Snapshot = await common.SnapshotAsync(session)
                    ?? throw new UsageException("--snapshot is required: a file, or - for standard input."),
            };
            if (session.Get(point.Sequence) is { } sequence)
                request.ExpectedSequence = sequence;
            if (session.Get(point.Hash) is { } hash)
                request.ExpectedHash = Inputs.Hash(hash);
            Inputs.Add(request.Metadata, session.Get(common.Metadata));
            var response = await session.Workflows.CheckpointWorkflowAsync(request, session.Unary);
            session.Output.Message(response);
            Tell(session, response.Record, response.Replayed);
            return ExitCode.Success;
        }, [id, .. point.All, .. common.All]);
    }

    private static void Tell(Session session, Pb.Record record, bool replayed) => session.Output.Line(
        $"{record.WorkflowId} is at sequence {record.Sequence} in {record.ToState} ({Output.Name(record.Status)}), "
        + $"hash {Output.Hex(record.Hash)}{(replayed ? ", as recorded before" : "")}");

    private static Pb.ForkPoint? ForkOf(string? text)
    {
        if (text is null)
            return null;
        var split = text.LastIndexOf('@');
        return split > 0 && ulong.TryParse(text[(split + 1)..], out var sequence)
            ? new Pb.ForkPoint { WorkflowId = text[..split], Sequence = sequence }
            : throw new UsageException($"--fork {text}: expected ID@SEQUENCE.");
    }

    /// <summary>The exact point of the history that a write belongs to.</summary>
    private sealed class PointOptions
    {
        public Option<ulong?> Sequence { get; } = new("--expected-sequence") { Description = "The sequence its head must have." };
        public Option<string?> Hash { get; } = new("--expected-hash") { Description = "The hash its head must have, in hex." };
        public Option<ulong?> LeaseEpoch { get; } = new("--lease-epoch") { Description = "The epoch of the lease held." };
        public Symbol[] All => [Sequence, Hash, LeaseEpoch];
    }

    /// <summary>What every write can say.</summary>
    private sealed class CommonOptions
    {
        public Option<string?> Actor { get; } = new("--actor") { Description = "Who acts." };
        public Option<string?> Reason { get; } = new("--reason") { Description = "Why." };
        public Option<string[]> Metadata { get; } = Inputs.Metadata("Further facts.");
        public Option<string?> OccurredAt { get; } = new("--occurred-at") { Description = "When it happened, ISO 8601." };
        public Option<string?> RequestId { get; } =
            new("--request-id") { Description = "The idempotency key; made up when not given." };
        public Option<string?> Snapshot { get; } =
            new("--snapshot") { Description = "A file with the state to keep, or - for standard input." };
        public Option<string?> ContentType { get; } = new("--content-type") { Description = "The snapshot's media type." };
        public Symbol[] All => [Actor, Reason, Metadata, OccurredAt, RequestId, Snapshot, ContentType];

        public string RequestIdOf(Session session) => session.Get(RequestId) ?? $"aegis-{Guid.NewGuid():N}";

        public Task<Pb.Snapshot?> SnapshotAsync(Session session) =>
            Inputs.SnapshotAsync(session.Get(Snapshot), session.Get(ContentType), session.Cancellation);
    }
}
