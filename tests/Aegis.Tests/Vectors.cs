using System.Globalization;
using System.Text.Json.Nodes;
using Aegis.Core;

namespace Aegis.Tests;

/// <summary>The golden chains of tests/vectors/records.json, as Core's values.</summary>
internal static class Vectors
{
    public static JsonNode Load(string file) =>
        JsonNode.Parse(File.ReadAllText(Path.Combine(Repository.Root, "tests", "vectors", file)))!;

    public static StoredRecord RecordOf(JsonNode entry, long logIndex = 0)
    {
        var fields = entry["record"]!;
        var record = new Record
        {
            LogId = Text(fields, "log_id"),
            Namespace = Text(fields, "namespace"),
            WorkflowId = Text(fields, "workflow_id"),
            Sequence = Number(fields, "sequence"),
            Kind = (RecordKind)(int)fields["kind"]!,
            WorkflowType = Text(fields, "workflow_type"),
            FromState = Text(fields, "from_state"),
            ToState = Text(fields, "to_state"),
            Status = (WorkflowStatus)(int)fields["status"]!,
            RequestId = Text(fields, "request_id"),
            LeaseEpoch = Number(fields, "lease_epoch"),
            OccurredAt = Number(fields, "occurred_at"),
            RecordedAt = Number(fields, "recorded_at"),
            PersonDigest = HashOf(fields, "person_digest"),
            ContentDigest = HashOf(fields, "content_digest"),
            SnapshotDigest = HashOf(fields, "snapshot_digest"),
            PreviousHash = HashOf(fields, "previous_hash"),
            Person = entry["person"] is { } person
                ? new Person(SaltOf(person), Text(person, "actor"), Text(person, "principal"))
                : null,
            Content = entry["content"] is { } content
                ? new Content(SaltOf(content), Text(content, "reason"), new Metadata(content["metadata"]!.AsObject()
                    .Select(e => KeyValuePair.Create(e.Key, (string)e.Value!))))
                : null,
            Snapshot = entry["snapshot"] is { } snapshot
                ? new SnapshotPart(SaltOf(snapshot), Text(snapshot, "content_type"), Number(snapshot, "size"),
                    HashOf(snapshot, "sha256"))
                : null,
        };
        return new StoredRecord(record, RecordFormat.Encode(record), HashOf(entry, "hash"), logIndex);
    }

    /// <summary>The bytes of the record's snapshot; null when it has none or they were pruned.</summary>
    public static byte[]? BodyOf(JsonNode entry) =>
        (string?)entry["snapshot"]?["body"] is { } hex ? Convert.FromHexString(hex) : null;

    /// <summary>What verification finds in a chain of a file, its snapshots included.</summary>
    public static IReadOnlyList<Violation> Verify(JsonNode chain)
    {
        var records = chain["records"]!.AsArray();
        var verifier = new ChainVerifier(RecordOf(records[0]!).Record.Key);
        foreach (var entry in records)
        {
            var stored = RecordOf(entry!);
            verifier.Add(stored);
            verifier.AddSnapshot(stored, BodyOf(entry!) is { } body ? (Hash.Of(body), body.Length) : null);
        }
        return verifier.Complete(null);
    }

    public static string Text(JsonNode node, string name) => (string)node[name]!;

    private static long Number(JsonNode node, string name) => long.Parse(Text(node, name), CultureInfo.InvariantCulture);

    public static Hash HashOf(JsonNode node, string name) => new(Convert.FromHexString(Text(node, name)));

    private static Bytes16 SaltOf(JsonNode node) => new(Convert.FromHexString(Text(node, "salt")));
}
