using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Idempotency: a request_id makes one record, whoever asks, how often and when.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class RequestIdTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task Twenty_callers_with_one_request_id_make_one_record()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.RequestId = "pay";

        var answers = await Task.WhenAll(Enumerable.Range(0, 20)
            .Select(async _ => await _server.Workflows.TransitionWorkflowAsync(move)));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answers.Select(a => a.Record.Hash).Distinct().Count(), Is.EqualTo(1));
            Assert.That(answers.Count(a => a.Replayed), Is.EqualTo(19));
            Assert.That((await Given.ReadAsync(_server, id)).Sequence, Is.EqualTo(2));
        }
    }

    [Test]
    public async Task A_replay_is_answered_after_the_workflow_closed()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.RequestId = "pay";
        var first = await _server.Workflows.TransitionWorkflowAsync(move);
        var close = Given.Move(id, "PAID", "END");
        close.Status = Pb.WorkflowStatus.Completed;
        await _server.Workflows.TransitionWorkflowAsync(close);

        var again = await _server.Workflows.TransitionWorkflowAsync(move);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(again.Replayed, Is.True);
            Assert.That(again.Record, Is.EqualTo(first.Record));
            Assert.That((again.Receipt.RecordHash, again.Receipt.LogIndex),
                Is.EqualTo((first.Receipt.RecordHash, first.Receipt.LogIndex)));
            Assert.That(again.Receipt.LogHead, Is.Not.EqualTo(first.Receipt.LogHead), "The head is the current one.");
        }
    }

    [Test]
    public async Task A_replayed_start_returns_its_lease_only_while_it_is_still_its_owners()
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}", owner: "worker");
        start.RequestId = "start";
        var first = await _server.Workflows.StartWorkflowAsync(start);
        var held = await _server.Workflows.StartWorkflowAsync(start);
        await _server.Recovery.ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest
        {
            Owner = "worker",
            Leases = { new Pb.LeaseReference { WorkflowId = start.WorkflowId, Epoch = first.Lease.Epoch } },
        });

        var released = await _server.Workflows.StartWorkflowAsync(start);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(held.Replayed, Is.True);
            Assert.That(held.Lease, Is.EqualTo(first.Lease));
            Assert.That(released.Replayed, Is.True);
            Assert.That(released.Lease, Is.Null);
        }
    }

    [TestCase("to_state")]
    [TestCase("status")]
    [TestCase("actor")]
    [TestCase("reason")]
    [TestCase("metadata")]
    [TestCase("occurred_at")]
    [TestCase("snapshot")]
    [TestCase("from_state")]
    public async Task A_request_id_for_another_request_is_refused_and_names_the_field(string field)
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.RequestId = "pay";
        move.Actor = "alice";
        move.Snapshot = Given.Snapshot("1");
        await _server.Workflows.TransitionWorkflowAsync(move);
        switch (field)
        {
            case "to_state": move.ToState = "LOST"; break;
            case "from_state": move.FromState = "OLD"; break;
            case "status": move.Status = Pb.WorkflowStatus.Waiting; break;
            case "actor": move.Actor = "bob"; break;
            case "reason": move.Reason = "because"; break;
            case "metadata": move.Metadata.Add("k", "v"); break;
            case "occurred_at": move.OccurredAt = new() { Seconds = 1 }; break;
            default: move.Snapshot = Given.Snapshot("2"); break;
        }

        var info = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.TransitionWorkflowAsync(move),
            "REQUEST_ID_REUSED", StatusCode.AlreadyExists);

        Assert.That(info.Metadata["field"], Is.EqualTo(field));
    }

    [Test]
    public async Task A_request_id_of_another_kind_of_write_is_refused()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.RequestId = "one";
        await _server.Workflows.TransitionWorkflowAsync(move);

        var info = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
            {
                WorkflowId = id,
                RequestId = "one",
                ExpectedSequence = 2,
                Snapshot = Given.Snapshot("x"),
            }),
            "REQUEST_ID_REUSED", StatusCode.AlreadyExists);

        Assert.That(info.Metadata["field"], Is.EqualTo("kind"));
    }

    [Test]
    public async Task A_refused_request_leaves_its_request_id_free()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "ELSEWHERE", "PAID");
        move.RequestId = "pay";
        await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.TransitionWorkflowAsync(move), "STATE_MISMATCH", StatusCode.Aborted);
        move.FromState = "NEW";

        var moved = await _server.Workflows.TransitionWorkflowAsync(move);

        Assert.That(moved.Replayed, Is.False);
    }

    [Test]
    public async Task The_same_request_id_on_two_workflows_is_two_requests()
    {
        var (a, b) = (await Given.WorkflowAsync(_server), await Given.WorkflowAsync(_server));
        var (moveA, moveB) = (Given.Move(a, "NEW", "PAID"), Given.Move(b, "NEW", "PAID"));
        moveA.RequestId = moveB.RequestId = "pay";

        var first = await _server.Workflows.TransitionWorkflowAsync(moveA);
        var second = await _server.Workflows.TransitionWorkflowAsync(moveB);

        Assert.That((first.Replayed, second.Replayed), Is.EqualTo((false, false)));
    }

    [TestCase("workflow_type")]
    [TestCase("initial_state")]
    [TestCase("status")]
    [TestCase("forked_from")]
    [TestCase("snapshot")]
    [TestCase("")]
    public async Task A_repeated_start_is_compared_field_by_field_and_not_by_its_guards(string field)
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        (start.RequestId, start.Snapshot) = ("start", Given.Snapshot("1"));
        await _server.Workflows.StartWorkflowAsync(start);
        switch (field)
        {
            case "workflow_type": start.WorkflowType = "permit"; break;
            case "initial_state": start.InitialState = "OLD"; break;
            case "status": start.Status = Pb.WorkflowStatus.Waiting; break;
            case "forked_from": start.ForkedFrom = new Pb.ForkPoint { WorkflowId = "nobody", Sequence = 1 }; break;
            case "snapshot": start.Snapshot.ContentType = "text/plain"; break;
            default: start.Owner = "someone"; break;
        }

        if (field.Length == 0)
        {
            var again = await _server.Workflows.StartWorkflowAsync(start);
            Assert.That((again.Replayed, again.Lease), Is.EqualTo((true, (Pb.Lease?)null)));
            return;
        }
        var info = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.StartWorkflowAsync(start), "REQUEST_ID_REUSED", StatusCode.AlreadyExists);
        Assert.That(info.Metadata["field"], Is.EqualTo(field));
    }

    [Test]
    public async Task A_checkpoint_is_replayed_whatever_it_expects_now()
    {
        var id = await Given.WorkflowAsync(_server);
        var checkpoint = new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = id,
            RequestId = "save",
            ExpectedSequence = 1,
            Snapshot = Given.Snapshot("state"),
        };
        var first = await _server.Workflows.CheckpointWorkflowAsync(checkpoint);
        checkpoint.ExpectedSequence = 77;

        var again = await _server.Workflows.CheckpointWorkflowAsync(checkpoint);
        checkpoint.Snapshot = Given.Snapshot("another");
        var reused = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.CheckpointWorkflowAsync(checkpoint), "REQUEST_ID_REUSED", StatusCode.AlreadyExists);

        Assert.That((again.Replayed, again.Record, reused.Metadata["field"]), Is.EqualTo((true, first.Record, "snapshot")));
    }
}
