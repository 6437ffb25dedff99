using System.CommandLine;
using Google.Rpc;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Grpc.Net.Client.Configuration;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>
/// One run of a command: its connection, its output, and how its failures end. Unary calls are retried on UNAVAILABLE, which
/// is safe since every write has a request_id.
/// </summary>
internal sealed class Session : IDisposable
{
    private static readonly TimeSpan DefaultTimeout = TimeSpan.FromSeconds(30);

    private readonly GrpcChannel _channel;
    private readonly ParseResult _parsed;

    private Session(ParseResult parsed, CancellationToken cancellationToken)
    {
        _parsed = parsed;
        Cancellation = cancellationToken;
        Output = new Output(parsed.InvocationConfiguration.Output, parsed.InvocationConfiguration.Error,
            parsed.GetValue(GlobalOptions.Json));
        _channel = GrpcChannel.ForAddress(ServerOf(parsed), new GrpcChannelOptions
        {
            // The default of a second would be most of a short recovery.
            InitialReconnectBackoff = TimeSpan.FromMilliseconds(100),
            MaxReconnectBackoff = TimeSpan.FromSeconds(2),
            MaxSendMessageSize = 16 * 1024 * 1024,
            ServiceConfig = new ServiceConfig { MethodConfigs = { Retries } },
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
    public CallOptions Unary => new(deadline: DateTime.UtcNow + (Timeout ?? DefaultTimeout), cancellationToken: Cancellation);

    /// <summary>For a call that streams: no deadline unless one was given.</summary>
    public CallOptions Streaming => new(
        deadline: Timeout is { } timeout ? DateTime.UtcNow + timeout : null, cancellationToken: Cancellation);

    public T Get<T>(Option<T> option) => _parsed.GetValue(option)!;

    public T Get<T>(Argument<T> argument) => _parsed.GetValue(argument)!;

    private TimeSpan? Timeout => _parsed.GetValue(GlobalOptions.Timeout) is { } seconds
        ? TimeSpan.FromSeconds(Math.Clamp(seconds, 0.001, 1e6))
        : null;

    private static MethodConfig Retries => new()
    {
        Names = { new MethodName { Service = "aegis.v1.WorkflowService" }, new MethodName { Service = "aegis.v1.RecoveryService" },
            new MethodName { Service = "aegis.v1.IntegrityService" } },
        RetryPolicy = new RetryPolicy
        {
            MaxAttempts = 5,
            InitialBackoff = TimeSpan.FromMilliseconds(200),
            MaxBackoff = TimeSpan.FromSeconds(3),
            BackoffMultiplier = 3,
            RetryableStatusCodes = { StatusCode.Unavailable },
        },
    };

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
                using var session = new Session(parsed, cancellationToken);
                return await run(session);
            }
            catch (RpcException e) when (cancellationToken.IsCancellationRequested && e.StatusCode == StatusCode.Cancelled)
            {
                return ExitCode.Interrupted;
            }
            catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
            {
                return ExitCode.Interrupted;
            }
            catch (RpcException e)
            {
                output.Fail(e);
                return CodeOf(e.StatusCode);
            }
            catch (UsageException e)
            {
                output.Fail(e.Message);
                return ExitCode.Usage;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                output.Fail(e.Message);
                return ExitCode.Usage;
            }
        });
        return command;
    }

    public static int CodeOf(StatusCode code) => code switch
    {
        StatusCode.NotFound => ExitCode.NotFound,
        StatusCode.Aborted or StatusCode.AlreadyExists or StatusCode.FailedPrecondition => ExitCode.Conflict,
        StatusCode.DataLoss => ExitCode.Violation,
        StatusCode.Unavailable or StatusCode.DeadlineExceeded => ExitCode.Unavailable,
        _ => ExitCode.Failed,
    };

    public void Dispose() => _channel.Dispose();

    private static Uri ServerOf(ParseResult parsed)
    {
        var text = parsed.GetValue(GlobalOptions.Server)!;
        return Uri.TryCreate(text.Contains("://", StringComparison.Ordinal) ? text : "http://" + text, UriKind.Absolute, out var uri)
            && uri.Scheme is "http" or "https"
            ? uri
            : throw new UsageException($"\"{text}\" is not the URL of a server, such as http://127.0.0.1:50051.");
    }
}

/// <summary>The command line, or a file it names, cannot be used.</summary>
internal sealed class UsageException(string message) : Exception(message);
