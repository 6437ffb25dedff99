using Grpc.Core;
using Grpc.Core.Interceptors;
using Grpc.Net.Client;
using Microsoft.Extensions.Logging;

namespace Aegis.Client;

/// <summary>How to reach Aegis, and whom to believe. Read once, when the client is made.</summary>
public sealed class AegisClientOptions
{
    /// <summary>
    /// The addresses of servers of one deployment, such as <c>https://ledger.example:443</c>; all <c>http</c> or all
    /// <c>https</c>. Calls go round over those that answer. A single address may also be one of gRPC's own schemes, such as
    /// <c>dns:///ledger.example:443</c>.
    /// </summary>
    public IList<string> Addresses { get; init; } = [];

    /// <summary>The namespace of all calls; <c>default</c> by default.</summary>
    public string Namespace { get; set; } = Core.Limits.DefaultNamespace;

    /// <summary>How long a call may take with all its repetitions, unless it says otherwise; 30 s by default.</summary>
    public TimeSpan Timeout { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>
    /// TLS, or none. By default what the addresses say: <c>https</c> trusts the system's roots, <c>http</c> is plaintext.
    /// </summary>
    public ChannelCredentials? Credentials { get; set; }

    /// <summary>What goes along with each call, such as a token. Only over TLS: plaintext would give it away.</summary>
    public CallCredentials? CallCredentials { get; set; }

    /// <summary>Run around every call, the first outermost.</summary>
    public IList<Interceptor> Interceptors { get; init; } = [];

    /// <summary>Changes the handler under the channel: client certificates, roots of one's own, a proxy.</summary>
    public Action<SocketsHttpHandler>? ConfigureHandler { get; set; }

    /// <summary>Changes the channel, for what has no option here.</summary>
    public Action<GrpcChannelOptions>? ConfigureChannel { get; set; }

    /// <summary>
    /// The verifier keys (C2SP <c>name+keyid+base64</c>) of the log that is trusted, got by another way than the server's word:
    /// <c>aegis key show --file</c> prints one. With any, all that the client gets is proven before it is given out; without
    /// any, records are recomputed and nothing proves that the log has them.
    /// </summary>
    public IList<string> TrustedKeys { get; init; } = [];

    /// <summary>
    /// The file that keeps the last head of the log across restarts, out of reach of whoever runs the log; the same that
    /// <c>aegis head watch --state</c> keeps. Without file and store the head is kept while the client lives.
    /// </summary>
    public string? HeadFile { get; set; }

    /// <summary>Keeps the last head elsewhere, such as in a table of one's own. Not with <see cref="HeadFile"/>.</summary>
    public IHeadStore? HeadStore { get; set; }

    /// <summary>
    /// The log_ids that may follow the one that was kept: a new generation that began when an operator accepted a loss
    /// (<c>NAME/2</c>), or another log altogether, whose key is trusted too. Any other stops the client.
    /// </summary>
    public IList<string> AcceptedLogIds { get; init; } = [];

    /// <summary>Where the client tells what it does; nowhere by default.</summary>
    public ILoggerFactory? LoggerFactory { get; set; }

    /// <summary>
    /// The clock of waits: repetitions, renewals, periodic checkpoints. Deadlines of calls follow the system's clock whatever
    /// this says, since gRPC knows no other.
    /// </summary>
    public TimeProvider Time { get; set; } = TimeProvider.System;
}
