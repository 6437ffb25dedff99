namespace Aegis.Core;

/// <summary>Something to be decided in the order of the log. Fields and sizes were checked before.</summary>
public abstract record Command
{
    /// <summary>The workflows whose heads the decision needs.</summary>
    public abstract IEnumerable<WorkflowKey> Workflows { get; }

    /// <summary>What the command weighs in a batch: the bytes it brings, and what it costs anyhow.</summary>
    public abstract int Weight { get; }
}

/// <summary>A command that adds one record to one workflow.</summary>
public abstract record WriteCommand : Command
{
    public required WorkflowKey Key { get; init; }

    /// <summary>Empty for none.</summary>
    public required string RequestId { get; init; }

    /// <summary>Microseconds since 1970; 0 when the caller said nothing.</summary>
    public required long OccurredAt { get; init; }

    /// <summary>The size of the log that the caller has seen; 0 for none.</summary>
    public required long KnownLogSize { get; init; }

    /// <summary>Whether the caller wants the path that proves the record's place in the log.</summary>
    public bool IncludeProof { get; init; }

    /// <summary>The parts, salted and digested in the caller's thread, off the writer's path.</summary>
    public required Parts Parts { get; init; }

    public Bytes16? RequestKey => RequestId.Length == 0 ? null : RecordFormat.RequestKey(Key, RequestId);

    public override IEnumerable<WorkflowKey> Workflows => [Key];

    public override int Weight => 1024 + Parts.SnapshotContent.Length + Parts.Bytes;
}

/// <summary>The erasable parts of a record to be, their digests, and the snapshot's bytes.</summary>
public sealed record Parts
{
    public Parts(Person person, Content? content, SnapshotPart? snapshot, ReadOnlyMemory<byte> snapshotContent)
    {
        (Person, Content, Snapshot, SnapshotContent) = (person, content, snapshot, snapshotContent);
        PersonDigest = RecordFormat.DigestOf(person);
        ContentDigest = RecordFormat.DigestOf(content);
        SnapshotDigest = RecordFormat.DigestOf(snapshot);
        Bytes = person.Actor.Length + person.Principal.Length
            + (content is null ? 0 : content.Reason.Length + content.Metadata.ByteCount());
    }

    public Person Person { get; }
    public Content? Content { get; }
    public SnapshotPart? Snapshot { get; }
    public ReadOnlyMemory<byte> SnapshotContent { get; }
    public Hash PersonDigest { get; }
    public Hash ContentDigest { get; }
    public Hash SnapshotDigest { get; }

    /// <summary>The size of the texts.</summary>
    public int Bytes { get; }
}

public sealed record StartCommand : WriteCommand
{
    public required string WorkflowType { get; init; }
    public required string InitialState { get; init; }
    public required WorkflowStatus Status { get; init; }

    /// <summary>Null for a workflow of its own.</summary>
    public ForkPoint? ForkedFrom { get; init; }

    /// <summary>Why the source of a fork could not be had: told unless the request is a known one.</summary>
    public Refusal? ForkRefusal { get; init; }

    /// <summary>Whether the state was left to the fork's source; what a replay then does not compare.</summary>
    public bool StateFromFork { get; init; }

    /// <summary>Whether the snapshot was left to the fork's source.</summary>
    public bool SnapshotFromFork { get; init; }

    /// <summary>Empty for no lease.</summary>
    public string Owner { get; init; } = "";
    public long LeaseDuration { get; init; } = Limits.LeaseDurationDefault;
}

/// <summary>The exact point of the history that a write belongs to: a sequence or a hash.</summary>
public readonly record struct Expectation(long? Sequence, Hash? Hash)
{
    public bool IsNone => Sequence is null && Hash is null;
}

public sealed record TransitionCommand : WriteCommand
{
    public required string FromState { get; init; }
    public required string ToState { get; init; }
    public required WorkflowStatus Status { get; init; }
    public Expectation Expected { get; init; }

    /// <summary>0 for none.</summary>
    public long LeaseEpoch { get; init; }
}

public sealed record CheckpointCommand : WriteCommand
{
    public Expectation Expected { get; init; }

    /// <summary>0 for none.</summary>
    public long LeaseEpoch { get; init; }
}

/// <summary>Takes leases. Each workflow is decided by itself.</summary>
public sealed record AcquireLeasesCommand : Command
{
    public required IReadOnlyList<WorkflowKey> Keys { get; init; }
    public required string Owner { get; init; }
    public required long Duration { get; init; }
    public required bool TakeOverOwn { get; init; }

    /// <summary>What a workflow must still be; null for anything open.</summary>
    public PendingFilter? Filter { get; init; }

    public override IEnumerable<WorkflowKey> Workflows => Keys;
    public override int Weight => 256 * Keys.Count;
}

/// <summary>Prolongs leases, or gives them up.</summary>
public sealed record KeepLeasesCommand : Command
{
    public required IReadOnlyList<(WorkflowKey Key, long Epoch)> Leases { get; init; }
    public required string Owner { get; init; }

    /// <summary>0 releases.</summary>
    public required long Duration { get; init; }

    public override IEnumerable<WorkflowKey> Workflows => Leases.Select(l => l.Key);
    public override int Weight => 256 * Leases.Count;
}

/// <summary>Which open workflows a worker asks for; empty sets mean all, statuses are never empty.</summary>
public sealed record PendingFilter(
    string Namespace,
    IReadOnlyCollection<string> WorkflowTypes,
    IReadOnlyCollection<string> States,
    IReadOnlyCollection<WorkflowStatus> Statuses)
{
    public bool Matches(Workflow workflow) =>
        workflow.Key.Namespace == Namespace
        && (WorkflowTypes.Count == 0 || WorkflowTypes.Contains(workflow.WorkflowType))
        && (States.Count == 0 || States.Contains(workflow.State))
        && Statuses.Contains(workflow.Status);
}

/// <summary>
/// Appends records that another log, or this one before, has recorded; every hash stays. A long chain comes in
/// slices, and the workflow is closed to callers until the last one.
/// </summary>
public sealed record ImportCommand : Command
{
    public required WorkflowKey Key { get; init; }

    /// <summary>In order, verified among themselves by the caller; at least one.</summary>
    public required IReadOnlyList<StoredRecord> Records { get; init; }

    /// <summary>The snapshots that the records carry and that are not erased.</summary>
    public required IReadOnlyList<Snapshot> Snapshots { get; init; }
    public required ForkPoint? ForkedFrom { get; init; }
    public required bool IsLast { get; init; }

    /// <summary>What to erase from the records that are here already, as the new records' ERASUREs say.</summary>
    public required IReadOnlyList<ErasedValues> Erased { get; init; }

    /// <summary>The record that the last slice leaves in the log's own history.</summary>
    public required Parts LogEntry { get; init; }

    public override IEnumerable<WorkflowKey> Workflows => [Key, WorkflowKey.Log];

    public override int Weight =>
        1024 + Records.Sum(r => r.SizeEstimate()) + Snapshots.Sum(s => s.Content.Length);
}

/// <summary>The bytes of a snapshot, kept once per workflow and content.</summary>
public sealed record Snapshot(WorkflowKey Key, Hash Sha256, ReadOnlyMemory<byte> Content);

/// <summary>Values of one record that an ERASURE of its chain takes away.</summary>
public sealed record ErasedValues(WorkflowKey Key, long Sequence, bool Person, bool Content, bool Snapshot, Hash? Bytes);

/// <summary>Begins the log: writes its first record unless there is one.</summary>
public sealed record OpenLogCommand(string LogId, Parts Parts) : Command
{
    public override IEnumerable<WorkflowKey> Workflows => [WorkflowKey.Log];
    public override int Weight => 1024;
}

/// <summary>
/// An act upon the log itself, which leaves a record in the log's own history: <c>to_state</c> names the act, the metadata are its
/// arguments.
/// </summary>
public sealed record LogActCommand(string Act, Parts Parts) : Command
{
    public const string KeyAdded = "KEY_ADDED";
    public const string RollbackAccepted = "ROLLBACK_ACCEPTED";
    public const string Quarantined = "QUARANTINED";
    public const string Released = "RELEASED";
    public const string Repaired = "REPAIRED";
    public const string BackupProven = "BACKUP_PROVEN";

    /// <summary>
    /// The next generation of the log, which begins with this record and takes the log on from
    /// <see cref="SurvivingSize"/>; null to stay in the current one.
    /// </summary>
    public string? NewLogId { get; init; }

    /// <summary>The size that the log must have for a new generation to begin.</summary>
    public long SurvivingSize { get; init; }

    /// <summary>What the act does to violations; null for nothing. Refused when none of the workflows has one open.</summary>
    public ViolationChange? Violations { get; init; }

    /// <summary>What the act restores; null for nothing.</summary>
    public Repair? Repair { get; init; }

    public override IEnumerable<WorkflowKey> Workflows =>
        [WorkflowKey.Log, .. Violations?.Keys ?? [], .. Violations?.Seen.Select(s => s.Key) ?? []];
    public override int Weight => 1024 + Parts.Bytes + (Repair?.Weight ?? 0);
}

/// <summary>What became of a command.</summary>
public abstract record Outcome;

/// <summary>The command's record, new or, when replayed, as it was recorded before.</summary>
public sealed record Written(StoredRecord Record, Workflow Workflow, Lease? Lease, bool Replayed) : Outcome
{
    /// <summary>A signed head that covers the record. Set once the record is durable.</summary>
    public SealedHead? Head { get; init; }

    /// <summary>For a new record the tree of that head, for the record's inclusion path.</summary>
    public GrownTree? Tree { get; init; }
}

/// <summary>The command changed nothing.</summary>
public sealed record Refused(Refusal Refusal) : Outcome;

/// <summary>One answer for each lease asked for, in order: the workflow as it is now, or why not.</summary>
public sealed record LeasesDecided(IReadOnlyList<LeaseAnswer> Answers) : Outcome;

public sealed record LeaseAnswer(WorkflowKey Key, Workflow? Workflow, Refusal? Refusal);

/// <summary>The act is recorded.</summary>
public sealed record LogActed(StoredRecord Record) : Outcome;

/// <summary>The slice is stored.</summary>
public sealed record Imported : Outcome;

/// <summary>The log is open, by this command or by another before.</summary>
public sealed record LogOpened(string LogId) : Outcome;
