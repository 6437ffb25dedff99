using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Aegis.Tests;

/// <summary>
/// A TCP proxy on a loopback port that cuts connections at moments a test chooses. It knows no protocol: a
/// request is what the client sent, a reply what the target sent, both as they come in.
/// </summary>
internal sealed class CuttingProxy : IAsyncDisposable
{
    private readonly string _host;
    private readonly int _targetPort;
    private readonly Lock _gate = new();
    private readonly HashSet<Link> _links = [];
    private TcpListener? _listener;
    private Rule? _armed;
    private TaskCompletionSource? _repliesHeld;
    private TaskCompletionSource _silence = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _accepted;
    private int _roundTrips;

    public CuttingProxy(string host, int port)
    {
        _host = host;
        _targetPort = port;
        Restore();
    }

    /// <summary>Where to connect instead of to the target, on 127.0.0.1. Stays the same through every cut.</summary>
    public int Port { get; } = FreePort.Next();

    /// <summary>How many connections were taken so far.</summary>
    public int Accepted => Volatile.Read(ref _accepted);

    /// <summary>How often a client sent something and was answered, however many pieces either came in.</summary>
    public int RoundTrips => Volatile.Read(ref _roundTrips);

    /// <summary>A condition for requests: they hold this text, in any place.</summary>
    public static Func<ReadOnlyMemory<byte>, bool> Text(string text)
    {
        var bytes = Encoding.UTF8.GetBytes(text);
        return request => request.Span.IndexOf(bytes) >= 0;
    }

    /// <summary>Resets all connections, and refuses new ones until <see cref="Restore"/>.</summary>
    public void CutNow()
    {
        Link[] cut;
        lock (_gate)
        {
            _listener?.Dispose();
            _listener = null;
            cut = [.. _links];
        }

        foreach (var link in cut)
        {
            link.Reset();
        }
    }

    /// <summary>Takes connections again, after a cut that refuses them.</summary>
    public void Restore()
    {
        lock (_gate)
        {
            if (_listener is null)
            {
                _listener = new TcpListener(IPAddress.Loopback, Port);
                _listener.Start();
                _ = AcceptAsync(_listener);
            }
        }
    }

    /// <summary>
    /// Arms one cut: the first request that meets the condition never reaches the target, and its connection is reset.
    /// So nothing was done, and the client cannot know.
    /// </summary>
    /// <param name="condition">Sees what came in, after the last KiB of what came before it on the same connection.</param>
    /// <param name="thenRefuse">Whether all else is cut with it, as by <see cref="CutNow"/>.</param>
    /// <returns>Done when the cut is done.</returns>
    public Task CutBeforeRequest(Func<ReadOnlyMemory<byte>, bool> condition, bool thenRefuse = false)
        => Arm(new Rule(condition, Fate.NotForwarded, thenRefuse));

    /// <summary>
    /// Arms one cut: the first request that meets the condition is passed on, and at the target's reply, of which
    /// not a byte is passed back, its connection is reset. So the target did it, and the client cannot know.
    /// </summary>
    /// <remarks>The first bytes after the request count as its reply: no other request may be under way before it.</remarks>
    /// <inheritdoc cref="CutBeforeRequest"/>
    public Task CutAfterRequest(Func<ReadOnlyMemory<byte>, bool> condition, bool thenRefuse = false)
        => Arm(new Rule(condition, Fate.ReplyLost, thenRefuse));

    /// <summary>
    /// Arms one silence: of the request that meets the condition the piece that came in is passed on, and after it nothing
    /// more of that connection in either direction, which stays open, until <see cref="EndSilence"/>.
    /// </summary>
    /// <inheritdoc cref="CutBeforeRequest"/>
    public Task SilenceFromRequest(Func<ReadOnlyMemory<byte>, bool> condition)
        => Arm(new Rule(condition, Fate.Silence, ThenRefuse: false));

    /// <summary>Lets connections that went silent go on.</summary>
    public void EndSilence()
    {
        lock (_gate)
        {
            _silence.TrySetResult();
            _silence = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    /// <summary>
    /// Arms one hold: the first request that meets the condition is passed on, and from its reply on all replies are held,
    /// as by <see cref="HoldReplies"/>.
    /// </summary>
    /// <inheritdoc cref="CutBeforeRequest"/>
    public Task HoldRepliesFromRequest(Func<ReadOnlyMemory<byte>, bool> condition)
        => Arm(new Rule(condition, Fate.RepliesHeld, ThenRefuse: false));

    /// <summary>Arms one cut as <see cref="CutAfterRequest"/> does, but passes the first bytes of the reply back.</summary>
    public Task CutWithinReply(Func<ReadOnlyMemory<byte>, bool> condition, int replyBytes)
        => Arm(new Rule(condition, Fate.ReplyLost, ThenRefuse: false, replyBytes));

    /// <summary>
    /// Arms one cut as <see cref="CutBeforeRequest"/> does, but passes on the first bytes of what came in: the target has the
    /// beginning of a message, and then a connection that was reset.
    /// </summary>
    public Task CutWithinRequest(Func<ReadOnlyMemory<byte>, bool> condition, int requestBytes)
        => Arm(new Rule(condition, Fate.NotForwarded, ThenRefuse: false, RequestBytes: requestBytes));

    /// <summary>Takes back what was armed and has met no request yet; nothing where there is none.</summary>
    public void Disarm()
    {
        lock (_gate)
        {
            _armed?.Done.TrySetCanceled();
            _armed = null;
        }
    }

    /// <summary>Keeps replies back, of all connections, until <see cref="ReleaseReplies"/>. Requests still pass.</summary>
    public void HoldReplies()
    {
        lock (_gate)
        {
            _repliesHeld ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    /// <summary>Delivers the replies that were held, and those to come.</summary>
    public void ReleaseReplies()
    {
        lock (_gate)
        {
            _repliesHeld?.SetResult();
            _repliesHeld = null;
        }
    }

    public async ValueTask DisposeAsync()
    {
        CutNow();
        ReleaseReplies();
        EndSilence();
        Link[] ending;
        Disarm();
        lock (_gate)
        {
            ending = [.. _links];
        }

        await Task.WhenAll(ending.Select(link => link.Ended));
    }

    private Task Silence
    {
        get
        {
            lock (_gate)
            {
                return _silence.Task;
            }
        }
    }

    private Task Arm(Rule rule)
    {
        lock (_gate)
        {
            if (_armed is not null)
            {
                throw new InvalidOperationException("A cut is armed already.");
            }

            _armed = rule;
            return rule.Done.Task;
        }
    }

    private async Task AcceptAsync(TcpListener from)
    {
        while (true)
        {
            Socket client;
            try
            {
                client = await from.AcceptSocketAsync();
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                return; // Cut.
            }

            var link = new Link(this, client);
            lock (_gate)
            {
                if (_listener != from)
                {
                    link.Reset();
                    return;
                }

                _accepted++;
                _links.Add(link);
            }

            link.Start();
        }
    }

    /// <summary>What becomes of a request that meets a rule.</summary>
    private enum Fate
    {
        NotForwarded,
        ReplyLost,
        RepliesHeld,
        Silence,
    }

    /// <summary>What a cut waits for. A rule is used up by the first request that meets it.</summary>
    private sealed record Rule(Func<ReadOnlyMemory<byte>, bool> Condition, Fate Fate, bool ThenRefuse, int ReplyBytes = 0,
        int RequestBytes = 0)
    {
        public TaskCompletionSource Done { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    /// <summary>One client's connection and the connection to the target made for it.</summary>
    private sealed class Link(CuttingProxy proxy, Socket client)
    {
        private const int Remembered = 1024;
        private readonly Socket _target = new(SocketType.Stream, ProtocolType.Tcp);
        private Rule? _seen;
        private byte[] _before = [];
        private volatile Rule? _replyLost;
        private volatile Task _silent = Task.CompletedTask;
        private int _asked;

        public Task Ended { get; private set; } = Task.CompletedTask;

        public void Start() => Ended = RunAsync();

        /// <summary>Closes both sides with a reset, so that nobody takes it for an orderly end.</summary>
        public void Reset()
        {
            foreach (var socket in new[] { client, _target })
            {
                try
                {
                    socket.LingerState = new LingerOption(enable: true, seconds: 0);
                    socket.Close(timeout: 0);
                }
                catch (Exception e) when (e is SocketException or ObjectDisposedException)
                {
                    // Closed already, or never opened.
                }
            }
        }

        private async Task RunAsync()
        {
            await OrResetAsync(async () =>
            {
                client.NoDelay = true;
                _target.NoDelay = true;
                await _target.ConnectAsync(proxy._host, proxy._targetPort);
                await Task.WhenAll(OrResetAsync(PassRequestsAsync), OrResetAsync(PassRepliesAsync));
            });
            Reset();
            Cut(_replyLost); // The target may have been reset instead of replying.
            lock (proxy._gate)
            {
                proxy._links.Remove(this);
            }
        }

        /// <summary>When one side fails, the other is told so, by a reset.</summary>
        private async Task OrResetAsync(Func<Task> pass)
        {
            try
            {
                await pass();
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                Reset();
            }
        }

        private async Task PassRequestsAsync()
        {
            var buffer = new byte[64 * 1024];
            for (int read; (read = await client.ReceiveAsync(buffer)) > 0;)
            {
                var rule = Match(buffer.AsMemory(0, read));
                // Known before the request leaves, so that its reply cannot slip through.
                switch (rule?.Fate)
                {
                    case Fate.NotForwarded:
                        await PassBeginningAsync(_target, buffer.AsMemory(0, Math.Min(read, rule.RequestBytes)));
                        Cut(rule);
                        return;
                    case Fate.ReplyLost:
                        _replyLost ??= rule;
                        break;
                    case Fate.RepliesHeld:
                        proxy.HoldReplies();
                        break;
                    case Fate.Silence:
                        _silent = proxy.Silence;
                        break;
                }

                Volatile.Write(ref _asked, 1);
                await SendAsync(_target, buffer.AsMemory(0, read));
                if (rule?.Fate is Fate.RepliesHeld or Fate.Silence)
                {
                    rule.Done.TrySetResult();
                }

                await _silent;
            }

            _target.Shutdown(SocketShutdown.Send);
        }

        private async Task PassRepliesAsync()
        {
            var buffer = new byte[64 * 1024];
            for (int read; (read = await _target.ReceiveAsync(buffer)) > 0;)
            {
                if (Interlocked.Exchange(ref _asked, 0) == 1)
                {
                    Interlocked.Increment(ref proxy._roundTrips);
                }

                await _silent;
                await (Volatile.Read(ref proxy._repliesHeld)?.Task ?? Task.CompletedTask);
                if (_replyLost is { } rule)
                {
                    await PassBeginningAsync(client, buffer.AsMemory(0, Math.Min(read, rule.ReplyBytes)));
                    Cut(rule);
                    return;
                }

                await SendAsync(client, buffer.AsMemory(0, read));
            }

            // The target ended. In answer to a request that is to be cut, that is no end in order either.
            if (_replyLost is { } unanswered)
            {
                Cut(unanswered);
                return;
            }

            client.Shutdown(SocketShutdown.Send);
        }

        private Rule? Match(ReadOnlyMemory<byte> request)
        {
            lock (proxy._gate)
            {
                if (proxy._armed is not { } rule)
                {
                    return null;
                }

                if (_seen != rule)
                {
                    // What passed before the cut was armed does not count.
                    _seen = rule;
                    _before = [];
                }

                byte[] window = [.. _before, .. request.Span];
                if (rule.Condition(window))
                {
                    proxy._armed = null;
                    return rule;
                }

                _before = window[Math.Max(0, window.Length - Remembered)..];
                return null;
            }
        }

        private void Cut(Rule? rule)
        {
            if (rule is null)
            {
                return;
            }

            Reset();
            if (rule.ThenRefuse && !rule.Done.Task.IsCompleted)
            {
                proxy.CutNow();
            }

            rule.Done.TrySetResult();
        }

        private static async Task PassBeginningAsync(Socket to, ReadOnlyMemory<byte> bytes)
        {
            if (bytes.Length > 0)
            {
                await SendAsync(to, bytes);
                await Task.Delay(20); // So that they are read before the reset.
            }
        }

        private static async Task SendAsync(Socket to, ReadOnlyMemory<byte> bytes)
        {
            while (bytes.Length > 0)
            {
                bytes = bytes[await to.SendAsync(bytes)..];
            }
        }
    }
}
