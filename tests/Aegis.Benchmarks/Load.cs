using System.Diagnostics;
using Google.Protobuf;
using Grpc.Health.V1;
using Grpc.Net.Client;

namespace Aegis.Benchmarks;

using Pb = Aegis.V1;

/// <summary>What a load does, over and over.</summary>
internal enum Work
{
    /// <summary>Callers move workflows of their own, each time with another JSON snapshot of 1 KiB and a request_id.</summary>
    Transition,

    /// <summary>The same, on one workflow for each caller however long its chain grows.</summary>
    Chain,

    /// <summary>The same on ten workflows that all share; a caller that lost reads what is current from the refusal.</summary>
    HotTransition,

    /// <summary>Transitions from a state that no workflow is in: each is refused.</summary>
    Refused,

    /// <summary>Callers resume workflows that <see cref="Transition"/> made, without taking a lease.</summary>
    Resume,

    /// <summary>A call with nothing to do, to see what the wire takes.</summary>
    Empty,
}

/// <summary>A load on one server, and what came of it.</summary>
/// <param name="Addresses">The servers', among which the callers are shared out.</param>
/// <param name="Work">What is done.</param>
/// <param name="Callers">How many callers at once.</param>
/// <param name="Warm">Seconds before counting begins.</param>
/// <param name="Seconds">Seconds that are counted.</param>
/// <param name="SnapshotBytes">The size of a snapshot.</param>
/// <param name="Calls">How many calls are counted at most.</param>
internal sealed record LoadOrder(string[] Addresses, Work Work, int Callers, double Warm, double Seconds,
    int SnapshotBytes = 1024, long Calls = long.MaxValue);

/// <summary>What a load came to: how many calls in how many seconds, and their median.</summary>
/// <param name="Growth">The median of each caller's last hundredth of calls over that of its first.</param>
internal sealed record LoadResult(long Count, double Seconds, double MedianMilliseconds, double Growth = 1)
{
    public double Rate => Count / Seconds;
}

/// <summary>Callers in this process, on connections of their own.</summary>
internal sealed class Load : IDisposable
{
    private const int CallersPerConnection = 64;
    private const int MovesPerWorkflow = 100;
    private const int HotWorkflows = 10;
    private const int ResumedWorkflows = 640;
    private const int ResumedMoves = 10;

    private readonly LoadOrder _order;
    private readonly GrpcChannel[] _channels;
    private readonly string _run = Guid.NewGuid().ToString("N")[..8];
    private readonly string _filler;
    private readonly int _movesPerWorkflow;
    private long _counting;
    private long _until;
    private long _counted;

    public Load(LoadOrder order)
    {
        _order = order;
        _movesPerWorkflow = order.Work == Work.Chain ? int.MaxValue : MovesPerWorkflow;
        var connections = (order.Callers + CallersPerConnection - 1) / CallersPerConnection;
        _channels = [.. Enumerable.Range(0, Math.Max(connections, order.Addresses.Length))
            .Select(n => GrpcChannel.ForAddress(order.Addresses[n % order.Addresses.Length]))];
        // Nothing that a database could make smaller.
        var filler = new byte[order.SnapshotBytes];
        new Random(1).NextBytes(filler);
        _filler = Convert.ToBase64String(filler)[..Math.Max(0, order.SnapshotBytes - """{"step":"000000000000","text":""}""".Length)];
    }

    /// <summary>Runs it.</summary>
    /// <param name="onCounting">Called when counting begins.</param>
    public async Task<LoadResult> RunAsync(Action? onCounting = null)
    {
        await PrepareAsync();
        var begin = Stopwatch.GetTimestamp() + Ticks(_order.Warm);
        Volatile.Write(ref _until, begin + Ticks(_order.Seconds));
        var counts = Enumerable.Range(0, _order.Callers).Select(caller => Task.Run(() => CallAsync(caller))).ToArray();
        await Task.Delay(TimeSpan.FromSeconds(_order.Warm));
        var since = Stopwatch.GetTimestamp();
        onCounting?.Invoke();
        Volatile.Write(ref _counting, since);
        var times = await Task.WhenAll(counts);
        var seconds = Stopwatch.GetElapsedTime(since, Volatile.Read(ref _until)).TotalSeconds;
        var (first, last) = (Median(times.SelectMany(t => t[..Part(t)])), Median(times.SelectMany(t => t[^Part(t)..])));
        return new LoadResult(times.Sum(t => t.Count), seconds, Median(times.SelectMany(t => t)), first == 0 ? 1 : last / first);

        static int Part(List<long> times) => (times.Count + 99) / 100;
    }

    public void Dispose()
    {
        foreach (var channel in _channels)
            channel.Dispose();
    }

    /// <summary>In milliseconds; 0 of nothing.</summary>
    private static double Median(IEnumerable<long> ticks)
    {
        var sorted = ticks.Order().ToList();
        return sorted.Count == 0 ? 0 : sorted[sorted.Count / 2] * 1000.0 / Stopwatch.Frequency;
    }

    private static long Ticks(double seconds) => (long)(seconds * Stopwatch.Frequency);

    private Task PrepareAsync() => _order.Work switch
    {
        Work.HotTransition => Task.WhenAll(Enumerable.Range(0, HotWorkflows).Select(n => StartAsync(0, $"hot-{n}"))),
        Work.Refused => Task.WhenAll(Enumerable.Range(0, _order.Callers).Select(n => StartAsync(n, $"still-{n}"))),
        Work.Resume => Task.WhenAll(Enumerable.Range(0, ResumedWorkflows).Select(async n =>
        {
            await StartAsync(n, $"rest-{n}");
            for (var move = 0; move < ResumedMoves; move++)
                await MoveAsync(n, $"rest-{n}", move);
        })),
        _ => Task.CompletedTask,
    };

    /// <summary>One caller.</summary>
    /// <returns>How long each call took that ended while it counted, in ticks.</returns>
    private async Task<List<long>> CallAsync(int caller)
    {
        var times = new List<long>();
        for (var turn = 0; ; turn++)
        {
            if (_order.Work is Work.Transition or Work.Chain && turn % _movesPerWorkflow == 0)
                await StartAsync(caller, $"{caller}-{turn / _movesPerWorkflow}");
            var since = Stopwatch.GetTimestamp();
            if (since >= Volatile.Read(ref _until))
                return times;
            var isDone = await DoAsync(caller, turn);
            var now = Stopwatch.GetTimestamp();
            if (isDone && Volatile.Read(ref _counting) is > 0 and var counting && since >= counting && now < _until)
            {
                times.Add(now - since);
                if (Interlocked.Increment(ref _counted) == _order.Calls)
                    Volatile.Write(ref _until, now);
            }
        }
    }

    private async Task<bool> DoAsync(int caller, int turn)
    {
        switch (_order.Work)
        {
            case Work.Transition or Work.Chain:
                await MoveAsync(caller, $"{caller}-{turn / _movesPerWorkflow}", turn % _movesPerWorkflow);
                return true;
            case Work.HotTransition:
                return await MoveHotAsync(caller, turn);
            case Work.Refused:
                return await MoveHotAsync(caller, turn, $"still-{caller}") is false;
            case Work.Resume:
                var resumed = await new Pb.RecoveryService.RecoveryServiceClient(ChannelOf(caller)).ResumeWorkflowAsync(
                    new Pb.ResumeWorkflowRequest { WorkflowId = Id($"rest-{(caller + turn * 37) % ResumedWorkflows}") });
                return resumed.Checkpoint.Snapshot.Content.Length == _order.SnapshotBytes;
            default:
                await new Health.HealthClient(ChannelOf(caller)).CheckAsync(new HealthCheckRequest { Service = "liveness" });
                return true;
        }
    }

    private Task StartAsync(int caller, string name) => RepeatAsync(async () => await WorkflowsOf(caller).StartWorkflowAsync(
        new Pb.StartWorkflowRequest { WorkflowId = Id(name), WorkflowType = "order", InitialState = "S0", RequestId = "start" }));

    private Task MoveAsync(int caller, string name, int move)
    {
        var request = Move(Id(name), $"S{move}", $"S{move + 1}", $"{move}");
        return RepeatAsync(async () => await WorkflowsOf(caller).TransitionWorkflowAsync(request));
    }

    /// <summary>
    /// A write that the store lost is sent again, as clients do, and with its request_id is the same: where one process stands still
    /// for a while, the others lose patience with it.
    /// </summary>
    private static async Task RepeatAsync(Func<Task> write)
    {
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await write();
                return;
            }
            catch (Grpc.Core.RpcException e) when (e.StatusCode == Grpc.Core.StatusCode.Unavailable && attempt < 10)
            {
                await Task.Delay(TimeSpan.FromSeconds(attempt));
            }
        }
    }

    /// <summary>From wherever the workflow is, as a caller finds out who does not know it.</summary>
    private async Task<bool> MoveHotAsync(int caller, int turn, string? still = null)
    {
        try
        {
            // The same state again: whoever comes is let through, in turn.
            var state = still is null ? "S0" : "NOWHERE";
            var request = Move(Id(still ?? $"hot-{turn % HotWorkflows}"), state, state, $"{caller}-{turn}");
            await RepeatAsync(async () => await WorkflowsOf(caller).TransitionWorkflowAsync(request));
            return true;
        }
        catch (Grpc.Core.RpcException e) when (e.StatusCode == Grpc.Core.StatusCode.Aborted)
        {
            return false;
        }
    }

    private Pb.TransitionWorkflowRequest Move(string id, string from, string to, string requestId) => new()
    {
        WorkflowId = id,
        FromState = from,
        ToState = to,
        Actor = "caller",
        RequestId = requestId,
        Snapshot = new Pb.Snapshot { ContentType = "application/json", Content = SnapshotOf(id, requestId) },
    };

    /// <summary>Another content each time: what a workflow had before would not be stored again.</summary>
    private ByteString SnapshotOf(string id, string requestId) =>
        ByteString.CopyFromUtf8($$"""{"step":"{{requestId,12}}","text":"{{_filler}}"}""");

    private string Id(string name) => $"{_run}-{name}";

    private GrpcChannel ChannelOf(int caller) => _channels[caller % _channels.Length];

    private Pb.WorkflowService.WorkflowServiceClient WorkflowsOf(int caller) => new(ChannelOf(caller));
}
