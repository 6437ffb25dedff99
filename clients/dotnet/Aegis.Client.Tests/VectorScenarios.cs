using System.Globalization;
using System.Text.Json.Nodes;
using Aegis.Core;
using Aegis.Evidence;
using Aegis.Tests;

namespace Aegis.Client.Tests;

/// <summary>What every implementation has to compute alike, through what the client computes with.</summary>
public sealed class VectorScenarios
{
    private static readonly JsonNode Records = Vectors.Load("records.json");
    private static readonly JsonNode Proofs = Vectors.Load("merkle-proofs.json");

    [Test]
    public void Vectors_records()
    {
        var entries = Records["chains"]!.AsArray().SelectMany(chain => chain!["records"]!.AsArray()).Select(e => e!).ToList();
        using (Assert.EnterMultipleScope())
        {
            foreach (var entry in entries)
            {
                // As a message and back, which is the way that records come to a client.
                var stored = Vectors.RecordOf(entry, (long)entry["log_index"]!).ToPb().ToStoredRecord();
                Assert.That(Convert.ToHexStringLower(stored.Encoded.Span), Is.EqualTo((string)entry["encoded_record"]!));
                Assert.That(Answers.Record(stored.ToPb(), stored.Record.Key).Hash, Is.EqualTo(Vectors.HashOf(entry, "hash")));
            }
            foreach (var chain in Records["wrong"]!.AsArray())
                Assert.That(Vectors.Verify(chain!).Select(v => v.Sequence).FirstOrDefault(), Is.EqualTo((long)chain!["first_wrong_sequence"]!), (string)chain["why"]!);
        }
        Hash[] leaves = [.. entries.OrderBy(e => (int)e["log_index"]!).Select(e => Vectors.HashOf(e, "hash"))];
        Hash[] roots = [.. Records["roots"]!.AsArray().Select(Hex)];
        for (var size = 0; size < roots.Length; size++)
            Assert.That(MerkleTree.Root(leaves.AsSpan(0, size)), Is.EqualTo(roots[size]));
        foreach (var p in Records["inclusion"]!.AsArray().Select(p => p!))
        {
            var (index, size) = ((int)p["log_index"]!, (int)p["size"]!);
            Assert.That(MerkleTree.VerifyInclusion((ulong)index, (ulong)size, leaves[index], [.. p["path"]!.AsArray().Select(Hex)], roots[size]));
        }
        foreach (var p in Records["consistency"]!.AsArray().Select(p => p!))
        {
            var (first, second) = ((int)p["first"]!, (int)p["second"]!);
            Assert.That(MerkleTree.VerifyConsistency((ulong)first, (ulong)second, roots[first], roots[second], [.. p["path"]!.AsArray().Select(Hex)]));
        }
        var head = Records["head"]!;
        var key = VerifierKey.Parse((string)head["verifier_key"]!);
        Assert.That(LogHead.Verify((string)head["signed_note"]!, [key], Ed25519Signatures.Check)?.Size, Is.EqualTo((long)head["size"]!));
    }

    [Test]
    public void Vectors_merkle_proofs()
    {
        using (Assert.EnterMultipleScope())
        {
            foreach (var p in Proofs["inclusion"]!.AsArray().Select(p => p!))
            {
                Assert.That(MerkleTree.VerifyInclusion(Number(p, "leafIdx"), Number(p, "treeSize"), HashOf(p, "leafHash"), PathOf(p), HashOf(p, "root")),
                    Is.EqualTo(!(bool)p["wantErr"]!), (string)p["name"]!);
            }
            foreach (var p in Proofs["consistency"]!.AsArray().Select(p => p!))
            {
                Assert.That(MerkleTree.VerifyConsistency(Number(p, "size1"), Number(p, "size2"), HashOf(p, "root1"), HashOf(p, "root2"), PathOf(p)),
                    Is.EqualTo(!(bool)p["wantErr"]!), (string)p["name"]!);
            }
        }
        Assert.That(Proofs["inclusion"]!.AsArray().Count + Proofs["consistency"]!.AsArray().Count, Is.EqualTo(196));
    }

    private static ulong Number(JsonNode node, string name) => ulong.Parse(node[name]!.ToString(), CultureInfo.InvariantCulture);

    private static Hash Hex(JsonNode? node) => new(Convert.FromHexString((string)node!));

    private static Hash HashOf(JsonNode node, string name) => Of(node[name], name.TrimEnd('1', '2'));

    private static Hash[] PathOf(JsonNode node) => node["proof"] is JsonArray path ? [.. path.Select(p => Of(p, "path"))] : [];

    /// <summary>In the place of what is no hash stands one that no other place has.</summary>
    private static Hash Of(JsonNode? base64, string place)
    {
        var bytes = Convert.FromBase64String((string?)base64 ?? "");
        return bytes.Length == Hash.Size ? new Hash(bytes) : Hash.Of([.. bytes, .. System.Text.Encoding.UTF8.GetBytes(place)]);
    }
}
