using Aegis.Core;
using Aegis.Server;
using Grpc.Core;
using Grpc.Health.V1;
using Microsoft.Extensions.DependencyInjection;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>What was altered behind the service is restored as it was recorded, verifies, and can be worked with again.</summary>
[TestFixture(Database.Sqlite, false)]
[TestFixture(Database.Sqlite, true)]
[TestFixture(Database.PostgreSql, false)]
[TestFixture(Database.PostgreSql, true)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class RepairTests(Database database, bool isTiled) : IAsyncDisposable
{
    private TestServer _server = null!;
    private string _id = "";
    private IReadOnlyList<Pb.Record> _records = [];

    /// <summary>A chain of three, still in the open part of the log or under a tile that is complete.</summary>
    [SetUp]
    public async Task StartAsync()
    {
        _server = await TestServer.StartAsync(database);
        _id = await Chain.RecordAsync(_server);
        _records = await Given.RecordsAsync(_server, _id);
        if (isTiled)
            await FillAsync(260);
    }

    public async ValueTask DisposeAsync()
    {
        if (_server is not null)
            await _server.DisposeAsync();
    }

    [TestCase("to_state = 'STOLEN'")]
    [TestCase("occurred_at = 5, lease_epoch = 7, request_id = 'other', request_key = NULL")]
    [TestCase("request_key = NULL")]
    [TestCase("request_key = @zero")]
    [TestCase("hash = @zero")]
    [TestCase("encoded = @zero")]
    public async Task Stored_fields_come_back_from_what_the_log_keeps(string edit)
    {
        await EditAsync($"UPDATE record SET {edit} WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();

        var repaired = await RepairAsync(2);

        await IsWholeAsync();
        var act = (await ActsAsync("REPAIRED")).Single();
        using (Assert.EnterMultipleScope())
        {
            Assert.That(repaired.Record, Is.EqualTo(act));
            Assert.That(repaired.Released, Is.EqualTo(1));
            Assert.That((act.Actor, act.Reason), Is.EqualTo(("op", "why")));
            Assert.That((act.Metadata["workflow_id"], act.Metadata["sequence"], act.Metadata["what"]), Is.EqualTo((_id, "2", "record")));
            Assert.That((await _server.Workflows.TransitionWorkflowAsync(Chain.Pay(_id))).Replayed, Is.True);
        }
        await _server.Workflows.TransitionWorkflowAsync(Given.Move(_id, "SHIPPED", "DONE"));
    }

    [Test]
    public async Task A_repair_beside_writes_takes_none_of_them_for_a_lost_or_forged_one()
    {
        var isDone = false;
        var writing = Task.Run(async () =>
        {
            for (var move = 0; !Volatile.Read(ref isDone); move++)
                await _server.Workflows.TransitionWorkflowAsync(Given.Move(_id, move == 0 ? "SHIPPED" : $"S{move}", $"S{move + 1}"));
        });
        try
        {
            for (var i = 0; i < 100; i++)
                await RefusedAsync(() => RepairAsync(0), "INVALID_FIELD", StatusCode.InvalidArgument);
        }
        finally
        {
            Volatile.Write(ref isDone, true);
        }
        await writing;

        Assert.That(await OpenAsync(), Is.Empty);
    }

    [Test]
    public async Task A_record_that_was_forged_whole_comes_back()
    {
        await EditAsync("UPDATE record SET to_state = 'X', hash = @zero, encoded = @zero WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();

        if (!isTiled)
        {
            // In the open part of the log nothing else has its bytes.
            await RefusedAsync(() => RepairAsync(2), "RECORD_NOT_FOUND", StatusCode.NotFound);
            await RepairAsync(2, _records[1]);
        }
        else
        {
            await RepairAsync(2);
        }

        await IsWholeAsync();
    }

    [Test]
    public async Task Values_of_a_person_come_back_only_with_the_record()
    {
        await EditAsync("UPDATE record SET actor = 'mallory' WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();

        await RefusedAsync(() => RepairAsync(2), "INVALID_FIELD", StatusCode.InvalidArgument);
        await RepairAsync(2, _records[1]);

        await IsWholeAsync();
    }

    [Test]
    public async Task A_lost_row_comes_back_with_the_record()
    {
        await EditAsync("DELETE FROM record WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();

        await RefusedAsync(() => RepairAsync(2), isTiled ? "INVALID_FIELD" : "RECORD_NOT_FOUND",
            isTiled ? StatusCode.InvalidArgument : StatusCode.NotFound);
        await RepairAsync(2, _records[1]);

        await IsWholeAsync();
    }

    [Test]
    public async Task A_cut_tail_comes_back()
    {
        await EditAsync("DELETE FROM record WHERE workflow_id = @id AND sequence >= 2");
        await BreaksAsync();

        await RepairAsync(2, _records[1]);
        await RepairAsync(3, _records[2]);

        await IsWholeAsync();
    }

    [Test]
    public async Task A_record_that_is_not_the_one_is_refused_with_both_hashes()
    {
        await EditAsync("DELETE FROM record WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();
        var forged = _records[1].Clone();
        forged.ToState = "STOLEN";
        var altered = _records[1].Clone();
        altered.Actor = "mallory";

        var wrong = await RefusedAsync(() => RepairAsync(2, forged),
            isTiled ? "HASH_MISMATCH" : "RECORD_NOT_FOUND", isTiled ? StatusCode.Aborted : StatusCode.NotFound);
        var part = await RefusedAsync(() => RepairAsync(2, altered), "HASH_MISMATCH", StatusCode.Aborted);
        await RefusedAsync(() => RepairAsync(2, _records[2]), "INVALID_FIELD", StatusCode.InvalidArgument);

        if (isTiled)
            Assert.That(wrong.Metadata["expected_hash"], Is.EqualTo(Convert.ToHexStringLower(_records[1].Hash.Span)));
        Assert.That((part.Metadata["part"], part.Metadata["expected_hash"]),
            Is.EqualTo(("person", Convert.ToHexStringLower(_records[1].PersonDigest.Span))));
        Assert.That(await ActsAsync("REPAIRED"), Is.Empty);
    }

    [TestCase("DELETE FROM snapshot WHERE workflow_id = @id")]
    [TestCase("UPDATE snapshot SET content = @zero WHERE workflow_id = @id")]
    public async Task A_snapshot_comes_back_when_it_is_brought(string edit)
    {
        await EditAsync(edit);
        await BreaksAsync();

        await RefusedAsync(() => RepairAsync(2), "INVALID_FIELD", StatusCode.InvalidArgument);
        var wrong = await RefusedAsync(() => RepairAsync(2, snapshot: Given.Snapshot("other")), "HASH_MISMATCH", StatusCode.Aborted);
        await RepairAsync(2, snapshot: Given.Snapshot("state"));

        Assert.That(wrong.Metadata["expected_hash"], Is.EqualTo(Convert.ToHexStringLower(_records[1].SnapshotSha256.Span)));
        await IsWholeAsync();
    }

    [TestCase("UPDATE workflow SET state = 'X', status = 3, sequence = 9, head_hash = @zero WHERE workflow_id = @id")]
    [TestCase("UPDATE workflow SET workflow_type = 'X', checkpoint_sequence = 0, created_log_index = 0, created_at = 1 WHERE workflow_id = @id")]
    [TestCase("UPDATE workflow SET metadata = '{\"a\": \"b\"}', updated_at = 1 WHERE workflow_id = @id")]
    [TestCase("UPDATE workflow SET importing = (1 = 1) WHERE workflow_id = @id")]
    [TestCase("DELETE FROM workflow WHERE workflow_id = @id")]
    public async Task The_head_is_made_again_from_the_records(string edit)
    {
        var before = await Given.ReadAsync(_server, _id);
        await EditAsync(edit);
        await BreaksAsync();

        await RepairAsync(0);

        await IsWholeAsync();
        Assert.That(await Given.ReadAsync(_server, _id), Is.EqualTo(before));
    }

    [Test]
    public async Task The_head_of_a_fork_knows_again_where_it_came_from()
    {
        var fork = $"{_id}-fork";
        await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest
        {
            WorkflowId = fork,
            WorkflowType = "order",
            ForkedFrom = new Pb.ForkPoint { WorkflowId = _id, Sequence = 2 },
        });
        var before = await Given.ReadAsync(_server, fork);
        _id = fork;
        await EditAsync("DELETE FROM workflow WHERE workflow_id = @id");
        await BreaksAsync();

        await RepairAsync(0);

        Assert.That(await Given.ReadAsync(_server, fork), Is.EqualTo(before));
    }

    [Test]
    public async Task Swapped_records_go_back_to_their_places()
    {
        foreach (var (from, to) in new[] { (2, 20), (3, 2), (20, 3) })
            await EditAsync($"UPDATE record SET sequence = {to} WHERE workflow_id = @id AND sequence = {from}");
        await BreaksAsync();

        await RepairAsync(2);

        await IsWholeAsync();
    }

    [Test]
    public async Task Records_whose_places_in_the_log_were_swapped_go_back()
    {
        var indexes = _records.Select(r => (long)r.LogIndex).ToList();
        foreach (var (from, to) in new[] { (indexes[1], 100_000), (indexes[2], indexes[1]), (100_000, indexes[2]) })
            await EditAsync($"UPDATE record SET log_index = {to} WHERE log_index = {from}");
        // The chain alone does not tell of it.
        await ReportAsync(ViolationClass.RecordsReordered, 2, indexes[1]);

        await RepairAsync(2);

        await IsWholeAsync();
        Assert.That((await Given.RecordsAsync(_server, _id)).Select(r => (long)r.LogIndex), Is.EqualTo(indexes));
    }

    [Test]
    public async Task A_record_that_was_moved_to_another_workflow_comes_back()
    {
        var other = await Chain.RecordAsync(_server);
        await EditAsync($"UPDATE record SET workflow_id = '{other}', sequence = 4 WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();
        await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = other });
        await ReportAsync(ViolationClass.RecordMissing, 2, (long)_records[1].LogIndex);

        await RepairAsync(2);

        await IsWholeAsync();
        await IsWholeAsync(other);
    }

    [Test]
    public async Task A_record_beyond_the_log_is_taken_away()
    {
        await EditAsync(
            """
            INSERT INTO record (log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state,
                status, request_id, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal, hash, encoded)
            SELECT (SELECT max(log_index) + 1 FROM record), log_id, namespace, workflow_id, 4, kind, workflow_type, from_state,
                to_state, status, request_id, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal, hash, encoded
            FROM record WHERE workflow_id = @id AND sequence = 3
            """);
        // It stands where the next record has to: nothing can be written until it is gone.
        await BreaksAsync();

        await RepairAsync(4);

        await IsWholeAsync();
        Assert.That((await ActsAsync("REPAIRED")).Single().Metadata["what"], Is.EqualTo("removed"));
    }

    [Test]
    public async Task A_forged_workflow_is_taken_away()
    {
        await EditAsync(
            """
            INSERT INTO workflow (namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
                metadata, created_log_index, created_at, updated_at, importing)
            SELECT namespace, 'forged', workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
                metadata, 1000000, created_at, updated_at, importing
            FROM workflow WHERE workflow_id = @id
            """);
        _id = "forged";
        await BreaksAsync();

        await RepairAsync(0);

        await RefusedAsync(() => Given.ReadAsync(_server, "forged"), "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
        await Until.HealthAsync(_server.Health, "aegis.integrity", serving: true);
    }

    [Test]
    public async Task A_deleted_workflow_cannot_be_started_anew_and_comes_back()
    {
        await AuditedAsync();
        await EditAsync("DELETE FROM record WHERE workflow_id = @id");
        await EditAsync("DELETE FROM workflow WHERE workflow_id = @id");
        await ReportAsync(ViolationClass.WorkflowDeleted, 0, null);

        await RefusedAsync(() => _server.Workflows.StartWorkflowAsync(Given.Start(_id)).ResponseAsync,
            "WORKFLOW_QUARANTINED", StatusCode.FailedPrecondition);
        await RefusedAsync(() => Given.ReadAsync(_server, _id), "CHAIN_BROKEN", StatusCode.DataLoss);
        Assert.That((await VerifyAsync(_id)).Intact, Is.False);
        foreach (var record in _records)
            await RepairAsync(record.Sequence, record);
        await RepairAsync(0);

        await IsWholeAsync();
    }

    [Test]
    public async Task A_deleted_workflow_can_be_given_up()
    {
        await AuditedAsync();
        await EditAsync("DELETE FROM record WHERE workflow_id = @id");
        await EditAsync("DELETE FROM workflow WHERE workflow_id = @id");
        await ReportAsync(ViolationClass.WorkflowDeleted, 0, null);

        // The audit may find it too, and later: it is released as often as it is listed, and stays released.
        await Until.TrueAsync(async () =>
        {
            var open = await _server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { WorkflowId = _id });
            if (open.Violations.Count == 0)
                return (await _server.Health.CheckAsync(new HealthCheckRequest { Service = "aegis.integrity" })).Status == ServingStatus.Serving;
            await _server.Integrity.ReleaseQuarantineAsync(
                new Pb.ReleaseQuarantineRequest { WorkflowId = _id, Actor = "op", Reason = "lost" });
            return false;
        });
    }

    /// <summary>Waits until the audit has seen what was written: what is deleted after that it knows by its name.</summary>
    private async Task AuditedAsync()
    {
        var size = (long)(await _server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest())).Size;
        var audit = _server.Services.GetRequiredService<AuditStatus>();
        await Until.TrueAsync(() => Task.FromResult(audit.Size >= size));
    }

    [Test]
    public async Task What_is_repaired_and_altered_alike_again_is_found_again()
    {
        for (var round = 0; round < 2; round++)
        {
            await EditAsync("UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = @id AND sequence = 2");
            await BreaksAsync();
            await RepairAsync(2);
            await IsWholeAsync();
        }
    }

    [Test]
    public async Task An_edit_that_was_undone_is_closed_by_a_repair()
    {
        await EditAsync("UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();
        await EditAsync("UPDATE record SET to_state = 'PAID' WHERE workflow_id = @id AND sequence = 2");

        Assert.That((await RepairAsync(2)).Released, Is.EqualTo(1));
        await IsWholeAsync();
        await RefusedAsync(() => RepairAsync(2), "INVALID_FIELD", StatusCode.InvalidArgument);
    }

    [TestCase("UPDATE log_tile SET hashes = (SELECT hashes FROM log_tile WHERE tile_index = 1 AND level = 0) WHERE tile_index = 0")]
    [TestCase("UPDATE log_tile SET entries = (SELECT entries FROM log_tile WHERE tile_index = 1 AND level = 0) WHERE tile_index = 0")]
    [TestCase("DELETE FROM log_tile WHERE tile_index = 0")]
    public async Task Tiles_are_made_again_from_the_records(string edit)
    {
        if (!isTiled)
            Assert.Pass("There is no tile yet.");
        await FillAsync(256);
        await EditAsync(edit);
        _server.Services.GetRequiredService<Findings>().Report(
            [new Violation(ViolationClass.TileModified, new WorkflowKey("", ""), 0, "The tile is not the one.") { LogIndex = 0 }]);
        await Until.HealthAsync(_server.Health, "aegis.integrity", serving: false);

        var repaired = await _server.Integrity.RepairRecordAsync(new Pb.RepairRecordRequest
        {
            Namespace = "aegis.system",
            WorkflowId = "log",
            Actor = "op",
            Reason = "why",
        });

        Assert.That(repaired.Record.Metadata["what"], Is.EqualTo("tiles"));
        Assert.That(repaired.Released, Is.InRange(1, 2), "What was reported here, and what the audit found where it was as fast.");
        await Until.HealthAsync(_server.Health, "aegis.integrity", serving: true);
        await _server.Integrity.GetInclusionProofAsync(new Pb.GetInclusionProofRequest { WorkflowId = _id, Sequence = 2 });
        // The tile's bytes are good for a repair again.
        await EditAsync("UPDATE record SET to_state = 'X', hash = @zero, encoded = @zero WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();
        await RepairAsync(2);
        await IsWholeAsync();
    }

    [Test]
    public async Task The_head_of_the_logs_own_history_is_made_again()
    {
        await EditAsync("UPDATE workflow SET state = 'X', head_hash = @zero WHERE workflow_id = 'log'");
        await _server.Integrity.VerifyWorkflowAsync(
            new Pb.VerifyWorkflowRequest { Namespace = "aegis.system", WorkflowId = "log" });

        var repaired = await _server.Integrity.RepairRecordAsync(new Pb.RepairRecordRequest
        {
            Namespace = "aegis.system",
            WorkflowId = "log",
            Actor = "op",
            Reason = "why",
        });

        var verified = await _server.Integrity.VerifyWorkflowAsync(
            new Pb.VerifyWorkflowRequest { Namespace = "aegis.system", WorkflowId = "log" });
        Assert.That((verified.Intact, repaired.Released, repaired.Record.Metadata["what"]), Is.EqualTo((true, 1UL, "head")));
        await Until.HealthAsync(_server.Health, "aegis.integrity", serving: true);
    }

    [Test]
    public async Task The_guards_let_nothing_else_through()
    {
        await EditAsync("UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = @id AND sequence = 2");
        await BreaksAsync();
        await RepairAsync(2);

        foreach (var sql in new[]
        {
            "DELETE FROM record WHERE sequence = 2", "UPDATE record SET to_state = 'X' WHERE sequence = 2",
            "UPDATE snapshot SET content = content",
        })
        {
            await Assert.ThatAsync(() => Tampering.CountAsync(_server, sql), Throws.Exception);
        }
        await IsWholeAsync();
    }

    /// <summary>
    /// An operator with an export of before, who repairs whatever the list names until it names nothing. The audit goes on
    /// meanwhile, and finds nothing more.
    /// </summary>
    [Test]
    public async Task Everything_that_is_listed_can_be_repaired_until_nothing_is_listed()
    {
        var ids = new List<string>();
        for (var i = 0; i < 9; i++)
            ids.Add(await Chain.RecordAsync(_server));
        var backup = new Dictionary<(string, ulong), Pb.Record>();
        foreach (var id in ids)
        {
            foreach (var record in await Given.RecordsAsync(_server, id))
                backup[(id, record.Sequence)] = record;
        }
        if (isTiled)
            await FillAsync(256);
        string[] edits =
        [
            "UPDATE record SET to_state = 'X', hash = @zero, encoded = @zero WHERE workflow_id = @id AND sequence = 2",
            "UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL WHERE workflow_id = @id AND sequence = 1",
            "DELETE FROM record WHERE workflow_id = @id AND sequence = 1",
            """
            DELETE FROM record WHERE workflow_id = @id AND sequence = 3;
            UPDATE workflow SET sequence = 2, state = 'PAID' WHERE workflow_id = @id
            """,
            "DELETE FROM record WHERE workflow_id = @id; DELETE FROM workflow WHERE workflow_id = @id",
            "DELETE FROM snapshot WHERE workflow_id = @id",
            """
            UPDATE record SET sequence = 20 WHERE workflow_id = @id AND sequence = 2;
            UPDATE record SET sequence = 2 WHERE workflow_id = @id AND sequence = 3;
            UPDATE record SET sequence = 3 WHERE workflow_id = @id AND sequence = 20
            """,
            $"UPDATE record SET workflow_id = '{_id}', sequence = 4 WHERE workflow_id = @id AND sequence = 2",
            "UPDATE workflow SET metadata = '{\"a\": \"b\"}', status = 2 WHERE workflow_id = @id",
        ];
        foreach (var (id, edit) in ids.Zip(edits))
        {
            _id = id;
            await EditAsync(edit);
        }
        if (isTiled)
            await EditAsync("DELETE FROM log_tile WHERE tile_index = 1");
        // Of records that are gone without a trace only the places in the log are known.
        await Until.TrueAsync(async () =>
            (await OpenAsync()).Select(v => v.WorkflowId).Distinct().Count(ids.Contains) >= ids.Count - 2);

        for (var round = 0; round < 8 && (await OpenAsync()).Count > 0; round++)
        {
            foreach (var violation in (await OpenAsync()).OrderBy(v => (v.WorkflowId, v.Sequence == 0, v.Sequence)))
            {
                var record = violation is { WorkflowId: "", Class: Pb.ViolationClass.RecordMissing }
                    ? backup.Values.FirstOrDefault(r => r.LogIndex == violation.LogIndex)
                    : backup.GetValueOrDefault((violation.WorkflowId, violation.Sequence));
                var isOfLog = violation.WorkflowId.Length == 0 && record is null;
                try
                {
                    await _server.Integrity.RepairRecordAsync(new Pb.RepairRecordRequest
                    {
                        Namespace = isOfLog ? "aegis.system" : "",
                        WorkflowId = isOfLog ? "log" : record?.WorkflowId ?? violation.WorkflowId,
                        Sequence = record?.Sequence ?? violation.Sequence,
                        Record = record,
                        Snapshot = record?.SnapshotSha256.IsEmpty == false ? Given.Snapshot("state") : null,
                        Actor = "op",
                        Reason = "why",
                    });
                }
                catch (RpcException e) when (e.StatusCode is StatusCode.NotFound or StatusCode.DataLoss or StatusCode.InvalidArgument)
                {
                    // Another has to be repaired first, or was repaired with one before.
                    TestContext.Out.WriteLine($"{violation.Class} at {violation.Sequence}: {e.Status.Detail}");
                }
            }
            await Task.Delay(2000);
        }
        // Longer than an audit takes to come round.
        await Task.Delay(5000);

        Assert.That(await OpenAsync(), Is.Empty);
        foreach (var id in ids)
        {
            await IsWholeAsync(id);
            Assert.That(await Given.RecordsAsync(_server, id),
                Is.EqualTo(backup.Where(b => b.Key.Item1 == id).OrderBy(b => b.Key.Item2).Select(b => b.Value)));
        }
        using var verify = _server.Integrity.VerifyLog(new Pb.VerifyLogRequest());
        await foreach (var message in verify.ResponseStream.ReadAllAsync())
            Assert.That(message.Summary?.Intact, Is.Not.EqualTo(false));
    }

    private async Task<IReadOnlyList<Pb.Violation>> OpenAsync() =>
        (await _server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true })).Violations;

    private async Task FillAsync(int records) => await Task.WhenAll(Enumerable.Range(0, records)
        .Select(_ => _server.Workflows.StartWorkflowAsync(Given.Start($"fill-{Guid.NewGuid():N}")).ResponseAsync));

    private Task EditAsync(string sql) => Tampering.RunAsync(_server,
        database == Database.PostgreSql ? sql.Replace("'{\"a\": \"b\"}'", "'{\"a\": \"b\"}'::jsonb", StringComparison.Ordinal) : sql,
        new { id = _id, zero = new byte[32] });

    /// <summary>What an audit of the whole log finds, and a chain by itself does not tell.</summary>
    private async Task ReportAsync(ViolationClass @class, long sequence, long? logIndex)
    {
        var findings = _server.Services.GetRequiredService<Findings>();
        findings.Report([new Violation(@class, new WorkflowKey("default", _id), sequence, "Found.") { LogIndex = logIndex }]);
        await findings.SettleAsync(CancellationToken.None);
    }

    private async Task<Pb.VerifyWorkflowResponse> VerifyAsync(string id) =>
        await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

    private async Task BreaksAsync() => Assert.That((await VerifyAsync(_id)).Intact, Is.False);

    private async Task IsWholeAsync(string? id = null)
    {
        var verified = await VerifyAsync(id ?? _id);
        var open = await _server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true });
        var health = await _server.Health.CheckAsync(new HealthCheckRequest { Service = "aegis.integrity" });
        using (Assert.EnterMultipleScope())
        {
            Assert.That(verified.Violations, Is.Empty);
            Assert.That(open.Violations, Is.Empty);
            Assert.That(health.Status, Is.EqualTo(ServingStatus.Serving));
            if (_records.Count > 0 && _records[0].WorkflowId == (id ?? _id))
                Assert.That(await Given.RecordsAsync(_server, _id), Is.EqualTo(_records));
        }
        foreach (var record in await Given.RecordsAsync(_server, id ?? _id))
        {
            await _server.Integrity.GetInclusionProofAsync(
                new Pb.GetInclusionProofRequest { WorkflowId = record.WorkflowId, Sequence = record.Sequence });
        }
    }

    private async Task<Pb.RepairRecordResponse> RepairAsync(ulong sequence, Pb.Record? record = null, Pb.Snapshot? snapshot = null) =>
        await _server.Integrity.RepairRecordAsync(new Pb.RepairRecordRequest
        {
            WorkflowId = _id,
            Sequence = sequence,
            Record = record,
            Snapshot = snapshot,
            Actor = "op",
            Reason = "why",
        });

    private async Task<IReadOnlyList<Pb.Record>> ActsAsync(string act) =>
        [.. (await _server.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log" })).Records.Where(r => r.ToState == act)];

    private static Task<Google.Rpc.ErrorInfo> RefusedAsync(Func<Task> call, string reason, StatusCode code) =>
        ErrorAssert.RefusedAsync(call, reason, code);
}
