using System.CommandLine;
using Google.Protobuf;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Commands that record something. Each has a request_id, given or made, so that a retry never doubles it.</summary>
internal static class WriteCommands
{
    public static Command Start()
    {
        var id = Inputs.Id();
        var type = new Option<string>("--type") { Description = "The workflow's type.", HelpName = "TYPE", Required = true };
        var state = Inputs.Text("--state", "STATE", "The state it starts in; may be left out in a fork.");
        var status = Inputs.Text("--status", "STATUS", "RUNNING (by default) or WAITING.");
        var fork = Inputs.Text("--fork", "ID@SEQUENCE", "The record to fork from.");
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
                LeaseDuration = Inputs.LeaseDurationOf(session.Get(duration)),
                Actor = session.Get(common.Actor) ?? "",
                Reason = session.Get(common.Reason) ?? "",
                OccurredAt = Inputs.Time(session.Get(common.OccurredAt)),
                RequestId = common.RequestIdOf(session),
                Snapshot = await common.SnapshotAsync(session),
            };
            Inputs.Add(request.Metadata, session.Get(common.Metadata));
            var response = await session.WriteAsync(request.RequestId,
                options => session.Workflows.StartWorkflowAsync(request, options));
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
        var from = new Option<string>("--from") { Description = "The state it must be in.", HelpName = "STATE", Required = true };
        var to = new Option<string>("--to") { Description = "The state it moves to.", HelpName = "STATE", Required = true };
        var status = Inputs.Text("--status", "STATUS",
            "The status after: RUNNING by default, WAITING, or COMPLETED, FAILED, CANCELLED, which close it.");
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
                LeaseEpoch = point.LeaseEpochOf(session),
                Actor = session.Get(common.Actor) ?? "",
                Reason = session.Get(common.Reason) ?? "",
                OccurredAt = Inputs.Time(session.Get(common.OccurredAt)),
                RequestId = common.RequestIdOf(session),
                Snapshot = await common.SnapshotAsync(session),
            };
            if (point.SequenceOf(session) is { } sequence)
                request.ExpectedSequence = sequence;
            if (point.HashOf(session) is { } hash)
                request.ExpectedHash = hash;
            Inputs.Add(request.Metadata, session.Get(common.Metadata));
            var response = await session.WriteAsync(request.RequestId,
                options => session.Workflows.TransitionWorkflowAsync(request, options));
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
            if (!point.IsGiven(session))
                throw new UsageException("A checkpoint needs --expected-sequence, --expected-hash or --lease-epoch: what does it follow?");
            var request = new Pb.CheckpointWorkflowRequest
            {
                Namespace = session.Namespace,
                WorkflowId = session.Get(id),
                LeaseEpoch = point.LeaseEpochOf(session),
                Actor = session.Get(common.Actor) ?? "",
                Reason = session.Get(common.Reason) ?? "",
                OccurredAt = Inputs.Time(session.Get(common.OccurredAt)),
                RequestId = common.RequestIdOf(session),
                Snapshot = await common.SnapshotAsync(session)
                    ?? throw new UsageException("--snapshot is required: a file, or - for standard input."),
            };
            if (point.SequenceOf(session) is { } sequence)
                request.ExpectedSequence = sequence;
            if (point.HashOf(session) is { } hash)
                request.ExpectedHash = hash;
            Inputs.Add(request.Metadata, session.Get(common.Metadata));
            var response = await session.WriteAsync(request.RequestId,
                options => session.Workflows.CheckpointWorkflowAsync(request, options));
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
        private readonly Option<ulong?> _sequence = new("--expected-sequence")
        {
            Description = "The sequence its head must have.",
            HelpName = "N",
        };
        private readonly Option<string?> _hash = Inputs.Text("--expected-hash", "HASH",
            "The hash its head must have, in hex (or base64, as --json tells it).");
        private readonly Option<ulong?> _leaseEpoch = new("--lease-epoch")
        {
            Description = "The epoch of the lease held.",
            HelpName = "N",
        };

        public Symbol[] All => [_sequence, _hash, _leaseEpoch];

        public bool IsGiven(Session session) =>
            session.Get(_sequence) is not null || session.Get(_hash) is not null || LeaseEpochOf(session) > 0;

        public ulong? SequenceOf(Session session) => session.Get(_sequence);

        public ByteString? HashOf(Session session)
        {
            if (session.Get(_hash) is not { } text)
                return null;
            return session.Get(_sequence) is null
                ? Inputs.Hash(text)
                : throw new UsageException("Give --expected-sequence or --expected-hash, not both.");
        }

        public ulong LeaseEpochOf(Session session) => session.Get(_leaseEpoch) ?? 0;
    }

    /// <summary>What every write can say.</summary>
    private sealed class CommonOptions
    {
        private readonly Option<string?> _requestId = Inputs.Text("--request-id", "ID",
            "The idempotency key: the same write with the same key is recorded once. Made up when not given.");
        private readonly Option<string?> _snapshot = Inputs.Text("--snapshot", "FILE",
            "A file with the state to keep, or - for standard input.");
        private readonly Option<string?> _contentType = Inputs.Text("--content-type", "TYPE", "The snapshot's media type.");

        public Option<string?> Actor { get; } = Inputs.Text("--actor", "NAME", "Who acts.");
        public Option<string?> Reason { get; } = Inputs.Text("--reason", "TEXT", "Why.");
        public Option<string[]> Metadata { get; } = Inputs.Metadata("Further facts.");
        public Option<string?> OccurredAt { get; } = Inputs.Text("--occurred-at", "TIME", "When it happened, in ISO 8601.");
        public Symbol[] All => [Actor, Reason, Metadata, OccurredAt, _requestId, _snapshot, _contentType];

        // An empty one would be none, and the retries no longer safe.
        public string RequestIdOf(Session session) => session.Get(_requestId) switch
        {
            null => $"aegis-{Guid.NewGuid():N}",
            "" => throw new UsageException("--request-id must not be empty."),
            var given => given,
        };

        public Task<Pb.Snapshot?> SnapshotAsync(Session session) =>
            Inputs.SnapshotAsync(session.Get(_snapshot), session.Get(_contentType), session.Cancellation);
    }
}
