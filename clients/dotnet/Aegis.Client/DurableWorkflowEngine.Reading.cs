using Aegis.Core;
using Grpc.Core;
using Microsoft.Extensions.Logging;

namespace Aegis.Client;

using Pb = Aegis.V1;

/// <summary>A state object as it was at some point of a workflow's history.</summary>
/// <typeparam name="T">The type of the state object.</typeparam>
/// <param name="Data">The object.</param>
/// <param name="Record">The record that carries it.</param>
/// <param name="Hash">The record's hash.</param>
public sealed record Checkpoint<T>(T Data, Record Record, Hash Hash)
{
    /// <summary>The state it belongs to.</summary>
    public string State => Record.ToState;

    /// <summary>When it was recorded.</summary>
    public DateTimeOffset RecordedAt => Times.FromMicroseconds(Record.RecordedAt);
}

public sealed partial class DurableWorkflowEngine
{
    private const int PageSize = 100;

    /// <summary>Takes a workflow up again: its lease, its newest object, and where it stands, all of it recomputed.</summary>
    /// <param name="workflowId">A workflow of a registered type, open and held by nobody.</param>
    /// <param name="options">How.</param>
    /// <param name="cancellationToken">Gives up waiting.</param>
    /// <exception cref="WorkflowNotFoundException">There is none.</exception>
    /// <exception cref="LeaseHeldException">Another holds it.</exception>
    /// <exception cref="WorkflowClosedException">It has ended.</exception>
    public async Task<Workflow<T>> ResumeAsync<T>(string workflowId, ResumeOptions? options = null, CancellationToken cancellationToken = default)
    {
        var request = new Pb.ResumeWorkflowRequest
        {
            Namespace = _client.Namespace,
            WorkflowId = workflowId,
            Owner = Owner,
            LeaseDuration = _leases.Duration,
            TakeOverOwn = options?.TakeOverOwn ?? false,
        };
        var attempts = 0;
        var response = await _client.CallAsync(call =>
        {
            // The lease that a lost reply granted is our own.
            request.TakeOverOwn |= attempts++ > 0 && !_leases.Holds(workflowId);
            return _client.Recovery.ResumeWorkflowAsync(request, call);
        }, null, cancellationToken);
        return await AdoptAsync<T>(response, workflowId, cancellationToken);
    }

    /// <summary>
    /// Reads a workflow without taking its lease: to look, also at a closed one, or to move one that waits. What is written
    /// through the handle is a compare and swap on what was read, and is refused while another holds the lease.
    /// </summary>
    /// <param name="workflowId">A workflow of a registered type.</param>
    /// <param name="cancellationToken">Gives up waiting.</param>
    /// <exception cref="WorkflowNotFoundException">There is none.</exception>
    public async Task<Workflow<T>> ReadAsync<T>(string workflowId, CancellationToken cancellationToken = default)
    {
        var request = new Pb.ResumeWorkflowRequest { Namespace = _client.Namespace, WorkflowId = workflowId };
        var response = await _client.CallAsync(call => _client.Recovery.ResumeWorkflowAsync(request, call), null, cancellationToken);
        return await AdoptAsync<T>(response, workflowId, cancellationToken);
    }

    /// <summary>
    /// Takes up everything that is pending (RUNNING and held by nobody) of the types registered with this state object, one after
    /// the other. Leases are held and renewed until a workflow closes, waits or is disposed, and all of them are released when the
    /// iteration is closed. What another takes away is not handed out any more. Of many workers that do so at once each workflow
    /// goes to exactly one.
    /// </summary>
    /// <param name="options">How; with <see cref="ResumeOptions.Poll"/> it goes on for ever.</param>
    /// <param name="cancellationToken">Ends the iteration.</param>
    public IAsyncEnumerable<Workflow<T>> ResumeAllPendingAsync<T>(ResumeOptions? options = null, CancellationToken cancellationToken = default)
    {
        string[] types = [.. _types.Where(t => t.Value.State == typeof(T)).Select(t => t.Key)];
        return types.Length == 0
            ? throw new InvalidOperationException($"No workflow type is registered with the state object {typeof(T)}: call Register first.")
            : new PendingWorkflows<T>(this, types, options ?? new ResumeOptions(), cancellationToken);
    }

    /// <summary>The newest checkpoint, or the newest not after a point of the history.</summary>
    /// <param name="workflowId">A workflow of a registered type.</param>
    /// <param name="sequence">Not after this record; null for any.</param>
    /// <param name="asOf">Not recorded after this time; null for any. Not with a sequence.</param>
    /// <param name="cancellationToken">Gives up waiting.</param>
    /// <exception cref="CheckpointNotFoundException">There is none so early.</exception>
    public async Task<Checkpoint<T>> LoadCheckpointAsync<T>(string workflowId, long? sequence = null, DateTimeOffset? asOf = null,
        CancellationToken cancellationToken = default)
    {
        if (sequence is not null && asOf is not null)
            throw new ArgumentException("A point is given by a sequence or by a time.", nameof(asOf));
        var request = new Pb.GetCheckpointRequest { Namespace = _client.Namespace, WorkflowId = workflowId };
        if (sequence is { } s)
            request.Sequence = (ulong)s;
        else if (asOf is not null)
            request.AsOf = TimestampOf(asOf);
        var response = await _client.CallAsync(options => _client.Workflows.GetCheckpointAsync(request, options), null, cancellationToken);
        var stored = Answers.Record(response.Record, new WorkflowKey(_client.Namespace, workflowId));
        var record = stored.Record;
        if (record.Sequence > (sequence ?? long.MaxValue) || (asOf is { } time && record.RecordedAt > Times.ToMicroseconds(time)))
            throw new IntegrityException("ANSWER", $"Record {record.Sequence} of {record.Key} is later than what was asked for.");
        var codec = CodecOf<T>(record.WorkflowType);
        return new Checkpoint<T>(codec.Decode(Answers.Snapshot(stored, response.Snapshot)), record, stored.Hash);
    }

    /// <summary>The whole history of a workflow, oldest first; each record is recomputed and follows from the one before.</summary>
    /// <param name="workflowId">The workflow.</param>
    /// <param name="cancellationToken">Ends the reading.</param>
    /// <exception cref="IntegrityException">A record was altered, or does not follow. Those before are good.</exception>
    public async IAsyncEnumerable<WrittenRecord> ListRecordsAsync(string workflowId,
        [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        var key = new WorkflowKey(_client.Namespace, workflowId);
        var verifier = new ChainVerifier(key);
        var request = new Pb.ListRecordsRequest { Namespace = key.Namespace, WorkflowId = workflowId, PageSize = PageSize };
        do
        {
            var page = await _client.CallAsync(options => _client.Workflows.ListRecordsAsync(request, options), null, cancellationToken);
            foreach (var message in page.Records)
            {
                var stored = Answers.Record(message, key);
                verifier.Add(stored);
                if (verifier.Violations is { Count: > 0 } violations)
                    throw new IntegrityException("RECORD", $"The chain of {key} is broken: {violations[0].Message}", violations);
                yield return new WrittenRecord(stored.Record, stored.Hash, stored.LogIndex, "", false);
            }
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
    }

    /// <summary>
    /// Leases pending workflows, and gives each of them as it comes, so that none is held without being renewed. One that cannot be
    /// verified or decoded fails alone: it is given along with its failure, and its lease is held until whoever gets it releases
    /// it, or the next call would be given it again.
    /// </summary>
    /// <returns>How many came, and whether the stream broke meanwhile, so that some that were on their way are leased to nobody.</returns>
    internal async Task<(int Count, bool HasBroken)> LeasePendingAsync<T>(string[] types, ResumeOptions options, bool takeOverOwn, Action<Workflow<T>> leased,
        Action<ResumeFailure, Workflow<T>?> failed, CancellationToken cancellationToken)
    {
        var request = new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = _client.Namespace,
            WorkflowTypes = { types },
            States = { options.States },
            Owner = Owner,
            LeaseDuration = _leases.Duration,
            TakeOverOwn = takeOverOwn,
            // A second call that takes over would take from the first.
            MaxWorkflows = takeOverOwn ? 0 : (ulong)Math.Max(options.Ahead, 1),
        };
        var (count, attempts) = (0, 0);
        await _client.RetryAsync(async call =>
        {
            attempts++;
            using var stream = _client.Recovery.ResumePendingWorkflows(request, call);
            while (await stream.ResponseStream.MoveNext(cancellationToken))
            {
                switch (stream.ResponseStream.Current)
                {
                    case { Resumed: { } resumed }:
                        var workflow = Receive<T>(resumed, head => types.Contains(head.WorkflowType), "what is pending");
                        count++;
                        if (await FailureOfAsync(workflow, resumed, cancellationToken) is { } unread)
                            failed(unread, workflow);
                        else
                            leased(workflow);
                        break;
                    case { Failed: { } failure }:
                        failed(new ResumeFailure(failure.WorkflowId, failure.Reason, failure.Message), null);
                        break;
                }
            }
            return true;
        }, null, cancellationToken);
        return (count, attempts > 1);
    }

    /// <summary>Why this workflow alone cannot be taken up; null where it is. What concerns all of them is thrown.</summary>
    private async Task<ResumeFailure?> FailureOfAsync<T>(Workflow<T> workflow, Pb.ResumeWorkflowResponse resumed, CancellationToken cancellationToken)
    {
        try
        {
            await RecomputeAsync(workflow, resumed, cancellationToken);
            return null;
        }
        catch (IntegrityException e) when (e is not LogAlarmException)
        {
            return new ResumeFailure(workflow.WorkflowId, e.Reason, e.Message);
        }
        catch (HistoryDamagedException e)
        {
            return new ResumeFailure(workflow.WorkflowId, e.Reason, e.Message);
        }
        // Whatever a codec of the caller's throws; what the rest of the reading throws is told above and below.
        catch (Exception e) when (e is not AegisException and not IntegrityException and not OperationCanceledException)
        {
            return new ResumeFailure(workflow.WorkflowId, "CODEC", $"Its snapshot cannot be decoded: {e.Message}");
        }
        catch
        {
            await ReleaseAsync([workflow]);
            throw;
        }
    }

    /// <summary>A workflow as the server hands it out, once its chain and its snapshot are recomputed. Its lease is held from now on.</summary>
    private async Task<Workflow<T>> AdoptAsync<T>(Pb.ResumeWorkflowResponse response, string workflowId, CancellationToken cancellationToken)
    {
        var workflow = Receive<T>(response, head => head.WorkflowId == workflowId, workflowId);
        try
        {
            await RecomputeAsync(workflow, response, cancellationToken);
            return workflow;
        }
        catch
        {
            await ReleaseAsync([workflow]);
            throw;
        }
    }

    /// <summary>The handle of a workflow that the server hands out. Its lease is held from now on; what it tells is not verified yet.</summary>
    /// <exception cref="IntegrityException">It is not what was asked for.</exception>
    private Workflow<T> Receive<T>(Pb.ResumeWorkflowResponse response, Func<Pb.Workflow, bool> isAsked, string asked)
    {
        var head = response.Workflow ?? throw new IntegrityException("ANSWER", "The answer has no workflow.");
        var key = new WorkflowKey(head.Namespace, head.WorkflowId);
        if (key.Namespace != _client.Namespace || !isAsked(head))
        {
            throw new IntegrityException("ANSWER",
                $"What was asked for is {asked} in the namespace \"{_client.Namespace}\", and what came is {key} of the type \"{head.WorkflowType}\".");
        }
        var workflow = new Workflow<T>(this, CodecOf<T>(head.WorkflowType), key, head.WorkflowType);
        Hold(workflow, response.Lease);
        return workflow;
    }

    /// <summary>Fills a handle with what the records give, all of it recomputed.</summary>
    /// <exception cref="IntegrityException">They do not fit each other, or what the server tells of the workflow.</exception>
    private async Task RecomputeAsync<T>(Workflow<T> workflow, Pb.ResumeWorkflowResponse response, CancellationToken cancellationToken)
    {
        var (head, key) = (response.Workflow, workflow.Key);
        var records = new List<StoredRecord>();
        if (response.Checkpoint is { } checkpoint)
            records.Add(Answers.Record(checkpoint.Record, key));
        var before = records.Count;
        records.AddRange(response.RecordsSince.Select(r => Answers.Record(r, key)));
        if (response.MoreRecords)
            records.AddRange(await RecordsAfterAsync(key, records.LastOrDefault()?.Record.Sequence ?? 0, (long)head.Sequence, cancellationToken));
        if (records.Count == 0 || (before == 0 && records[0].Record.Sequence != 1))
            throw new IntegrityException("ANSWER", $"The answer about {key} has not its whole history since its checkpoint.");
        Answers.Chain(head, key, records);
        var last = records[^1];
        (workflow.State, workflow.Status, workflow.Sequence, workflow.HeadHash) = (last.Record.ToState, last.Record.Status, last.Record.Sequence, last.Hash);
        workflow.Metadata = head.Metadata.ToDictionary();
        workflow.RecordsSince = [.. records.Skip(before).Select(r => r.Record)];
        if (before > 0)
        {
            workflow.Data = workflow.Codec.Decode(Answers.Snapshot(records[0], response.Checkpoint!.Snapshot));
            workflow.StoredSha256 = records[0].Record.Snapshot!.Sha256;
        }
        BeginCheckpoints(workflow);
    }

    /// <summary>The newest records back to one that is known, oldest first.</summary>
    private async Task<IEnumerable<StoredRecord>> RecordsAfterAsync(WorkflowKey key, long sequence, long last, CancellationToken cancellationToken)
    {
        var found = new Stack<StoredRecord>();
        var request = new Pb.ListRecordsRequest { Namespace = key.Namespace, WorkflowId = key.WorkflowId, Descending = true, PageSize = PageSize };
        do
        {
            var page = await _client.CallAsync(options => _client.Workflows.ListRecordsAsync(request, options), null, cancellationToken);
            foreach (var stored in page.Records.Select(r => Answers.Record(r, key)))
            {
                if (stored.Record.Sequence <= sequence)
                    return found;
                if (stored.Record.Sequence <= last)
                    found.Push(stored);
            }
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
        return found;
    }
}
