using System.Buffers.Binary;

namespace Aegis.Core;

// The same format for records whose texts are still the bytes that a store keeps: compared where they stand, without a copy.
public static partial class RecordFormat
{
    // The encoded bytes end with four hashes: where each begins, in bytes before the end.
    internal const int PersonDigestFromEnd = 4 * Core.Hash.Size;
    internal const int ContentDigestFromEnd = 3 * Core.Hash.Size;
    internal const int SnapshotDigestFromEnd = 2 * Core.Hash.Size;
    internal const int PreviousHashFromEnd = Core.Hash.Size;

    /// <summary>Whether a record's fields give its encoded bytes, whatever the four hashes at their end are.</summary>
    internal static bool Encodes(in RawRecord record)
    {
        var rest = new Matcher(record.Encoded);
        return rest.Is("\u000faegis/record/v1"u8)
            && rest.IsOpaque16(record.LogId)
            && rest.IsOpaque16(record.Namespace)
            && rest.IsOpaque16(record.WorkflowId)
            && rest.IsU64(record.Sequence)
            && rest.IsU8(record.Kind)
            && rest.IsOpaque16(record.WorkflowType)
            && rest.IsOpaque16(record.FromState)
            && rest.IsOpaque16(record.ToState)
            && rest.IsU8(record.Status)
            && rest.IsOpaque16(record.RequestId)
            && rest.IsU64(record.LeaseEpoch)
            && rest.IsU64(record.OccurredAt)
            && rest.IsU64(record.RecordedAt)
            && rest.Length == 4 * Core.Hash.Size;
    }

    /// <summary>Whether every part is there whose digest the record has, and gives it, and no other.</summary>
    internal static bool HasItsParts(in RawRecord record)
    {
        if (Math.Max(Math.Max(record.Actor.Length, record.Principal.Length), record.SnapshotContentType.Length) > ushort.MaxValue)
            return false;
        return DigestOfPerson(record) == record.DigestAt(PersonDigestFromEnd)
            && DigestOfContent(record) == record.DigestAt(ContentDigestFromEnd)
            && DigestOfSnapshot(record) == record.DigestAt(SnapshotDigestFromEnd);
    }

    private static Hash DigestOfPerson(in RawRecord record)
    {
        if (record.PersonSalt is not { } salt)
            return default;
        var writer = new Writer();
        writer.Label(PersonLabel);
        writer.Bytes16(salt);
        writer.Opaque16(record.Actor);
        writer.Opaque16(record.Principal);
        return Core.Hash.Of(writer.Written);
    }

    private static Hash DigestOfContent(in RawRecord record)
    {
        if (record.ContentSalt is not { } salt)
            return default;
        if (record.Metadata.Count > 0)
            return Recomputed.Of(new Content(salt, Utf8.GetString(record.Reason), record.Metadata));
        var writer = new Writer();
        writer.Label(ContentLabel);
        writer.Bytes16(salt);
        writer.Opaque32(record.Reason);
        writer.U16(0);
        return Core.Hash.Of(writer.Written);
    }

    private static Hash DigestOfSnapshot(in RawRecord record)
    {
        if (record.SnapshotSalt is not { } salt)
            return default;
        var writer = new Writer();
        writer.Label(SnapshotLabel);
        writer.Bytes16(salt);
        writer.Opaque16(record.SnapshotContentType);
        writer.U64(record.SnapshotSize);
        writer.Hash(record.SnapshotSha256);
        return Core.Hash.Of(writer.Written);
    }

    /// <summary>Walks through encoded bytes as long as they are what is expected.</summary>
    private ref struct Matcher(ReadOnlySpan<byte> bytes)
    {
        private ReadOnlySpan<byte> _rest = bytes;

        public readonly int Length => _rest.Length;

        public bool Is(ReadOnlySpan<byte> expected)
        {
            if (!_rest.StartsWith(expected))
                return false;
            _rest = _rest[expected.Length..];
            return true;
        }

        public bool IsOpaque16(ReadOnlySpan<byte> expected)
        {
            if (_rest.Length < sizeof(ushort) || BinaryPrimitives.ReadUInt16BigEndian(_rest) != expected.Length)
                return false;
            _rest = _rest[sizeof(ushort)..];
            return Is(expected);
        }

        public bool IsU8(long expected)
        {
            if (_rest.IsEmpty || _rest[0] != expected)
                return false;
            _rest = _rest[1..];
            return true;
        }

        /// <summary>Negative values have an encoding here as they have in <see cref="Writer.U64"/>.</summary>
        public bool IsU64(long expected)
        {
            if (_rest.Length < sizeof(ulong) || BinaryPrimitives.ReadInt64BigEndian(_rest) != expected)
                return false;
            _rest = _rest[sizeof(ulong)..];
            return true;
        }
    }
}
