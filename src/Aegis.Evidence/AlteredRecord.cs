using Aegis.Core;

namespace Aegis.Evidence;

/// <summary>
/// A record whose fields do not give the hash it claims. An export has no second copy of the fields; but many of them the chain
/// tells twice, and the value that makes the hash come out right is the one that was recorded.
/// </summary>
internal sealed class AlteredRecord(StoredRecord stored, StoredRecord? previous, WorkflowKey key)
{
    /// <summary>The record after it, once it has come.</summary>
    public StoredRecord? Next { get; set; }

    /// <summary>Whether a head proves the hash that it claims.</summary>
    public bool IsHashProven { get; init; }

    private long Sequence => stored.Record.Sequence;

    /// <summary>Whether the hash it claims is the true one, so that the fields are not.</summary>
    private bool IsHashRight => IsHashProven || (Next is { } next && next.Record.PreviousHash == stored.Hash);

    /// <summary>The findings of a chain, those about altered records with what can be told of the original.</summary>
    public static IEnumerable<Violation> Explain(IReadOnlyList<Violation> violations, IReadOnlyList<AlteredRecord> altered)
    {
        foreach (var violation in violations)
        {
            // What follows from a record by its hash is not inserted, whatever the altered fields before it seem to say.
            if (violation is { Class: ViolationClass.RecordInserted, ExpectedHash: null }
                && altered.Any(a => a.IsHashRight && a.Next?.Record.Sequence == violation.Sequence))
            {
                continue;
            }
            var of = violation is { Class: ViolationClass.FieldModified, Differences: [{ Field: "hash" }] }
                ? altered.FirstOrDefault(a => a.Sequence == violation.Sequence)
                : null;
            yield return of?.Explain(violation) ?? violation;
        }
    }

    private Violation? Explain(Violation violation)
    {
        if (Original() is { } original)
        {
            return violation with
            {
                Message = "The fields are not those that were recorded.",
                ExpectedHash = stored.Hash,
                ActualHash = RecordFormat.HashOf(stored.Encoded.Span),
                Differences = Difference.Between(original, stored.Record),
            };
        }
        return IsHashRight
            ? violation with
            {
                Message = "The fields are not those that were recorded: they do not give the hash that the log has.",
                ExpectedHash = stored.Hash,
                ActualHash = RecordFormat.HashOf(stored.Encoded.Span),
                Differences = [],
            }
            : null;
    }

    /// <summary>The record as it was, where one field differs that the chain tells a second time.</summary>
    private Record? Original()
    {
        var record = stored.Record;
        if (RecordLimits.Problem(record) is not null)
            return null;
        var before = previous?.Record;
        var after = Next?.Record;
        IEnumerable<Record?> candidates =
        [
            record with { Namespace = key.Namespace },
            record with { WorkflowId = key.WorkflowId },
            record with { RequestId = "" },
            record with { LeaseEpoch = 0 },
            record with { OccurredAt = 0 },
            record with { ToState = record.FromState },
            record with { PreviousHash = previous?.Hash ?? default },
            record with { PersonDigest = record.Person is { } p ? RecordFormat.DigestOf(p) : default },
            record with { ContentDigest = RecordFormat.DigestOf(record.Content) },
            record with { SnapshotDigest = RecordFormat.DigestOf(record.Snapshot) },
            before is null ? null : record with { LogId = before.LogId },
            before is null ? null : record with { Sequence = before.Sequence + 1 },
            before is null ? null : record with { WorkflowType = before.WorkflowType },
            before is null ? null : record with { FromState = before.ToState },
            before is null ? null : record with { LeaseEpoch = before.LeaseEpoch },
            before is null ? null : record with { RecordedAt = before.RecordedAt },
            after is null ? null : record with { LogId = after.LogId },
            after is null ? null : record with { Sequence = after.Sequence - 1 },
            after is null ? null : record with { WorkflowType = after.WorkflowType },
            after is null ? null : record with { ToState = after.FromState },
            .. Enum.GetValues<WorkflowStatus>().Select(status => record with { Status = status }),
            .. Enum.GetValues<RecordKind>().Select(kind => record with { Kind = kind }),
        ];
        return candidates.FirstOrDefault(
            candidate => candidate is not null && RecordFormat.HashOf(RecordFormat.Encode(candidate)) == stored.Hash);
    }
}
