using System.Text.Json.Nodes;
using Aegis.Core;

namespace Aegis.Tests;

/// <summary>What must be refused is refused, and by name.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class RefusedVectorTests
{
    private static readonly JsonNode Refused = Vectors.Load("refused.json");

    private static IEnumerable<TestCaseData> Cases(string of) => Refused[of]!.AsArray()
        .Select(entry => new TestCaseData(entry).SetArgDisplayNames(Vectors.Text(entry!, "why")));

    [Test]
    public void The_file_is_what_is_made_here()
    {
        var made = RefusedVectors.Make();
        if (Environment.GetEnvironmentVariable("AEGIS_WRITE_VECTORS") is { Length: > 0 })
            File.WriteAllText(Repository.PathOf("tests/vectors/refused.json"), made);

        Assert.That(File.ReadAllText(Repository.PathOf("tests/vectors/refused.json")), Is.EqualTo(made));
    }

    [TestCaseSource(nameof(Cases), new object[] { "encodings" })]
    public void An_encoding_that_is_not_a_record_is_refused(JsonNode entry) =>
        Assert.That(() => RecordFormat.Decode(Convert.FromHexString(Vectors.Text(entry, "encoded_record"))),
            Throws.TypeOf<FormatException>());

    [TestCaseSource(nameof(Cases), new object[] { "metadata" })]
    public void Metadata_with_a_key_twice_is_refused(JsonNode entry)
    {
        var entries = entry["entries"]!.AsArray().Select(e => KeyValuePair.Create((string)e![0]!, (string)e[1]!));

        Assert.That(() => new Metadata(entries), Throws.ArgumentException);
    }

    [TestCaseSource(nameof(Cases), new object[] { "chains" })]
    public void A_chain_that_breaks_a_rule_is_refused_at_the_record_that_does(JsonNode entry)
    {
        var violations = Vectors.Verify(entry);

        Assert.That(violations.Select(v => v.Sequence).FirstOrDefault(), Is.EqualTo((long)entry["first_wrong_sequence"]!),
            string.Join(Environment.NewLine, violations));
    }

    [TestCaseSource(nameof(Cases), new object[] { "chains" })]
    public void Its_records_are_sound_in_themselves(JsonNode entry)
    {
        foreach (var record in entry["records"]!.AsArray())
        {
            var stored = Vectors.RecordOf(record!);
            Assert.That(Convert.ToHexStringLower(stored.Encoded.Span), Is.EqualTo(Vectors.Text(record!, "encoded_record")));
            Assert.That(stored.IsConsistent(), Is.True);
        }
    }
}
