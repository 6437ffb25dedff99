using System.Diagnostics;
using Aegis.Evidence;
using Aegis.Storage;
using Aegis.Tests;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Npgsql;

namespace Aegis.Benchmarks;

// What is measured by itself, beside nothing.
internal sealed partial class Arena
{
    private const long VerifiedRecords = 200_000;
    private const int Starts = 5;
    private const int MemoryCallers = 256;
    private const int LeasesAtOnce = 1000;

    /// <summary>No turn takes so long: its calls end it.</summary>
    private const double NoLimit = 7 * 24 * 3600;

    private static readonly TimeSpan SampleInterval = TimeSpan.FromMilliseconds(200);

    /// <summary>Where the bytes of the last <see cref="BytesAsync"/> went.</summary>
    public IReadOnlyList<Share> Budget { get; private set; } = [];

    /// <summary>Milliseconds until all pending workflows are resumed, each with a snapshot of 1 KiB and a lease.</summary>
    public Task<Measured> PendingAsync(string name, int workflows) =>
        FilledAsync(name, workflows * 2L, perWorkflow: 2, snapshotBytes: 1024, async server =>
        {
            var recovery = new V1.RecoveryService.RecoveryServiceClient(server.Channel);
            var leases = new List<V1.LeaseReference>(workflows);
            var watch = Stopwatch.StartNew();
            using var call = recovery.ResumePendingWorkflows(new V1.ResumePendingWorkflowsRequest
            {
                Owner = "worker",
                LeaseDuration = Duration.FromTimeSpan(TimeSpan.FromHours(1)),
                // Those of a stream that broke off.
                TakeOverOwn = true,
            });
            while (await call.ResponseStream.MoveNext(CancellationToken.None))
            {
                if (call.ResponseStream.Current.Resumed is { } resumed)
                    leases.Add(new V1.LeaseReference { WorkflowId = resumed.Workflow.WorkflowId, Epoch = resumed.Lease.Epoch });
            }
            var taken = watch.Elapsed.TotalMilliseconds;
            if (leases.Count != workflows)
                throw new InvalidOperationException($"{leases.Count} of {workflows} workflows were resumed.");
            // Given back, to be taken again.
            foreach (var some in leases.Chunk(LeasesAtOnce))
                await recovery.ReleaseLeasesAsync(new V1.ReleaseLeasesRequest { Owner = "worker", Leases = { some } });
            return taken;
        });

    /// <summary>Records a second that VerifyLog checks.</summary>
    public Task<Measured> VerifyAsync() =>
        FilledAsync("verify", VerifiedRecords, perWorkflow: 10, snapshotBytes: 64, async server =>
        {
            var (rate, summary) = await LogOfMany.VerifyAsync(new V1.IntegrityService.IntegrityServiceClient(server.Channel));
            return summary.Intact ? rate : throw new InvalidOperationException($"The log is not intact: {summary}");
        });

    /// <summary>Seconds from the start of a server's process until it answers that it takes writes.</summary>
    public async Task<Measured> StartAsync()
    {
        var database = await DatabaseAsync("start");
        (string, string)[] settings =
        [
            ("AEGIS_SIGNING_KEY", Path.Combine(_directory.Path, "start.pem")),
            ("AEGIS_MEMORY_FILE", Path.Combine(_directory.Path, "start.memory")),
        ];
        await CheckpointAsync();
        var seconds = new List<double>();
        // The first of them makes the tables.
        for (var start = 0; start <= Starts; start++)
        {
            await using var server = await ServerUnderTest.StartOnAsync(await ServerUnderTest.ReleasedAsync(), database, settings);
            seconds.Add(server.Startup.TotalSeconds);
        }
        return new Measured(Median(seconds[1..]));
    }

    /// <summary>The most memory, in MB, that a new server holds while records are written, and how that grows.</summary>
    public async Task<Measured> MemoryAsync()
    {
        var peaks = new List<double>();
        await using (var server = await ServerUnderTest.StartOnAsync(await ServerUnderTest.ReleasedAsync(), await DatabaseAsync("memory")))
        {
            for (var tenth = 1; tenth <= 10; tenth++)
            {
                var load = _callers.RunAsync(Counted(server, MemoryCallers));
                var peak = 0L;
                do
                {
                    peak = Math.Max(peak, ProcessUse.ResidentBytes(server.Pid));
                }
                while (await Task.WhenAny(load, Task.Delay(SampleInterval)) != load);
                await load;
                peaks.Add(peak / 1e6);
            }
        }
        await DropAsync("memory");
        return new Measured(peaks.Max(), Growth: peaks[^1] / peaks[0]);
    }

    /// <summary>Bytes that the database takes on disk for a transition, once it has come to rest.</summary>
    public async Task<Measured> BytesAsync()
    {
        var database = await DatabaseAsync("bytes");
        long before;
        await using (var server = await ServerUnderTest.StartOnAsync(await ServerUnderTest.ReleasedAsync(), database))
        {
            before = await SettledBytesAsync(database);
            await _callers.RunAsync(Counted(server, 64));
        }
        var bytes = await SettledBytesAsync(database) - before;
        var transitions = await AskAsync<long>(database, "SELECT count(*) FROM record WHERE kind = 2");
        Budget = await BudgetAsync(database, transitions);
        await DropAsync("bytes");
        return new Measured((double)bytes / transitions);
    }

    /// <summary>A tenth of the records.</summary>
    private LoadOrder Counted(ServerUnderTest server, int callers) =>
        new([server.Address], Work.Transition, callers, Warm: 0, NoLimit, Calls: _records / 10);

    private static async Task<long> SettledBytesAsync(string database)
    {
        await ExecuteAsync(database, "VACUUM");
        await ExecuteAsync(database, "CHECKPOINT");
        return await AskAsync<long>(database, "SELECT pg_database_size(current_database())");
    }

    private static async Task<List<Share>> BudgetAsync(string database, long transitions)
    {
        var shares = await SharesAsync(database,
            """
            SELECT CASE relkind WHEN 'r' THEN 'table' ELSE 'index' END, relname::text, pg_table_size(oid)::float8
            FROM pg_class
            WHERE relnamespace = current_schema()::regnamespace
              AND relkind IN ('r', 'i')
            ORDER BY relkind DESC, 3 DESC
            """);
        shares = [.. shares.Select(s => s with { Bytes = s.Bytes / transitions }).Where(s => s.Bytes >= 1)];
        var columns = await AskAsync<string[]>(database,
            """
            SELECT array_agg(attname::text ORDER BY attnum)
            FROM pg_attribute
            WHERE attrelid = 'record'::regclass
              AND attnum > 0
              AND NOT attisdropped
            """);
        foreach (var column in columns)
        {
            shares.AddRange(await SharesAsync(database,
                $"SELECT 'column', '{column}', avg(coalesce(pg_column_size({column}), 0))::float8 FROM record WHERE kind = 2"));
        }
        return shares;
    }

    private static async Task<List<Share>> SharesAsync(string database, string sql)
    {
        await using var connection = await ConnectAsync(database);
        await using var command = new NpgsqlCommand(sql, connection) { CommandTimeout = 0 };
        await using var reader = await command.ExecuteReaderAsync();
        var shares = new List<Share>();
        while (await reader.ReadAsync())
            shares.Add(new Share(reader.GetString(0), reader.GetString(1), reader.GetDouble(2)));
        return shares;
    }

    /// <summary>
    /// What a server takes on a log that the store itself filled before the first turn: the median of as many times as fit into
    /// one, once it is warm.
    /// </summary>
    private async Task<Measured> FilledAsync(
        string name, long records, int perWorkflow, int snapshotBytes, Func<ServerUnderTest, Task<double>> measureAsync)
    {
        var isFirst = !_servers.ContainsKey(name);
        if (isFirst)
        {
            var database = await DatabaseAsync(name);
            var keyFile = Path.Combine(_directory.Path, $"{name}.pem");
            using (var key = SigningKey.LoadOrCreate(keyFile, out _))
            {
                await using var store = PostgresLedgerStore.Open(database);
                await FilledLog.WriteAsync(store, key, records, perWorkflow, snapshotBytes);
            }
            await ExecuteAsync(database, "ANALYZE record, workflow, snapshot");
            _servers[name] = await ServerUnderTest.StartOnAsync(await ServerUnderTest.ReleasedAsync(), database, ("AEGIS_SIGNING_KEY", keyFile));
        }
        var server = _servers[name];
        await server.SendAsync(Signal.Continue);
        await RepeatAsync(isFirst ? FirstWarmSeconds : WarmSeconds);
        // Not before all tables have rows: a plan for one that is known to be empty is bad for the full one.
        if (isFirst)
            await ExecuteAsync(await DatabaseAsync(name), "VACUUM ANALYZE");
        await CheckpointAsync();
        var values = await RepeatAsync(_seconds);
        await server.SendAsync(Signal.Stop);
        return new Measured(Median(values));

        async Task<List<double>> RepeatAsync(double seconds)
        {
            var (watch, values, failures) = (Stopwatch.StartNew(), new List<double>(), 0);
            while (values.Count == 0 || watch.Elapsed.TotalSeconds < seconds)
            {
                try
                {
                    values.Add(await measureAsync(server));
                }
                catch (RpcException e) when (e.StatusCode == StatusCode.Unavailable && failures++ < 10)
                {
                    // Somebody stood still for a while, and the others lost patience.
                    await Task.Delay(TimeSpan.FromSeconds(1));
                }
            }
            return values;
        }
    }

    private static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToList();
        return sorted[sorted.Count / 2];
    }
}
