using Grpc.Core;

namespace Aegis.Benchmarks.Naive;

/// <summary>A call that cannot be done, and the status its caller is told.</summary>
internal sealed class Refused(StatusCode code, string message) : Exception(message)
{
    public StatusCode Code { get; } = code;

    public static Refused Taken(string workflowId)
        => new(StatusCode.AlreadyExists, $"Workflow {workflowId} exists, or the request was made at the same moment.");

    /// <summary>The next row, if the workflow stands where the caller takes it to be.</summary>
    /// <exception cref="Refused">It does not.</exception>
    public static Row Next(Row wanted, Head? head)
    {
        if (head is null)
            throw new Refused(StatusCode.NotFound, $"There is no workflow {wanted.WorkflowId}.");
        if (head.IsClosed)
            throw new Refused(StatusCode.FailedPrecondition, $"Workflow {wanted.WorkflowId} is closed.");
        if (head.State != wanted.FromState)
            throw new Refused(StatusCode.Aborted, $"Workflow {wanted.WorkflowId} is in state {head.State}, not {wanted.FromState}.");
        return new Row
        {
            WorkflowId = wanted.WorkflowId,
            Sequence = head.Sequence + 1,
            FromState = wanted.FromState,
            ToState = wanted.ToState,
            Status = wanted.Status,
            Actor = wanted.Actor,
            Reason = wanted.Reason,
            RequestId = wanted.RequestId,
            RecordedAt = wanted.RecordedAt,
        };
    }
}
