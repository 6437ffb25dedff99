using Aegis.Core;
using Google.Protobuf;
using Google.Protobuf.Collections;

namespace Aegis.Evidence;

using Pb = Aegis.V1;

/// <summary>The head of an export, and what it proves: records by their paths, the ends of chains by signed statements.</summary>
internal sealed class ExportProofs
{
    /// <summary>Longer than any note of ours, with room for the signatures of witnesses.</summary>
    private const int NoteLengthMax = 8 * 1024;

    /// <summary>A tree of all the leaves that there can be is not higher.</summary>
    private const int PathMax = 64;

    public ExportProofs(Pb.ExportManifest manifest, IReadOnlyCollection<VerifierKey> keys)
    {
        var note = manifest.LogHead;
        Head = note.Length is > 0 and <= NoteLengthMax && SignedNote.TryParse(note) is { } signed ? LogHead.TryParse(signed.Text) : null;
        if (note.Length > 0 && Head is null)
            Damage = [Invalid("Its head is not a signed head of a log.")];
        else if (Head is { } head && (head.LogId != manifest.LogId || (ulong)head.Size != manifest.LogSize))
            Damage = [OtherHead(manifest, head)];
        if (keys.Count == 0)
            return;
        // A signature that claims to be of one of the keys and is not spoils the head, whatever the others say. And only a key of
        // the log that the head names proves it, so that there is one here where the head is verified.
        if (Head is not null && LogHead.Verify(note, keys, Ed25519Signatures.Check) is not null)
            SignedBy = keys.First(k => LogHead.Verify(note, [k], Ed25519Signatures.Check) is not null);
        else
            NotSigned = Invalid(note.Length == 0 ? "It has no signed head." : "None of the trusted keys has signed its head.");
    }

    public LogHead? Head { get; }
    public VerifierKey? SignedBy { get; }
    public ExportFinding? NotSigned { get; }
    public IReadOnlyList<ExportFinding> Damage { get; } = [];

    /// <summary>
    /// The hash that the head proves to be the record's: the one it claims, else the one that its fields give; null for neither.
    /// </summary>
    public Hash? ProvenHash(StoredRecord record, Hash fromFields, RepeatedField<ByteString> path)
    {
        if (Head is not { } head || path.Count > PathMax || path.Any(p => p.Length != Hash.Size))
            return null;
        Hash[] hashes = [.. path.Select(p => new Hash(p.Span))];
        if (Leads(record.Hash))
            return record.Hash;
        return fromFields != record.Hash && Leads(fromFields) ? fromFields : null;

        bool Leads(Hash leaf) =>
            MerkleTree.VerifyInclusion((ulong)record.LogIndex, (ulong)head.Size, leaf, hashes, head.Root);
    }

    /// <summary>What is wrong with what the log states of a workflow's last record; null for nothing, or where there is no head.</summary>
    public Violation? StatementProblem(Pb.ExportWorkflow header, WorkflowKey key, StoredRecord? last)
    {
        if (Head is not { } head)
            return null;
        var note = header.Statement;
        var said = note.Length > NoteLengthMax ? null
            : SignedBy is { } by ? WorkflowStatement.Verify(note, [by], Ed25519Signatures.Check)
            : SignedNote.TryParse(note) is { } unproven ? WorkflowStatement.TryParse(unproven.Text) : null;
        if (said is null)
        {
            return new Violation(ViolationClass.SignatureInvalid, key, 0, note.Length == 0
                ? "The log's signed statement of its last record is missing."
                : "The statement of its last record is not one that the log's key has signed.")
            { Differences = [new Difference("statement", null, null)] };
        }
        if (said.LogId != head.LogId || said.LogSize != head.Size || said.Key != key)
        {
            return new Violation(ViolationClass.WorkflowHeadModified, key, 0,
                $"The statement is of {said.Key} at size {said.LogSize} of {said.LogId}.")
            { Differences = [new Difference("statement", null, null)] };
        }
        var (sequence, hash) = (last?.Record.Sequence ?? 0, last?.Hash ?? default);
        if (said.Sequence > sequence)
        {
            return new Violation(ViolationClass.TailTruncated, key, sequence + 1,
                $"The log's statement names record {said.Sequence} as its last, and the export ends with {sequence}.")
            { ExpectedHash = said.Hash, ActualHash = hash };
        }
        return said.Sequence == sequence && said.Hash == hash
            ? null
            : new Violation(ViolationClass.WorkflowHeadModified, key, sequence,
                "Its last record is not the one that the log's statement names.")
            {
                ExpectedHash = said.Hash,
                ActualHash = hash,
                Differences = said.Sequence == sequence
                    ? [new Difference("head_hash", said.Hash.ToString(), hash.ToString())]
                    : [new Difference("sequence", Refusal.Text(said.Sequence), Refusal.Text(sequence))],
            };
    }

    private static ExportFinding Invalid(string message) => new(Reason.InvalidField,
        new Violation(ViolationClass.SignatureInvalid, ExportReport.Whole, 0, message)
        { Differences = [new Difference("log_head", null, null)] });

    private static ExportFinding OtherHead(Pb.ExportManifest manifest, LogHead head) => new(Reason.InvalidField,
        new Violation(ViolationClass.FieldModified, ExportReport.Whole, 0, "The manifest tells another log or size than its head.")
        {
            Differences = head.LogId != manifest.LogId
                ? [new Difference("log_id", head.LogId, manifest.LogId)]
                : [new Difference("log_size", Refusal.Text(head.Size), $"{manifest.LogSize}")],
        });
}
