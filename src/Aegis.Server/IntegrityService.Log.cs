using Aegis.Core;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// The head of the log, and the paths that prove what is under it.
public sealed partial class IntegrityService
{
    public override async Task<Pb.GetLogHeadResponse> GetLogHead(Pb.GetLogHeadRequest request, ServerCallContext context)
    {
        var head = await NewestHeadAsync(context.CancellationToken);
        return new Pb.GetLogHeadResponse
        {
            Size = (ulong)head.Head.Size,
            Root = head.Head.Root.ToPb(),
            SignedNote = head.SignedNote,
            VerifierKeys = { signer.VerifierKey(head.Head.LogId).ToString() },
        };
    }

    public override async Task<Pb.GetInclusionProofResponse> GetInclusionProof(
        Pb.GetInclusionProofRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var key = fields.Key(request.Namespace, request.WorkflowId);
        var sequence = fields.Integer("sequence", request.Sequence);
        if (request.Sequence == 0)
            fields.Wrong("sequence", "is required");
        var size = fields.Integer("log_size", request.LogSize);
        fields.Check();

        // The record before the head: that covers it then.
        var found = await store.ReadChainAsync(key, sequence, descending: false, 1, context.CancellationToken);
        if (found.Count == 0 || found[0].Record.Sequence != sequence)
        {
            var workflow = await store.FindWorkflowAsync(key, context.CancellationToken)
                ?? throw new RefusalException(Refusal.NotFound(key));
            throw new RefusalException(new Refusal(Reason.RecordNotFound,
                $"The workflow {key} has {workflow.Sequence} records, and no record {sequence}.",
                [.. Refusal.Of(key), ("sequence", Refusal.Text(sequence)), ("current_sequence", Refusal.Text(workflow.Sequence))]));
        }
        var record = found[0];
        var head = await NewestHeadAsync(context.CancellationToken);
        size = SizeWithin(size, head.Head.Size, "log_size");
        if (record.LogIndex >= size)
        {
            throw new RefusalException(Refusal.Invalid("log_size",
                $"is {size}, and the record has the log_index {record.LogIndex}: it was not in the log yet"));
        }
        var path = await ProvenAsync(() => proofs.InclusionPathAsync(record.LogIndex, size, context.CancellationToken),
            async path => MerkleTree.VerifyInclusion((ulong)record.LogIndex, (ulong)size, record.Hash, path,
                await RootAsync(size, head, context.CancellationToken)));
        if (path is null)
        {
            throw new RefusalException(new Refusal(Reason.ChainBroken,
                $"The stored log does not prove record {sequence} of {key}: its hash or the log's tiles were altered. Verify the log.",
                [.. Refusal.Of(key), ("sequence", Refusal.Text(sequence)), ("log_index", Refusal.Text(record.LogIndex))]));
        }
        var response = new Pb.GetInclusionProofResponse
        {
            LogIndex = (ulong)record.LogIndex,
            LogSize = (ulong)size,
            SignedNote = size == head.Head.Size ? head.SignedNote : "",
            RecordHash = record.Hash.ToPb(),
        };
        response.Path.AddRange(path.Select(h => h.ToPb()));
        return response;
    }

    public override async Task<Pb.GetConsistencyProofResponse> GetConsistencyProof(
        Pb.GetConsistencyProofRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var first = fields.Integer("first_size", request.FirstSize);
        var second = fields.Integer("second_size", request.SecondSize);
        if (request.FirstSize == 0)
            fields.Wrong("first_size", "is required: from the empty log nothing can be proven");
        if (second > 0 && first > second)
            fields.Wrong("first_size", "must not be larger than second_size");
        fields.Check();

        var head = await NewestHeadAsync(context.CancellationToken);
        second = SizeWithin(second, head.Head.Size, "second_size");
        first = SizeWithin(first, second, "first_size");
        var path = await ProvenAsync(() => proofs.ConsistencyPathAsync(first, second, context.CancellationToken),
            async path => MerkleTree.VerifyConsistency((ulong)first, (ulong)second,
                await RootAsync(first, head, context.CancellationToken),
                await RootAsync(second, head, context.CancellationToken), path));
        if (path is null)
        {
            throw new RefusalException(new Refusal(Reason.ChainBroken,
                $"The stored log does not prove that size {first} is the beginning of size {second}: its tiles were altered. "
                + "Verify the log.",
                ("first_size", Refusal.Text(first)), ("second_size", Refusal.Text(second))));
        }
        var response = new Pb.GetConsistencyProofResponse
        {
            SecondSize = (ulong)second,
            SignedNote = second == head.Head.Size ? head.SignedNote : "",
        };
        response.Path.AddRange(path.Select(h => h.ToPb()));
        return response;
    }

    /// <summary>The newest head as the store has it, since another server may have signed it.</summary>
    private async Task<SealedHead> NewestHeadAsync(CancellationToken cancellationToken) =>
        signer.Demand(await store.ReadHeadAsync(cancellationToken));

    /// <summary>
    /// A path that proves what it should, or null. One that does not may come from a tile that is kept in memory and was repaired
    /// since: it is tried once more from the store.
    /// </summary>
    private async Task<IReadOnlyList<Hash>?> ProvenAsync(Func<Task<IReadOnlyList<Hash>>> read, Func<IReadOnlyList<Hash>, Task<bool>> isProof)
    {
        var path = await read();
        if (await isProof(path))
            return path;
        proofs.Forget();
        path = await read();
        return await isProof(path) ? path : null;
    }

    private async Task<Hash> RootAsync(long size, SealedHead head, CancellationToken cancellationToken) =>
        size == head.Head.Size ? head.Head.Root : await proofs.RootAsync(size, cancellationToken);

    private static long SizeWithin(long wanted, long size, string field)
    {
        if (wanted <= size)
            return wanted == 0 ? size : wanted;
        throw new RefusalException(new Refusal(Reason.CursorAheadOfLog,
            $"The log has {size} records, and {field} asks for {wanted}.",
            ("log_size", Refusal.Text(size)), (field, Refusal.Text(wanted))));
    }
}
