using System.Buffers.Binary;
using System.Text;

namespace Aegis.Core;

/// <summary>
/// Record format v1: what is hashed, byte for byte. Integers are unsigned and big-endian, at most 2^63 − 1;
/// opaqueN is an N-bit length in bytes followed by the bytes; strings are UTF-8 as received.
/// <code>
/// record = opaque8 "aegis/record/v1" ‖ opaque16 log_id ‖ opaque16 namespace ‖ opaque16 workflow_id
///        ‖ u64 sequence ‖ u8 kind ‖ opaque16 workflow_type ‖ opaque16 from_state ‖ opaque16 to_state
///        ‖ u8 status ‖ opaque16 request_id ‖ u64 lease_epoch ‖ u64 occurred_at ‖ u64 recorded_at
///        ‖ person_digest ‖ content_digest ‖ snapshot_digest ‖ previous_hash
/// hash   = SHA-256( 0x00 ‖ record )
/// person_digest   = SHA-256( opaque8 "aegis/person/v1" ‖ salt ‖ opaque16 actor ‖ opaque16 principal )
/// content_digest  = SHA-256( opaque8 "aegis/content/v1" ‖ salt ‖ opaque32 reason
///                            ‖ u16 n ‖ n × ( opaque16 key ‖ opaque32 value ) )
/// snapshot_digest = SHA-256( opaque8 "aegis/snapshot/v1" ‖ salt ‖ opaque16 content_type ‖ u64 size ‖ sha256 )
/// </code>
/// The leading 0x00 makes the hash the RFC 6962 leaf hash of the record. A field more means a new label.
/// </summary>
public static partial class RecordFormat
{
    private const string RecordLabel = "aegis/record/v1";
    private const string PersonLabel = "aegis/person/v1";
    private const string ContentLabel = "aegis/content/v1";
    private const string SnapshotLabel = "aegis/snapshot/v1";

    private const byte LeafPrefix = 0x00;

    private const int ScratchBytesMax = 64 * 1024;

    [ThreadStatic]
    private static byte[]? _scratch;

    private static readonly UTF8Encoding Utf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <summary>The record's bytes. Kind and status are written as they are, known or not.</summary>
    /// <exception cref="OverflowException">A text has more than 65,535 bytes.</exception>
    /// <exception cref="EncoderFallbackException">A text is not to be had in UTF-8.</exception>
    public static byte[] Encode(Record record) => Write(record).ToArray();

    /// <summary>Whether a record's bytes are these. Fails like <see cref="Encode(Record)"/>.</summary>
    public static bool Encodes(Record record, ReadOnlySpan<byte> encoded) => Write(record).Written.SequenceEqual(encoded);

    private static Writer Write(Record record)
    {
        var writer = new Writer();
        writer.Label(RecordLabel);
        writer.Opaque16(record.LogId);
        writer.Opaque16(record.Namespace);
        writer.Opaque16(record.WorkflowId);
        writer.U64(record.Sequence);
        writer.U8((byte)record.Kind);
        writer.Opaque16(record.WorkflowType);
        writer.Opaque16(record.FromState);
        writer.Opaque16(record.ToState);
        writer.U8((byte)record.Status);
        writer.Opaque16(record.RequestId);
        writer.U64(record.LeaseEpoch);
        writer.U64(record.OccurredAt);
        writer.U64(record.RecordedAt);
        writer.Hash(record.PersonDigest);
        writer.Hash(record.ContentDigest);
        writer.Hash(record.SnapshotDigest);
        writer.Hash(record.PreviousHash);
        return writer;
    }

    /// <summary>Reads what <see cref="Encode(Record)"/> wrote; the values of the parts are not in these bytes.</summary>
    /// <exception cref="FormatException">The bytes are not a record of this version.</exception>
    public static Record Decode(ReadOnlySpan<byte> encoded)
    {
        var reader = new Reader(encoded);
        if (reader.Opaque8() != RecordLabel)
            throw new FormatException("The label is not that of a record of version 1.");
        var record = new Record
        {
            LogId = reader.Opaque16(),
            Namespace = reader.Opaque16(),
            WorkflowId = reader.Opaque16(),
            Sequence = reader.U64(),
            Kind = (RecordKind)reader.U8(),
            WorkflowType = reader.Opaque16(),
            FromState = reader.Opaque16(),
            ToState = reader.Opaque16(),
            Status = (WorkflowStatus)reader.U8(),
            RequestId = reader.Opaque16(),
            LeaseEpoch = reader.U64(),
            OccurredAt = reader.U64(),
            RecordedAt = reader.U64(),
            PersonDigest = reader.Hash(),
            ContentDigest = reader.Hash(),
            SnapshotDigest = reader.Hash(),
            PreviousHash = reader.Hash(),
        };
        reader.End();
        if (!Enum.IsDefined(record.Kind))
            throw new FormatException($"The kind {(byte)record.Kind} is unknown.");
        if (!Enum.IsDefined(record.Status))
            throw new FormatException($"The status {(byte)record.Status} is unknown.");
        return record;
    }

    /// <summary>The record, or null where the bytes are none.</summary>
    public static Record? TryDecode(ReadOnlySpan<byte> encoded)
    {
        try
        {
            return Decode(encoded);
        }
        catch (FormatException)
        {
            return null;
        }
    }

    /// <summary>The hash of an encoded record: leaf of the log and link of the chain.</summary>
    public static Hash HashOf(ReadOnlySpan<byte> encoded)
    {
        var writer = new Writer();
        writer.U8(LeafPrefix);
        writer.Raw(encoded);
        return Core.Hash.Of(writer.Written);
    }

    public static Hash DigestOf(Person person) => Core.Hash.Of(Write(person).Written);

    /// <summary>Zero for no content.</summary>
    public static Hash DigestOf(Content? content) => content is null ? default : Core.Hash.Of(Write(content).Written);

    /// <summary>Zero for no snapshot.</summary>
    public static Hash DigestOf(SnapshotPart? snapshot) =>
        snapshot is null ? default : Core.Hash.Of(Write(snapshot).Written);

    public static byte[] Encode(Person person) => Write(person).ToArray();

    private static Writer Write(Person person) => WritePerson(person.Salt, person.Actor, person.Principal);

    private static Writer WritePerson(Bytes16 salt, scoped Text actor, scoped Text principal)
    {
        var writer = new Writer();
        writer.Label(PersonLabel);
        writer.Bytes16(salt);
        writer.Opaque16(actor);
        writer.Opaque16(principal);
        return writer;
    }

    public static byte[] Encode(Content content) => Write(content).ToArray();

    private static Writer Write(Content content) => WriteContent(content.Salt, content.Reason, content.Metadata);

    private static Writer WriteContent(Bytes16 salt, scoped Text reason, Metadata metadata)
    {
        var writer = new Writer();
        writer.Label(ContentLabel);
        writer.Bytes16(salt);
        writer.Opaque32(reason);
        writer.U16(metadata.Count);
        foreach (var (key, value) in metadata)
        {
            writer.Opaque16(key);
            writer.Opaque32(value);
        }
        return writer;
    }

    public static byte[] Encode(SnapshotPart snapshot) => Write(snapshot).ToArray();

    private static Writer Write(SnapshotPart snapshot) =>
        WriteSnapshot(snapshot.Salt, snapshot.ContentType, snapshot.Size, snapshot.Sha256);

    private static Writer WriteSnapshot(Bytes16 salt, scoped Text contentType, long size, Hash sha256)
    {
        var writer = new Writer();
        writer.Label(SnapshotLabel);
        writer.Bytes16(salt);
        writer.Opaque16(contentType);
        writer.U64(size);
        writer.Hash(sha256);
        return writer;
    }

    /// <summary>Whether every part whose values are there has the digest that the record says.</summary>
    public static bool PartsMatch(Record record) =>
        (record.Person is null || Recomputed.Of(record.Person) == record.PersonDigest)
        && (record.Content is null || Recomputed.Of(record.Content) == record.ContentDigest)
        && (record.Snapshot is null || Recomputed.Of(record.Snapshot) == record.SnapshotDigest);

    /// <summary>
    /// The key under which a request is looked up: the first 16 bytes of
    /// SHA-256( opaque16 namespace ‖ opaque16 workflow_id ‖ opaque16 request_id ). Not part of what is proven.
    /// </summary>
    public static Bytes16 RequestKey(WorkflowKey workflow, string requestId)
    {
        var writer = WriteRequest(workflow.Namespace, workflow.WorkflowId, requestId);
        Span<byte> digest = stackalloc byte[Core.Hash.Size];
        Core.Hash.Of(writer.Written).CopyTo(digest);
        return new Bytes16(digest[..Core.Bytes16.Size]);
    }

    /// <summary>The key of a record that was made by a request; empty for one without a request_id.</summary>
    internal static byte[] KeyOf(Record record) => record.RequestId.Length == 0 ? [] : RequestKey(record.Key, record.RequestId).ToArray();

    private static Writer WriteRequest(scoped Text @namespace, scoped Text workflowId, scoped Text requestId)
    {
        var writer = new Writer();
        writer.Opaque16(@namespace);
        writer.Opaque16(workflowId);
        writer.Opaque16(requestId);
        return writer;
    }

    /// <summary>opaque16 namespace ‖ opaque16 workflow_id ‖ u64 sequence ‖ hash: the last line of a statement, before base64.</summary>
    public static byte[] EncodeStatement(WorkflowKey workflow, long sequence, Hash hash)
    {
        var writer = new Writer();
        writer.Opaque16(workflow.Namespace);
        writer.Opaque16(workflow.WorkflowId);
        writer.U64(sequence);
        writer.Hash(hash);
        return writer.ToArray();
    }

    /// <summary>What <see cref="EncodeStatement"/> wrote, or null where the bytes are no such thing.</summary>
    public static (WorkflowKey Key, long Sequence, Hash Hash)? TryDecodeStatement(ReadOnlySpan<byte> bytes)
    {
        try
        {
            var reader = new Reader(bytes);
            var said = (new WorkflowKey(reader.Opaque16(), reader.Opaque16()), reader.U64(), reader.Hash());
            reader.End();
            return said;
        }
        catch (FormatException)
        {
            return null;
        }
    }

    /// <summary>Writes into a buffer of the thread, which the next writer writes over: one at a time.</summary>
    private ref struct Writer
    {
        private byte[] _buffer;
        private int _length;

        public Writer() => _buffer = _scratch ??= new byte[1024];

        public readonly ReadOnlySpan<byte> Written => _buffer.AsSpan(0, _length);

        public readonly byte[] ToArray() => Written.ToArray();

        public void U8(byte value) => Take(1)[0] = value;

        public void U16(int value) => BinaryPrimitives.WriteUInt16BigEndian(Take(2), checked((ushort)value));

        /// <summary>Negative values have no encoding: what a store was made to hold must not look like another.</summary>
        public void U64(long value) => BinaryPrimitives.WriteUInt64BigEndian(Take(8), unchecked((ulong)value));

        public void Hash(Hash value) => value.CopyTo(Take(Core.Hash.Size));

        public void Bytes16(Bytes16 value) => value.CopyTo(Take(Core.Bytes16.Size));

        public void Raw(ReadOnlySpan<byte> bytes) => bytes.CopyTo(Take(bytes.Length));

        public void Label(string label)
        {
            U8(checked((byte)label.Length));
            Utf8.GetBytes(label, Take(label.Length));
        }

        public void Opaque16(scoped Text value)
        {
            var bytes = value.ByteCount;
            U16(bytes);
            value.CopyTo(Take(bytes));
        }

        public void Opaque32(scoped Text value)
        {
            var bytes = value.ByteCount;
            BinaryPrimitives.WriteUInt32BigEndian(Take(4), (uint)bytes);
            value.CopyTo(Take(bytes));
        }

        private Span<byte> Take(int count)
        {
            if (_length + count > _buffer.Length)
            {
                Array.Resize(ref _buffer, Math.Max(_buffer.Length * 2, _length + count));
                // What a store was made to hold can be of any size, and need not be kept.
                if (_buffer.Length <= ScratchBytesMax)
                    _scratch = _buffer;
            }
            var span = _buffer.AsSpan(_length, count);
            _length += count;
            return span;
        }
    }

    /// <summary>A text, or the UTF-8 bytes of one: a record is written alike from either.</summary>
    private readonly ref struct Text
    {
        private readonly string? _text;
        private readonly ReadOnlySpan<byte> _utf8;

        private Text(string text) => _text = text;

        private Text(ReadOnlySpan<byte> utf8) => _utf8 = utf8;

        public int ByteCount => _text is null ? _utf8.Length : Utf8.GetByteCount(_text);

        public static implicit operator Text(string text) => new(text);

        public static implicit operator Text(ReadOnlySpan<byte> utf8) => new(utf8);

        public void CopyTo(Span<byte> destination)
        {
            if (_text is null)
                _utf8.CopyTo(destination);
            else
                Utf8.GetBytes(_text, destination);
        }
    }

    private ref struct Reader(ReadOnlySpan<byte> bytes)
    {
        private ReadOnlySpan<byte> _rest = bytes;

        public byte U8() => Take(1)[0];

        public long U64()
        {
            var value = BinaryPrimitives.ReadUInt64BigEndian(Take(8));
            return value <= long.MaxValue
                ? (long)value
                : throw new FormatException("An integer is larger than 2^63 − 1.");
        }

        public Hash Hash() => new(Take(Core.Hash.Size));

        public string Opaque8() => Text(U8());

        public string Opaque16() => Text(BinaryPrimitives.ReadUInt16BigEndian(Take(2)));

        public readonly void End()
        {
            if (!_rest.IsEmpty)
                throw new FormatException($"{_rest.Length} bytes follow the record.");
        }

        private string Text(int count)
        {
            try
            {
                return Utf8.GetString(Take(count));
            }
            catch (DecoderFallbackException e)
            {
                throw new FormatException("A string is not UTF-8.", e);
            }
        }

        private ReadOnlySpan<byte> Take(int count)
        {
            if (count > _rest.Length)
                throw new FormatException("The record ends early.");
            var taken = _rest[..count];
            _rest = _rest[count..];
            return taken;
        }
    }
}
