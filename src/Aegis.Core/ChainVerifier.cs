namespace Aegis.Core;

/// <summary>
/// Recomputes a chain from its stored fields, record by record, so that a chain of any length can stream through.
/// It trusts no stored hash: a record's fields, its encoded bytes, its hash and the next record's previous_hash
/// are four witnesses, and where one of them disagrees it is the one that was altered.
/// Give the records in the order of their stored sequence, then the head.
/// </summary>
public sealed class ChainVerifier
{
    /// <summary>Findings beyond these are not kept.</summary>
    public const int ViolationsMax = 1000;

    private readonly WorkflowKey _key;
    private readonly List<Violation> _violations = [];
    private readonly List<(StoredRecord Record, string Part)> _missing = [];
    private readonly List<Erasure> _erasures = [];
    private readonly List<StoredRecord> _missingBytes = [];

    // The last record that was read, and the hash that its successor has to name: null when a gap makes it unknown.
    private Record? _previous;
    private Hash? _previousHash;
    // A second hash that its successor may name: where a record's fields and bytes agree against its stored hash,
    // only the successor can tell which of the two was altered.
    private Hash? _alternativeHash;
    private long _next;
    private long _leaseEpoch;
    private long _checkpointSequence;
    private StoredRecord? _first;
    // False once a record is missing or out of place: what only the whole chain can give is then not known.
    private bool _isWhole = true;

    /// <param name="key">The workflow.</param>
    /// <param name="firstSequence">
    /// Where the reading begins. Above 1 the chain before it is not known, and the first record's link not checked.
    /// </param>
    public ChainVerifier(WorkflowKey key, long firstSequence = 1)
    {
        _key = key;
        _next = firstSequence;
    }

    public IReadOnlyList<Violation> Violations => _violations;

    public long RecordsVerified { get; private set; }

    public long SnapshotsVerified { get; private set; }

    /// <summary>The hash of the last record, as recomputed.</summary>
    public Hash HeadHash { get; private set; }

    /// <summary>Checks the next record.</summary>
    public void Add(StoredRecord stored)
    {
        RecordsVerified++;
        var formerAlternative = _alternativeHash;
        _alternativeHash = null;
        var sound = CheckSelf(stored, out var record, out var hash);
        if (stored.Record.Sequence < _next)
        {
            Report(ViolationClass.RecordsReordered, stored, $"Record {_next} was expected here.", at: _next);
            (_previous, _previousHash, _isWhole) = (record, null, false);
            return;
        }
        if (stored.Record.Sequence > _next)
        {
            ReportGap(_next, stored.Record.Sequence - 1);
            (_previous, _previousHash, _isWhole) = (null, null, false);
        }
        _next = stored.Record.Sequence;
        if (record.Sequence != _next)
        {
            // Reported as reordered: what stands here says nothing about its neighbours.
            (_previous, _previousHash, _isWhole) = (null, null, false);
            _next++;
            return;
        }
        _first ??= _next == 1 ? stored with { Record = record } : null;
        if (sound)
            CheckRules(stored, record, formerAlternative);
        CheckParts(stored, record);
        if (record.IsCheckpoint)
            _checkpointSequence = _next;
        if (Erasure.Of(record) is { } erasure)
            _erasures.Add(erasure);
        _leaseEpoch = Math.Max(_leaseEpoch, record.LeaseEpoch);
        (_previous, _previousHash, HeadHash) = (record, hash, hash);
        _next++;
    }

    /// <summary>
    /// Checks the snapshot that a record carries: the SHA-256 and the size of the stored bytes, or null where there are
    /// none. Bytes that are gone are judged at the end, since a later ERASURE may cover them.
    /// </summary>
    public void AddSnapshot(StoredRecord stored, (Hash Sha256, long Size)? found)
    {
        if (stored.Record.Snapshot is not { } part)
            return;
        if (Recomputed.Of(part) != stored.Record.SnapshotDigest)
        {
            // What it says of the bytes proves nothing. Add has told of it, unless the record was not given to it.
            if (!_violations.Exists(v => v.Sequence == stored.Record.Sequence))
            {
                Report(ViolationClass.SnapshotModified, stored, "What describes the snapshot is not what was recorded.",
                    stored.Record.SnapshotDigest, Recomputed.Of(part));
            }
            return;
        }
        if (found is not { } actual)
        {
            _missingBytes.Add(stored);
            return;
        }
        SnapshotsVerified++;
        if (actual.Sha256 != part.Sha256 || actual.Size != part.Size)
        {
            Report(ViolationClass.SnapshotModified, stored,
                "The bytes of the snapshot are not those that were recorded.", part.Sha256, actual.Sha256);
        }
    }

    /// <summary>
    /// Judges what only the end of the chain can tell, and the head (null for none to judge). Gives all findings, by sequence.
    /// </summary>
    public IReadOnlyList<Violation> Complete(Workflow? head)
    {
        foreach (var (stored, part) in _missing)
        {
            // What an ERASURE says can never be erased itself.
            var mayBeErased = stored.Record.Kind != RecordKind.Erasure || part != "content";
            if (!mayBeErased || !_erasures.Exists(e => e.Covers(stored.Record.Sequence, part)))
            {
                Report(ViolationClass.ErasedWithoutRecord, stored,
                    $"The values of the part \"{part}\" are gone and no ERASURE record covers them.",
                    differences: [new Difference(part, null, null)]);
            }
        }
        foreach (var stored in _missingBytes)
        {
            if (!_erasures.Exists(e => e.CoversBytes(stored.Record.Sequence)))
            {
                Report(ViolationClass.SnapshotMissing, stored,
                    "The bytes of the snapshot are gone and no ERASURE record covers them.",
                    stored.Record.Snapshot!.Sha256);
            }
        }
        if (head is not null)
            CheckHead(head);
        // Findings about the workflow as a whole, without a sequence, come last.
        return [.. _violations.OrderBy(v => (ulong)(v.Sequence - 1))];
    }

    /// <summary>
    /// Lets the three stored forms of one record vote. Gives the record as it was recorded, as far as that can be
    /// told, and the hash that its successor has to name.
    /// </summary>
    private bool CheckSelf(StoredRecord stored, out Record record, out Hash hash)
    {
        var fromFields = Recomputed.Of(stored.Record);
        var fromBytes = RecordFormat.HashOf(stored.Encoded.Span);
        record = stored.Record;
        hash = stored.Hash;
        if (fromFields == stored.Hash && fromBytes == stored.Hash)
            return true;

        var decoded = RecordFormat.TryDecode(stored.Encoded.Span);
        if (fromBytes == stored.Hash && decoded is not null)
        {
            record = decoded with
            {
                Person = stored.Record.Person,
                Content = stored.Record.Content,
                Snapshot = stored.Record.Snapshot,
            };
            var differences = Difference.Between(decoded, stored.Record);
            var moved = differences is [{ Field: "sequence" }];
            Report(moved ? ViolationClass.RecordsReordered : ViolationClass.FieldModified, stored,
                moved
                    ? $"This is record {decoded.Sequence}, in the place of record {stored.Record.Sequence}."
                    : "The stored fields are not those that were recorded.",
                stored.Hash, fromFields, differences);
            return false;
        }
        // The digests and the link have no fields of their own: take them from the parts and from the chain.
        var rebuilt = stored.Record with
        {
            PersonDigest = stored.Record.Person is { } p ? Recomputed.Of(p) : stored.Record.PersonDigest,
            ContentDigest = stored.Record.Content is { } c ? Recomputed.Of(c) : default,
            SnapshotDigest = stored.Record.Snapshot is { } s ? Recomputed.Of(s) : default,
            PreviousHash = _previousHash ?? stored.Record.PreviousHash,
        };
        if (Recomputed.Of(rebuilt) == stored.Hash || fromFields == stored.Hash)
        {
            record = fromFields == stored.Hash ? stored.Record : rebuilt;
            Report(ViolationClass.FieldModified, stored, "The stored encoded bytes are not those that were recorded.",
                stored.Hash, fromBytes,
                decoded is null
                    ? [new Difference("encoded", Convert.ToHexStringLower(RecordFormat.Encode(record)),
                        Convert.ToHexStringLower(stored.Encoded.Span))]
                    : Difference.Between(record, decoded));
            return false;
        }
        if (fromFields == fromBytes)
            (hash, _alternativeHash) = (fromFields, stored.Hash);
        Report(ViolationClass.FieldModified, stored,
            fromFields == fromBytes
                ? "The stored hash is not that of the record."
                : "Neither the stored fields nor the stored encoded bytes give the stored hash.",
            fromFields == fromBytes ? fromFields : stored.Hash,
            fromFields == fromBytes ? stored.Hash : fromFields,
            fromFields == fromBytes
                ? [new Difference("hash", fromFields.ToString(), stored.Hash.ToString())]
                : decoded is null ? [] : Difference.Between(decoded, stored.Record));
        return false;
    }

    private void CheckRules(StoredRecord stored, Record record, Hash? alternative)
    {
        if (!Enum.IsDefined(record.Kind) || !Enum.IsDefined(record.Status))
        {
            Report(ViolationClass.FieldModified, stored, "Its kind or status is unknown.");
            return;
        }
        if (record.Key != _key)
        {
            Report(ViolationClass.RecordInserted, stored, $"It is a record of the workflow {record.Key}.");
            return;
        }
        if (_previousHash is { } expected && record.PreviousHash != expected && record.PreviousHash != alternative)
        {
            Report(ViolationClass.RecordInserted, stored,
                "It does not follow from the record before: its previous_hash is another.",
                expected, record.PreviousHash);
            return;
        }
        if (ChainRules.Problem(record, _previous) is { } problem)
            Report(ViolationClass.RecordInserted, stored, problem);
        if (_previous is not null && record.RecordedAt < _previous.RecordedAt)
            Report(ViolationClass.ClockRegression, stored, "Its recorded_at is before that of the record before.");
        if (record.LeaseEpoch != 0 && record.LeaseEpoch < _leaseEpoch)
            Report(ViolationClass.ClockRegression, stored, "Its lease_epoch is lower than one before.");
    }

    private void CheckParts(StoredRecord stored, Record record)
    {
        Check("person", record.PersonDigest, record.Person is { } p ? Recomputed.Of(p) : null);
        Check("content", record.ContentDigest, record.Content is { } c ? Recomputed.Of(c) : null);
        Check("snapshot", record.SnapshotDigest, record.Snapshot is { } s ? Recomputed.Of(s) : null);

        void Check(string part, Hash expected, Hash? actual)
        {
            if (actual is null && !expected.IsZero)
                _missing.Add((stored, part));
            else if (actual is { } found && found != expected)
            {
                Report(ViolationClass.FieldModified, stored,
                    $"The values of the part \"{part}\" are not those that were recorded.", expected, found,
                    [new Difference(part, null, null)]);
            }
        }
    }

    private void CheckHead(Workflow head)
    {
        if (head.Sequence >= _next)
        {
            Report(new Violation(ViolationClass.TailTruncated, _key, _next,
                _next == head.Sequence
                    ? $"Record {_next}, the newest, is gone."
                    : $"The records {_next} to {head.Sequence}, the newest, are gone.")
            { ExpectedHash = head.HeadHash, ActualHash = _previousHash });
            return;
        }
        if (_previous is not { } last || _previousHash is not { } hash)
            return;
        if (head.HeadHash == _alternativeHash)
            hash = head.HeadHash;
        var differences = ChainRules.HeadDifferences(head, last, hash, _checkpointSequence,
            _isWhole ? _first : null);
        if (differences.Count > 0)
        {
            Report(new Violation(ViolationClass.WorkflowHeadModified, _key, 0,
                "The stored head of the workflow is not the one that its records give.")
            { Differences = differences, ExpectedHash = hash, ActualHash = head.HeadHash });
        }
    }

    private void ReportGap(long from, long to) =>
        Report(new Violation(ViolationClass.RecordMissing, _key, from,
            from == to ? $"Record {from} is gone." : $"The records {from} to {to} are gone.")
        { ExpectedHash = _previousHash });

    private void Report(ViolationClass @class, StoredRecord stored, string message,
        Hash? expected = null, Hash? actual = null, IReadOnlyList<Difference>? differences = null, long? at = null) =>
        Report(new Violation(@class, _key, at ?? stored.Record.Sequence, message)
        {
            LogIndex = stored.LogIndex,
            ExpectedHash = expected,
            ActualHash = actual,
            Differences = differences ?? [],
        });

    private void Report(Violation violation)
    {
        if (_violations.Count < ViolationsMax)
            _violations.Add(violation);
    }
}
