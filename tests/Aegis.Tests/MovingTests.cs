using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Readers while a workflow moves: whoever checks must not take what is only new for what was tampered with.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class MovingTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task No_reader_of_a_moving_workflow_finds_it_broken()
    {
        var id = await Given.WorkflowAsync(_server, "S0");
        using var moving = new CancellationTokenSource();
        var reads = 0;
        var readers = new Func<Task>[]
        {
            async () => Assert.That((await VerifyAsync(id)).Violations, Is.Empty),
            async () => await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id }),
            async () => await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = id, Descending = true }),
            async () => await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = id, PageSize = 1000 }),
            async () => await _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id }),
            () => Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { WorkflowId = id }),
            () => Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest()),
        }.Select(read => Task.Run(async () =>
        {
            while (!moving.IsCancellationRequested)
            {
                try
                {
                    await read();
                }
                catch (RpcException e) when (e.StatusCode == StatusCode.NotFound)
                {
                    // No checkpoint yet.
                }
                Interlocked.Increment(ref reads);
            }
        })).ToList();

        for (var i = 0; i < 300; i++)
        {
            var move = Given.Move(id, $"S{i}", $"S{i + 1}");
            if (i % 3 == 0)
                move.Snapshot = Given.Snapshot($"{i}");
            await _server.Workflows.TransitionWorkflowAsync(move);
        }
        await moving.CancelAsync();
        await Task.WhenAll(readers);

        Assert.That(reads, Is.GreaterThan(readers.Count));
    }

    [Test]
    public async Task A_workflow_that_is_verified_while_it_starts_is_intact_or_not_there()
    {
        for (var i = 0; i < 60; i++)
        {
            var id = $"w-{Guid.NewGuid():N}";
            var verifying = Enumerable.Range(0, 4).Select(_ => Task.Run(async () =>
            {
                while (true)
                {
                    try
                    {
                        return await VerifyAsync(id);
                    }
                    catch (RpcException e) when (e.StatusCode == StatusCode.NotFound)
                    {
                        // Not there yet.
                    }
                }
            })).ToList();
            await _server.Workflows.StartWorkflowAsync(Given.Start(id));

            foreach (var verified in await Task.WhenAll(verifying))
                Assert.That(verified.Intact, Is.True, verified.ToString());
        }
    }

    [Test]
    public async Task Pages_of_all_workflows_have_no_gap_while_others_start()
    {
        const string @namespace = "growing";
        var starting = Task.Run(async () =>
        {
            for (var i = 0; i < 150; i++)
                await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest(Given.Start($"{i}")) { Namespace = @namespace });
        });
        var count = 0;
        do
        {
            var request = new Pb.ListWorkflowsRequest { Namespace = @namespace, PageSize = 7 };
            var ids = new List<string>();
            do
            {
                var page = await _server.Workflows.ListWorkflowsAsync(request);
                ids.AddRange(page.Workflows.Select(w => w.WorkflowId));
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length > 0);
            Assert.That(ids, Is.EqualTo(Enumerable.Range(0, ids.Count).Select(i => $"{i}")));
            Assert.That(ids, Has.Count.GreaterThanOrEqualTo(count));
            count = ids.Count;
        }
        while (!starting.IsCompleted);
        await starting;
    }

    private async Task<Pb.VerifyWorkflowResponse> VerifyAsync(string id) =>
        await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
}
