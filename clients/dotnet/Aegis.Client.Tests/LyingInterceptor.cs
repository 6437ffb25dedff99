using Google.Protobuf;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace Aegis.Client.Tests;

/// <summary>
/// Has the server answer another request than the one that was made: what comes is sound and signed, and not what was asked for.
/// </summary>
/// <param name="lie">Changes what the server gets, or fails the call in its stead.</param>
internal sealed class LyingInterceptor(Action<IMessage> lie) : Interceptor
{
    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(TRequest request,
        ClientInterceptorContext<TRequest, TResponse> context, AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
        => continuation(Changed(request), context);

    public override AsyncServerStreamingCall<TResponse> AsyncServerStreamingCall<TRequest, TResponse>(TRequest request,
        ClientInterceptorContext<TRequest, TResponse> context, AsyncServerStreamingCallContinuation<TRequest, TResponse> continuation)
        => continuation(Changed(request), context);

    private TRequest Changed<TRequest>(TRequest request) where TRequest : class
    {
        var changed = ((IDeepCloneable<TRequest>)request).Clone();
        lie((IMessage)changed);
        return changed;
    }
}
