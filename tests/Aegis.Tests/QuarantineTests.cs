using Grpc.Core;
using Grpc.Health.V1;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// A violation closes its workflow to writes and to reads that do not ask for it, whoever found it, until an operator acts;
/// everything else goes on.
/// </summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class QuarantineTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task Writes_leases_forks_and_imports_are_refused()
    {
        var id = await QuarantinedAsync();

        await QuarantinedCallAsync(() => _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "SHIPPED", "DONE")).ResponseAsync);
        await QuarantinedCallAsync(() => _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = id,
            ExpectedSequence = 3,
            Snapshot = Given.Snapshot("x"),
        }).ResponseAsync);
        await QuarantinedCallAsync(() => _server.Recovery.ResumeWorkflowAsync(
            new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "w" }).ResponseAsync);
        await ErrorAssert.RefusedAsync(() => _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest
        {
            WorkflowId = $"{id}-fork",
            WorkflowType = "order",
            ForkedFrom = new Pb.ForkPoint { WorkflowId = id, Sequence = 2 },
        }).ResponseAsync, "CHAIN_BROKEN", StatusCode.DataLoss);
    }

    [Test]
    public async Task A_request_that_was_recorded_before_is_answered_still()
    {
        var id = await QuarantinedAsync();

        var again = await _server.Workflows.TransitionWorkflowAsync(Chain.Pay(id));

        Assert.That((again.Replayed, again.Record.Sequence), Is.EqualTo((true, 2UL)));
    }

    [Test]
    public async Task Reads_are_data_loss_with_the_facts_unless_quarantine_is_allowed()
    {
        var id = await QuarantinedAsync();

        var info = await BrokenAsync(() => _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id }).ResponseAsync);
        await BrokenAsync(() => _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = id }).ResponseAsync);
        await BrokenAsync(() => _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id }).ResponseAsync);
        await BrokenAsync(() => _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id }).ResponseAsync);
        await BrokenAsync(() => ExportAsync(new Pb.ExportWorkflowsRequest { WorkflowId = id }));
        var found = (await ListAsync(_server, id)).Single();
        var workflow = (await _server.Workflows.GetWorkflowAsync(
            new Pb.GetWorkflowRequest { WorkflowId = id, AllowQuarantined = true })).Workflow;
        var records = await _server.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { WorkflowId = id, AllowQuarantined = true });
        var checkpoint = await _server.Workflows.GetCheckpointAsync(
            new Pb.GetCheckpointRequest { WorkflowId = id, AllowQuarantined = true });
        var resumed = await _server.Recovery.ResumeWorkflowAsync(
            new Pb.ResumeWorkflowRequest { WorkflowId = id, AllowQuarantined = true });
        var exported = await ExportAsync(new Pb.ExportWorkflowsRequest { WorkflowId = id, AllowQuarantined = true });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(info.Metadata["class"], Is.EqualTo("FIELD_MODIFIED"));
            Assert.That(info.Metadata["sequence"], Is.EqualTo("3"));
            Assert.That(info.Metadata["violation_id"], Is.EqualTo(found.ViolationId));
            Assert.That(info.Metadata["workflow_id"], Is.EqualTo(id));
            Assert.That(workflow.Quarantined, Is.True);
            Assert.That(records.Records.Select(r => r.ToState), Is.EqualTo(new[] { "NEW", "PAID", "STOLEN" }));
            Assert.That(records.Violations.Select(v => v.ViolationId), Is.EqualTo(new[] { found.ViolationId }));
            Assert.That(checkpoint.Snapshot.Content.ToStringUtf8(), Is.EqualTo("state"));
            Assert.That(resumed.RecordsSince.Single().ToState, Is.EqualTo("STOLEN"));
            Assert.That(exported, Is.GreaterThan(0));
        }
    }

    [Test]
    public async Task Where_only_a_snapshot_is_concerned_the_reason_says_so()
    {
        var id = await Chain.RecordAsync(_server);
        await Tampering.RunAsync(_server, "DELETE FROM snapshot WHERE workflow_id = @id", new { id });
        await VerifyAsync(_server, id);

        await ErrorAssert.RefusedAsync(
            () => _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id }).ResponseAsync,
            "SNAPSHOT_CORRUPT", StatusCode.DataLoss);
        var checkpoint = await _server.Workflows.GetCheckpointAsync(
            new Pb.GetCheckpointRequest { WorkflowId = id, AllowQuarantined = true });

        Assert.That((checkpoint.Record.Sequence, checkpoint.Snapshot), Is.EqualTo((2UL, (Pb.Snapshot?)null)));
    }

    [Test]
    public async Task Lists_and_watches_go_on_and_tell_of_it()
    {
        await using var server = await TestServer.StartAsync(database);
        var whole = await Chain.RecordAsync(server);
        var id = await QuarantinedAsync(server);

        var listed = (await server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest())).Workflows;
        var records = await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest());
        using var watch = server.Workflows.WatchRecords(new Pb.WatchRecordsRequest { FromLogIndex = 0 });
        var watched = new List<Pb.WatchRecordsResponse>();
        while (watched.Count < 6 && await watch.ResponseStream.MoveNext(CancellationToken.None))
        {
            if (watch.ResponseStream.Current.Record is not null)
                watched.Add(watch.ResponseStream.Current);
        }

        using (Assert.EnterMultipleScope())
        {
            Assert.That(listed.Select(w => (w.WorkflowId, w.Quarantined)), Is.EqualTo(new[] { (whole, false), (id, true) }));
            Assert.That(records.Records, Has.Count.EqualTo(6));
            Assert.That(records.Violations.Select(v => (v.WorkflowId, v.Sequence)), Is.EqualTo(new[] { (id, 3UL) }));
            Assert.That(watched.Select(w => w.Violations.Count), Is.EqualTo(new[] { 0, 0, 0, 0, 0, 1 }));
            Assert.That((await server.Workflows.CountWorkflowsAsync(new Pb.CountWorkflowsRequest())).Counts.Sum(c => (long)c.Count),
                Is.EqualTo(2));
        }
    }

    [Test]
    public async Task Pending_workflows_that_are_quarantined_are_reported_as_failed_and_leases_as_lost()
    {
        await using var server = await TestServer.StartAsync(database);
        var whole = await Chain.RecordAsync(server);
        var id = await Chain.RecordAsync(server);
        var lease = (await server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "w" })).Lease;
        await StealAsync(server, id);

        var renewed = await server.Recovery.RenewLeasesAsync(new Pb.RenewLeasesRequest
        {
            Owner = "w",
            Leases = { new Pb.LeaseReference { WorkflowId = id, Epoch = lease.Epoch } },
        });
        await server.Recovery.ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest
        {
            Owner = "w",
            Leases = { new Pb.LeaseReference { WorkflowId = id, Epoch = lease.Epoch } },
        });
        using var call = server.Recovery.ResumePendingWorkflows(new Pb.ResumePendingWorkflowsRequest { Owner = "v" });
        var messages = new List<Pb.ResumePendingWorkflowsResponse>();
        await foreach (var message in call.ResponseStream.ReadAllAsync())
            messages.Add(message);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(renewed.Results.Single().Lost?.Reason, Is.EqualTo("WORKFLOW_QUARANTINED"));
            Assert.That(messages.Single(m => m.Failed is not null).Failed.WorkflowId, Is.EqualTo(id));
            Assert.That(messages.Single(m => m.Failed is not null).Failed.Reason, Is.EqualTo("WORKFLOW_QUARANTINED"));
            Assert.That(messages.Single(m => m.Resumed is not null).Resumed.Workflow.WorkflowId, Is.EqualTo(whole));
            Assert.That(messages[^1].Summary, Is.EqualTo(new Pb.ResumeSummary { Resumed = 1, Failed = 1 }));
            Assert.That((await server.Workflows.GetWorkflowAsync(
                new Pb.GetWorkflowRequest { WorkflowId = id, AllowQuarantined = true })).Workflow.Lease, Is.Null);
        }
    }

    [Test]
    public async Task Others_go_on_writing_meanwhile()
    {
        var id = await Chain.RecordAsync(_server);
        var others = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => Given.WorkflowAsync(_server)));
        using var stop = new CancellationTokenSource();
        var writing = others.Select(async other =>
        {
            for (var i = 0; i < 40; i++)
                await _server.Workflows.TransitionWorkflowAsync(Given.Move(other, i == 0 ? "NEW" : $"S{i}", $"S{i + 1}"));
        }).ToList();

        await StealAsync(_server, id);
        await ReleaseAsync(_server, id);
        await Task.WhenAll(writing);

        foreach (var other in others)
            Assert.That((await VerifyAsync(_server, other)).Intact, Is.True);
    }

    [Test]
    public async Task It_is_told_once_in_the_logs_own_history_and_survives_a_restart()
    {
        using var directory = new TemporaryDirectory("aegis");
        var connection = database == Database.Sqlite
            ? $"sqlite:{Path.Combine(directory.Path, "aegis.db")}"
            : await PostgresCluster.CreateLedgerDatabaseAsync();
        string id;
        IReadOnlyList<Pb.Violation> found;
        await using (var server = await TestServer.StartAsync(connection))
        {
            id = await QuarantinedAsync(server);
            await Tampering.RunAsync(server, "UPDATE workflow SET state = 'X' WHERE workflow_id = @id", new { id });
            await VerifyAsync(server, id);
            await Until.TrueAsync(async () => (await ActsAsync(server, "QUARANTINED")).Count > 0);
            found = await ListAsync(server, id);
        }

        await using var restarted = await TestServer.StartAsync(connection);
        var health = await restarted.Health.CheckAsync(new HealthCheckRequest { Service = "aegis.integrity" });
        await VerifyAsync(restarted, id);
        await Task.Delay(1500);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(health.Status, Is.EqualTo(ServingStatus.NotServing));
            Assert.That(await ListAsync(restarted, id), Is.EqualTo(found));
            Assert.That(found, Has.Count.EqualTo(2));
            var act = (await ActsAsync(restarted, "QUARANTINED")).Single();
            Assert.That(act.Metadata["workflow_id"], Is.EqualTo(id));
            Assert.That(act.Metadata["class"], Is.EqualTo("FIELD_MODIFIED"));
            await QuarantinedCallAsync(() => restarted.Workflows.TransitionWorkflowAsync(Given.Move(id, "X", "Y")).ResponseAsync);
        }
    }

    [Test]
    public async Task What_is_released_is_not_opened_again_while_it_stays_and_another_edit_is()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await QuarantinedAsync(server);

        var released = await ReleaseAsync(server, id);
        var act = (await ActsAsync(server, "RELEASED")).Single();
        var verified = await VerifyAsync(server, id);
        await Task.Delay(200);
        var still = await ListAsync(server, id);
        var all = await ListAsync(server, id, includeReleased: true);
        var health = await server.Health.CheckAsync(new HealthCheckRequest { Service = "aegis.integrity" });
        await Tampering.RunAsync(server, "UPDATE record SET to_state = 'AGAIN' WHERE workflow_id = @id AND sequence = 3", new { id });
        await VerifyAsync(server, id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(released.Released, Is.EqualTo(1));
            Assert.That(released.Record, Is.EqualTo(act));
            Assert.That((act.Actor, act.Reason, act.Metadata["workflow_id"], act.Metadata["count"]),
                Is.EqualTo(("op", "looked into", id, "1")));
            Assert.That(still, Is.Empty);
            Assert.That(all.Select(v => v.Released), Is.EqualTo(new[] { true }));
            Assert.That(verified.Violations, Is.EqualTo(all), "Who verifies is told what is known of it.");
            Assert.That(health.Status, Is.EqualTo(ServingStatus.Serving));
            Assert.That((await ListAsync(server, id)).Single().ViolationId, Is.Not.EqualTo(all[0].ViolationId));
        }
    }

    [Test]
    public async Task Nothing_to_release_is_not_found()
    {
        var id = await Given.WorkflowAsync(_server);

        await ErrorAssert.RefusedAsync(() => ReleaseAsync(_server, id), "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
        await ErrorAssert.RefusedAsync(() => _server.Integrity.ReleaseQuarantineAsync(new Pb.ReleaseQuarantineRequest
        {
            ViolationIds = { "00" },
            Actor = "op",
            Reason = "why",
        }).ResponseAsync, "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
    }

    [Test]
    public async Task Single_violations_are_released_by_their_ids()
    {
        var id = await QuarantinedAsync();
        await Tampering.RunAsync(_server, "UPDATE workflow SET state = 'X' WHERE workflow_id = @id", new { id });
        await VerifyAsync(_server, id);
        var found = await ListAsync(_server, id);

        var released = await _server.Integrity.ReleaseQuarantineAsync(new Pb.ReleaseQuarantineRequest
        {
            ViolationIds = { found[1].ViolationId },
            Actor = "op",
            Reason = "why",
        });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(released.Released, Is.EqualTo(1));
            Assert.That((await ListAsync(_server, id)).Select(v => v.ViolationId), Is.EqualTo(new[] { found[0].ViolationId }));
        }
    }

    [Test]
    public async Task Personal_data_does_not_reach_what_is_told_of_it()
    {
        var id = await Chain.RecordAsync(_server);
        await Tampering.RunAsync(_server,
            "UPDATE record SET actor = 'mallory', reason = 'secret' WHERE workflow_id = @id AND sequence = 2", new { id });
        var metadata = database == Database.PostgreSql ? "'{\"k\": \"private\"}'::jsonb" : "'{\"k\": \"private\"}'";
        await Tampering.RunAsync(_server, $"UPDATE workflow SET metadata = {metadata} WHERE workflow_id = @id", new { id });

        var verified = await VerifyAsync(_server, id);
        var told = verified + string.Concat(await ListAsync(_server, id));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(verified.Violations.SelectMany(v => v.Differences).Select(d => d.Field),
                Is.EqualTo(new[] { "person", "content", "metadata" }));
            foreach (var secret in new[] { "mallory", "alice", "secret", "private" })
            {
                Assert.That(told, Does.Not.Contain(secret));
                Assert.That(await Tampering.CountAsync(_server,
                    "SELECT count(*) FROM violation WHERE message LIKE @secret OR CAST(differences AS text) LIKE @secret",
                    new { secret = $"%{secret}%" }), Is.Zero);
            }
        }
    }

    [Test]
    public async Task Violations_are_listed_newest_first_in_pages()
    {
        await using var server = await TestServer.StartAsync(database);
        var ids = new List<string>();
        for (var i = 0; i < 5; i++)
            ids.Add(await QuarantinedAsync(server));

        var request = new Pb.ListViolationsRequest { PageSize = 2 };
        var seen = new List<string>();
        do
        {
            var page = await server.Integrity.ListViolationsAsync(request);
            seen.AddRange(page.Violations.Select(v => v.WorkflowId));
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
        var all = await server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true });
        var other = await server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { Namespace = "other" });

        ids.Reverse();
        Assert.That((seen, all.Violations.Count, other.Violations.Count), Is.EqualTo((ids, 5, 0)));
    }

    [Test]
    public async Task Another_server_knows_within_two_seconds()
    {
        if (database == Database.Sqlite)
            Assert.Pass("A SQLite file serves one server.");
        await using var first = await TestServer.StartAsync(database);
        await using var second = await TestServer.StartAsync(first.Connection);
        var id = await QuarantinedAsync(first);
        await Task.Delay(2000);

        var health = await second.Health.CheckAsync(new HealthCheckRequest { Service = "aegis.integrity" });
        await QuarantinedCallAsync(() => second.Workflows.TransitionWorkflowAsync(Given.Move(id, "SHIPPED", "X")).ResponseAsync);
        await ReleaseAsync(second, id);
        await Until.HealthAsync(first.Health, "aegis.integrity", serving: true);

        Assert.That(health.Status, Is.EqualTo(ServingStatus.NotServing));
        Assert.That(await ActsAsync(first, "QUARANTINED"), Has.Count.EqualTo(1));
    }

    private Task<string> QuarantinedAsync() => QuarantinedAsync(_server);

    private static async Task<string> QuarantinedAsync(TestServer server)
    {
        var id = await Chain.RecordAsync(server);
        await StealAsync(server, id);
        return id;
    }

    private static async Task StealAsync(TestServer server, string id)
    {
        await Tampering.RunAsync(server, "UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = @id AND sequence = 3", new { id });
        Assert.That((await VerifyAsync(server, id)).Intact, Is.False);
    }

    private static async Task<Pb.VerifyWorkflowResponse> VerifyAsync(TestServer server, string id) =>
        await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

    private static async Task<Pb.ReleaseQuarantineResponse> ReleaseAsync(TestServer server, string id) =>
        await server.Integrity.ReleaseQuarantineAsync(
            new Pb.ReleaseQuarantineRequest { WorkflowId = id, Actor = "op", Reason = "looked into" });

    private static async Task<IReadOnlyList<Pb.Violation>> ListAsync(TestServer server, string id, bool includeReleased = false) =>
        (await server.Integrity.ListViolationsAsync(
            new Pb.ListViolationsRequest { WorkflowId = id, IncludeReleased = includeReleased })).Violations;

    private static async Task<IReadOnlyList<Pb.Record>> ActsAsync(TestServer server, string act) =>
        [.. (await server.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log" })).Records.Where(r => r.ToState == act)];

    private async Task<int> ExportAsync(Pb.ExportWorkflowsRequest request)
    {
        using var call = _server.Recovery.ExportWorkflows(request);
        var bytes = 0;
        await foreach (var part in call.ResponseStream.ReadAllAsync())
            bytes += part.Chunk.Length;
        return bytes;
    }

    private static Task<Google.Rpc.ErrorInfo> BrokenAsync(Func<Task> call) =>
        ErrorAssert.RefusedAsync(call, "CHAIN_BROKEN", StatusCode.DataLoss);

    private static Task<Google.Rpc.ErrorInfo> QuarantinedCallAsync(Func<Task> call) =>
        ErrorAssert.RefusedAsync(call, "WORKFLOW_QUARANTINED", StatusCode.FailedPrecondition);
}

/// <summary>A chain of three records that tests alter: NEW, PAID with a snapshot and personal data, SHIPPED.</summary>
internal static class Chain
{
    public static async Task<string> RecordAsync(TestServer server)
    {
        var id = await Given.WorkflowAsync(server);
        await server.Workflows.TransitionWorkflowAsync(Pay(id));
        await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "PAID", "SHIPPED"));
        return id;
    }

    public static Pb.TransitionWorkflowRequest Pay(string id)
    {
        var pay = Given.Move(id, "NEW", "PAID");
        (pay.RequestId, pay.Actor, pay.Reason, pay.Snapshot) = ("request-2", "alice", "why", Given.Snapshot("state"));
        pay.Metadata.Add("k", "v");
        return pay;
    }
}
