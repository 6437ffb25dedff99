using System.Diagnostics.Metrics;
using Aegis.Server;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>A primary with standbys that stream from it, and a server that reads at them.</summary>
internal sealed class Replication : IAsyncDisposable
{
    private readonly List<IAsyncDisposable> _owned = [];

    private Replication(PostgresCluster primary) => Primary = primary;

    public PostgresCluster Primary { get; }
    public List<PostgresCluster> Standbys { get; } = [];
    public TestServer Server { get; private set; } = null!;
    public Reads Reads => Server.Services.GetRequiredService<Reads>();

    /// <param name="standbys">How many.</param>
    /// <param name="settings">Of the server.</param>
    public static async Task<Replication> StartAsync(int standbys, params (string Name, string Value)[] settings)
    {
        var primary = await PostgresCluster.StartPrivateAsync();
        var setup = new Replication(primary);
        setup._owned.Add(primary);
        try
        {
            for (var i = 0; i < standbys; i++)
                setup.Add(await primary.StartStandbyAsync());
            await setup.ServeAsync(settings);
            return setup;
        }
        catch
        {
            await setup.DisposeAsync();
            throw;
        }
    }

    public void Add(PostgresCluster standby)
    {
        Standbys.Add(standby);
        _owned.Add(standby);
    }

    /// <summary>Starts the server that reads at all of them, and waits until it does.</summary>
    public async Task ServeAsync(params (string Name, string Value)[] settings)
    {
        Server = await TestServer.StartAsync(Primary.ConnectionString,
            [
                .. settings.Select(s => KeyValuePair.Create(s.Name, s.Value)),
                .. Standbys.Count == 0 ? [] : (KeyValuePair<string, string>[])[KeyValuePair.Create("AEGIS_READ_DATABASE", ReadDatabase)],
            ]);
        _owned.Add(Server);
        await AreReadAsync(Standbys.Count);
    }

    /// <summary>All standbys, as AEGIS_READ_DATABASE names them.</summary>
    public string ReadDatabase => new NpgsqlConnectionStringBuilder(Primary.ConnectionString)
    {
        Host = string.Join(',', Standbys.Select(s => $"127.0.0.1:{s.Port}")),
    }.ToString();

    /// <summary>Waits until calls are sent to so many of them.</summary>
    public Task AreReadAsync(int count) => Until.TrueAsync(() => Task.FromResult(Reads.Replicas.Count(r => r.Head is not null) == count));

    public bool IsRead(PostgresCluster standby) => Of(standby).Head is not null;

    public Replica Of(PostgresCluster standby) => Reads.Replicas.Single(r => r.Location == $"127.0.0.1:{standby.Port}");

    /// <summary>Waits until a standby has replayed all that the primary has.</summary>
    public async Task CaughtUpAsync(PostgresCluster standby)
    {
        var size = await RunAsync<long>(Primary, "SELECT max(size) FROM log_head");
        await Until.TrueAsync(async () => await RunAsync<long>(standby, "SELECT max(size) FROM log_head") >= size);
    }

    public static Task PauseAsync(PostgresCluster standby) => RunAsync<object>(standby, "SELECT pg_wal_replay_pause()");

    public static Task GoOnAsync(PostgresCluster standby) => RunAsync<object>(standby, "SELECT pg_wal_replay_resume()");

    public static async Task<T?> RunAsync<T>(PostgresCluster cluster, string sql)
    {
        await using var connection = new NpgsqlConnection(
            new NpgsqlConnectionStringBuilder(cluster.ConnectionString) { Pooling = false }.ToString());
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(sql, connection);
        return await command.ExecuteScalarAsync() is T value ? value : default;
    }

    /// <summary>Starts a workflow, and gives how large the log has to be to hold it.</summary>
    public async Task<(string Id, ulong Size)> WriteAsync()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var started = await Server.Workflows.StartWorkflowAsync(Given.Start(id));
        return (id, started.Receipt.LogIndex + 1);
    }

    /// <summary>The ids that a listing gives, page by page.</summary>
    public async Task<(List<string> Ids, ulong Size)> ListAsync(ulong minLogSize = 0, uint pageSize = 1000)
    {
        var request = new Pb.ListWorkflowsRequest { MinLogSize = minLogSize, PageSize = pageSize };
        var (ids, size) = (new List<string>(), 0UL);
        do
        {
            var page = await Server.Workflows.ListWorkflowsAsync(request);
            ids.AddRange(page.Workflows.Select(w => w.WorkflowId));
            size = size == 0 ? page.LogSize : size;
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
        return (ids, size);
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var one in Enumerable.Reverse(_owned))
            await one.DisposeAsync();
    }
}

/// <summary>Counts the reads that are served at a place, as the metric tells.</summary>
internal sealed class ReadCounter : IDisposable
{
    private readonly MeterListener _listener = new();
    private long _count;

    public ReadCounter(PostgresCluster standby)
    {
        var place = $"127.0.0.1:{standby.Port}";
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (instrument is { Meter.Name: "Aegis", Name: "aegis.reads" })
                listener.EnableMeasurementEvents(instrument);
        };
        _listener.SetMeasurementEventCallback<long>((_, count, tags, _) =>
        {
            foreach (var tag in tags)
            {
                if (tag.Key == "place" && (string?)tag.Value == place)
                    Interlocked.Add(ref _count, count);
            }
        });
        _listener.Start();
    }

    public long Count => Interlocked.Read(ref _count);

    public void Dispose() => _listener.Dispose();
}
