using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The first things that anyone does.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class FirstUseTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task A_workflow_is_started_moved_checkpointed_and_verified()
    {
        var started = await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest
        {
            WorkflowId = "first",
            WorkflowType = "order",
            InitialState = "NEW",
            Metadata = { ["customer"] = "17" },
        });
        var moved = await _server.Workflows.TransitionWorkflowAsync(new Pb.TransitionWorkflowRequest
        {
            WorkflowId = "first",
            FromState = "NEW",
            ToState = "PAID",
            Snapshot = new Pb.Snapshot { ContentType = "application/json", Content = ByteString.CopyFromUtf8("{}") },
        });
        var checkpointed = await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = "first",
            ExpectedSequence = 2,
            Snapshot = new Pb.Snapshot { Content = ByteString.CopyFromUtf8("more") },
        });
        var workflow = (await _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = "first" }))
            .Workflow;
        var verified = await _server.Integrity.VerifyWorkflowAsync(
            new Pb.VerifyWorkflowRequest { WorkflowId = "first" });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(started.Workflow.Status, Is.EqualTo(Pb.WorkflowStatus.Running));
            Assert.That(moved.Record.PreviousHash, Is.EqualTo(started.Record.Hash));
            Assert.That(checkpointed.Record.PreviousHash, Is.EqualTo(moved.Record.Hash));
            Assert.That(workflow.State, Is.EqualTo("PAID"));
            Assert.That(workflow.Sequence, Is.EqualTo(3));
            Assert.That(workflow.CheckpointSequence, Is.EqualTo(3));
            Assert.That(workflow.Metadata["customer"], Is.EqualTo("17"));
            Assert.That(workflow.HeadHash, Is.EqualTo(checkpointed.Record.Hash));
            Assert.That(verified.Intact, Is.True);
            Assert.That(verified.RecordsVerified, Is.EqualTo(3));
            Assert.That(verified.SnapshotsVerified, Is.EqualTo(2));
            Assert.That(verified.HeadHash, Is.EqualTo(workflow.HeadHash));
        }
    }

    [Test]
    public async Task The_log_begins_with_its_own_history()
    {
        var info = await _server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest());
        var records = await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest
        {
            Namespace = "aegis.system",
            WorkflowId = "log",
        });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(records.Records[0].LogIndex, Is.Zero);
            Assert.That(records.Records[0].ToState, Is.EqualTo("OPEN"));
            Assert.That(records.Records[0].WorkflowType, Is.EqualTo("aegis.log"));
            Assert.That(records.Records[0].Metadata["log_id"], Is.EqualTo(info.LogId));
        }
    }

    [Test]
    public async Task A_second_start_is_refused_and_names_what_is_there()
    {
        var request = new Pb.StartWorkflowRequest { WorkflowId = "twice", WorkflowType = "t", InitialState = "A" };
        await _server.Workflows.StartWorkflowAsync(request);

        var info = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.StartWorkflowAsync(request),
            "WORKFLOW_ALREADY_EXISTS", StatusCode.AlreadyExists);

        Assert.That(info.Metadata["current_state"], Is.EqualTo("A"));
    }
}
