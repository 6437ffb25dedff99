using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Compare and swap: nobody moves a workflow from where it is not.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class ConflictTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task Of_twenty_callers_that_move_a_workflow_from_one_point_exactly_one_succeeds()
    {
        var id = await Given.WorkflowAsync(_server);

        var outcomes = await Task.WhenAll(Enumerable.Range(0, 20).Select(async i =>
        {
            try
            {
                await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", $"TAKEN-{i}"));
                return StatusCode.OK;
            }
            catch (RpcException e)
            {
                return e.StatusCode;
            }
        }));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcomes.Count(o => o == StatusCode.OK), Is.EqualTo(1));
            Assert.That(outcomes.Count(o => o == StatusCode.Aborted), Is.EqualTo(19));
            Assert.That((await Given.ReadAsync(_server, id)).Sequence, Is.EqualTo(2));
        }
    }

    [Test]
    public async Task A_stale_from_state_is_refused_and_tells_where_the_workflow_stands()
    {
        var id = await Given.WorkflowAsync(_server);
        await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"));
        var current = await Given.ReadAsync(_server, id);

        var info = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "SHIPPED")),
            "STATE_MISMATCH", StatusCode.Aborted);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(info.Metadata["current_state"], Is.EqualTo("PAID"));
            Assert.That(info.Metadata["current_sequence"], Is.EqualTo("2"));
            Assert.That(info.Metadata["current_hash"], Is.EqualTo(Convert.ToHexStringLower(current.HeadHash.Span)));
            Assert.That(info.Metadata["from_state"], Is.EqualTo("NEW"));
        }
    }

    [Test]
    public async Task A_stale_sequence_is_refused()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.ExpectedSequence = 7;

        var info = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.TransitionWorkflowAsync(move), "SEQUENCE_MISMATCH", StatusCode.Aborted);

        Assert.That((info.Metadata["current_sequence"], info.Metadata["expected_sequence"]), Is.EqualTo(("1", "7")));
    }

    [Test]
    public async Task A_stale_hash_is_refused_and_the_current_one_taken()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.ExpectedHash = ByteString.CopyFrom(new byte[32]);

        await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.TransitionWorkflowAsync(move), "HASH_MISMATCH", StatusCode.Aborted);
        move.ExpectedHash = (await Given.ReadAsync(_server, id)).HeadHash;
        var moved = await _server.Workflows.TransitionWorkflowAsync(move);

        Assert.That(moved.Record.Sequence, Is.EqualTo(2));
    }

    [TestCase(Pb.WorkflowStatus.Completed)]
    [TestCase(Pb.WorkflowStatus.Failed)]
    [TestCase(Pb.WorkflowStatus.Cancelled)]
    public async Task A_closed_workflow_takes_no_more_writes(Pb.WorkflowStatus status)
    {
        var id = await Given.WorkflowAsync(_server);
        var close = Given.Move(id, "NEW", "END");
        close.Status = status;
        await _server.Workflows.TransitionWorkflowAsync(close);

        await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "END", "NEW")),
            "WORKFLOW_CLOSED", StatusCode.FailedPrecondition);
        await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
            {
                WorkflowId = id,
                ExpectedSequence = 2,
                Snapshot = Given.Snapshot("late"),
            }),
            "WORKFLOW_CLOSED", StatusCode.FailedPrecondition);
    }

    [Test]
    public async Task What_could_be_doubled_or_lost_needs_a_guard()
    {
        var id = await Given.WorkflowAsync(_server);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(await ErrorAssert.InvalidFieldsAsync(
                async () => await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "NEW"))),
                Is.EqualTo(new[] { "expected" }));
            Assert.That(await ErrorAssert.InvalidFieldsAsync(
                async () => await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
                {
                    WorkflowId = id,
                    Snapshot = Given.Snapshot("x"),
                })),
                Is.EqualTo(new[] { "expected" }));
        }
    }

    [Test]
    public async Task A_self_loop_is_taken_with_a_guard()
    {
        var id = await Given.WorkflowAsync(_server);
        var guarded = Given.Move(id, "NEW", "NEW");
        guarded.ExpectedSequence = 1;
        var named = Given.Move(id, "NEW", "NEW");
        named.RequestId = "again";

        await _server.Workflows.TransitionWorkflowAsync(guarded);
        var last = await _server.Workflows.TransitionWorkflowAsync(named);

        Assert.That(last.Record.Sequence, Is.EqualTo(3));
    }
}
