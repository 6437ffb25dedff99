using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>Records workflows, and reads what was recorded.</summary>
public sealed partial class WorkflowService(
    ILedgerStore store, Ledger ledger, LogTail tail, ChainReader chains, LogProofs proofs, Reads reads,
    ServerOptions options, Drain drain)
    : Pb.WorkflowService.WorkflowServiceBase
{
    public override async Task<Pb.StartWorkflowResponse> StartWorkflow(
        Pb.StartWorkflowRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var key = fields.WritableKey(request.Namespace, request.WorkflowId);
        var type = fields.Required("workflow_type", request.WorkflowType);
        var fork = ForkOf(fields, request.ForkedFrom);
        var state = fork is null
            ? fields.Required("initial_state", request.InitialState)
            : fields.Text("initial_state", request.InitialState);
        var status = fields.Status("status", request.Status, WorkflowStatus.Running);
        if (status.IsClosed())
            fields.Wrong("status", "must be RUNNING or WAITING, a workflow does not start closed");
        var owner = fields.Text("owner", request.Owner);
        if (owner.Length == 0 && request.LeaseDuration is not null)
            fields.Wrong("lease_duration", "needs an owner");
        var command = new StartCommand
        {
            Key = key,
            WorkflowType = type,
            InitialState = state,
            Status = status,
            RequestId = fields.Text("request_id", request.RequestId, Limits.RequestIdBytesMax),
            OccurredAt = fields.OccurredAt(request.OccurredAt),
            KnownLogSize = fields.Integer("known_log_size", request.KnownLogSize),
            IncludeProof = request.IncludeProof,
            Owner = owner,
            LeaseDuration = fields.LeaseDuration(request.LeaseDuration),
            ForkedFrom = fork,
            Parts = fields.Parts(request.Actor, request.Reason, request.Metadata, request.Snapshot,
                options.SnapshotBytesMax),
        };
        fields.Check();
        if (fork is not null)
            command = await WithForkAsync(command, request.ForkedFrom.Hash.Length > 0, context.CancellationToken);

        var written = await WriteAsync(command, context);
        return new Pb.StartWorkflowResponse
        {
            Workflow = written.Workflow.ToPb(),
            Record = written.Record.ToPb(),
            Receipt = await ReceiptAsync(written, request.IncludeProof, request.KnownLogSize, context),
            Lease = written.Lease.ToPb(),
            Replayed = written.Replayed,
        };
    }

    public override async Task<Pb.TransitionWorkflowResponse> TransitionWorkflow(
        Pb.TransitionWorkflowRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var expected = request.ExpectedCase switch
        {
            Pb.TransitionWorkflowRequest.ExpectedOneofCase.ExpectedSequence =>
                new Expectation(fields.Integer("expected_sequence", request.ExpectedSequence), null),
            Pb.TransitionWorkflowRequest.ExpectedOneofCase.ExpectedHash =>
                new Expectation(null, fields.HashOf("expected_hash", request.ExpectedHash)),
            _ => default,
        };
        var command = new TransitionCommand
        {
            Key = fields.WritableKey(request.Namespace, request.WorkflowId),
            FromState = fields.Required("from_state", request.FromState),
            ToState = fields.Required("to_state", request.ToState),
            Status = fields.Status("status", request.Status, WorkflowStatus.Running),
            Expected = expected,
            LeaseEpoch = fields.Integer("lease_epoch", request.LeaseEpoch),
            RequestId = fields.Text("request_id", request.RequestId, Limits.RequestIdBytesMax),
            OccurredAt = fields.OccurredAt(request.OccurredAt),
            KnownLogSize = fields.Integer("known_log_size", request.KnownLogSize),
            IncludeProof = request.IncludeProof,
            Parts = fields.Parts(request.Actor, request.Reason, request.Metadata, request.Snapshot,
                options.SnapshotBytesMax),
        };
        if (command.FromState == command.ToState && expected.IsNone && command.RequestId.Length == 0)
        {
            fields.Wrong("expected", "is required, or a request_id, where to_state is from_state: without either, a retry "
                + "could double the record");
        }
        fields.Check();

        var written = await WriteAsync(command, context);
        return new Pb.TransitionWorkflowResponse
        {
            Record = written.Record.ToPb(),
            Receipt = await ReceiptAsync(written, request.IncludeProof, request.KnownLogSize, context),
            Replayed = written.Replayed,
        };
    }

    public override async Task<Pb.CheckpointWorkflowResponse> CheckpointWorkflow(
        Pb.CheckpointWorkflowRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var expected = request.ExpectedCase switch
        {
            Pb.CheckpointWorkflowRequest.ExpectedOneofCase.ExpectedSequence =>
                new Expectation(fields.Integer("expected_sequence", request.ExpectedSequence), null),
            Pb.CheckpointWorkflowRequest.ExpectedOneofCase.ExpectedHash =>
                new Expectation(null, fields.HashOf("expected_hash", request.ExpectedHash)),
            _ => default,
        };
        if (request.Snapshot is null)
            fields.Wrong("snapshot", "is required; its content may be empty");
        if (expected.IsNone && request.LeaseEpoch == 0)
            fields.Wrong("expected", "is required, or a lease_epoch: a checkpoint is never last-writer-wins");
        var command = new CheckpointCommand
        {
            Key = fields.WritableKey(request.Namespace, request.WorkflowId),
            Expected = expected,
            LeaseEpoch = fields.Integer("lease_epoch", request.LeaseEpoch),
            RequestId = fields.Text("request_id", request.RequestId, Limits.RequestIdBytesMax),
            OccurredAt = fields.OccurredAt(request.OccurredAt),
            KnownLogSize = fields.Integer("known_log_size", request.KnownLogSize),
            IncludeProof = request.IncludeProof,
            Parts = fields.Parts(request.Actor, request.Reason, request.Metadata, request.Snapshot,
                options.SnapshotBytesMax),
        };
        fields.Check();

        var written = await WriteAsync(command, context);
        return new Pb.CheckpointWorkflowResponse
        {
            Record = written.Record.ToPb(),
            Receipt = await ReceiptAsync(written, request.IncludeProof, request.KnownLogSize, context),
            Replayed = written.Replayed,
        };
    }

    /// <summary>
    /// What proves a record: the signed head, and on request the paths to it. Those that lead through what was stored before
    /// come from the tiles; the write has happened, so that a tile which was altered shows as a path that does not verify.
    /// </summary>
    private async Task<Pb.Receipt> ReceiptAsync(Written written, bool includeProof, ulong knownLogSize, ServerCallContext context)
    {
        var head = written.Head ?? throw new InvalidOperationException("A record was written without a head.");
        var receipt = Mapping.ReceiptOf(written.Record, head.SignedNote);
        if (!includeProof)
            return receipt;
        try
        {
            await AddPathsAsync(receipt, written, head, knownLogSize, context);
            return receipt;
        }
        catch (StoreException e)
        {
            // Nobody may be told that nothing was written.
            throw new RefusalException(Unproven(written.Record.Record), e);
        }
    }

    /// <summary>The store was lost between the commit and the reading of a proof; the same request again gets both.</summary>
    private static Refusal Unproven(Record record)
    {
        var facts = Refusal.Of(record.Key).Append(("sequence", Refusal.Text(record.Sequence)));
        return new Refusal(Reason.OutcomeUnknown,
            $"Record {record.Sequence} of {record.Key} was written, and the store was lost before its proof could be read.",
            [.. record.RequestId.Length > 0 ? facts.Append(("request_id", record.RequestId)) : facts]);
    }

    private async Task AddPathsAsync(
        Pb.Receipt receipt, Written written, SealedHead head, ulong knownLogSize, ServerCallContext context)
    {
        var path = written.Tree?.InclusionPath(written.Record.LogIndex)
            ?? await proofs.InclusionPathAsync(written.Record.LogIndex, head.Head.Size, context.CancellationToken);
        receipt.InclusionPath.AddRange(path.Select(h => h.ToPb()));
        if (knownLogSize > 0)
        {
            var consistency = await proofs.ConsistencyPathAsync((long)knownLogSize, head.Head.Size, context.CancellationToken);
            receipt.ConsistencyPath.AddRange(consistency.Select(h => h.ToPb()));
        }
    }

    private async Task<Written> WriteAsync(WriteCommand command, ServerCallContext context) =>
        await ledger.SubmitAsync(command, context.CancellationToken) switch
        {
            Written written => written,
            Refused refused => throw new RefusalException(
                await chains.ToldAsync(command.Key, refused.Refusal, context.CancellationToken)),
            var other => throw new InvalidOperationException($"A write was answered by {other.GetType().Name}."),
        };

    private static ForkPoint? ForkOf(Fields fields, Pb.ForkPoint? fork)
    {
        if (fork is null)
            return null;
        if (fork.Sequence == 0)
            fields.Wrong("forked_from.sequence", "is required");
        return new ForkPoint(
            fields.Required("forked_from.workflow_id", fork.WorkflowId),
            fields.Integer("forked_from.sequence", fork.Sequence),
            fork.Hash.IsEmpty ? default : fields.HashOf("forked_from.hash", fork.Hash));
    }

    /// <summary>
    /// Takes from the source what the request left to it. A source that cannot be had is no failure yet: the request may be a
    /// known one, whose record stands whatever became of the source.
    /// </summary>
    private async Task<StartCommand> WithForkAsync(StartCommand command, bool hashGiven,
        CancellationToken cancellationToken)
    {
        var fork = command.ForkedFrom!;
        var stateFromFork = command.InitialState.Length == 0;
        var snapshotFromFork = command.Parts.Snapshot is null;
        command = command with { StateFromFork = stateFromFork, SnapshotFromFork = snapshotFromFork };
        try
        {
            var source = await chains.ForkSourceAsync(
                new WorkflowKey(command.Key.Namespace, fork.WorkflowId), fork.Sequence, snapshotFromFork,
                cancellationToken);
            if (hashGiven && fork.Hash != source.Record.Hash)
            {
                return command with
                {
                    ForkRefusal = new Refusal(Reason.HashMismatch,
                        $"Record {fork.Sequence} of \"{fork.WorkflowId}\" has another hash than forked_from says.",
                        [.. Refusal.Of(source.Record.Record.Key), ("sequence", Refusal.Text(fork.Sequence)),
                            ("current_state", source.Record.Record.ToState), ("current_sequence", Refusal.Text(fork.Sequence)),
                            ("current_hash", source.Record.Hash.ToString())]),
                };
            }
            var parts = command.Parts;
            if (snapshotFromFork && source.Snapshot is { } snapshot)
            {
                parts = new Parts(parts.Person, parts.Content,
                    snapshot.Part with { Salt = Fields.NewSalt() }, snapshot.Content);
            }
            return command with
            {
                ForkedFrom = fork with { Hash = source.Record.Hash },
                InitialState = stateFromFork ? source.Record.Record.ToState : command.InitialState,
                Parts = parts,
            };
        }
        catch (RefusalException e)
        {
            return command with { ForkRefusal = e.Refusal };
        }
    }
}
