using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;

namespace Aegis.Tests;

/// <summary>
/// What the owner of a database can make of it with more than an UPDATE: records whose encoded bytes and hashes are computed anew,
/// chains that follow from them, and a log with tiles and heads of its own. Only the signature has to be someone else's.
/// </summary>
internal sealed class Forgery(TestServer server)
{
    private ILedgerStore Store => (ILedgerStore)server.Services.GetService(typeof(ILedgerStore))!;

    /// <summary>
    /// Alters a record and recomputes it and all that follows from it in its chain, the workflow's head included.
    /// </summary>
    public async Task RewriteChainAsync(string id, long sequence, Func<Record, Record> alter)
    {
        var previous = default(Hash?);
        foreach (var stored in await ChainAsync(id))
        {
            if (stored.Record.Sequence < sequence)
                continue;
            var record = stored.Record.Sequence == sequence ? alter(stored.Record) : stored.Record;
            if (previous is { } link)
                record = record with { PreviousHash = link };
            previous = (await WriteAsync(stored with { Record = record })).Hash;
        }
        await Tampering.RunAsync(server,
            "UPDATE workflow SET head_hash = @hash WHERE workflow_id = @id", new { id, hash = previous!.Value.ToArray() });
    }

    /// <summary>Stores a record in the place of the one with its log_index, with encoded bytes and a hash of its own.</summary>
    public async Task<StoredRecord> WriteAsync(StoredRecord stored)
    {
        var sealedAnew = StoredRecord.Seal(
            stored.Record with
            {
                PersonDigest = RecordFormat.DigestOf(stored.Record.Person!),
                ContentDigest = RecordFormat.DigestOf(stored.Record.Content),
                SnapshotDigest = RecordFormat.DigestOf(stored.Record.Snapshot),
            },
            stored.LogIndex);
        var record = sealedAnew.Record;
        await Tampering.RunAsync(server,
            """
            UPDATE record SET
                workflow_id = @WorkflowId,
                sequence = @Sequence,
                to_state = @ToState,
                recorded_at = @RecordedAt,
                reason = @reason,
                snapshot_sha256 = @sha256,
                snapshot_size = @size,
                hash = @hash,
                encoded = @encoded
            WHERE log_index = @LogIndex
            """,
            new
            {
                record.WorkflowId,
                record.Sequence,
                record.ToState,
                record.RecordedAt,
                reason = record.Content?.Reason,
                sha256 = record.Snapshot?.Sha256.ToArray(),
                size = record.Snapshot?.Size,
                hash = sealedAnew.Hash.ToArray(),
                encoded = sealedAnew.Encoded.ToArray(),
                stored.LogIndex,
            });
        return sealedAnew;
    }

    /// <summary>Makes the stored tree that of the records as they are now, with a newest head signed by some key.</summary>
    public async Task RewriteTreeAsync(SigningKey key)
    {
        var head = (await Store.ReadHeadAsync(default))!;
        var frontier = new MerkleFrontier();
        var leaves = await Store.ReadHashesAsync(0, (int)head.Size, fromEncoded: false, default);
        foreach (var leaf in leaves)
            frontier.Append(leaf);
        for (var tile = 0; (tile + 1) * Tile.Width <= leaves.Count; tile++)
        {
            Hash[] hashes = [.. leaves.Skip(tile * Tile.Width).Take(Tile.Width)];
            await Tampering.RunAsync(server,
                "UPDATE log_tile SET root = @root, hashes = @hashes WHERE level = 0 AND tile_index = @tile",
                new { tile, root = MerkleTree.Root(hashes).ToArray(), hashes = hashes.SelectMany(h => h.ToArray()).ToArray() });
        }
        var next = new LogHead(head.LogId, head.Size, frontier.Root);
        await Tampering.RunAsync(server,
            "UPDATE log_head SET root = @root, frontier = @frontier, signed_note = @note WHERE size = @Size",
            new { root = frontier.Root.ToArray(), frontier = frontier.ToArray(), note = key.Sign(next), head.Size });
    }

    public Task<IReadOnlyList<StoredRecord>> ChainAsync(string id) =>
        Store.ReadChainAsync(Ask.Key(id), 1, descending: false, 1000, default);

    public async Task<StoredHead> HeadAsync() => (await Store.ReadHeadAsync(default))!;
}
