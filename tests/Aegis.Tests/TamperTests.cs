using Grpc.Core;
using Grpc.Health.V1;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Rows edited, deleted, inserted or swapped behind the service: verification names what, where and what it was.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class TamperTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [TestCase("to_state", "PAID", "STOLEN")]
    [TestCase("workflow_type", "order", "gift")]
    [TestCase("request_id", "request-2", "request-x")]
    public async Task An_edited_field_is_named_with_its_original_value(string field, string original, string found)
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server,
            $"UPDATE record SET {field} = @found WHERE workflow_id = @id AND sequence = 2", new { id, found });
        var violation = await OnlyViolationAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(violation.Class, Is.EqualTo(Pb.ViolationClass.FieldModified));
            Assert.That(violation.Sequence, Is.EqualTo(2));
            Assert.That(violation.HasLogIndex, Is.True);
            Assert.That(violation.Differences.Select(d => (d.Field, d.Original, d.Found)), Is.EqualTo(new[] { (field, original, found) }));
        }
        await BrokenAsync(id, "CHAIN_BROKEN");
    }

    [TestCase("state = 'PAID-OUT'")]
    [TestCase("updated_at = updated_at + 1")]
    [TestCase("sequence = sequence - 1")]
    public async Task A_workflow_is_not_told_as_an_altered_head_has_it(string change)
    {
        var id = await ChainAsync();
        await Tampering.RunAsync(_server, $"UPDATE workflow SET {change} WHERE workflow_id = @id", new { id });

        await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id }), "CHAIN_BROKEN", StatusCode.DataLoss);
        var stored = await _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id, AllowQuarantined = true });

        Assert.That(stored.Workflow.WorkflowId, Is.EqualTo(id));
    }

    [Test]
    public async Task What_no_response_could_hold_is_cut_and_told_and_stops_nobody()
    {
        await using var server = await TestServer.StartAsync(database);
        await server.Workflows.StartWorkflowAsync(Given.Start("huge"));
        await server.Workflows.StartWorkflowAsync(Given.Start("other"));
        var huge = new string('x', 4_000_000);
        await Tampering.RunAsync(server, "UPDATE record SET to_state = @huge WHERE workflow_id = 'huge'", new { huge });
        await Tampering.RunAsync(server, "UPDATE workflow SET state = @huge WHERE workflow_id = 'huge'", new { huge });

        var records = await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest());
        var workflows = await server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest());
        var verified = await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = "huge" });
        using var verifying = server.Integrity.VerifyLog(new Pb.VerifyLogRequest());
        var violations = 0;
        while (await verifying.ResponseStream.MoveNext(CancellationToken.None))
            violations += verifying.ResponseStream.Current.Violation is null ? 0 : 1;
        using var watch = server.Workflows.WatchRecords(new Pb.WatchRecordsRequest { FromLogIndex = 0 });
        List<string> watched = [];
        while (watched.Count < 2 && await watch.ResponseStream.MoveNext(CancellationToken.None))
        {
            if (watch.ResponseStream.Current.Record is { } record)
                watched.Add(record.WorkflowId);
        }

        using (Assert.EnterMultipleScope())
        {
            Assert.That(records.Records.Select(r => r.WorkflowId), Is.EqualTo(new[] { "huge", "other" }));
            Assert.That(records.Violations.Select(v => v.WorkflowId), Does.Contain("huge"));
            Assert.That(workflows.Workflows.Select(w => w.WorkflowId), Is.EqualTo(new[] { "huge", "other" }));
            Assert.That(verified.Violations, Is.Not.Empty);
            Assert.That(violations, Is.GreaterThan(0));
            Assert.That(watched, Is.EqualTo(new[] { "huge", "other" }));
        }
    }

    [TestCase("recorded_at", "recorded_at + 1")]
    [TestCase("lease_epoch", "lease_epoch + 1")]
    [TestCase("occurred_at", "occurred_at + 1")]
    public async Task An_edited_number_is_named(string field, string expression)
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server,
            $"UPDATE record SET {field} = {expression} WHERE workflow_id = @id AND sequence = 2", new { id });
        var violation = await OnlyViolationAsync(id);

        Assert.That(violation.Differences.Select(d => d.Field), Is.EqualTo(new[] { field }));
    }

    [TestCase("actor", "mallory", "person")]
    [TestCase("reason", "because", "content")]
    [TestCase("metadata", "{\"k\": \"other\"}", "content")]
    [TestCase("snapshot_content_type", "text/html", "snapshot")]
    public async Task An_edited_value_of_a_part_names_the_part(string column, string value, string part)
    {
        var id = await ChainAsync();
        var cast = column == "metadata" && database == Database.PostgreSql ? "::jsonb" : "";

        await Tampering.RunAsync(_server,
            $"UPDATE record SET {column} = @value{cast} WHERE workflow_id = @id AND sequence = 2", new { id, value });
        var violation = await OnlyViolationAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(violation.Class, Is.EqualTo(Pb.ViolationClass.FieldModified));
            Assert.That(violation.Differences.Select(d => d.Field), Is.EqualTo(new[] { part }));
        }
    }

    [Test]
    public async Task Edited_encoded_bytes_are_named_with_what_they_were()
    {
        var id = await ChainAsync();
        var bytes = (await Given.RecordsAsync(_server, id))[1];

        // The bytes of another record of the same workflow, in place of its own.
        await Tampering.RunAsync(_server,
            """
            UPDATE record
            SET encoded = (SELECT encoded FROM record AS other WHERE other.workflow_id = @id AND other.sequence = 3)
            WHERE workflow_id = @id AND sequence = 2
            """, new { id });
        var violation = await OnlyViolationAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(violation.Sequence, Is.EqualTo(2));
            Assert.That(violation.Class, Is.EqualTo(Pb.ViolationClass.FieldModified));
            Assert.That(violation.Differences.Single(d => d.Field == "to_state").Original, Is.EqualTo("PAID"));
            Assert.That(violation.ExpectedHash, Is.EqualTo(bytes.Hash));
        }
    }

    [Test]
    public async Task A_deleted_record_in_the_middle_is_missing()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server, "DELETE FROM record WHERE workflow_id = @id AND sequence = 2", new { id });
        var violation = await OnlyViolationAsync(id);

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((Pb.ViolationClass.RecordMissing, 2UL)));
    }

    [Test]
    public async Task A_deleted_newest_record_is_a_cut_tail()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server, "DELETE FROM record WHERE workflow_id = @id AND sequence = 3", new { id });
        var violation = await OnlyViolationAsync(id);

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((Pb.ViolationClass.TailTruncated, 3UL)));
        await BrokenAsync(id, "CHAIN_BROKEN");
    }

    [Test]
    public async Task A_deleted_first_record_is_missing()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server, "DELETE FROM record WHERE workflow_id = @id AND sequence = 1", new { id });
        var violation = await OnlyViolationAsync(id);

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((Pb.ViolationClass.RecordMissing, 1UL)));
    }

    [Test]
    public async Task Swapped_records_are_reordered()
    {
        var id = await ChainAsync();

        foreach (var (from, to) in new[] { (2, 20), (3, 2), (20, 3) })
        {
            await Tampering.RunAsync(_server,
                "UPDATE record SET sequence = @to WHERE workflow_id = @id AND sequence = @from", new { id, from, to });
        }
        var verified = await VerifyAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(verified.Violations[0].Class, Is.EqualTo(Pb.ViolationClass.RecordsReordered));
            Assert.That(verified.Violations[0].Sequence, Is.EqualTo(2));
        }
        await BrokenAsync(id, "CHAIN_BROKEN");
    }

    [Test]
    public async Task A_record_of_another_workflow_is_found_in_the_chain()
    {
        var (id, other) = (await ChainAsync(), await ChainAsync());

        await Tampering.RunAsync(_server, "DELETE FROM record WHERE workflow_id = @id AND sequence = 2", new { id });
        await Tampering.RunAsync(_server,
            "UPDATE record SET workflow_id = @id WHERE workflow_id = @other AND sequence = 2", new { id, other });
        var verified = await VerifyAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(verified.Intact, Is.False);
            Assert.That(verified.Violations[0].Sequence, Is.EqualTo(2));
            Assert.That(verified.Violations[0].Differences.Single(d => d.Field == "workflow_id").Original, Is.EqualTo(other));
        }
    }

    [Test]
    public async Task A_record_inserted_at_the_end_is_beyond_the_head()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server,
            """
            INSERT INTO record (log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state,
                status, request_id, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal, hash, encoded)
            SELECT 1000000 + log_index, log_id, namespace, workflow_id, 4, kind, workflow_type, from_state, to_state,
                status, request_id, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal, hash, encoded
            FROM record WHERE workflow_id = @id AND sequence = 3
            """, new { id });
        var verified = await VerifyAsync(id);

        Assert.That(verified.Violations.Select(v => v.Sequence), Does.Contain(4UL));
    }

    [Test]
    public async Task An_edited_head_is_named_with_what_the_records_give()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server, "UPDATE workflow SET state = 'STOLEN' WHERE workflow_id = @id", new { id });
        var violation = await OnlyViolationAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(violation.Class, Is.EqualTo(Pb.ViolationClass.WorkflowHeadModified));
            Assert.That(violation.Differences.Select(d => (d.Field, d.Original, d.Found)),
                Is.EqualTo(new[] { ("state", "SHIPPED", "STOLEN") }));
        }
        await BrokenAsync(id, "CHAIN_BROKEN");
    }

    [Test]
    public async Task An_edited_snapshot_is_modified_and_never_handed_out()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server, "UPDATE snapshot SET content = @content WHERE workflow_id = @id",
            new { id, content = "forged"u8.ToArray() });
        var violation = await OnlyViolationAsync(id);

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((Pb.ViolationClass.SnapshotModified, 2UL)));
        await BrokenAsync(id, "SNAPSHOT_CORRUPT");
    }

    [Test]
    public async Task A_deleted_snapshot_is_missing()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server, "DELETE FROM snapshot WHERE workflow_id = @id", new { id });
        var violation = await OnlyViolationAsync(id);

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((Pb.ViolationClass.SnapshotMissing, 2UL)));
        await BrokenAsync(id, "SNAPSHOT_CORRUPT");
    }

    [Test]
    public async Task Values_that_are_gone_without_an_erasure_are_named()
    {
        var id = await ChainAsync();

        await Tampering.RunAsync(_server,
            "UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL WHERE workflow_id = @id AND sequence = 2",
            new { id });
        var violation = await OnlyViolationAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(violation.Class, Is.EqualTo(Pb.ViolationClass.ErasedWithoutRecord));
            Assert.That(violation.Differences.Select(d => d.Field), Is.EqualTo(new[] { "person" }));
        }
    }

    [Test]
    public async Task A_broken_workflow_fails_alone_among_the_pending()
    {
        await using var server = await TestServer.StartAsync(database);
        var (broken, whole) = ("", "");
        IReadOnlyList<Pb.ResumePendingWorkflowsResponse> messages;
        Pb.ResumeFailure failed;
        var tries = 0;
        do
        {
            (broken, whole) = (await ChainAsync(server), await ChainAsync(server));
            await Tampering.RunAsync(server, "UPDATE record SET to_state = 'X' WHERE workflow_id = @broken AND sequence = 3", new { broken });
            messages = await ResumePendingAsync(server, new Pb.ResumePendingWorkflowsRequest { Owner = "w" });
            failed = messages.Single(m => m.Failed?.WorkflowId == broken).Failed;
        }
        while (WasFoundFirst(failed, ref tries));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(failed.Reason, Is.EqualTo("CHAIN_BROKEN"));
            Assert.That(messages.Single(m => m.Resumed is not null).Resumed.Workflow.WorkflowId, Is.EqualTo(whole));
            var left = await server.Workflows.GetWorkflowAsync(
                new Pb.GetWorkflowRequest { WorkflowId = broken, AllowQuarantined = true });
            Assert.That(left.Workflow.Lease, Is.Null, "Its lease is given back.");
        }
    }

    [TestCase(false)]
    [TestCase(true)]
    public async Task A_workflow_whose_snapshot_was_altered_is_not_resumed_with_it_or_without(bool omitSnapshots)
    {
        await using var server = await TestServer.StartAsync(database);
        Pb.ResumeFailure failed;
        var tries = 0;
        do
        {
            var id = await ChainAsync(server);
            await Tampering.RunAsync(server, "UPDATE snapshot SET content = @content WHERE workflow_id = @id",
                new { id, content = "forged"u8.ToArray() });
            var messages = await ResumePendingAsync(server, new Pb.ResumePendingWorkflowsRequest { Owner = "w", OmitSnapshots = omitSnapshots });
            failed = messages.Single(m => m.Failed?.WorkflowId == id).Failed;
        }
        while (WasFoundFirst(failed, ref tries));

        Assert.That(failed.Reason, Is.EqualTo("SNAPSHOT_CORRUPT"));
    }

    private static async Task<IReadOnlyList<Pb.ResumePendingWorkflowsResponse>> ResumePendingAsync(
        TestServer server, Pb.ResumePendingWorkflowsRequest request)
    {
        using var call = server.Recovery.ResumePendingWorkflows(request);
        return await call.ResponseStream.ReadAllAsync().ToListAsync();
    }

    /// <summary>The audit was faster, in the moment between the edit and the call: the test tries once more.</summary>
    private static bool WasFoundFirst(Pb.ResumeFailure failed, ref int tries) => failed.Reason == "WORKFLOW_QUARANTINED" && ++tries < 5;

    [Test]
    public async Task Only_integrity_stops_serving_until_it_is_released_also_when_the_edit_was_undone()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await ChainAsync(server);
        await Tampering.RunAsync(server, "UPDATE workflow SET state = 'X' WHERE workflow_id = @id", new { id });
        await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        var (integrity, writes) = (await HealthAsync(server, "aegis.integrity"), await HealthAsync(server, "aegis.writes"));

        await Tampering.RunAsync(server, "UPDATE workflow SET state = 'SHIPPED' WHERE workflow_id = @id", new { id });
        var again = await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        var undone = await HealthAsync(server, "aegis.integrity");
        await server.Integrity.ReleaseQuarantineAsync(
            new Pb.ReleaseQuarantineRequest { WorkflowId = id, Actor = "op", Reason = "looked into" });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(integrity, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.NotServing));
            Assert.That(writes, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.Serving));
            Assert.That(again.Intact, Is.True);
            Assert.That(undone, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.NotServing));
            Assert.That(await HealthAsync(server, "aegis.integrity"), Is.EqualTo(HealthCheckResponse.Types.ServingStatus.Serving));
        }
    }

    /// <summary>NEW, PAID with a snapshot, SHIPPED.</summary>
    private Task<string> ChainAsync() => ChainAsync(_server);

    private static async Task<string> ChainAsync(TestServer server)
    {
        var id = await Given.WorkflowAsync(server);
        var pay = Given.Move(id, "NEW", "PAID");
        (pay.RequestId, pay.Actor, pay.Reason, pay.Snapshot) = ("request-2", "alice", "why", Given.Snapshot("state"));
        pay.Metadata.Add("k", "v");
        await server.Workflows.TransitionWorkflowAsync(pay);
        await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "PAID", "SHIPPED"));
        return id;
    }

    private async Task<Pb.VerifyWorkflowResponse> VerifyAsync(string id) =>
        await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

    private async Task<Pb.Violation> OnlyViolationAsync(string id)
    {
        var verified = await VerifyAsync(id);
        Assert.That(verified.Violations, Has.Count.EqualTo(1), verified.ToString());
        Assert.That(verified.Intact, Is.False);
        return verified.Violations[0];
    }

    private Task BrokenAsync(string id, string reason) => ErrorAssert.RefusedAsync(
        async () => await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id }),
        reason, StatusCode.DataLoss);

    private static async Task<HealthCheckResponse.Types.ServingStatus> HealthAsync(TestServer server, string name) =>
        (await server.Health.CheckAsync(new HealthCheckRequest { Service = name })).Status;
}
