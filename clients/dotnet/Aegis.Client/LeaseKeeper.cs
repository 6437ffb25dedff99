using System.Collections.Concurrent;
using Aegis.Core;
using Google.Protobuf.WellKnownTypes;
using Microsoft.Extensions.Logging;

namespace Aegis.Client;

using Pb = Aegis.V1;

/// <summary>Renews the leases of one owner at a third of their duration, and tells each workflow when its lease is lost. Thread-safe.</summary>
internal sealed class LeaseKeeper(AegisClient client, string owner, TimeSpan duration, ILogger logger) : IAsyncDisposable
{
    /// <summary>A lease that cannot be released ends by itself: nobody waits long for it.</summary>
    private static readonly TimeSpan ReleasePatience = TimeSpan.FromSeconds(5);

    private readonly ConcurrentDictionary<(string WorkflowId, long Epoch), IHeldWorkflow> _held = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly Lock _lock = new();

    // Guarded by _lock; started with the first lease.
    private Task? _renewing;

    public string Owner => owner;

    public Duration Duration => duration.ToDuration();

    /// <summary>How long one attempt to renew may take: there is time for another.</summary>
    public TimeSpan RenewalInterval => duration / 3;

    public bool Holds(string workflowId) => _held.Keys.Any(k => k.WorkflowId == workflowId);

    public void Hold(IHeldWorkflow workflow)
    {
        _held[(workflow.WorkflowId, workflow.LeaseEpoch)] = workflow;
        lock (_lock)
            _renewing ??= RenewAlwaysAsync();
    }

    /// <summary>Another has the lease, or may have: the workflow's work ends.</summary>
    public void Lose(IHeldWorkflow workflow, string reason)
    {
        if (!_held.TryRemove((workflow.WorkflowId, workflow.LeaseEpoch), out _))
            return;
        logger.LogWarning("The lease {Epoch} of {WorkflowId} is lost: {Reason}", workflow.LeaseEpoch, workflow.WorkflowId, reason);
        workflow.Lost();
    }

    /// <summary>The server has released it, as when a workflow closes.</summary>
    public void End(IHeldWorkflow workflow)
    {
        _held.TryRemove((workflow.WorkflowId, workflow.LeaseEpoch), out _);
        workflow.Ended();
    }

    /// <param name="workflows">What may be leased.</param>
    /// <param name="isAtWork">Whether somebody may still be at work on them, who has to be told.</param>
    public async Task ReleaseAsync(IEnumerable<IHeldWorkflow> workflows, bool isAtWork)
    {
        var leases = new List<Pb.LeaseReference>();
        foreach (var workflow in workflows.Where(w => w.IsLeased))
        {
            leases.Add(new Pb.LeaseReference { WorkflowId = workflow.WorkflowId, Epoch = (ulong)workflow.LeaseEpoch });
            _held.TryRemove((workflow.WorkflowId, workflow.LeaseEpoch), out _);
            if (isAtWork)
                workflow.Lost();
            else
                workflow.Ended();
        }
        foreach (var some in leases.Chunk(Limits.LeasesMax))
        {
            var request = new Pb.ReleaseLeasesRequest { Namespace = client.Namespace, Owner = owner, Leases = { some } };
            try
            {
                await client.CallAsync(options => client.Recovery.ReleaseLeasesAsync(request, options), ReleasePatience, CancellationToken.None);
            }
            catch (Exception e) when (e is AegisException or IntegrityException or ObjectDisposedException)
            {
                logger.LogWarning("{Count} leases were not released and run out by themselves: {Reason}", some.Length, e.Message);
            }
        }
    }

    public async ValueTask DisposeAsync()
    {
        Task? renewing;
        lock (_lock)
            renewing = _renewing;
        await _stop.CancelAsync();
        if (renewing is not null)
            await renewing;
        await ReleaseAsync(_held.Values, isAtWork: true);
        _stop.Dispose();
    }

    private async Task RenewAlwaysAsync()
    {
        try
        {
            while (true)
            {
                await Task.Delay(RenewalInterval, client.Time, _stop.Token);
                foreach (var some in _held.Values.Chunk(Limits.LeasesMax))
                    await RenewAsync(some);
            }
        }
        catch (OperationCanceledException) when (_stop.IsCancellationRequested)
        {
            // The end.
        }
    }

    private async Task RenewAsync(IHeldWorkflow[] workflows)
    {
        var request = new Pb.RenewLeasesRequest { Namespace = client.Namespace, Owner = owner, LeaseDuration = Duration };
        // A lease that ends at this moment, as when its workflow closes, has no epoch any more.
        var byId = new Dictionary<string, IHeldWorkflow>();
        foreach (var workflow in workflows)
        {
            if (workflow.LeaseEpoch is not 0 and var epoch && byId.TryAdd(workflow.WorkflowId, workflow))
                request.Leases.Add(new Pb.LeaseReference { WorkflowId = workflow.WorkflowId, Epoch = (ulong)epoch });
        }
        if (request.Leases.Count == 0)
            return;
        try
        {
            var response = await client.CallAsync(options => client.Recovery.RenewLeasesAsync(request, options), RenewalInterval, _stop.Token);
            foreach (var result in response.Results)
            {
                if (!byId.TryGetValue(result.WorkflowId, out var workflow))
                    continue;
                if (result.Renewed is { } lease)
                    workflow.Renewed(Evidence.RecordMessages.ToMicroseconds(lease.ExpiresAt));
                else
                    Lose(workflow, result.Lost?.Reason ?? "");
            }
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            // Not yet lost: an expired lease that nobody took is renewed like any other.
            logger.LogWarning("{Count} leases are not renewed yet: {Reason}", workflows.Length, e.Message);
        }
    }
}
