using Aegis.Core;
using Aegis.Server;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>What can be read at replicas is read there, and no caller can tell but by the size of the log.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ReplicaTests
{
    [Test]
    public async Task Lists_exports_verification_and_the_scrub_are_read_at_a_replica()
    {
        await using var setup = await Replication.StartAsync(standbys: 1);
        using var reads = new ReadCounter(setup.Standbys[0]);
        var server = setup.Server;
        var (id, size) = await setup.WriteAsync();

        await AtReplicaAsync(async () => Assert.That((await setup.ListAsync(size)).Ids, Is.EqualTo(new[] { id })));
        await AtReplicaAsync(async () => Assert.That(
            (await server.Workflows.CountWorkflowsAsync(new Pb.CountWorkflowsRequest { MinLogSize = size })).Counts.Single().Count, Is.EqualTo(1)));
        await AtReplicaAsync(async () => Assert.That(
            (await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { MinLogSize = size })).Records, Has.Count.EqualTo(1)));
        await AtReplicaAsync(async () =>
        {
            var verified = await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
            Assert.That((verified.Intact, verified.RecordsVerified, verified.Statement.Length > 0), Is.EqualTo((true, 1UL, true)));
        });
        await AtReplicaAsync(async () => Assert.That((await VerifyLogAsync(server)).Summary.Intact, Is.True));
        await AtReplicaAsync(async () =>
        {
            var export = await Exports.ReadAsync(server, new Pb.ExportWorkflowsRequest());
            var report = Exports.Check(export, SharedKey.Key.VerifierKey(Exports.Parse(export)[0].Manifest.LogId));
            Assert.That((report.IsProven, report.Records), Is.EqualTo((true, 1L)));
        });
        await using var audited = await TestServer.StartAsync(setup.Primary.ConnectionString, new Dictionary<string, string>
        {
            ["AEGIS_READ_DATABASE"] = setup.ReadDatabase,
            ["AEGIS_SCRUB_PERIOD"] = "1s",
        });
        await AtReplicaAsync(() => Task.CompletedTask);
        var feature = (await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).Features;
        Assert.That(feature, Is.EqualTo(new[] { "read-replicas" }));

        async Task AtReplicaAsync(Func<Task> call)
        {
            var before = reads.Count;
            await call();
            await Until.TrueAsync(() => Task.FromResult(reads.Count > before));
        }
    }

    [Test]
    public async Task Who_says_what_they_have_seen_reads_it_also_while_replicas_are_behind()
    {
        await using var setup = await Replication.StartAsync(2, ("AEGIS_READ_LAG_MAX", "1h"));
        using var reads = new ReadCounter(setup.Standbys[1]);
        var missed = 0;
        for (var i = 0; i < 40; i++)
        {
            if (i == 20)
                await Replication.PauseAsync(setup.Standbys[0]);
            var (id, size) = await setup.WriteAsync();
            var (ids, listed) = await setup.ListAsync(size);
            missed += ids.Contains(id) && listed >= size ? 0 : 1;
        }
        await Replication.PauseAsync(setup.Standbys[1]);
        var (late, needed) = await setup.WriteAsync();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(missed, Is.Zero);
            Assert.That(reads.Count, Is.GreaterThan(20), "Who has to see what they wrote needs the primary only where no replica has it.");
            Assert.That((await setup.ListAsync(needed)).Ids, Does.Contain(late));
            Assert.That((await setup.ListAsync()).Ids, Does.Not.Contain(late), "It was not asked for.");
            Assert.That((await setup.Server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = late })).Intact, Is.True);
            await ErrorAssert.RefusedAsync(() => setup.ListAsync(needed + 100), "CURSOR_AHEAD_OF_LOG", StatusCode.OutOfRange);
        }
    }

    [Test]
    public async Task A_listing_goes_on_where_there_is_no_less_than_where_it_began()
    {
        await using var setup = await Replication.StartAsync(2, ("AEGIS_READ_LAG_MAX", "1h"));
        for (var i = 0; i < 5; i++)
            await setup.WriteAsync();
        await setup.CaughtUpAsync(setup.Standbys[0]);
        await Replication.PauseAsync(setup.Standbys[0]);
        for (var i = 0; i < 15; i++)
            await setup.WriteAsync();
        await setup.CaughtUpAsync(setup.Standbys[1]);
        await Until.TrueAsync(() => Task.FromResult(setup.Of(setup.Standbys[1]).Head!.Size == 21));

        // Of a server that reads at one place only, and says nothing of where.
        await using var plain = await TestServer.StartAsync(setup.Primary.ConnectionString);
        var first = await plain.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { PageSize = 18 });
        var next = await setup.Server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { PageToken = first.NextPageToken });
        Assert.That(next.Workflows, Has.Count.EqualTo(2));

        for (var i = 0; i < 6; i++)
        {
            var (ids, size) = await setup.ListAsync(pageSize: 3);
            // The log's own first record is of another namespace.
            Assert.That(ids, Has.Count.GreaterThanOrEqualTo((int)size - 1).And.Unique);
        }
    }

    [Test]
    public async Task A_replica_that_is_behind_is_left_out_until_it_has_caught_up()
    {
        await using var setup = await Replication.StartAsync(1, ("AEGIS_READ_LAG_MAX", "1s"));
        await Replication.PauseAsync(setup.Standbys[0]);
        var (id, _) = await setup.WriteAsync();

        await setup.AreReadAsync(0);
        Assert.That((await setup.ListAsync()).Ids, Does.Contain(id), "The primary serves.");
        await Until.TrueAsync(() => Task.FromResult(setup.Of(setup.Standbys[0]).LagSeconds > 2));
        await Until.HealthAsync(setup.Server.Health, "aegis.integrity", serving: true);
        await Replication.GoOnAsync(setup.Standbys[0]);
        await setup.AreReadAsync(1);

        Assert.That(setup.Of(setup.Standbys[0]).LagSeconds, Is.LessThan(1));
    }

    [Test]
    public async Task A_replica_that_dies_fails_no_call_and_is_read_again_when_it_is_back()
    {
        await using var setup = await Replication.StartAsync(2);
        var (id, _) = await setup.WriteAsync();
        using var stop = new CancellationTokenSource();
        var listed = 0;
        var listing = Task.WhenAll(Enumerable.Range(0, 4).Select(async _ =>
        {
            for (; !stop.IsCancellationRequested; listed++)
                Assert.That((await setup.ListAsync()).Ids, Does.Contain(id));
        }));
        await setup.CaughtUpAsync(setup.Standbys[1]);
        await Until.TrueAsync(() => Task.FromResult(listed > 20));

        await setup.Standbys[0].KillPostmasterAsync();
        await setup.AreReadAsync(1);
        await setup.Standbys[1].KillPostmasterAsync();
        await setup.AreReadAsync(0);
        await Until.HealthAsync(setup.Server.Health, "aegis.writes", serving: true);
        var before = listed;
        await Until.TrueAsync(() => Task.FromResult(listed > before + 20));
        await setup.Standbys[0].RestartAsync();
        await setup.Standbys[1].RestartAsync();
        await setup.AreReadAsync(2);
        await stop.CancelAsync();

        Assert.That(async () => await listing, Throws.Nothing);
    }

    [Test]
    public async Task An_export_goes_on_at_the_primary_when_its_replica_dies_in_the_middle()
    {
        await using var setup = await Replication.StartAsync(1);
        var random = new Random(1);
        // More than lies in the buffers between server and caller, and nothing that can be compressed.
        for (var i = 0; i < 40; i++)
        {
            var start = Given.Start($"large {i}");
            var content = new byte[256 * 1024];
            random.NextBytes(content);
            start.Snapshot = new Pb.Snapshot { Content = ByteString.CopyFrom(content) };
            await setup.Server.Workflows.StartWorkflowAsync(start);
        }
        using var reads = new ReadCounter(setup.Standbys[0]);
        using var call = setup.Server.Recovery.ExportWorkflows(new Pb.ExportWorkflowsRequest());
        using var export = new MemoryStream();
        await call.ResponseStream.MoveNext(CancellationToken.None);
        export.Write(call.ResponseStream.Current.Chunk.Span);
        await setup.Standbys[0].KillPostmasterAsync();
        await foreach (var message in call.ResponseStream.ReadAllAsync())
            export.Write(message.Chunk.Span);

        var bytes = export.ToArray();
        var report = Exports.Check(bytes, SharedKey.Key.VerifierKey(Exports.Parse(bytes)[0].Manifest.LogId));
        Assert.That((report.IsProven, report.Records, report.Snapshots, reads.Count), Is.EqualTo((true, 40L, 40L, 1L)));
    }

    [Test]
    public async Task What_the_standby_ends_for_its_own_sake_is_read_at_the_primary()
    {
        await using var setup = await Replication.StartAsync(1);
        await setup.Standbys[0].SetAsync("max_standby_streaming_delay", "0");
        var (id, _) = await setup.WriteAsync();
        using var stop = new CancellationTokenSource();
        var locking = Task.Run(async () =>
        {
            // An exclusive lock goes to the standby too, and ends there whatever reads the table.
            while (!stop.IsCancellationRequested)
                await Replication.RunAsync<object>(setup.Primary, "BEGIN; LOCK TABLE record, workflow; COMMIT");
        });
        var conflicts = 0L;
        for (var until = DateTime.UtcNow.AddSeconds(40); conflicts == 0 && DateTime.UtcNow < until;)
        {
            await Task.WhenAll(Enumerable.Range(0, 8).Select(async i =>
            {
                if (i % 2 == 0)
                    Assert.That((await VerifyLogAsync(setup.Server)).Summary.Intact, Is.True);
                else
                    await setup.ListAsync();
            }));
            conflicts = await Replication.RunAsync<long>(setup.Standbys[0], "SELECT confl_lock FROM pg_stat_database_conflicts WHERE datname = 'postgres'");
        }
        await stop.CancelAsync();
        await locking;

        Assert.That(conflicts, Is.Positive, "There was something to go on from.");
        Assert.That(setup.IsRead(setup.Standbys[0]), Is.True, "It is as good as before.");
        Assert.That((await setup.Server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id })).Intact, Is.True);
    }

    [Test]
    public async Task Lists_are_served_while_the_primary_is_away()
    {
        await using var setup = await Replication.StartAsync(1);
        var (id, _) = await setup.WriteAsync();
        await setup.CaughtUpAsync(setup.Standbys[0]);
        await Until.TrueAsync(async () => (await setup.ListAsync()).Ids.Contains(id));

        await setup.Primary.KillPostmasterAsync();
        await Until.HealthAsync(setup.Server.Health, "", serving: false);

        Assert.That((await setup.ListAsync()).Ids, Does.Contain(id));
    }

    internal static async Task<(Pb.VerifyLogSummary Summary, List<Pb.Violation> Violations)> VerifyLogAsync(TestServer server)
    {
        using var call = server.Integrity.VerifyLog(new Pb.VerifyLogRequest());
        var (summary, violations) = (new Pb.VerifyLogSummary(), new List<Pb.Violation>());
        await foreach (var message in call.ResponseStream.ReadAllAsync())
        {
            summary = message.Summary ?? summary;
            if (message.Violation is { } violation)
                violations.Add(violation);
        }
        return (summary, violations);
    }
}
