using Aegis.Server;
using Aegis.Storage;
using Grpc.Core;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>A replica that holds something else than the primary is left out, and accuses nobody.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class StrangeReplicaTests
{
    [Test]
    public async Task A_replica_that_was_promoted_and_written_to_is_left_out_and_is_no_violation()
    {
        await using var setup = await Replication.StartAsync(1);
        await setup.WriteAsync();
        await setup.CaughtUpAsync(setup.Standbys[0]);

        await setup.Standbys[0].PromoteAsync();
        await setup.AreReadAsync(0);
        await using (var other = await TestServer.StartAsync(setup.Standbys[0].ConnectionString))
            await Given.WorkflowAsync(other);
        for (var i = 0; i < 3; i++)
            await setup.WriteAsync();
        await Task.Delay(2500);

        Assert.That(setup.IsRead(setup.Standbys[0]), Is.False);
        await AssertInOrderAsync(setup);
    }

    [Test]
    public async Task A_standby_of_one_that_was_promoted_and_written_to_is_left_out()
    {
        await using var setup = await Replication.StartAsync(0);
        await setup.WriteAsync();
        await using var promoted = await setup.Primary.StartStandbyAsync();
        await promoted.PromoteAsync();
        setup.Add(await promoted.StartStandbyAsync());
        await setup.Server.DisposeAsync();
        await setup.ServeAsync(("AEGIS_READ_LAG_MAX", "1h"));

        await using (var other = await TestServer.StartAsync(promoted.ConnectionString))
            await Given.WorkflowAsync(other);

        await setup.AreReadAsync(0);
        await setup.WriteAsync();
        await setup.WriteAsync();
        await Task.Delay(1500);
        Assert.That(setup.IsRead(setup.Standbys[0]), Is.False, "Neither ahead nor beside.");
        await AssertInOrderAsync(setup);
    }

    [TestCase("VerifyWorkflow")]
    [TestCase("VerifyLog")]
    [TestCase("ListRecords")]
    [TestCase("ExportWorkflows")]
    [TestCase("scrub")]
    public async Task What_is_wrong_at_a_replica_alone_is_answered_by_the_primary_and_is_no_violation(string call)
    {
        await using var setup = await Replication.StartAsync(0);
        var (id, _) = await setup.WriteAsync();
        await using var promoted = await setup.Primary.StartStandbyAsync();
        await promoted.PromoteAsync();
        setup.Add(await promoted.StartStandbyAsync());
        await setup.Server.DisposeAsync();
        // With the heads of the primary, in recovery, and altered all the same, as a damaged disk would be.
        if (call == "scrub")
            await DamageAsync(promoted);
        // Of the scrub every other round is read at a replica.
        await setup.ServeAsync(("AEGIS_READ_LAG_MAX", "1h"), ("AEGIS_SCRUB_PERIOD", call == "scrub" ? "10s" : "7d"));
        if (call != "scrub")
        {
            // The scrub has been here, and comes again in an hour.
            await Until.TrueAsync(async () => await Replication.RunAsync<string>(setup.Primary, "SELECT signed_note FROM audit_position") is not null);
            await DamageAsync(promoted);
        }
        await Until.TrueAsync(async () => await Replication.RunAsync<string>(setup.Standbys[0], "SELECT to_state FROM record WHERE log_index = 1") == "STOLEN");

        switch (call)
        {
            case "VerifyWorkflow":
                var verified = await setup.Server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
                Assert.That((verified.Intact, verified.Violations.Count), Is.EqualTo((true, 0)));
                break;
            case "VerifyLog":
                var (summary, violations) = await ReplicaTests.VerifyLogAsync(setup.Server);
                Assert.That((summary.Intact, violations.Count), Is.EqualTo((true, 0)));
                break;
            case "ListRecords":
                var page = await setup.Server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest());
                Assert.That((page.Records.Single().ToState, page.Violations.Count), Is.EqualTo(("NEW", 0)));
                break;
            case "ExportWorkflows":
                var export = await Exports.ReadAsync(setup.Server, new Pb.ExportWorkflowsRequest());
                Assert.That(Exports.Check(export, SharedKey.Key.VerifierKey(Exports.Parse(export)[0].Manifest.LogId)).IsProven, Is.True);
                break;
        }

        await setup.AreReadAsync(0);
        Assert.That(setup.Of(setup.Standbys[0]).IsDistrusted, Is.True);
        await AssertInOrderAsync(setup);
    }

    [Test]
    public async Task What_is_wrong_everywhere_is_found_at_a_replica_and_told_of_the_primary()
    {
        await using var setup = await Replication.StartAsync(1);
        var (id, _) = await setup.WriteAsync();
        await DamageAsync(setup.Primary);
        await Until.TrueAsync(async () => await Replication.RunAsync<string>(setup.Standbys[0], "SELECT to_state FROM record WHERE log_index = 1") == "STOLEN");

        var (summary, violations) = await ReplicaTests.VerifyLogAsync(setup.Server);
        var verified = await setup.Server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

        using (Assert.EnterMultipleScope())
        {
            Assert.That((summary.Intact, violations.Single().WorkflowId), Is.EqualTo((false, id)));
            Assert.That(verified.Violations.Single().Sequence, Is.EqualTo(1));
            Assert.That(setup.Of(setup.Standbys[0]).IsDistrusted, Is.False);
            await ErrorAssert.RefusedAsync(() => Exports.ReadAsync(setup.Server, new Pb.ExportWorkflowsRequest()), "CHAIN_BROKEN", StatusCode.DataLoss);
        }
    }

    [Test]
    public async Task Another_log_stops_the_start_and_what_is_no_database_is_left_out()
    {
        await using var setup = await Replication.StartAsync(0);
        await using var strange = await TestServer.StartAsync(Database.PostgreSql);
        var error = await Assert.ThrowsAsync<StoreException>(() => TestServer.StartAsync(setup.Primary.ConnectionString,
            KeyValuePair.Create("AEGIS_READ_DATABASE", strange.Connection)));
        await using var alone = await TestServer.StartAsync(setup.Primary.ConnectionString,
            KeyValuePair.Create("AEGIS_READ_DATABASE", $"Host=127.0.0.1:{FreePort.Next()};Username=postgres"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That((error!.Failure, error.Message), Is.EqualTo((StoreFailure.Unusable, error.Message)));
            Assert.That(error.Message, Does.Contain("AEGIS_READ_DATABASE names").And.Contain("holds the log"));
            Assert.That(alone.Services.GetRequiredService<Reads>().Replicas.Single().Head, Is.Null);
            await Until.HealthAsync(alone.Health, "aegis.writes", serving: true);
            Assert.That((await alone.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest())).Workflows, Is.Empty);
        }
    }

    [Test]
    public async Task The_primary_named_among_the_replicas_is_not_read_as_one()
    {
        await using var setup = await Replication.StartAsync(1);
        await using var server = await TestServer.StartAsync(setup.Primary.ConnectionString, KeyValuePair.Create("AEGIS_READ_DATABASE",
            new NpgsqlConnectionStringBuilder(setup.Primary.ConnectionString)
            {
                Host = $"127.0.0.1:{setup.Primary.Port},127.0.0.1:{setup.Standbys[0].Port}",
                TargetSessionAttributes = "prefer-standby",
            }.ToString()));

        var replicas = server.Services.GetRequiredService<Reads>().Replicas;
        await Until.TrueAsync(() => Task.FromResult(replicas[1].Head is not null));
        Assert.That(replicas[0].Head, Is.Null);
    }

    private static Task DamageAsync(PostgresCluster cluster) =>
        Tampering.RunAsync(cluster.ConnectionString, "UPDATE record SET to_state = 'STOLEN' WHERE log_index = 1");

    /// <summary>The primary was never wrong, and nobody says so.</summary>
    private static async Task AssertInOrderAsync(Replication setup)
    {
        var found = await setup.Server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true, IncludeReleased = true });
        Assert.That(found.Violations, Is.Empty);
        Assert.That(setup.Server.Services.GetRequiredService<SignerMemory>().RolledBack, Is.Null);
        await Until.HealthAsync(setup.Server.Health, "aegis.integrity", serving: true);
        await Until.HealthAsync(setup.Server.Health, "aegis.writes", serving: true);
        await setup.WriteAsync();
    }
}
