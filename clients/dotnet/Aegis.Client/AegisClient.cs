using Aegis.Core;
using Google.Rpc;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Client;

using Pb = Aegis.V1;

/// <summary>
/// The connection to a deployment of Aegis: one address or several, TLS, credentials, interceptors, retry, keepalive. Make one
/// for a process and dispose it at its end. Thread-safe. Services use <see cref="DurableWorkflowEngine"/> above it.
/// </summary>
public sealed class AegisClient : IAsyncDisposable
{
    private static readonly TimeSpan RetryDelayMin = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan RetryDelayMax = TimeSpan.FromSeconds(2);

    private readonly AegisClientOptions _options;
    private readonly GrpcChannel _channel;
    private readonly ILogger _logger;

    // Whether the log was found to continue the kept head since this client was made.
    private volatile bool _hasLooked;

    /// <summary>A client of one server, with everything by default.</summary>
    /// <param name="address">Such as <c>http://127.0.0.1:50051</c>.</param>
    public AegisClient(string address) : this(new AegisClientOptions { Addresses = [address] })
    {
    }

    /// <param name="options">Not to be changed any more.</param>
    /// <exception cref="ArgumentException">The options contradict each other; the message says which.</exception>
    /// <exception cref="FormatException">A trusted key is no verifier key.</exception>
    public AegisClient(AegisClientOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (options.Timeout <= TimeSpan.Zero)
            throw new ArgumentException("Timeout must be longer than nothing.", nameof(options));
        _options = options;
        _logger = (options.LoggerFactory ?? NullLoggerFactory.Instance).CreateLogger<AegisClient>();
        if (options.HeadFile is not null && options.HeadStore is not null)
            throw new ArgumentException("HeadFile and HeadStore are both given: one keeps the head.", nameof(options));
        if (options.TrustedKeys.Count > 0)
        {
            var store = options.HeadStore ?? (options.HeadFile is { } file ? new FileHeadStore(file) : new MemoryHeadStore());
            Trust = new LogTrust(options.TrustedKeys, store, options.AcceptedLogIds, ProveAsync, _logger);
        }
        else if (options.HeadFile is not null || options.HeadStore is not null || options.AcceptedLogIds.Count > 0)
        {
            throw new ArgumentException("A head is kept under TrustedKeys, and none are given.", nameof(options));
        }
        _channel = Channels.Open(options);
        Invoker = _channel.Intercept([.. options.Interceptors]);
        Workflows = new Pb.WorkflowService.WorkflowServiceClient(Invoker);
        Recovery = new Pb.RecoveryService.RecoveryServiceClient(Invoker);
        Integrity = new Pb.IntegrityService.IntegrityServiceClient(Invoker);
        System = new Pb.SystemService.SystemServiceClient(Invoker);
        Health = new Health.HealthClient(Invoker);
    }

    /// <summary>The generated stub, for calls that the layer has no name for. Neither retried nor verified, as are all stubs.</summary>
    public Pb.WorkflowService.WorkflowServiceClient Workflows { get; }

    /// <summary>The generated stub.</summary>
    public Pb.RecoveryService.RecoveryServiceClient Recovery { get; }

    /// <summary>The generated stub.</summary>
    public Pb.IntegrityService.IntegrityServiceClient Integrity { get; }

    /// <summary>The generated stub.</summary>
    public Pb.SystemService.SystemServiceClient System { get; }

    /// <summary>The generated stub of <c>grpc.health.v1</c>.</summary>
    public Health.HealthClient Health { get; }

    /// <summary>What carries the calls of all stubs, for stubs of one's own.</summary>
    public CallInvoker Invoker { get; }

    /// <summary>What is believed of the log; null without trusted keys.</summary>
    public LogTrust? Trust { get; }

    /// <summary>The namespace of all calls of the layer.</summary>
    public string Namespace => _options.Namespace;

    internal TimeProvider Time => _options.Time;

    internal ILoggerFactory LoggerFactory => _options.LoggerFactory ?? NullLoggerFactory.Instance;

    /// <summary>
    /// Asks for the newest head of the log and links it with the kept one. Whoever writes and reads rarely does this from time
    /// to time: the more often heads are seen, the less can be taken back unnoticed.
    /// </summary>
    /// <returns>The head; it is kept.</returns>
    /// <exception cref="InvalidOperationException">The client has no trusted keys.</exception>
    /// <exception cref="LogAlarmException">The log is not the one that was followed.</exception>
    public async Task<LogHead> FollowLogAsync(CancellationToken cancellationToken = default)
    {
        var trust = Trust ?? throw new InvalidOperationException("Nothing can be followed without TrustedKeys.");
        return await FollowAsync(trust, EndOf(null), "", cancellationToken);
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        _channel.Dispose();
        Trust?.Dispose();
        return ValueTask.CompletedTask;
    }

    /// <summary>Makes a call, and repeats it inside its time while the service is not there.</summary>
    internal Task<T> CallAsync<T>(Func<CallOptions, AsyncUnaryCall<T>> call, TimeSpan? timeout, CancellationToken cancellationToken)
        => CallAsync(call, EndOf(timeout), "", cancellationToken);

    /// <summary>The same, for what takes more than this call. A write has to have a request_id.</summary>
    internal Task<T> CallAsync<T>(Func<CallOptions, AsyncUnaryCall<T>> call, DateTime deadline, string requestId, CancellationToken cancellationToken)
        => RetryAsync(async options =>
        {
            using var unary = call(options);
            return await unary.ResponseAsync;
        }, deadline, requestId, cancellationToken);

    /// <summary>As <see cref="CallAsync{T}(Func{CallOptions, AsyncUnaryCall{T}}, TimeSpan?, CancellationToken)"/>, for what takes
    /// more than one answer: an attempt begins anew.</summary>
    internal Task<T> RetryAsync<T>(Func<CallOptions, Task<T>> attempt, TimeSpan? timeout, CancellationToken cancellationToken)
        => RetryAsync(attempt, EndOf(timeout), "", cancellationToken);

    /// <summary>When what begins now has to be done.</summary>
    internal DateTime EndOf(TimeSpan? timeout) => DateTime.UtcNow + (timeout ?? _options.Timeout);

    /// <summary>
    /// Looks at the log before the first call of all. A log that was taken back or exchanged would have its workflows resumed
    /// otherwise, and what they do outside done once more, until the first write shows it.
    /// </summary>
    /// <remarks>Callers that begin at once each look: it is cheap, and none of them waits for the time of another.</remarks>
    /// <exception cref="LogAlarmException">The log is not the one that was followed.</exception>
    internal async Task BeginAsync(DateTime deadline, string requestId, CancellationToken cancellationToken)
    {
        if (Trust is { } trust && !_hasLooked)
            await FollowAsync(trust, deadline, requestId, cancellationToken);
    }

    /// <summary>Links the newest head with the kept one.</summary>
    /// <param name="trust">What is believed.</param>
    /// <param name="deadline">When it has to be done.</param>
    /// <param name="requestId">Of the write that it is done for.</param>
    /// <param name="cancellationToken">Gives up.</param>
    internal async Task<LogHead> FollowAsync(LogTrust trust, DateTime deadline, string requestId, CancellationToken cancellationToken)
    {
        try
        {
            var known = await trust.KnownAsync(cancellationToken);
            var response = await AttemptAsync(async options => await Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest(), options), deadline,
                requestId, cancellationToken);
            var head = await LinkAsync(trust, response.SignedNote, known, null, deadline, cancellationToken);
            _hasLooked = true;
            return head;
        }
        catch (AegisException e) when (e is ServiceUnavailableException or CallTimeoutException)
        {
            throw Final(e.Origin, requestId);
        }
    }

    /// <summary>Links a head that came with the kept one, by the time at which the call that it came of has to be done.</summary>
    internal static async Task<LogHead> LinkAsync(LogTrust trust, string note, LogHead? known, IReadOnlyList<Hash>? path, DateTime deadline,
        CancellationToken cancellationToken)
    {
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var left = deadline - DateTime.UtcNow;
        end.CancelAfter(left > TimeSpan.Zero ? left : TimeSpan.Zero);
        try
        {
            return await trust.LinkAsync(note, known, path, end.Token);
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            throw AegisException.Of(new AegisException.Failure(StatusCode.DeadlineExceeded, "",
                "The head of the log that came could not be linked with the kept one in time.", new Dictionary<string, string>(), null));
        }
    }

    private async Task<T> RetryAsync<T>(Func<CallOptions, Task<T>> attempt, DateTime deadline, string requestId, CancellationToken cancellationToken)
    {
        await BeginAsync(deadline, requestId, cancellationToken);
        return await AttemptAsync(attempt, deadline, requestId, cancellationToken);
    }

    /// <exception cref="AegisException">It was refused, or the time is over.</exception>
    /// <exception cref="OperationCanceledException">The caller gave up.</exception>
    private async Task<T> AttemptAsync<T>(Func<CallOptions, Task<T>> attempt, DateTime deadline, string requestId, CancellationToken cancellationToken)
    {
        var options = new CallOptions(deadline: deadline, cancellationToken: cancellationToken);
        AegisException.Failure? before = null;
        for (var backoff = RetryDelayMin; ; backoff = TimeSpan.FromTicks(Math.Min(backoff.Ticks * 2, RetryDelayMax.Ticks)))
        {
            Trust?.ThrowIfStopped();
            try
            {
                return await attempt(options);
            }
            catch (RpcException e)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var failure = AegisException.FailureOf(e);
                var delay = DelayAfter(e, failure, backoff);
                if (delay is null || DateTime.UtcNow + delay > deadline)
                    throw Final(e.StatusCode == StatusCode.DeadlineExceeded ? before ?? failure : failure, requestId);
                before = failure;
                _logger.LogInformation("Trying again after {Code} {Reason}: {Message}", failure.StatusCode, failure.Reason, failure.Message);
                await Task.Delay(delay.Value, Time, cancellationToken);
            }
        }
    }

    /// <summary>That the time was over tells less than why it was not enough; a request_id tells how to go on.</summary>
    internal static AegisException Final(AegisException.Failure failure, string requestId) => AegisException.Of(failure) switch
    {
        ServiceUnavailableException => new ServiceUnavailableException(failure) { RequestId = requestId },
        CallTimeoutException => new CallTimeoutException(failure) { RequestId = requestId },
        var other => other,
    };

    /// <summary>How long to wait before the next attempt; null when repeating does not help.</summary>
    private static TimeSpan? DelayAfter(RpcException e, AegisException.Failure failure, TimeSpan backoff)
    {
        // What the transport failed with, rather than a server, may have any code.
        var isConnection = e.Status.DebugException is HttpRequestException or IOException && e.StatusCode != StatusCode.DeadlineExceeded;
        if (e.StatusCode != StatusCode.Unavailable && failure.Reason != "OVERLOADED" && !isConnection)
            return null;
        // Many callers that were turned away together must not come back together.
        var asked = e.GetRpcStatus()?.GetDetail<RetryInfo>()?.RetryDelay?.ToTimeSpan() ?? TimeSpan.Zero;
        return asked + (backoff * (0.5 + (Random.Shared.NextDouble() / 2)));
    }

    /// <summary>As part of linking a head, and so without looking at the log before; whoever links ends it with their own time.</summary>
    private async Task<IReadOnlyList<Hash>> ProveAsync(long first, long second, CancellationToken cancellationToken)
    {
        var request = new Pb.GetConsistencyProofRequest { FirstSize = (ulong)first, SecondSize = (ulong)second };
        var response = await AttemptAsync(async options => await Integrity.GetConsistencyProofAsync(request, options), EndOf(null),
            "", cancellationToken);
        return LogTrust.PathOf(response.Path);
    }
}
