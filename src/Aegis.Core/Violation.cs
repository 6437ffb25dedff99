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
}

/// <summary>A field, or an erasable part, that is not what it was; null where it is not known, or not there.</summary>
public sealed record Difference(string Field, string? Original, string? Found)
{
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
