using System.Collections.Concurrent;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Net.Client;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// Callers that start workflows and move them, as a good client does: every write has a request_id and is retried with it
/// while the service is away. Remembers what was acknowledged, to look for it afterwards.
/// </summary>
internal sealed class CrashLoad(GrpcChannel channel, string name = "load")
{
    private const int MovesPerWorkflow = 10;

    private readonly Pb.WorkflowService.WorkflowServiceClient _workflows = new(channel);
    private readonly Pb.IntegrityService.IntegrityServiceClient _integrity = new(channel);
    private readonly ConcurrentDictionary<(string Id, ulong Sequence), ByteString> _acknowledged = [];
    private readonly ByteString _state = ByteString.CopyFrom(new byte[1024]);
    private int _started;

    public int Acknowledged => _acknowledged.Count;

    /// <summary>Works for a time, and then until each caller's last call is answered.</summary>
    public async Task RunAsync(int callers, TimeSpan time)
    {
        var until = DateTime.UtcNow + time;
        await Task.WhenAll(Enumerable.Range(0, callers).Select(async _ =>
        {
            while (DateTime.UtcNow < until)
                await OneWorkflowAsync(until);
        }));
    }

    /// <summary>
    /// Looks at every workflow once: how many acknowledged records are not there with the hash that was told, and how many
    /// request_ids made more than one record. Every chain has to verify.
    /// </summary>
    public async Task<(int Lost, int Doubled)> CheckAsync()
    {
        int lost = 0, doubled = 0;
        await Parallel.ForEachAsync(_acknowledged.GroupBy(a => a.Key.Id), new ParallelOptions { MaxDegreeOfParallelism = 16 },
            async (chain, cancellationToken) =>
            {
                var records = (await _workflows.ListRecordsAsync(
                    new Pb.ListRecordsRequest { WorkflowId = chain.Key, PageSize = 1000 },
                    cancellationToken: cancellationToken)).Records;
                var hashes = records.ToDictionary(r => r.Sequence, r => r.Hash);
                Interlocked.Add(ref lost,
                    chain.Count(a => !hashes.TryGetValue(a.Key.Sequence, out var hash) || hash != a.Value));
                Interlocked.Add(ref doubled, records.GroupBy(r => r.RequestId).Count(g => g.Count() > 1));
                var verified = await _integrity.VerifyWorkflowAsync(
                    new Pb.VerifyWorkflowRequest { WorkflowId = chain.Key }, cancellationToken: cancellationToken);
                Assert.That(verified.Intact, Is.True, verified.ToString());
            });
        return (lost, doubled);
    }

    /// <summary>The log has no gap.</summary>
    public async Task CheckLogAsync()
    {
        var indexes = new List<ulong>();
        using var watch = _workflows.WatchRecords(new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = 0 });
        await foreach (var message in watch.ResponseStream.ReadAllAsync())
        {
            if (message.Progress is not null)
                break;
            indexes.Add(message.Record.LogIndex);
        }
        Assert.That(indexes.Select((index, i) => index == (ulong)i), Has.None.False, "The log has a gap.");
    }

    private async Task OneWorkflowAsync(DateTime until)
    {
        var id = $"{name}-{Interlocked.Increment(ref _started)}";
        var started = await RetryAsync(async () => (await _workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest
        {
            WorkflowId = id,
            WorkflowType = "load",
            InitialState = "S0",
            RequestId = "start",
        }, deadline: Soon())).Record);
        _acknowledged[(id, started.Sequence)] = started.Hash;
        for (var i = 0; i < MovesPerWorkflow && DateTime.UtcNow < until; i++)
        {
            var moved = await RetryAsync(async () => (await _workflows.TransitionWorkflowAsync(new Pb.TransitionWorkflowRequest
            {
                WorkflowId = id,
                FromState = $"S{i}",
                ToState = $"S{i + 1}",
                RequestId = $"move-{i}",
                Snapshot = new Pb.Snapshot { Content = _state },
            }, deadline: Soon())).Record);
            _acknowledged[(id, moved.Sequence)] = moved.Hash;
        }
    }

    private static async Task<Pb.Record> RetryAsync(Func<Task<Pb.Record>> call)
    {
        for (var until = DateTime.UtcNow.AddSeconds(60); ; await Task.Delay(50))
        {
            try
            {
                return await call();
            }
            catch (RpcException e) when (DateTime.UtcNow < until
                && e.StatusCode is StatusCode.Unavailable or StatusCode.DeadlineExceeded or StatusCode.Internal)
            {
                // Killed in the middle of an answer, a connection can also end as INTERNAL on the client's side.
            }
        }
    }

    private static DateTime Soon() => DateTime.UtcNow.AddSeconds(20);
}
