using System.Security.Cryptography;
using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>
/// Writes workflows in the export format: a manifest, for each workflow a header, its snapshots each before the first record
/// that carries it, and its records, last a trailer with the SHA-256 of all before. Every chain is verified on its way out.
/// </summary>
public sealed class Exporter(ILedgerStore store, LogTail tail, ChainReader chains, StoreMonitor monitor, TimeProvider time)
{
    public const string Format = "aegis/export/v1";
    public const int SnapshotPartBytesMax = 1024 * 1024;

    private const int ChunkBytes = 512 * 1024;
    private const int PageSize = 500;

    public async Task ExportAsync(Pb.ExportWorkflowsRequest request,
        IServerStreamWriter<Pb.ExportWorkflowsResponse> responseStream, CancellationToken cancellationToken)
    {
        var filter = FilterOf(request);
        await using var output = new Output(responseStream, cancellationToken);
        var logSize = await tail.CurrentAsync(cancellationToken);
        await output.WriteAsync(new Pb.ExportChunk
        {
            Manifest = new Pb.ExportManifest
            {
                Format = Format,
                LogId = monitor.LogId,
                LogSize = (ulong)logSize,
                Filter = request,
                ExportedAt = Timestamp.FromDateTimeOffset(time.GetUtcNow()),
            },
        });
        var trailer = new Pb.ExportTrailer();
        if (request.WorkflowId.Length > 0)
        {
            var key = new WorkflowKey(filter.Namespace, request.WorkflowId);
            var workflow = await chains.FindAsync(key, request.AllowQuarantined, cancellationToken);
            await ExportAsync(workflow, output, trailer, request.AllowQuarantined, cancellationToken);
        }
        else
        {
            for (var cursor = -1L; ;)
            {
                var page = await store.ListWorkflowsAsync(filter, cursor, PageSize, cancellationToken);
                foreach (var workflow in page.Where(w => w.CreatedLogIndex < logSize && !w.Importing))
                    await ExportAsync(workflow, output, trailer, request.AllowQuarantined, cancellationToken);
                if (page.Count < PageSize)
                    break;
                cursor = page[^1].CreatedLogIndex;
            }
        }
        trailer.Sha256 = ByteString.CopyFrom(output.HashSoFar());
        await output.WriteAsync(new Pb.ExportChunk { Trailer = trailer });
        await output.FlushAsync();
    }

    private async Task ExportAsync(Workflow workflow, Output output, Pb.ExportTrailer trailer, bool allowQuarantined,
        CancellationToken cancellationToken)
    {
        if (workflow.Quarantined && !allowQuarantined)
            await chains.DemandReleasedAsync(workflow.Key, cancellationToken);
        await output.WriteAsync(new Pb.ExportChunk
        {
            Workflow = new Pb.ExportWorkflow
            {
                Namespace = workflow.Key.Namespace,
                WorkflowId = workflow.Key.WorkflowId,
                Records = (ulong)workflow.Sequence,
                HeadHash = workflow.HeadHash.ToPb(),
                ForkedFrom = workflow.ForkedFrom.ToPb(),
            },
        });
        var verifier = new ChainVerifier(workflow.Key);
        var sent = new HashSet<Hash>();
        for (var next = 1L; next <= workflow.Sequence;)
        {
            var page = await store.ReadChainAsync(workflow.Key, next, descending: false,
                (int)Math.Min(PageSize, workflow.Sequence - next + 1), cancellationToken);
            if (page.Count == 0)
                break;
            foreach (var record in page)
            {
                verifier.Add(record);
                if (!allowQuarantined)
                    chains.Demand(verifier.Violations);
                if (record.Record.Snapshot is { } part && sent.Add(part.Sha256))
                    await ExportSnapshotAsync(record, part, output, allowQuarantined, cancellationToken);
                await output.WriteAsync(new Pb.ExportChunk
                {
                    Record = new Pb.ExportRecord { Record = record.ToPb() },
                });
            }
            next = page[^1].Record.Sequence + 1;
        }
        if (!allowQuarantined)
            chains.Demand(verifier.Complete(workflow));
        trailer.Workflows++;
        trailer.Records += (ulong)verifier.RecordsVerified;
        trailer.Snapshots += (ulong)sent.Count;
    }

    private async Task ExportSnapshotAsync(StoredRecord record, SnapshotPart part, Output output,
        bool allowQuarantined, CancellationToken cancellationToken)
    {
        byte[] content;
        try
        {
            if (!allowQuarantined)
                content = await chains.SnapshotOfAsync(record, cancellationToken);
            else if (await chains.StoredSnapshotOfAsync(record, cancellationToken) is { } stored)
                content = stored;
            else
                return;
        }
        catch (RefusalException e) when (e.Refusal.Reason == Reason.SnapshotErased)
        {
            return;
        }
        var offset = 0;
        do
        {
            var size = Math.Min(SnapshotPartBytesMax, content.Length - offset);
            await output.WriteAsync(new Pb.ExportChunk
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

    /// <summary>Gathers messages into chunks, and hashes all that goes out.</summary>
    private sealed class Output(
        IServerStreamWriter<Pb.ExportWorkflowsResponse> responseStream, CancellationToken cancellationToken)
        : IAsyncDisposable
    {
        private readonly MemoryStream _buffer = new();
        private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

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
            await responseStream.WriteAsync(new Pb.ExportWorkflowsResponse { Chunk = chunk }, cancellationToken);
        }

        public ValueTask DisposeAsync()
        {
            _hash.Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
