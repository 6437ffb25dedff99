namespace Aegis.Core;

/// <summary>
/// What the stored forms of one record say of it: its fields, its encoded bytes and its hash are three witnesses, and where one
/// of them disagrees it is the one that was altered.
/// </summary>
public sealed class RecordVote
{
    private RecordVote(StoredRecord stored, Record record, Hash hash, Violation? finding, Hash? alternative = null) =>
        (Stored, Record, Hash, Finding, Alternative) = (stored, record, hash, finding, alternative);

    public StoredRecord Stored { get; }

    /// <summary>The record as it was recorded, as far as that can be told.</summary>
    public Record Record { get; }

    /// <summary>The hash that the log and the next record of the chain have to name.</summary>
    public Hash Hash { get; }

    /// <summary>
    /// A second hash that the next record may name: where fields and bytes agree against the stored hash, only the next record
    /// can tell which of the two was altered.
    /// </summary>
    public Hash? Alternative { get; }

    /// <summary>Null when the witnesses agree.</summary>
    public Violation? Finding { get; }

    public bool IsSound => Finding is null;

    /// <summary>The parts that are altered or gone.</summary>
    internal IReadOnlyList<RecordPart> Parts { get; private init; } = [];

    /// <summary>The vote on a record of the log, under its own name, and its parts. Safe on any thread.</summary>
    public static RecordVote Of(StoredRecord stored)
    {
        var vote = Of(stored, stored.Record.Key, null);
        // Of bytes that are no record the digests are not known, and nothing can be said of the parts.
        if (!vote.IsSound && RecordFormat.TryDecode(stored.Encoded.Span) is null)
            return vote;
        return RecordParts.Check(vote.Record) is { Count: > 0 } parts
            ? new RecordVote(stored, vote.Record, vote.Hash, vote.Finding, vote.Alternative) { Parts = parts }
            : vote;
    }

    /// <summary>The same of a record as it is read, most of which need no more than a look at their bytes.</summary>
    public static RecordVote Of(in RawRecord raw, Texts texts)
    {
        var stored = raw.ToStoredRecord(texts);
        return raw.IsConsistent() ? new RecordVote(stored, stored.Record, stored.Hash, null) : Of(stored);
    }

    /// <param name="stored">The record.</param>
    /// <param name="key">The workflow in whose chain it was found.</param>
    /// <param name="previousHash">The hash of the record before, where it is known.</param>
    public static RecordVote Of(StoredRecord stored, WorkflowKey key, Hash? previousHash)
    {
        // Equal bytes have one hash.
        var fromBytes = RecordFormat.HashOf(stored.Encoded.Span);
        var fromFields = Recomputed.Equals(stored.Record, stored.Encoded.Span) ? fromBytes : Recomputed.Of(stored.Record);
        if (fromFields == stored.Hash && fromBytes == stored.Hash)
            return new RecordVote(stored, stored.Record, stored.Hash, stored.HasItsRequestKey ? null : AlteredKey(stored, key));

        var decoded = RecordFormat.TryDecode(stored.Encoded.Span);
        stored = WithDigestsOf(decoded, stored);
        if (fromBytes == stored.Hash && decoded is not null)
            return AlteredFields(stored, key, decoded, fromFields);
        // The digests and the link have no fields of their own: take them from the parts and from the chain.
        var rebuilt = stored.Record with
        {
            PersonDigest = stored.Record.Person is { } p ? Recomputed.Of(p) : stored.Record.PersonDigest,
            ContentDigest = stored.Record.Content is { } c ? Recomputed.Of(c) : default,
            SnapshotDigest = stored.Record.Snapshot is { } s ? Recomputed.Of(s) : default,
            PreviousHash = previousHash ?? stored.Record.PreviousHash,
        };
        if (Recomputed.Of(rebuilt) == stored.Hash || fromFields == stored.Hash)
        {
            var record = fromFields == stored.Hash ? stored.Record : rebuilt;
            return new RecordVote(stored, record, stored.Hash, Modified(stored, key,
                "The stored encoded bytes are not those that were recorded.", stored.Hash, fromBytes,
                decoded is null
                    ? [new Difference("encoded", Convert.ToHexStringLower(RecordFormat.Encode(record)),
                        Convert.ToHexStringLower(stored.Encoded.Span))]
                    : Difference.Between(record, decoded)));
        }
        if (fromFields == fromBytes)
        {
            return new RecordVote(stored, stored.Record, fromFields, Modified(stored, key,
                "The stored hash is not that of the record.", fromFields, stored.Hash,
                [new Difference("hash", fromFields.ToString(), stored.Hash.ToString())]), stored.Hash);
        }
        return new RecordVote(stored, stored.Record, stored.Hash, Modified(stored, key,
            "Neither the stored fields nor the stored encoded bytes give the stored hash.", stored.Hash, fromFields,
            decoded is null ? [] : Difference.Between(decoded, stored.Record)));
    }

    /// <summary>Digests and link are read from where they stand in the encoded bytes, whatever those are: of no record they are none.</summary>
    private static StoredRecord WithDigestsOf(Record? decoded, StoredRecord stored) => stored with
    {
        Record = stored.Record with
        {
            PersonDigest = decoded?.PersonDigest ?? default,
            ContentDigest = decoded?.ContentDigest ?? default,
            SnapshotDigest = decoded?.SnapshotDigest ?? default,
            PreviousHash = decoded?.PreviousHash ?? default,
        },
    };

    private static RecordVote AlteredFields(StoredRecord stored, WorkflowKey key, Record decoded, Hash fromFields)
    {
        var record = decoded with
        {
            Person = stored.Record.Person,
            Content = stored.Record.Content,
            Snapshot = stored.Record.Snapshot,
        };
        var differences = Difference.Between(decoded, stored.Record);
        var moved = differences is [{ Field: "sequence" }];
        var finding = Modified(stored, key,
            moved
                ? $"This is record {decoded.Sequence}, in the place of record {stored.Record.Sequence}."
                : "The stored fields are not those that were recorded.",
            stored.Hash, fromFields, differences);
        return new RecordVote(stored, record, stored.Hash,
            moved ? finding with { Class = ViolationClass.RecordsReordered } : finding);
    }

    /// <summary>The key is in no hash, but what it has to be is: a repeated request would be done again.</summary>
    private static Violation AlteredKey(StoredRecord stored, WorkflowKey key) => Modified(stored, key,
        "The stored request_key is not that of the request_id.", stored.Hash, stored.Hash,
        [new Difference("request_key", Convert.ToHexStringLower(RecordFormat.KeyOf(stored.Record)),
            Convert.ToHexStringLower(stored.RequestKey!.Value.Span))]);

    private static Violation Modified(StoredRecord stored, WorkflowKey key, string message, Hash expected, Hash actual,
        IReadOnlyList<Difference> differences) =>
        new(ViolationClass.FieldModified, key, stored.Record.Sequence, message)
        {
            LogIndex = stored.LogIndex,
            ExpectedHash = expected,
            ActualHash = actual,
            Differences = differences,
        };
}

/// <summary>An erasable part that is not what its digest says; <see cref="Actual"/> is null where its values are gone.</summary>
internal readonly record struct RecordPart(string Name, Hash Expected, Hash? Actual)
{
    /// <summary>Values of erasable parts are never told: a finding would outlive their erasure.</summary>
    public Violation Altered(WorkflowKey key, long sequence, long logIndex) =>
        new(ViolationClass.FieldModified, key, sequence, $"The values of the part \"{Name}\" are not those that were recorded.")
        {
            LogIndex = logIndex,
            ExpectedHash = Expected,
            ActualHash = Actual,
            Differences = [new Difference(Name, null, null)],
        };
}

/// <summary>Compares the values of a record's parts with its digests.</summary>
internal static class RecordParts
{
    /// <summary>The parts that are altered or gone.</summary>
    public static IReadOnlyList<RecordPart> Check(Record record)
    {
        List<RecordPart>? found = null;
        Add("person", record.PersonDigest, record.Person is { } p ? Recomputed.Of(p) : null);
        Add("content", record.ContentDigest, record.Content is { } c ? Recomputed.Of(c) : null);
        Add("snapshot", record.SnapshotDigest, record.Snapshot is { } s ? Recomputed.Of(s) : null);
        return found ?? (IReadOnlyList<RecordPart>)[];

        void Add(string name, Hash expected, Hash? actual)
        {
            if (actual is null ? !expected.IsZero : actual != expected)
                (found ??= []).Add(new RecordPart(name, expected, actual));
        }
    }
}
