using Aegis.Core;
using Aegis.Evidence;

namespace Aegis.Tests;

/// <summary>The file of the log's key: made once, for its owner's eyes alone, and refused when it is something else.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class SigningKeyTests
{
    [Test]
    public void A_new_key_is_readable_by_its_owner_alone_and_leaves_no_draft()
    {
        using var directory = new TemporaryDirectory("key");
        var path = Path.Combine(directory.Path, "below", "signing-key.pem");

        using var key = SigningKey.LoadOrCreate(path, out var isNew);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(isNew, Is.True);
            if (!OperatingSystem.IsWindows())
                Assert.That(File.GetUnixFileMode(path), Is.EqualTo(UnixFileMode.UserRead | UnixFileMode.UserWrite));
            Assert.That(Directory.GetFiles(Path.GetDirectoryName(path)!), Has.Length.EqualTo(1));
        }
    }

    [Test]
    public async Task Servers_that_start_at_once_agree_on_one_key()
    {
        using var directory = new TemporaryDirectory("key");
        for (var round = 0; round < 100; round++)
        {
            var path = Path.Combine(directory.Path, $"signing-key-{round}.pem");

            var keys = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
            {
                using var key = SigningKey.LoadOrCreate(path, out var isNew);
                return (Key: key.VerifierKey("log").ToString(), IsNew: isNew);
            })));

            using (Assert.EnterMultipleScope())
            {
                Assert.That(keys.Select(k => k.Key).Distinct().Count(), Is.EqualTo(1));
                Assert.That(keys.Count(k => k.IsNew), Is.EqualTo(1));
            }
        }
    }

    [Test]
    public void A_key_as_openssl_writes_it_is_taken()
    {
        // RFC 8410, section 10.3.
        const string pem =
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

        using var key = SigningKey.Parse(pem);
        var head = new LogHead("aegis.example/log", 0, MerkleTree.EmptyRoot);

        Assert.That(LogHead.Verify(key.Sign(head), [key.VerifierKey("aegis.example/log")], Ed25519Signatures.Check), Is.EqualTo(head));
    }

    [TestCase("")]
    [TestCase("no PEM")]
    [TestCase("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n")]
    [TestCase("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")]
    public void Anything_else_is_no_key(string text) =>
        Assert.That(() => SigningKey.Parse(text), Throws.TypeOf<FormatException>());

    [Test]
    public void A_signature_under_another_name_of_the_same_key_is_another_signature()
    {
        using var key = SigningKey.Create();
        var note = key.Sign(new LogHead("log", 1, MerkleTree.EmptyRoot));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(LogHead.Verify(note, [key.VerifierKey("log/2")], Ed25519Signatures.Check), Is.Null);
            Assert.That(LogHead.Verify(note, [key.VerifierKey("log/2"), key.VerifierKey("log")], Ed25519Signatures.Check), Is.Not.Null);
            Assert.That(LogHead.Verify(note.Replace("\n1\n", "\n2\n", StringComparison.Ordinal), [key.VerifierKey("log")],
                Ed25519Signatures.Check), Is.Null);
        }
    }

    [Test]
    public void Only_a_key_of_the_log_that_a_note_names_signs_for_it()
    {
        using var ours = SigningKey.Create();
        using var others = SigningKey.Create();
        VerifierKey[] trusted = [ours.VerifierKey("log"), others.VerifierKey("other")];
        var head = new LogHead("log", 1, MerkleTree.EmptyRoot);
        var statement = new WorkflowStatement("log", 1, new WorkflowKey("default", "w"), 1, Hash.Of("x"u8));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(LogHead.Verify(others.Sign("other", head.Text), trusted, Ed25519Signatures.Check), Is.Null);
            Assert.That(WorkflowStatement.Verify(others.Sign("other", statement.Text), trusted, Ed25519Signatures.Check), Is.Null);
            Assert.That(TrustedHead.Verify(others.Sign("other", head.Text), trusted), Is.Null);
            Assert.That(LogHead.Verify(ours.Sign("log", head.Text), trusted, Ed25519Signatures.Check), Is.EqualTo(head));
            Assert.That(LogHead.Verify(WithSignature(ours.Sign("log", head.Text), others.Sign("other", head.Text)), trusted,
                Ed25519Signatures.Check), Is.EqualTo(head), "A witness's signature besides is none the worse.");
            Assert.That(LogHead.Verify(WithSignature(ours.Sign("log", head.Text), others.Sign("other", "x\n")), trusted,
                Ed25519Signatures.Check), Is.Null, "Unless it is known and wrong.");
        }

        static string WithSignature(string note, string of) => note + of[(of.IndexOf("\n\n", StringComparison.Ordinal) + 2)..];
    }

    [TestCase("log", "log/2")]
    [TestCase("log/2", "log/3")]
    [TestCase("log/9", "log/10")]
    [TestCase("aegis/4f", "aegis/4f/2")]
    public void Generations_of_a_log_are_counted_in_its_name(string name, string next) =>
        Assert.That(LogName.Next(name), Is.EqualTo(next));
}
