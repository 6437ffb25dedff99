using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Benchmarks.Naive;

using Pb = Aegis.V1;

/// <summary>Starts workflows and moves them. What else the contract has stays unimplemented.</summary>
internal sealed class NaiveService(IStore store, TimeProvider time) : Pb.WorkflowService.WorkflowServiceBase
{
    public override async Task<Pb.StartWorkflowResponse> StartWorkflow(Pb.StartWorkflowRequest request, ServerCallContext context)
    {
        Require(request.WorkflowId, "workflow_id");
        Require(request.WorkflowType, "workflow_type");
        Require(request.InitialState, "initial_state");
        var first = new Row
        {
            WorkflowId = request.WorkflowId,
            Sequence = 1,
            ToState = request.InitialState,
            Status = StatusOf(request.Status),
            Actor = request.Actor,
            Reason = request.Reason,
            RequestId = RequestIdOf(request.RequestId),
            RecordedAt = Now(),
        };
        var row = await AnsweredAsync(store.StartAsync(request.WorkflowType, first, KeptOf(request.Snapshot), context.CancellationToken));
        return new Pb.StartWorkflowResponse { Record = RecordOf(row, Pb.RecordKind.Started), Receipt = ReceiptOf(row) };
    }

    public override async Task<Pb.TransitionWorkflowResponse> TransitionWorkflow(
        Pb.TransitionWorkflowRequest request, ServerCallContext context)
    {
        Require(request.WorkflowId, "workflow_id");
        Require(request.FromState, "from_state");
        Require(request.ToState, "to_state");
        var wanted = new Row
        {
            WorkflowId = request.WorkflowId,
            FromState = request.FromState,
            ToState = request.ToState,
            Status = StatusOf(request.Status),
            Actor = request.Actor,
            Reason = request.Reason,
            RequestId = RequestIdOf(request.RequestId),
            RecordedAt = Now(),
        };
        var (row, isReplay) = await AnsweredAsync(store.MoveAsync(wanted, KeptOf(request.Snapshot), context.CancellationToken));
        return new Pb.TransitionWorkflowResponse
        {
            Record = RecordOf(row, Pb.RecordKind.Transition),
            Receipt = ReceiptOf(row),
            Replayed = isReplay,
        };
    }

    private static async Task<T> AnsweredAsync<T>(Task<T> work)
    {
        try
        {
            return await work;
        }
        catch (Refused e)
        {
            throw new RpcException(new Status(e.Code, e.Message));
        }
    }

    // In whole microseconds, as PostgreSQL keeps it: a replay tells the same time.
    private DateTime Now()
    {
        var now = time.GetUtcNow().UtcDateTime;
        return now.AddTicks(-(now.Ticks % TimeSpan.TicksPerMicrosecond));
    }

    private static void Require(string value, string field)
    {
        if (value.Length == 0)
            throw new RpcException(new Status(StatusCode.InvalidArgument, $"{field} is required."));
    }

    private static int StatusOf(Pb.WorkflowStatus status)
        => (int)(status == Pb.WorkflowStatus.Unspecified ? Pb.WorkflowStatus.Running : status);

    // No request is known by none.
    private static string? RequestIdOf(string requestId) => requestId.Length == 0 ? null : requestId;

    private static Kept? KeptOf(Pb.Snapshot? snapshot)
        => snapshot is null ? null : new Kept(snapshot.ContentType, snapshot.Content.ToByteArray());

    private static Pb.Record RecordOf(Row row, Pb.RecordKind kind) => new()
    {
        WorkflowId = row.WorkflowId,
        Sequence = (ulong)row.Sequence,
        Kind = kind,
        FromState = row.FromState,
        ToState = row.ToState,
        Status = (Pb.WorkflowStatus)row.Status,
        Actor = row.Actor,
        Reason = row.Reason,
        RequestId = row.RequestId ?? "",
        RecordedAt = Timestamp.FromDateTime(DateTime.SpecifyKind(row.RecordedAt, DateTimeKind.Utc)),
        LogIndex = (ulong)row.LogIndex,
    };

    private static Pb.Receipt ReceiptOf(Row row) => new() { LogIndex = (ulong)row.LogIndex };
}
