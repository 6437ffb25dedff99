using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>Checks that nobody rewrote what was recorded.</summary>
public sealed partial class IntegrityService(ILedgerStore store, Ledger ledger, LogSigner signer,
    SignerMemory memory, LogProofs proofs, Findings findings, Repairer repairer, ProvenBackups backups, Reads reads,
    Drain drain, TimeProvider time)
    : Pb.IntegrityService.IntegrityServiceBase
{
    private const int PageSize = 500;
    private const int ViolationIdsMax = 1000;

    // Room for what stands beside the violations in a response.
    private const int ViolationBytesMax = Limits.ResponseBytesMax - 4096;

    public override async Task<Pb.VerifyWorkflowResponse> VerifyWorkflow(
        Pb.VerifyWorkflowRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var key = fields.Key(request.Namespace, request.WorkflowId);
        fields.Check();
        var place = await reads.CurrentAsync(request.MinLogSize, context.CancellationToken);
        return await reads.ReadAsync(place, at => VerifyAsync(key, at, context.CancellationToken));
    }

    private async Task<Pb.VerifyWorkflowResponse> VerifyAsync(WorkflowKey key, ReadPlace place, CancellationToken cancellationToken)
    {
        var verifier = new ChainVerifier(key);
        var places = new List<(long LogIndex, Hash Hash)>();
        var head = await WalkAsync(key, place, verifier, places, cancellationToken);
        var violations = verifier.Complete(head).ToList();
        if (head is null && verifier.RecordsVerified == 0)
            return await DeletedAsync(key, place.Size, cancellationToken);
        if (head is null)
            violations.Add(WorkflowHeads.Gone(key));
        if (await place.Store.CheckForkAsync(head, cancellationToken) is { } forged)
            violations.Add(forged);
        if (await place.Store.IsImportingAsync(head, cancellationToken))
        {
            violations.RemoveAll(v => v.Class is ViolationClass.ErasedWithoutRecord or ViolationClass.SnapshotMissing);
        }
        else if (head is { Importing: true })
        {
            // Its last slice may have come since: then there is more to verify.
            if (await place.Store.FindWorkflowAsync(key, cancellationToken) is not { Importing: true } current
                || current.Sequence != head.Sequence)
            {
                return await VerifyAsync(key, place, cancellationToken);
            }
            violations.Add(WorkflowHeads.NotImporting(key));
        }
        violations.AddRange(await CheckPlacesAsync(key, place, places, violations, cancellationToken));
        if (violations.Count > 0)
        {
            place.Doubt(violations);
            // Once it is told it also holds: writes are refused from here on.
            findings.Report(violations, place.Size);
            await findings.SettleAsync(cancellationToken);
        }
        var response = ResponseOf(verifier, await findings.AsKeptAsync(violations, cancellationToken), place.Size);
        if (response.Intact && head is not null)
            response.Statement = await StatementAsync(head, place, cancellationToken);
        return response;
    }

    /// <summary>Of a workflow of which nothing is left, what is known of its deletion.</summary>
    private async Task<Pb.VerifyWorkflowResponse> DeletedAsync(WorkflowKey key, long logSize, CancellationToken cancellationToken)
    {
        var open = await OpenAsync(new ViolationFilter { Namespace = key.Namespace, WorkflowId = key.WorkflowId }, cancellationToken);
        if (open.Count == 0)
            throw new RefusalException(Refusal.NotFound(key));
        return ResponseOf(new ChainVerifier(key), open, logSize);
    }

    /// <summary>Reads the chain and its snapshots, and then the head.</summary>
    private static async Task<Workflow?> WalkAsync(WorkflowKey key, ReadPlace place, ChainVerifier verifier,
        List<(long, Hash)> places, CancellationToken cancellationToken)
    {
        // A snapshot that many records carry is read once.
        var snapshots = new Dictionary<Hash, (Hash Actual, long Size)?>();
        return await place.Store.WalkAsync(key, async record =>
        {
            verifier.Add(record);
            places.Add((record.LogIndex, record.Hash));
            if (record.Record.Snapshot is { } part)
                await CheckSnapshotAsync(record, part, place, verifier, snapshots, cancellationToken);
        }, cancellationToken);
    }

    private static async Task CheckSnapshotAsync(StoredRecord record, SnapshotPart part, ReadPlace place, ChainVerifier verifier,
        Dictionary<Hash, (Hash Actual, long Size)?> snapshots, CancellationToken cancellationToken)
    {
        if (!snapshots.TryGetValue(part.Sha256, out var actual))
        {
            var content = await place.Store.ReadSnapshotAsync(record.Record.Key, part.Sha256, cancellationToken);
            actual = content is null ? null : (Hash.Of(content), content.Length);
            snapshots[part.Sha256] = actual;
        }
        verifier.AddSnapshot(record, actual);
    }

    private static Pb.VerifyWorkflowResponse ResponseOf(ChainVerifier verifier, IReadOnlyList<FoundViolation> violations, long logSize)
    {
        var response = new Pb.VerifyWorkflowResponse
        {
            Intact = violations.Count == 0,
            RecordsVerified = (ulong)verifier.RecordsVerified,
            SnapshotsVerified = (ulong)verifier.SnapshotsVerified,
            HeadHash = verifier.HeadHash.ToPb(),
            LogSize = (ulong)logSize,
        };
        var bytes = 0;
        foreach (var violation in violations.Take(ChainVerifier.ViolationsMax))
        {
            var message = violation.ToPb();
            bytes += message.CalculateSize() + 8;
            if (bytes > ViolationBytesMax)
                break;
            response.Violations.Add(message);
        }
        return response;
    }
}
