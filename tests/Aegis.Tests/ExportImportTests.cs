using Aegis.Core;
using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Moving workflows between deployments: every hash stays, and what is not sound is not taken.</summary>
[TestFixture(Database.Sqlite, Database.PostgreSql)]
[TestFixture(Database.PostgreSql, Database.Sqlite)]
[Parallelizable(ParallelScope.All)]
public sealed class ExportImportTests(Database from, Database to)
{
    private TestServer _source = null!;
    private TestServer _target = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _source = await TestServer.StartAsync(from);
        _target = await TestServer.StartAsync(to);
    }

    [OneTimeTearDown]
    public async Task Stop()
    {
        await _source.DisposeAsync();
        await _target.DisposeAsync();
    }

    [Test]
    public async Task A_long_chain_with_snapshots_arrives_identical_to_the_byte()
    {
        var id = await Given.WorkflowAsync(_source, "S0");
        for (var i = 0; i < 450; i++)
        {
            var move = Given.Move(id, $"S{i}", $"S{i + 1}");
            (move.RequestId, move.Actor, move.Reason) = ($"r{i}", "アリス", "because");
            if (i % 150 == 0)
                move.Snapshot = new Pb.Snapshot { Content = ByteString.CopyFrom(new byte[i * 8000]) };
            await _source.Workflows.TransitionWorkflowAsync(move);
        }
        await CloseAsync(_source, id, "S450");

        var outcomes = await Exports.ImportAsync(_target, await ExportAsync(id), chunkBytes: 77_777);
        var verified = await _target.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        var replayed = await _target.Workflows.TransitionWorkflowAsync(new Pb.TransitionWorkflowRequest
        {
            WorkflowId = id,
            FromState = "S7",
            ToState = "S8",
            RequestId = "r7",
            Actor = "アリス",
            Reason = "because",
        });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcomes.Single().Outcome, Is.EqualTo(Pb.ImportOutcome.Imported));
            Assert.That(await ChainAsync(_target, id), Is.EqualTo(await ChainAsync(_source, id)));
            Assert.That((verified.Intact, verified.RecordsVerified, verified.SnapshotsVerified), Is.EqualTo((true, 452UL, 3UL)));
            Assert.That(replayed.Replayed, Is.True, "Its request_ids are known here too.");
        }
    }

    [Test]
    public async Task What_is_here_is_unchanged_and_what_has_grown_is_extended()
    {
        var id = await WaitingAsync();
        var first = await ExportAsync(id);
        var imported = (await Exports.ImportAsync(_target, first)).Single().Outcome;
        var again = (await Exports.ImportAsync(_target, first)).Single().Outcome;
        await CloseAsync(_source, id, "NEW");

        var extended = (await Exports.ImportAsync(_target, await ExportAsync(id))).Single().Outcome;
        var older = (await Exports.ImportAsync(_target, first)).Single().Outcome;

        using (Assert.EnterMultipleScope())
        {
            Assert.That((imported, again, extended, older), Is.EqualTo((Pb.ImportOutcome.Imported, Pb.ImportOutcome.Unchanged,
                Pb.ImportOutcome.Extended, Pb.ImportOutcome.Unchanged)));
            Assert.That(await ChainAsync(_target, id), Is.EqualTo(await ChainAsync(_source, id)));
        }
    }

    [Test]
    public async Task Another_history_under_the_same_id_is_refused()
    {
        var id = await WaitingAsync();
        await _target.Workflows.StartWorkflowAsync(Given.Start(id));

        var answer = (await Exports.ImportAsync(_target, await ExportAsync(id))).Single();

        Assert.That((answer.Outcome, answer.Reason), Is.EqualTo((Pb.ImportOutcome.Refused, "WORKFLOW_ALREADY_EXISTS")));
    }

    [Test]
    public async Task A_running_workflow_is_taken_only_when_told_and_its_old_lease_is_stale()
    {
        var id = await Given.WorkflowAsync(_source, owner: "worker");
        var epoch = (await Given.ReadAsync(_source, id)).Lease.Epoch;
        var export = await ExportAsync(id);

        var refused = (await Exports.ImportAsync(_target, export)).Single();
        await ErrorAssert.RefusedAsync(() => Given.ReadAsync(_target, id), "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
        var taken = (await Exports.ImportAsync(_target, export, takeOver: true)).Single();
        var late = Given.Move(id, "NEW", "LATE");
        late.LeaseEpoch = epoch;
        await ErrorAssert.RefusedAsync(
            async () => await _target.Workflows.TransitionWorkflowAsync(late), "LEASE_STALE", StatusCode.FailedPrecondition);
        var resumed = await _target.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "here" });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refused.Outcome, Is.EqualTo(Pb.ImportOutcome.Refused));
            Assert.That(taken.Outcome, Is.EqualTo(Pb.ImportOutcome.Imported));
            Assert.That(resumed.Lease.Epoch, Is.GreaterThan(epoch));
        }
    }

    [Test]
    public async Task An_unproven_export_is_taken_only_when_allowed()
    {
        var export = await ExportAsync(await WaitingAsync());

        var fields = await ErrorAssert.InvalidFieldsAsync(() => Exports.ImportAsync(_target, export, allowUnproven: false));

        Assert.That(fields, Is.EqualTo(new[] { "options.allow_unproven" }));
    }

    [TestCase("empty")]
    [TestCase("garbage")]
    [TestCase("cut")]
    [TestCase("flipped")]
    [TestCase("without trailer")]
    [TestCase("with more behind")]
    public async Task A_damaged_export_is_refused_whole(string damage)
    {
        var id = await WaitingAsync();
        var export = await ExportAsync(id);
        byte[] damaged = damage switch
        {
            "empty" => [],
            "garbage" => [.. Enumerable.Range(0, 5000).Select(i => (byte)(i * 31))],
            "cut" => export[..^20],
            "flipped" => [.. export.Select((b, i) => i == export.Length / 2 ? (byte)(b ^ 1) : b)],
            "without trailer" => WithoutTrailer(export),
            _ => [.. export, 0],
        };

        var fields = await ErrorAssert.InvalidFieldsAsync(() => Exports.ImportAsync(_target, damaged));

        Assert.That(fields, Is.EqualTo(new[] { "chunk" }));
        await ErrorAssert.RefusedAsync(() => Given.ReadAsync(_target, id), "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
    }

    [Test]
    public async Task A_chain_that_does_not_verify_is_refused_alone()
    {
        var @namespace = $"n{Guid.NewGuid():N}";
        foreach (var id in new[] { "a", "b", "c" })
            await WaitingAsync(id, @namespace);
        var messages = Exports.Parse(await Exports.ReadAsync(_source, new Pb.ExportWorkflowsRequest { Namespace = @namespace }));
        messages.First(m => m.Record?.Record.WorkflowId == "b").Record.Record.ToState = "STOLEN";

        var outcomes = await Exports.ImportAsync(_target, Exports.Write(messages));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcomes.Select(o => (o.WorkflowId, o.Outcome)), Is.EqualTo(new[]
            {
                ("a", Pb.ImportOutcome.Imported), ("b", Pb.ImportOutcome.Refused), ("c", Pb.ImportOutcome.Imported),
            }));
            Assert.That(outcomes[1].Reason, Is.EqualTo("CHAIN_BROKEN"));
        }
    }

    [Test]
    public async Task The_services_own_namespace_cannot_be_imported_and_an_import_is_recorded_there()
    {
        var own = await Exports.ReadAsync(_source, new Pb.ExportWorkflowsRequest { Namespace = "aegis.system" });
        var refused = (await Exports.ImportAsync(_target, own, takeOver: true)).Single();
        var id = await WaitingAsync();
        await Exports.ImportAsync(_target, await ExportAsync(id));
        var head = await Given.ReadAsync(_target, id);

        var history = (await _target.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log", PageSize = 1000 })).Records;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refused.Outcome, Is.EqualTo(Pb.ImportOutcome.Refused));
            Assert.That(history.Where(r => r.ToState == "IMPORTED" && r.Metadata["workflow_id"] == id)
                .Select(r => r.Metadata["head_hash"]), Is.EqualTo(new[] { Convert.ToHexStringLower(head.HeadHash.Span) }));
        }
    }

    [Test]
    public async Task Records_from_the_future_are_refused()
    {
        var export = Foreign.Export("future", Foreign.Started("future", recordedAt: Foreign.Now + 600_000_000));

        var answer = (await Exports.ImportAsync(_target, export)).Single();

        Assert.That((answer.Outcome, answer.Reason), Is.EqualTo((Pb.ImportOutcome.Refused, "INVALID_FIELD")));
    }

    [Test]
    public async Task An_erasure_that_comes_erases_the_values_that_are_here_and_never_the_reverse()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var started = Foreign.Started(id, actor: "alice");
        var erasure = Foreign.Erasure(started, "1", "person,content,snapshot");
        var whole = Foreign.Export(id, started);
        var erased = Foreign.Export(id, started with { Record = started.Record with { Person = null, Content = null, Snapshot = null } }, erasure);

        await Exports.ImportAsync(_target, whole);
        var before = await _target.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id });
        var extended = (await Exports.ImportAsync(_target, erased)).Single();
        var record = (await Given.RecordsAsync(_target, id))[0];
        var verified = await _target.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        var back = (await Exports.ImportAsync(_target, Foreign.Export(id, started, erasure))).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(before.Record.Actor, Is.EqualTo("alice"));
            Assert.That(extended.Outcome, Is.EqualTo(Pb.ImportOutcome.Extended), extended.Message);
            Assert.That((record.Actor, record.PersonSalt.IsEmpty, record.Reason), Is.EqualTo(("", true, "")));
            Assert.That(record.Hash, Is.EqualTo(before.Record.Hash));
            Assert.That(verified.Intact, Is.True, verified.ToString());
            Assert.That((await Given.ReadAsync(_target, id)).Metadata, Is.Empty);
            Assert.That(back.Outcome, Is.EqualTo(Pb.ImportOutcome.Unchanged));
            Assert.That((await Given.RecordsAsync(_target, id))[0].Actor, Is.Empty, "What is erased here stays erased.");
        }
    }

    [Test]
    public async Task A_snapshot_whose_bytes_were_erased_is_told_as_erased()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var started = Foreign.Started(id);

        await Exports.ImportAsync(_target, Foreign.Export(id, started, Foreign.Erasure(started, "1", "snapshot-bytes"), snapshots: false));

        await ErrorAssert.RefusedAsync(
            async () => await _target.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id }),
            "SNAPSHOT_ERASED", StatusCode.FailedPrecondition);
        Assert.That((await _target.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id })).Intact, Is.True);
    }

    [Test]
    public async Task A_fork_keeps_its_origin()
    {
        var id = await WaitingAsync();
        await _source.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest
        {
            WorkflowId = id + "-fork",
            WorkflowType = "order",
            Status = Pb.WorkflowStatus.Waiting,
            ForkedFrom = new Pb.ForkPoint { WorkflowId = id, Sequence = 1 },
        });

        await Exports.ImportAsync(_target, await ExportAsync(id + "-fork"));
        var fork = await Given.ReadAsync(_target, id + "-fork");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(fork.ForkedFrom, Is.EqualTo((await Given.ReadAsync(_source, id + "-fork")).ForkedFrom));
            Assert.That((await _target.Integrity.VerifyWorkflowAsync(
                new Pb.VerifyWorkflowRequest { WorkflowId = id + "-fork" })).Intact, Is.True);
        }
    }

    private Task<byte[]> ExportAsync(string id) => Exports.ReadAsync(_source, new Pb.ExportWorkflowsRequest { WorkflowId = id });

    private async Task<string> WaitingAsync(string? id = null, string @namespace = "")
    {
        var start = Given.Start(id ?? $"w-{Guid.NewGuid():N}");
        (start.Namespace, start.Status) = (@namespace, Pb.WorkflowStatus.Waiting);
        await _source.Workflows.StartWorkflowAsync(start);
        return start.WorkflowId;
    }

    private static async Task CloseAsync(TestServer server, string id, string state)
    {
        var close = Given.Move(id, state, "END");
        close.Status = Pb.WorkflowStatus.Completed;
        await server.Workflows.TransitionWorkflowAsync(close);
    }

    private static async Task<List<Pb.Record>> ChainAsync(TestServer server, string id)
    {
        var page = await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = id, PageSize = 1000 });
        return [.. page.Records.Select(r => new Pb.Record(r) { LogIndex = 0 })];
    }

    private static byte[] WithoutTrailer(byte[] export)
    {
        using var stream = new MemoryStream();
        foreach (var message in Exports.Parse(export).Where(m => m.Trailer is null))
            message.WriteDelimitedTo(stream);
        return stream.ToArray();
    }
}
