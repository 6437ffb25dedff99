using Aegis.Core;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The nine scenarios that this product exists for, each under its name.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class RecoveryScenarioTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task Checkpoint_then_resume()
    {
        var id = await Given.WorkflowAsync(_server);
        await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = id,
            ExpectedSequence = 1,
            Snapshot = new Pb.Snapshot { ContentType = "application/json;version=2", Content = Given.Snapshot("{\"step\":1}").Content },
        });

        var resumed = await ResumeAsync(id, "worker");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(resumed.Checkpoint.Snapshot.Content.ToStringUtf8(), Is.EqualTo("{\"step\":1}"));
            Assert.That(resumed.Checkpoint.Snapshot.ContentType, Is.EqualTo("application/json;version=2"));
            Assert.That(resumed.Checkpoint.Record.Sequence, Is.EqualTo(2));
            Assert.That(resumed.RecordsSince, Is.Empty);
            Assert.That(resumed.Lease.Owner, Is.EqualTo("worker"));
        }
    }

    [Test]
    public async Task Resume_after_a_transition()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.Snapshot = Given.Snapshot("paid");
        await _server.Workflows.TransitionWorkflowAsync(move);
        await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "PAID", "PACKED"));

        var resumed = await ResumeAsync(id, "worker");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(resumed.Workflow.State, Is.EqualTo("PACKED"));
            Assert.That(resumed.Checkpoint.Snapshot.Content.ToStringUtf8(), Is.EqualTo("paid"));
            Assert.That(resumed.RecordsSince.Select(r => r.ToState), Is.EqualTo(new[] { "PACKED" }));
        }
    }

    [Test]
    public async Task Valid_chain_over_many_transitions()
    {
        var id = await Given.WorkflowAsync(_server, "S0");
        for (var i = 0; i < 700; i++)
        {
            var move = Given.Move(id, $"S{i}", $"S{i + 1}");
            if (i % 100 == 0)
                move.Snapshot = Given.Snapshot($"state {i}");
            await _server.Workflows.TransitionWorkflowAsync(move);
        }

        var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        var resumed = await ResumeAsync(id, "worker");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(verified.Intact, Is.True);
            Assert.That((verified.RecordsVerified, verified.SnapshotsVerified), Is.EqualTo((701UL, 7UL)));
            Assert.That(resumed.Checkpoint.Snapshot.Content.ToStringUtf8(), Is.EqualTo("state 600"));
            Assert.That(resumed.RecordsSince, Has.Count.EqualTo(99));
            Assert.That(resumed.MoreRecords, Is.False);
        }
    }

    [Test]
    public async Task Batch_recovery()
    {
        const string @namespace = "batch";
        await Task.WhenAll(Enumerable.Range(0, 120).Select(async i =>
        {
            var start = Given.Start($"{i}");
            (start.Namespace, start.Snapshot) = (@namespace, Given.Snapshot($"state {i}"));
            await _server.Workflows.StartWorkflowAsync(start);
        }));

        var resumed = await ResumeAllAsync(@namespace);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(resumed, Has.Count.EqualTo(120));
            Assert.That(resumed.All(r => r.Checkpoint.Snapshot.Content.ToStringUtf8() == $"state {r.Workflow.WorkflowId}"), Is.True);
            Assert.That(resumed.All(r => r.Lease.Owner == "worker"), Is.True);
        }
    }

    [Test]
    public async Task Closed_workflows_excluded()
    {
        const string @namespace = "closed";
        foreach (var status in new[] { Pb.WorkflowStatus.Completed, Pb.WorkflowStatus.Failed, Pb.WorkflowStatus.Cancelled })
        {
            var start = Given.Start($"{status}");
            start.Namespace = @namespace;
            await _server.Workflows.StartWorkflowAsync(start);
            var close = Given.Move($"{status}", "NEW", "END");
            (close.Namespace, close.Status) = (@namespace, status);
            await _server.Workflows.TransitionWorkflowAsync(close);
        }
        var open = Given.Start("open");
        open.Namespace = @namespace;
        await _server.Workflows.StartWorkflowAsync(open);

        var resumed = await ResumeAllAsync(@namespace);
        var look = await _server.Recovery.ResumeWorkflowAsync(
            new Pb.ResumeWorkflowRequest { Namespace = @namespace, WorkflowId = "Completed" });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(resumed.Select(r => r.Workflow.WorkflowId), Is.EqualTo(new[] { "open" }));
            Assert.That(look.Workflow.Status, Is.EqualTo(Pb.WorkflowStatus.Completed), "To look is allowed.");
            Assert.That(look.Lease, Is.Null);
        }
        await ErrorAssert.RefusedAsync(
            async () => await _server.Recovery.ResumeWorkflowAsync(
                new Pb.ResumeWorkflowRequest { Namespace = @namespace, WorkflowId = "Completed", Owner = "worker" }),
            "WORKFLOW_CLOSED", StatusCode.FailedPrecondition);
    }

    [Test]
    public async Task Mixed_states()
    {
        const string @namespace = "mixed";
        foreach (var (id, state, status) in new[]
        {
            ("a", "NEW", Pb.WorkflowStatus.Running), ("b", "PAID", Pb.WorkflowStatus.Running),
            ("c", "ASKED", Pb.WorkflowStatus.Waiting), ("d", "NEW", Pb.WorkflowStatus.Running),
        })
        {
            var start = Given.Start(id, state);
            (start.Namespace, start.Status) = (@namespace, status);
            await _server.Workflows.StartWorkflowAsync(start);
        }

        var resumed = await ResumeAllAsync(@namespace);
        var counts = await _server.Workflows.CountWorkflowsAsync(new Pb.CountWorkflowsRequest { Namespace = @namespace });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(resumed.Select(r => (r.Workflow.WorkflowId, r.Workflow.State)),
                Is.EqualTo(new[] { ("a", "NEW"), ("b", "PAID"), ("d", "NEW") }));
            Assert.That(counts.Counts.Select(c => (c.State, c.Status, c.Count)), Is.EqualTo(new[]
            {
                ("ASKED", Pb.WorkflowStatus.Waiting, 1UL), ("NEW", Pb.WorkflowStatus.Running, 2UL),
                ("PAID", Pb.WorkflowStatus.Running, 1UL),
            }));
        }
    }

    [Test]
    public async Task Time_travel()
    {
        var id = await Given.WorkflowAsync(_server, "S0");
        var records = new List<Pb.Record>();
        for (var i = 0; i < 4; i++)
        {
            var move = Given.Move(id, $"S{i}", $"S{i + 1}");
            if (i % 2 == 0)
                move.Snapshot = Given.Snapshot($"state {i + 1}");
            records.Add((await _server.Workflows.TransitionWorkflowAsync(move)).Record);
        }

        var early = await CheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id, Sequence = 3 });
        var then = await CheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id, AsOf = records[2].RecordedAt });
        var latest = await CheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id });
        var fork = await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest
        {
            WorkflowId = $"{id}-again",
            WorkflowType = "order",
            ForkedFrom = new Pb.ForkPoint { WorkflowId = id, Sequence = 3 },
        });
        var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = $"{id}-again" });
        var forked = await ResumeAsync($"{id}-again", "worker");

        using (Assert.EnterMultipleScope())
        {
            Assert.That((early, then, latest), Is.EqualTo(("state 1", "state 3", "state 3")));
            Assert.That(fork.Workflow.State, Is.EqualTo("S2"));
            Assert.That(fork.Record.PreviousHash, Is.EqualTo(records[1].Hash));
            Assert.That(forked.Checkpoint.Snapshot.Content.ToStringUtf8(), Is.EqualTo("state 1"));
            Assert.That(verified.Intact, Is.True);
            Assert.That((await Given.ReadAsync(_server, id)).State, Is.EqualTo("S4"), "The source stays as it is.");
        }
        await ErrorAssert.RefusedAsync(
            () => CheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id, Sequence = 1 }),
            "CHECKPOINT_NOT_FOUND", StatusCode.NotFound);
    }

    [Test]
    public async Task Export_import_round_trip()
    {
        const string @namespace = "travel";
        for (var i = 0; i < 3; i++)
        {
            var start = Given.Start($"{i}");
            (start.Namespace, start.Status, start.Snapshot) = (@namespace, Pb.WorkflowStatus.Waiting, Given.Snapshot($"é {i}"));
            start.Metadata.Add("ключ", "значение");
            await _server.Workflows.StartWorkflowAsync(start);
        }
        var other = database == Database.Sqlite ? Database.PostgreSql : Database.Sqlite;
        await using var target = await TestServer.StartAsync(other);

        var export = await Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { Namespace = @namespace });
        var outcomes = await Exports.ImportAsync(target, export);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcomes.Select(o => o.Outcome), Is.All.EqualTo(Pb.ImportOutcome.Imported));
            Assert.That(await RecordsAsync(target, @namespace), Is.EqualTo(await RecordsAsync(_server, @namespace)));
            for (var i = 0; i < 3; i++)
            {
                var verified = await target.Integrity.VerifyWorkflowAsync(
                    new Pb.VerifyWorkflowRequest { Namespace = @namespace, WorkflowId = $"{i}" });
                Assert.That(verified.Intact, Is.True);
            }
        }
    }

    [Test]
    public async Task Audit_trail_complete_with_hashes()
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        (start.Actor, start.Reason) = ("alice", "first contact");
        start.Metadata.Add("channel", "web");
        await _server.Workflows.StartWorkflowAsync(start);
        var move = Given.Move(start.WorkflowId, "NEW", "APPROVED");
        (move.Actor, move.Reason, move.Status) = ("bob", "all in order", Pb.WorkflowStatus.Completed);
        await _server.Workflows.TransitionWorkflowAsync(move);

        var trail = (await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = start.WorkflowId })).Records;
        var ofBob = (await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { Actor = "bob" })).Records;

        var previous = new byte[Hash.Size];
        foreach (var record in trail)
        {
            // Nothing but the answer's own fields and the record format.
            var recomputed = Clients.Recompute(record);
            using (Assert.EnterMultipleScope())
            {
                Assert.That(recomputed.ToArray(), Is.EqualTo(record.Hash.ToByteArray()));
                Assert.That(record.PreviousHash.ToByteArray(), Is.EqualTo(previous));
            }
            previous = record.Hash.ToByteArray();
        }
        using (Assert.EnterMultipleScope())
        {
            Assert.That(trail.Select(r => (r.Actor, r.Reason, r.ToState)), Is.EqualTo(new[]
            {
                ("alice", "first contact", "NEW"), ("bob", "all in order", "APPROVED"),
            }));
            Assert.That(ofBob.Select(r => r.Hash), Does.Contain(trail[1].Hash));
        }
    }

    private async Task<Pb.ResumeWorkflowResponse> ResumeAsync(string id, string owner) =>
        await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = owner });

    private async Task<List<Pb.ResumeWorkflowResponse>> ResumeAllAsync(string @namespace)
    {
        using var call = _server.Recovery.ResumePendingWorkflows(
            new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "worker" });
        var resumed = new List<Pb.ResumeWorkflowResponse>();
        await foreach (var message in call.ResponseStream.ReadAllAsync())
        {
            if (message.Resumed is not null)
                resumed.Add(message.Resumed);
        }
        return resumed;
    }

    private async Task<string> CheckpointAsync(Pb.GetCheckpointRequest request) =>
        (await _server.Workflows.GetCheckpointAsync(request)).Snapshot.Content.ToStringUtf8();

    /// <summary>All records of a namespace but for their place in the log, which is each deployment's own.</summary>
    private static async Task<List<Pb.Record>> RecordsAsync(TestServer server, string @namespace)
    {
        var records = (await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { Namespace = @namespace })).Records;
        return [.. records.Select(r => new Pb.Record(r) { LogIndex = 0 }).OrderBy(r => r.WorkflowId)];
    }
}
