using Aegis.Core;
using Aegis.Evidence;
using Aegis.Tests;
using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;

namespace Aegis.Benchmarks;

/// <summary>What Core's hot paths take by themselves, without a store and a wire.</summary>
[MemoryDiagnoser]
public class CoreBenchmarks : IDisposable
{
    private const int BatchSize = 64;

    private static readonly byte[] Snapshot = System.Text.Encoding.UTF8.GetBytes($$"""{"text":"{{new string('x', 1013)}}"}""");

    private readonly SigningKey _key = SigningKey.Create();
    private readonly Person _person = new(Salt(1), "caller", "");
    private readonly Content _content = new(Salt(2), "because", Metadata.Empty);
    private readonly SnapshotPart _snapshot = new(Salt(3), "application/json", Snapshot.Length, Hash.Of(Snapshot));
    private readonly MerkleFrontier _frontier = new();
    private readonly BatchState _state;
    private readonly TransitionCommand[] _moves;
    private readonly StoredRecord[] _chain;
    private readonly LogHead _head;

    public CoreBenchmarks()
    {
        var keys = Enumerable.Range(0, BatchSize).Select(n => new WorkflowKey("default", $"case-{n}")).ToArray();
        var opened = Sealed(new BatchState
        {
            LogId = "",
            LogSize = 0,
            Frontier = new MerkleFrontier(),
            SignedNote = "",
            LastRecordedAt = 0,
            Now = 1,
            Workflows = [],
            KnownRequests = [],
        }, [new OpenLogCommand("aegis.example/benchmark", PartsOf()), .. keys.Select(Start)]);
        _state = new BatchState
        {
            LogId = opened.LogId,
            LogSize = opened.LogSize,
            Frontier = opened.Head!.Frontier,
            SignedNote = opened.Head.SignedNote,
            LastRecordedAt = opened.LastRecordedAt,
            Now = 2,
            Workflows = [.. opened.Workflows],
            KnownRequests = [],
        };
        _head = opened.Head.Head;
        _moves = [.. keys.Select(key => Move(key, 1))];
        _chain = [.. Sealed(_state, Enumerable.Range(1, BatchSize).Select(n => Move(keys[0], n))).Records];
    }

    public static void Run()
    {
        using var directory = new TemporaryDirectory("core");
        BenchmarkRunner.Run<CoreBenchmarks>(ManualConfig.CreateEmpty()
            // In this process: another would have to be built first, with all that this one is built of.
            .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance))
            .AddLogger(ConsoleLogger.Default)
            .AddColumnProvider(DefaultColumnProviders.Instance)
            .WithArtifactsPath(directory.Path)
            .WithOptions(ConfigOptions.DisableLogFile));
    }

    /// <summary>Encoding and hash of a record.</summary>
    [Benchmark]
    public StoredRecord SealRecord() => StoredRecord.Seal(_chain[0].Record, 1);

    /// <summary>The digests of a record's three parts, without the snapshot's own.</summary>
    [Benchmark]
    public Hash DigestParts()
    {
        RecordFormat.DigestOf(_person);
        RecordFormat.DigestOf(_content);
        return RecordFormat.DigestOf(_snapshot);
    }

    /// <summary>The SHA-256 of a snapshot of 1 KiB.</summary>
    [Benchmark]
    public Hash HashSnapshot() => Hash.Of(_moves[0].Parts.SnapshotContent.Span);

    /// <summary>A transition in a batch of 64 with snapshots of 1 KiB, decided and sealed; the head is signed once.</summary>
    [Benchmark(OperationsPerInvoke = BatchSize)]
    public LedgerBatch DecideAndSeal() => Sealed(_state, _moves);

    /// <summary>A leaf more in the tree.</summary>
    [Benchmark]
    public long AppendLeaf()
    {
        _frontier.Append(_chain[0].Hash);
        return _frontier.Size;
    }

    /// <summary>A record of a chain, verified.</summary>
    [Benchmark(OperationsPerInvoke = BatchSize)]
    public long VerifyChain()
    {
        var verifier = new ChainVerifier(_chain[0].Record.Key, firstSequence: 2);
        foreach (var record in _chain)
            verifier.Add(record);
        return verifier.Violations.Count == 0 ? verifier.RecordsVerified : throw new InvalidOperationException(verifier.Violations[0].Message);
    }

    /// <summary>The Ed25519 signature of a head.</summary>
    [Benchmark]
    public string SignHead() => _key.Sign(_head);

    [GlobalCleanup]
    public void Dispose()
    {
        _key.Dispose();
        GC.SuppressFinalize(this);
    }

    private LedgerBatch Sealed(BatchState state, IEnumerable<Command> commands)
    {
        var batch = new LedgerBatch(state);
        foreach (var command in commands)
        {
            if (batch.Decide(command) is Refused refused)
                throw new InvalidOperationException(refused.Refusal.Message);
        }
        batch.Seal(_key.Sign);
        return batch;
    }

    private StartCommand Start(WorkflowKey key) => new()
    {
        Key = key,
        RequestId = "start",
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = PartsOf(),
        WorkflowType = "order",
        InitialState = "S0",
        Status = WorkflowStatus.Running,
    };

    private TransitionCommand Move(WorkflowKey key, int move) => new()
    {
        Key = key,
        RequestId = $"{move}",
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = PartsOf(),
        FromState = $"S{move - 1}",
        ToState = $"S{move}",
        Status = WorkflowStatus.Running,
    };

    private Parts PartsOf() => new(_person, _content, _snapshot, Snapshot);

    private static Bytes16 Salt(byte value)
    {
        Span<byte> salt = stackalloc byte[Bytes16.Size];
        salt.Fill(value);
        return new Bytes16(salt);
    }
}
