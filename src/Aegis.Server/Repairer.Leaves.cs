using System.Buffers.Binary;
using System.Text;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// Finding what the log has: by whatever tells of its place, and where nothing does by looking through the whole log.
public sealed partial class Repairer
{
    /// <summary>A record that the log has, proven.</summary>
    private sealed record Leaf(long LogIndex, Hash Hash, ReadOnlyMemory<byte> Encoded);

    /// <summary>The record that belongs to a place in a chain; null where nothing proves any.</summary>
    private async Task<Leaf?> FindLeafAsync(WorkflowKey key, long sequence, StoredRecord? place, StoredRecord? brought, long size,
        CancellationToken cancellationToken)
    {
        var hints = new List<long>();
        if (place is not null)
            hints.Add(place.LogIndex);
        if (brought is not null)
            hints.Add(brought.LogIndex);
        var open = await store.ListViolationsAsync(
            new ViolationFilter { Namespace = key.Namespace, WorkflowId = key.WorkflowId }, long.MaxValue, PageSize, cancellationToken);
        hints.AddRange(open.Where(v => v.Violation.Sequence == sequence && v.Violation.LogIndex is not null)
            .Select(v => v.Violation.LogIndex!.Value));
        List<ReadOnlyMemory<byte>> encodings = [];
        if (place is not null)
            encodings.Add(place.Encoded);
        if (brought is not null)
            encodings.Add(brought.Encoded);
        foreach (var index in hints.Distinct().Where(i => i < size))
        {
            if (await LeafAtAsync(index, encodings, cancellationToken) is { } leaf && IsAt(leaf.Encoded.Span, key, sequence))
                return leaf;
        }
        await foreach (var index in SearchAsync(key, sequence, size, cancellationToken))
        {
            if (await LeafAtAsync(index, encodings, cancellationToken) is { } leaf && IsAt(leaf.Encoded.Span, key, sequence))
                return leaf;
        }
        return null;
    }

    /// <summary>
    /// What the log has at an index: of the bytes in its tile, those in the row there, those that the fields of that row give, and
    /// others that are offered, the ones that are proven.
    /// </summary>
    private async Task<Leaf?> LeafAtAsync(long index, IReadOnlyList<ReadOnlyMemory<byte>> others, CancellationToken cancellationToken)
    {
        var candidates = new List<ReadOnlyMemory<byte>>();
        if (await store.FindTileAsync(0, index / Tile.Width, cancellationToken) is { } tile)
        {
            var records = tile.Records();
            if (records.Count > index % Tile.Width)
                candidates.Add(records[(int)(index % Tile.Width)]);
        }
        if (await AtIndexAsync(index, cancellationToken) is { } row)
        {
            candidates.Add(row.Encoded);
            candidates.AddRange(await FromFieldsAsync(row, cancellationToken));
        }
        candidates.AddRange(others);
        foreach (var group in candidates.GroupBy(c => RecordFormat.HashOf(c.Span)))
        {
            if (RecordFormat.TryDecode(group.First().Span) is not null && await leaves.IsLeafAsync(index, group.Key, cancellationToken))
                return new Leaf(index, group.Key, group.First());
        }
        return null;
    }

    /// <summary>
    /// Where the bytes were altered and the fields were not: the bytes that the fields give, with the digests of the parts and
    /// the hash of the record before.
    /// </summary>
    private async Task<IReadOnlyList<ReadOnlyMemory<byte>>> FromFieldsAsync(StoredRecord row, CancellationToken cancellationToken)
    {
        var before = row.Record.Sequence > 1
            ? await AtPlaceAsync(row.Record.Key, row.Record.Sequence - 1, cancellationToken)
            : null;
        try
        {
            return [RecordFormat.Encode(row.Record with
            {
                PersonDigest = row.Record.Person is { } p ? RecordFormat.DigestOf(p) : row.Record.PersonDigest,
                ContentDigest = RecordFormat.DigestOf(row.Record.Content),
                SnapshotDigest = RecordFormat.DigestOf(row.Record.Snapshot),
                PreviousHash = row.Record.Sequence == 1 ? row.Record.PreviousHash : before?.Hash ?? row.Record.PreviousHash,
            })];
        }
        catch (Exception e) when (e is OverflowException or EncoderFallbackException)
        {
            return [];
        }
    }

    /// <summary>Whether a row is proven not to belong: beyond the log, or in the place of another record in it.</summary>
    private async Task<bool> IsForgedAsync(StoredRecord row, long size, CancellationToken cancellationToken) =>
        row.LogIndex >= size
        || (await LeafAtAsync(row.LogIndex, [row.Encoded], cancellationToken) is { } leaf
            && !IsAt(leaf.Encoded.Span, row.Record.Key, row.Record.Sequence));

    private static bool IsAt(ReadOnlySpan<byte> encoded, WorkflowKey key, long sequence) =>
        RecordFormat.TryDecode(encoded) is { } record && record.Key == key && record.Sequence == sequence;

    /// <summary>Every index at which the bytes of a record of that place are found, in tiles and in rows.</summary>
    private async IAsyncEnumerable<long> SearchAsync(WorkflowKey key, long sequence, long size,
        [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var needle = Needle(key, sequence);
        for (var index = 0L; index * Tile.Width < size; index++)
        {
            var tile = await store.FindTileAsync(0, index, cancellationToken);
            IReadOnlyList<ReadOnlyMemory<byte>> records;
            if (tile is null)
            {
                var rows = await store.ListRecordsAsync(
                    new RecordFilter(), index * Tile.Width, descending: false, Tile.Width, cancellationToken);
                foreach (var row in rows.Where(r => r.LogIndex < Math.Min(size, (index + 1) * Tile.Width) && IsAt(r.Encoded.Span, key, sequence)))
                    yield return row.LogIndex;
                continue;
            }
            if (tile.Entries.Span.IndexOf(needle) < 0)
                continue;
            records = tile.Records();
            for (var i = 0; i < records.Count; i++)
            {
                if (IsAt(records[i].Span, key, sequence))
                    yield return (index * Tile.Width) + i;
            }
        }
    }

    /// <summary>The bytes in which all records of a place agree: namespace, workflow_id and sequence.</summary>
    private static byte[] Needle(WorkflowKey key, long sequence)
    {
        var bytes = new List<byte>();
        foreach (var text in new[] { key.Namespace, key.WorkflowId })
        {
            var encoded = Encoding.UTF8.GetBytes(text);
            bytes.AddRange([(byte)(encoded.Length >> 8), (byte)encoded.Length, .. encoded]);
        }
        var number = new byte[8];
        BinaryPrimitives.WriteInt64BigEndian(number, sequence);
        bytes.AddRange(number);
        return [.. bytes];
    }
}
