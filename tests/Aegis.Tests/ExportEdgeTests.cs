using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>What an export holds, leaves out and refuses to hold.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class ExportEdgeTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [TestCase(0)]
    [TestCase(1024 * 1024)]
    [TestCase(3 * 1024 * 1024)]
    public async Task Snapshots_from_the_smallest_to_the_largest_travel_and_once_each(int size)
    {
        var content = new byte[size];
        new Random(size).NextBytes(content);
        var start = Given.Start($"w-{Guid.NewGuid():N}", "S1");
        (start.Status, start.Snapshot) = (Pb.WorkflowStatus.Waiting, new Pb.Snapshot { Content = ByteString.CopyFrom(content) });
        await _server.Workflows.StartWorkflowAsync(start);
        await _server.Workflows.TransitionWorkflowAsync(new Pb.TransitionWorkflowRequest(Given.Move(start.WorkflowId, "S1", "S2"))
        {
            Status = Pb.WorkflowStatus.Waiting,
            Snapshot = start.Snapshot,
        });
        await using var target = await TestServer.StartAsync(database == Database.Sqlite ? Database.PostgreSql : Database.Sqlite);

        var export = await Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { WorkflowId = start.WorkflowId });
        var answer = (await Exports.ImportAsync(target, export, chunkBytes: 1_000_000)).Single();
        var checkpoint = await target.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = start.WorkflowId });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Outcome, Is.EqualTo(Pb.ImportOutcome.Imported), answer.Message);
            Assert.That(checkpoint.Snapshot.Content, Is.EqualTo(start.Snapshot.Content));
            Assert.That(export, Has.Length.LessThan(size + 10_000), "The content was sent once.");
        }
    }

    [Test]
    public async Task A_filter_chooses_what_is_exported()
    {
        const string @namespace = "chosen";
        foreach (var (id, type, status) in new[]
        {
            ("a", "order", Pb.WorkflowStatus.Running), ("b", "permit", Pb.WorkflowStatus.Waiting), ("c", "order", Pb.WorkflowStatus.Waiting),
        })
        {
            await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest(Given.Start(id, $"S-{id}"))
            {
                Namespace = @namespace,
                WorkflowType = type,
                Status = status,
                Metadata = { ["is"] = id },
            });
        }

        foreach (var (request, ids) in new (Pb.ExportWorkflowsRequest, string[])[]
        {
            (new(), ["a", "b", "c"]),
            (new() { WorkflowId = "b" }, ["b"]),
            (new() { WorkflowTypes = { "order" } }, ["a", "c"]),
            (new() { States = { "S-b" } }, ["b"]),
            (new() { Statuses = { Pb.WorkflowStatus.Waiting } }, ["b", "c"]),
            (new() { Metadata = { ["is"] = "c" } }, ["c"]),
            (new() { WorkflowTypes = { "none" } }, []),
        })
        {
            request.Namespace = @namespace;
            var messages = Exports.Parse(await Exports.ReadAsync(_server, request));
            using (Assert.EnterMultipleScope())
            {
                Assert.That(messages.Select(m => m.Workflow?.WorkflowId).OfType<string>(), Is.EqualTo(ids), request.ToString());
                Assert.That(messages[0].Manifest.Filter, Is.EqualTo(request));
                Assert.That(messages[^1].Trailer.Workflows, Is.EqualTo((ulong)ids.Length));
            }
        }
    }

    [Test]
    public async Task One_workflow_and_a_filter_contradict_each_other()
    {
        foreach (var request in new Pb.ExportWorkflowsRequest[]
        {
            new() { WorkflowTypes = { "order" } },
            new() { Statuses = { Pb.WorkflowStatus.Running } },
            new() { Metadata = { ["k"] = "v" } },
            new() { UpdatedAfter = new() },
        })
        {
            request.WorkflowId = "one";
            Assert.That(await ErrorAssert.InvalidFieldsAsync(() => Exports.ReadAsync(_server, request)), Is.EqualTo(new[] { "workflow_id" }));
        }
    }

    [TestCase("UPDATE record SET to_state = 'X' WHERE workflow_id = @id", "CHAIN_BROKEN")]
    [TestCase("DELETE FROM record WHERE workflow_id = @id", "CHAIN_BROKEN")]
    [TestCase("UPDATE workflow SET state = 'X' WHERE workflow_id = @id", "CHAIN_BROKEN")]
    [TestCase("DELETE FROM snapshot WHERE workflow_id = @id", "SNAPSHOT_CORRUPT")]
    public async Task Nothing_that_was_tampered_with_is_exported(string sql, string reason)
    {
        // Of its own: a record that is gone leaves a hole in the log, and what lies beside it is not proven either.
        await using var server = await TestServer.StartAsync(database);
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        start.Snapshot = Given.Snapshot("state");
        await server.Workflows.StartWorkflowAsync(start);
        await Tampering.RunAsync(server, sql, new { id = start.WorkflowId });

        await ErrorAssert.RefusedAsync(
            () => Exports.ReadAsync(server, new Pb.ExportWorkflowsRequest { WorkflowId = start.WorkflowId }), reason, StatusCode.DataLoss);
    }

    [Test]
    public async Task An_export_of_nothing_is_whole_and_imports_nothing()
    {
        var export = await Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { Namespace = "empty" });

        var outcomes = await Exports.ImportAsync(_server, export);

        Assert.That(outcomes, Is.Empty);
    }
}
