using Aegis.Core;

namespace Aegis.Evidence;

using Pb = Aegis.V1;

/// <summary>Judges one workflow of an export, message by message.</summary>
internal sealed class WorkflowCheck
{
    private readonly ChainVerifier _verifier;
    private readonly ExportProofs _proofs;
    private readonly Dictionary<Hash, (Hash Actual, long Size)> _snapshots = [];
    private readonly SnapshotAssembly _assembly = new();
    private readonly HashSet<string> _requestIds = [];

    // Records whose fields do not give the hash they claim, and what stands around them in the chain.
    private readonly List<AlteredRecord> _altered = [];
    private long _snapshotPosition;
    private StoredRecord? _first;
    private StoredRecord? _last;

    public WorkflowCheck(Pb.ExportWorkflow header, long position, ExportProofs proofs)
    {
        var key = new WorkflowKey(header.Namespace, header.WorkflowId);
        Workflow = new ExportedWorkflow { Key = key, Header = header, Position = position };
        (_verifier, _proofs) = (new ChainVerifier(key), proofs);
    }

    public ExportedWorkflow Workflow { get; }

    public void Add(Pb.ExportSnapshotPart part, long position)
    {
        if (!_assembly.IsOpen)
            _snapshotPosition = position;
        if (_assembly.Add(part) is not { } whole)
            return;
        var actual = Hash.Of(whole.Content);
        if (actual != whole.Sha256)
        {
            Report(Reason.SnapshotCorrupt, new Violation(ViolationClass.SnapshotModified, Workflow.Key, 0,
                "The bytes of a snapshot have another SHA-256 than the one it comes under.")
            { ExpectedHash = whole.Sha256, ActualHash = actual });
        }
        _snapshots[whole.Sha256] = (actual, whole.Content.Length);
        Workflow.Snapshots.TryAdd(whole.Sha256, _snapshotPosition);
    }

    public void Add(Pb.ExportRecord message)
    {
        if (_assembly.IsOpen)
            ReportUnfinishedSnapshot($"A snapshot is not whole before record {message.Record.Sequence}.");
        StoredRecord record;
        try
        {
            record = message.Record.ToStoredRecord();
        }
        catch (Exception e) when (e is FormatException or ArgumentException or OverflowException)
        {
            Report(Reason.InvalidField, new Violation(ViolationClass.FieldModified, Workflow.Key,
                (long)Math.Min(message.Record.Sequence, long.MaxValue), $"Record {message.Record.Sequence} is malformed: {e.Message}"));
            return;
        }
        var sequence = record.Record.Sequence;
        if ((RecordLimits.Undefined(record.Record) ?? RecordLimits.Problem(record.Record)) is { } problem)
        {
            Report(Reason.InvalidField, new Violation(ViolationClass.FieldModified, Workflow.Key, sequence,
                $"Record {sequence}: {problem}."));
        }
        if (record.Record.RequestId.Length > 0 && !_requestIds.Add(record.Record.RequestId))
        {
            Report(Reason.InvalidField, new Violation(ViolationClass.RecordInserted, Workflow.Key, sequence,
                $"Record {sequence}: request_id was used by a record before."));
        }
        CheckProof(record, message);
        _verifier.Add(record);
        if (record.Record.Snapshot is { } part)
        {
            _verifier.AddSnapshot(record, _snapshots.TryGetValue(part.Sha256, out var found) ? found : null);
            if (!Workflow.Carriers.TryGetValue(part.Sha256, out var carriers))
                Workflow.Carriers[part.Sha256] = carriers = [];
            carriers.Add(sequence);
        }
        if (Erasure.Of(record.Record) is { } erasure)
            Workflow.Erasures.Add((sequence, erasure));
        Workflow.LogId = record.Record.LogId;
        Workflow.Status = record.Record.Status;
        Workflow.RecordedAt = record.Record.RecordedAt;
        _first ??= record;
        _last = record;
    }

    public void Complete()
    {
        if (_assembly.IsOpen)
            ReportUnfinishedSnapshot("A snapshot is not whole.");
        foreach (var violation in AlteredRecord.Explain(_verifier.Complete(null), _altered))
            Report(Reason.ChainBroken, violation);
        CheckHeader();
        if (_proofs.StatementProblem(Workflow.Header, Workflow.Key, _last) is { } contradicted)
            Report(Reason.ChainBroken, contradicted);
        CheckOrigin(Workflow.Header.ForkedFrom);
    }

    private void CheckProof(StoredRecord record, Pb.ExportRecord message)
    {
        var fromFields = RecordFormat.HashOf(record.Encoded.Span);
        var proven = _proofs.ProvenHash(record, fromFields, message.InclusionPath);
        if (_altered.LastOrDefault() is { Next: null } before)
            before.Next = record;
        if (fromFields != record.Hash && _altered.Count < ChainVerifier.ViolationsMax)
            _altered.Add(new AlteredRecord(record, _last, Workflow.Key) { IsHashProven = proven == record.Hash });
        if (_proofs.Head is { } head && proven is null)
        {
            Report(Reason.ChainBroken, new Violation(ViolationClass.RecordInserted, Workflow.Key, record.Record.Sequence,
                $"Its inclusion path does not lead to the head: the log of {head.Size} records has another record at "
                + $"{record.LogIndex}, or the path was altered.")
            {
                LogIndex = record.LogIndex,
                ActualHash = record.Hash,
                Differences = [new Difference("inclusion_path", null, null)],
            });
        }
    }

    private void CheckHeader()
    {
        var header = Workflow.Header;
        var records = _last?.Record.Sequence ?? 0;
        if (header.Records > (ulong)records || _last is null)
        {
            Report(Reason.ChainBroken, new Violation(ViolationClass.TailTruncated, Workflow.Key, records + 1,
                $"Its header tells of {header.Records} records, and the last that follows is {records}."));
            return;
        }
        Difference[] differences =
        [
            new("records", $"{header.Records}", Refusal.Text(records)),
            new("head_hash", Convert.ToHexStringLower(header.HeadHash.Span), _last.Hash.ToString()),
        ];
        if (differences.Any(d => d.Original != d.Found))
        {
            Report(Reason.ChainBroken, new Violation(ViolationClass.WorkflowHeadModified, Workflow.Key, 0,
                "Its records are not those that its header says.")
            { Differences = [.. differences.Where(d => d.Original != d.Found)] });
        }
    }

    /// <summary>Of a fork's origin only the hash is in the chain: the first record follows from it.</summary>
    private void CheckOrigin(Pb.ForkPoint? fork)
    {
        if (fork is not null && (fork.Hash.Length != Hash.Size || fork.Sequence is 0 or > long.MaxValue
            || fork.WorkflowId.Length == 0 || Limits.Problem(fork.WorkflowId, Limits.NameBytesMax) is not null))
        {
            Report(Reason.InvalidField, Origin("Its forked_from is malformed."));
            return;
        }
        var origin = fork is null ? Hash.Zero : new Hash(fork.Hash.Span);
        if (_first?.Record.PreviousHash != origin || (fork is not null && origin.IsZero))
        {
            Report(Reason.ChainBroken, Origin("Its first record does not follow from what forked_from names.") with
            {
                ExpectedHash = _first?.Record.PreviousHash,
                ActualHash = origin,
            });
        }
    }

    private Violation Origin(string message) => new(ViolationClass.WorkflowHeadModified, Workflow.Key, 0, message)
    {
        Differences = [new Difference("forked_from", null, null)],
    };

    private void ReportUnfinishedSnapshot(string message) => Report(Reason.SnapshotCorrupt,
        new Violation(ViolationClass.SnapshotModified, Workflow.Key, 0, message));

    private void Report(Reason reason, Violation violation) => Workflow.Add(new ExportFinding(reason, violation));
}
