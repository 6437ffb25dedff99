using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Lists, pages, filters, and reads that wait for the log.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class ReadingTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [TestCase(1u)]
    [TestCase(3u)]
    [TestCase(7u)]
    [TestCase(1000u)]
    public async Task Pages_give_each_workflow_once_in_order_of_creation(uint pageSize)
    {
        var @namespace = $"pages-{pageSize}";
        await StartManyAsync(@namespace, 7);
        var request = new Pb.ListWorkflowsRequest { Namespace = @namespace, PageSize = pageSize };

        var ids = new List<string>();
        do
        {
            var page = await _server.Workflows.ListWorkflowsAsync(request);
            Assert.That(page.Workflows, Has.Count.LessThanOrEqualTo((int)pageSize));
            ids.AddRange(page.Workflows.Select(w => w.WorkflowId));
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);

        Assert.That(ids, Is.EqualTo(Enumerable.Range(0, 7).Select(i => $"{i}")));
    }

    [Test]
    public async Task Every_filter_leaves_only_what_matches()
    {
        const string @namespace = "filters";
        await StartManyAsync(@namespace, 3);
        var start = Given.Start("special", "ODD");
        (start.Namespace, start.WorkflowType, start.Status) = (@namespace, "permit", Pb.WorkflowStatus.Waiting);
        start.Metadata.Add("a", "1");
        start.Metadata.Add("b", "2");
        var special = (await _server.Workflows.StartWorkflowAsync(start)).Workflow;

        foreach (var filter in new Pb.ListWorkflowsRequest[]
        {
            new() { WorkflowTypes = { "permit" } },
            new() { States = { "ODD", "NONE" } },
            new() { Statuses = { Pb.WorkflowStatus.Waiting } },
            new() { Metadata = { ["a"] = "1" } },
            new() { Metadata = { ["a"] = "1", ["b"] = "2" } },
            new() { UpdatedAfter = special.UpdatedAt },
        })
        {
            filter.Namespace = @namespace;
            var found = await _server.Workflows.ListWorkflowsAsync(filter);
            Assert.That(found.Workflows.Select(w => w.WorkflowId), Is.EqualTo(new[] { "special" }), filter.ToString());
        }
        var others = await _server.Workflows.ListWorkflowsAsync(
            new Pb.ListWorkflowsRequest { Namespace = @namespace, UpdatedBefore = special.UpdatedAt });
        var none = await _server.Workflows.ListWorkflowsAsync(
            new Pb.ListWorkflowsRequest { Namespace = @namespace, Metadata = { ["a"] = "2" } });
        using (Assert.EnterMultipleScope())
        {
            Assert.That(others.Workflows, Has.Count.EqualTo(3));
            Assert.That(none.Workflows, Is.Empty);
        }
    }

    [Test]
    public async Task A_page_token_belongs_to_its_query()
    {
        const string @namespace = "tokens";
        await StartManyAsync(@namespace, 3);
        var token = (await _server.Workflows.ListWorkflowsAsync(
            new Pb.ListWorkflowsRequest { Namespace = @namespace, PageSize = 1 })).NextPageToken;

        foreach (var call in new Func<Task>[]
        {
            async () => await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Namespace = "other", PageToken = token }),
            async () => await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Namespace = @namespace, States = { "NEW" }, PageToken = token }),
            async () => await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Namespace = @namespace, PageToken = "garbage" }),
            async () => await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Namespace = @namespace, PageToken = token[..^1] }),
            async () => await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { Namespace = @namespace, PageToken = token }),
        })
        {
            Assert.That(await ErrorAssert.InvalidFieldsAsync(call), Is.EqualTo(new[] { "page_token" }));
        }
        Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.ListWorkflowsAsync(
            new Pb.ListWorkflowsRequest { PageSize = 1001 })), Is.EqualTo(new[] { "page_size" }));
    }

    [TestCase(false, 4u)]
    [TestCase(true, 4u)]
    [TestCase(false, 11u)]
    [TestCase(true, 11u)]
    public async Task Records_of_a_workflow_are_paged_both_ways(bool descending, uint pageSize)
    {
        var id = await ChainAsync(11);

        var sequences = (await AllRecordsAsync(new Pb.ListRecordsRequest
        {
            WorkflowId = id,
            Descending = descending,
            PageSize = pageSize,
        })).Select(r => (int)r.Sequence);

        var expected = Enumerable.Range(1, 11);
        Assert.That(sequences, Is.EqualTo(descending ? expected.Reverse() : expected));
    }

    [TestCase(false)]
    [TestCase(true)]
    public async Task Records_of_a_namespace_are_found_by_actor_and_time(bool descending)
    {
        var @namespace = $"audit-{descending}";
        var records = new List<Pb.Record>();
        for (var i = 0; i < 6; i++)
        {
            var start = Given.Start($"{i}");
            (start.Namespace, start.Actor) = (@namespace, i % 2 == 0 ? "alice" : "bob");
            records.Add((await _server.Workflows.StartWorkflowAsync(start)).Record);
        }

        var ofAlice = await AllRecordsAsync(new Pb.ListRecordsRequest
        {
            Namespace = @namespace,
            Actor = "alice",
            Descending = descending,
            PageSize = 2,
        });
        var between = await AllRecordsAsync(new Pb.ListRecordsRequest
        {
            Namespace = @namespace,
            RecordedAfter = records[2].RecordedAt,
            RecordedBefore = records[4].RecordedAt,
            Descending = descending,
        });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(ofAlice.Select(r => r.WorkflowId), Is.EqualTo(descending ? ["4", "2", "0"] : new[] { "0", "2", "4" }));
            Assert.That(between.Select(r => r.WorkflowId), Is.EquivalentTo(records
                .Where(r => r.RecordedAt >= records[2].RecordedAt && r.RecordedAt < records[4].RecordedAt).Select(r => r.WorkflowId)));
        }
    }

    [Test]
    public async Task Large_pages_are_cut_before_a_default_client_cannot_take_them()
    {
        const string @namespace = "large";
        var big = new string('m', 16_000);
        await Task.WhenAll(Enumerable.Range(0, 300).Select(async i =>
        {
            var start = Given.Start($"{i:000}");
            (start.Namespace, start.Reason) = (@namespace, new string('r', 4096));
            start.Metadata.Add("big", big);
            await _server.Workflows.StartWorkflowAsync(start);
        }));

        var first = await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { Namespace = @namespace, PageSize = 1000 });
        var all = await AllRecordsAsync(new Pb.ListRecordsRequest { Namespace = @namespace, PageSize = 1000 });
        var workflows = await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Namespace = @namespace, PageSize = 1000 });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(first.CalculateSize(), Is.LessThanOrEqualTo(3_932_160));
            Assert.That(first.NextPageToken, Is.Not.Empty);
            Assert.That(all.Select(r => r.WorkflowId).ToHashSet(), Has.Count.EqualTo(300));
            Assert.That(workflows.CalculateSize(), Is.LessThanOrEqualTo(3_932_160));
        }
    }

    [Test]
    public async Task A_long_chain_is_resumed_with_what_fits_and_the_rest_is_listed()
    {
        var id = await Given.WorkflowAsync(_server, "S0");
        for (var i = 0; i < 60; i++)
        {
            var move = Given.Move(id, $"S{i}", $"S{i + 1}");
            move.Metadata.Add("big", new string('m', 16_000));
            await _server.Workflows.TransitionWorkflowAsync(move);
        }

        var resumed = await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(resumed.MoreRecords, Is.True);
            Assert.That(resumed.RecordsSince.Select(r => (int)r.Sequence), Is.EqualTo(Enumerable.Range(1, resumed.RecordsSince.Count)));
            Assert.That(resumed.RecordsSince, Has.Count.InRange(1, 60));
            Assert.That(resumed.Workflow.State, Is.EqualTo("S60"));
        }
    }

    [Test]
    public async Task A_read_waits_for_the_log_it_was_told_of_and_gives_up_at_its_deadline()
    {
        var id = await Given.WorkflowAsync(_server);
        var size = (await _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id })).LogSize;

        var waiting = _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id, MinLogSize = size + 1 });
        await Task.Delay(100);
        await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"));
        var late = await Assert.ThrowsAsync<RpcException>(async () => await _server.Workflows.GetWorkflowAsync(
            new Pb.GetWorkflowRequest { WorkflowId = id, MinLogSize = size + 1_000_000 }, deadline: DateTime.UtcNow.AddMilliseconds(300)));
        var info = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id, MinLogSize = ulong.MaxValue }),
            "CURSOR_AHEAD_OF_LOG", StatusCode.OutOfRange);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((await waiting).LogSize, Is.GreaterThan(size));
            Assert.That(late!.StatusCode, Is.EqualTo(StatusCode.DeadlineExceeded));
            Assert.That(info.Metadata, Contains.Key("log_size"));
        }
    }

    [Test]
    public async Task A_write_that_knows_of_a_longer_log_is_refused()
    {
        var start = Given.Start("never");
        start.KnownLogSize = 1_000_000;

        await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.StartWorkflowAsync(start), "CURSOR_AHEAD_OF_LOG", StatusCode.OutOfRange);
    }

    [Test]
    public async Task Forks_say_what_is_wrong_with_their_source_and_are_replayed_all_the_same()
    {
        var id = await ChainAsync(3);
        var fork = new Pb.StartWorkflowRequest
        {
            WorkflowId = $"{id}-fork",
            WorkflowType = "order",
            RequestId = "fork",
            ForkedFrom = new Pb.ForkPoint { WorkflowId = id, Sequence = 2 },
        };

        var first = await _server.Workflows.StartWorkflowAsync(fork);
        var again = await _server.Workflows.StartWorkflowAsync(fork);
        foreach (var (source, reason, code) in new[]
        {
            (new Pb.ForkPoint { WorkflowId = id, Sequence = 99 }, "RECORD_NOT_FOUND", StatusCode.NotFound),
            (new Pb.ForkPoint { WorkflowId = "nobody", Sequence = 1 }, "WORKFLOW_NOT_FOUND", StatusCode.NotFound),
            (new Pb.ForkPoint { WorkflowId = id, Sequence = 1, Hash = first.Record.Hash }, "HASH_MISMATCH", StatusCode.Aborted),
        })
        {
            var wrong = new Pb.StartWorkflowRequest { WorkflowId = "never", WorkflowType = "order", ForkedFrom = source };
            await ErrorAssert.RefusedAsync(async () => await _server.Workflows.StartWorkflowAsync(wrong), reason, code);
        }
        // The first request said nothing of them, and took the source's.
        var other = new Pb.StartWorkflowRequest(fork) { InitialState = "OTHER" };
        var otherState = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.StartWorkflowAsync(other), "REQUEST_ID_REUSED", StatusCode.AlreadyExists);
        fork.ForkedFrom.Sequence = 1;
        var reused = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.StartWorkflowAsync(fork), "REQUEST_ID_REUSED", StatusCode.AlreadyExists);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(again.Replayed, Is.True);
            Assert.That(again.Record, Is.EqualTo(first.Record));
            Assert.That(otherState.Metadata["field"], Is.EqualTo("initial_state"));
            Assert.That(reused.Metadata["field"], Is.EqualTo("forked_from"));
        }
    }

    private async Task StartManyAsync(string @namespace, int count)
    {
        for (var i = 0; i < count; i++)
        {
            var start = Given.Start($"{i}");
            start.Namespace = @namespace;
            await _server.Workflows.StartWorkflowAsync(start);
        }
    }

    private async Task<string> ChainAsync(int records)
    {
        var id = await Given.WorkflowAsync(_server, "S1");
        for (var i = 1; i < records; i++)
            await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, $"S{i}", $"S{i + 1}"));
        return id;
    }

    private async Task<List<Pb.Record>> AllRecordsAsync(Pb.ListRecordsRequest request)
    {
        var records = new List<Pb.Record>();
        do
        {
            var page = await _server.Workflows.ListRecordsAsync(request);
            records.AddRange(page.Records);
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
        return records;
    }
}
