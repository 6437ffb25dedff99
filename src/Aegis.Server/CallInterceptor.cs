using System.Collections.Concurrent;
using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace Aegis.Server;

/// <summary>
/// What holds for every call of the contract: none before the store is prepared nor after the drain window; refusals become
/// statuses; what nobody foresaw becomes a bland INTERNAL and a full line in the log; only large messages are compressed.
/// </summary>
public sealed class CallInterceptor(
    StoreMonitor monitor, Drain drain, Metrics metrics, RefusalSummary refusals, ILogger<CallInterceptor> logger)
    : Interceptor
{
    /// <summary>
    /// A compressed empty message breaks clients, and small ones gain nothing: to begin compressing takes as long as to compress
    /// kilobytes. A workflow that is resumed from a snapshot of 1 KiB is small.
    /// </summary>
    private const int CompressedBytesMin = 4096;

    private static readonly WriteOptions NoCompress = new(WriteFlags.NoCompress);

    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request,
        ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        var response = await GuardAsync(context, () => continuation(request, context));
        context.WriteOptions = OptionsFor(response);
        return response;
    }

    public override Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request,
        IServerStreamWriter<TResponse> responseStream, ServerCallContext context,
        ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        GuardAsync(context, async () =>
        {
            await continuation(request, new Writer<TResponse>(responseStream, context.CancellationToken, drain.Cutting), context);
            return true;
        });

    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(
        IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream,
        ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        GuardAsync(context, async () =>
        {
            await continuation(requestStream, new Writer<TResponse>(responseStream, context.CancellationToken, drain.Cutting), context);
            return true;
        });

    private async Task<T> GuardAsync<T>(ServerCallContext context, Func<Task<T>> call)
    {
        MalformedMessages.MarkRead(context);
        try
        {
            if (drain.Closing.IsCancellationRequested)
                throw new RefusalException(Ledger.ShuttingDown);
            if (!monitor.IsReady)
                throw new RefusalException(StatusMapping.StoreUnavailable);
            return await call();
        }
        catch (RefusalException e)
        {
            throw Refuse(e.Refusal);
        }
        catch (InvalidProtocolBufferException)
        {
            // In the middle of a stream.
            throw Refuse(MalformedMessages.Refusal);
        }
        catch (StoreException e) when (StatusMapping.ToRefusal(e) is { } refusal)
        {
            throw Refuse(refusal);
        }
        catch (Exception e) when (context.CancellationToken.IsCancellationRequested && e is not RpcException)
        {
            // Gone, or out of time: whatever failed then, nobody hears of it.
            var isLate = context.Deadline < DateTime.UtcNow;
            throw new RpcException(isLate
                ? new Status(StatusCode.DeadlineExceeded, "The deadline is over.")
                : new Status(StatusCode.Cancelled, "The caller has gone."));
        }
        catch (Exception e) when (e is not RpcException)
        {
            logger.LogError(e, "{Method} failed", context.Method);
            throw new RpcException(new Status(StatusCode.Internal, "The server failed; its log tells more."));
        }
    }

    private RpcException Refuse(Refusal refusal)
    {
        metrics.Refused(refusal.Reason);
        refusals.Count(refusal.Reason);
        return StatusMapping.ToRpcException(refusal);
    }

    private static WriteOptions? OptionsFor<T>(T message) =>
        message is IMessage m && m.CalculateSize() >= CompressedBytesMin ? null : NoCompress;

    private sealed class Writer<T>(IServerStreamWriter<T> inner, CancellationToken gone, CancellationToken cutting)
        : IServerStreamWriter<T>
    {
        public WriteOptions? WriteOptions { get; set; }

        public Task WriteAsync(T message) => WriteAsync(message, CancellationToken.None);

        /// <summary>A cancelled token stops the next message, not one on its way; whoever has gone has not received it.</summary>
        public async Task WriteAsync(T message, CancellationToken cancellationToken)
        {
            cancellationToken.ThrowIfCancellationRequested();
            inner.WriteOptions = OptionsFor(message);
            await inner.WriteAsync(message, cutting);
            gone.ThrowIfCancellationRequested();
        }
    }
}

/// <summary>Refusals are ordinary, and told in the log once a minute, by reason.</summary>
public sealed class RefusalSummary(ILogger<RefusalSummary> logger) : BackgroundService
{
    private readonly ConcurrentDictionary<Reason, int> _counts = [];

    public void Count(Reason reason) => _counts.AddOrUpdate(reason, 1, (_, count) => count + 1);

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        using var timer = new PeriodicTimer(TimeSpan.FromMinutes(1));
        while (await timer.WaitForNextTickAsync(stoppingToken))
        {
            var counts = new List<string>();
            foreach (var reason in _counts.Keys)
            {
                if (_counts.TryRemove(reason, out var count))
                    counts.Add($"{reason.Name()} {count}");
            }
            if (counts.Count > 0)
                logger.LogInformation("Refused in the last minute: {Counts}", string.Join(", ", counts));
        }
    }
}
