using Aegis.Core;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Aegis.Evidence;

using Pb = Aegis.V1;

/// <summary>Records as the contract's messages, and back.</summary>
public static class RecordMessages
{
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

    /// <summary>
    /// A record as a foreign export brings it; its bytes are encoded anew and its hash is the one it claims. What a reader of the
    /// message would see and the hash does not cover, such as values without their salt, is refused.
    /// </summary>
    /// <exception cref="FormatException">It cannot be a record.</exception>
    public static StoredRecord ToStoredRecord(this Pb.Record message)
    {
        CheckValues(message);
        var record = new Record
        {
            LogId = message.LogId,
            Namespace = message.Namespace,
            WorkflowId = message.WorkflowId,
            Sequence = ToLong(message.Sequence),
            Kind = (RecordKind)ToByte((int)message.Kind, "kind"),
            WorkflowType = message.WorkflowType,
            FromState = message.FromState,
            ToState = message.ToState,
            Status = (WorkflowStatus)ToByte((int)message.Status, "status"),
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

    private static void CheckValues(Pb.Record message)
    {
        if (message.PersonSalt.IsEmpty && (message.Actor.Length > 0 || message.Principal.Length > 0))
            throw new FormatException("The values of the part \"person\" come without their salt.");
        if (message.ContentSalt.IsEmpty && (message.Reason.Length > 0 || message.Metadata.Count > 0))
            throw new FormatException("The values of the part \"content\" come without their salt.");
        if (message.SnapshotSalt.IsEmpty
            && (message.SnapshotContentType.Length > 0 || message.SnapshotSize > 0 || !message.SnapshotSha256.IsEmpty))
        {
            throw new FormatException("The values of the part \"snapshot\" come without their salt.");
        }
        if (message.OccurredAt is { Seconds: 0, Nanos: 0 } || message.OccurredAt?.Nanos % 1000 is > 0
            || message.RecordedAt?.Nanos % 1000 is > 0)
        {
            throw new FormatException("A time is not one of whole microseconds after 1970.");
        }
    }

    // The record format has one byte for it: a number that is cut to fit would pass for another.
    private static byte ToByte(int value, string field) => value is >= byte.MinValue and <= byte.MaxValue
        ? (byte)value
        : throw new FormatException($"{field} {value} is none.");

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
