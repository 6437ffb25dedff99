using System.Globalization;
using Google.Rpc;
using Grpc.Core;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Client;

/// <summary>
/// A call failed. Of every reason that a caller treats in a way of its own there is a class; see <c>error_reason.proto</c> for
/// what each asks for. A call that the caller cancelled throws <see cref="OperationCanceledException"/> instead.
/// </summary>
public class AegisException : Exception
{
    internal AegisException(Failure failure)
        : base(failure.Message, failure.Cause)
        => Origin = failure;

    /// <summary>The canonical code.</summary>
    public StatusCode StatusCode => Origin.StatusCode;

    /// <summary>Why, one of ErrorReason without its prefix, such as <c>STATE_MISMATCH</c>; empty where the server said none.</summary>
    public string Reason => Origin.Reason;

    /// <summary>Every value of the message, by the names that the contract tells.</summary>
    public IReadOnlyDictionary<string, string> Facts => Origin.Facts;

    internal Failure Origin { get; }

    /// <summary>What a failed call says, as it is.</summary>
    internal sealed record Failure(
        StatusCode StatusCode, string Reason, string Message, IReadOnlyDictionary<string, string> Facts, Exception? Cause)
    {
        public IReadOnlyList<(string Field, string Problem)> Fields { get; init; } = [];

        public string Fact(string name) => Facts.GetValueOrDefault(name, "");

        public long Number(string name) => long.TryParse(Fact(name), NumberStyles.None, CultureInfo.InvariantCulture, out var n) ? n : 0;
    }

    internal static Failure FailureOf(RpcException e)
    {
        var status = e.GetRpcStatus();
        var info = status?.GetDetail<ErrorInfo>() is { Domain: "aegis.v1" } found ? found : null;
        return new Failure(e.StatusCode, info?.Reason ?? "", e.Status.Detail, info?.Metadata.ToDictionary() ?? [], e)
        {
            Fields = [.. status?.GetDetail<BadRequest>()?.FieldViolations.Select(v => (v.Field, v.Description)) ?? []],
        };
    }

    internal static AegisException Of(Failure failure) => failure.Reason switch
    {
        "INVALID_FIELD" => new InvalidFieldException(failure),
        "SNAPSHOT_TOO_LARGE" => new SnapshotTooLargeException(failure),
        "WORKFLOW_NOT_FOUND" => new WorkflowNotFoundException(failure),
        "CHECKPOINT_NOT_FOUND" => new CheckpointNotFoundException(failure),
        "RECORD_NOT_FOUND" => new RecordNotFoundException(failure),
        "WORKFLOW_ALREADY_EXISTS" => new WorkflowAlreadyExistsException(failure),
        "REQUEST_ID_REUSED" => new RequestIdReusedException(failure),
        "STATE_MISMATCH" or "SEQUENCE_MISMATCH" or "HASH_MISMATCH" => new WorkflowConflictException(failure),
        "WORKFLOW_CLOSED" => new WorkflowClosedException(failure),
        "LEASE_HELD" => new LeaseHeldException(failure),
        "LEASE_REQUIRED" => new LeaseRequiredException(failure),
        "LEASE_STALE" => new LeaseLostException(failure),
        "SNAPSHOT_ERASED" => new SnapshotErasedException(failure),
        "CHAIN_BROKEN" or "SNAPSHOT_CORRUPT" or "LOG_FORKED" => new HistoryDamagedException(failure),
        "CURSOR_AHEAD_OF_LOG" => new CursorAheadOfLogException(failure),
        "STORE_FULL" => new StoreFullException(failure),
        "WORKFLOW_QUARANTINED" => new WorkflowQuarantinedException(failure),
        "LOG_ROLLED_BACK" => new LogRolledBackException(failure),
        "OVERLOADED" or "STORE_UNAVAILABLE" or "OUTCOME_UNKNOWN" or "SHUTTING_DOWN" => new ServiceUnavailableException(failure),
        _ => failure.StatusCode switch
        {
            StatusCode.Unavailable => new ServiceUnavailableException(failure),
            StatusCode.DeadlineExceeded => new CallTimeoutException(failure),
            _ => new AegisException(failure),
        },
    };
}

/// <summary>A field is missing, malformed, too long or contradicts another. Correct the request.</summary>
public sealed class InvalidFieldException : AegisException
{
    internal InvalidFieldException(Failure failure) : base(failure) => Fields = failure.Fields;

    /// <summary>Each field, by its name in the contract, and what is wrong with it.</summary>
    public IReadOnlyList<(string Field, string Problem)> Fields { get; }
}

/// <summary>The snapshot is larger than the server takes. Keep large content elsewhere, and its reference and digest here.</summary>
public sealed class SnapshotTooLargeException : AegisException
{
    internal SnapshotTooLargeException(Failure failure) : base(failure) => SnapshotBytesMax = failure.Number("snapshot_bytes_max");

    /// <summary>The most bytes that a snapshot may have.</summary>
    public long SnapshotBytesMax { get; }
}

/// <summary>No workflow has this id.</summary>
public sealed class WorkflowNotFoundException : AegisException
{
    internal WorkflowNotFoundException(Failure failure) : base(failure) { }
}

/// <summary>The workflow has no checkpoint, or none that early.</summary>
public sealed class CheckpointNotFoundException : AegisException
{
    internal CheckpointNotFoundException(Failure failure) : base(failure) { }
}

/// <summary>The workflow has no record with this sequence.</summary>
public sealed class RecordNotFoundException : AegisException
{
    internal RecordNotFoundException(Failure failure) : base(failure) { }
}

/// <summary>A workflow with this id was started before. Read it.</summary>
public sealed class WorkflowAlreadyExistsException : AegisException
{
    internal WorkflowAlreadyExistsException(Failure failure) : base(failure) { }
}

/// <summary>The request_id was used on this workflow for another request. A new request takes a new one.</summary>
public sealed class RequestIdReusedException : AegisException
{
    internal RequestIdReusedException(Failure failure) : base(failure) => Field = failure.Fact("field");

    /// <summary>What differs from the request before, by its name in the contract.</summary>
    public string Field { get; }
}

/// <summary>
/// Somebody else moved the workflow: it is not where the write supposed. What is current is told, so that one can decide again.
/// </summary>
public sealed class WorkflowConflictException : AegisException
{
    internal WorkflowConflictException(Failure failure) : base(failure)
    {
        (CurrentState, CurrentSequence) = (failure.Fact("current_state"), failure.Number("current_sequence"));
        var hash = failure.Fact("current_hash");
        CurrentHash = hash.Length == 2 * Core.Hash.Size && hash.All(char.IsAsciiHexDigit) ? new Core.Hash(Convert.FromHexString(hash)) : default;
    }

    /// <summary>The state it is in.</summary>
    public string CurrentState { get; }

    /// <summary>The sequence of its newest record.</summary>
    public long CurrentSequence { get; }

    /// <summary>The hash of its newest record.</summary>
    public Core.Hash CurrentHash { get; }
}

/// <summary>The workflow is closed, or is being imported. A closed case is not reopened: fork it.</summary>
public sealed class WorkflowClosedException : AegisException
{
    internal WorkflowClosedException(Failure failure) : base(failure) { }
}

/// <summary>Another owner holds the lease.</summary>
public sealed class LeaseHeldException : AegisException
{
    internal LeaseHeldException(Failure failure) : base(failure)
    {
        Owner = failure.Fact("owner");
        ExpiresAt = DateTimeOffset.TryParse(failure.Fact("expires_at"), CultureInfo.InvariantCulture,
            DateTimeStyles.AssumeUniversal | DateTimeStyles.AdjustToUniversal, out var time) ? time : null;
    }

    /// <summary>Who holds it.</summary>
    public string Owner { get; }

    /// <summary>When it ends unless renewed, by the database's clock; null where the server did not say.</summary>
    public DateTimeOffset? ExpiresAt { get; }
}

/// <summary>The workflow is leased, and the write was made without a lease: resume it, or wait until the lease ends.</summary>
public sealed class LeaseRequiredException : AegisException
{
    internal LeaseRequiredException(Failure failure) : base(failure) { }
}

/// <summary>The lease is no longer, or never was, the workflow's. Stop working on it; resume it to go on.</summary>
public sealed class LeaseLostException : AegisException
{
    internal LeaseLostException(Failure failure) : base(failure) { }
}

/// <summary>The bytes of the snapshot were erased on purpose.</summary>
public sealed class SnapshotErasedException : AegisException
{
    internal SnapshotErasedException(Failure failure) : base(failure) { }
}

/// <summary>The server itself says that what it stores was altered: CHAIN_BROKEN, SNAPSHOT_CORRUPT, LOG_FORKED. Tell the operator.</summary>
public sealed class HistoryDamagedException : AegisException
{
    internal HistoryDamagedException(Failure failure) : base(failure) { }
}

/// <summary>The log is shorter than the request supposes.</summary>
public sealed class CursorAheadOfLogException : AegisException
{
    internal CursorAheadOfLogException(Failure failure) : base(failure) => LogSize = failure.Number("log_size");

    /// <summary>How many records the log has.</summary>
    public long LogSize { get; }
}

/// <summary>The store has no room; nothing was written. The operator has to make room.</summary>
public sealed class StoreFullException : AegisException
{
    internal StoreFullException(Failure failure) : base(failure) { }
}

/// <summary>A violation closed the workflow to writes. The operator releases or repairs it.</summary>
public sealed class WorkflowQuarantinedException : AegisException
{
    internal WorkflowQuarantinedException(Failure failure) : base(failure) { }
}

/// <summary>The server's own memory says that its database was taken back; it takes no write. Tell the operator.</summary>
public sealed class LogRolledBackException : AegisException
{
    internal LogRolledBackException(Failure failure) : base(failure) { }
}

/// <summary>
/// The service could not be reached, or could not take the call, until the time was over. A write may or may not have happened:
/// repeat it with the same request_id, <see cref="RequestId"/>.
/// </summary>
public sealed class ServiceUnavailableException : AegisException
{
    internal ServiceUnavailableException(Failure failure) : base(failure) { }

    /// <summary>The request_id of the write; empty for a read.</summary>
    public string RequestId { get; internal init; } = "";
}

/// <summary>
/// The time was over before an answer came. A write may or may not have happened: repeat it with the same request_id,
/// <see cref="RequestId"/>.
/// </summary>
public sealed class CallTimeoutException : AegisException
{
    internal CallTimeoutException(Failure failure) : base(failure) { }

    /// <summary>The request_id of the write; empty for a read.</summary>
    public string RequestId { get; internal init; } = "";
}
