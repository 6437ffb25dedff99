using Aegis.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>What is known of one workflow of an export once all of it was read.</summary>
internal sealed class ExportedWorkflow
{
    public required WorkflowKey Key { get; init; }
    public required Pb.ExportWorkflow Header { get; init; }

    /// <summary>Where its first record or snapshot begins in the file.</summary>
    public required long Position { get; init; }

    public string LogId { get; set; } = "";
    public WorkflowStatus Status { get; set; }

    /// <summary>The recorded_at of its last record.</summary>
    public long RecordedAt { get; set; }

    /// <summary>Where each of its snapshots begins in the file.</summary>
    public Dictionary<Hash, long> Snapshots { get; } = [];

    /// <summary>The sequences of the records that carry each snapshot.</summary>
    public Dictionary<Hash, List<long>> Carriers { get; } = [];

    /// <summary>The ERASURE records, by sequence.</summary>
    public List<(long Sequence, Erasure Erasure)> Erasures { get; } = [];

    /// <summary>Why it is not taken; null when it can be.</summary>
    public Refusal? Refusal { get; set; }

    /// <summary>Whether the bytes of a snapshot stay: some record carries them that no ERASURE of the chain covers.</summary>
    public bool Keeps(Hash sha256)
    {
        if (!_kept.TryGetValue(sha256, out var keeps))
        {
            _kept[sha256] = keeps = Carriers.TryGetValue(sha256, out var carriers)
                && carriers.Exists(sequence => !Erasures.Exists(e => e.Erasure.CoversBytes(sequence)));
        }
        return keeps;
    }

    // Once the file was read; asked for every record.
    private readonly Dictionary<Hash, bool> _kept = [];
}

/// <summary>
/// Reads an export once, from end to end, and judges it: a file that is not whole is refused as such, a workflow that does
/// not verify is refused alone.
/// </summary>
internal static class ExportCheck
{
    /// <exception cref="FormatException">The file is not a whole export.</exception>
    public static List<ExportedWorkflow> Read(ExportFile file, CancellationToken cancellationToken)
    {
        file.Position = 0;
        if (file.Read()?.Manifest is not { } manifest)
            throw new FormatException("it does not begin with a manifest");
        if (manifest.Format != Exporter.Format)
            throw new FormatException($"its format is \"{manifest.Format}\", not \"{Exporter.Format}\"");
        var workflows = new List<ExportedWorkflow>();
        WorkflowCheck? current = null;
        ulong records = 0;
        while (true)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var begin = file.Position;
            var chunk = file.Read() ?? throw new FormatException("the export ends early: it has no trailer");
            switch (chunk.PartCase)
            {
                case Pb.ExportChunk.PartOneofCase.Workflow:
                    current?.Complete();
                    current = new WorkflowCheck(chunk.Workflow, file.Position);
                    workflows.Add(current.Workflow);
                    break;
                case Pb.ExportChunk.PartOneofCase.Snapshot when current is not null:
                    current.Add(chunk.Snapshot, begin);
                    break;
                case Pb.ExportChunk.PartOneofCase.Record when current is not null && chunk.Record.Record is not null:
                    current.Add(chunk.Record.Record);
                    records++;
                    break;
                case Pb.ExportChunk.PartOneofCase.Trailer:
                    current?.Complete();
                    CheckTrailer(file, begin, chunk.Trailer, workflows.Count, records);
                    return workflows;
                default:
                    throw new FormatException($"the message at byte {begin} does not belong there");
            }
        }
    }

    private static void CheckTrailer(ExportFile file, long begin, Pb.ExportTrailer trailer, int workflows, ulong records)
    {
        if (file.Read() is not null)
            throw new FormatException("something follows the trailer");
        if (trailer.Sha256.Length != Hash.Size || new Hash(trailer.Sha256.Span) != file.HashOf(begin))
            throw new FormatException("its SHA-256 is not that of the trailer: it was damaged on the way");
        if (trailer.Workflows != (ulong)workflows || trailer.Records != records)
            throw new FormatException("it does not hold as many workflows and records as the trailer says");
    }

    private sealed class WorkflowCheck
    {
        private readonly ChainVerifier _verifier;
        private readonly Dictionary<Hash, (Hash Actual, long Size)> _snapshots = [];
        private readonly SnapshotAssembly _assembly = new();
        private readonly HashSet<string> _requestIds = [];
        private long _snapshotPosition;
        private StoredRecord? _first;
        private StoredRecord? _last;

        public WorkflowCheck(Pb.ExportWorkflow header, long position)
        {
            var key = new WorkflowKey(header.Namespace, header.WorkflowId);
            Workflow = new ExportedWorkflow { Key = key, Header = header, Position = position };
            _verifier = new ChainVerifier(key);
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
                Refuse(Reason.SnapshotCorrupt, "The bytes of a snapshot have another SHA-256 than the one it comes under.");
            _snapshots[whole.Sha256] = (actual, whole.Content.Length);
            Workflow.Snapshots.TryAdd(whole.Sha256, _snapshotPosition);
        }

        public void Add(Pb.Record message)
        {
            if (_assembly.IsOpen)
                Refuse(Reason.SnapshotCorrupt, $"A snapshot is not whole before record {message.Sequence}.");
            StoredRecord record;
            try
            {
                record = message.ToStoredRecord();
            }
            catch (Exception e) when (e is FormatException or ArgumentException or OverflowException)
            {
                Refuse(Reason.InvalidField, $"Record {message.Sequence} is malformed: {e.Message}");
                return;
            }
            if (RecordLimits.Problem(record.Record) is { } problem)
                Refuse(Reason.InvalidField, $"Record {message.Sequence}: {problem}.");
            if (record.Record.RequestId.Length > 0 && !_requestIds.Add(record.Record.RequestId))
                Refuse(Reason.InvalidField, $"Record {message.Sequence}: request_id was used by a record before.");
            _verifier.Add(record);
            if (record.Record.Snapshot is { } part)
            {
                _verifier.AddSnapshot(record, _snapshots.TryGetValue(part.Sha256, out var found) ? found : null);
                if (!Workflow.Carriers.TryGetValue(part.Sha256, out var carriers))
                    Workflow.Carriers[part.Sha256] = carriers = [];
                carriers.Add(record.Record.Sequence);
            }
            if (Erasure.Of(record.Record) is { } erasure)
                Workflow.Erasures.Add((record.Record.Sequence, erasure));
            Workflow.LogId = record.Record.LogId;
            Workflow.Status = record.Record.Status;
            Workflow.RecordedAt = record.Record.RecordedAt;
            _first ??= record;
            _last = record;
        }

        public void Complete()
        {
            if (_assembly.IsOpen)
                Refuse(Reason.SnapshotCorrupt, "A snapshot is not whole.");
            if (_verifier.Complete(null) is [var first, ..])
                Refuse(Reason.ChainBroken, $"It does not verify, at sequence {first.Sequence}: {first.Message}");
            var header = Workflow.Header;
            if (_last is null || header.Records != (ulong)_last.Record.Sequence
                || header.HeadHash.Length != Hash.Size || new Hash(header.HeadHash.Span) != _last.Hash)
            {
                Refuse(Reason.ChainBroken, "Its records are not those that its header says.");
            }
            CheckOrigin(header.ForkedFrom);
        }

        /// <summary>Of a fork's origin only the hash is in the chain: the first record follows from it.</summary>
        private void CheckOrigin(Pb.ForkPoint? fork)
        {
            if (fork is not null && (fork.Hash.Length != Hash.Size || fork.Sequence is 0 or > long.MaxValue
                || fork.WorkflowId.Length == 0 || Limits.Problem(fork.WorkflowId, Limits.NameBytesMax) is not null))
            {
                Refuse(Reason.InvalidField, "Its forked_from is malformed.");
                return;
            }
            var origin = fork is null ? Hash.Zero : new Hash(fork.Hash.Span);
            if (_first?.Record.PreviousHash != origin || (fork is not null && origin.IsZero))
                Refuse(Reason.ChainBroken, "Its first record does not follow from what forked_from names.");
        }

        private void Refuse(Reason reason, string message) =>
            Workflow.Refusal ??= new Refusal(reason, message, Refusal.Of(Workflow.Key));
    }
}

/// <summary>Puts the parts of one snapshot after the other together.</summary>
internal sealed class SnapshotAssembly
{
    private byte[]? _content;
    private Hash _sha256;
    private int _length;

    public bool IsOpen => _content is not null;

    /// <summary>The snapshot, once its last part has come.</summary>
    /// <exception cref="FormatException">The part does not follow from the one before.</exception>
    public (Hash Sha256, byte[] Content)? Add(Pb.ExportSnapshotPart part)
    {
        if (part.Sha256.Length != Hash.Size || part.Size > Limits.SnapshotBytesMax)
            throw new FormatException("a part of a snapshot is malformed");
        var sha256 = new Hash(part.Sha256.Span);
        if (_content is null)
            (_content, _sha256, _length) = (new byte[part.Size], sha256, 0);
        if (sha256 != _sha256 || part.Offset != (ulong)_length || part.Size != (ulong)_content.Length
            || part.Data.Length > _content.Length - _length)
        {
            throw new FormatException("the parts of a snapshot are out of order");
        }
        part.Data.Span.CopyTo(_content.AsSpan(_length));
        _length += part.Data.Length;
        if (_length < _content.Length)
            return null;
        var whole = (_sha256, _content);
        _content = null;
        return whole;
    }
}

/// <summary>The limits of the contract, for records that did not come through it.</summary>
internal static class RecordLimits
{
    public static string? Problem(Record record)
    {
        foreach (var (field, value, max, required) in new[]
        {
            ("log_id", record.LogId, Limits.NameBytesMax, true),
            ("namespace", record.Namespace, Limits.NameBytesMax, true),
            ("workflow_id", record.WorkflowId, Limits.NameBytesMax, true),
            ("workflow_type", record.WorkflowType, Limits.NameBytesMax, true),
            ("from_state", record.FromState, Limits.NameBytesMax, record.Kind != RecordKind.Started),
            ("to_state", record.ToState, Limits.NameBytesMax, true),
            ("request_id", record.RequestId, Limits.RequestIdBytesMax, false),
            ("actor", record.Person?.Actor ?? "", Limits.NameBytesMax, false),
            ("principal", record.Person?.Principal ?? "", Limits.PrincipalBytesMax, false),
            ("reason", record.Content?.Reason ?? "", Limits.ReasonBytesMax, false),
            ("snapshot_content_type", record.Snapshot?.ContentType ?? "", Limits.NameBytesMax, false),
        })
        {
            if (required && value.Length == 0)
                return $"{field} is required";
            if (Limits.Problem(value, max) is { } problem)
                return $"{field} {problem}";
        }
        // An epoch grows by one or to the time in microseconds: one above every time would leave no room to grow.
        if (record.LeaseEpoch > Limits.TimeMax)
            return "lease_epoch is out of range";
        if (record.OccurredAt is < 0 or > Limits.TimeMax || record.RecordedAt is < 1 or > Limits.TimeMax)
            return "a time is out of range";
        if (record.Content?.Metadata is not { } metadata)
            return null;
        if (metadata.Any(e => Limits.Problem(e.Key + e.Value, int.MaxValue) is not null))
            return "metadata must be valid UTF-8 without U+0000";
        return metadata.Count > Limits.MetadataEntriesMax || metadata.ByteCount() > Limits.MetadataBytesMax
            ? "metadata is too large"
            : null;
    }
}
