using Aegis.Core;
using CsCheck;
using Hash = Aegis.Core.Hash;

namespace Aegis.Tests;

/// <summary>
/// Of random logs: honest ones give nothing, and any single change is found, and named where the log keeps what was there.
/// </summary>
[Parallelizable(ParallelScope.All)]
public sealed class LogVerifierTests
{
    private const int Logs = 60;

    /// <summary>Few records, so that the newest tile is not there, or some beyond the first tile.</summary>
    private static readonly Gen<MadeLog> Made = Gen.Select(Gen.Int[1, 40].Array[2, 16], Gen.Int[0, 1_000_000],
        (batches, choices) => MadeLog.Of(batches, choices));

    private static readonly Gen<(MadeLog Log, int Pick, int Other)> Case =
        Gen.Select(Made, Gen.Int[0, 1_000_000], Gen.Int[0, 1_000_000]);

    [Test]
    public void An_honest_log_gives_nothing() => Gen.Select(Made, Gen.Int[1, 9]).Sample((log, perPage) =>
        Assert.That(log.Verify(log.Stored(), headsPerPage: perPage), Is.Empty), iter: Logs);

    [Test]
    public void An_honest_log_is_found_in_order_by_its_outlines_alone() => Gen.Select(Made, Gen.Int[1, 9]).Sample((log, perPage) =>
    {
        Assert.That(log.Verify(log.Records, headsPerPage: perPage), Is.Empty);
        Assert.That(log.PagesInOrder, Is.EqualTo((log.Heads.Count + perPage - 1) / perPage));
    }, iter: Logs);

    [Test]
    public void Any_changed_record_is_named() => Case.Sample((log, pick, other) =>
    {
        var rows = log.Stored().ToList();
        var at = pick % rows.Count;
        var alterations = Alterations.Of(rows[at]).ToList();
        var (name, altered) = alterations[other % alterations.Count];
        rows[at] = altered;
        var found = log.Verify(rows);
        Assert.That(found, Is.Not.Empty, name);
        // Where nothing is left of the name, only the tile knows it.
        if (HasTile(log, at) || name is not ("column and encoded workflow_id" or "column and encoded namespace"))
            Names(log, found, at, name);
    }, iter: Logs * 3);

    [Test]
    public void A_dropped_record_is_named_by_its_tile() => Case.Sample((log, pick, _) =>
    {
        var rows = log.Stored().ToList();
        var at = pick % rows.Count;
        rows.RemoveAt(at);
        var found = log.Verify(rows);
        Assert.That(found.Select(v => (v.Class, v.LogIndex)), Is.SupersetOf(new[] { (ViolationClass.RecordMissing, (long?)at) }));
        if (HasTile(log, at))
            Names(log, found, at, "dropped");
    }, iter: Logs);

    [Test]
    public void A_dropped_record_is_named_by_what_is_remembered() => Case.Sample((log, pick, _) =>
    {
        var rows = log.Stored().ToList();
        var at = pick % rows.Count;
        rows.RemoveAt(at);
        var found = log.Verify(rows, tiles: [], remembered: index => log.Records[(int)index].Encoded);
        Names(log, [.. found.Where(v => v.Class != ViolationClass.TileModified)], at, "dropped");
    }, iter: Logs);

    [Test]
    public void A_record_stored_twice_is_found() => Case.Sample((log, pick, other) =>
    {
        var rows = log.Stored().ToList();
        var copy = rows[pick % rows.Count];
        rows.Insert(pick % rows.Count, other % 2 == 0 ? copy : copy with { LogIndex = rows.Count });
        Assert.That(log.Verify(rows).Select(v => v.Class), Does.Contain(ViolationClass.RecordInserted));
    }, iter: Logs);

    [Test]
    public void Two_records_that_changed_places_are_found() => Case.Sample((log, pick, other) =>
    {
        var rows = log.Stored().ToArray();
        var (a, b) = (pick % rows.Length, other % rows.Length);
        if (a == b)
            return;
        (rows[a], rows[b]) = (rows[b] with { LogIndex = a }, rows[a] with { LogIndex = b });
        var found = log.Verify(rows);
        Assert.That(found, Is.Not.Empty);
        if (HasTile(log, Math.Max(a, b)))
            Assert.That(found.Select(v => v.Class), Has.All.EqualTo(ViolationClass.RecordsReordered));
    }, iter: Logs);

    [Test]
    public void A_record_rewritten_with_its_hash_or_moved_is_found() => Case.Sample((log, pick, other) =>
    {
        var rows = log.Stored().ToArray();
        var at = pick % rows.Length;
        var record = other % 2 == 0 ? rows[at].Record with { ToState = "STOLEN" } : rows[at].Record with { WorkflowId = "another" };
        rows[at] = StoredRecord.Seal(record, at);
        var found = log.Verify(rows);
        Assert.That(found, Is.Not.Empty);
        if (HasTile(log, at))
        {
            Names(log, found, at, "rewritten");
            var field = other % 2 == 0 ? "to_state" : "workflow_id";
            var original = other % 2 == 0 ? log.Records[at].Record.ToState : log.Records[at].Record.WorkflowId;
            Assert.That(found[0].Differences.Single(d => d.Field == field).Original, Is.EqualTo(original));
            Assert.That((found[0].ExpectedHash, found[0].ActualHash), Is.EqualTo(((Hash?)log.Records[at].Hash, (Hash?)rows[at].Hash)));
        }
    }, iter: Logs);

    [Test]
    public void A_chain_recomputed_from_an_edit_on_is_found() => Case.Sample((log, pick, _) =>
    {
        var rows = log.Stored().ToArray();
        var at = pick % rows.Length;
        var key = rows[at].Record.Key;
        Hash? previous = null;
        for (var i = at; i < rows.Length; i++)
        {
            if (rows[i].Record.Key != key)
                continue;
            rows[i] = StoredRecord.Seal(
                rows[i].Record with { OccurredAt = 5, PreviousHash = previous ?? rows[i].Record.PreviousHash }, i);
            previous = rows[i].Hash;
        }
        Assert.That(log.Verify(rows), Is.Not.Empty);
    }, iter: Logs);

    [Test]
    public void A_changed_or_erased_tile_is_told_and_blames_no_record() => Case.Sample((log, pick, other) =>
    {
        if (log.Tiles.Count == 0)
            return;
        var tiles = log.Tiles.ToList();
        var tile = tiles[pick % tiles.Count];
        var hashes = tile.Hashes.ToArray();
        hashes[other % hashes.Length] ^= 1;
        var entries = tile.Entries.ToArray();
        entries[other % entries.Length] ^= 1;
        LogTileRow?[] altered =
        [
            tile with { Hashes = hashes }, tile with { Entries = entries }, tile with { Root = Hash.Of("x"u8) },
            tile with { Hashes = hashes.AsMemory(1) }, tile with { Entries = default }, null,
        ];
        foreach (var change in altered)
        {
            var found = log.Verify(log.Stored(), tiles: [.. tiles.Where(t => t != tile), .. change is null ? (LogTileRow[])[] : [change]]);
            Assert.That(found.Select(v => v.Class).Distinct(), Is.EqualTo(new[] { ViolationClass.TileModified }));
        }
    }, iter: Logs);

    [Test]
    public void A_head_that_is_not_as_it_was_signed_is_told_and_blames_no_record() => Case.Sample((log, pick, other) =>
    {
        var heads = log.Heads.ToArray();
        var at = pick % heads.Length;
        heads[at] = (other % 4) switch
        {
            0 => heads[at] with { SignedNote = heads[at].SignedNote[..^1] + "D" },
            1 => heads[at] with { Root = Hash.Of("x"u8) },
            2 => heads[at] with { LogId = "another" },
            _ => heads[at] with { Frontier = new MerkleFrontier() },
        };
        var found = log.Verify(log.Stored(), heads);
        Assert.That(found.Select(v => (v.Class, v.LogIndex)),
            Is.EqualTo(new[] { (ViolationClass.SignatureInvalid, (long?)heads[at].Size) }));
    }, iter: Logs);

    [Test]
    public void A_signed_head_that_the_others_contradict_is_a_fork() => Case.Sample((log, pick, _) =>
    {
        var heads = log.Heads.ToArray();
        var at = pick % (heads.Length - 1);
        var forged = new LogHead(Ask.LogId, heads[at].Size, Hash.Of("x"u8));
        heads[at] = heads[at] with { Root = forged.Root, SignedNote = forged.Text + "signed" };
        var found = log.Verify(log.Stored(), heads, headsPerPage: 100);
        Assert.That(found.Select(v => v.Class), Does.Contain(ViolationClass.LogForked));
        Assert.That(found.Select(v => v.Class), Is.SubsetOf(new[] { ViolationClass.LogForked, ViolationClass.SignatureInvalid }));
    }, iter: Logs);

    private static bool HasTile(MadeLog log, long index) => log.Tiles.Any(t => t.Level == 0 && index < t.To);

    private static void Names(MadeLog log, IReadOnlyList<Violation> found, int at, string what)
    {
        var record = log.Records[at].Record;
        Assert.That(found.Select(v => (v.Key, v.Sequence)), Does.Contain((record.Key, record.Sequence)),
            $"{what} of record {at}: {string.Join(Environment.NewLine, found)}");
    }
}
