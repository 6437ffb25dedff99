using System.Net;
using System.Security.Cryptography;
using Aegis.Storage;
using Grpc.HealthCheck;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using OpenTelemetry.Metrics;

namespace Aegis.Server;

/// <summary>Puts the server together.</summary>
public static class AegisHost
{
    public const string DefaultUrl = "http://127.0.0.1:50051";

    /// <summary>How long the start waits for the database: whoever probes liveness must not take the server for dead.</summary>
    private static readonly TimeSpan PreparePatience = TimeSpan.FromSeconds(5);

    /// <exception cref="ConfigurationException">The configuration cannot be used.</exception>
    /// <exception cref="StoreException">The database cannot be used.</exception>
    public static WebApplication Build(string[] args, Action<WebApplicationBuilder>? configure = null)
    {
        // The configuration is read once: watching its files would only cost one of the few watches a machine has.
        var builder = WebApplication.CreateSlimBuilder(["--hostBuilder:reloadConfigOnChange=false", .. args]);
        builder.WebHost.UseKestrelHttpsConfiguration();
        configure?.Invoke(builder);
        if (string.IsNullOrEmpty(builder.Configuration["urls"])
            && !builder.Configuration.GetSection("Kestrel:Endpoints").GetChildren().Any())
        {
            builder.WebHost.UseUrls(DefaultUrl);
        }
        builder.Logging.AddFilter("Microsoft", LogLevel.Warning).AddFilter("Grpc", LogLevel.Warning);
        // What fails in a call is told by our own interceptor, and a malformed message is its caller's affair.
        builder.Logging.AddFilter("Grpc.AspNetCore.Server.ServerCallHandler", LogLevel.None);
        // A port in use is told by one line of our own.
        builder.Logging.AddFilter("Microsoft.Extensions.Hosting", LogLevel.None);
        var options = ServerOptions.From(builder.Configuration);
        RefuseInsecure(builder.Configuration, options);
        AddConsole(builder.Logging, options);
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.ConfigureEndpointDefaults(endpoint => endpoint.Protocols = HttpProtocols.Http2);
            kestrel.Limits.MaxRequestBodySize = null;
            kestrel.Limits.Http2.MaxStreamsPerConnection = 1000;
        });
        AddServices(builder.Services, options);

        var app = builder.Build();
        app.Use(MalformedMessages.HandleAsync);
        app.MapGrpcService<WorkflowService>();
        app.MapGrpcService<RecoveryService>();
        app.MapGrpcService<IntegrityService>();
        app.MapGrpcService<SystemService>();
        app.MapGrpcService<HealthService>();
        app.MapGrpcReflectionService();
        return app;
    }

    /// <summary>
    /// Prepares the store before the first address is listened on. A store that cannot be reached, or not soon, is waited
    /// for by the monitor, and health tells; one that cannot be used stops the start.
    /// </summary>
    public static async Task PrepareAsync(WebApplication app)
    {
        var monitor = app.Services.GetRequiredService<StoreMonitor>();
        using var patience = new CancellationTokenSource(PreparePatience);
        try
        {
            await monitor.PrepareAsync(patience.Token);
            // A replica that is silent is none of the database's doing, and is soon given up.
            await app.Services.GetRequiredService<Reads>().ProbeAsync(CancellationToken.None);
        }
        catch (OperationCanceledException)
        {
            app.Logger.LogWarning("The database does not answer yet");
        }
        catch (StoreException e) when (e.Failure != StoreFailure.Unusable)
        {
            app.Logger.LogWarning("The database is not ready yet: {Reason}",
                e.InnerException?.Message ?? e.Message);
        }
    }

    /// <summary>Listens, and begins to work.</summary>
    /// <exception cref="ConfigurationException">An address or a certificate cannot be used.</exception>
    public static async Task StartAsync(WebApplication app)
    {
        try
        {
            await app.StartAsync();
        }
        catch (Exception e) when (e is IOException or InvalidOperationException or ArgumentException or FormatException
            or CryptographicException)
        {
            // What has begun already ends before its store is closed.
            await app.StopAsync();
            // What Kestrel throws for an address in use or not of this machine, an unknown scheme, a certificate that is
            // missing or cannot be read. Hints follow in further lines; the first says what is wrong.
            throw new ConfigurationException($"Cannot listen: {e.Message.Split('\n')[0].TrimEnd()}");
        }
    }

    public static void Greet(WebApplication app)
    {
        var options = app.Services.GetRequiredService<ServerOptions>();
        var store = app.Services.GetRequiredService<ILedgerStore>();
        var address = app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!
            .Addresses.First();
        Console.WriteLine($"Aegis {SystemService.Version} listens on {address}");
        Console.WriteLine($"Data: {store.Kind} {store.Location}{(options.IsTemporary ? " (gone when the server stops)" : "")}");
        Console.WriteLine($"Try: aegis --server {address} start order-1 --type order --state NEW");
        Console.WriteLine("     (from the sources: dotnet run --project src/Aegis.Cli -- …)");
    }

    private static void AddServices(IServiceCollection services, ServerOptions options)
    {
        services.AddSingleton(options);
        services.AddSingleton(TimeProvider.System);
        services.AddSingleton(provider => options.OpenStore(provider.GetRequiredService<TimeProvider>()));
        services.AddSingleton<Metrics>();
        services.AddSingleton<Findings>();
        services.AddSingleton<ResumableReader>();
        services.AddSingleton<ChainReader>();
        services.AddSingleton<Reads>();
        services.AddSingleton<Exporter>();
        services.AddSingleton<Importer>();
        services.AddSingleton<HealthServiceImpl>();
        services.AddSingleton<LogTail>();
        services.AddSingleton<LogSigner>();
        services.AddSingleton<KnownHeads>();
        services.AddSingleton<SignerMemory>();
        services.AddSingleton<LogProofs>();
        services.AddSingleton<LogLeaves>();
        services.AddSingleton<Repairer>();
        services.AddSingleton<Ledger>();
        services.AddSingleton<AuditStatus>();
        services.AddSingleton<ProvenBackups>();
        services.AddSingleton<StoreMonitor>();
        services.AddSingleton<Auditor>();
        services.AddSingleton<RefusalSummary>();
        services.AddSingleton<Drain>();
        // Stopped in the reverse order: the drain first, the ledger after those that submit to it.
        services.AddHostedService(provider => provider.GetRequiredService<SignerMemory>());
        services.AddHostedService(provider => provider.GetRequiredService<Ledger>());
        services.AddHostedService(provider => provider.GetRequiredService<LogTail>());
        services.AddHostedService(provider => provider.GetRequiredService<Findings>());
        services.AddHostedService(provider => provider.GetRequiredService<ProvenBackups>());
        services.AddHostedService(provider => provider.GetRequiredService<StoreMonitor>());
        services.AddHostedService(provider => provider.GetRequiredService<Reads>());
        services.AddHostedService(provider => provider.GetRequiredService<Auditor>());
        services.AddHostedService(provider => provider.GetRequiredService<RefusalSummary>());
        services.AddHostedService(provider => provider.GetRequiredService<Drain>());
        services.Configure<HostOptions>(host => host.ShutdownTimeout = options.Drain + TimeSpan.FromSeconds(25));

        services.AddGrpc(grpc =>
        {
            grpc.MaxReceiveMessageSize = Core.Limits.RequestBytesMax;
            grpc.MaxSendMessageSize = Core.Limits.ResponseBytesMax;
        });
        AddContract<WorkflowService>(services);
        AddContract<RecoveryService>(services);
        AddContract<IntegrityService>(services);
        AddContract<SystemService>(services);
        services.AddGrpcReflection();

        services.AddOpenTelemetry().WithMetrics(metrics =>
        {
            metrics.AddMeter(Server.Metrics.MeterName, "Microsoft.AspNetCore.Hosting", "Npgsql", "System.Runtime");
            if (!string.IsNullOrEmpty(Environment.GetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT")))
                metrics.AddOtlpExporter();
        });
    }

    private static void AddConsole(ILoggingBuilder logging, ServerOptions options)
    {
        if (options.LogFormat == "json")
        {
            logging.AddJsonConsole(console =>
            {
                console.UseUtcTimestamp = true;
                console.TimestampFormat = "yyyy-MM-ddTHH:mm:ss.fffZ";
            });
            return;
        }
        logging.AddSimpleConsole(console =>
        {
            console.SingleLine = true;
            console.TimestampFormat = "HH:mm:ss ";
        });
    }

    /// <summary>Compression is for the contract alone: health and reflection must never answer in it.</summary>
    private static void AddContract<TService>(IServiceCollection services) where TService : class =>
        services.AddGrpc().AddServiceOptions<TService>(grpc =>
        {
            grpc.ResponseCompressionAlgorithm = "gzip";
            grpc.ResponseCompressionLevel = System.IO.Compression.CompressionLevel.Fastest;
            grpc.Interceptors.Add<CallInterceptor>();
        });

    private static void RefuseInsecure(IConfiguration configuration, ServerOptions options)
    {
        if (options.AllowInsecure)
            return;
        var urls = (configuration["urls"] ?? DefaultUrl).Split(';', StringSplitOptions.RemoveEmptyEntries)
            .Concat(configuration.GetSection("Kestrel:Endpoints").GetChildren().Select(e => e["Url"] ?? ""));
        foreach (var url in urls.Select(u => u.Trim()).Where(u => u.Length > 0))
        {
            BindingAddress address;
            try
            {
                address = BindingAddress.Parse(url);
            }
            catch (FormatException)
            {
                throw new ConfigurationException($"The address \"{url}\" is not a URL such as {DefaultUrl}.");
            }
            // Kestrel takes HTTP:// too.
            if (string.Equals(address.Scheme, "http", StringComparison.OrdinalIgnoreCase) && !address.IsUnixPipe && !IsLoopback(address.Host))
            {
                throw new ConfigurationException(
                    $"{url} would serve plaintext beyond this machine: serve https, listen on 127.0.0.1, or set "
                    + "AEGIS_ALLOW_INSECURE=true if the network is trusted.");
            }
        }
    }

    private static bool IsLoopback(string host) =>
        string.Equals(host, "localhost", StringComparison.OrdinalIgnoreCase)
        || (IPAddress.TryParse(host.Trim('[', ']'), out var address) && IPAddress.IsLoopback(address));
}
