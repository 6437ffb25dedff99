using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Single changes of one stored record, such as an owner of the database could make.</summary>
internal static class Alterations
{
    /// <summary>Each changes one field of the record: the column, the encoded bytes, or values of a part.</summary>
    public static IEnumerable<(string Name, StoredRecord Altered)> Of(StoredRecord stored)
    {
        foreach (var (name, record) in Fields(stored.Record))
        {
            // The column alone, the bytes alone, and both without the hash.
            yield return ($"column {name}", stored with { Record = record });
            yield return ($"encoded {name}", FromBytes(stored, RecordFormat.Encode(record)));
            yield return ($"column and encoded {name}", stored with { Record = record, Encoded = RecordFormat.Encode(record) });
        }
        yield return ("column to_state, beyond what can be encoded",
            stored with { Record = stored.Record with { ToState = new string('x', 70_000) } });
        foreach (var (name, record) in Parts(stored.Record))
            yield return ($"values of {name}", stored with { Record = record });
        yield return ("hash", stored with { Hash = Hash.Of("another"u8) });
        yield return ("encoded, cut short", FromBytes(stored, stored.Encoded[..^1].ToArray()));
        yield return ("encoded, one byte more", FromBytes(stored, [.. stored.Encoded.ToArray(), 0]));
        yield return ("encoded, another label", FromBytes(stored, Flip(stored.Encoded, 15)));
    }

    private static IEnumerable<(string Name, Record Record)> Fields(Record r)
    {
        yield return ("log_id", r with { LogId = r.LogId + "x" });
        yield return ("namespace", r with { Namespace = r.Namespace + "x" });
        yield return ("workflow_id", r with { WorkflowId = r.WorkflowId + "x" });
        yield return ("kind", r with { Kind = r.Kind == RecordKind.Transition ? RecordKind.Checkpoint : RecordKind.Transition });
        yield return ("workflow_type", r with { WorkflowType = r.WorkflowType + "x" });
        yield return ("from_state", r with { FromState = r.FromState + "x" });
        yield return ("to_state", r with { ToState = r.ToState + "x" });
        yield return ("status", r with { Status = r.Status == WorkflowStatus.Failed ? WorkflowStatus.Running : WorkflowStatus.Failed });
        yield return ("request_id", r with { RequestId = r.RequestId + "x" });
        yield return ("lease_epoch", r with { LeaseEpoch = r.LeaseEpoch + 1 });
        yield return ("occurred_at", r with { OccurredAt = r.OccurredAt + 1 });
        yield return ("recorded_at", r with { RecordedAt = r.RecordedAt + 1 });
    }

    private static IEnumerable<(string Name, Record Record)> Parts(Record r)
    {
        if (r.Person is { } person)
        {
            yield return ("actor", r with { Person = person with { Actor = person.Actor + "x" } });
            yield return ("principal", r with { Person = person with { Principal = person.Principal + "x" } });
            yield return ("person, its salt", r with { Person = person with { Salt = default } });
            yield return ("person, gone", r with { Person = null });
        }
        yield return ("content", r with
        {
            Content = r.Content is { } content
                ? content with { Metadata = new Metadata([.. content.Metadata, new("new", "entry")]) }
                : new Content(default, "put in", Metadata.Empty),
        });
        if (r.Content is not null)
            yield return ("content, gone", r with { Content = null });
        yield return ("snapshot", r with
        {
            Snapshot = r.Snapshot is { } snapshot
                ? snapshot with { Size = snapshot.Size + 1 }
                : new SnapshotPart(default, "put in", 0, Hash.Of([])),
        });
        if (r.Snapshot is not null)
            yield return ("snapshot, gone", r with { Snapshot = null });
    }

    /// <summary>The digests and the link have no columns: they are read from the encoded bytes, as a store does.</summary>
    private static StoredRecord FromBytes(StoredRecord stored, byte[] encoded)
    {
        Record? decoded = null;
        try
        {
            decoded = RecordFormat.Decode(encoded);
        }
        catch (FormatException)
        {
            // As unreadable as the test wants it.
        }
        return stored with
        {
            Encoded = encoded,
            Record = stored.Record with
            {
                PersonDigest = decoded?.PersonDigest ?? default,
                ContentDigest = decoded?.ContentDigest ?? default,
                SnapshotDigest = decoded?.SnapshotDigest ?? default,
                PreviousHash = decoded?.PreviousHash ?? default,
            },
        };
    }

    private static byte[] Flip(ReadOnlyMemory<byte> bytes, int at)
    {
        var flipped = bytes.ToArray();
        flipped[at] ^= 1;
        return flipped;
    }
}
