using System.Globalization;
using System.Text.Json.Nodes;
using Aegis.Core;
using Aegis.Evidence;
using CsCheck;
using Hash = Aegis.Core.Hash;

namespace Aegis.Tests;

/// <summary>The tree of RFC 6962, by the vectors and by what must hold for any tree.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class MerkleTreeTests
{
    private static readonly JsonNode Proofs = Vectors.Load("merkle-proofs.json");
    private static readonly JsonNode Records = Vectors.Load("records.json");

    private static readonly Hash[] Leaves = [.. Records["chains"]!.AsArray()
        .SelectMany(chain => chain!["records"]!.AsArray())
        .OrderBy(r => (int)r!["log_index"]!)
        .Select(r => Vectors.HashOf(r!, "hash"))];

    private static IEnumerable<TestCaseData> InclusionProofs() => Cases("inclusion");

    private static IEnumerable<TestCaseData> ConsistencyProofs() => Cases("consistency");

    private static IEnumerable<TestCaseData> Cases(string kind) => Proofs[kind]!.AsArray()
        .Select(p => new TestCaseData(p).SetArgDisplayNames((string)p!["name"]!));

    [TestCaseSource(nameof(InclusionProofs))]
    public void An_inclusion_proof_decides_as_told(JsonNode proof) =>
        Assert.That(
            MerkleTree.VerifyInclusion(Number(proof, "leafIdx"), Number(proof, "treeSize"), HashOf(proof["leafHash"], "leaf"),
                Path(proof), HashOf(proof["root"], "root")),
            Is.EqualTo(!(bool)proof["wantErr"]!), (string)proof["desc"]!);

    [TestCaseSource(nameof(ConsistencyProofs))]
    public void A_consistency_proof_decides_as_told(JsonNode proof) =>
        Assert.That(
            MerkleTree.VerifyConsistency(Number(proof, "size1"), Number(proof, "size2"), HashOf(proof["root1"], "root"),
                HashOf(proof["root2"], "root"), Path(proof)),
            Is.EqualTo(!(bool)proof["wantErr"]!), (string)proof["desc"]!);

    [Test]
    public void The_proofs_are_as_many_as_promised_and_most_are_wrong_on_purpose()
    {
        JsonNode[] all = [.. Proofs["inclusion"]!.AsArray()!, .. Proofs["consistency"]!.AsArray()!];

        Assert.That((all.Length, all.Count(p => (bool)p["wantErr"]!)), Is.EqualTo((196, 184)));
    }

    [Test]
    public void The_roots_of_the_vectors_come_out_by_appending()
    {
        var frontier = new MerkleFrontier();
        var roots = new List<Hash> { frontier.Root };
        foreach (var leaf in Leaves)
        {
            frontier.Append(leaf);
            roots.Add(frontier.Root);
        }

        Assert.That(roots, Is.EqualTo(Records["roots"]!.AsArray().Select(r => Hex(r!))));
    }

    [Test]
    public void The_proofs_of_the_vectors_come_out_and_verify()
    {
        foreach (var proof in Records["inclusion"]!.AsArray())
        {
            var (index, size) = ((long)proof!["log_index"]!, (long)proof["size"]!);
            var path = InclusionPath(index, size, Leaves);
            Assert.That(path, Is.EqualTo(proof["path"]!.AsArray().Select(h => Hex(h!))));
            Assert.That(MerkleTree.VerifyInclusion((ulong)index, (ulong)size, Leaves[index], path, RootAt(size)), Is.True);
        }
        foreach (var proof in Records["consistency"]!.AsArray())
        {
            var (first, second) = ((long)proof!["first"]!, (long)proof["second"]!);
            var path = ConsistencyPath(first, second, Leaves);
            Assert.That(path, Is.EqualTo(proof["path"]!.AsArray().Select(h => Hex(h!))));
            Assert.That(MerkleTree.VerifyConsistency((ulong)first, (ulong)second, RootAt(first), RootAt(second), path), Is.True);
        }
    }

    [Test]
    public void Every_proof_of_every_small_tree_verifies_and_no_other_root_does()
    {
        for (var size = 1L; size <= Leaves.Length; size++)
        {
            for (var index = 0L; index < size; index++)
            {
                var path = InclusionPath(index, size, Leaves);
                Assert.That(MerkleTree.VerifyInclusion((ulong)index, (ulong)size, Leaves[index], path, RootAt(size)), Is.True);
                Assert.That(MerkleTree.VerifyInclusion((ulong)index, (ulong)size, Leaves[index], path, RootAt(size - 1)), Is.False);
            }
            for (var first = 1L; first <= size; first++)
            {
                var path = ConsistencyPath(first, size, Leaves);
                Assert.That(
                    MerkleTree.VerifyConsistency((ulong)first, (ulong)size, RootAt(first), RootAt(size), path), Is.True,
                    $"{first} to {size}");
            }
        }
    }

    [Test]
    public void A_proof_with_anything_changed_does_not_verify() => Gen.Select(
        Gen.Int[2, Leaves.Length], Gen.Int[0, 1000], Gen.Int[0, 1000], Gen.Int[0, 255]).Sample(sample =>
        {
            var (size, i, at, bit) = sample;
            var index = i % size;
            var path = InclusionPath(index, size, Leaves).ToArray();
            var bytes = path[at % path.Length].ToArray();
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
            path[at % path.Length] = new Hash(bytes);
            return !MerkleTree.VerifyInclusion((ulong)index, (ulong)size, Leaves[index], path, RootAt(size))
                && !MerkleTree.VerifyInclusion((ulong)index, (ulong)size, Leaves[index], path[1..], RootAt(size))
                && !MerkleTree.VerifyInclusion((ulong)index, (ulong)size, Leaves[index], [.. path, path[0]], RootAt(size));
        });

    [Test]
    public void A_frontier_survives_its_bytes_and_tells_what_it_completes()
    {
        var frontier = new MerkleFrontier();
        var completed = new List<Subtree>();
        foreach (var leaf in Leaves[..12])
            frontier.Append(leaf, (subtree, _) => completed.Add(subtree));

        var read = MerkleFrontier.TryRead(12, frontier.ToArray())!;
        using (Assert.EnterMultipleScope())
        {
            Assert.That(read.Root, Is.EqualTo(RootAt(12)));
            Assert.That(MerkleFrontier.TryRead(11, frontier.ToArray()), Is.Null);
            Assert.That(completed, Is.EqualTo(new Subtree[]
            {
                new(1, 0), new(1, 1), new(2, 0), new(1, 2), new(1, 3), new(2, 1), new(3, 0), new(1, 4), new(1, 5), new(2, 2),
            }));
        }
    }

    [Test]
    public void The_signed_head_of_the_vectors_comes_out_to_the_byte_and_verifies()
    {
        var head = Records["head"]!;
        var note = (string)head["signed_note"]!;
        var key = VerifierKey.Parse((string)head["verifier_key"]!);
        using var signing = SigningKey.Parse(Pem(Convert.FromHexString((string)head["private_seed"]!)));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(key.ToString(), Is.EqualTo((string)head["verifier_key"]!));
            Assert.That(signing.VerifierKey(key.Name).ToString(), Is.EqualTo(key.ToString()));
            Assert.That(signing.Sign(new LogHead("aegis.example/vectors", Leaves.Length, RootAt(Leaves.Length))), Is.EqualTo(note));
            Assert.That(LogHead.Verify(note, [key], Ed25519Signatures.Check),
                Is.EqualTo(new LogHead("aegis.example/vectors", Leaves.Length, RootAt(Leaves.Length))));
        }
    }

    /// <summary>An Ed25519 seed in PKCS#8 (RFC 8410).</summary>
    public static string Pem(byte[] seed) => System.Security.Cryptography.PemEncoding.WriteString("PRIVATE KEY",
        [.. Convert.FromHexString("302e020100300506032b657004220420"), .. seed]);

    private static Hash RootAt(long size) => MerkleTree.Root(Leaves.AsSpan(0, (int)size));

    private static Hash[] InclusionPath(long index, long size, Hash[] leaves) =>
        [.. MerkleTree.InclusionPath(index, size).Select(range => MerkleTree.HashOf(range, s => HashOf(s, leaves)))];

    private static Hash[] ConsistencyPath(long first, long second, Hash[] leaves) =>
        [.. MerkleTree.ConsistencyPath(first, second).Select(range => MerkleTree.HashOf(range, s => HashOf(s, leaves)))];

    private static Hash HashOf(Subtree subtree, Hash[] leaves) =>
        MerkleTree.Root(leaves.AsSpan((int)subtree.From, (int)(subtree.To - subtree.From)));

    private static ulong Number(JsonNode proof, string name) =>
        ulong.Parse(proof[name]!.ToJsonString(), CultureInfo.InvariantCulture);

    private static Hash[] Path(JsonNode proof) => proof["proof"] is JsonArray path ? [.. path.Select(h => HashOf(h, "path"))] : [];

    /// <summary>Some wrong proofs have hashes of another length: each is as good as another hash of its own.</summary>
    private static Hash HashOf(JsonNode? node, string role)
    {
        var bytes = Convert.FromBase64String((string?)node ?? "");
        return bytes.Length == Hash.Size ? new Hash(bytes) : Hash.Of([.. System.Text.Encoding.ASCII.GetBytes(role), .. bytes]);
    }

    private static Hash Hex(JsonNode node) => new(Convert.FromHexString((string)node!));
}
