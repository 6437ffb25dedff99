using System.Security.Cryptography;
using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>
/// Writes workflows in the export format: a manifest, for each workflow a header, its snapshots each before the first record
/// that carries it, and its records, last a trailer with the SHA-256 of all before. What it holds is the log as it was at one
/// signed head: a workflow that moves on meanwhile is cut there, so that every record is proven by a path to that head, and a
/// signed statement says that the log knew no more of the workflow. Every chain and every path is verified on its way out.
/// </summary>
public sealed class Exporter(Reads reads, LogSigner signer, TimeProvider time)
{
    public const int SnapshotPartBytesMax = 1024 * 1024;

    private const int ChunkBytes = 512 * 1024;
    private const int PageSize = 500;

    public async Task ExportAsync(Pb.ExportWorkflowsRequest request,
        IServerStreamWriter<Pb.ExportWorkflowsResponse> responseStream, CancellationToken cancellationToken)
    {
        var filter = FilterOf(request);
        // What is altered is evidence, and that is as the primary has it.
        var place = request.AllowQuarantined ? reads.Primary : await reads.CurrentAsync(0, cancellationToken);
        await using var output = new Output(responseStream, cancellationToken);
        try
        {
            await ExportAsync(request, filter, place, output, cancellationToken);
        }
        catch (DoubtException e) when (output.IsUnsent)
        {
            await using var anew = new Output(responseStream, cancellationToken);
            await ExportAsync(request, filter, place.Primary!, anew, cancellationToken);
            reads.Judge(place, e.Found);
        }
        catch (DoubtException e)
        {
            // What went out cannot be taken back: whoever asks again gets it from the primary, or is told what is wrong there.
            await VerifyAsync(place.Primary!, e.Found.Select(v => v.Key).Distinct(), cancellationToken);
            reads.Judge(place, e.Found);
            throw new RefusalException(StatusMapping.StoreUnavailable);
        }
    }

    private static async Task VerifyAsync(ReadPlace place, IEnumerable<WorkflowKey> keys, CancellationToken cancellationToken)
    {
        foreach (var key in keys)
        {
            var verifier = new ChainVerifier(key);
            var head = await place.Store.WalkAsync(key, record =>
            {
                verifier.Add(record);
                return Task.CompletedTask;
            }, cancellationToken);
            place.Chains.Demand(verifier.Complete(head));
        }
    }

    private async Task ExportAsync(Pb.ExportWorkflowsRequest request, WorkflowFilter filter, ReadPlace place, Output output,
        CancellationToken cancellationToken)
    {
        var head = signer.Demand(await place.HeadAsync(cancellationToken));
        var run = new Run(place, head, new InclusionPaths(place.Proofs, head), output, new Pb.ExportTrailer(), request.AllowQuarantined);
        await output.WriteAsync(new Pb.ExportChunk
        {
            Manifest = new Pb.ExportManifest
            {
                Format = ExportReader.Format,
                LogId = head.Head.LogId,
                LogSize = (ulong)head.Head.Size,
                Filter = request,
                ExportedAt = Timestamp.FromDateTimeOffset(time.GetUtcNow()),
                LogHead = head.SignedNote,
                VerifierKeys = { signer.VerifierKey(head.Head.LogId).ToString() },
            },
        });
        if (request.WorkflowId.Length > 0)
        {
            var key = new WorkflowKey(filter.Namespace, request.WorkflowId);
            var workflow = await place.Chains.FindAsync(key, request.AllowQuarantined, cancellationToken);
            if (workflow.CreatedLogIndex >= head.Head.Size)
                throw new RefusalException(Refusal.NotFound(key));
            await ExportAsync(workflow, run, cancellationToken);
        }
        else
        {
            for (var cursor = -1L; ;)
            {
                var page = await place.Store.ListWorkflowsAsync(filter, cursor, PageSize, cancellationToken);
                foreach (var workflow in page.Where(w => w.CreatedLogIndex < head.Head.Size))
                {
                    // Not whole at the head of the export. One that only its stored head says that of is exported.
                    if (workflow.Importing
                        && await place.Store.IsImportUnderWayAsync(workflow.Key, head.Head.Size, cancellationToken))
                    {
                        continue;
                    }
                    await ExportAsync(workflow, run, cancellationToken);
                }
                if (page.Count < PageSize)
                    break;
                cursor = page[^1].CreatedLogIndex;
            }
        }
        run.Trailer.Sha256 = ByteString.CopyFrom(output.HashSoFar());
        await output.WriteAsync(new Pb.ExportChunk { Trailer = run.Trailer });
        await output.FlushAsync();
    }

    private async Task ExportAsync(Workflow workflow, Run run, CancellationToken cancellationToken)
    {
        if (workflow.Quarantined && !run.AllowQuarantined)
            await run.Place.Chains.DemandReleasedAsync(workflow.Key, cancellationToken);
        var page = await run.Place.Store.ReadChainAsync(workflow.Key, 1, descending: false, PageOf(workflow, 1), cancellationToken);
        var last = await LastAsync(workflow, run, page, cancellationToken);
        await run.Output.WriteAsync(new Pb.ExportChunk
        {
            Workflow = new Pb.ExportWorkflow
            {
                Namespace = workflow.Key.Namespace,
                WorkflowId = workflow.Key.WorkflowId,
                Records = (ulong)(last?.Record.Sequence ?? workflow.Sequence),
                HeadHash = (last?.Hash ?? workflow.HeadHash).ToPb(),
                ForkedFrom = workflow.ForkedFrom.ToPb(),
                Statement = last is null ? "" : await StatementAsync(workflow, last, run, cancellationToken),
            },
        });
        var verifier = new ChainVerifier(workflow.Key);
        var sent = new HashSet<Hash>();
        while (page.Count > 0)
        {
            foreach (var record in page)
            {
                verifier.Add(record);
                Demand(verifier.Violations, run);
                // What came after the head is verified too, since the workflow's own head is one of all records.
                if (record.Record.Sequence <= last?.Record.Sequence)
                    await ExportAsync(record, sent, run, cancellationToken);
            }
            var next = page[^1].Record.Sequence + 1;
            page = next > workflow.Sequence
                ? []
                : await run.Place.Store.ReadChainAsync(workflow.Key, next, descending: false, PageOf(workflow, next), cancellationToken);
        }
        Demand(verifier.Complete(workflow), run);
        run.Trailer.Workflows++;
        run.Trailer.Snapshots += (ulong)sent.Count;
    }

    private static async Task ExportAsync(StoredRecord record, HashSet<Hash> sent, Run run, CancellationToken cancellationToken)
    {
        if (record.Record.Snapshot is { } part && !sent.Contains(part.Sha256)
            && await ExportSnapshotAsync(record, part, run, cancellationToken))
        {
            sent.Add(part.Sha256);
        }
        var (path, isProof) = await run.Paths.OfAsync(record, cancellationToken);
        if (!isProof && !run.AllowQuarantined)
        {
            run.Place.Doubt([]);
            // Which of the two was altered, and so whether it is of this workflow, only a verification of the log tells.
            throw new RefusalException(new Refusal(Reason.ChainBroken,
                $"The stored log does not prove record {record.Record.Sequence} of {record.Record.Key}: its hash or the log's tiles "
                + "were altered. Verify the log.",
                [.. Refusal.Of(record.Record.Key), ("sequence", Refusal.Text(record.Record.Sequence)),
                    ("log_index", Refusal.Text(record.LogIndex))]));
        }
        var message = new Pb.ExportRecord { Record = record.ToPb() };
        message.InclusionPath.AddRange(path.Select(h => h.ToPb()));
        await run.Output.WriteAsync(new Pb.ExportChunk { Record = message });
        run.Trailer.Records++;
    }

    private static int PageOf(Workflow workflow, long next) => (int)Math.Min(PageSize, workflow.Sequence - next + 1);

    /// <summary>The newest record of a workflow that a head covers; null where it is gone.</summary>
    /// <param name="workflow">As it is now, perhaps longer than at the head.</param>
    /// <param name="run">The export.</param>
    /// <param name="first">The first page of the chain, which is all of a short one.</param>
    /// <param name="cancellationToken">Ends the reading.</param>
    private static async Task<StoredRecord?> LastAsync(Workflow workflow, Run run, IReadOnlyList<StoredRecord> first,
        CancellationToken cancellationToken)
    {
        var size = run.Head.Head.Size;
        if (workflow.Sequence <= PageSize)
            return first.LastOrDefault(r => r.LogIndex < size);
        for (var at = workflow.Sequence; at > 0;)
        {
            // It is nearly always the newest.
            var page = await run.Place.Store.ReadChainAsync(workflow.Key, at, descending: true,
                at == workflow.Sequence ? 1 : PageSize, cancellationToken);
            if (page.FirstOrDefault(r => r.LogIndex < size) is { } last)
                return last;
            if (page.Count == 0)
                break;
            at = page[^1].Record.Sequence - 1;
        }
        return null;
    }

    /// <summary>
    /// The log's statement of a workflow's last record; empty where the log does not have that record, since what is signed is
    /// believed.
    /// </summary>
    private async Task<string> StatementAsync(Workflow workflow, StoredRecord last, Run run, CancellationToken cancellationToken) =>
        (await run.Paths.OfAsync(last, cancellationToken)).IsProof ? signer.Sign(run.Head, workflow.Key, last) : "";

    private static void Demand(IReadOnlyList<Violation> violations, Run run)
    {
        if (!run.AllowQuarantined)
            run.Place.Chains.Demand(violations);
    }

    /// <summary>Writes the bytes of a snapshot, unless they were erased.</summary>
    /// <returns>Whether they were there.</returns>
    private static async Task<bool> ExportSnapshotAsync(StoredRecord record, SnapshotPart part, Run run,
        CancellationToken cancellationToken)
    {
        byte[]? content;
        try
        {
            content = run.AllowQuarantined
                ? await run.Place.Store.ReadSnapshotAsync(record.Record.Key, part.Sha256, cancellationToken)
                : await run.Place.Chains.SnapshotOfAsync(record, cancellationToken);
        }
        catch (RefusalException e) when (e.Refusal.Reason == Reason.SnapshotErased)
        {
            return false;
        }
        if (content is null)
            return false;
        var offset = 0;
        do
        {
            var size = Math.Min(SnapshotPartBytesMax, content.Length - offset);
            await run.Output.WriteAsync(new Pb.ExportChunk
            {
                Snapshot = new Pb.ExportSnapshotPart
                {
                    Sha256 = part.Sha256.ToPb(),
                    Offset = (ulong)offset,
                    Size = (ulong)content.Length,
                    Data = UnsafeByteOperations.UnsafeWrap(content.AsMemory(offset, size)),
                },
            });
            offset += size;
        }
        while (offset < content.Length);
        return true;
    }

    private static WorkflowFilter FilterOf(Pb.ExportWorkflowsRequest request)
    {
        var fields = new Fields();
        fields.Text("workflow_id", request.WorkflowId);
        var filter = fields.Filter(request.Namespace, request.WorkflowTypes, request.States, request.Statuses, request.Metadata,
            request.UpdatedBefore, request.UpdatedAfter);
        var filters = filter.WorkflowTypes.Count + filter.States.Count + filter.Statuses.Count + filter.Metadata.Count;
        if (request.WorkflowId.Length > 0
            && (filters > 0 || filter.UpdatedBefore is not null || filter.UpdatedAfter is not null))
        {
            fields.Wrong("workflow_id", "cannot be combined with a filter");
        }
        fields.Check();
        return filter;
    }

    /// <summary>One export.</summary>
    /// <param name="Place">Where it is read.</param>
    /// <param name="Head">The log as it holds it.</param>
    /// <param name="Paths">To that head.</param>
    /// <param name="Output">Where it goes.</param>
    /// <param name="Trailer">What was counted so far.</param>
    /// <param name="AllowQuarantined">Whether what is stored is exported as it is, altered or not.</param>
    private sealed record Run(ReadPlace Place, SealedHead Head, InclusionPaths Paths, Output Output, Pb.ExportTrailer Trailer,
        bool AllowQuarantined);

    /// <summary>Gathers messages into chunks, and hashes all that goes out.</summary>
    private sealed class Output(
        IServerStreamWriter<Pb.ExportWorkflowsResponse> responseStream, CancellationToken cancellationToken)
        : IAsyncDisposable
    {
        private readonly MemoryStream _buffer = new();
        private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

        /// <summary>Whether nothing has gone out yet.</summary>
        public bool IsUnsent { get; private set; } = true;

        public async Task WriteAsync(Pb.ExportChunk message)
        {
            var begin = (int)_buffer.Length;
            message.WriteDelimitedTo(_buffer);
            _hash.AppendData(_buffer.GetBuffer().AsSpan(begin, (int)_buffer.Length - begin));
            if (_buffer.Length >= ChunkBytes)
                await FlushAsync();
        }

        public byte[] HashSoFar() => _hash.GetCurrentHash();

        public async Task FlushAsync()
        {
            if (_buffer.Length == 0)
                return;
            var chunk = ByteString.CopyFrom(_buffer.GetBuffer(), 0, (int)_buffer.Length);
            _buffer.SetLength(0);
            IsUnsent = false;
            await responseStream.WriteAsync(new Pb.ExportWorkflowsResponse { Chunk = chunk }, cancellationToken);
        }

        public ValueTask DisposeAsync()
        {
            _hash.Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
