using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Sharing what is pending among workers.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class ResumePendingTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task Of_many_workers_at_once_each_workflow_goes_to_exactly_one()
    {
        const string @namespace = "shared";
        await StartManyAsync(@namespace, 250);

        var shares = await Task.WhenAll(Enumerable.Range(0, 6)
            .Select(worker => ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = $"w{worker}" })));

        var ids = shares.SelectMany(s => s.Resumed.Select(r => r.Workflow.WorkflowId)).ToList();
        using (Assert.EnterMultipleScope())
        {
            Assert.That(ids, Is.Unique);
            Assert.That(ids, Has.Count.EqualTo(250));
            Assert.That(shares.Sum(s => (long)s.Summary!.Resumed), Is.EqualTo(250));
        }
    }

    [Test]
    public async Task What_others_hold_is_counted_and_left_to_them()
    {
        const string @namespace = "held";
        await StartManyAsync(@namespace, 5);
        await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "first", MaxWorkflows = 3 });

        var second = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "second" });

        Assert.That((second.Summary!.Resumed, second.Summary.HeldByOthers, second.Summary.Failed), Is.EqualTo((2UL, 3UL, 0UL)));
    }

    [Test]
    public async Task An_owner_that_crashed_takes_its_own_over_at_once()
    {
        const string @namespace = "own";
        await StartManyAsync(@namespace, 3);
        var before = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "w" });

        var plain = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "w" });
        var taken = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = @namespace,
            Owner = "w",
            TakeOverOwn = true,
        });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(plain.Resumed, Is.Empty);
            Assert.That(taken.Resumed, Has.Count.EqualTo(3));
            Assert.That(taken.Resumed.Min(r => r.Lease.Epoch), Is.GreaterThan(before.Resumed.Max(r => r.Lease.Epoch)));
        }
    }

    [Test]
    public async Task Filters_and_statuses_choose_what_is_resumed()
    {
        const string @namespace = "filtered";
        await StartAsync(@namespace, "a", "order", "NEW");
        await StartAsync(@namespace, "b", "order", "PAID");
        await StartAsync(@namespace, "c", "permit", "NEW");
        await StartAsync(@namespace, "d", "order", "NEW", Pb.WorkflowStatus.Waiting);

        var orders = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = @namespace,
            Owner = "w",
            WorkflowTypes = { "order" },
            States = { "NEW" },
        });
        var waiting = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = @namespace,
            Owner = "w",
            Statuses = { Pb.WorkflowStatus.Waiting },
        });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(orders.Resumed.Select(r => r.Workflow.WorkflowId), Is.EqualTo(new[] { "a" }));
            Assert.That(waiting.Resumed.Select(r => r.Workflow.WorkflowId), Is.EqualTo(new[] { "d" }));
        }
    }

    [Test]
    public async Task Snapshots_are_left_out_when_asked()
    {
        const string @namespace = "omitted";
        var start = Given.Start("a");
        (start.Namespace, start.Snapshot) = (@namespace, Given.Snapshot("content"));
        await _server.Workflows.StartWorkflowAsync(start);

        var without = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = @namespace,
            Owner = "w",
            OmitSnapshots = true,
        });
        var with = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = @namespace,
            Owner = "w",
            TakeOverOwn = true,
        });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(without.Resumed[0].Checkpoint.Snapshot, Is.Null);
            Assert.That(without.Resumed[0].Checkpoint.Record.SnapshotSize, Is.EqualTo(7));
            Assert.That(with.Resumed[0].Checkpoint.Snapshot.Content.ToStringUtf8(), Is.EqualTo("content"));
        }
    }

    [Test]
    public async Task A_caller_that_goes_away_strands_nothing()
    {
        const string @namespace = "gone";
        await StartManyAsync(@namespace, 150);
        var taken = new List<string>();
        using (var call = _server.Recovery.ResumePendingWorkflows(new Pb.ResumePendingWorkflowsRequest
        {
            Namespace = @namespace,
            Owner = "gone",
            LeaseDuration = Duration.FromTimeSpan(TimeSpan.FromSeconds(2)),
        }))
        {
            while (taken.Count < 10 && await call.ResponseStream.MoveNext(CancellationToken.None))
                taken.Add(call.ResponseStream.Current.Resumed.Workflow.WorkflowId);
        }

        var later = new HashSet<string>();
        for (var until = DateTime.UtcNow.AddSeconds(30); later.Count < 150 && DateTime.UtcNow < until; await Task.Delay(200))
        {
            var share = await ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "next" });
            later.UnionWith(share.Resumed.Select(r => r.Workflow.WorkflowId));
        }

        Assert.That(later, Has.Count.EqualTo(150), "Some workflows were never claimable again.");
    }

    [Test]
    public async Task One_whose_head_was_altered_fails_alone_and_is_told()
    {
        // A server of its own: while nobody else writes, it does not go on from what it remembers.
        await using var server = await TestServer.StartAsync(database);
        foreach (var id in new[] { "0", "1", "2" })
            await server.Workflows.StartWorkflowAsync(Given.Start(id));
        await Task.Delay(300);
        await Tampering.RunAsync(server, "UPDATE workflow SET updated_at = updated_at + 1 WHERE workflow_id = '1'");

        var share = await ResumeAllAsync(server, new Pb.ResumePendingWorkflowsRequest { Owner = "w" });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(share.Resumed.Select(r => r.Workflow.WorkflowId), Is.EquivalentTo(new[] { "0", "2" }));
            Assert.That(share.Failed.Select(f => f.WorkflowId), Is.EqualTo(new[] { "1" }));
            // The audit may be there before.
            Assert.That(share.Failed.Select(f => f.Reason), Is.SubsetOf(new[] { "CHAIN_BROKEN", "WORKFLOW_QUARANTINED" }));
        }
        await Until.TrueAsync(async () => (await server.Integrity.ListViolationsAsync(
            new Pb.ListViolationsRequest())).Violations.Any(v => v.Class == Pb.ViolationClass.WorkflowHeadModified));
    }

    [Test]
    public async Task A_closed_status_cannot_be_asked_for()
    {
        var fields = await ErrorAssert.InvalidFieldsAsync(() => ResumeAllAsync(new Pb.ResumePendingWorkflowsRequest
        {
            Owner = "w",
            Statuses = { Pb.WorkflowStatus.Completed },
        }));

        Assert.That(fields, Is.EqualTo(new[] { "statuses" }));
    }

    private async Task StartManyAsync(string @namespace, int count) =>
        await Task.WhenAll(Enumerable.Range(0, count).Select(i => StartAsync(@namespace, $"{i}", "order", "NEW")));

    private async Task StartAsync(string @namespace, string id, string type, string state,
        Pb.WorkflowStatus status = Pb.WorkflowStatus.Running) =>
        await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest
        {
            Namespace = @namespace,
            WorkflowId = id,
            WorkflowType = type,
            InitialState = state,
            Status = status,
        });

    private Task<Share> ResumeAllAsync(Pb.ResumePendingWorkflowsRequest request) => ResumeAllAsync(_server, request);

    private static async Task<Share> ResumeAllAsync(TestServer server, Pb.ResumePendingWorkflowsRequest request)
    {
        var share = new Share();
        using var call = server.Recovery.ResumePendingWorkflows(request);
        await foreach (var message in call.ResponseStream.ReadAllAsync())
        {
            if (message.Resumed is { } resumed)
                share.Resumed.Add(resumed);
            if (message.Failed is { } failed)
                share.Failed.Add(failed);
            share.Summary = message.Summary ?? share.Summary;
        }
        return share;
    }

    private sealed class Share
    {
        public List<Pb.ResumeWorkflowResponse> Resumed { get; } = [];
        public List<Pb.ResumeFailure> Failed { get; } = [];
        public Pb.ResumeSummary? Summary { get; set; }
    }
}
