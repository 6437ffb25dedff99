using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;

namespace Aegis.Client;

using Pb = Aegis.V1;

/// <summary>Holds what a server answered against what it must be. All of it is recomputed; no stored hash is trusted.</summary>
internal static class Answers
{
    /// <summary>A record whose digests and hash are those of its own fields.</summary>
    /// <exception cref="IntegrityException">It is not; the message names what does not fit.</exception>
    public static StoredRecord Record(Pb.Record? message, WorkflowKey key)
    {
        if (message is null)
            throw new IntegrityException("ANSWER", $"The answer about {key} has no record.");
        StoredRecord stored;
        try
        {
            stored = message.ToStoredRecord();
        }
        catch (Exception e) when (e is FormatException or ArgumentException or OverflowException)
        {
            throw new IntegrityException("RECORD", $"Record {message.Sequence} of {key} is malformed: {e.Message}");
        }
        var record = stored.Record;
        if (record.Key != key)
            throw new IntegrityException("ANSWER", $"The answer about {key} has a record of {record.Key}.");
        CheckPart(record, "person (actor, principal)", record.PersonDigest, record.Person is { } p ? RecordFormat.DigestOf(p) : null);
        CheckPart(record, "content (reason, metadata)", record.ContentDigest, record.Content is { } c ? RecordFormat.DigestOf(c) : null);
        CheckPart(record, "snapshot (content type, size, sha256)", record.SnapshotDigest, record.Snapshot is { } s ? RecordFormat.DigestOf(s) : null);
        var hash = RecordFormat.HashOf(stored.Encoded.Span);
        if (hash != stored.Hash)
            throw new IntegrityException("RECORD", $"Record {record.Sequence} of {key}: its fields give the hash {hash}, and it says {stored.Hash}.");
        if (!Enum.IsDefined(record.Kind) || !Enum.IsDefined(record.Status))
            throw new IntegrityException("RECORD", $"Record {record.Sequence} of {key} has the kind {message.Kind} and the status {message.Status}, and one of them is none.");
        return stored;
    }

    /// <summary>The bytes of the snapshot that a record carries.</summary>
    /// <exception cref="IntegrityException">They are not those that were recorded.</exception>
    public static EncodedState Snapshot(StoredRecord stored, Pb.Snapshot? snapshot)
    {
        var record = stored.Record;
        if (snapshot is null || record.Snapshot is not { } part)
            throw new IntegrityException("SNAPSHOT", $"Record {record.Sequence} of {record.Key} and its snapshot do not come together.");
        var sha256 = Hash.Of(snapshot.Content.Span);
        if (sha256 != part.Sha256 || snapshot.Content.Length != part.Size || snapshot.ContentType != part.ContentType)
        {
            throw new IntegrityException("SNAPSHOT",
                $"The snapshot of record {record.Sequence} of {record.Key} is not the one that was recorded: "
                + $"it has the SHA-256 {sha256}, and {part.Sha256} was recorded.");
        }
        return new EncodedState(snapshot.ContentType, snapshot.Content.Memory);
    }

    /// <summary>A chain from some record on, as it should follow one from the other up to the workflow's head.</summary>
    /// <exception cref="IntegrityException">It does not.</exception>
    public static void Chain(Pb.Workflow head, WorkflowKey key, IReadOnlyList<StoredRecord> records)
    {
        var verifier = new ChainVerifier(key, records[0].Record.Sequence);
        foreach (var record in records)
            verifier.Add(record);
        if (verifier.Complete(null) is { Count: > 0 } violations)
            throw new IntegrityException("RECORD", $"The chain of {key} is broken: record {violations[0].Sequence}: {violations[0].Message}", violations);
        var last = records[^1];
        var said = (head.WorkflowType, head.State, head.Status, head.Sequence, HashOf(head.HeadHash));
        var recorded = (last.Record.WorkflowType, last.Record.ToState, (Pb.WorkflowStatus)last.Record.Status, (ulong)last.Record.Sequence, last.Hash);
        if (said != recorded)
            throw new IntegrityException("RECORD", $"The head of {key} is said to be {said}, and its records give {recorded}.");
    }

    /// <summary>That a write recorded what was sent.</summary>
    /// <exception cref="IntegrityException">It did not; the message names the fields.</exception>
    public static void Sent(StoredRecord stored, SentRecord sent, bool isReplayed)
    {
        var record = stored.Record;
        var wrong = new List<string>();
        Check("kind", record.Kind == sent.Kind);
        Check("workflow_type", sent.WorkflowType is null || record.WorkflowType == sent.WorkflowType);
        Check("from_state", sent.FromState is null || record.FromState == sent.FromState);
        Check("to_state", sent.ToState is null || record.ToState == sent.ToState);
        Check("status", sent.Status is null || record.Status == sent.Status);
        Check("request_id", record.RequestId == sent.RequestId);
        Check("occurred_at", record.OccurredAt == sent.OccurredAt);
        // Of a record that was made earlier, lease and place are those of then, and values may have been erased since.
        Check("lease_epoch", isReplayed || sent.LeaseEpoch is null || record.LeaseEpoch == sent.LeaseEpoch);
        Check("previous_hash", isReplayed || sent.PreviousHash is null || record.PreviousHash == sent.PreviousHash);
        Check("actor", isReplayed && record.Person is null || record.Person?.Actor == sent.Actor);
        var isContentErased = isReplayed && record.Content is null && !record.ContentDigest.IsZero;
        Check("reason", isContentErased || (record.Content?.Reason ?? "") == sent.Reason);
        Check("metadata", isContentErased || new Metadata(sent.Metadata).Equals(record.Content?.Metadata ?? Metadata.Empty));
        Check("snapshot", sent.Snapshot is null
            ? sent.MayTakeSnapshotOver || !record.IsCheckpoint
            : isReplayed && record is { IsCheckpoint: true, Snapshot: null }
                || (record.Snapshot?.Sha256 == HashOf(sent.Snapshot.Sha256) && record.Snapshot.ContentType == sent.Snapshot.ContentType));
        if (wrong.Count > 0)
            throw new IntegrityException("ANSWER", $"Record {record.Sequence} of {record.Key} is not what was sent: {string.Join(", ", wrong)}.");

        void Check(string field, bool isRight)
        {
            if (!isRight)
                wrong.Add(field);
        }
    }

    /// <summary>That a receipt is one of this record, and that its path leads to the head it bears.</summary>
    /// <exception cref="IntegrityException">It is not, or it does not.</exception>
    public static void Receipt(Pb.Receipt? receipt, StoredRecord stored, LogHead head)
    {
        if (receipt is null || HashOf(receipt.RecordHash) != stored.Hash || receipt.LogIndex != (ulong)stored.LogIndex)
            throw new IntegrityException("RECEIPT", $"The receipt of record {stored.Record.Sequence} of {stored.Record.Key} is of another record.");
        if (!MerkleTree.VerifyInclusion(receipt.LogIndex, (ulong)head.Size, stored.Hash, LogTrust.PathOf(receipt.InclusionPath), head.Root))
        {
            throw new IntegrityException("INCLUSION_PATH",
                $"The inclusion path of record {stored.Record.Sequence} of {stored.Record.Key} does not lead to the head of {head.Size} records.");
        }
    }

    /// <summary>Bytes that are no hash are equal to none.</summary>
    public static Hash HashOf(ByteString bytes) => bytes.Length == Hash.Size ? new Hash(bytes.Span) : Impossible;

    private static readonly Hash Impossible = new([.. Enumerable.Repeat((byte)0xff, Hash.Size)]);

    /// <summary>Values that are gone were erased: the digest stays, and only the rest of the chain can tell whether rightly.</summary>
    private static void CheckPart(Record record, string part, Hash recorded, Hash? found)
    {
        if (found is { } digest && digest != recorded)
        {
            throw new IntegrityException("RECORD",
                $"Record {record.Sequence} of {record.Key}: the part {part} is not what was recorded: it gives the digest {digest}, and {recorded} was recorded.");
        }
    }
}

/// <summary>What a write asked to record; null where the server decides.</summary>
internal sealed record SentRecord(RecordKind Kind, string RequestId)
{
    public string? WorkflowType { get; init; }
    public string? FromState { get; init; }
    public string? ToState { get; init; }
    public WorkflowStatus? Status { get; init; }
    public long? LeaseEpoch { get; init; }
    public long OccurredAt { get; init; }
    public Hash? PreviousHash { get; init; }
    public string Actor { get; init; } = "";
    public string Reason { get; init; } = "";
    public IReadOnlyDictionary<string, string> Metadata { get; init; } = new Dictionary<string, string>();
    public Pb.Snapshot? Snapshot { get; init; }

    /// <summary>A fork without a snapshot of its own takes its source's.</summary>
    public bool MayTakeSnapshotOver { get; init; }
}
