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
        var vote = RecordVote.Of(stored, _key, _previousHash);
        var (record, hash) = (vote.Record, vote.Hash);
        _alternativeHash = vote.Alternative;
        if (vote.Finding is { } finding)
            Report(finding);
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
        if (vote.IsSound)
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

    private void CheckRules(StoredRecord stored, Record record, Hash? alternative)
    {
        if (Enum.IsDefined(record.Kind) && Enum.IsDefined(record.Status) && record.Key != _key)
        {
            Report(ViolationClass.RecordInserted, stored, $"It is a record of the workflow {record.Key}.");
            return;
        }
        var before = _previous is { } previous ? ChainPoint.Of(previous, _previousHash ?? default) : (ChainPoint?)null;
        foreach (var problem in ChainRules.Problems(ChainStep.Of(record), before, _previousHash, alternative, _leaseEpoch))
            Report(problem.Class, stored, problem.Message, problem.Expected, problem.Actual);
    }

    private void CheckParts(StoredRecord stored, Record record)
    {
        foreach (var part in RecordParts.Check(record))
        {
            if (part.Actual is null)
                _missing.Add((stored, part.Name));
            else
                Report(part.Altered(_key, stored.Record.Sequence, stored.LogIndex));
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
        var differences = ChainRules.HeadDifferences(head, ChainPoint.Of(last, hash), _checkpointSequence,
            _isWhole && _first is { } first ? ChainStart.Of(first.Record, first.LogIndex) : null);
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
