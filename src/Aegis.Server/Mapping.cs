using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>Core's values as the contract's messages, and back.</summary>
internal static class Mapping
{
    public static Pb.Workflow ToPb(this Workflow workflow)
    {
        var message = new Pb.Workflow
        {
            Namespace = workflow.Key.Namespace,
            WorkflowId = workflow.Key.WorkflowId,
            WorkflowType = workflow.WorkflowType,
            State = workflow.State,
            Status = (Pb.WorkflowStatus)workflow.Status,
            Sequence = (ulong)workflow.Sequence,
            HeadHash = workflow.HeadHash.ToPb(),
            CheckpointSequence = (ulong)workflow.CheckpointSequence,
            Lease = workflow.Lease.ToPb(),
            ForkedFrom = workflow.ForkedFrom.ToPb(),
            Quarantined = workflow.Quarantined,
            CreatedAt = ToTimestamp(workflow.CreatedAt),
            UpdatedAt = ToTimestamp(workflow.UpdatedAt),
        };
        foreach (var (key, value) in workflow.Metadata)
            message.Metadata.Add(key, value);
        return message;
    }

    public static Pb.Lease? ToPb(this Lease? lease) => lease is null || lease.IsVoid
        ? null
        : new Pb.Lease { Owner = lease.Owner, Epoch = (ulong)lease.Epoch, ExpiresAt = ToTimestamp(lease.ExpiresAt) };

    public static Pb.ForkPoint? ToPb(this ForkPoint? fork) => fork is null
        ? null
        : new Pb.ForkPoint
        {
            WorkflowId = fork.WorkflowId,
            Sequence = (ulong)fork.Sequence,
            Hash = fork.Hash.ToPb(),
        };

    /// <summary>
    /// What is larger than any request could have made it was altered behind the service, and its violation tells so. Its texts are
    /// cut, so that it stops neither a page nor a watch.
    /// </summary>
    public static Pb.Record Cut(this Pb.Record record)
    {
        if (record.CalculateSize() <= MessageBytesMax)
            return record;
        (record.LogId, record.Namespace, record.WorkflowId) = (Cut(record.LogId), Cut(record.Namespace), Cut(record.WorkflowId));
        (record.WorkflowType, record.FromState, record.ToState) = (Cut(record.WorkflowType), Cut(record.FromState), Cut(record.ToState));
        (record.RequestId, record.Actor, record.Principal) = (Cut(record.RequestId), Cut(record.Actor), Cut(record.Principal));
        (record.Reason, record.SnapshotContentType) = (Cut(record.Reason), Cut(record.SnapshotContentType));
        if (record.CalculateSize() > MessageBytesMax)
            record.Metadata.Clear();
        return record;
    }

    /// <summary>The same of a workflow.</summary>
    public static Pb.Workflow Cut(this Pb.Workflow workflow)
    {
        if (workflow.CalculateSize() <= MessageBytesMax)
            return workflow;
        (workflow.Namespace, workflow.WorkflowId) = (Cut(workflow.Namespace), Cut(workflow.WorkflowId));
        (workflow.WorkflowType, workflow.State) = (Cut(workflow.WorkflowType), Cut(workflow.State));
        if (workflow.Lease is { } lease)
            lease.Owner = Cut(lease.Owner);
        if (workflow.ForkedFrom is { } fork)
            fork.WorkflowId = Cut(fork.WorkflowId);
        if (workflow.CalculateSize() > MessageBytesMax)
            workflow.Metadata.Clear();
        return workflow;
    }

    // Above all that the limits allow of one record or workflow.
    private const int MessageBytesMax = 128 * 1024;

    private static string Cut(string text) => Difference.Cut(text);

    public static Pb.Record ToPb(this StoredRecord stored) => RecordMessages.ToPb(stored);

    public static Pb.Violation ToPb(this FoundViolation found)
    {
        var violation = found.Violation;
        var message = new Pb.Violation
        {
            Class = (Pb.ViolationClass)violation.Class,
            Namespace = violation.Key.Namespace,
            WorkflowId = violation.Key.WorkflowId,
            Sequence = (ulong)violation.Sequence,
            ExpectedHash = violation.ExpectedHash is { } expected ? expected.ToPb() : ByteString.Empty,
            ActualHash = violation.ActualHash is { } actual ? actual.ToPb() : ByteString.Empty,
            FoundAt = ToTimestamp(found.FoundAt),
            Message = violation.Message,
            Released = found.ReleasedAt != 0,
            ViolationId = found.Id,
            LastGoodLogSize = (ulong)violation.LastGoodLogSize,
        };
        if (violation.LogIndex is { } index)
            message.LogIndex = (ulong)index;
        foreach (var difference in violation.Differences)
        {
            var item = new Pb.Difference { Field = difference.Field };
            if (difference.Original is not null)
                item.Original = difference.Original;
            if (difference.Found is not null)
                item.Found = difference.Found;
            message.Differences.Add(item);
        }
        return message;
    }

    public static Pb.Snapshot ToPb(SnapshotPart part, byte[] content) => new()
    {
        ContentType = part.ContentType,
        Content = UnsafeByteOperations.UnsafeWrap(content),
        Sha256 = part.Sha256.ToPb(),
    };

    public static Pb.Receipt ReceiptOf(StoredRecord record, string logHead) => new()
    {
        RecordHash = record.Hash.ToPb(),
        LogIndex = (ulong)record.LogIndex,
        LogHead = logHead,
    };

    public static ByteString ToPb(this Hash hash) => RecordMessages.ToPb(hash);

    public static Timestamp ToTimestamp(long microseconds) => RecordMessages.ToTimestamp(microseconds);

    /// <summary>Truncated to whole microseconds; the range is checked by the caller.</summary>
    public static long ToMicroseconds(Timestamp time) => RecordMessages.ToMicroseconds(time);
}
