namespace Aegis.Core;

/// <summary>What a batch reads under the lock of the log, or takes for it, before anything is decided.</summary>
public sealed record BatchState
{
    /// <summary>The id of the log; empty while it has no record.</summary>
    public required string LogId { get; init; }

    /// <summary>How many records the log has: the log_index of the next.</summary>
    public required long LogSize { get; init; }

    /// <summary>
    /// The tree over the log's records, of the same size, as the stored head says; null where it says none.
    /// </summary>
    public required MerkleFrontier? Frontier { get; init; }

    /// <summary>The stored head as it was signed; empty while the log has no record.</summary>
    public required string SignedNote { get; init; }

    /// <summary>
    /// The hashes of the records from the size of the log that the writer asked with, in their order, as many as were read:
    /// what other servers have appended since this one last saw the log.
    /// </summary>
    public IReadOnlyList<Hash> HashesSince { get; init; } = [];

    /// <summary>Complete tiles of that tree which are not stored yet: none but where a log is sealed for the first time.</summary>
    public IReadOnlyList<Tile> MissingTiles { get; init; } = [];

    /// <summary>Those of the workflows asked for that have open violations, whether the workflow is there or not.</summary>
    public IReadOnlyList<Quarantine> Quarantines { get; init; } = [];

    /// <summary>The latest recorded_at among the log's own records.</summary>
    public required long LastRecordedAt { get; init; }

    /// <summary>The database's clock in microseconds: read after the lock, or at most a second behind it.</summary>
    public required long Now { get; init; }

    /// <summary>By how much, in microseconds, the database's clock may be later than <see cref="Now"/>: no lease is shorter for it.</summary>
    public long ClockDoubt { get; init; }

    /// <summary>The heads of the workflows asked for, of those that exist.</summary>
    public required IReadOnlyList<Workflow> Workflows { get; init; }

    /// <summary>
    /// Those of the workflows whose stored head is not what their newest record says: it was altered behind the service, and what
    /// would be written upon it would be signed.
    /// </summary>
    public IReadOnlySet<WorkflowKey> Broken { get; init; } = new HashSet<WorkflowKey>();

    /// <summary>The records of the request_ids asked for, of those that are known.</summary>
    public required IReadOnlyList<StoredRecord> KnownRequests { get; init; }
}

/// <summary>
/// Decides the commands of one batch, one after the other, each seeing what those before it did: the next record, or a
/// refusal. Collects what is to be stored. Pure: the state comes in, the writes come out. Not thread-safe.
/// </summary>
public sealed partial class LedgerBatch
{
    private readonly BatchState _state;
    private readonly Dictionary<WorkflowKey, Workflow> _workflows;
    private readonly Dictionary<Bytes16, StoredRecord> _requests = [];
    private readonly List<StoredRecord> _records = [];
    private readonly Dictionary<(WorkflowKey, Hash), Snapshot> _snapshots = [];
    private readonly List<ErasedValues> _erased = [];
    private readonly HashSet<WorkflowKey> _changedHeads = [];
    private readonly HashSet<WorkflowKey> _changedLeases = [];
    private readonly List<ViolationChange> _violationChanges = [];
    private readonly List<Repair> _repairs = [];

    // Of the workflows asked for, those with open violations; whether that is recorded.
    private readonly Dictionary<WorkflowKey, bool> _quarantines;

    public LedgerBatch(BatchState state)
    {
        _state = state;
        _workflows = state.Workflows.ToDictionary(w => w.Key);
        _quarantines = state.Quarantines.ToDictionary(q => q.Key, q => q.IsRecorded);
        foreach (var known in state.KnownRequests)
        {
            // Under the id that was recorded: one that was altered since must be met, not missed and done again.
            var recorded = RecordFormat.TryDecode(known.Encoded.Span) ?? known.Record;
            _requests[RecordFormat.RequestKey(recorded.Key, recorded.RequestId)] = known;
        }
        LogId = state.LogId;
        LastRecordedAt = state.LastRecordedAt;
    }

    public string LogId { get; private set; }

    private MerkleFrontier Frontier =>
        _state.Frontier ?? throw new InvalidOperationException("A log whose head has no tree cannot be sealed.");

    public long LastRecordedAt { get; private set; }

    /// <summary>How many records the log has after this batch.</summary>
    public long LogSize => _state.LogSize + _records.Count;

    /// <summary>How many it had before: rows at this log_index or beyond are not of the log.</summary>
    public long LogSizeBefore => _state.LogSize;

    /// <summary>The new records in the order of the log.</summary>
    public IReadOnlyList<StoredRecord> Records => _records;

    public IReadOnlyCollection<Snapshot> Snapshots => _snapshots.Values;

    public IReadOnlyList<ErasedValues> Erased => _erased;

    /// <summary>What becomes of violations, after all else.</summary>
    public IReadOnlyList<ViolationChange> ViolationChanges => _violationChanges;

    /// <summary>What is restored, once the records are stored that name it.</summary>
    public IReadOnlyList<Repair> Repairs => _repairs;

    /// <summary>The database's clock, by which it was decided.</summary>
    public long Now => _state.Now;

    /// <summary>The heads to be stored.</summary>
    public IEnumerable<Workflow> Workflows => _changedHeads.Select(k => _workflows[k]);

    /// <summary>Those whose head or lease is to be stored.</summary>
    public IEnumerable<Workflow> Touched => _changedHeads.Union(_changedLeases).Select(k => _workflows[k]);

    /// <summary>The leases to be stored, void ones too.</summary>
    public IEnumerable<(WorkflowKey Key, Lease Lease)> Leases =>
        _changedLeases.Select(k => (k, _workflows[k].Lease!));

    /// <summary>The head over all records, those of this batch included. Null until <see cref="Seal"/>, and without new records.</summary>
    public SealedHead? Head { get; private set; }

    /// <summary>Whether the batch can be stored: all its records are under its head.</summary>
    public bool IsSealed => _records.Count == 0 || Head?.Head.Size == LogSize;

    /// <summary>The tiles that the new records complete, the lower before the higher. Empty until <see cref="Seal"/>.</summary>
    public IReadOnlyList<Tile> Tiles { get; private set; } = [];

    /// <summary>Whether there is anything to store.</summary>
    public bool IsEmpty => _records.Count == 0 && _changedLeases.Count == 0;

    public Outcome Decide(Command command) => command switch
    {
        StartCommand start => Decide(start),
        TransitionCommand transition => Decide(transition),
        CheckpointCommand checkpoint => Decide(checkpoint),
        AcquireLeasesCommand acquire => Decide(acquire),
        KeepLeasesCommand keep => Decide(keep),
        ImportCommand import => Decide(import),
        OpenLogCommand open => Decide(open),
        LogActCommand act => Decide(act),
        _ => throw new ArgumentException($"The command {command.GetType().Name} is unknown.", nameof(command)),
    };

    /// <summary>
    /// Appends the new records to the tree and has the new head signed. After it nothing more is decided. The head must reach
    /// nobody before the batch is durable: a signature over what was then not stored could never be taken back.
    /// </summary>
    public void Seal(Func<LogHead, string> sign)
    {
        if (_records.Count == 0)
            return;
        var frontier = Frontier.Clone();
        var tiles = _state.MissingTiles.ToList();
        foreach (var record in _records)
            Tile.Append(frontier, record.Hash, tiles);
        var head = new LogHead(LogId, frontier.Size, frontier.Root);
        (Head, Tiles) = (new SealedHead(head, frontier, sign(head)), tiles);
    }

    /// <summary>The tree as this batch grows it, for the proofs of its new records.</summary>
    public GrownTree Tree() => new(Frontier, [.. _records.Select(r => r.Hash)]);

    private Outcome Decide(StartCommand command)
    {
        if (CheckLogSize(command) is { } ahead)
            return ahead;
        // The answer would tell of the workflow as it is stored.
        if (CheckHead(command.Key) is { } broken)
            return broken;
        if (Replay(command) is { } replay)
            return replay;
        if (_workflows.TryGetValue(command.Key, out var existing))
        {
            return new Refused(Refusal.Conflict(Reason.WorkflowAlreadyExists,
                $"The workflow {command.Key} already exists.", existing));
        }
        if (CheckQuarantine(command.Key) is { } quarantined)
            return quarantined;
        if (command.ForkRefusal is { } refusal)
            return new Refused(refusal);

        Lease? lease = null;
        if (command.Owner.Length > 0)
            lease = new Lease(command.Owner, _state.Now, LeaseEnd(command.LeaseDuration));
        var record = Append(command, new Draft
        {
            Kind = RecordKind.Started,
            WorkflowType = command.WorkflowType,
            FromState = "",
            ToState = command.InitialState,
            Status = command.Status,
            LeaseEpoch = lease?.Epoch ?? 0,
            PreviousHash = command.ForkedFrom?.Hash ?? default,
        });
        var workflow = new Workflow
        {
            Key = command.Key,
            WorkflowType = command.WorkflowType,
            State = command.InitialState,
            Status = command.Status,
            Sequence = 1,
            HeadHash = record.Hash,
            CheckpointSequence = record.Record.IsCheckpoint ? 1 : 0,
            Metadata = command.Parts.Content?.Metadata ?? Metadata.Empty,
            ForkedFrom = command.ForkedFrom,
            CreatedLogIndex = record.LogIndex,
            CreatedAt = record.Record.RecordedAt,
            UpdatedAt = record.Record.RecordedAt,
            Lease = lease,
        };
        Store(workflow, leaseChanged: lease is not null);
        return new Written(record, workflow, lease, Replayed: false);
    }

    private Outcome Decide(TransitionCommand command)
    {
        if (CheckBefore(command, command.LeaseEpoch, out var workflow) is { } outcome)
            return outcome;
        if (command.FromState != workflow.State)
        {
            return new Refused(WithFacts(
                Refusal.Conflict(Reason.StateMismatch,
                    $"The workflow {command.Key} is in the state \"{workflow.State}\", not \"{command.FromState}\".", workflow),
                ("from_state", command.FromState)));
        }
        if (CheckExpectation(workflow, command.Expected) is { } unexpected)
            return unexpected;
        return Advance(command, workflow, RecordKind.Transition, command.ToState, command.Status, command.LeaseEpoch);
    }

    private Outcome Decide(CheckpointCommand command)
    {
        if (CheckBefore(command, command.LeaseEpoch, out var workflow) is { } outcome)
            return outcome;
        if (CheckExpectation(workflow, command.Expected) is { } unexpected)
            return unexpected;
        return Advance(command, workflow, RecordKind.Checkpoint, workflow.State, workflow.Status, command.LeaseEpoch);
    }

    private LogOpened Decide(OpenLogCommand command)
    {
        if (LogSize > 0)
            return new LogOpened(LogId);
        LogId = command.LogId;
        AppendToLogHistory("OPEN", command.Parts);
        return new LogOpened(LogId);
    }

    private Written Advance(WriteCommand command, Workflow workflow, RecordKind kind, string toState,
        WorkflowStatus status, long leaseEpoch)
    {
        var record = Append(command, new Draft
        {
            Kind = kind,
            WorkflowType = workflow.WorkflowType,
            FromState = workflow.State,
            ToState = toState,
            Status = status,
            LeaseEpoch = leaseEpoch,
            Sequence = workflow.Sequence + 1,
            PreviousHash = workflow.HeadHash,
            NotBefore = workflow.UpdatedAt,
        });
        // A write without a lease ends the one that has run out; closing ends any.
        var ends = workflow.Lease is { IsVoid: false } && (leaseEpoch == 0 || status.IsClosed());
        var next = workflow with
        {
            State = toState,
            Status = status,
            Sequence = record.Record.Sequence,
            HeadHash = record.Hash,
            CheckpointSequence = record.Record.IsCheckpoint ? record.Record.Sequence : workflow.CheckpointSequence,
            UpdatedAt = record.Record.RecordedAt,
            Lease = ends ? workflow.Lease!.Void() : workflow.Lease,
        };
        Store(next, leaseChanged: ends);
        return new Written(record, next, next.Lease, Replayed: false);
    }

    private StoredRecord Append(WriteCommand command, Draft draft)
    {
        var record = Append(command.Key, command.RequestId, command.OccurredAt, command.Parts, draft);
        if (command.RequestKey is { } requestKey)
            _requests[requestKey] = record;
        return record;
    }

    private StoredRecord Append(WorkflowKey key, string requestId, long occurredAt, Parts parts, Draft draft)
    {
        var recordedAt = Math.Max(Math.Max(_state.Now, LastRecordedAt), draft.NotBefore);
        var record = StoredRecord.Seal(
            new Record
            {
                LogId = LogId,
                Namespace = key.Namespace,
                WorkflowId = key.WorkflowId,
                Sequence = draft.Sequence,
                Kind = draft.Kind,
                WorkflowType = draft.WorkflowType,
                FromState = draft.FromState,
                ToState = draft.ToState,
                Status = draft.Status,
                RequestId = requestId,
                LeaseEpoch = draft.LeaseEpoch,
                OccurredAt = occurredAt,
                RecordedAt = recordedAt,
                PersonDigest = parts.PersonDigest,
                ContentDigest = parts.ContentDigest,
                SnapshotDigest = parts.SnapshotDigest,
                PreviousHash = draft.PreviousHash,
                Person = parts.Person,
                Content = parts.Content,
                Snapshot = parts.Snapshot,
            },
            LogSize);
        LastRecordedAt = recordedAt;
        _records.Add(record);
        if (parts.Snapshot is { } snapshot)
            _snapshots[(key, snapshot.Sha256)] = new Snapshot(key, snapshot.Sha256, parts.SnapshotContent);
        return record;
    }

    /// <summary>Goes on with the log's own history, the workflow <see cref="WorkflowKey.Log"/>.</summary>
    private StoredRecord AppendToLogHistory(string toState, Parts parts)
    {
        _workflows.TryGetValue(WorkflowKey.Log, out var log);
        var record = Append(WorkflowKey.Log, "", 0, parts, new Draft
        {
            Kind = log is null ? RecordKind.Started : RecordKind.Transition,
            WorkflowType = "aegis.log",
            FromState = log?.State ?? "",
            ToState = toState,
            Status = WorkflowStatus.Running,
            Sequence = (log?.Sequence ?? 0) + 1,
            PreviousHash = log?.HeadHash ?? default,
            NotBefore = log?.UpdatedAt ?? 0,
        });
        Store(new Workflow
        {
            Key = WorkflowKey.Log,
            WorkflowType = "aegis.log",
            State = toState,
            Status = WorkflowStatus.Running,
            Sequence = record.Record.Sequence,
            HeadHash = record.Hash,
            CheckpointSequence = 0,
            Metadata = log?.Metadata ?? parts.Content?.Metadata ?? Metadata.Empty,
            ForkedFrom = null,
            CreatedLogIndex = log?.CreatedLogIndex ?? record.LogIndex,
            CreatedAt = log?.CreatedAt ?? record.Record.RecordedAt,
            UpdatedAt = record.Record.RecordedAt,
        }, leaseChanged: false);
        return record;
    }

    private void Store(Workflow workflow, bool leaseChanged)
    {
        _workflows[workflow.Key] = workflow;
        _changedHeads.Add(workflow.Key);
        if (leaseChanged)
            _changedLeases.Add(workflow.Key);
    }

    /// <summary>What a new record takes from its workflow, not from its command.</summary>
    private sealed record Draft
    {
        public required RecordKind Kind { get; init; }
        public required string WorkflowType { get; init; }
        public required string FromState { get; init; }
        public required string ToState { get; init; }
        public required WorkflowStatus Status { get; init; }
        public required Hash PreviousHash { get; init; }
        public long LeaseEpoch { get; init; }
        public long Sequence { get; init; } = 1;
        public long NotBefore { get; init; }
    }
}
