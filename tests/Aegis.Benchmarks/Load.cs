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
internal sealed record LoadOrder(string[] Addresses, Work Work, int Callers, double Warm, double Seconds, int SnapshotBytes = 1024);

/// <summary>What a load came to: how many calls in how many seconds, and their median.</summary>
internal sealed record LoadResult(long Count, double Seconds, double MedianMilliseconds)
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
    private long _counting;
    private long _until;

    public Load(LoadOrder order)
    {
        _order = order;
        var connections = (order.Callers + CallersPerConnection - 1) / CallersPerConnection;
        _channels = [.. Enumerable.Range(0, Math.Max(connections, order.Addresses.Length))
            .Select(n => GrpcChannel.ForAddress(order.Addresses[n % order.Addresses.Length]))];
        _filler = new string('x', Math.Max(0, order.SnapshotBytes - """{"step":"000000000000","text":""}""".Length));
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
        var times = (await Task.WhenAll(counts)).SelectMany(t => t).ToList();
        var seconds = Stopwatch.GetElapsedTime(since, Volatile.Read(ref _until)).TotalSeconds;
        times.Sort();
        return new LoadResult(times.Count, seconds, times.Count == 0 ? 0 : times[times.Count / 2] * 1000.0 / Stopwatch.Frequency);
    }

    public void Dispose()
    {
        foreach (var channel in _channels)
            channel.Dispose();
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
            if (_order.Work == Work.Transition && turn % MovesPerWorkflow == 0)
                await StartAsync(caller, $"{caller}-{turn / MovesPerWorkflow}");
            var since = Stopwatch.GetTimestamp();
            if (since >= Volatile.Read(ref _until))
                return times;
            var isDone = await DoAsync(caller, turn);
            var now = Stopwatch.GetTimestamp();
            if (isDone && Volatile.Read(ref _counting) is > 0 and var counting && since >= counting && now < _until)
                times.Add(now - since);
        }
    }

    private async Task<bool> DoAsync(int caller, int turn)
    {
        switch (_order.Work)
        {
            case Work.Transition:
                await MoveAsync(caller, $"{caller}-{turn / MovesPerWorkflow}", turn % MovesPerWorkflow);
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

    private async Task StartAsync(int caller, string name) => await WorkflowsOf(caller).StartWorkflowAsync(
        new Pb.StartWorkflowRequest { WorkflowId = Id(name), WorkflowType = "order", InitialState = "S0", RequestId = "start" });

    private async Task MoveAsync(int caller, string name, int move) =>
        await WorkflowsOf(caller).TransitionWorkflowAsync(Move(Id(name), $"S{move}", $"S{move + 1}", $"{move}"));

    /// <summary>From wherever the workflow is, as a caller finds out who does not know it.</summary>
    private async Task<bool> MoveHotAsync(int caller, int turn, string? still = null)
    {
        try
        {
            // The same state again: whoever comes is let through, in turn.
            var state = still is null ? "S0" : "NOWHERE";
            await WorkflowsOf(caller).TransitionWorkflowAsync(
                Move(Id(still ?? $"hot-{turn % HotWorkflows}"), state, state, $"{caller}-{turn}"));
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
