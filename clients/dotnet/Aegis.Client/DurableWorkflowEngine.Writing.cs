using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Client;

using Pb = Aegis.V1;

// How a write is made: one at a time for each workflow, repeated until it is proven, followed by the handle.
public sealed partial class DurableWorkflowEngine
{
    private async Task<WrittenRecord> StoreAsync<T>(Workflow<T> workflow, Pb.Snapshot encoded, WriteDetails details, CancellationToken cancellationToken)
    {
        var request = new Pb.CheckpointWorkflowRequest
        {
            Namespace = _client.Namespace,
            WorkflowId = workflow.WorkflowId,
            Snapshot = encoded,
            ExpectedHash = workflow.HeadHash.ToPb(),
            LeaseEpoch = (ulong)workflow.LeaseEpoch,
            Actor = details.Actor ?? Owner,
            Reason = details.Reason,
            OccurredAt = TimestampOf(details.OccurredAt),
            RequestId = RequestIdOf(details),
        };
        request.Metadata.Add(details.Metadata.ToDictionary());
        var sent = SentOf(RecordKind.Checkpoint, request.RequestId, details, encoded) with
        {
            LeaseEpoch = workflow.LeaseEpoch,
            PreviousHash = workflow.HeadHash,
        };
        var (_, stored, written) = await WriteAsync(workflow.Key, sent, details.Timeout, (known, isProven, options) =>
        {
            (request.KnownLogSize, request.IncludeProof) = (known, isProven);
            return _client.Workflows.CheckpointWorkflowAsync(request, options);
        }, r => (r.Record, r.Receipt, r.Replayed), cancellationToken);
        Follow(workflow, stored, written, encoded);
        return written;
    }

    /// <summary>Makes a write, and gives out what it recorded only once all of it is proven.</summary>
    private async Task<(TResponse Response, StoredRecord Stored, WrittenRecord Written)> WriteAsync<TResponse>(WorkflowKey key, SentRecord sent,
        TimeSpan? timeout, Func<ulong, bool, CallOptions, AsyncUnaryCall<TResponse>> call,
        Func<TResponse, (Pb.Record Record, Pb.Receipt Receipt, bool Replayed)> read, CancellationToken cancellationToken)
    {
        var trust = _client.Trust;
        var deadline = _client.EndOf(timeout);
        await _client.BeginAsync(deadline, sent.RequestId, cancellationToken);
        for (var attempt = 1; ; attempt++)
        {
            var known = trust is null ? null : await trust.KnownAsync(cancellationToken);
            TResponse response;
            try
            {
                response = await _client.CallAsync(options => call((ulong)(known?.Size ?? 0), trust is not null, options), deadline,
                    sent.RequestId, cancellationToken);
            }
            catch (CursorAheadOfLogException) when (trust is not null && attempt < 3)
            {
                // Nothing was written. What is there now tells whether the log was taken back, or an accepted one began.
                await _client.FollowAsync(trust, deadline, sent.RequestId, cancellationToken);
                continue;
            }
            var (record, receipt, isReplayed) = read(response);
            var stored = Answers.Record(record, key);
            Answers.Sent(stored, sent, isReplayed);
            if (trust is not null)
                await ProveAsync(trust, stored, receipt, known, sent.RequestId, deadline, cancellationToken);
            return (response, stored, new WrittenRecord(stored.Record, stored.Hash, stored.LogIndex, receipt?.LogHead ?? "", isReplayed));
        }
    }

    private static async Task ProveAsync(LogTrust trust, StoredRecord stored, Pb.Receipt? receipt, LogHead? known, string requestId,
        DateTime deadline, CancellationToken cancellationToken)
    {
        try
        {
            var path = known is { Size: > 0 } ? LogTrust.PathOf(receipt?.ConsistencyPath ?? []) : null;
            var head = await AegisClient.LinkAsync(trust, receipt?.LogHead ?? "", known, path, deadline, cancellationToken);
            Answers.Receipt(receipt, stored, head);
        }
        catch (AegisException e) when (e is ServiceUnavailableException or CallTimeoutException)
        {
            // It is written, and not proven yet: the same request again tells.
            throw AegisClient.Final(e.Origin, requestId);
        }
    }

    private async Task<TResult> InTurnAsync<T, TResult>(Workflow<T> workflow, Func<Task<TResult>> write, CancellationToken cancellationToken)
    {
        await workflow.Gate.WaitAsync(cancellationToken);
        try
        {
            if (workflow.LeaseLost.IsCancellationRequested)
            {
                throw AegisException.Of(new AegisException.Failure(StatusCode.FailedPrecondition, "LEASE_STALE",
                    $"The lease of {workflow.Key} is lost: resume the workflow to go on.", new Dictionary<string, string>(), null));
            }
            return await write();
        }
        catch (LeaseLostException)
        {
            _leases.Lose(workflow, "LEASE_STALE");
            throw;
        }
        finally
        {
            workflow.Gate.Release();
        }
    }

    /// <summary>The handle follows what it wrote. A record of long ago, replayed, does not take it back.</summary>
    private static void Follow<T>(Workflow<T> workflow, StoredRecord stored, WrittenRecord written, Pb.Snapshot? encoded)
    {
        workflow.LastWritten = written;
        var record = stored.Record;
        if (record.Sequence <= workflow.Sequence)
            return;
        (workflow.State, workflow.Status, workflow.Sequence, workflow.HeadHash) = (record.ToState, record.Status, record.Sequence, stored.Hash);
        if (encoded is not null)
            workflow.StoredSha256 = Answers.HashOf(encoded.Sha256);
    }

    private static Pb.Snapshot? Encoded<T>(ICodec<T> codec, T? data)
    {
        if (data is null)
            return null;
        var encoded = codec.Encode(data);
        return new Pb.Snapshot
        {
            ContentType = encoded.ContentType,
            Content = ByteString.CopyFrom(encoded.Content.Span),
            Sha256 = Hash.Of(encoded.Content.Span).ToPb(),
        };
    }

    private SentRecord SentOf(RecordKind kind, string requestId, WriteDetails details, Pb.Snapshot? snapshot) => new(kind, requestId)
    {
        Actor = details.Actor ?? Owner,
        Reason = details.Reason,
        Metadata = details.Metadata,
        OccurredAt = details.OccurredAt is { } time ? Times.ToMicroseconds(time) : 0,
        Snapshot = snapshot,
    };

    private static string RequestIdOf(WriteDetails details) => details.RequestId.Length > 0 ? details.RequestId : Guid.NewGuid().ToString("N");

    private static Timestamp? TimestampOf(DateTimeOffset? time) => time is { } t ? RecordMessages.ToTimestamp(Times.ToMicroseconds(t)) : null;

    private static Dictionary<string, string> MetadataOf(StoredRecord stored) => stored.Record.Content?.Metadata.ToDictionary() ?? [];
}
