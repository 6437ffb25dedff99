using Aegis.Core;

namespace Aegis.Tests;

/// <summary>A log without a store: decides batches one after the other, each on what those before it left.</summary>
internal sealed class MemoryLog
{
    public const long Start = 1_800_000_000_000_000;

    private readonly Dictionary<WorkflowKey, Workflow> _workflows = [];
    private readonly List<StoredRecord> _records = [];
    private readonly Dictionary<(WorkflowKey, Hash), Snapshot> _snapshots = [];

    private readonly MerkleFrontier _frontier = new();

    public MemoryLog() => Decide(new OpenLogCommand(Ask.LogId, Ask.Parts()));

    /// <summary>The clock: stands still unless a test moves it.</summary>
    public long Now { get; set; } = Start;

    public IReadOnlyList<StoredRecord> Records => _records;

    public long LastRecordedAt { get; private set; }

    public LedgerBatch Begin() => new(new BatchState
    {
        LogId = _records.Count == 0 ? "" : Ask.LogId,
        LogSize = _records.Count,
        Frontier = _frontier.Clone(),
        SignedNote = "",
        LastRecordedAt = LastRecordedAt,
        Now = Now,
        Workflows = [.. _workflows.Values],
        KnownRequests = [.. _records.Where(r => r.Record.RequestId.Length > 0)],
    });

    /// <summary>Decides commands as one batch and keeps what it stores.</summary>
    public IReadOnlyList<Outcome> DecideAll(params Command[] commands)
    {
        var batch = Begin();
        Outcome[] outcomes = [.. commands.Select(batch.Decide)];
        _records.AddRange(batch.Records);
        foreach (var record in batch.Records)
            _frontier.Append(record.Hash);
        LastRecordedAt = batch.LastRecordedAt;
        foreach (var workflow in batch.Workflows)
            _workflows[workflow.Key] = workflow with { Lease = _workflows.GetValueOrDefault(workflow.Key)?.Lease };
        foreach (var (key, lease) in batch.Leases)
            _workflows[key] = _workflows[key] with { Lease = lease };
        foreach (var snapshot in batch.Snapshots)
            _snapshots[(snapshot.Key, snapshot.Sha256)] = snapshot;
        return outcomes;
    }

    public Outcome Decide(Command command) => DecideAll(command)[0];

    public Written Write(Command command) => Decide(command) switch
    {
        Written written => written,
        Refused refused => throw new AssertionException(refused.Refusal.Message),
        var other => throw new AssertionException($"Not a write: {other}"),
    };

    public Refusal Refuse(Command command) => Decide(command) is Refused refused
        ? refused.Refusal
        : throw new AssertionException($"Not refused: {command}");

    /// <summary>The answer to a command about one lease.</summary>
    public LeaseAnswer Lease(Command command) => ((LeasesDecided)Decide(command)).Answers.Single();

    public long Acquire(string id, string owner = "worker") =>
        Lease(Ask.Acquire(owner, id)).Workflow!.Lease!.Epoch;

    public Workflow Head(string id) => _workflows[Ask.Key(id)];

    public Workflow LogHead => _workflows[WorkflowKey.Log];

    public IReadOnlyList<StoredRecord> Chain(WorkflowKey key) => [.. _records.Where(r => r.Record.Key == key)];

    public IReadOnlyList<StoredRecord> Chain(string id) => Chain(Ask.Key(id));

    public IReadOnlyList<Violation> Verify(string id) => Verify(Chain(id), Head(id));

    /// <summary>What verification says of a chain as it is stored, with the snapshots of this log.</summary>
    public IReadOnlyList<Violation> Verify(IEnumerable<StoredRecord> chain, Workflow? head, WorkflowKey? key = null)
    {
        var records = chain.OrderBy(r => r.Record.Sequence).ToList();
        var verifier = new ChainVerifier(key ?? head?.Key ?? records[0].Record.Key);
        foreach (var record in records)
        {
            verifier.Add(record);
            if (record.Record.Snapshot is { } part)
                verifier.AddSnapshot(record, FindSnapshot(record.Record.Key, part.Sha256));
        }
        return verifier.Complete(head);
    }

    private (Hash, long)? FindSnapshot(WorkflowKey key, Hash sha256) =>
        _snapshots.TryGetValue((key, sha256), out var snapshot)
            ? (Hash.Of(snapshot.Content.Span), snapshot.Content.Length)
            : null;
}
