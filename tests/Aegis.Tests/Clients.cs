using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>What a client does by itself, without trusting the server: written against the record format alone.</summary>
internal static class Clients
{
    /// <summary>The hash of a record, from the fields of an answer and the digests recomputed from its parts.</summary>
    public static Hash Recompute(Pb.Record record)
    {
        var person = record.PersonSalt.IsEmpty
            ? new Hash(record.PersonDigest.Span)
            : RecordFormat.DigestOf(new Person(new Bytes16(record.PersonSalt.Span), record.Actor, record.Principal));
        var content = record.ContentSalt.IsEmpty
            ? new Hash(record.ContentDigest.Span)
            : RecordFormat.DigestOf(new Content(new Bytes16(record.ContentSalt.Span), record.Reason, new Core.Metadata(record.Metadata)));
        var snapshot = record.SnapshotSalt.IsEmpty
            ? new Hash(record.SnapshotDigest.Span)
            : RecordFormat.DigestOf(new SnapshotPart(new Bytes16(record.SnapshotSalt.Span), record.SnapshotContentType,
                (long)record.SnapshotSize, new Hash(record.SnapshotSha256.Span)));
        return RecordFormat.HashOf(RecordFormat.Encode(new Record
        {
            LogId = record.LogId,
            Namespace = record.Namespace,
            WorkflowId = record.WorkflowId,
            Sequence = (long)record.Sequence,
            Kind = (RecordKind)record.Kind,
            WorkflowType = record.WorkflowType,
            FromState = record.FromState,
            ToState = record.ToState,
            Status = (WorkflowStatus)record.Status,
            RequestId = record.RequestId,
            LeaseEpoch = (long)record.LeaseEpoch,
            OccurredAt = Microseconds(record.OccurredAt),
            RecordedAt = Microseconds(record.RecordedAt),
            PersonDigest = person,
            ContentDigest = content,
            SnapshotDigest = snapshot,
            PreviousHash = new Hash(record.PreviousHash.Span),
        }));
    }

    private static long Microseconds(Google.Protobuf.WellKnownTypes.Timestamp? time) =>
        time is null ? 0 : (time.Seconds * 1_000_000) + (time.Nanos / 1000);
}

/// <summary>Exports as a client holds them: bytes.</summary>
internal static class Exports
{
    public static async Task<byte[]> ReadAsync(TestServer server, Pb.ExportWorkflowsRequest request)
    {
        using var call = server.Recovery.ExportWorkflows(request);
        using var bytes = new MemoryStream();
        await foreach (var response in call.ResponseStream.ReadAllAsync())
            response.Chunk.WriteTo(bytes);
        return bytes.ToArray();
    }

    public static Task<List<Pb.ImportWorkflowsResponse>> ImportAsync(
        TestServer server, byte[] export, bool takeOver = false, bool allowUnproven = true, int chunkBytes = 10_000,
        params IEnumerable<string> trustedKeys) =>
        ImportAsync(server.Recovery, export, takeOver, allowUnproven, chunkBytes, trustedKeys);

    public static async Task<List<Pb.ImportWorkflowsResponse>> ImportAsync(
        Pb.RecoveryService.RecoveryServiceClient recovery, byte[] export, bool takeOver = false, bool allowUnproven = true,
        int chunkBytes = 10_000, params IEnumerable<string> trustedKeys)
    {
        using var call = recovery.ImportWorkflows();
        try
        {
            await call.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest
            {
                Options = new Pb.ImportOptions { TakeOver = takeOver, AllowUnproven = allowUnproven, TrustedKeys = { trustedKeys } },
            });
            foreach (var chunk in export.Chunk(chunkBytes))
                await call.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFrom(chunk) });
            await call.RequestStream.CompleteAsync();
        }
        catch (Exception e) when (e is RpcException or InvalidOperationException)
        {
            // The server ended the call; its answer below tells why.
        }
        var outcomes = new List<Pb.ImportWorkflowsResponse>();
        await foreach (var response in call.ResponseStream.ReadAllAsync())
            outcomes.Add(response);
        return outcomes;
    }

    /// <summary>What an export is found to be by whoever holds it and trusts keys alone.</summary>
    /// <exception cref="FormatException">It cannot be read.</exception>
    public static ExportReport Check(byte[] export, params IReadOnlyCollection<VerifierKey> keys)
    {
        using var stream = new MemoryStream(export);
        using var reader = new ExportReader(stream);
        return ExportCheck.Read(reader, keys, CancellationToken.None);
    }

    /// <summary>The messages of an export.</summary>
    public static List<Pb.ExportChunk> Parse(byte[] export)
    {
        using var stream = new MemoryStream(export);
        var messages = new List<Pb.ExportChunk>();
        while (stream.Position < stream.Length)
            messages.Add(Pb.ExportChunk.Parser.ParseDelimitedFrom(stream));
        return messages;
    }

    /// <summary>An export of these messages, with a trailer that fits them.</summary>
    public static byte[] Write(IEnumerable<Pb.ExportChunk> messages)
    {
        using var stream = new MemoryStream();
        ulong workflows = 0, records = 0;
        var snapshots = new HashSet<(ulong Workflow, ByteString Sha256)>();
        foreach (var message in messages.Where(m => m.Trailer is null))
        {
            message.WriteDelimitedTo(stream);
            workflows += message.Workflow is null ? 0UL : 1;
            records += message.Record is null ? 0UL : 1;
            if (message.Snapshot is { } part && part.Offset + (ulong)part.Data.Length == part.Size)
                snapshots.Add((workflows, part.Sha256));
        }
        new Pb.ExportChunk
        {
            Trailer = new Pb.ExportTrailer
            {
                Workflows = workflows,
                Records = records,
                Snapshots = (ulong)snapshots.Count,
                Sha256 = ByteString.CopyFrom(System.Security.Cryptography.SHA256.HashData(stream.ToArray())),
            },
        }.WriteDelimitedTo(stream);
        return stream.ToArray();
    }
}
