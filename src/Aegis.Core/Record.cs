namespace Aegis.Core;

/// <summary>What a record records; numbered as in the record format.</summary>
public enum RecordKind : byte
{
    Started = 1,
    Transition = 2,
    Checkpoint = 3,
    Erasure = 4,
}

/// <summary>Where a workflow stands; numbered as in the record format.</summary>
public enum WorkflowStatus : byte
{
    Running = 1,
    Waiting = 2,
    Completed = 3,
    Failed = 4,
    Cancelled = 5,
}

/// <summary>Names a workflow.</summary>
public readonly record struct WorkflowKey(string Namespace, string WorkflowId)
{
    /// <summary>The workflow that holds the log's own history.</summary>
    public static readonly WorkflowKey Log = new(Limits.SystemNamespace, "log");

    /// <summary>No workflow: what is found of the log itself, its heads and tiles, stands under it.</summary>
    public static readonly WorkflowKey None = new("", "");

    // Namespaces are few: the id alone tells workflows apart, and verification looks up millions of them.
    public override int GetHashCode() => WorkflowId?.GetHashCode(StringComparison.Ordinal) ?? 0;

    public override string ToString() => $"{Namespace}/{WorkflowId}";
}

/// <summary>The erasable part that can name a person.</summary>
public sealed record Person(Bytes16 Salt, string Actor, string Principal);

/// <summary>The erasable part that carries content. Absent when there is no reason and no metadata.</summary>
public sealed record Content(Bytes16 Salt, string Reason, Metadata Metadata);

/// <summary>The erasable part that describes a snapshot. Its bytes are kept elsewhere.</summary>
public sealed record SnapshotPart(Bytes16 Salt, string ContentType, long Size, Hash Sha256);

/// <summary>
/// One hash-chained entry of a workflow's history: the fields of the record format, and the values of its
/// erasable parts where they are (still) there. Times are microseconds since 1970, 0 for none.
/// </summary>
public sealed record Record
{
    public required string LogId { get; init; }
    public required string Namespace { get; init; }
    public required string WorkflowId { get; init; }
    public required long Sequence { get; init; }
    public required RecordKind Kind { get; init; }
    public required string WorkflowType { get; init; }
    public required string FromState { get; init; }
    public required string ToState { get; init; }
    public required WorkflowStatus Status { get; init; }
    public required string RequestId { get; init; }
    public required long LeaseEpoch { get; init; }
    public required long OccurredAt { get; init; }
    public required long RecordedAt { get; init; }
    public required Hash PersonDigest { get; init; }
    public required Hash ContentDigest { get; init; }
    public required Hash SnapshotDigest { get; init; }
    public required Hash PreviousHash { get; init; }

    /// <summary>Null once erased.</summary>
    public Person? Person { get; init; }

    /// <summary>Null once erased, and when there is none.</summary>
    public Content? Content { get; init; }

    /// <summary>Null once erased, and when the record carries no snapshot.</summary>
    public SnapshotPart? Snapshot { get; init; }

    public WorkflowKey Key => new(Namespace, WorkflowId);

    /// <summary>Whether the record carries a snapshot, be its description erased or not.</summary>
    public bool IsCheckpoint => !SnapshotDigest.IsZero;
}

/// <summary>
/// A record as a store holds it: its fields, the encoded bytes and the hash kept beside them, and its place in
/// the log. What is stored may have been altered: only <see cref="IsConsistent"/> tells that the three agree.
/// </summary>
public sealed record StoredRecord(Record Record, ReadOnlyMemory<byte> Encoded, Hash Hash, long LogIndex)
{
    /// <summary>Room for tags, salts and hashes, beside the encoded bytes and the values of the parts.</summary>
    internal const int FieldBytes = 512;

    /// <summary>
    /// Under what its request_id is looked up, as it is stored: empty for none, and null where it was not read. Not part of what is
    /// proven, and yet one that was altered would have a repeated request done again.
    /// </summary>
    public ReadOnlyMemory<byte>? RequestKey { get; init; }

    /// <summary>Whether that is what it should be, as far as it was read.</summary>
    internal bool HasItsRequestKey => RequestKey is not { } key || key.Span.SequenceEqual(RecordFormat.KeyOf(Record));

    /// <summary>A new record with its bytes and hash.</summary>
    public static StoredRecord Seal(Record record, long logIndex)
    {
        var encoded = RecordFormat.Encode(record);
        return new StoredRecord(record, encoded, RecordFormat.HashOf(encoded), logIndex);
    }

    /// <summary>Whether fields, encoded bytes, hash and the values of the parts all agree.</summary>
    public bool IsConsistent() =>
        RecordFormat.HashOf(Encoded.Span) == Hash
        && Recomputed.Of(Record) == Hash
        && RecordFormat.PartsMatch(Record);

    /// <summary>
    /// How many bytes the record takes in a response, roughly and never less than it does: the encoded bytes, the
    /// values of the parts, and room for tags, salts and hashes.
    /// </summary>
    public int SizeEstimate()
    {
        var size = Encoded.Length + FieldBytes;
        if (Record.Person is { } person)
            size += 3 * (person.Actor.Length + person.Principal.Length);
        if (Record.Content is { } content)
        {
            size += 3 * content.Reason.Length;
            foreach (var (key, value) in content.Metadata)
                size += 3 * (key.Length + value.Length) + 16;
        }
        return size;
    }
}
