using System.Buffers;
using System.Buffers.Binary;
using System.Text;

namespace Aegis.Core;

/// <summary>The kind of a violation; numbered as in the contract.</summary>
public enum ViolationClass
{
    FieldModified = 1,
    RecordMissing = 2,
    RecordInserted = 3,
    RecordsReordered = 4,
    TailTruncated = 5,
    SnapshotModified = 6,
    SnapshotMissing = 7,
    ErasedWithoutRecord = 8,
    WorkflowHeadModified = 9,
    ClockRegression = 10,
    WorkflowDeleted = 11,
    TileModified = 12,
    LogRolledBack = 13,
    LogForked = 14,
    SignatureInvalid = 15,
}

/// <summary>One finding of verification: what, where, and what should be.</summary>
public sealed record Violation(ViolationClass Class, WorkflowKey Key, long Sequence, string Message)
{
    /// <summary>Null when there is no record at that place.</summary>
    public long? LogIndex { get; init; }
    public IReadOnlyList<Difference> Differences { get; init; } = [];
    public Hash? ExpectedHash { get; init; }
    public Hash? ActualHash { get; init; }

    /// <summary>The size of the newest signed head at which this place was still good; 0 when that is not known.</summary>
    public long LastGoodLogSize { get; init; }

    /// <summary>Whether it concerns the bytes of a snapshot alone: the history of the workflow is as it was recorded.</summary>
    public bool IsOfSnapshot => Class is ViolationClass.SnapshotModified or ViolationClass.SnapshotMissing;

    /// <summary>Whether it concerns the log itself, and no workflow.</summary>
    public bool IsOfLog => Key is { Namespace: "", WorkflowId: "" };

    /// <summary>
    /// The violation without values of erasable parts, which are only named: what was erased, or will be, must not live on in
    /// what tells of a finding.
    /// </summary>
    public Violation WithoutErasable() => Differences.Any(d => d.IsErasable && (d.Original ?? d.Found) is not null)
        ? this with { Differences = [.. Differences.Select(d => d.IsErasable ? new Difference(d.Field, null, null) : d)] }
        : this;

    /// <summary>The violation with no longer values than can be told.</summary>
    internal Violation Shortened() => Differences.All(d => d.Original == Difference.Cut(d.Original) && d.Found == Difference.Cut(d.Found))
        ? this
        : this with { Differences = [.. Differences.Select(d => new Difference(d.Field, Difference.Cut(d.Original), Difference.Cut(d.Found)))] };

    /// <summary>
    /// Names the finding: class, place, and what was found there. Lower-case hex of the first 16 bytes of
    /// <code>
    /// SHA-256( u8 class ‖ opaque32 namespace ‖ opaque32 workflow_id ‖ u64 sequence ‖ u64 log_index + 1, 0 for none
    ///          ‖ actual_hash, 32 zero bytes for none ‖ u32 n ‖ n × ( opaque32 field ‖ opaque32 found ) )
    /// </code>
    /// The fields that differ are in it only where no hash tells what was found: in the head of a workflow, and where
    /// something is gone.
    /// </summary>
    public string Id()
    {
        var bytes = new ArrayBufferWriter<byte>(256);
        bytes.Write([(byte)Class]);
        Opaque32(Key.Namespace);
        Opaque32(Key.WorkflowId);
        BinaryPrimitives.WriteInt64BigEndian(bytes.GetSpan(16), Sequence);
        BinaryPrimitives.WriteInt64BigEndian(bytes.GetSpan(16)[8..], LogIndex + 1 ?? 0);
        bytes.Advance(16);
        (ActualHash ?? default).CopyTo(bytes.GetSpan(Hash.Size));
        bytes.Advance(Hash.Size);
        var told = ActualHash is null || Class == ViolationClass.WorkflowHeadModified ? WithoutErasable().Differences : [];
        U32(told.Count);
        foreach (var difference in told)
        {
            Opaque32(difference.Field);
            Opaque32(difference.Found ?? "");
        }
        return Hash.Of(bytes.WrittenSpan).ToString()[..32];

        void U32(int value)
        {
            BinaryPrimitives.WriteInt32BigEndian(bytes.GetSpan(4), value);
            bytes.Advance(4);
        }

        void Opaque32(string text)
        {
            // What stands in a database need not be text that has an encoding: what has none is replaced, not refused.
            var encoded = Encoding.UTF8.GetBytes(text);
            U32(encoded.Length);
            bytes.Write(encoded);
        }
    }
}

/// <summary>A violation as it is kept.</summary>
/// <param name="Id">As <see cref="Violation.Id"/> gave it.</param>
/// <param name="Violation">What was found, without values of erasable parts.</param>
/// <param name="FoundAt">When, in microseconds since 1970, by the clock of the server that found it.</param>
public sealed record FoundViolation(string Id, Violation Violation, long FoundAt)
{
    public FoundViolation(Violation violation, long foundAt) : this(violation.Id(), violation.WithoutErasable().Shortened(), foundAt)
    {
    }

    /// <summary>
    /// The size of the log before what it tells of was read. A repair that was recorded at this place or later may have mended
    /// it meanwhile. Not kept.
    /// </summary>
    public long ReadAt { get; init; }

    /// <summary>Grows in the order in which violations were stored.</summary>
    public long Number { get; init; }

    /// <summary>When the QUARANTINED record that tells of it was written; 0 for none of its own.</summary>
    public long RecordedAt { get; init; }

    /// <summary>When an operator released it, or what it tells of was repaired; 0 while it is open.</summary>
    public long ReleasedAt { get; init; }

    /// <summary>Whether what it tells of was repaired: found again, it would be another.</summary>
    public bool IsRepaired { get; init; }
}

/// <summary>What an act upon the log does to violations that are open.</summary>
public enum ViolationFate
{
    /// <summary>The quarantine that they mean is recorded; they stay open.</summary>
    Recorded,

    /// <summary>Released as they are: the same finding is not opened again.</summary>
    Released,

    /// <summary>No longer so: the same finding would be a new one.</summary>
    Repaired,
}

/// <summary>Which open violations an act concerns.</summary>
/// <param name="Fate">What becomes of them.</param>
/// <param name="Keys">The workflows they are of; the empty key for the log itself.</param>
/// <param name="Ids">Which of them; null for all.</param>
/// <param name="UpToNumber">The newest that was looked at: what was found since is not meant.</param>
public sealed record ViolationChange(
    ViolationFate Fate, IReadOnlyList<WorkflowKey> Keys, IReadOnlyList<string>? Ids, long UpToNumber)
{
    /// <summary>
    /// What was open when the act was worked out, also of workflows that had none. The act is refused when it is not the same
    /// any more: what was found since has to be looked at before something is said to be mended.
    /// </summary>
    public IReadOnlyList<OpenOf> Seen { get; init; } = [];
}

/// <summary>How many violations of a workflow are open, and the newest of them; the empty key for the log itself.</summary>
public readonly record struct OpenOf(WorkflowKey Key, long Count, long NewestNumber)
{
    public static OpenOf Of(WorkflowKey key, IReadOnlyCollection<FoundViolation> open) =>
        new(key, open.Count, open.Count == 0 ? 0 : open.Max(v => v.Number));
}

/// <summary>A workflow with open violations, as a batch reads it.</summary>
/// <param name="Open">Of which workflow, and how many.</param>
/// <param name="IsRecorded">Whether the log's own history tells of its quarantine.</param>
public sealed record Quarantine(OpenOf Open, bool IsRecorded)
{
    public WorkflowKey Key => Open.Key;
}

/// <summary>A field, or an erasable part, that is not what it was; null where it is not known, or not there.</summary>
public sealed record Difference(string Field, string? Original, string? Found)
{
    /// <summary>Whether the values can be erased: of those only the field or part is told, never what it held.</summary>
    public bool IsErasable => Field is "person" or "content" or "snapshot" or "actor" or "principal" or "reason" or "metadata";

    // A text can be as large as a database makes it.
    private const int ValueLengthMax = 4096;

    /// <summary>As much of a value as is told.</summary>
    [return: System.Diagnostics.CodeAnalysis.NotNullIfNotNull(nameof(text))]
    public static string? Cut(string? text) => text?.Length > ValueLengthMax ? text[..ValueLengthMax] + "…" : text;

    /// <summary>The fields of the record format that are not the same in both, under their names there.</summary>
    public static IReadOnlyList<Difference> Between(Record original, Record found)
    {
        var differences = new List<Difference>();
        foreach (var (name, read) in Fields)
        {
            var (a, b) = (read(original), read(found));
            if (a != b)
                differences.Add(new Difference(name, a, b));
        }
        return differences;
    }

    private static readonly (string Name, Func<Record, string> Read)[] Fields =
    [
        ("log_id", r => r.LogId),
        ("namespace", r => r.Namespace),
        ("workflow_id", r => r.WorkflowId),
        ("sequence", r => Refusal.Text(r.Sequence)),
        ("kind", r => r.Kind.ToString().ToUpperInvariant()),
        ("workflow_type", r => r.WorkflowType),
        ("from_state", r => r.FromState),
        ("to_state", r => r.ToState),
        ("status", r => r.Status.ToString().ToUpperInvariant()),
        ("request_id", r => r.RequestId),
        ("lease_epoch", r => Refusal.Text(r.LeaseEpoch)),
        ("occurred_at", r => Refusal.Text(r.OccurredAt)),
        ("recorded_at", r => Refusal.Text(r.RecordedAt)),
        ("person_digest", r => r.PersonDigest.ToString()),
        ("content_digest", r => r.ContentDigest.ToString()),
        ("snapshot_digest", r => r.SnapshotDigest.ToString()),
        ("previous_hash", r => r.PreviousHash.ToString()),
    ];
}
