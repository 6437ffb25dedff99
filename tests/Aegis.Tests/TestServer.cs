using Aegis.Server;
using Aegis.Storage;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Which database a fixture runs on; every fixture that can runs on both.</summary>
public enum Database
{
    Sqlite,
    PostgreSql,
}

/// <summary>
/// The server in this process, on a port and a database of its own, called by the real generated clients over a real
/// connection.
/// </summary>
internal sealed class TestServer : IAsyncDisposable
{
    private readonly TemporaryDirectory? _directory;
    private readonly TemporaryDirectory _data;
    private readonly bool _ownsDatabase;
    private readonly WebApplication _app;
    private bool _isDisposed;

    private TestServer(WebApplication app, string connection, TemporaryDirectory? directory, TemporaryDirectory data,
        bool ownsDatabase)
    {
        (_app, Connection, _directory, _data, _ownsDatabase) = (app, connection, directory, data, ownsDatabase);
        Address = app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single();
        Channel = GrpcChannel.ForAddress(Address);
        Workflows = new Pb.WorkflowService.WorkflowServiceClient(Channel);
        Recovery = new Pb.RecoveryService.RecoveryServiceClient(Channel);
        Integrity = new Pb.IntegrityService.IntegrityServiceClient(Channel);
        System = new Pb.SystemService.SystemServiceClient(Channel);
        Health = new Health.HealthClient(Channel);
    }

    public string Address { get; }

    /// <summary>The AEGIS_DATABASE it runs on.</summary>
    public string Connection { get; }

    /// <summary>Where its data is, as it tells.</summary>
    public string Location => Services.GetRequiredService<ILedgerStore>().Location;

    public GrpcChannel Channel { get; }
    public Pb.WorkflowService.WorkflowServiceClient Workflows { get; }
    public Pb.RecoveryService.RecoveryServiceClient Recovery { get; }
    public Pb.IntegrityService.IntegrityServiceClient Integrity { get; }
    public Pb.SystemService.SystemServiceClient System { get; }
    public Health.HealthClient Health { get; }

    /// <summary>What the host is made of, for tests that look inside.</summary>
    public IServiceProvider Services => _app.Services;

    /// <summary>Starts on a new database.</summary>
    /// <param name="database">Its kind.</param>
    /// <param name="settings">Further variables, such as AEGIS_SNAPSHOT_BYTES_MAX.</param>
    public static async Task<TestServer> StartAsync(
        Database database, params IEnumerable<KeyValuePair<string, string>> settings)
    {
        var directory = database == Database.Sqlite ? new TemporaryDirectory("aegis") : null;
        var connection = directory is not null
            ? $"sqlite:{Path.Combine(directory.Path, "aegis.db")}"
            : await PostgresCluster.CreateLedgerDatabaseAsync();
        return await StartAsync(connection, directory, ownsDatabase: true, settings);
    }

    /// <summary>Starts on a database that is there, and leaves it there.</summary>
    public static Task<TestServer> StartAsync(string connection, params IEnumerable<KeyValuePair<string, string>> settings) =>
        StartAsync(connection, null, ownsDatabase: false, settings);

    public async ValueTask DisposeAsync()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        Channel.Dispose();
        await _app.StopAsync();
        await _app.DisposeAsync();
        _directory?.Dispose();
        _data.Dispose();
        if (_ownsDatabase && _directory is null)
            await PostgresCluster.DropDatabaseAsync(Connection);
    }

    private static async Task<TestServer> StartAsync(string connection, TemporaryDirectory? directory, bool ownsDatabase,
        IEnumerable<KeyValuePair<string, string>> settings)
    {
        var data = new TemporaryDirectory("data");
        var app = AegisHost.Build(["--urls", "http://127.0.0.1:0"], builder =>
        {
            // The developer's own variables must not reach the tests.
            builder.Configuration.AddInMemoryCollection(new Dictionary<string, string?>
            {
                ["AEGIS_DATABASE"] = connection,
                ["AEGIS_READ_DATABASE"] = null,
                ["AEGIS_READ_LAG_MAX"] = null,
                ["AEGIS_DATA_DIR"] = data.Path,
                ["AEGIS_SIGNING_KEY"] = SharedKey.Path,
                ["AEGIS_MEMORY_FILE"] = null,
                ["AEGIS_MEMORY"] = null,
                ["AEGIS_KNOWN_HEADS"] = null,
                ["AEGIS_DRAIN_SECONDS"] = "0",
                ["AEGIS_LOG_ID"] = null,
                ["AEGIS_ALLOW_INSECURE"] = null,
                ["AEGIS_SNAPSHOT_BYTES_MAX"] = null,
            });
            builder.Configuration.AddInMemoryCollection(
                settings.Select(s => KeyValuePair.Create<string, string?>(s.Key, s.Value)));
            builder.Logging.SetMinimumLevel(LogLevel.Error);
        });
        try
        {
            await AegisHost.PrepareAsync(app);
            await app.StartAsync();
            if (app.Services.GetRequiredService<StoreMonitor>().IsReady)
                await app.Services.GetRequiredService<AuditStatus>().FirstAudit.WaitAsync(TimeSpan.FromSeconds(10));
        }
        catch
        {
            await app.DisposeAsync();
            data.Dispose();
            directory?.Dispose();
            throw;
        }
        return new TestServer(app, connection, directory, data, ownsDatabase);
    }
}
