using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;
using Google.Protobuf.Collections;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Every record is under a signed head when its write is answered, and a client can check it by itself.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class LogTests(Database database) : IAsyncDisposable
{
    private TestServer _server = null!;

    [SetUp]
    public async Task StartAsync() => _server = await TestServer.StartAsync(database);

    public async ValueTask DisposeAsync()
    {
        if (_server is not null)
            await _server.DisposeAsync();
    }

    [Test]
    public async Task A_receipt_proves_its_record_under_a_signed_head()
    {
        for (var i = 0; i < 20; i++)
        {
            var started = await _server.Workflows.StartWorkflowAsync(Start($"w{i}"));
            var receipt = started.Receipt;
            var head = Verified(receipt.LogHead);

            Assert.That(
                MerkleTree.VerifyInclusion(receipt.LogIndex, (ulong)head.Size, HashOf(receipt.RecordHash),
                    Hashes(receipt.InclusionPath), head.Root),
                Is.True);
        }
    }

    [Test]
    public async Task A_receipt_leads_from_the_size_that_the_caller_knows()
    {
        var first = Verified((await _server.Workflows.StartWorkflowAsync(Start("first"))).Receipt.LogHead);
        for (var i = 0; i < 5; i++)
            await _server.Workflows.StartWorkflowAsync(Start($"between {i}"));
        var request = Start("last");
        request.KnownLogSize = (ulong)first.Size;

        var receipt = (await _server.Workflows.StartWorkflowAsync(request)).Receipt;

        var last = Verified(receipt.LogHead);
        Assert.That(
            MerkleTree.VerifyConsistency((ulong)first.Size, (ulong)last.Size, first.Root, last.Root,
                Hashes(receipt.ConsistencyPath)),
            Is.True);
    }

    [Test]
    public async Task A_replay_is_proven_under_the_current_head()
    {
        var request = Start("w");
        request.RequestId = "once";
        var first = await _server.Workflows.StartWorkflowAsync(request);
        await _server.Workflows.StartWorkflowAsync(Start("other"));

        var again = await _server.Workflows.StartWorkflowAsync(request);

        var head = Verified(again.Receipt.LogHead);
        using (Assert.EnterMultipleScope())
        {
            Assert.That(again.Replayed, Is.True);
            Assert.That(head.Size, Is.GreaterThan(Verified(first.Receipt.LogHead).Size));
            Assert.That(
                MerkleTree.VerifyInclusion(again.Receipt.LogIndex, (ulong)head.Size, HashOf(again.Receipt.RecordHash),
                    Hashes(again.Receipt.InclusionPath), head.Root),
                Is.True);
        }
    }

    [Test]
    public async Task Every_record_is_proven_at_every_size_past_several_tiles()
    {
        await Task.WhenAll(Enumerable.Range(0, 600).Select(i => _server.Workflows.StartWorkflowAsync(Start($"w{i}")).ResponseAsync));
        var head = await _server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest());
        var verified = Verified(head.SignedNote);
        Assert.That((head.Size, HashOf(head.Root)), Is.EqualTo(((ulong)verified.Size, verified.Root)));

        foreach (var i in new[] { 0, 1, 100, 254, 255, 256, 400, 599 })
        {
            var proof = await _server.Integrity.GetInclusionProofAsync(
                new Pb.GetInclusionProofRequest { WorkflowId = $"w{i}", Sequence = 1 });
            Assert.That(proof.SignedNote, Is.EqualTo(head.SignedNote));
            Assert.That(
                MerkleTree.VerifyInclusion(proof.LogIndex, proof.LogSize, HashOf(proof.RecordHash), Hashes(proof.Path), verified.Root),
                Is.True);
        }
        foreach (var size in new ulong[] { 1, 2, 100, 255, 256, 257, 511, 512, 513, 600, 601 })
        {
            var proof = await _server.Integrity.GetConsistencyProofAsync(new Pb.GetConsistencyProofRequest { FirstSize = size });
            Assert.That(proof.SecondSize, Is.EqualTo(head.Size));
            if (size > 1)
                continue;
            // Of size 1 the root is the first record's hash.
            var first = await _server.Integrity.GetInclusionProofAsync(
                new Pb.GetInclusionProofRequest { Namespace = "aegis.system", WorkflowId = "log", Sequence = 1, LogSize = 1 });
            Assert.That(
                MerkleTree.VerifyConsistency(size, head.Size, HashOf(first.RecordHash), verified.Root, Hashes(proof.Path)), Is.True);
        }
    }

    [Test]
    public async Task A_record_that_is_gone_does_not_stop_the_writes_where_its_tile_would_be_full()
    {
        await _server.Workflows.StartWorkflowAsync(Start("gone"));
        await Tampering.RunAsync(_server, "DELETE FROM record WHERE workflow_id = 'gone'");

        await Task.WhenAll(Enumerable.Range(0, 300).Select(i => _server.Workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest { WorkflowId = $"w{i}", WorkflowType = "order", InitialState = "NEW" }).ResponseAsync));

        Assert.That(await Tampering.CountAsync(_server, "SELECT count(*) FROM log_tile"), Is.Zero);
    }

    private static Pb.StartWorkflowRequest Start(string id) => new()
    {
        WorkflowId = id,
        WorkflowType = "order",
        InitialState = "NEW",
        IncludeProof = true,
    };

    private static LogHead Verified(string note)
    {
        var logId = note.Split('\n')[0];
        return LogHead.Verify(note, [SharedKey.Key.VerifierKey(logId)], Ed25519Signatures.Check)
            ?? throw new AssertionException($"Not a signed head: {note}");
    }

    private static Hash[] Hashes(RepeatedField<ByteString> path) => [.. path.Select(HashOf)];

    private static Hash HashOf(ByteString bytes) => new(bytes.Span);
}
