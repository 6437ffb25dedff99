using System.Text.Json.Nodes;
using Aegis.Core;

namespace Aegis.Tests;

/// <summary>What is hashed, byte for byte: the vectors that every implementation has to meet.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class VectorTests
{
    private static readonly JsonNode Records = Vectors.Load("records.json");

    private static IEnumerable<TestCaseData> Chains() => Records["chains"]!.AsArray()
        .Select(chain => new TestCaseData(chain).SetArgDisplayNames(Vectors.Text(chain!, "name")));

    private static IEnumerable<TestCaseData> WrongChains() => Records["wrong"]!.AsArray()
        .Select(chain => new TestCaseData(chain).SetArgDisplayNames(Vectors.Text(chain!, "why")));

    [TestCaseSource(nameof(Chains))]
    public void Records_and_parts_encode_to_the_same_bytes(JsonNode chain)
    {
        foreach (var entry in chain["records"]!.AsArray())
        {
            var stored = Vectors.RecordOf(entry!);
            var record = stored.Record;
            using (Assert.EnterMultipleScope())
            {
                Assert.That(Hex(stored.Encoded.ToArray()), Is.EqualTo(Vectors.Text(entry!, "encoded_record")));
                Assert.That(Hex(record.Person is null ? [] : RecordFormat.Encode(record.Person)),
                    Is.EqualTo(Vectors.Text(entry!, "encoded_person")));
                Assert.That(Hex(record.Content is null ? [] : RecordFormat.Encode(record.Content)),
                    Is.EqualTo(Vectors.Text(entry!, "encoded_content")));
                Assert.That(Hex(record.Snapshot is null ? [] : RecordFormat.Encode(record.Snapshot)),
                    Is.EqualTo(Vectors.Text(entry!, "encoded_snapshot")));
                Assert.That(RecordFormat.HashOf(stored.Encoded.Span), Is.EqualTo(stored.Hash));
                Assert.That(RecordFormat.PartsMatch(record), Is.True);
            }
        }
    }

    [TestCaseSource(nameof(Chains))]
    public void Records_decode_to_the_same_fields(JsonNode chain)
    {
        foreach (var entry in chain["records"]!.AsArray())
        {
            var stored = Vectors.RecordOf(entry!);

            var decoded = RecordFormat.Decode(stored.Encoded.Span);

            Assert.That(decoded, Is.EqualTo(stored.Record with { Person = null, Content = null, Snapshot = null }));
        }
    }

    [TestCaseSource(nameof(Chains))]
    public void Chains_verify_with_their_snapshots(JsonNode chain)
    {
        var records = chain["records"]!.AsArray();
        var verifier = new ChainVerifier(Vectors.RecordOf(records[0]!).Record.Key);
        foreach (var entry in records)
        {
            var stored = Vectors.RecordOf(entry!, (long)entry!["log_index"]!);
            verifier.Add(stored);
            verifier.AddSnapshot(stored, Vectors.BodyOf(entry) is { } body ? (Hash.Of(body), body.Length) : null);
        }

        var violations = verifier.Complete(null);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(violations, Is.Empty);
            Assert.That(verifier.RecordsVerified, Is.EqualTo(records.Count));
            Assert.That(verifier.HeadHash, Is.EqualTo(Vectors.RecordOf(records[^1]!).Hash));
        }
    }

    [TestCaseSource(nameof(WrongChains))]
    public void Wrong_chains_are_refused_at_the_first_wrong_record(JsonNode chain)
    {
        var records = chain["records"]!.AsArray().Select(entry => Vectors.RecordOf(entry!)).ToList();
        var verifier = new ChainVerifier(records[0].Record.Key);
        foreach (var record in records)
            verifier.Add(record);

        var violations = verifier.Complete(null);

        Assert.That(violations.Select(v => v.Sequence).FirstOrDefault(), Is.EqualTo((long)chain["first_wrong_sequence"]!),
            string.Join(Environment.NewLine, violations));
    }

    [Test]
    public void The_chains_are_one_log_without_a_gap()
    {
        var indexes = Records["chains"]!.AsArray()
            .SelectMany(chain => chain!["records"]!.AsArray()).Select(entry => (int)entry!["log_index"]!);

        Assert.That(indexes, Is.EqualTo(Enumerable.Range(0, 50)));
    }

    private static string Hex(byte[] bytes) => Convert.ToHexStringLower(bytes);
}
