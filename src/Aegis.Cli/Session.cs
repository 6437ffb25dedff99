using System.CommandLine;
using Google.Protobuf;
using Google.Rpc;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Cli;

using Hash = Aegis.Core.Hash;
using Pb = Aegis.V1;

/// <summary>One run of a command: its connection, its output, and how its failures end.</summary>
internal sealed class Session : IDisposable
{
    private const int RequestBytesMax = 16 * 1024 * 1024;

    private static readonly TimeSpan DefaultTimeout = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan RetryDelayMin = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan RetryDelayMax = TimeSpan.FromSeconds(2);

    private readonly GrpcChannel _channel;
    private readonly ParseResult _parsed;
    private readonly TimeSpan? _timeout;
    private int _hasToldRetry;

    private Session(ParseResult parsed, Output output, CancellationToken cancellationToken)
    {
        (_parsed, Output, Cancellation) = (parsed, output, cancellationToken);
        _timeout = Inputs.TimeoutOf(parsed.GetValue(GlobalOptions.Timeout));
        _channel = GrpcChannel.ForAddress(Inputs.ServerOf(parsed.GetValue(GlobalOptions.Server)!), new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler
            {
                EnableMultipleHttp2Connections = true,
                // A watch on a host that vanished would otherwise wait for ever.
                KeepAlivePingDelay = TimeSpan.FromSeconds(20),
                KeepAlivePingTimeout = TimeSpan.FromSeconds(10),
                KeepAlivePingPolicy = HttpKeepAlivePingPolicy.WithActiveRequests,
            },
            DisposeHttpClient = true,
            // The default of a second would be most of a short recovery.
            InitialReconnectBackoff = RetryDelayMin,
            MaxReconnectBackoff = RetryDelayMax,
            MaxSendMessageSize = RequestBytesMax,
        });
        Workflows = new Pb.WorkflowService.WorkflowServiceClient(_channel);
        Recovery = new Pb.RecoveryService.RecoveryServiceClient(_channel);
        Integrity = new Pb.IntegrityService.IntegrityServiceClient(_channel);
        System = new Pb.SystemService.SystemServiceClient(_channel);
        Health = new Health.HealthClient(_channel);
    }

    public Output Output { get; }
    public CancellationToken Cancellation { get; }
    public Pb.WorkflowService.WorkflowServiceClient Workflows { get; }
    public Pb.RecoveryService.RecoveryServiceClient Recovery { get; }
    public Pb.IntegrityService.IntegrityServiceClient Integrity { get; }
    public Pb.SystemService.SystemServiceClient System { get; }
    public Health.HealthClient Health { get; }

    public string Namespace => _parsed.GetValue(GlobalOptions.Namespace)!;

    /// <summary>For a call that answers once.</summary>
    public CallOptions Unary => new(deadline: DateTime.UtcNow + (_timeout ?? DefaultTimeout), cancellationToken: Cancellation);

    /// <summary>For a call that streams: no deadline unless one was given.</summary>
    public CallOptions Streaming => new(
        deadline: _timeout is { } timeout ? DateTime.UtcNow + timeout : null, cancellationToken: Cancellation);

    public T Get<T>(Option<T> option) => _parsed.GetValue(option)!;

    public T Get<T>(Argument<T> argument) => _parsed.GetValue(argument)!;

    /// <summary>
    /// Makes a write, and repeats it within the timeout while the service is not there or overloaded. Safe, since the request
    /// has a request_id: whatever became of the call before, it is recorded once.
    /// </summary>
    /// <exception cref="WriteException">The service refused it, or the time is over.</exception>
    public async Task<T> WriteAsync<T>(string requestId, Func<CallOptions, AsyncUnaryCall<T>> write)
        where T : IMessage
    {
        var options = Unary;
        RpcException? before = null;
        for (var delay = RetryDelayMin; ; delay = Min(delay * 2, RetryDelayMax))
        {
            try
            {
                return await write(options);
            }
            catch (RpcException e) when (e.StatusCode != StatusCode.Cancelled)
            {
                var wait = DelayAfter(e, delay);
                if (wait is null || DateTime.UtcNow + wait > options.Deadline)
                {
                    // That the time was over tells less than why it was not enough.
                    throw new WriteException(e.StatusCode == StatusCode.DeadlineExceeded ? before ?? e : e, requestId);
                }
                before = e;
                TellRetry(e);
                await Task.Delay(wait.Value, Cancellation);
            }
        }
    }

    /// <summary>Has the server prove that one size of its log is the beginning of another.</summary>
    public async Task<IReadOnlyList<Hash>> ConsistencyAsync(long first, long second, CancellationToken cancellationToken)
    {
        var proof = await Integrity.GetConsistencyProofAsync(
            new Pb.GetConsistencyProofRequest { FirstSize = (ulong)first, SecondSize = (ulong)second },
            Unary.WithCancellationToken(cancellationToken));
        // Anything that is no hash proves nothing.
        return proof.Path.All(p => p.Length == Hash.Size) ? [.. proof.Path.Select(p => new Hash(p.Span))] : [];
    }

    /// <summary>Gives a command its action: a session around it, and every failure as one line and an exit code.</summary>
    public static Command Define(string name, string description, Func<Session, Task<int>> run, params Symbol[] symbols)
    {
        var command = new Command(name, description);
        foreach (var symbol in symbols)
        {
            if (symbol is Option option)
                command.Add(option);
            else
                command.Add((Argument)symbol);
        }
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var output = new Output(parsed.InvocationConfiguration.Output, parsed.InvocationConfiguration.Error,
                parsed.GetValue(GlobalOptions.Json));
            try
            {
                using var session = new Session(parsed, output, cancellationToken);
                return await run(session);
            }
            // Whatever it is, an operator wants a line and a code, not a crash.
#pragma warning disable CA1031
            catch (Exception e)
#pragma warning restore CA1031
            {
                var isInterrupted = cancellationToken.IsCancellationRequested && e is RpcException { StatusCode: StatusCode.Cancelled };
                var failure = Failure.Of(isInterrupted ? new OperationCanceledException() : e, parsed.GetValue(GlobalOptions.Server)!);
                output.Fail(failure);
                return failure.ExitCode;
            }
        });
        return command;
    }

    public void Dispose() => _channel.Dispose();

    /// <summary>How long to wait before the next attempt; null when repeating does not help.</summary>
    private static TimeSpan? DelayAfter(RpcException e, TimeSpan delay)
    {
        if (e.StatusCode != StatusCode.Unavailable && Failure.ReasonOf(e) != "OVERLOADED")
            return null;
        // Many callers that were turned away together must not come back together.
        delay *= 0.5 + (Random.Shared.NextDouble() / 2);
        var asked = e.GetRpcStatus()?.GetDetail<RetryInfo>()?.RetryDelay?.ToTimeSpan() ?? TimeSpan.Zero;
        return asked > delay ? asked : delay;
    }

    private void TellRetry(RpcException e)
    {
        if (Interlocked.Exchange(ref _hasToldRetry, 1) == 0)
            Output.Notice($"{Failure.Of(e)} Trying again for up to {(_timeout ?? DefaultTimeout).TotalSeconds:0.###} s.");
    }

    private static TimeSpan Min(TimeSpan a, TimeSpan b) => a < b ? a : b;
}
