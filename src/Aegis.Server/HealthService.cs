using Grpc.Core;
using Grpc.Health.V1;
using Grpc.HealthCheck;

namespace Aegis.Server;

/// <summary>
/// The standard health service over statuses kept in memory. Watches end with the drain window, since the host would
/// otherwise wait for them.
/// </summary>
public sealed class HealthService(HealthServiceImpl statuses, Drain drain) : Health.HealthBase
{
    public override Task<HealthCheckResponse> Check(HealthCheckRequest request, ServerCallContext context) =>
        statuses.Check(request, context);

    public override async Task Watch(HealthCheckRequest request, IServerStreamWriter<HealthCheckResponse> responseStream,
        ServerCallContext context)
    {
        var closed = new TaskCompletionSource();
        await using var registration = drain.Closing.Register(() => closed.TrySetResult());
        var watch = statuses.Watch(request, responseStream, context);
        if (await Task.WhenAny(watch, closed.Task) == closed.Task)
            throw new RpcException(new Status(StatusCode.Unavailable, "The server is shutting down."));
        await watch;
    }
}
