using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Two servers on one database: what one has acknowledged, the other knows of at once.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class SecondServerTests
{
    private TestServer _one = null!;
    private TestServer _two = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _one = await TestServer.StartAsync(Database.PostgreSql);
        _two = await TestServer.StartAsync(_one.Connection);
    }

    [OneTimeTearDown]
    public async Task Stop()
    {
        await _two.DisposeAsync();
        await _one.DisposeAsync();
    }

    [Test]
    public async Task Pending_workflows_just_started_elsewhere_are_resumed()
    {
        for (var i = 0; i < 5; i++)
        {
            var start = new Pb.StartWorkflowRequest(Given.Start($"{i}")) { Namespace = "just-started" };
            await _one.Workflows.StartWorkflowAsync(start);
            using var call = _two.Recovery.ResumePendingWorkflows(
                new Pb.ResumePendingWorkflowsRequest { Namespace = "just-started", Owner = "w" });
            var resumed = new List<string>();
            await foreach (var message in call.ResponseStream.ReadAllAsync())
                resumed.AddRange(message.Resumed is { } one ? [one.Workflow.WorkflowId] : []);

            Assert.That(resumed, Is.EqualTo(new[] { $"{i}" }));
        }
    }

    [Test]
    public async Task Workflows_just_started_elsewhere_are_exported()
    {
        for (var i = 0; i < 5; i++)
        {
            var start = new Pb.StartWorkflowRequest(Given.Start($"{i}")) { Namespace = "exported" };
            await _one.Workflows.StartWorkflowAsync(start);

            var messages = Exports.Parse(await Exports.ReadAsync(_two, new Pb.ExportWorkflowsRequest { Namespace = "exported" }));

            Assert.That(messages.Count(m => m.Workflow is not null), Is.EqualTo(i + 1));
        }
    }

    [Test]
    public async Task A_read_of_what_another_server_wrote_waits_for_it_and_not_much_longer()
    {
        var start = new Pb.StartWorkflowRequest(Given.Start("read")) { Namespace = "read" };
        var written = await _one.Workflows.StartWorkflowAsync(start);

        var read = await _two.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest
        {
            Namespace = "read",
            WorkflowId = "read",
            MinLogSize = written.Receipt.LogIndex + 1,
        });

        Assert.That(read.LogSize, Is.GreaterThan(written.Receipt.LogIndex));
    }

    [Test]
    public async Task A_request_id_used_through_one_server_is_known_to_the_other()
    {
        var start = new Pb.StartWorkflowRequest(Given.Start("request")) { RequestId = "r" };
        var first = await _one.Workflows.StartWorkflowAsync(start);

        var again = await _two.Workflows.StartWorkflowAsync(start);

        Assert.That((again.Replayed, again.Record), Is.EqualTo((true, first.Record)));
    }

    [Test]
    public async Task A_watch_from_where_another_server_has_written_is_not_ahead_of_the_log()
    {
        var written = await _one.Workflows.StartWorkflowAsync(Given.Start("watched"));
        using var watch = _two.Workflows.WatchRecords(new Pb.WatchRecordsRequest
        {
            AllNamespaces = true,
            FromLogIndex = written.Receipt.LogIndex + 1,
            AfterHash = written.Record.Hash,
        });

        Assert.That(await watch.ResponseStream.MoveNext(CancellationToken.None), Is.True);
    }
}
