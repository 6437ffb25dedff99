using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Aegis.Tests;
using Npgsql;

namespace Aegis.Benchmarks;

/// <summary>What a contender came to in one turn.</summary>
/// <param name="Value">Calls per second, or what the row says.</param>
/// <param name="Cpu">What a call took of it; null where it was not counted.</param>
/// <param name="Growth">The last part of the turn over the first, where the row asks for it.</param>
internal sealed record Measured(double Value, CpuUse? Cpu = null, double Growth = 1);

/// <summary>Microseconds of CPU for a call, by who spent them.</summary>
internal sealed record CpuUse(double Callers, double Database, double Servers)
{
    public double Total => Callers + Database + Servers;

    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"{Total,6:0} µs of CPU: callers {Callers:0}, PostgreSQL {Database:0}, servers {Servers:0}");
}

/// <summary>
/// Where contenders meet: one throw-away PostgreSQL as it comes out of the box, one process of callers, and whatever runs on them,
/// each on a database of its own. Whoever's turn it is not stands still.
/// </summary>
internal sealed partial class Arena : IAsyncDisposable
{
    private const double WarmSeconds = 2;

    /// <summary>Before the first turn of a service: until then its code is not compiled for speed, nor are statements planned.</summary>
    private const double FirstWarmSeconds = 12;

    private readonly PostgresCluster _cluster;
    private readonly double _seconds;
    private readonly long _records;
    private readonly Callers _callers = new();
    private readonly TemporaryDirectory _directory = new("arena");
    private readonly Dictionary<string, ServerUnderTest> _servers = [];
    private readonly Dictionary<string, string> _databases = [];

    private Arena(PostgresCluster cluster, double seconds, long records) => (_cluster, _seconds, _records) = (cluster, seconds, records);

    /// <param name="seconds">How long a turn is counted.</param>
    /// <param name="records">How many records a turn goes up to whose subject is their number.</param>
    /// <param name="slowDisk">With a millisecond more for every flush of the WAL.</param>
    public static async Task<Arena> OpenAsync(double seconds, long records, bool slowDisk)
    {
        string? preloaded = null;
        if (slowDisk)
        {
            preloaded = Path.Combine(Path.GetTempPath(), $"aegis-slow-disk-{Environment.ProcessId}.so");
            await ChildProcess.RunAsync("cc", "-shared", "-fPIC", "-O2", "-o", preloaded, Source("slow_disk.c"), "-ldl");
        }
        try
        {
            return new Arena(await PostgresCluster.StartPreloadedAsync(preloaded, "max_connections=400"), seconds, records);
        }
        finally
        {
            // Whoever has loaded it keeps it, and backends are forks of the postmaster.
            if (preloaded is not null)
                File.Delete(preloaded);
        }
    }

    /// <summary>A file beside this project's sources.</summary>
    public static string Source(string path) => Path.Combine(Path.GetDirectoryName(ServerUnderTest.ProjectFile)!, path);

    /// <summary>Callers on Aegis.</summary>
    /// <param name="name">Of its database; one more name is one more server on it, joined by a comma.</param>
    public Task<Measured> AegisAsync(string name, Work work, int callers, bool sqlite = false) =>
        AegisAsync(name, new LoadOrder([], work, callers, WarmSeconds, _seconds), sqlite);

    /// <summary>The same with all that can be said of a load but its addresses, and with settings for the servers.</summary>
    public Task<Measured> AegisAsync(string name, LoadOrder order, bool sqlite = false, params (string Name, string Value)[] settings) =>
        ServedAsync(name.Split(','), order, async servers =>
        {
            foreach (var server in servers)
            {
                _servers[server] = sqlite
                    ? await ServerUnderTest.StartAsync(await ServerUnderTest.ReleasedAsync(), sqlite: true)
                    : await ServerUnderTest.StartOnAsync(await ServerUnderTest.ReleasedAsync(), await DatabaseAsync(servers[0]), settings);
                settings = [.. settings, ("AEGIS_SIGNING_KEY", _servers[server].KeyFile)];
            }
        });

    /// <summary>Callers on a service that runs one transaction for every call.</summary>
    public Task<Measured> NaiveAsync(string name, int callers, bool sqlite = false) =>
        ServedAsync([name], new LoadOrder([], Work.Transition, callers, WarmSeconds, _seconds), async servers =>
            _servers[name] = await ServerUnderTest.StartNaiveAsync(sqlite
                ? $"sqlite:{Path.Combine(_directory.Path, $"{name}.db")}"
                : await DatabaseAsync(name)));

    /// <summary>PostgreSQL's own benchmark with a script of ours.</summary>
    public async Task<Measured> PgbenchAsync(string script, int clients)
    {
        var name = $"pgbench_{Path.GetFileNameWithoutExtension(script)}";
        if (!_databases.ContainsKey(name))
        {
            await DatabaseAsync(name);
            await ChildProcess.RunAsync("psql", "-h", "127.0.0.1", "-p", Text(_cluster.Port), "-U", "postgres", "-d", name,
                "-q", "-v", "ON_ERROR_STOP=1", "-f", Source("peers/schema.sql"), "-f", Source("peers/workflows.sql"));
        }
        await CheckpointAsync();
        var output = await ChildProcess.OutputOfAsync(_directory.Path, [],
            "pgbench", "-n", "-M", "prepared", "-h", "127.0.0.1", "-p", Text(_cluster.Port), "-U", "postgres",
            "-c", Text(clients), "-j", Text(Math.Min(clients, Environment.ProcessorCount)), "-T", Text(_seconds),
            "-f", Source($"peers/{script}"), "-D", $"snapshot={{\"text\":\"{new string('x', 1013)}\"}}", name);
        // "tps = 3210.987654 (without initial connection time)"
        var tps = output.Split('\n').Single(line => line.StartsWith("tps = ", StringComparison.Ordinal)).Split(' ')[2];
        return new Measured(double.Parse(tps, CultureInfo.InvariantCulture));
    }

    /// <summary>A program of a peer, which runs the callers in its own process and tells what it counted.</summary>
    public async Task<Measured> ProgramAsync(string name, int callers, params string[] command)
    {
        await DatabaseAsync(name);
        await CheckpointAsync();
        var url = $"postgresql://postgres@127.0.0.1:{_cluster.Port}/{name}";
        var output = await ChildProcess.OutputOfAsync(_directory.Path, [("PEER_DATABASE", url)],
            command[0], [.. command[1..], "--callers", Text(callers), "--seconds", Text(_seconds), "--warm", Text(WarmSeconds)]);
        var result = JsonSerializer.Deserialize<LoadResult>(output, JsonSerializerOptions.Web)!;
        return new Measured(result.Rate);
    }

    /// <summary>What of PostgreSQL's settings decides whether a commit is durable, as the running server says.</summary>
    public async Task<string> SettingsAsync()
    {
        var settings = await AskAsync<string>(_cluster.ConnectionString,
            """
            SELECT string_agg(name || '=' || setting, ', ' ORDER BY name)
            FROM pg_settings
            WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'server_version', 'shared_buffers')
            """);
        return settings.Contains("fsync=on", StringComparison.Ordinal) && settings.Contains("synchronous_commit=on", StringComparison.Ordinal)
            ? settings
            : throw new InvalidOperationException($"Durability is relaxed, and nothing measured would mean anything: {settings}");
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var server in _servers.Values)
            await server.DisposeAsync();
        await _callers.DisposeAsync();
        await _cluster.DisposeAsync();
        _directory.Dispose();
    }

    private async Task<Measured> ServedAsync(string[] names, LoadOrder order, Func<string[], Task> startAsync)
    {
        var isFirst = !_servers.ContainsKey(names[0]);
        if (isFirst)
            await startAsync(names);
        else
            await EachAsync(Signal.Continue);
        await CheckpointAsync();
        var servers = names.Select(name => _servers[name]).ToList();
        double[] cpu = [];
        var result = await _callers.RunAsync(
            order with { Addresses = [.. servers.Select(s => s.Address)], Warm = isFirst ? FirstWarmSeconds : order.Warm },
            () => cpu = Cpu());
        var used = Cpu().Zip(cpu, (after, before) => (after - before) * 1e6 / result.Count).ToList();
        await EachAsync(Signal.Stop);
        return new Measured(result.Rate, new CpuUse(used[0], used[1], used[2]), result.Growth);

        double[] Cpu() => [ProcessUse.CpuSeconds(_callers.Pid), ProcessUse.CpuSeconds(_cluster.Pid), ProcessUse.CpuSeconds(servers.Select(s => s.Pid))];

        async Task EachAsync(Signal signal)
        {
            foreach (var name in names)
                await _servers[name].SendAsync(signal);
        }
    }

    /// <summary>A new turn begins with nothing left to be written of the one before.</summary>
    private Task CheckpointAsync() => ExecuteAsync(_cluster.ConnectionString, "CHECKPOINT");

    private async Task<string> DatabaseAsync(string name)
    {
        if (!_databases.TryGetValue(name, out var database))
        {
            await ExecuteAsync(_cluster.ConnectionString, $"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
            database = new NpgsqlConnectionStringBuilder(_cluster.ConnectionString) { Database = name }.ConnectionString;
            _databases.Add(name, database);
        }
        return database;
    }

    private async Task DropAsync(string name)
    {
        await ExecuteAsync(_cluster.ConnectionString, $"DROP DATABASE {name} WITH (FORCE)");
        _databases.Remove(name);
    }

    private static async Task ExecuteAsync(string database, string sql)
    {
        await using var connection = await ConnectAsync(database);
        await using var command = new NpgsqlCommand(sql, connection) { CommandTimeout = 0 };
        await command.ExecuteNonQueryAsync();
    }

    private static async Task<T> AskAsync<T>(string database, string sql)
    {
        await using var connection = await ConnectAsync(database);
        await using var command = new NpgsqlCommand(sql, connection) { CommandTimeout = 0 };
        return (T)(await command.ExecuteScalarAsync())!;
    }

    /// <summary>Not from a pool, which would keep connections to databases that are gone.</summary>
    private static async Task<NpgsqlConnection> ConnectAsync(string database)
    {
        var connection = new NpgsqlConnection(new NpgsqlConnectionStringBuilder(database) { Pooling = false }.ConnectionString);
        await connection.OpenAsync();
        return connection;
    }

    private static string Text(IFormattable value) => value.ToString(null, CultureInfo.InvariantCulture);
}
