using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Net;
using System.Net.Http.Headers;
using Microsoft.AspNetCore.Connections;

namespace Aegis.FaultProxy;

/// <summary>
/// Passes calls on, byte for byte with their metadata and trailers, but for what the rules say. A target that is gone or goes
/// away looks to the caller as if the proxy's own connection had broken.
/// </summary>
internal sealed class Forwarder(Uri target, Rules rules) : IDisposable
{
    private readonly ConcurrentDictionary<string, ConnectionContext> _connections = new();
    private readonly HttpMessageInvoker _target = new(new SocketsHttpHandler
    {
        UseProxy = false,
        UseCookies = false,
        AllowAutoRedirect = false,
        AutomaticDecompression = DecompressionMethods.None,
        ActivityHeadersPropagator = null,
        EnableMultipleHttp2Connections = true,
    });

    /// <summary>Connection middleware: a whole connection can be reset only by who knows it.</summary>
    public async Task RememberAsync(ConnectionContext connection, ConnectionDelegate next)
    {
        _connections[connection.ConnectionId] = connection;
        try
        {
            await next(connection);
        }
        finally
        {
            _connections.TryRemove(connection.ConnectionId, out _);
        }
    }

    /// <summary>Resets all connections of callers.</summary>
    public void CutAll()
    {
        foreach (var connection in _connections.Values)
            connection.Abort(new ConnectionAbortedException("The proxy ends."));
    }

    public async Task ForwardAsync(HttpContext context)
    {
        var gone = context.RequestAborted;
        try
        {
            using var request = Request(context);
            using var response = await _target.SendAsync(request, gone);
            await ReplyAsync(context, response, gone);
        }
        catch (Exception e) when (e is HttpRequestException or IOException or OperationCanceledException)
        {
            // A caller who gave up this call alone keeps its connection; the target heard of it by the same token.
            if (!gone.IsCancellationRequested)
                Cut(context);
        }
    }

    public void Dispose() => _target.Dispose();

    private async Task ReplyAsync(HttpContext context, HttpResponseMessage response, CancellationToken gone)
    {
        var path = context.Request.Path.Value!;
        var method = path[(path.LastIndexOf('/') + 1)..];
        var encoding = response.Headers.TryGetValues("grpc-encoding", out var values) ? values.First() : null;
        await using var body = await response.Content.ReadAsStreamAsync(gone);
        // The server has answered once its first message, or its end, is here.
        var frame = await NextFrameAsync(body, gone);
        if (rules.TakeCut(method))
        {
            Cut(context);
            return;
        }
        await rules.WhileHeldAsync(method, gone);
        context.Response.StatusCode = (int)response.StatusCode;
        Copy(response.Headers, context.Response.Headers);
        Copy(response.Content.Headers, context.Response.Headers);
        for (; frame is not null; frame = await NextFrameAsync(body, gone))
        {
            await rules.WhileHeldAsync(method, gone);
            await context.Response.BodyWriter.WriteAsync(rules.Altered(method, frame, encoding), gone);
        }
        foreach (var (name, trailers) in response.TrailingHeaders)
            context.Response.AppendTrailer(name, trailers.ToArray());
    }

    /// <summary>The connection as a whole: a client has lost its call and whatever else ran beside it.</summary>
    private void Cut(HttpContext context)
    {
        if (_connections.TryGetValue(context.Connection.Id, out var connection))
            connection.Abort(new ConnectionAbortedException("The proxy cut the connection."));
    }

    private HttpRequestMessage Request(HttpContext context)
    {
        var incoming = context.Request;
        var request = new HttpRequestMessage(new HttpMethod(incoming.Method), new Uri(target, incoming.Path.Value))
        {
            Version = HttpVersion.Version20,
            VersionPolicy = HttpVersionPolicy.RequestVersionExact,
            Content = new PassedOn(incoming.Body),
        };
        foreach (var (name, values) in incoming.Headers)
        {
            var isForTarget = !name.StartsWith(':') && !name.Equals("Host", StringComparison.OrdinalIgnoreCase);
            if (isForTarget && !request.Headers.TryAddWithoutValidation(name, values.AsEnumerable()))
                request.Content.Headers.TryAddWithoutValidation(name, values.AsEnumerable());
        }
        return request;
    }

    private static void Copy(HttpHeaders from, IHeaderDictionary to)
    {
        foreach (var (name, values) in from)
            to.Append(name, values.ToArray());
    }

    /// <summary>The next message with its five bytes before it; null at the end.</summary>
    private static async Task<byte[]?> NextFrameAsync(Stream body, CancellationToken cancellationToken)
    {
        var header = new byte[5];
        var read = await body.ReadAtLeastAsync(header, header.Length, throwOnEndOfStream: false, cancellationToken);
        if (read == 0)
            return null;
        if (read < header.Length)
            throw new EndOfStreamException();
        var frame = new byte[header.Length + BinaryPrimitives.ReadInt32BigEndian(header.AsSpan(1))];
        header.CopyTo(frame, 0);
        await body.ReadExactlyAsync(frame.AsMemory(header.Length), cancellationToken);
        return frame;
    }

    /// <summary>A request's body, sent on as it comes, since a caller that streams may wait for answers in between.</summary>
    private sealed class PassedOn(Stream body) : HttpContent
    {
        protected override Task SerializeToStreamAsync(Stream stream, TransportContext? context)
            => SerializeToStreamAsync(stream, context, CancellationToken.None);

        protected override async Task SerializeToStreamAsync(Stream stream, TransportContext? context, CancellationToken cancellationToken)
        {
            await stream.FlushAsync(cancellationToken);
            var buffer = new byte[64 * 1024];
            for (int read; (read = await body.ReadAsync(buffer, cancellationToken)) > 0;)
            {
                await stream.WriteAsync(buffer.AsMemory(0, read), cancellationToken);
                await stream.FlushAsync(cancellationToken);
            }
        }

        protected override bool TryComputeLength(out long length)
        {
            length = 0;
            return false;
        }
    }
}
