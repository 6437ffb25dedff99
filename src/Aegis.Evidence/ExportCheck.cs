using Aegis.Core;

namespace Aegis.Evidence;

using Pb = Aegis.V1;

/// <summary>
/// Reads an export once, from end to end, and judges it, the same for a server that takes it and for whoever holds the file and
/// trusts nothing but keys. What cannot be read as an export is no finding: it is an exception.
/// </summary>
public static class ExportCheck
{
    /// <param name="reader">At the beginning.</param>
    /// <param name="keys">The keys that are trusted. Without any, proofs are still compared with the head they come with.</param>
    /// <param name="cancellationToken">Ends the reading.</param>
    /// <exception cref="FormatException">It is not a whole export.</exception>
    public static ExportReport Read(
        ExportReader reader, IReadOnlyCollection<VerifierKey> keys, CancellationToken cancellationToken)
    {
        if (reader.Read()?.Manifest is not { } manifest)
            throw new FormatException("it does not begin with a manifest");
        if (manifest.Format != ExportReader.Format)
            throw new FormatException($"its format is \"{manifest.Format}\", not \"{ExportReader.Format}\"");
        var proofs = new ExportProofs(manifest, keys);
        var workflows = new List<ExportedWorkflow>();
        WorkflowCheck? current = null;
        long records = 0, snapshots = 0;
        while (true)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var begin = reader.Position;
            var chunk = reader.Read() ?? throw new FormatException("it ends early: it has no trailer");
            switch (chunk.PartCase)
            {
                case Pb.ExportChunk.PartOneofCase.Workflow:
                    Complete();
                    current = new WorkflowCheck(chunk.Workflow, reader.Position, proofs);
                    workflows.Add(current.Workflow);
                    break;
                case Pb.ExportChunk.PartOneofCase.Snapshot when current is not null:
                    current.Add(chunk.Snapshot, begin);
                    break;
                case Pb.ExportChunk.PartOneofCase.Record when current is not null && chunk.Record.Record is not null:
                    current.Add(chunk.Record);
                    records++;
                    break;
                case Pb.ExportChunk.PartOneofCase.Trailer:
                    Complete();
                    return new ExportReport
                    {
                        Manifest = manifest,
                        Head = proofs.Head,
                        SignedBy = proofs.SignedBy,
                        NotSigned = proofs.NotSigned,
                        Damage = [.. proofs.Damage, .. DamageOf(reader, chunk.Trailer, workflows.Count, records, snapshots)],
                        Workflows = workflows,
                        Records = records,
                        Snapshots = snapshots,
                    };
                default:
                    throw new FormatException($"the message at byte {begin} does not belong there");
            }
        }

        void Complete()
        {
            current?.Complete();
            snapshots += current?.Workflow.Snapshots.Count ?? 0;
        }
    }

    private static IEnumerable<ExportFinding> DamageOf(
        ExportReader reader, Pb.ExportTrailer trailer, long workflows, long records, long snapshots)
    {
        var actual = reader.HashBefore;
        if (reader.Read() is not null)
            throw new FormatException("something follows the trailer");
        if (trailer.Sha256.Length != Hash.Size || new Hash(trailer.Sha256.Span) != actual)
        {
            var differences = new Difference("sha256", Convert.ToHexStringLower(trailer.Sha256.Span), actual.ToString());
            yield return Of("Its SHA-256 is not that of the trailer: it was altered, or damaged on the way.", differences);
        }
        Difference[] counts =
        [
            Count("workflows", trailer.Workflows, workflows),
            Count("records", trailer.Records, records),
            Count("snapshots", trailer.Snapshots, snapshots),
        ];
        if (counts.Any(c => c.Original != c.Found))
            yield return Of("It does not hold as much as its trailer says.", [.. counts.Where(c => c.Original != c.Found)]);

        static Difference Count(string name, ulong said, long found) => new(name, $"{said}", Refusal.Text(found));

        static ExportFinding Of(string message, params Difference[] differences) => new(Reason.InvalidField,
            new Violation(ViolationClass.FieldModified, ExportReport.Whole, 0, message) { Differences = differences });
    }
}
