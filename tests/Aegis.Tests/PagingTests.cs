using System.Diagnostics;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Pages under filters, while others write, and the tokens between them; reads of a log that does not come.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class PagingTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task Pages_under_every_filter_give_each_match_once_and_in_order()
    {
        const string @namespace = "mixed";
        var all = new List<Pb.Workflow>();
        for (var i = 0; i < 24; i++)
        {
            var start = new Pb.StartWorkflowRequest(Given.Start($"{i:00}", i % 2 == 0 ? "EVEN" : "ODD"))
            {
                Namespace = @namespace,
                WorkflowType = i % 3 == 0 ? "permit" : "order",
                Status = i % 4 == 0 ? Pb.WorkflowStatus.Waiting : Pb.WorkflowStatus.Running,
                Metadata = { ["rest"] = $"{i % 5}", [""] = "" },
            };
            all.Add((await _server.Workflows.StartWorkflowAsync(start)).Workflow);
        }
        var middle = all[12].UpdatedAt;

        foreach (var (filter, matches) in new (Pb.ListWorkflowsRequest, Func<Pb.Workflow, bool>)[]
        {
            (new() { States = { "ODD" } }, w => w.State == "ODD"),
            (new() { WorkflowTypes = { "permit", "none" } }, w => w.WorkflowType == "permit"),
            (new() { Statuses = { Pb.WorkflowStatus.Waiting, Pb.WorkflowStatus.Waiting } }, w => w.Status == Pb.WorkflowStatus.Waiting),
            (new() { Metadata = { ["rest"] = "2", [""] = "" } }, w => w.Metadata["rest"] == "2"),
            (new() { UpdatedAfter = middle }, w => w.UpdatedAt >= middle),
            (new() { UpdatedBefore = middle }, w => w.UpdatedAt < middle),
            (new() { States = { "EVEN" }, WorkflowTypes = { "order" } }, w => w is { State: "EVEN", WorkflowType: "order" }),
        })
        {
            (filter.Namespace, filter.PageSize) = (@namespace, 3);
            var ids = (await AllWorkflowsAsync(filter)).Select(w => w.WorkflowId);
            Assert.That(ids, Is.EqualTo(all.Where(matches).Select(w => w.WorkflowId)), filter.ToString());
        }
    }

    [Test]
    public async Task A_page_has_a_hundred_entries_unless_the_caller_says_and_the_size_may_change_between_pages()
    {
        const string @namespace = "hundred";
        await Task.WhenAll(Enumerable.Range(0, 105).Select(async i => await _server.Workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest(Given.Start($"{i}")) { Namespace = @namespace })));

        var first = await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Namespace = @namespace });
        var second = await _server.Workflows.ListWorkflowsAsync(
            new Pb.ListWorkflowsRequest { Namespace = @namespace, PageToken = first.NextPageToken, PageSize = 3 });
        var records = await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { Namespace = @namespace });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(first.Workflows, Has.Count.EqualTo(100));
            Assert.That(second.Workflows, Has.Count.EqualTo(3));
            Assert.That(second.NextPageToken, Is.Not.Empty);
            Assert.That(records.Records, Has.Count.EqualTo(100));
        }
    }

    [Test]
    public async Task A_token_of_records_belongs_to_its_workflow_and_its_direction()
    {
        var (id, other) = (await Given.WorkflowAsync(_server), await Given.WorkflowAsync(_server));
        await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"));
        var token = (await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = id, PageSize = 1 })).NextPageToken;

        foreach (var request in new Pb.ListRecordsRequest[]
        {
            new() { WorkflowId = other },
            new() { WorkflowId = id, Descending = true },
            new() { WorkflowId = id, Namespace = "other" },
            new(),
            new() { Actor = "alice" },
        })
        {
            request.PageToken = token;
            Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.ListRecordsAsync(request)),
                Is.EqualTo(new[] { "page_token" }), request.ToString());
        }
    }

    [TestCase(false)]
    [TestCase(true)]
    public async Task Pages_of_a_chain_that_grows_meanwhile_have_no_gap_and_no_repeat(bool descending)
    {
        var id = await Given.WorkflowAsync(_server, "S1");
        for (var i = 1; i < 9; i++)
            await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, $"S{i}", $"S{i + 1}"));
        var request = new Pb.ListRecordsRequest { WorkflowId = id, PageSize = 2, Descending = descending };

        var sequences = new List<int>();
        for (var state = 9; ; state++)
        {
            var page = await _server.Workflows.ListRecordsAsync(request);
            sequences.AddRange(page.Records.Select(r => (int)r.Sequence));
            request.PageToken = page.NextPageToken;
            if (page.NextPageToken.Length == 0)
                break;
            if (state < 14)
                await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, $"S{state}", $"S{state + 1}"));
        }

        var expected = Enumerable.Range(1, sequences.Count);
        using (Assert.EnterMultipleScope())
        {
            Assert.That(sequences, Is.EqualTo(descending ? expected.Reverse() : expected));
            Assert.That(sequences, Has.Count.GreaterThanOrEqualTo(9));
        }
    }

    [Test]
    public async Task Metadata_is_found_whatever_its_keys_are_made_of()
    {
        const string @namespace = "odd-keys";
        var keys = new[] { "\"", "\\", "$.a", "a.b[0]", "'; DROP TABLE record; --", "%", "😀", " ", "\n", "null" };
        foreach (var key in keys)
        {
            await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest(Given.Start($"w{key}"))
            {
                Namespace = @namespace,
                Metadata = { [key] = key },
            });
        }

        foreach (var key in keys)
        {
            var found = await _server.Workflows.ListWorkflowsAsync(
                new Pb.ListWorkflowsRequest { Namespace = @namespace, Metadata = { [key] = key } });
            Assert.That(found.Workflows.Select(w => w.WorkflowId), Is.EqualTo(new[] { $"w{key}" }));
        }
    }

    [Test]
    public async Task A_read_of_a_log_that_does_not_come_gives_up_after_five_seconds()
    {
        var id = await Given.WorkflowAsync(_server);
        var watch = Stopwatch.StartNew();

        await Task.WhenAll(new Func<Task>[]
        {
            async () => await _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id, MinLogSize = 1_000_000 }),
            async () => await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { MinLogSize = 1_000_000 }),
            async () => await _server.Workflows.CountWorkflowsAsync(new Pb.CountWorkflowsRequest { MinLogSize = 1_000_000 }),
            async () => await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { MinLogSize = 1_000_000 }),
            async () => await _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id, MinLogSize = 1_000_000 }),
            async () => await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id, MinLogSize = 1_000_000 }),
        }.Select(call => ErrorAssert.RefusedAsync(call, "CURSOR_AHEAD_OF_LOG", StatusCode.OutOfRange)));

        Assert.That(watch.Elapsed.TotalSeconds, Is.InRange(4.5, 15));
    }

    [Test]
    public async Task A_checkpoint_that_no_time_and_no_sequence_has_is_not_found()
    {
        var id = await Given.WorkflowAsync(_server);
        var before = (await Given.ReadAsync(_server, id)).UpdatedAt;
        var stored = (await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = id,
            ExpectedSequence = 1,
            Snapshot = Given.Snapshot("state"),
        })).Record;

        var atTheTime = await _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id, AsOf = stored.RecordedAt });
        foreach (var request in new Pb.GetCheckpointRequest[]
        {
            new() { WorkflowId = id, Sequence = 1 },
            new() { WorkflowId = id, Sequence = 0 },
            new() { WorkflowId = id, AsOf = new() { Seconds = -1 } },
            new() { WorkflowId = id, AsOf = before },
        })
        {
            await ErrorAssert.RefusedAsync(
                async () => await _server.Workflows.GetCheckpointAsync(request), "CHECKPOINT_NOT_FOUND", StatusCode.NotFound);
        }
        var invalid = await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.GetCheckpointAsync(
            new Pb.GetCheckpointRequest { WorkflowId = id, AsOf = new() { Seconds = long.MaxValue } }));
        var tooLarge = await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.GetCheckpointAsync(
            new Pb.GetCheckpointRequest { WorkflowId = id, Sequence = ulong.MaxValue }));

        Assert.That((atTheTime.Record, invalid.Single(), tooLarge.Single()), Is.EqualTo((stored, "as_of", "sequence")));
    }

    [Test]
    public async Task Times_between_two_microseconds_are_bounds_as_exact_as_any()
    {
        var id = await Given.WorkflowAsync(_server);
        var at = (await Given.ReadAsync(_server, id)).UpdatedAt;
        var later = new Google.Protobuf.WellKnownTypes.Timestamp { Seconds = at.Seconds, Nanos = at.Nanos + 500 };

        var before = await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { UpdatedBefore = later, UpdatedAfter = at });
        var after = await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { UpdatedAfter = later });
        var records = await _server.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { RecordedAfter = at, RecordedBefore = later, PageSize = 1000 });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(before.Workflows.Select(w => w.WorkflowId), Does.Contain(id));
            Assert.That(after.Workflows.Select(w => w.WorkflowId), Does.Not.Contain(id));
            Assert.That(records.Records.Select(r => r.WorkflowId), Does.Contain(id));
        }
    }

    private async Task<List<Pb.Workflow>> AllWorkflowsAsync(Pb.ListWorkflowsRequest request)
    {
        var workflows = new List<Pb.Workflow>();
        do
        {
            var page = await _server.Workflows.ListWorkflowsAsync(request);
            workflows.AddRange(page.Workflows);
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);
        return workflows;
    }
}
