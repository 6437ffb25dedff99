using Aegis.Backup;
using Aegis.Evidence;
using Google.Rpc;
using Grpc.Core;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Cli;

/// <summary>Why a command failed: the exit code, and what to tell.</summary>
/// <param name="ExitCode">One of <see cref="Cli.ExitCode"/>.</param>
/// <param name="Code">The canonical gRPC code, or USAGE, ALARM, INTERRUPTED, OUTPUT or FAILED for what is not the service's.</param>
/// <param name="Reason">The service's reason; empty when it gave none.</param>
/// <param name="Message">For people.</param>
/// <param name="Metadata">What the service told with its reason.</param>
internal sealed record Failure(
    int ExitCode, string Code, string Reason, string Message, IReadOnlyDictionary<string, string> Metadata)
{
    private static readonly Dictionary<string, string> NoMetadata = [];

    public static Failure OfUsage(string message) => new(Cli.ExitCode.Usage, "USAGE", "", message, NoMetadata);

    public static Failure OfNoCheckpoint(string id) => new(Cli.ExitCode.NotFound, "NOT_FOUND", "CHECKPOINT_NOT_FOUND",
        $"{id} has no checkpoint, so that there is no snapshot to write.", NoMetadata);

    /// <param name="e">What ended the command.</param>
    /// <param name="server">Where the server should be; told when it is not there.</param>
    public static Failure Of(Exception e, string server = "") => e switch
    {
        WriteException write => OfWrite(write, server),
        RpcException rpc => OfService(rpc, server),
        UsageException => OfUsage(e.Message),
        HeadAlarmException alarm => OfAlarm(alarm),
        BackupException backup => OfBackup(backup),
        OperationCanceledException => new(Cli.ExitCode.Interrupted, "INTERRUPTED", "", "Interrupted.", NoMetadata),
        OutputException { IsClosed: true } => new(Cli.ExitCode.OutputClosed, "OUTPUT", "", e.Message, NoMetadata),
        OutputException => new(Cli.ExitCode.Failed, "OUTPUT", "", e.Message, NoMetadata),
        _ => new(Cli.ExitCode.Failed, "FAILED", "", e.Message, NoMetadata),
    };

    /// <summary>The reason of a failed call, such as STATE_MISMATCH; empty when the service gave none.</summary>
    public static string ReasonOf(RpcException e) => e.GetRpcStatus()?.GetDetail<ErrorInfo>()?.Reason ?? "";

    /// <summary>The one line for people.</summary>
    public override string ToString()
    {
        var text = Reason.Length > 0 ? $"{Reason}: {Message}" : Message;
        return Metadata.TryGetValue("current_state", out var state)
            ? $"{text} It stands in \"{state}\" at sequence {Metadata.GetValueOrDefault("current_sequence")}, "
                + $"hash {Metadata.GetValueOrDefault("current_hash")}."
            : text;
    }

    private static Failure OfAlarm(HeadAlarmException e) => new(Cli.ExitCode.Failed, "ALARM", e.Reason,
        $"{e.Message} Kept: {(e.KeptNote is { } kept ? HeadText.Of(kept) : "none")}. Now: {HeadText.Of(e.NewNote)}.",
        new Dictionary<string, string> { ["kept_head"] = e.KeptNote ?? "", ["new_head"] = e.NewNote });

    private static Failure OfBackup(BackupException e) => e.Problem switch
    {
        BackupProblem.Usage => OfUsage(e.Message),
        BackupProblem.Unreachable => new(Cli.ExitCode.Unavailable, "UNAVAILABLE", "", e.Message, NoMetadata),
        BackupProblem.Damaged => new(Cli.ExitCode.Violation, "DATA_LOSS", "", e.Message, NoMetadata),
        _ => new(Cli.ExitCode.Failed, "FAILED", "", e.Message, NoMetadata),
    };

    private static Failure OfWrite(WriteException e, string server)
    {
        var failure = OfService(e.Cause, server);
        return failure.ExitCode == Cli.ExitCode.Unavailable && e.RequestId.Length > 0
            ? failure with
            {
                Message = $"{failure.Message} It may have been recorded: repeat it with --request-id {e.RequestId}, "
                    + "which records it once.",
                Metadata = new Dictionary<string, string>(failure.Metadata) { ["request_id"] = e.RequestId },
            }
            : failure;
    }

    private static Failure OfService(RpcException e, string server)
    {
        var info = e.GetRpcStatus()?.GetDetail<ErrorInfo>();
        var message = e.Status.Detail.Length > 0 ? e.Status.Detail : "The service gave no reason.";
        // The library wraps what happened several times, and each says it again.
        if (info is null && e.Status.DebugException is { } cause)
            message = cause.GetBaseException().Message;
        // Without a reason it was not the service that spoke.
        var at = server.Length > 0 ? $"The server at {server}" : "The server";
        if (info is null && e.StatusCode == StatusCode.Unavailable)
            message = $"{at} cannot be reached: {message}";
        else if (info is null && e.StatusCode == StatusCode.DeadlineExceeded)
            message = $"{at} did not answer in time; see --timeout.";
        if (!message.EndsWith('.'))
            message += ".";
        return new(ExitCodeOf(e.StatusCode), Output.Name(e.StatusCode), info?.Reason ?? "", message,
            info?.Metadata.ToDictionary() ?? NoMetadata);
    }

    private static int ExitCodeOf(StatusCode code) => code switch
    {
        StatusCode.NotFound => Cli.ExitCode.NotFound,
        StatusCode.Aborted or StatusCode.AlreadyExists or StatusCode.FailedPrecondition => Cli.ExitCode.Conflict,
        StatusCode.DataLoss => Cli.ExitCode.Violation,
        StatusCode.Unavailable or StatusCode.DeadlineExceeded => Cli.ExitCode.Unavailable,
        _ => Cli.ExitCode.Failed,
    };
}

/// <summary>The command line, or a file it names, cannot be used.</summary>
internal sealed class UsageException(string message) : Exception(message);

/// <summary>A write failed for good, perhaps with an unknown outcome.</summary>
internal sealed class WriteException(RpcException cause, string requestId) : Exception(cause.Message, cause)
{
    public RpcException Cause => cause;
    public string RequestId => requestId;
}
