using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// What operators do about findings. Each act leaves a record in the log's own history.
public sealed partial class IntegrityService
{
    public override async Task<Pb.AcceptRollbackResponse> AcceptRollback(
        Pb.AcceptRollbackRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var (actor, reason) = OperatorOf(fields, request.Actor, request.Reason);
        fields.Check();
        // Looked at anew: what is accepted is the log as it is now.
        var before = memory.Look();
        var stored = await store.ReadHeadAsync(context.CancellationToken);
        if (stored is not null)
            await memory.FollowAsync(stored, before, context.CancellationToken);
        if (memory.RolledBack is not { } rolledBack || memory.Lost is not { } lost || memory.Newest is not { } own)
            throw new RefusalException(Ledger.NothingToAccept);
        if (memory.Surviving is not { } surviving)
            throw new RefusalException(rolledBack);

        // While the log has all that this server remembers, only what others have kept is missing.
        var from = own.SignedNote == surviving.SignedNote
            ? await memory.LostFromAsync(lost.Head, surviving.Head, context.CancellationToken)
            : await LostFromAsync(own, surviving, context.CancellationToken);
        var acceptance = new AcceptedRollback(lost.Head.LogId, lost.Head.Size, lost.Head.Root, from,
            surviving.Head.Size, surviving.Head.Root);
        var newest = LogName.Split(lost.Head.LogId).Generation >= LogName.Split(surviving.Head.LogId).Generation
            ? lost.Head.LogId
            : surviving.Head.LogId;
        var response = new Pb.AcceptRollbackResponse
        {
            LogId = LogName.Next(newest),
            LostFromLogIndex = (ulong)from,
            LostToLogIndex = (ulong)lost.Head.Size,
            LostHead = lost.SignedNote,
            SurvivingHead = surviving.SignedNote,
        };
        if (request.DryRun)
            return response;
        var command = new LogActCommand(LogActCommand.RollbackAccepted, OperatorParts(actor, reason, acceptance.ToMetadata()))
        {
            NewLogId = response.LogId,
            SurvivingSize = surviving.Head.Size,
            Violations = await ReleaseOfRollbackAsync(memory.FindingOf(rolledBack, stored), context.CancellationToken),
        };
        response.Record = (await ActAsync(command, context)).ToPb();
        findings.Forget();
        await findings.SettleAsync(CancellationToken.None);
        return response;
    }

    /// <summary>
    /// Accepting the loss answers what was found of it. The finding is told first, should nobody have found it yet: an audit that
    /// is late with it then finds it answered.
    /// </summary>
    private async Task<ViolationChange> ReleaseOfRollbackAsync(Violation finding, CancellationToken cancellationToken)
    {
        findings.Report([finding]);
        await findings.SettleAsync(cancellationToken);
        var filter = new ViolationFilter { Namespace = WorkflowKey.None.Namespace, WorkflowId = WorkflowKey.None.WorkflowId };
        var open = (await OpenAsync(filter, cancellationToken))
            .Where(v => v.Violation.Class is ViolationClass.LogRolledBack or ViolationClass.SignatureInvalid).ToList();
        return new ViolationChange(ViolationFate.Released, [WorkflowKey.None], [.. open.Select(v => v.Id)],
            open.Count == 0 ? 0 : open.Max(v => v.Number));
    }

    /// <summary>
    /// The first position that is not as it was acknowledged. In a log that is merely shorter, its size; in one that grew again
    /// since, the size of the newest remembered head that it still has, between which and the next the two histories part.
    /// </summary>
    private async Task<long> LostFromAsync(SealedHead lost, SealedHead surviving, CancellationToken cancellationToken)
    {
        var agreed = 0L;
        foreach (var head in memory.Earlier.Where(h => h.Size <= surviving.Head.Size))
        {
            var root = await proofs.RootAsync(head.Size, cancellationToken);
            if (Convert.ToBase64String(root.ToArray()) != head.Root)
                continue;
            agreed = head.Size;
            break;
        }
        // The complete subtrees of the lost head that are the same here tell more where few heads are remembered.
        foreach (var (subtree, hash) in lost.Frontier.Subtrees().TakeWhile(s => s.Subtree.To <= surviving.Head.Size))
        {
            if (await proofs.HashAsync(subtree, cancellationToken) != hash)
                return Math.Max(agreed, subtree.From);
            agreed = Math.Max(agreed, subtree.To);
        }
        var isBeginning = surviving.Head.Size < lost.Head.Size && memory.Earlier.All(h => h.Size > surviving.Head.Size || h.Size <= agreed);
        return isBeginning ? surviving.Head.Size : agreed;
    }

    private static (string Actor, string Reason) OperatorOf(Fields fields, string actor, string reason)
    {
        if (reason.Length == 0)
            fields.Wrong("reason", "is required: it is recorded why");
        return (fields.Required("actor", actor), fields.Text("reason", reason, Limits.ReasonBytesMax));
    }

    private static Parts OperatorParts(string actor, string reason, Core.Metadata metadata) => new(
        new Person(Fields.NewSalt(), actor, ""), new Content(Fields.NewSalt(), reason, metadata), null, default);

    /// <summary>Has an act upon the log recorded.</summary>
    private async Task<StoredRecord> ActAsync(LogActCommand command, ServerCallContext context) =>
        await ledger.SubmitAsync(command, context.CancellationToken) switch
        {
            LogActed acted => acted.Record,
            Refused refused => throw new RefusalException(refused.Refusal),
            var other => throw new InvalidOperationException($"An act was answered by {other.GetType().Name}."),
        };
}
