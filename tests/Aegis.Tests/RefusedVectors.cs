using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Aegis.Core;

namespace Aegis.Tests;

/// <summary>
/// Makes tests/vectors/refused.json: what every implementation must refuse. The file is kept, so that other languages can
/// read it; a test compares it with what is made here, and writes it anew where AEGIS_WRITE_VECTORS is set.
/// </summary>
internal static class RefusedVectors
{
    private const string Reading =
        "encodings: decoding encoded_record must fail. metadata: entries that no content may have. chains: verification must "
        + "name first_wrong_sequence as the first record that is wrong; every record carries the hash of its own fields, so "
        + "only the rules can tell. Hashes, salts, bodies and encoded bytes in hex; u64 as decimal strings; null = part erased "
        + "or absent, and for a body: the bytes are gone.";

    private static readonly JsonSerializerOptions Format = new()
    {
        WriteIndented = true,
        IndentSize = 1,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    public static string Make() => new JsonObject
    {
        ["spec"] = "record-format v1",
        ["reading"] = Reading,
        ["encodings"] = new JsonArray([.. Encodings().Select(e => new JsonObject
        {
            ["why"] = e.Why,
            ["encoded_record"] = Convert.ToHexStringLower(e.Encoded),
        })]),
        ["metadata"] = new JsonArray([.. RefusedMetadata().Select(m => new JsonObject
        {
            ["why"] = m.Why,
            ["entries"] = new JsonArray([.. m.Entries.Select(e => new JsonArray(e.Key, e.Value))]),
        })]),
        ["chains"] = new JsonArray([.. RefusedChains.All().Select(c => new JsonObject
        {
            ["why"] = c.Why,
            ["first_wrong_sequence"] = c.FirstWrong,
            ["records"] = new JsonArray([.. c.Records.Select(r => EntryOf(r.Record, r.Body))]),
        })]),
    }.ToJsonString(Format) + "\n";

    private static IEnumerable<(string Why, byte[] Encoded)> Encodings()
    {
        var sound = RefusedChains.Sound().Encoded.ToArray();
        yield return ("no bytes at all", []);
        yield return ("only the label", sound[..16]);
        yield return ("ends within a length", sound[..17]);
        yield return ("ends within a name", sound[..25]);
        yield return ("ends before the last hash", sound[..^32]);
        yield return ("the last byte is missing", sound[..^1]);
        yield return ("a byte follows the record", [.. sound, 0]);
        yield return ("the label of version 2, with the fields of version 1", With(sound, 15, (byte)'2'));
        yield return ("the label of another structure", [15, .. "aegis/person/v1"u8, .. sound[16..]]);
        yield return ("the label's length is another", With(sound, 0, 14));
        yield return ("a name longer than the record", With(sound, 16, 0xff));
        foreach (var (name, at) in new[] { ("sequence", Sequence), ("lease_epoch", LeaseEpoch), ("occurred_at", LeaseEpoch + 8), ("recorded_at", LeaseEpoch + 16) })
            yield return ($"{name} is 2^63", With(sound, at, 0x80));
        yield return ("sequence is 2^64 - 1", [.. sound[..Sequence], .. Enumerable.Repeat((byte)0xff, 8), .. sound[(Sequence + 8)..]]);
        foreach (var kind in new byte[] { 0, 5, 255 })
            yield return ($"kind {kind} is unknown", With(sound, Sequence + 8, kind));
        foreach (var status in new byte[] { 0, 6, 255 })
            yield return ($"status {status} is unknown", With(sound, Status, status));
        yield return ("not UTF-8: a lone continuation byte", With(sound, 18, 0x80));
        yield return ("not UTF-8: an overlong form", With(sound, 18, 0xc0, 0x80));
        yield return ("not UTF-8: a surrogate", With(sound, 18, 0xed, 0xa0, 0x80));
        yield return ("not UTF-8: beyond U+10FFFF", With(sound, 18, 0xf4, 0x90, 0x80, 0x80));
        yield return ("not UTF-8: a character that ends early", With(sound, Sequence - 1, 0xe2));
    }

    // Where fields are in the sound record: log_id "aegis.example/refused", namespace "default", workflow_id "wf",
    // workflow_type "order", from_state "", to_state "NEW", request_id "".
    private const int Sequence = 16 + (2 + 21) + (2 + 7) + (2 + 2);
    private const int Status = Sequence + 9 + (2 + 5) + 2 + (2 + 3);
    private const int LeaseEpoch = Status + 1 + 2;

    private static IEnumerable<(string Why, KeyValuePair<string, string>[] Entries)> RefusedMetadata()
    {
        yield return ("a key occurs twice", [new("k", "1"), new("k", "2")]);
        yield return ("a key occurs twice, with the same value", [new("k", "1"), new("k", "1")]);
        yield return ("a key occurs twice, others between", [new("k", "1"), new("a", ""), new("😀", ""), new("k", "2")]);
        yield return ("the empty key occurs twice", [new("", "1"), new("", "2")]);
    }

    private static byte[] With(byte[] bytes, int at, params byte[] others)
    {
        var changed = bytes.ToArray();
        others.CopyTo(changed, at);
        return changed;
    }

    private static JsonObject EntryOf(StoredRecord stored, byte[]? body)
    {
        var r = stored.Record;
        return new JsonObject
        {
            ["record"] = new JsonObject
            {
                ["log_id"] = r.LogId,
                ["namespace"] = r.Namespace,
                ["workflow_id"] = r.WorkflowId,
                ["sequence"] = Refusal.Text(r.Sequence),
                ["kind"] = (int)r.Kind,
                ["workflow_type"] = r.WorkflowType,
                ["from_state"] = r.FromState,
                ["to_state"] = r.ToState,
                ["status"] = (int)r.Status,
                ["request_id"] = r.RequestId,
                ["lease_epoch"] = Refusal.Text(r.LeaseEpoch),
                ["occurred_at"] = Refusal.Text(r.OccurredAt),
                ["recorded_at"] = Refusal.Text(r.RecordedAt),
                ["person_digest"] = r.PersonDigest.ToString(),
                ["content_digest"] = r.ContentDigest.ToString(),
                ["snapshot_digest"] = r.SnapshotDigest.ToString(),
                ["previous_hash"] = r.PreviousHash.ToString(),
            },
            ["person"] = r.Person is { } p
                ? new JsonObject { ["salt"] = Hex(p.Salt), ["actor"] = p.Actor, ["principal"] = p.Principal }
                : null,
            ["content"] = r.Content is { } c
                ? new JsonObject
                {
                    ["salt"] = Hex(c.Salt),
                    ["reason"] = c.Reason,
                    ["metadata"] = new JsonObject(c.Metadata.Select(e => KeyValuePair.Create(e.Key, (JsonNode?)e.Value))),
                }
                : null,
            ["snapshot"] = r.Snapshot is { } s
                ? new JsonObject
                {
                    ["salt"] = Hex(s.Salt),
                    ["content_type"] = s.ContentType,
                    ["size"] = Refusal.Text(s.Size),
                    ["sha256"] = s.Sha256.ToString(),
                    ["body"] = body is null ? null : Convert.ToHexStringLower(body),
                }
                : null,
            ["encoded_record"] = Convert.ToHexStringLower(stored.Encoded.Span),
            ["hash"] = stored.Hash.ToString(),
        };
    }

    private static string Hex(Bytes16 salt) => Convert.ToHexStringLower(salt.ToArray());
}
