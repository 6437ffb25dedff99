using System.Collections.Concurrent;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// Callers of every kind, while the connections of the servers to their database fail: with and without request_ids, with leases,
/// replays, imports and watches. Remembers what it was told, and collects what was told and is not so.
/// </summary>
/// <param name="channels">Of servers on one database.</param>
/// <param name="seed">What each caller does follows from it.</param>
internal sealed partial class FaultLoad(IReadOnlyList<GrpcChannel> channels, int seed)
{
    public const string Type = "faults";

    /// <summary>Stands in every write, and so in the round trip that holds the commit.</summary>
    public const string Reason = "reason-in-the-commit";

    private const int Kept = 5_000;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(90);

    private readonly ConcurrentDictionary<(string Id, ulong Sequence), Pb.Record> _acknowledged = [];
    private readonly ConcurrentDictionary<ulong, ByteString> _watched = [];
    private readonly ConcurrentDictionary<(string Id, ulong Epoch), string> _granted = [];
    private readonly ConcurrentDictionary<string, IReadOnlyList<ByteString>> _imported = [];
    private readonly ConcurrentQueue<(Pb.TransitionWorkflowRequest Request, ByteString Hash)> _requests = [];
    private readonly ConcurrentQueue<string> _misses = [];
    private readonly ConcurrentDictionary<string, int> _counts = [];
    private readonly CancellationTokenSource _ended = new();

    /// <summary>What was promised and not kept, in words.</summary>
    public IReadOnlyCollection<string> Misses => _misses;

    /// <summary>What happened how often.</summary>
    public string Counts => string.Join(", ", _counts.OrderBy(c => c.Key).Select(c => $"{c.Value} {c.Key}"));

    public int Acknowledged => _acknowledged.Count;

    /// <summary>Works for a time, and then until each caller has its last answer. The watches go on until they have seen all.</summary>
    public async Task RunAsync(TimeSpan time, TestServer elsewhere)
    {
        var until = DateTime.UtcNow + time;
        List<Task> watches = [.. Enumerable.Range(0, channels.Count).Select(WatchAsync)];
        List<Task> callers =
        [
            .. Enumerable.Range(0, 8).Select(i => CallerAsync(i, until, random => NamedAsync(i, random, until))),
            .. Enumerable.Range(10, 4).Select(i => CallerAsync(i, until, random => NamelessAsync(i, random, until))),
            .. Enumerable.Range(20, 4).Select(i => CallerAsync(i, until, random => LeasedAsync($"owner-{i}", random))),
            CallerAsync(30, until, ReplayAsync),
            CallerAsync(31, until, random => ImportAsync(elsewhere, random)),
            CallerAsync(32, until, SweepAsync),
        ];
        await Task.WhenAll(callers);
        await _ended.CancelAsync();
        await Task.WhenAll(watches);
    }

    private async Task CallerAsync(int caller, DateTime until, Func<Random, Task> once)
    {
        var random = new Random(HashCode.Combine(seed, caller));
        while (DateTime.UtcNow < until)
        {
            try
            {
                await once(random);
            }
            catch (Exception e)
            {
                Miss($"caller {caller}: {(e is RpcException call ? ReasonOf(call) : "")} {e}");
            }
        }
    }

    /// <summary>A workflow whose every write has a request_id, and is sent again with it until it is answered.</summary>
    private async Task NamedAsync(int caller, Random random, DateTime until)
    {
        var id = $"named-{caller}-{Count("named workflows")}-{random.Next()}";
        var started = (await RetryAsync(random, channel => Workflows(channel).StartWorkflowAsync(Start(id, "start"), deadline: Soon()))).Record;
        Acknowledge(started);
        var state = 0;
        for (var sequence = started.Sequence; sequence < 9 && DateTime.UtcNow < until; sequence++)
        {
            if (random.Next(4) == 0)
            {
                var check = Checkpoint(id, $"check-{sequence}", sequence);
                Acknowledge((await RetryAsync(
                    random, channel => Workflows(channel).CheckpointWorkflowAsync(check, deadline: Soon()))).Record, sequence + 1);
                continue;
            }
            var move = Move(id, state, $"move-{sequence}");
            var moved = (await RetryAsync(random, channel => Workflows(channel).TransitionWorkflowAsync(move, deadline: Soon()))).Record;
            Acknowledge(moved, sequence + 1);
            state++;
            _requests.Enqueue((move, moved.Hash));
            if (_requests.Count > Kept)
                _requests.TryDequeue(out _);
        }
    }

    /// <summary>
    /// A workflow of one caller that names no request. Told that nothing was written, it finds nothing; told nothing, at most the
    /// one record that it asked for.
    /// </summary>
    private async Task NamelessAsync(int caller, Random random, DateTime until)
    {
        var id = $"nameless-{caller}-{Count("nameless workflows")}-{random.Next()}";
        var unsure = new HashSet<string>();
        await RetryAsync(random, channel => Workflows(channel).StartWorkflowAsync(Start(id, "start"), deadline: Soon()));
        var (sequence, state) = (1UL, 0);
        while (sequence < 9 && DateTime.UtcNow < until)
        {
            var move = Move(id, state, "");
            var mark = move.Metadata["mark"];
            try
            {
                var moved = (await Workflows(Any(random)).TransitionWorkflowAsync(move, deadline: Soon())).Record;
                Acknowledge(moved, sequence + 1);
                (sequence, state) = (moved.Sequence, state + 1);
                unsure.Clear();
                continue;
            }
            catch (RpcException e) when (IsRefusedUnwritten(e))
            {
                Count("nothing written");
                await Task.Delay(random.Next(5, 100));
            }
            catch (RpcException e) when (IsAway(e) || (ReasonOf(e) == "STATE_MISMATCH" && unsure.Count > 0))
            {
                Count(IsAway(e) ? "unsure" : "written after all");
                if (IsAway(e))
                    unsure.Add(mark);
            }
            var last = (await RetryAsync(random, channel => Workflows(channel).ListRecordsAsync(
                new Pb.ListRecordsRequest { WorkflowId = id, Descending = true, PageSize = 1 }, deadline: Soon()))).Records[0];
            if (last.Sequence == sequence)
                continue;
            if (last.Sequence != sequence + 1 || !unsure.Contains(last.Metadata["mark"]))
                Miss($"{id}: at {sequence}, and a record {last.Sequence} is there that was told as not written");
            (sequence, state) = (last.Sequence, state + 1);
            unsure.Clear();
        }
    }

    /// <summary>Takes a lease on one of a few workflows that all owners want, writes with it, keeps it or lets it run out.</summary>
    private async Task LeasedAsync(string owner, Random random)
    {
        var id = $"leased-{random.Next(5)}";
        await RetryAsync(random, channel => Workflows(channel).StartWorkflowAsync(Start(id, "start", "leased"), deadline: Soon()));
        var resume = new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = owner, TakeOverOwn = true, LeaseDuration = Seconds(random, 1, 4) };
        try
        {
            var resumed = await Recovery(Any(random)).ResumeWorkflowAsync(resume, deadline: Soon());
            Granted(id, resumed.Lease.Epoch, owner);
            var (sequence, state) = (resumed.Workflow.Sequence, resumed.Workflow.State);
            for (var writes = random.Next(1, 5); writes > 0; writes--)
            {
                var move = Move(id, 0, $"{owner}-{Guid.NewGuid():N}");
                (move.FromState, move.ToState, move.LeaseEpoch) = (state, $"L{sequence + 1}", resumed.Lease.Epoch);
                // Now and then, so that a resume does not become long.
                move.Snapshot = random.Next(8) == 0 ? Given.Snapshot($"{id} at {sequence}") : null;
                var moved = (await RetryAsync(
                    random, channel => Workflows(channel).TransitionWorkflowAsync(move, deadline: Soon()))).Record;
                Acknowledge(moved, sequence + 1);
                (sequence, state) = (moved.Sequence, moved.ToState);
                await Task.Delay(random.Next(0, 300));
            }
            var lease = new Pb.LeaseReference { WorkflowId = id, Epoch = resumed.Lease.Epoch };
            if (random.Next(3) == 0)
                await Recovery(Any(random)).RenewLeasesAsync(new Pb.RenewLeasesRequest { Owner = owner, Leases = { lease } }, deadline: Soon());
            if (random.Next(2) == 0)
                await Recovery(Any(random)).ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest { Owner = owner, Leases = { lease } }, deadline: Soon());
        }
        catch (RpcException e) when (IsAway(e) || ReasonOf(e) is "LEASE_HELD" or "LEASE_STALE" or "LEASE_REQUIRED" or "OVERLOADED")
        {
            // LEASE_STALE: it ran out, and another has the workflow.
            Count(ReasonOf(e) is { Length: > 0 } reason ? reason : "lost calls");
            await Task.Delay(random.Next(5, 200));
        }
    }

    /// <summary>What was acknowledged is sent again: the same record, never another.</summary>
    private async Task ReplayAsync(Random random)
    {
        await Task.Delay(random.Next(5, 50));
        if (!_requests.TryDequeue(out var earlier))
            return;
        _requests.Enqueue(earlier);
        var replayed = await RetryAsync(random, channel => Workflows(channel).TransitionWorkflowAsync(earlier.Request, deadline: Soon()));
        if (!replayed.Replayed || replayed.Record.Hash != earlier.Hash)
            Miss($"{earlier.Request.WorkflowId} {earlier.Request.RequestId} was not replayed as it was acknowledged");
        Count("replays");
    }

    /// <summary>A workflow that another deployment has closed comes over, whole, however often it has to be sent.</summary>
    private async Task ImportAsync(TestServer elsewhere, Random random)
    {
        var id = $"imported-{Count("imports")}-{random.Next()}";
        await elsewhere.Workflows.StartWorkflowAsync(Given.Start(id, "S0"));
        var records = random.Next(2, 40);
        for (var i = 0; i < records; i++)
        {
            var move = Given.Move(id, $"S{i}", $"S{i + 1}");
            (move.RequestId, move.Snapshot) = ($"r{i}", Given.Snapshot(new string('x', random.Next(20_000))));
            move.Status = i == records - 1 ? Pb.WorkflowStatus.Completed : Pb.WorkflowStatus.Running;
            await elsewhere.Workflows.TransitionWorkflowAsync(move);
        }
        var export = await Exports.ReadAsync(elsewhere, new Pb.ExportWorkflowsRequest { WorkflowId = id });
        _imported[id] = [.. (await Given.RecordsAsync(elsewhere, id)).Select(r => r.Hash)];
        var outcome = (await RetryAsync(random, channel => ImportOnceAsync(channel, export))).Single();
        if (outcome.Outcome == Pb.ImportOutcome.Refused)
            Miss($"{id} was refused: {outcome.Reason} {outcome.Message}");
    }

    private static async Task<List<Pb.ImportWorkflowsResponse>> ImportOnceAsync(GrpcChannel channel, byte[] export)
    {
        List<Pb.ImportWorkflowsResponse> outcomes;
        try
        {
            outcomes = await Exports.ImportAsync(Recovery(channel), export);
        }
        catch (IOException e)
        {
            // The server was killed while it was sent to.
            throw new RpcException(new Grpc.Core.Status(StatusCode.Unavailable, e.Message));
        }
        // One that could not be stored just now is told as refused for that reason, and sent again.
        return outcomes.Exists(o => o.Reason is "STORE_UNAVAILABLE" or "OUTCOME_UNKNOWN" or "SHUTTING_DOWN")
            ? throw new RpcException(new Grpc.Core.Status(StatusCode.Unavailable, outcomes[0].Message))
            : outcomes;
    }

    /// <summary>Whoever resumes what is pending gets each with a lease that nobody else has.</summary>
    private async Task SweepAsync(Random random)
    {
        await Task.Delay(random.Next(200, 1000));
        try
        {
            using var call = Recovery(Any(random)).ResumePendingWorkflows(new Pb.ResumePendingWorkflowsRequest
            {
                Owner = "sweeper",
                WorkflowTypes = { "leased" },
                MaxWorkflows = 3,
                LeaseDuration = Seconds(random, 1, 2),
            }, deadline: Soon());
            await foreach (var message in call.ResponseStream.ReadAllAsync())
            {
                if (message.Resumed is { } resumed)
                    Granted(resumed.Workflow.WorkflowId, resumed.Lease.Epoch, "sweeper");
                if (message.Failed is { } failed && failed.Reason is not ("STORE_UNAVAILABLE" or "OUTCOME_UNKNOWN"))
                    Miss($"{failed.WorkflowId} could not be resumed: {failed.Reason} {failed.Message}");
            }
            Count("sweeps");
        }
        catch (RpcException e) when (IsAway(e))
        {
            Count("lost sweeps");
        }
    }

    /// <summary>Follows the log from its beginning, across whatever happens: no gap, no repeat, and the same as others see.</summary>
    private async Task WatchAsync(int server)
    {
        var (next, last) = (0UL, ByteString.Empty);
        var end = ulong.MaxValue;
        for (var since = DateTime.UtcNow; next < end;)
        {
            if (_ended.IsCancellationRequested && end == ulong.MaxValue)
                end = (await RetryAsync(new Random(seed), c => Integrity(c).GetLogHeadAsync(new Pb.GetLogHeadRequest(), deadline: Soon()))).Size;
            try
            {
                using var watch = Workflows(channels[server]).WatchRecords(
                    new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = next, AfterHash = last }, deadline: Soon());
                while (next < end && await watch.ResponseStream.MoveNext(_ended.IsCancellationRequested ? default : _ended.Token))
                {
                    if (watch.ResponseStream.Current.Record is not { } record)
                        continue;
                    if (record.LogIndex != next || (_watched.GetOrAdd(record.LogIndex, record.Hash) is var seen && seen != record.Hash))
                        Miss($"watch {server}: {record.LogIndex} came where {next} was to come, or is another than was seen");
                    (next, last, since) = (record.LogIndex + 1, record.Hash, DateTime.UtcNow);
                }
            }
            catch (Exception e) when (e is OperationCanceledException || (e is RpcException call && (IsAway(call) || IsCancelled(call))))
            {
                Count("broken watches");
                await Task.Delay(50);
            }
            if (DateTime.UtcNow - since > Patience)
            {
                Miss($"watch {server} stands at {next} of {end}");
                return;
            }
        }
    }

    private void Granted(string id, ulong epoch, string owner)
    {
        Count("leases");
        if (!_granted.TryAdd((id, epoch), owner))
            Miss($"{id}: epoch {epoch} was granted to {_granted[(id, epoch)]} and to {owner}");
    }

    private void Acknowledge(Pb.Record record, ulong? sequence = null)
    {
        if (sequence is { } expected && record.Sequence != expected)
            Miss($"{record.WorkflowId}: record {record.Sequence} was written where {expected} was to come");
        if (_acknowledged.GetOrAdd((record.WorkflowId, record.Sequence), record).Hash != record.Hash)
            Miss($"{record.WorkflowId}: two records {record.Sequence} were acknowledged");
    }

    private void Miss(string what) => _misses.Enqueue($"{DateTime.UtcNow:HH:mm:ss.fff} {what}");

    private int Count(string what) => _counts.AddOrUpdate(what, 1, (_, count) => count + 1);

    /// <summary>Calls one server or another until one answers.</summary>
    private Task<T> RetryAsync<T>(Random random, Func<GrpcChannel, AsyncUnaryCall<T>> call) =>
        RetryAsync(random, channel => call(channel).ResponseAsync);

    private async Task<T> RetryAsync<T>(Random random, Func<GrpcChannel, Task<T>> call)
    {
        for (var until = DateTime.UtcNow + Patience; ; await Task.Delay(random.Next(10, 150)))
        {
            try
            {
                return await call(Any(random));
            }
            catch (RpcException e) when ((IsAway(e) || IsRefusedUnwritten(e)) && DateTime.UtcNow < until)
            {
                Count("retries");
            }
        }
    }

    private GrpcChannel Any(Random random) => channels[random.Next(channels.Count)];

    /// <summary>A refusal that says that nothing was written.</summary>
    private static bool IsRefusedUnwritten(RpcException e) => ReasonOf(e) is "STORE_UNAVAILABLE" or "SHUTTING_DOWN" or "OVERLOADED";

    /// <summary>No answer, or one that says that the outcome is not known.</summary>
    private static bool IsAway(RpcException e) => ReasonOf(e) is { Length: > 0 } reason
        ? reason is "OUTCOME_UNKNOWN" or "STORE_UNAVAILABLE" or "SHUTTING_DOWN"
        // A server that is killed in the middle of an answer can end the call with any of these on the client's side.
        : e.StatusCode is StatusCode.Unavailable or StatusCode.DeadlineExceeded or StatusCode.Internal;

    private static bool IsCancelled(RpcException e) => e.StatusCode == StatusCode.Cancelled;

    private static string ReasonOf(RpcException e) => e.GetRpcStatus()?.GetDetail<ErrorInfo>()?.Reason ?? "";

    private static DateTime Soon() => DateTime.UtcNow.AddSeconds(20);

    private static Duration Seconds(Random random, int from, int to) => Duration.FromTimeSpan(TimeSpan.FromSeconds(random.Next(from, to + 1)));

    private static Pb.WorkflowService.WorkflowServiceClient Workflows(GrpcChannel channel) => new(channel);

    private static Pb.RecoveryService.RecoveryServiceClient Recovery(GrpcChannel channel) => new(channel);

    private static Pb.IntegrityService.IntegrityServiceClient Integrity(GrpcChannel channel) => new(channel);

    private static Pb.StartWorkflowRequest Start(string id, string requestId, string type = Type) => new()
    {
        WorkflowId = id,
        WorkflowType = type,
        InitialState = "S0",
        RequestId = requestId,
        Reason = Reason,
    };

    private static Pb.TransitionWorkflowRequest Move(string id, int state, string requestId) => new()
    {
        WorkflowId = id,
        FromState = $"S{state}",
        ToState = $"S{state + 1}",
        RequestId = requestId,
        Reason = Reason,
        Metadata = { ["mark"] = Guid.NewGuid().ToString("N") },
    };

    private static Pb.CheckpointWorkflowRequest Checkpoint(string id, string requestId, ulong sequence) => new()
    {
        WorkflowId = id,
        ExpectedSequence = sequence,
        RequestId = requestId,
        Reason = Reason,
        Snapshot = Given.Snapshot($"{id} at {sequence}"),
    };
}
