using System.Collections.Concurrent;
using Aegis.Core;
using Aegis.Evidence;
using Microsoft.Extensions.Logging;

namespace Aegis.Client;

using Pb = Aegis.V1;

/// <summary>
/// Keeps the state of a service's workflows durably: register types, start workflows, move them, take them up again after a crash.
/// Thread-safe; each <see cref="Workflow{T}"/> takes one write at a time.
/// </summary>
/// <remarks>
/// Every write has a request_id and is repeated with it inside its time while the service is away: a lost reply never doubles a
/// record. Every call fails with a subclass of <see cref="AegisException"/> where the service refuses it, with
/// <see cref="IntegrityException"/> where what came does not fit, and with <see cref="OperationCanceledException"/> where the
/// caller gives up.
/// </remarks>
public sealed partial class DurableWorkflowEngine : IAsyncDisposable
{
    private readonly AegisClient _client;
    private readonly EngineOptions _options;
    private readonly LeaseKeeper _leases;
    private readonly ILogger _logger;

    // The codec of each type, an ICodec<T>, with T.
    private readonly ConcurrentDictionary<string, (System.Type State, object Codec)> _types = new();

    /// <param name="client">The connection; it stays its owner's.</param>
    /// <param name="options">Not to be changed any more.</param>
    public DurableWorkflowEngine(AegisClient client, EngineOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(client);
        (_client, _options) = (client, options ?? new EngineOptions());
        if (_options.LeaseDuration < TimeSpan.FromSeconds(1) || _options.LeaseDuration > TimeSpan.FromHours(1))
            throw new ArgumentException("LeaseDuration must be from 1 s to 1 h.", nameof(options));
        if (_options.CheckpointInterval <= TimeSpan.Zero && _options.CheckpointInterval != Timeout.InfiniteTimeSpan)
            throw new ArgumentException("CheckpointInterval must be longer than nothing, or infinite.", nameof(options));
        ArgumentException.ThrowIfNullOrEmpty(_options.Owner);
        _logger = client.LoggerFactory.CreateLogger<DurableWorkflowEngine>();
        _leases = new LeaseKeeper(client, _options.Owner, _options.LeaseDuration, _logger);
    }

    /// <summary>Who takes the leases.</summary>
    public string Owner => _options.Owner;

    /// <summary>The connection.</summary>
    public AegisClient Client => _client;

    /// <summary>Says what state objects a type of workflow has, before the first of it is started or resumed.</summary>
    /// <typeparam name="T">Their type; several types of workflow may share it.</typeparam>
    /// <param name="workflowType">The type of workflow, up to 255 bytes.</param>
    /// <param name="codec">How they become bytes; JSON by default.</param>
    /// <exception cref="InvalidOperationException">The type is registered already.</exception>
    public void Register<T>(string workflowType, ICodec<T>? codec = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(workflowType);
        if (!_types.TryAdd(workflowType, (typeof(T), codec ?? new JsonCodec<T>())))
            throw new InvalidOperationException($"The workflow type \"{workflowType}\" is registered already.");
    }

    /// <summary>Starts a workflow.</summary>
    /// <param name="workflowType">A registered type.</param>
    /// <param name="workflowId">Its id, up to 255 bytes. Like all names it can never be erased and must not hold personal data.</param>
    /// <param name="initialState">The state it starts in.</param>
    /// <param name="data">Its first state object; null for none.</param>
    /// <param name="details">What is told along with it.</param>
    /// <param name="cancellationToken">Gives up waiting. The workflow may have been started.</param>
    /// <exception cref="WorkflowAlreadyExistsException">The id is taken.</exception>
    public Task<Workflow<T>> StartAsync<T>(string workflowType, string workflowId, string initialState, T? data,
        StartDetails? details = null, CancellationToken cancellationToken = default)
        => StartAsync(workflowType, new Pb.StartWorkflowRequest
        {
            WorkflowId = workflowId,
            InitialState = initialState,
            Snapshot = Encoded(CodecOf<T>(workflowType), data),
        }, data, details ?? new StartDetails(), cancellationToken);

    /// <summary>
    /// Starts a new workflow from a record of another and leaves that as it is: to go another way, or to go on with a closed case.
    /// Its object is that of the record's time, and so is its state unless given.
    /// </summary>
    /// <param name="workflowType">A registered type.</param>
    /// <param name="workflowId">The id of the new workflow.</param>
    /// <param name="sourceId">The workflow to fork from.</param>
    /// <param name="sequence">The record of it to fork from.</param>
    /// <param name="initialState">The state it starts in; null for that of the record.</param>
    /// <param name="details">What is told along with it.</param>
    /// <param name="cancellationToken">Gives up waiting. The workflow may have been started.</param>
    public Task<Workflow<T>> ForkAsync<T>(string workflowType, string workflowId, string sourceId, long sequence, string? initialState = null,
        StartDetails? details = null, CancellationToken cancellationToken = default)
        => StartAsync<T>(workflowType, ForkOf(workflowId, sourceId, sequence, initialState), default, details ?? new StartDetails(), cancellationToken);

    /// <summary>The same, with an object of its own.</summary>
    /// <param name="workflowType">A registered type.</param>
    /// <param name="workflowId">The id of the new workflow.</param>
    /// <param name="sourceId">The workflow to fork from.</param>
    /// <param name="sequence">The record of it to fork from.</param>
    /// <param name="initialState">The state it starts in; null for that of the record.</param>
    /// <param name="data">Its first state object; null, where the type allows it, for that of the record's time.</param>
    /// <param name="details">What is told along with it.</param>
    /// <param name="cancellationToken">Gives up waiting. The workflow may have been started.</param>
    public Task<Workflow<T>> ForkAsync<T>(string workflowType, string workflowId, string sourceId, long sequence, string? initialState,
        T? data, StartDetails? details = null, CancellationToken cancellationToken = default)
    {
        var request = ForkOf(workflowId, sourceId, sequence, initialState);
        request.Snapshot = Encoded(CodecOf<T>(workflowType), data);
        return StartAsync(workflowType, request, data, details ?? new StartDetails(), cancellationToken);
    }

    /// <summary>
    /// Moves a workflow from the state it is in to another, by compare and swap on its newest record, and stores its object along
    /// with the move.
    /// </summary>
    /// <param name="workflow">As it stands; its state, sequence and hash follow the move.</param>
    /// <param name="toState">The state it moves to.</param>
    /// <param name="status">The status after; a closed one ends the workflow and its lease.</param>
    /// <param name="details">What is told along with it.</param>
    /// <param name="cancellationToken">Gives up waiting. The workflow may have moved.</param>
    /// <exception cref="WorkflowConflictException">It is not where this handle supposes: somebody else moved it.</exception>
    /// <exception cref="LeaseLostException">The lease is another's now.</exception>
    public Task<WrittenRecord> TransitionAsync<T>(Workflow<T> workflow, string toState, WorkflowStatus status = WorkflowStatus.Running,
        TransitionDetails? details = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(workflow);
        var told = details ?? new TransitionDetails();
        return InTurnAsync(workflow, async () =>
        {
            var encoded = told.Checkpoint ?? _options.CheckpointOnTransition ? Encoded(workflow.Codec, workflow.Data) : null;
            var request = new Pb.TransitionWorkflowRequest
            {
                Namespace = _client.Namespace,
                WorkflowId = workflow.WorkflowId,
                FromState = workflow.State,
                ToState = toState,
                Status = (Pb.WorkflowStatus)status,
                ExpectedHash = workflow.HeadHash.ToPb(),
                LeaseEpoch = (ulong)workflow.LeaseEpoch,
                Actor = told.Actor ?? Owner,
                Reason = told.Reason,
                Snapshot = encoded,
                OccurredAt = TimestampOf(told.OccurredAt),
                RequestId = RequestIdOf(told),
            };
            request.Metadata.Add(told.Metadata.ToDictionary());
            var sent = SentOf(RecordKind.Transition, request.RequestId, told, encoded) with
            {
                FromState = workflow.State,
                ToState = toState,
                Status = status,
                LeaseEpoch = workflow.LeaseEpoch,
                PreviousHash = workflow.HeadHash,
            };
            var (_, stored, written) = await WriteAsync(workflow.Key, sent, told.Timeout, (known, isProven, options) =>
            {
                (request.KnownLogSize, request.IncludeProof) = (known, isProven);
                return _client.Workflows.TransitionWorkflowAsync(request, options);
            }, r => (r.Record, r.Receipt, r.Replayed), cancellationToken);
            Follow(workflow, stored, written, encoded);
            if (workflow.Status.IsClosed() && workflow.IsLeased)
                _leases.End(workflow);
            return written;
        }, cancellationToken);
    }

    /// <summary>Stores a workflow's object without moving it.</summary>
    /// <param name="workflow">As it stands; its <see cref="Workflow{T}.Data"/> must not be null.</param>
    /// <param name="details">What is told along with it.</param>
    /// <param name="cancellationToken">Gives up waiting. The checkpoint may have been stored.</param>
    /// <exception cref="WorkflowConflictException">It is not where this handle supposes: somebody else moved it.</exception>
    /// <exception cref="LeaseLostException">The lease is another's now.</exception>
    public Task<WrittenRecord> CheckpointAsync<T>(Workflow<T> workflow, WriteDetails? details = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(workflow);
        return InTurnAsync(workflow, () =>
        {
            var encoded = Encoded(workflow.Codec, workflow.Data)
                ?? throw new InvalidOperationException($"{workflow.Key} has no state object to store.");
            return StoreAsync(workflow, encoded, details ?? new WriteDetails(), cancellationToken);
        }, cancellationToken);
    }

    /// <summary>
    /// Moves a workflow to a state in which a human, a date or another system is waited for, for days if need be, and releases its
    /// lease: whoever has the answer moves it on without one.
    /// </summary>
    /// <param name="workflow">As it stands.</param>
    /// <param name="toState">The state in which it waits; its status is WAITING.</param>
    /// <param name="details">What is told along with it.</param>
    /// <param name="cancellationToken">Gives up waiting. The workflow may have moved.</param>
    public async Task<WrittenRecord> WaitAsync<T>(Workflow<T> workflow, string toState, TransitionDetails? details = null,
        CancellationToken cancellationToken = default)
    {
        var written = await TransitionAsync(workflow, toState, WorkflowStatus.Waiting, details, cancellationToken);
        await ReleaseAsync([workflow]);
        return written;
    }

    /// <summary>Stops all that goes on in the background and releases all leases. The client stays open.</summary>
    public ValueTask DisposeAsync() => _leases.DisposeAsync();

    internal TimeSpan LeaseDuration => _options.LeaseDuration;

    internal async Task ReleaseAsync<T>(IReadOnlyList<Workflow<T>> workflows, bool isAtWork = false)
    {
        // A periodic checkpoint on its way is waited for, or the released lease would make it fail.
        foreach (var workflow in workflows.Where(w => w.IsLeased))
        {
            await workflow.AtWork.CancelAsync();
            if (await workflow.Gate.WaitAsync(_leases.RenewalInterval))
                workflow.Gate.Release();
        }
        await _leases.ReleaseAsync(workflows, isAtWork);
    }

    private static Pb.StartWorkflowRequest ForkOf(string workflowId, string sourceId, long sequence, string? initialState) => new()
    {
        WorkflowId = workflowId,
        InitialState = initialState ?? "",
        ForkedFrom = new Pb.ForkPoint { WorkflowId = sourceId, Sequence = (ulong)sequence },
    };

    /// <param name="workflowType">A registered type.</param>
    /// <param name="request">What to start, with its snapshot if it has one of its own.</param>
    /// <param name="data">What that snapshot is of.</param>
    /// <param name="details">What is told along with it.</param>
    /// <param name="cancellationToken">Gives up waiting.</param>
    private async Task<Workflow<T>> StartAsync<T>(string workflowType, Pb.StartWorkflowRequest request, T? data, StartDetails details,
        CancellationToken cancellationToken)
    {
        var codec = CodecOf<T>(workflowType);
        request.Namespace = _client.Namespace;
        request.WorkflowType = workflowType;
        request.Status = (Pb.WorkflowStatus)details.Status;
        (request.Actor, request.Reason, request.RequestId) = (details.Actor ?? Owner, details.Reason, RequestIdOf(details));
        request.Metadata.Add(details.Metadata.ToDictionary());
        request.OccurredAt = TimestampOf(details.OccurredAt);
        if (details.TakeLease)
            (request.Owner, request.LeaseDuration) = (Owner, _leases.Duration);
        var key = new WorkflowKey(_client.Namespace, request.WorkflowId);
        var isFork = request.ForkedFrom is not null;
        var sent = SentOf(RecordKind.Started, request.RequestId, details, request.Snapshot) with
        {
            WorkflowType = workflowType,
            FromState = "",
            ToState = isFork && request.InitialState.Length == 0 ? null : request.InitialState,
            Status = details.Status,
            PreviousHash = isFork ? null : Hash.Zero,
            MayTakeSnapshotOver = isFork,
        };
        var (response, stored, written) = await WriteAsync(key, sent, details.Timeout, (known, isProven, options) =>
        {
            (request.KnownLogSize, request.IncludeProof) = (known, isProven);
            return _client.Workflows.StartWorkflowAsync(request, options);
        }, r => (r.Record, r.Receipt, r.Replayed), cancellationToken);
        Workflow<T> workflow;
        var isAsSent = response.Workflow?.Sequence == (ulong)stored.Record.Sequence && (request.Snapshot is not null || !stored.Record.IsCheckpoint);
        if (isAsSent)
        {
            workflow = new Workflow<T>(this, codec, key, workflowType) { Data = data, Metadata = MetadataOf(stored) };
            Follow(workflow, stored, written, request.Snapshot);
        }
        else
        {
            // It was started long ago and moved since, or took over the object of what it was forked from.
            workflow = await ReadAsync<T>(request.WorkflowId, cancellationToken);
            workflow.LastWritten = written;
        }
        Hold(workflow, response.Lease);
        BeginCheckpoints(workflow);
        return workflow;
    }

    private void Hold<T>(Workflow<T> workflow, Pb.Lease? lease)
    {
        if (lease is null || lease.Epoch == 0)
            return;
        workflow.LeaseEpoch = (long)lease.Epoch;
        workflow.LeaseExpiresAt = Times.FromMicroseconds(RecordMessages.ToMicroseconds(lease.ExpiresAt));
        _leases.Hold(workflow);
    }

    /// <summary>Once its object is there, and not before: what is not read yet must not be stored over what is.</summary>
    private void BeginCheckpoints<T>(Workflow<T> workflow)
    {
        if (workflow.IsLeased && _options.CheckpointInterval != Timeout.InfiniteTimeSpan)
            _ = CheckpointPeriodicallyAsync(workflow);
    }

    /// <summary>While the lease is held and nobody has ended the work. Nothing that fails here is the caller's: their next write tells.</summary>
    private async Task CheckpointPeriodicallyAsync<T>(Workflow<T> workflow)
    {
        var end = workflow.AtWork.Token;
        var details = new WriteDetails { Reason = "periodic checkpoint", Timeout = _leases.RenewalInterval };
        while (!end.IsCancellationRequested)
        {
            try
            {
                await Task.Delay(_options.CheckpointInterval, _client.Time, end);
                await InTurnAsync(workflow, async () =>
                {
                    var encoded = end.IsCancellationRequested ? null : Encoded(workflow.Codec, workflow.Data);
                    return encoded is null || Answers.HashOf(encoded.Sha256) == workflow.StoredSha256 ? null
                        : await StoreAsync(workflow, encoded, details, CancellationToken.None);
                }, end);
            }
            catch (OperationCanceledException) when (end.IsCancellationRequested)
            {
                return;
            }
            // Whatever a codec of the caller's throws, the work goes on.
#pragma warning disable CA1031
            catch (Exception e)
#pragma warning restore CA1031
            {
                _logger.LogWarning(e, "A periodic checkpoint of {WorkflowId} failed", workflow.WorkflowId);
            }
        }
    }

    private ICodec<T> CodecOf<T>(string workflowType)
    {
        if (!_types.TryGetValue(workflowType, out var type))
            throw new InvalidOperationException($"The workflow type \"{workflowType}\" is not registered: call Register first.");
        return type.Codec as ICodec<T> ?? throw new InvalidOperationException(
            $"The workflow type \"{workflowType}\" is registered with the state object {type.State}, not {typeof(T)}.");
    }
}
