using Grpc.Core;
using Grpc.Core.Interceptors;

namespace Aegis.Client.Tests;

/// <summary>Counts the calls that leave the client, and sends them with further metadata.</summary>
internal sealed class CountingInterceptor(string? encoding = null) : Interceptor
{
    public int Count;

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(TRequest request,
        ClientInterceptorContext<TRequest, TResponse> context, AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        Interlocked.Increment(ref Count);
        if (encoding is not null)
        {
            // How a request is compressed in Grpc.Net.Client.
            var headers = new Metadata { { "grpc-internal-encoding-request", encoding } };
            context = new ClientInterceptorContext<TRequest, TResponse>(context.Method, context.Host, context.Options.WithHeaders(headers));
        }
        return continuation(request, context);
    }
}
