using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>
/// Works out what a repair writes. It trusts nothing that is stored: a record is what the tree of a signed head proves, a
/// value what a record's digest proves. What cannot be had from the log the operator brings.
/// </summary>
public sealed partial class Repairer(ILedgerStore store, LogLeaves leaves)
{
    private const int PageSize = 500;

    // Records that changed places are moved back together; more than these are repaired one place at a time.
    private const int MovedMax = 100;

    /// <summary>What restores one record: itself, and those that stand in its way or it stands in the way of.</summary>
    /// <exception cref="RefusalException">RECORD_NOT_FOUND, HASH_MISMATCH, INVALID_FIELD.</exception>
    public async Task<Repair> RecordAsync(WorkflowKey key, long sequence, StoredRecord? brought,
        ReadOnlyMemory<byte>? broughtSnapshot, CancellationToken cancellationToken)
    {
        var size = (await store.ReadHeadAsync(cancellationToken))?.Size ?? 0;
        var place = await AtPlaceAsync(key, sequence, cancellationToken);
        var leaf = await FindLeafAsync(key, sequence, place, brought, size, cancellationToken);
        if (leaf is null)
        {
            return place is not null && await IsForgedAsync(place, size, cancellationToken)
                ? await RemovingAsync(key, place, size, cancellationToken)
                : throw new RefusalException(new Refusal(Reason.RecordNotFound,
                    $"Nothing that is stored proves what record {sequence} of {key} was; bring it from an export.",
                    [.. Refusal.Of(key), ("sequence", Refusal.Text(sequence))]));
        }
        if (brought is not null)
            Check(brought, leaf.Hash);
        var plan = new Plan(key);
        var erasures = await store.ErasuresAsync(key, sequence + 1, cancellationToken).ToListAsync(cancellationToken);
        var at = await AtIndexAsync(leaf.LogIndex, cancellationToken);
        var record = Restored(leaf, erasures, [brought, place, at]);
        var snapshot = await SnapshotAsync(record, erasures, broughtSnapshot, cancellationToken);
        plan.Put(record, at, place);
        await PutBackAsync(plan, size, cancellationToken);
        return plan.ToRepair() with { Snapshot = snapshot };
    }

    /// <summary>A record that stands where it does not belong goes, and back to where it does belong, if anywhere.</summary>
    private async Task<Repair> RemovingAsync(WorkflowKey key, StoredRecord row, long size, CancellationToken cancellationToken)
    {
        var plan = new Plan(key);
        plan.Remove(row);
        await PutBackAsync(plan, size, cancellationToken);
        return plan.ToRepair();
    }

    /// <summary>
    /// Of every row that is taken away: what belongs at its log_index comes there, and the row itself goes where it belongs.
    /// </summary>
    private async Task PutBackAsync(Plan plan, long size, CancellationToken cancellationToken)
    {
        while (plan.NextRemoved() is { } row)
        {
            if (row.LogIndex < size && !plan.Has(row.LogIndex))
            {
                var there = await LeafAtAsync(row.LogIndex, [.. plan.Rows.Select(r => r.Encoded)], cancellationToken)
                    ?? throw new RefusalException(new Refusal(Reason.RecordNotFound,
                        $"A row stands at log index {row.LogIndex}, and nothing proves what belongs there; repair that first.",
                        [.. Refusal.Of(plan.Key), ("log_index", Refusal.Text(row.LogIndex))]));
                await PutBackAsync(plan, there, cancellationToken);
            }
            var hash = RecordFormat.HashOf(row.Encoded.Span);
            if (!plan.Has(hash) && RecordFormat.TryDecode(row.Encoded.Span) is { } moved
                && await FindLeafAsync(moved.Key, moved.Sequence, null, row, size, cancellationToken) is { } leaf
                && leaf.Hash == hash && !plan.Has(leaf.LogIndex) && !await IsAsRecordedAsync(leaf, cancellationToken))
            {
                await PutBackAsync(plan, leaf, cancellationToken);
            }
            if (plan.Count > MovedMax)
                throw new RefusalException(Refusal.Invalid("sequence", "has too many records out of place around it"));
        }
    }

    private async Task PutBackAsync(Plan plan, Leaf leaf, CancellationToken cancellationToken)
    {
        var record = RecordFormat.Decode(leaf.Encoded.Span);
        var erasures = await store.ErasuresAsync(record.Key, record.Sequence + 1, cancellationToken).ToListAsync(cancellationToken);
        var at = await AtIndexAsync(leaf.LogIndex, cancellationToken);
        var place = await AtPlaceAsync(record.Key, record.Sequence, cancellationToken);
        plan.Put(Restored(leaf, erasures, [.. plan.Rows, at, place]), at, place);
    }

    /// <summary>Whether the row at a leaf's place is the one, so that another with the same bytes is but a copy.</summary>
    private async Task<bool> IsAsRecordedAsync(Leaf leaf, CancellationToken cancellationToken) =>
        await AtIndexAsync(leaf.LogIndex, cancellationToken) is { } row && row.Hash == leaf.Hash && row.IsConsistent();

    private static void Check(StoredRecord brought, Hash expected)
    {
        var actual = RecordFormat.HashOf(brought.Encoded.Span);
        if (actual != expected || brought.Hash != expected)
            throw new RefusalException(Mismatch(brought.Record, "record", expected, actual != expected ? actual : brought.Hash));
        var record = brought.Record;
        Part("person", record.PersonDigest, record.Person is { } p ? RecordFormat.DigestOf(p) : null);
        Part("content", record.ContentDigest, record.Content is { } c ? RecordFormat.DigestOf(c) : null);
        Part("snapshot", record.SnapshotDigest, record.Snapshot is { } s ? RecordFormat.DigestOf(s) : null);

        void Part(string part, Hash digest, Hash? found)
        {
            if (found is { } other && other != digest)
                throw new RefusalException(Mismatch(record, part, digest, other));
        }
    }

    private static Refusal Mismatch(Record record, string what, Hash expected, Hash found) => new(Reason.HashMismatch,
        $"The {what} that was brought for record {record.Sequence} of {record.Key} is not what was recorded: expected {expected}, "
        + $"found {found}.",
        [.. Refusal.Of(record.Key), ("sequence", Refusal.Text(record.Sequence)), ("part", what),
            ("expected_hash", expected.ToString()), ("found_hash", found.ToString())]);

    /// <summary>
    /// The record as its bytes tell, with the values of its parts from whichever source has the right ones. What an ERASURE
    /// covers stays erased, whoever brings it.
    /// </summary>
    private static StoredRecord Restored(Leaf leaf, IReadOnlyList<Erasure> erasures, IReadOnlyList<StoredRecord?> sources)
    {
        var record = RecordFormat.Decode(leaf.Encoded.Span);
        record = record with
        {
            Person = Values("person", record.PersonDigest, r => r.Person, RecordFormat.DigestOf),
            Content = Values("content", record.ContentDigest, r => r.Content, c => RecordFormat.DigestOf(c)),
            Snapshot = Values("snapshot", record.SnapshotDigest, r => r.Snapshot, s => RecordFormat.DigestOf(s)),
        };
        return new StoredRecord(record, leaf.Encoded, leaf.Hash, leaf.LogIndex);

        T? Values<T>(string part, Hash digest, Func<Record, T?> of, Func<T, Hash> digestOf) where T : class
        {
            if (digest.IsZero || erasures.Any(e => e.Covers(record.Sequence, part)))
                return null;
            foreach (var source in sources)
            {
                if (source is not null && of(source.Record) is { } values && Digest(values) == digest)
                    return values;
            }
            throw new RefusalException(Refusal.Invalid("record",
                $"is required: the values of the part \"{part}\" of record {record.Sequence} of {record.Key} cannot be restored from "
                + "the log. Bring that record as an export has it"));

            Hash Digest(T values)
            {
                try
                {
                    return digestOf(values);
                }
                catch (Exception e) when (e is OverflowException or System.Text.EncoderFallbackException)
                {
                    // What stands in an altered row need not have an encoding.
                    return default;
                }
            }
        }
    }

    /// <summary>The snapshot's bytes to be written; null where they are as recorded, erased, or not brought.</summary>
    private async Task<Snapshot?> SnapshotAsync(StoredRecord record, IReadOnlyList<Erasure> erasures,
        ReadOnlyMemory<byte>? brought, CancellationToken cancellationToken)
    {
        if (record.Record.Snapshot is not { } part)
        {
            return brought is null
                ? null
                : throw new RefusalException(Refusal.Invalid("snapshot", "is of a record that carries none, or whose snapshot was erased"));
        }
        if (brought is { } content)
        {
            var found = Hash.Of(content.Span);
            if (found != part.Sha256)
                throw new RefusalException(Mismatch(record.Record, "snapshot", part.Sha256, found));
        }
        if (erasures.Any(e => e.CoversBytes(record.Record.Sequence)))
            return null;
        var stored = await store.ReadSnapshotAsync(record.Record.Key, part.Sha256, cancellationToken);
        return (stored is null || Hash.Of(stored) != part.Sha256) && brought is { } bytes
            ? new Snapshot(record.Record.Key, part.Sha256, bytes)
            : null;
    }

    private async Task<StoredRecord?> AtPlaceAsync(WorkflowKey key, long sequence, CancellationToken cancellationToken)
    {
        var rows = await store.ReadChainAsync(key, sequence, descending: false, 1, cancellationToken);
        return rows.Count > 0 && rows[0].Record.Sequence == sequence ? rows[0] : null;
    }

    private async Task<StoredRecord?> AtIndexAsync(long logIndex, CancellationToken cancellationToken)
    {
        var rows = await store.ListRecordsAsync(new RecordFilter(), logIndex, descending: false, 1, cancellationToken);
        return rows.Count > 0 && rows[0].LogIndex == logIndex ? rows[0] : null;
    }

    /// <summary>The rows that go and those that come.</summary>
    private sealed class Plan(WorkflowKey key)
    {
        private readonly Dictionary<long, StoredRecord> _records = [];
        private readonly HashSet<long> _removed = [];
        private readonly List<StoredRecord> _rows = [];
        private int _next;

        public WorkflowKey Key => key;

        public int Count => _records.Count;

        /// <summary>What is taken away: the values of whatever comes are among these.</summary>
        public IReadOnlyList<StoredRecord> Rows => _rows;

        public bool Has(long logIndex) => _records.ContainsKey(logIndex);

        public bool Has(Hash hash) => _records.Values.Any(r => r.Hash == hash);

        /// <summary>Stores a record in the place of whatever stands at its log_index and at its place in its chain.</summary>
        public void Put(StoredRecord record, params IEnumerable<StoredRecord?> inTheWay)
        {
            _records.Add(record.LogIndex, record);
            foreach (var row in inTheWay.OfType<StoredRecord>())
                Remove(row);
        }

        public void Remove(StoredRecord row)
        {
            if (_removed.Add(row.LogIndex))
                _rows.Add(row);
        }

        /// <summary>The next row that is taken away, each once; null when there are no more.</summary>
        public StoredRecord? NextRemoved() => _next < _rows.Count ? _rows[_next++] : null;

        public Repair ToRepair() => new()
        {
            Key = key,
            Removed = [.. _removed.Order()],
            Records = [.. _records.Values.OrderBy(r => r.LogIndex)],
        };
    }
}
