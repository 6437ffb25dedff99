using System.Buffers.Binary;
using System.Text;

namespace Aegis.Core;

// The same format for records whose texts are still the bytes that a store keeps: compared where they stand, without a copy.
public static partial class RecordFormat
{
    private const int EndBytes = 4 * Core.Hash.Size;

    /// <summary>
    /// The hashes with which encoded bytes end, read from where they stand, whatever is before them; zero where the bytes are too
    /// short for them, which no verification takes for sound.
    /// </summary>
    public static (Hash Person, Hash Content, Hash Snapshot, Hash Previous) EndOf(ReadOnlySpan<byte> encoded)
    {
        if (encoded.Length < EndBytes)
            return default;
        var end = encoded[^EndBytes..];
        return (At(end, 0), At(end, 1), At(end, 2), At(end, 3));

        static Hash At(ReadOnlySpan<byte> end, int place) => new(end.Slice(place * Core.Hash.Size, Core.Hash.Size));
    }

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
            && rest.Length == EndBytes;
    }

    /// <summary>Whether the encoded bytes have the record's hash, which the lanes may tell later.</summary>
    internal static bool HasItsHash(in RawRecord record, HashLanes? lanes)
    {
        var writer = new Writer();
        writer.U8(LeafPrefix);
        writer.Raw(record.Encoded);
        return Has(writer, record.Hash, lanes);
    }

    /// <summary>Whether every part is there whose digest the record has, and gives it, and no other. The lanes may tell later.</summary>
    internal static bool HasItsParts(in RawRecord record, HashLanes? lanes)
    {
        try
        {
            var (person, content, snapshot, _) = EndOf(record.Encoded);
            return (record.PersonSalt is { } p ? Has(WritePerson(p, record.Actor, record.Principal), person, lanes) : person.IsZero)
                && (record.ContentSalt is { } c ? Has(WriteContent(c, record.Reason, record.Metadata), content, lanes) : content.IsZero)
                && (record.SnapshotSalt is { } s
                    ? Has(WriteSnapshot(s, record.SnapshotContentType, record.SnapshotSize, record.SnapshotSha256), snapshot, lanes)
                    : snapshot.IsZero);
        }
        catch (Exception e) when (e is OverflowException or EncoderFallbackException)
        {
            // A store was made to hold what has no encoding.
            return false;
        }
    }

    /// <summary>Whether it is looked up by its request_id, if it has one. The lanes may tell later.</summary>
    internal static bool HasItsKey(in RawRecord record, HashLanes? lanes)
    {
        if (record.RequestId.IsEmpty || record.RequestKey.Length != Core.Bytes16.Size)
            return record.RequestId.IsEmpty && record.RequestKey.IsEmpty;
        var writer = WriteRequest(record.Namespace, record.WorkflowId, record.RequestId);
        if (lanes is null)
            return Core.Hash.Of(writer.Written).BeginsWith(new Bytes16(record.RequestKey));
        lanes.ExpectBeginning(writer.Written, new Bytes16(record.RequestKey));
        return true;
    }

    private static bool Has(Writer writer, Hash hash, HashLanes? lanes)
    {
        if (lanes is null)
            return Core.Hash.Of(writer.Written) == hash;
        lanes.Expect(writer.Written, hash);
        return true;
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
