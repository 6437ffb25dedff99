using Aegis.Core;

namespace Aegis.Evidence;

using Pb = Aegis.V1;

/// <summary>One thing that is wrong with an export.</summary>
/// <param name="Reason">As the service names it when it refuses to take the workflow.</param>
/// <param name="Violation">What and where; without a workflow it concerns the export as a whole.</param>
public sealed record ExportFinding(Reason Reason, Violation Violation);

/// <summary>What an export is found to be, once all of it was read.</summary>
public sealed class ExportReport
{
    /// <summary>Names the export as a whole, where a violation names a workflow.</summary>
    public static readonly WorkflowKey Whole = new("", "");

    public required Pb.ExportManifest Manifest { get; init; }

    /// <summary>The head that its inclusion paths lead to, trusted or not; null when it has none.</summary>
    public required LogHead? Head { get; init; }

    /// <summary>The key that signed the head, of those that are trusted; null when none of them did.</summary>
    public required VerifierKey? SignedBy { get; init; }

    /// <summary>That keys are trusted and none of them signed the head; null otherwise.</summary>
    public required ExportFinding? NotSigned { get; init; }

    /// <summary>What is wrong with the manifest or the trailer.</summary>
    public required IReadOnlyList<ExportFinding> Damage { get; init; }

    public required IReadOnlyList<ExportedWorkflow> Workflows { get; init; }
    public required long Records { get; init; }
    public required long Snapshots { get; init; }

    /// <summary>All that is wrong, what concerns the export as a whole first.</summary>
    public IEnumerable<ExportFinding> Findings =>
        (NotSigned is { } unsigned ? [unsigned] : Array.Empty<ExportFinding>())
            .Concat(Damage)
            .Concat(Workflows.SelectMany(w => w.Findings));

    /// <summary>Whether nothing is wrong: with a trusted key this proves all of it, without one it only agrees with itself.</summary>
    public bool IsIntact => !Findings.Any();

    /// <summary>Whether a trusted key proves every record of it, and that each history goes as far as the log knew.</summary>
    public bool IsProven => SignedBy is not null && IsIntact;
}

/// <summary>What is known of one workflow of an export once all of it was read.</summary>
public sealed class ExportedWorkflow
{
    private readonly List<ExportFinding> _findings = [];

    // Once the file was read; asked for every record.
    private readonly Dictionary<Hash, bool> _kept = [];

    public required WorkflowKey Key { get; init; }
    public required Pb.ExportWorkflow Header { get; init; }

    /// <summary>Where its first record or snapshot begins in the file.</summary>
    public required long Position { get; init; }

    /// <summary>The log its records were first written to.</summary>
    public string LogId { get; internal set; } = "";

    public WorkflowStatus Status { get; internal set; }

    /// <summary>The recorded_at of its last record.</summary>
    public long RecordedAt { get; internal set; }

    /// <summary>Where each of its snapshots begins in the file.</summary>
    public Dictionary<Hash, long> Snapshots { get; } = [];

    /// <summary>The sequences of the records that carry each snapshot.</summary>
    public Dictionary<Hash, List<long>> Carriers { get; } = [];

    /// <summary>The ERASURE records, by sequence.</summary>
    public List<(long Sequence, Erasure Erasure)> Erasures { get; } = [];

    /// <summary>What is wrong with it; that it is empty means that it may be taken.</summary>
    public IReadOnlyList<ExportFinding> Findings => _findings;

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

    internal void Add(ExportFinding finding)
    {
        if (_findings.Count < ChainVerifier.ViolationsMax)
            _findings.Add(finding);
    }
}
