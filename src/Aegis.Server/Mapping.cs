using Aegis.Core;
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

    public static Pb.Record ToPb(this StoredRecord stored)
    {
        var record = stored.Record;
        var message = new Pb.Record
        {
            LogId = record.LogId,
            Namespace = record.Namespace,
            WorkflowId = record.WorkflowId,
            Sequence = (ulong)record.Sequence,
            Kind = (Pb.RecordKind)record.Kind,
            WorkflowType = record.WorkflowType,
            FromState = record.FromState,
            ToState = record.ToState,
            Status = (Pb.WorkflowStatus)record.Status,
            RequestId = record.RequestId,
            LeaseEpoch = (ulong)record.LeaseEpoch,
            OccurredAt = record.OccurredAt == 0 ? null : ToTimestamp(record.OccurredAt),
            RecordedAt = ToTimestamp(record.RecordedAt),
            PersonDigest = record.PersonDigest.ToPb(),
            ContentDigest = record.ContentDigest.ToPb(),
            SnapshotDigest = record.SnapshotDigest.ToPb(),
            PreviousHash = record.PreviousHash.ToPb(),
            Hash = stored.Hash.ToPb(),
            LogIndex = (ulong)stored.LogIndex,
        };
        if (record.Person is { } person)
        {
            message.PersonSalt = ByteString.CopyFrom(person.Salt.ToArray());
            message.Actor = person.Actor;
            message.Principal = person.Principal;
        }
        if (record.Content is { } content)
        {
            message.ContentSalt = ByteString.CopyFrom(content.Salt.ToArray());
            message.Reason = content.Reason;
            foreach (var (key, value) in content.Metadata)
                message.Metadata.Add(key, value);
        }
        if (record.Snapshot is { } snapshot)
        {
            message.SnapshotSalt = ByteString.CopyFrom(snapshot.Salt.ToArray());
            message.SnapshotContentType = snapshot.ContentType;
            message.SnapshotSize = (ulong)snapshot.Size;
            message.SnapshotSha256 = snapshot.Sha256.ToPb();
        }
        return message;
    }

    /// <summary>A record as a foreign export brings it; its bytes are encoded anew and its hash is the one it claims.</summary>
    /// <exception cref="FormatException">It cannot be a record.</exception>
    public static StoredRecord ToStoredRecord(this Pb.Record message)
    {
        var record = new Record
        {
            LogId = message.LogId,
            Namespace = message.Namespace,
            WorkflowId = message.WorkflowId,
            Sequence = ToLong(message.Sequence),
            Kind = (RecordKind)message.Kind,
            WorkflowType = message.WorkflowType,
            FromState = message.FromState,
            ToState = message.ToState,
            Status = (WorkflowStatus)message.Status,
            RequestId = message.RequestId,
            LeaseEpoch = ToLong(message.LeaseEpoch),
            OccurredAt = message.OccurredAt is null ? 0 : ToMicroseconds(message.OccurredAt),
            RecordedAt = message.RecordedAt is null ? 0 : ToMicroseconds(message.RecordedAt),
            PersonDigest = ToHash(message.PersonDigest),
            ContentDigest = ToHash(message.ContentDigest),
            SnapshotDigest = ToHash(message.SnapshotDigest),
            PreviousHash = ToHash(message.PreviousHash),
            Person = message.PersonSalt.IsEmpty
                ? null
                : new Person(ToSalt(message.PersonSalt), message.Actor, message.Principal),
            Content = message.ContentSalt.IsEmpty
                ? null
                : new Content(ToSalt(message.ContentSalt), message.Reason, new Metadata(message.Metadata)),
            Snapshot = message.SnapshotSalt.IsEmpty
                ? null
                : new SnapshotPart(ToSalt(message.SnapshotSalt), message.SnapshotContentType,
                    ToLong(message.SnapshotSize), ToHash(message.SnapshotSha256)),
        };
        return new StoredRecord(record, RecordFormat.Encode(record), ToHash(message.Hash), ToLong(message.LogIndex));
    }

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

    public static ByteString ToPb(this Hash hash) => UnsafeByteOperations.UnsafeWrap(hash.ToArray());

    public static Timestamp ToTimestamp(long microseconds) => new()
    {
        Seconds = microseconds / 1_000_000,
        Nanos = (int)(microseconds % 1_000_000) * 1000,
    };

    /// <summary>Truncated to whole microseconds; the range is checked by the caller.</summary>
    public static long ToMicroseconds(Timestamp time) =>
        time.Seconds is < -62_135_596_800 or > 253_402_300_799 || time.Nanos is < 0 or > 999_999_999
            ? -1
            : (time.Seconds * 1_000_000) + (time.Nanos / 1000);

    private static long ToLong(ulong value) => value <= long.MaxValue
        ? (long)value
        : throw new FormatException("An integer is larger than 2^63 − 1.");

    private static Hash ToHash(ByteString bytes) => bytes.Length == Hash.Size
        ? new Hash(bytes.Span)
        : throw new FormatException($"A hash has 32 bytes, not {bytes.Length}.");

    private static Bytes16 ToSalt(ByteString bytes) => bytes.Length == Bytes16.Size
        ? new Bytes16(bytes.Span)
        : throw new FormatException($"A salt has 16 bytes, not {bytes.Length}.");
}
