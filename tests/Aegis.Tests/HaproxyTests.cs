using System.Collections.Concurrent;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Behind HAProxy, with the configuration in clients/haproxy.cfg, callers see nothing of a server that comes or goes.</summary>
[Parallelizable(ParallelScope.Self)]
public sealed class HaproxyTests
{
    private const string First = "aegis-1";
    private const string Second = "aegis-2";

    [Test]
    public async Task The_configuration_is_taken_without_a_warning()
    {
        using var process = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo(
            Haproxy.Program(), ["-c", "-f", Repository.PathOf(Haproxy.Configuration)])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        var output = process.StandardOutput.ReadToEndAsync();
        var error = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();

        Assert.That(process.ExitCode, Is.Zero, await error);
        Assert.That(await output + await error, Does.Not.Contain("WARNING").And.Not.Contain("Warnings"));
    }

    [Test]
    public async Task A_server_that_is_drained_takes_no_failed_call_with_it_and_comes_back()
    {
        await using var setup = await Setup.StartAsync();
        await setup.FillAsync();
        using var stop = new CancellationTokenSource();
        var load = new Load(setup.Haproxy);
        var following = load.FollowAsync(stop.Token);
        var running = load.RunAsync(8, stop.Token);

        foreach (var (server, name) in new[] { (setup.First, First), (setup.Second, Second) })
        {
            await load.UntilMoreAsync(50);
            // Some of them on the server that goes.
            var goOn = new TaskCompletionSource();
            var exports = Enumerable.Range(0, 6).Select(_ => setup.Export(goOn.Task)).ToList();
            await Task.WhenAll(exports.Select(export => export.Begun));
            await server.SendAsync(Signal.Terminate);
            await setup.Haproxy.UntilAsync(name, isUp: false);
            var left = await setup.Haproxy.LookAsync("calls", name);
            Assert.That(server.HasExited, Is.False, "It is out of the rotation before it stops.");
            Assert.That(left.Running, Is.Positive, "It has exports to finish.");
            goOn.SetResult();

            Assert.That(await Task.WhenAll(exports.Select(export => export.Bytes)), Is.All.GreaterThan(Setup.LargeBytes));
            Assert.That(await server.ExitCodeAsync(), Is.Zero, server.Output);
            Assert.That((await setup.Haproxy.LookAsync("calls", name)).Calls, Is.EqualTo(left.Calls), "It was given no call any more.");
            await load.UntilMoreAsync(50);
            await server.RestartAsync();
            await setup.Haproxy.UntilAsync(name, isUp: true);
            await Until.TrueAsync(async () => (await setup.Haproxy.LookAsync("writes", name)).Calls > left.Calls);
        }
        await stop.CancelAsync();
        await running;
        await following;

        Assert.That(load.Failures, Is.Empty, setup.Haproxy.Output);
        await load.CheckAsync();
    }

    [Test]
    public async Task A_server_that_is_killed_breaks_no_call_but_those_it_had_and_no_write_is_lost_or_doubled()
    {
        await using var setup = await Setup.StartAsync();
        using var channel = setup.Haproxy.Connect();
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
        await workflows.StartWorkflowAsync(Given.Start("before"));
        var begun = Enumerable.Range(0, 4).Select(_ => new TaskCompletionSource()).ToList();
        var watches = begun.Select(watch => WatchAsync(workflows, watch)).ToList();
        // One without an answer yet is sent again, too.
        await Task.WhenAll(begun.Select(watch => watch.Task));
        Pb.StartWorkflowRequest Numbered(int i) => new(Given.Start($"{i}")) { RequestId = "start" };
        Task<Pb.StartWorkflowResponse>[] calls;
        (int Calls, int Watches) lost;
        await using (await HeldLog.TakeAsync(setup.Database))
        {
            calls = [.. Enumerable.Range(0, 10).Select(async i => await workflows.StartWorkflowAsync(Numbered(i)))];
            await Until.TrueAsync(async () => await setup.RunningAsync("writes") is var (first, second) && first + second == calls.Length);
            await Until.TrueAsync(async () => await setup.RunningAsync("calls") is var (first, second) && first + second == watches.Count);
            lost = ((await setup.RunningAsync("writes")).First, (await setup.RunningAsync("calls")).First);
            await setup.First.KillAsync();

            // While HAProxy still takes it for well, what cannot be sent to it is sent to the other.
            await Task.WhenAll(Enumerable.Range(0, 50).Select(async _ =>
                await workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = "before" })));
            // What it had has failed, or is sent again, which HAProxy's REFUSED_STREAM makes clients do by themselves.
            await Until.TrueAsync(async () => (await setup.RunningAsync("writes")).First == 0);
        }
        await Task.WhenAll(calls.Select(call => ((Task)call).ContinueWith(_ => { }, TaskScheduler.Default)));
        var failures = calls.Where(call => call.IsFaulted).Select(call => ((RpcException)call.Exception!.InnerException!).StatusCode).ToList();
        await Until.TrueAsync(() => Task.FromResult(watches.Count(watch => watch.IsCompleted) >= lost.Watches));
        await setup.Haproxy.UntilAsync(First, isUp: false);
        var again = await Task.WhenAll(Enumerable.Range(0, 10).Select(async i => await workflows.StartWorkflowAsync(Numbered(i))));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(lost.Calls, Is.InRange(1, calls.Length - 1));
            Assert.That(lost.Watches, Is.InRange(1, watches.Count - 1));
            Assert.That(failures, Is.All.EqualTo(StatusCode.Unavailable));
            Assert.That(failures, Has.Count.LessThanOrEqualTo(lost.Calls));
            Assert.That(again.Select(a => a.Record.Sequence), Is.All.EqualTo(1));
            Assert.That(again.Where((_, i) => calls[i].IsCompletedSuccessfully).Select(a => a.Replayed), Is.All.True);
            // Cut off, a stream has no status: clients tell so in various codes, and none takes it for an end.
            Assert.That(watches.Where(watch => watch.IsCompletedSuccessfully), Is.Empty);
            Assert.That(watches.Count(watch => watch.IsFaulted), Is.EqualTo(lost.Watches));
        }
        TestContext.Progress.WriteLine($"streams that were cut off: {string.Join(", ",
            watches.Where(watch => watch.IsFaulted).Select(watch => ((RpcException)watch.Exception!.InnerException!).Status))}");
    }

    [Test]
    public async Task Under_load_a_killed_server_fails_at_most_one_call_of_each_caller()
    {
        await using var setup = await Setup.StartAsync();
        using var stop = new CancellationTokenSource();
        var load = new Load(setup.Haproxy);
        var running = load.RunAsync(16, stop.Token);
        await load.UntilMoreAsync(100);

        await setup.First.KillAsync();
        await setup.Haproxy.UntilAsync(First, isUp: false);
        await load.UntilMoreAsync(100);
        await stop.CancelAsync();
        await running;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(load.Failures.Select(f => f.Error.StatusCode), Is.All.EqualTo(StatusCode.Unavailable), setup.Haproxy.Output);
            Assert.That(load.Failures.Select(f => f.Caller), Is.Unique);
        }
        await load.CheckAsync();
    }

    [Test]
    public async Task A_server_that_takes_no_writes_gets_none_and_is_read_from()
    {
        Haproxy.Program();
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await ExecuteAsync(cluster, "CREATE ROLE second SUPERUSER LOGIN");
        await using var setup = await Setup.StartAsync(cluster.ConnectionString,
            new NpgsqlConnectionStringBuilder(cluster.ConnectionString) { Username = "second" }.ConnectionString);
        using var channel = setup.Haproxy.Connect();
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
        await ExecuteAsync(cluster, "ALTER ROLE second SET default_transaction_read_only = on");
        await ExecuteAsync(cluster, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'second'");
        await Until.TrueAsync(async () => (await setup.Haproxy.LookAsync("writes", Second)).Status == "DOWN");
        var given = (await setup.Haproxy.LookAsync("writes", Second)).Calls;

        for (var i = 0; i < 20; i++)
        {
            await workflows.StartWorkflowAsync(Given.Start($"{i}"));
            await workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = $"{i}" });
        }
        var (writes, calls) = (await setup.Haproxy.LookAsync("writes", Second), await setup.Haproxy.LookAsync("calls", Second));
        // When nobody takes writes, the reason is told, which HAProxy does not know.
        await setup.First.KillAsync();
        await setup.Haproxy.UntilAsync(First, isUp: false);
        await ErrorAssert.RefusedAsync(async () => await workflows.StartWorkflowAsync(Given.Start("none")),
            "STORE_UNAVAILABLE", StatusCode.Unavailable);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(writes.Check, Is.EqualTo("L7STS"));
            Assert.That(writes.Calls, Is.EqualTo(given));
            Assert.That(calls.Status, Is.EqualTo("UP"));
            Assert.That(calls.Calls, Is.GreaterThanOrEqualTo(10));
        }
    }

    [Test]
    public async Task Health_is_checked_by_HAProxy_and_cannot_be_watched_through_it()
    {
        await using var setup = await Setup.StartAsync();
        using var channel = setup.Haproxy.Connect();
        var health = new Health.HealthClient(channel);

        var codes = new List<StatusCode>();
        for (var i = 0; i < 20; i++)
        {
            using var watch = health.Watch(new HealthCheckRequest());
            try
            {
                await watch.ResponseStream.MoveNext(CancellationToken.None);
            }
            catch (RpcException e)
            {
                codes.Add(e.StatusCode);
            }
        }
        var check = await health.CheckAsync(new HealthCheckRequest());

        Assert.That(codes, Is.EqualTo(Enumerable.Repeat(StatusCode.Unimplemented, 20)));
        Assert.That(check.Status, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.Serving));
    }

    private static async Task WatchAsync(Pb.WorkflowService.WorkflowServiceClient workflows, TaskCompletionSource begun)
    {
        using var watch = workflows.WatchRecords(new Pb.WatchRecordsRequest());
        while (await watch.ResponseStream.MoveNext(CancellationToken.None))
            begun.TrySetResult();
    }

    private static async Task ExecuteAsync(PostgresCluster cluster, string sql)
    {
        await using var connection = new NpgsqlConnection(cluster.ConnectionString);
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(sql, connection);
        await command.ExecuteNonQueryAsync();
    }

    /// <summary>Two servers on one database, and HAProxy in front.</summary>
    private sealed class Setup : IAsyncDisposable
    {
        public const int LargeBytes = 10_000_000;
        private const int LargeSnapshotBytes = 500_000;
        private readonly List<GrpcChannel> _channels = [];
        private bool _ownsDatabase;

        public required string Database { get; init; }

        public required ServerProcess First { get; init; }

        public required ServerProcess Second { get; init; }

        public required Haproxy Haproxy { get; init; }

        public static async Task<Setup> StartAsync()
        {
            Haproxy.Program();
            var database = await PostgresCluster.CreateLedgerDatabaseAsync();
            var setup = await StartAsync(database, database);
            setup._ownsDatabase = true;
            return setup;
        }

        /// <param name="first">The AEGIS_DATABASE of the first server, which the caller drops.</param>
        /// <param name="second">That of the second: the same database.</param>
        public static async Task<Setup> StartAsync(string first, string second)
        {
            // Longer than a busy machine needs to see that a server is drained, and an export to be read.
            (string, string)[] environment = [("AEGIS_DRAIN_SECONDS", "10")];
            var servers = new List<ServerProcess>();
            try
            {
                servers.Add(await ServerProcess.StartAsync(first, environment));
                servers.Add(await ServerProcess.StartAsync(second, environment));
                return new Setup
                {
                    Database = first,
                    First = servers[0],
                    Second = servers[1],
                    Haproxy = await Haproxy.StartAsync(servers[0], servers[1]),
                };
            }
            catch
            {
                foreach (var server in servers)
                    await server.DisposeAsync();
                throw;
            }
        }

        public async Task<(int First, int Second)> RunningAsync(string backend) =>
            ((await Haproxy.LookAsync(backend, HaproxyTests.First)).Running, (await Haproxy.LookAsync(backend, HaproxyTests.Second)).Running);

        /// <summary>Writes what takes some time to export: far more than what fits between server and reader.</summary>
        public Task FillAsync()
        {
            var workflows = new Pb.WorkflowService.WorkflowServiceClient(First.Channel);
            return Task.WhenAll(Enumerable.Range(0, LargeBytes / LargeSnapshotBytes).Select(async i => await workflows.StartWorkflowAsync(
                new Pb.StartWorkflowRequest(Given.Start($"large-{i}"))
                {
                    Namespace = "large",
                    Snapshot = Given.Snapshot(new string('x', LargeSnapshotBytes)),
                })));
        }

        /// <summary>Exports that: begins to read, and reads the rest when told to.</summary>
        public (Task Begun, Task<long> Bytes) Export(Task goOn)
        {
            var channel = Haproxy.Connect();
            _channels.Add(channel);
            var call = new Pb.RecoveryService.RecoveryServiceClient(channel).ExportWorkflows(
                new Pb.ExportWorkflowsRequest { Namespace = "large" });
            return (call.ResponseHeadersAsync, ReadAsync());

            async Task<long> ReadAsync()
            {
                var bytes = 0L;
                await foreach (var message in call.ResponseStream.ReadAllAsync())
                {
                    bytes += message.Chunk.Length;
                    await goOn;
                }
                call.Dispose();
                return bytes;
            }
        }

        public async ValueTask DisposeAsync()
        {
            _channels.ForEach(channel => channel.Dispose());
            await Haproxy.DisposeAsync();
            await Second.DisposeAsync();
            await First.DisposeAsync();
            if (_ownsDatabase)
                await PostgresCluster.DropDatabaseAsync(Database);
        }
    }

    /// <summary>Callers that write and read through HAProxy. None tries again before its failure is noted.</summary>
    private sealed class Load(Haproxy haproxy)
    {
        private readonly ConcurrentDictionary<string, ulong> _acknowledged = [];
        private readonly List<ulong> _followed = [];
        private int _calls;

        public ConcurrentQueue<(int Caller, RpcException Error)> Failures { get; } = [];

        public Task RunAsync(int callers, CancellationToken stop) =>
            Task.WhenAll(Enumerable.Range(0, callers).Select(caller => CallAsync(caller, stop)));

        /// <summary>Waits until so many more calls are answered.</summary>
        public Task UntilMoreAsync(int calls)
        {
            var goal = Volatile.Read(ref _calls) + calls;
            return Until.TrueAsync(() => Task.FromResult(Volatile.Read(ref _calls) >= goal));
        }

        /// <summary>Follows the log, and goes on elsewhere when a server tells that it shuts down.</summary>
        public async Task FollowAsync(CancellationToken stop)
        {
            using var channel = haproxy.Connect();
            var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
            while (!stop.IsCancellationRequested)
            {
                var next = _followed.Count == 0 ? 0 : _followed[^1] + 1;
                using var watch = workflows.WatchRecords(new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = next }, cancellationToken: stop);
                try
                {
                    while (await watch.ResponseStream.MoveNext(CancellationToken.None))
                    {
                        if (watch.ResponseStream.Current.Record is { } record)
                            _followed.Add(record.LogIndex);
                    }
                }
                catch (RpcException e) when (e.StatusCode == StatusCode.Cancelled && stop.IsCancellationRequested)
                {
                    break;
                }
                catch (RpcException e) when (e.GetRpcStatus()?.GetDetail<Google.Rpc.ErrorInfo>()?.Reason == "SHUTTING_DOWN")
                {
                    // As it should be told.
                }
                catch (RpcException e)
                {
                    Failures.Enqueue((-1, e));
                }
            }
        }

        /// <summary>Every acknowledged record is there, none twice, and whoever followed saw all without gap or repeat.</summary>
        public async Task CheckAsync()
        {
            using var channel = haproxy.Connect();
            var integrity = new Pb.IntegrityService.IntegrityServiceClient(channel);
            foreach (var (id, sequence) in _acknowledged)
            {
                var verified = await integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
                Assert.That((verified.Intact, verified.RecordsVerified), Is.EqualTo((true, sequence)), id);
            }
            Assert.That(_followed.Select((index, i) => index == (ulong)i), Has.None.False);
        }

        private async Task CallAsync(int caller, CancellationToken stop)
        {
            using var channel = haproxy.Connect();
            var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
            var id = $"caller-{caller}";
            _acknowledged[id] = (await AnsweredAsync(caller, () => workflows.StartWorkflowAsync(
                new Pb.StartWorkflowRequest(Given.Start(id, "0")) { RequestId = "start" }))).Record.Sequence;
            for (var i = 0; !stop.IsCancellationRequested; i++)
            {
                _acknowledged[id] = (await AnsweredAsync(caller, () => workflows.TransitionWorkflowAsync(
                    new Pb.TransitionWorkflowRequest(Given.Move(id, $"{i}", $"{i + 1}")) { RequestId = $"{i}" }))).Record.Sequence;
                await AnsweredAsync(caller, () => workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id }));
            }
        }

        private async Task<T> AnsweredAsync<T>(int caller, Func<AsyncUnaryCall<T>> call)
        {
            for (var attempt = 1; ; attempt++)
            {
                try
                {
                    var answer = await call();
                    Interlocked.Increment(ref _calls);
                    return answer;
                }
                catch (RpcException e) when (attempt < 5)
                {
                    Failures.Enqueue((caller, e));
                }
            }
        }
    }
}
