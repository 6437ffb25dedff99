using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Tests;

// Reading for verification.
public abstract partial class LedgerStoreContract
{
    private async Task LogToAuditAsync()
    {
        await WriteAsync(Store,
            Ask.Start("w", "start", Ask.Parts("alice", "why", Ask.Metadata(("k", "v")))),
            Ask.Move("w", "NEW", "PAID", "pay", Ask.Parts("bob", snapshot: "state"u8.ToArray())));
        await WriteAsync(Store, Ask.Start("other"), Ask.Move("w", "PAID", "SENT"));
    }

    [Test]
    public async Task The_log_is_read_for_verification_as_it_is_stored()
    {
        await LogToAuditAsync();

        var votes = await Store.ReadLogAsync(0, long.MaxValue, 100, default);

        var log = votes.Select(v => v.Stored).ToList();
        using (Assert.EnterMultipleScope())
        {
            Assert.That(log.Select(r => r.LogIndex), Is.EqualTo(Enumerable.Range(0, 5)));
            Assert.That(log.Select(r => r.Hash), Is.EqualTo((await LogAsync()).Select(r => r.Hash)));
            Assert.That(log.Select(r => (r.Record.PersonDigest, r.Record.PreviousHash)),
                Is.EqualTo((await LogAsync()).Select(r => (r.Record.PersonDigest, r.Record.PreviousHash))));
            Assert.That(log.All(r => r.IsConsistent()), Is.True);
            Assert.That(votes.All(v => v.IsSound), Is.True);
            Assert.That((await Store.ReadLogAsync(1, 4, 2, default)).Select(v => v.Stored.LogIndex), Is.EqualTo(new[] { 1, 2 }));
            Assert.That(await Store.ReadLogAsync(5, 9, 2, default), Is.Empty);
        }
    }

    [Test]
    public async Task An_outline_of_the_log_is_in_order_as_long_as_nothing_is_altered()
    {
        await LogToAuditAsync();
        Assert.That(await OutlineAsync(), Is.Not.Null);
        await DropConstraintsAsync();
        await Tampering.RunAsync(Database, "UPDATE record SET reason = 'another' WHERE log_index = 1");
        Assert.That(await OutlineAsync(), Is.Null);

        async Task<LogFindings?> OutlineAsync()
        {
            var verifier = new LogVerifier(new MerkleFrontier(), row => new LogHead(row.LogId, row.Size, row.Root));
            var heads = await Store.ReadHeadsAsync(0, 5, 10, default);
            var outline = await Store.ReadOutlineAsync(() => verifier.Outline(0, 5, heads, []), default);
            outline.Complete();
            return verifier.Verify(outline, new Dictionary<WorkflowKey, ChainPoint>());
        }
    }

    [Test]
    public async Task An_altered_record_is_read_for_verification_as_it_is_stored()
    {
        await LogToAuditAsync();
        await DropConstraintsAsync();
        await Tampering.RunAsync(Database, "UPDATE record SET encoded = hash WHERE log_index = 2");

        var (read, listed) = ((await Store.ReadLogAsync(2, 3, 1, default))[0], (await LogAsync())[2]);

        Assert.That(read.Finding!.Message, Is.EqualTo(RecordVote.Of(listed).Finding!.Message));
    }

    [Test]
    public async Task Heads_are_read_forwards_and_backwards()
    {
        await LogToAuditAsync();

        var heads = await Store.ReadHeadsAsync(0, 100, 10, default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(heads.Select(h => h.Size), Is.EqualTo(new[] { 1, 3, 5 }));
            Assert.That(heads.All(h => h.Root == h.Frontier!.Root && h.SignedNote.Length > 0 && h.LogId == Ask.LogId), Is.True);
            Assert.That((await Store.ReadHeadsAsync(1, 5, 1, default)).Select(h => h.Size), Is.EqualTo(new[] { 3 }));
            Assert.That((await Store.ReadHeadsAsync(1, 4, 9, default)).Select(h => h.Size), Is.EqualTo(new[] { 3 }));
            Assert.That((await Store.ReadHeadsBackAsync(4, 9, default)).Select(h => h.Size), Is.EqualTo(new[] { 3, 1 }));
        }
    }

    [Test]
    public async Task Tiles_are_read_with_what_they_keep()
    {
        for (var i = 0; i < 3; i++)
            await WriteAsync(Store, [.. Enumerable.Range(0, 100).Select(n => Ask.Start($"w{i}-{n}"))]);

        var tiles = await Store.ReadTilesAsync(0, 0, 10, default);

        var log = (await Store.ReadLogAsync(0, 256, 256, default)).Select(v => v.Stored).ToList();
        using (Assert.EnterMultipleScope())
        {
            Assert.That(tiles.Select(t => (t.Level, t.Index)), Is.EqualTo(new[] { (0, 0L) }));
            Assert.That(tiles[0].RootOfHashes(), Is.EqualTo(tiles[0].Root));
            Assert.That(Enumerable.Range(0, 256).Select(i => tiles[0].HashAt(i)), Is.EqualTo(log.Select(r => (Hash?)r.Hash)));
            Assert.That(tiles[0].EntryAt(255)!.Value.ToArray(), Is.EqualTo(log[255].Encoded.ToArray()));
            Assert.That(await Store.ReadTilesAsync(0, 1, 10, default), Is.Empty);
            Assert.That(await Store.ReadTilesAsync(1, 0, 10, default), Is.Empty);
        }
    }

    [Test]
    public async Task Records_and_checkpoints_of_many_chains_are_read_at_once()
    {
        await LogToAuditAsync();
        var (w, other, nobody) = (Ask.Key("w"), Ask.Key("other"), Ask.Key("nobody"));

        var newest = await Store.ReadRecordsAsync([(w, long.MaxValue), (other, long.MaxValue), (nobody, 1)], default);
        var earlier = await Store.ReadRecordsAsync([(w, 2)], default);
        var checkpoints = await Store.ReadCheckpointsAsync([(w, long.MaxValue), (other, 9)], default);
        var before = await Store.ReadCheckpointsAsync([(w, 1)], default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(newest.Select(r => (r.Record.Key, r.Record.Sequence)), Is.EquivalentTo(new[] { (w, 3L), (other, 1L) }));
            Assert.That(earlier.Select(r => r.Record.ToState), Is.EqualTo(new[] { "PAID" }));
            Assert.That(checkpoints.Select(r => (r.Record.Key, r.Record.Sequence)), Is.EqualTo(new[] { (w, 2L) }));
            Assert.That(before, Is.Empty);
        }
    }

    [Test]
    public async Task Workflows_are_read_at_once_and_scanned_by_name()
    {
        await LogToAuditAsync();

        var read = await Store.ReadWorkflowsAsync([Ask.Key("w"), Ask.Key("nobody")], default);
        var first = await Store.ScanWorkflowsAsync(WorkflowKey.None, 2, default);
        var rest = await Store.ScanWorkflowsAsync(first[^1].Key, 2, default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(read.Select(w => (w.Key.WorkflowId, w.State, w.Sequence)), Is.EqualTo(new[] { ("w", "SENT", 3L) }));
            Assert.That(first.Concat(rest).Select(w => w.Key.WorkflowId), Is.EqualTo(new[] { "log", "other", "w" }));
        }
    }

    [Test]
    public async Task Snapshots_are_hashed_and_scanned()
    {
        await LogToAuditAsync();
        var key = Ask.Key("w");
        var sha256 = Hash.Of("state"u8);

        var hashed = await Store.HashSnapshotsAsync([(key, sha256), (key, Hash.Of("other"u8))], default);
        await Tampering.RunAsync(Database, "INSERT INTO snapshot SELECT namespace, 'x', sha256, content FROM snapshot");
        var first = await Store.ScanSnapshotsAsync(null, 1, default);
        var rest = await Store.ScanSnapshotsAsync(first[0], 5, default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(hashed, Is.EqualTo(new[] { new SnapshotHash(key, sha256, sha256, 5) }));
            Assert.That(first, Is.EqualTo(new[] { new SnapshotUse(key, sha256, IsCarried: true) }));
            Assert.That(rest, Is.EqualTo(new[] { new SnapshotUse(Ask.Key("x"), sha256, IsCarried: false) }));
        }
    }

    [Test]
    public async Task Rows_that_belong_to_nothing_are_found()
    {
        await LogToAuditAsync();
        Assert.That(await Store.FindStraysAsync(5, 10, default), Has.Property("Tiles").Empty.And.Property("Leases").Empty);
        await Tampering.RunAsync(Database, "INSERT INTO lease (namespace, workflow_id, owner, epoch, expires_at) VALUES ('n', 'x', 'o', 1, 1)");
        await Tampering.RunAsync(Database, "INSERT INTO log_tile (level, tile_index, root, hashes) VALUES (0, 7, @root, @hashes)",
            new { root = new byte[32], hashes = new byte[8192] });

        var strays = await Store.FindStraysAsync(5, 10, default);

        Assert.That(strays.Tiles, Is.EqualTo(new[] { (0, 7L) }));
        Assert.That(strays.Leases, Is.EqualTo(new[] { new WorkflowKey("n", "x") }));
    }

    [Test]
    public async Task A_noted_position_is_kept_and_replaced()
    {
        Assert.That(await Store.ReadAuditPositionAsync(default), Is.Null);
        await Store.WriteAuditPositionAsync("one", default);
        await Store.WriteAuditPositionAsync("two", default);

        Assert.That(await Store.ReadAuditPositionAsync(default), Is.EqualTo("two"));
    }
}
