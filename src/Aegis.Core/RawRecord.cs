namespace Aegis.Core;

/// <summary>
/// A record as a store holds it, with every text as the UTF-8 bytes that it keeps: most of what is verified is in order, and that
/// can be told from the bytes alone. A part is there when its salt is.
/// </summary>
public ref struct RawRecord
{
    public long LogIndex { get; init; }
    public ReadOnlySpan<byte> LogId { get; init; }
    public ReadOnlySpan<byte> Namespace { get; init; }
    public ReadOnlySpan<byte> WorkflowId { get; init; }
    public long Sequence { get; init; }
    public long Kind { get; init; }
    public ReadOnlySpan<byte> WorkflowType { get; init; }
    public ReadOnlySpan<byte> FromState { get; init; }
    public ReadOnlySpan<byte> ToState { get; init; }
    public long Status { get; init; }
    public ReadOnlySpan<byte> RequestId { get; init; }
    public ReadOnlySpan<byte> RequestKey { get; init; }
    public long LeaseEpoch { get; init; }
    public long OccurredAt { get; init; }
    public long RecordedAt { get; init; }
    public Bytes16? PersonSalt { get; init; }
    public ReadOnlySpan<byte> Actor { get; init; }
    public ReadOnlySpan<byte> Principal { get; init; }
    public Bytes16? ContentSalt { get; init; }
    public ReadOnlySpan<byte> Reason { get; init; }
    public Metadata Metadata { get; init; }
    public Bytes16? SnapshotSalt { get; init; }
    public ReadOnlySpan<byte> SnapshotContentType { get; init; }
    public long SnapshotSize { get; init; }
    public Hash SnapshotSha256 { get; init; }
    public Hash Hash { get; init; }
    public ReadOnlySpan<byte> Encoded { get; init; }

    /// <summary>
    /// Whether fields, encoded bytes and hash agree, every part that the record had is there and as it was, and so is its key: then
    /// <see cref="RecordVote"/> has nothing to find. What is not consistent may still be in order, where values were erased.
    /// </summary>
    public readonly bool IsConsistent() => IsConsistent(null);

    /// <summary>The same, as far as the lanes do not tell otherwise once they are complete.</summary>
    internal readonly bool IsConsistent(HashLanes? lanes) =>
        RecordFormat.Encodes(this) && RecordFormat.HasItsHash(this, lanes) && RecordFormat.HasItsParts(this, lanes)
        && RecordFormat.HasItsKey(this, lanes);

    /// <summary>What the rules of a chain ask of a record that is consistent.</summary>
    internal readonly ChainStep ToChainStep(Texts texts)
    {
        var (_, _, snapshot, previous) = RecordFormat.EndOf(Encoded);
        return new ChainStep(new WorkflowKey(texts.Get(Namespace), texts.Get(WorkflowId)), Sequence, (RecordKind)StoredByte.Of(Kind),
            texts.Get(WorkflowType), texts.Get(FromState), texts.Get(ToState), (WorkflowStatus)StoredByte.Of(Status), LeaseEpoch,
            RecordedAt, !snapshot.IsZero, previous);
    }

    /// <summary>The record with its texts. The digests and the link have no fields of their own: <see cref="RecordFormat.EndOf"/>.</summary>
    public readonly StoredRecord ToStoredRecord(Texts texts)
    {
        var end = RecordFormat.EndOf(Encoded);
        return new StoredRecord(new Record
        {
            LogId = texts.Get(LogId),
            Namespace = texts.Get(Namespace),
            WorkflowId = texts.Get(WorkflowId),
            Sequence = Sequence,
            Kind = (RecordKind)StoredByte.Of(Kind),
            WorkflowType = texts.Get(WorkflowType),
            FromState = texts.Get(FromState),
            ToState = texts.Get(ToState),
            Status = (WorkflowStatus)StoredByte.Of(Status),
            RequestId = texts.Get(RequestId),
            LeaseEpoch = LeaseEpoch,
            OccurredAt = OccurredAt,
            RecordedAt = RecordedAt,
            PersonDigest = end.Person,
            ContentDigest = end.Content,
            SnapshotDigest = end.Snapshot,
            PreviousHash = end.Previous,
            Person = PersonSalt is { } p ? new Person(p, texts.Get(Actor), texts.Get(Principal)) : null,
            Content = ContentSalt is { } c ? new Content(c, texts.Get(Reason), Metadata) : null,
            Snapshot = SnapshotSalt is { } s
                ? new SnapshotPart(s, texts.Get(SnapshotContentType), SnapshotSize, SnapshotSha256)
                : null,
        }, Encoded.ToArray(), Hash, LogIndex)
        { RequestKey = RequestKey.ToArray() };
    }
}

/// <summary>A kind or status as a store holds it. What no byte holds was altered: it reads as 0, which is neither.</summary>
public static class StoredByte
{
    public static byte Of(long number) => number is >= byte.MinValue and <= byte.MaxValue ? (byte)number : (byte)0;
}

/// <summary>Texts by their UTF-8 bytes, so that those which come again and again are made once. Used by one task.</summary>
public sealed class Texts
{
    private const int BytesMax = 64;

    private readonly (byte[] Utf8, string Text)[] _known = new (byte[], string)[512];

    public string Get(ReadOnlySpan<byte> utf8)
    {
        if (utf8.IsEmpty)
            return "";
        if (utf8.Length > BytesMax)
            return System.Text.Encoding.UTF8.GetString(utf8);
        // Which ones share a place is of no matter but to speed.
        var place = (uint)utf8.Length;
        foreach (var b in utf8)
            place = (place * 31) + b;
        ref var known = ref _known[place % (uint)_known.Length];
        if (known.Text is null || !utf8.SequenceEqual(known.Utf8))
            known = (utf8.ToArray(), System.Text.Encoding.UTF8.GetString(utf8));
        return known.Text;
    }
}
