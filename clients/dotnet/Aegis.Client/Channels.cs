using Grpc.Core;
using Grpc.Net.Client;
using Grpc.Net.Client.Balancer;
using Grpc.Net.Client.Configuration;

namespace Aegis.Client;

/// <summary>Opens the channel as the options say.</summary>
internal static class Channels
{
    /// <summary>As much as a server takes, so that what is too large is refused with a reason.</summary>
    private const int RequestBytesMax = 16 * 1024 * 1024;

    public static GrpcChannel Open(AegisClientOptions options)
    {
        if (options.Addresses.Count == 0)
            throw new ArgumentException("Addresses is empty: name at least one server.", nameof(options));
        var isTls = options.Addresses.All(a => a.StartsWith("https://", StringComparison.OrdinalIgnoreCase));
        var isPlain = options.Addresses.All(a => a.StartsWith("http://", StringComparison.OrdinalIgnoreCase));
        var credentials = options.Credentials ?? (isTls ? ChannelCredentials.SecureSsl : isPlain ? ChannelCredentials.Insecure : null)
            ?? throw new ArgumentException(
                "Addresses have to be all http:// or all https://; for a single one of another scheme give Credentials.", nameof(options));
        if (options.CallCredentials is { } call)
        {
            if (credentials == ChannelCredentials.Insecure)
                throw new ArgumentException("CallCredentials would travel in plaintext: use https.", nameof(options));
            credentials = ChannelCredentials.Create(credentials, call);
        }
        var handler = new SocketsHttpHandler
        {
            // A single one takes no more calls at once than the server allows a connection.
            EnableMultipleHttp2Connections = true,
            // A server that vanished would otherwise be waited for until the deadline.
            KeepAlivePingDelay = TimeSpan.FromSeconds(20),
            KeepAlivePingTimeout = TimeSpan.FromSeconds(10),
            KeepAlivePingPolicy = HttpKeepAlivePingPolicy.Always,
            PooledConnectionIdleTimeout = Timeout.InfiniteTimeSpan,
        };
        options.ConfigureHandler?.Invoke(handler);
        var channel = new GrpcChannelOptions
        {
            HttpHandler = handler,
            DisposeHttpClient = true,
            Credentials = credentials,
            LoggerFactory = options.LoggerFactory,
            MaxSendMessageSize = RequestBytesMax,
            // The second that is the default would be most of a short recovery.
            InitialReconnectBackoff = TimeSpan.FromMilliseconds(100),
            MaxReconnectBackoff = TimeSpan.FromSeconds(2),
        };
        var target = options.Addresses[0];
        if (options.Addresses.Count > 1)
        {
            channel.ServiceConfig = new ServiceConfig { LoadBalancingConfigs = { new RoundRobinConfig() } };
            channel.ServiceProvider = new Resolvers([.. options.Addresses.Select(AddressOf)]);
            target = "static:///aegis";
        }
        options.ConfigureChannel?.Invoke(channel);
        return GrpcChannel.ForAddress(target, channel);
    }

    private static BalancerAddress AddressOf(string address) => Uri.TryCreate(address, UriKind.Absolute, out var uri) && uri.Port > 0
        ? new BalancerAddress(uri.Host, uri.Port)
        : throw new ArgumentException($"\"{address}\" is not an address such as http://127.0.0.1:50051.", nameof(address));

    /// <summary>Gives the channel the addresses, and nothing else.</summary>
    private sealed class Resolvers(BalancerAddress[] addresses) : IServiceProvider
    {
        private readonly ResolverFactory[] _factories = [new StaticResolverFactory(_ => addresses)];

        public object? GetService(Type serviceType) =>
            serviceType == typeof(IEnumerable<ResolverFactory>) ? _factories
            : serviceType == typeof(IEnumerable<LoadBalancerFactory>) ? Array.Empty<LoadBalancerFactory>()
            : null;
    }
}
