using System.Text;
using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Status = Google.Rpc.Status;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>Refusals as gRPC errors: a canonical code, and details that a program can read.</summary>
internal static class StatusMapping
{
    public const string Domain = "aegis.v1";

    public const int FieldViolationsMax = 16;

    // Trailers over 8 KiB die on the way; the details travel in base64 beside the message.
    private const int MessageBytesMax = 1024;
    private const int FactBytesMax = 300;
    private const int DetailBytesMax = 4096;

    private static readonly TimeSpan RetryDelay = TimeSpan.FromMilliseconds(200);

    /// <summary>The one table of codes. Exhaustive: a test walks it both ways.</summary>
    public static StatusCode CodeOf(Reason reason) => reason switch
    {
        Reason.InvalidField or Reason.SnapshotTooLarge => StatusCode.InvalidArgument,
        Reason.WorkflowNotFound or Reason.CheckpointNotFound or Reason.RecordNotFound => StatusCode.NotFound,
        Reason.WorkflowAlreadyExists or Reason.RequestIdReused => StatusCode.AlreadyExists,
        Reason.StateMismatch or Reason.SequenceMismatch or Reason.HashMismatch => StatusCode.Aborted,
        Reason.WorkflowClosed or Reason.LeaseHeld or Reason.LeaseRequired or Reason.LeaseStale
            or Reason.SnapshotErased or Reason.WorkflowQuarantined or Reason.LogRolledBack => StatusCode.FailedPrecondition,
        Reason.ChainBroken or Reason.SnapshotCorrupt or Reason.LogForked => StatusCode.DataLoss,
        Reason.CursorAheadOfLog => StatusCode.OutOfRange,
        Reason.Overloaded or Reason.StoreFull => StatusCode.ResourceExhausted,
        Reason.StoreUnavailable or Reason.OutcomeUnknown or Reason.ShuttingDown => StatusCode.Unavailable,
        _ => throw new ArgumentOutOfRangeException(nameof(reason), reason, "The reason has no code."),
    };

    /// <summary>The reason as the contract's enum names it; the names are the same but for their style.</summary>
    public static Pb.ErrorReason ToPb(this Reason reason) => System.Enum.Parse<Pb.ErrorReason>(reason.ToString());

    /// <summary>The reason as ErrorInfo carries it: STATE_MISMATCH.</summary>
    public static string Name(this Reason reason) => UpperSnakeCase(reason.ToString());

    /// <summary>The class as the contract and operators say it: FIELD_MODIFIED.</summary>
    public static string Name(this ViolationClass @class) => UpperSnakeCase(@class.ToString());

    private static string UpperSnakeCase(string pascalCase)
    {
        var name = new StringBuilder();
        foreach (var c in pascalCase)
        {
            if (char.IsUpper(c) && name.Length > 0)
                name.Append('_');
            name.Append(char.ToUpperInvariant(c));
        }
        return name.ToString();
    }

    public static RpcException ToRpcException(Refusal refusal)
    {
        var code = CodeOf(refusal.Reason);
        // Without a request_id a retry could double the record: say so by a code that clients do not retry.
        if (refusal.Reason == Reason.OutcomeUnknown && !refusal.Facts.ContainsKey("request_id"))
            code = StatusCode.Unknown;
        var info = new ErrorInfo { Domain = Domain, Reason = refusal.Reason.Name() };
        foreach (var (name, value) in refusal.Facts)
            info.Metadata[name] = Shortened(value, FactBytesMax);
        var status = new Status { Code = (int)code, Message = Shortened(refusal.Message, MessageBytesMax) };
        status.Details.Add(Any.Pack(info));
        if (refusal.Fields.Count > 0)
            status.Details.Add(Any.Pack(BadRequestOf(refusal, DetailBytesMax - info.CalculateSize() - 256)));
        if (refusal.Reason is Reason.Overloaded or Reason.StoreUnavailable or Reason.ShuttingDown)
            status.Details.Add(Any.Pack(new RetryInfo { RetryDelay = RetryDelay.ToDuration() }));
        return status.ToRpcException();
    }

    /// <summary>What a failure of the store is to a caller.</summary>
    public static Refusal? ToRefusal(StoreException e) => e.Failure switch
    {
        // One that has become unusable, as when it shuts this server out, is for the operator to mend; callers can only wait.
        StoreFailure.Unavailable or StoreFailure.Unusable => StoreUnavailable,
        StoreFailure.Damaged => new Refusal(Reason.ChainBroken,
            "The database says that its files are damaged where this is kept; nothing was written. The server's log tells where."),
        StoreFailure.Full => new Refusal(Reason.StoreFull, "The store has no room; nothing was written."),
        StoreFailure.OutcomeUnknown => new Refusal(Reason.OutcomeUnknown,
            "The store was lost while it committed: the write may or may not have happened."),
        _ => null,
    };

    public static readonly Refusal StoreUnavailable = new(Reason.StoreUnavailable,
        "The store cannot be reached; nothing was written. Try again.");

    private static BadRequest BadRequestOf(Refusal refusal, int bytesMax)
    {
        var request = new BadRequest();
        foreach (var (field, problem) in refusal.Fields.Take(FieldViolationsMax))
        {
            request.FieldViolations.Add(new BadRequest.Types.FieldViolation
            {
                Field = Shortened(field, FactBytesMax),
                Description = Shortened(problem, FactBytesMax),
            });
            if (request.CalculateSize() > bytesMax)
            {
                request.FieldViolations.RemoveAt(request.FieldViolations.Count - 1);
                break;
            }
        }
        return request;
    }

    private static string Shortened(string text, int bytesMax)
    {
        if (Encoding.UTF8.GetByteCount(text) <= bytesMax)
            return text;
        var length = Math.Min(text.Length, bytesMax - 3);
        while (length > 0 && (Encoding.UTF8.GetByteCount(text.AsSpan(0, length)) > bytesMax - 3
            || char.IsHighSurrogate(text[length - 1])))
        {
            length--;
        }
        return text[..length] + "…";
    }
}
