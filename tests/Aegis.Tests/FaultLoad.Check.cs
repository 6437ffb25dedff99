using Grpc.Core;
using Grpc.Net.Client;

namespace Aegis.Tests;

using Pb = Aegis.V1;

// What is to be so once everything is back.
internal sealed partial class FaultLoad
{
    /// <summary>
    /// Looks at everything once: each acknowledged record is there, none is twice, the log has no gap and is what the watches saw,
    /// epochs only grow, imports are as they were elsewhere, and everything verifies.
    /// </summary>
    public async Task CheckAsync(GrpcChannel channel)
    {
        var log = await LogAsync(channel);
        for (var index = 0; index < log.Count; index++)
        {
            if (log[index].LogIndex != (ulong)index)
            {
                Miss($"the log has {log[index].LogIndex} where {index} was to come");
                break;
            }
        }
        var size = (await Integrity(channel).GetLogHeadAsync(new Pb.GetLogHeadRequest())).Size;
        if ((ulong)log.Count != size)
            Miss($"the log has {log.Count} records, and its head says {size}");
        foreach (var (index, hash) in _watched.Where(w => w.Key >= size || log[(int)w.Key].Hash != w.Value))
            Miss($"a watch was given {hash.ToBase64()} at {index}, which is not there");
        var byPlace = log.ToLookup(r => (r.WorkflowId, r.Sequence));
        foreach (var (place, record) in _acknowledged)
        {
            if (!byPlace[place].Any(r => r.Hash == record.Hash && r.LogIndex == record.LogIndex))
                Miss($"{place}: acknowledged, and lost");
        }
        foreach (var chain in log.GroupBy(r => (r.Namespace, r.WorkflowId)))
            CheckChain([.. chain]);
        foreach (var (id, hashes) in _imported)
        {
            if (!log.Where(r => r.WorkflowId == id).Select(r => r.Hash).SequenceEqual(hashes))
                Miss($"{id} is not as it was exported");
        }
        await CheckIntegrityAsync(channel, log);
    }

    private void CheckChain(IReadOnlyList<Pb.Record> chain)
    {
        var id = chain[0].WorkflowId;
        if (!chain.Select(r => r.Sequence).SequenceEqual(Enumerable.Range(1, chain.Count).Select(i => (ulong)i)))
            Miss($"{id}: its sequences are {string.Join(' ', chain.Select(r => r.Sequence))}");
        foreach (var twice in chain.Where(r => r.RequestId.Length > 0).GroupBy(r => r.RequestId).Where(g => g.Count() > 1))
            Miss($"{id}: the request {twice.Key} made {twice.Count()} records");
        var marks = chain.Select(r => r.Metadata.GetValueOrDefault("mark")).OfType<string>().ToList();
        if (marks.Distinct().Count() != marks.Count)
            Miss($"{id}: one call made two records");
        var epochs = chain.Select(r => r.LeaseEpoch).Where(e => e > 0).ToList();
        if (!epochs.SequenceEqual(epochs.Order()))
            Miss($"{id}: an old lease wrote after a newer one");
    }

    private async Task CheckIntegrityAsync(GrpcChannel channel, IReadOnlyList<Pb.Record> log)
    {
        using var verification = Integrity(channel).VerifyLog(new Pb.VerifyLogRequest());
        Pb.VerifyLogSummary? summary = null;
        await foreach (var message in verification.ResponseStream.ReadAllAsync())
        {
            summary = message.Summary ?? summary;
            if (message.Violation is { } violation)
                Miss($"the log does not verify: {violation}");
        }
        if (summary?.Intact != true || summary.RecordsVerified < (ulong)log.Count)
            Miss($"the log does not verify: {summary}");
        await Parallel.ForEachAsync(log.Select(r => (r.Namespace, r.WorkflowId)).Distinct(),
            new ParallelOptions { MaxDegreeOfParallelism = 8 }, async (key, cancellationToken) =>
            {
                var verified = await Integrity(channel).VerifyWorkflowAsync(
                    new Pb.VerifyWorkflowRequest { Namespace = key.Namespace, WorkflowId = key.WorkflowId },
                    cancellationToken: cancellationToken);
                if (!verified.Intact)
                    Miss($"{key} does not verify: {verified}");
            });
        var listed = await Integrity(channel).ListViolationsAsync(
            new Pb.ListViolationsRequest { AllNamespaces = true, IncludeReleased = true });
        foreach (var violation in listed.Violations)
            Miss($"honest traffic was found to be {violation}");
    }

    private static async Task<List<Pb.Record>> LogAsync(GrpcChannel channel)
    {
        var log = new List<Pb.Record>();
        using var watch = Workflows(channel).WatchRecords(new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = 0 });
        await foreach (var message in watch.ResponseStream.ReadAllAsync())
        {
            if (message.Progress is not null)
                break;
            log.Add(message.Record);
        }
        return log;
    }
}
