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
    public async Task Under_load_two_servers_keep_one_log_without_a_gap_though_one_is_killed()
    {
        await using var killed = await ServerProcess.StartAsync(_one.Connection);
        var loads = new[] { new CrashLoad(killed.Channel, "killed"), new CrashLoad(_two.Channel, "other") };
        var running = loads.Select(load => load.RunAsync(16, TimeSpan.FromSeconds(3))).ToList();
        await Task.Delay(1500);
        await killed.KillAsync();
        await killed.RestartAsync();
        await Task.WhenAll(running);

        foreach (var load in loads)
        {
            Assert.That(load.Acknowledged, Is.GreaterThan(100));
            Assert.That(await load.CheckAsync(), Is.EqualTo((0, 0)), "lost, doubled");
            await load.CheckLogAsync();
        }
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

    [Test]
    public async Task Callers_of_both_with_one_request_id_make_one_record()
    {
        var id = await Given.WorkflowAsync(_one);
        var move = new Pb.TransitionWorkflowRequest(Given.Move(id, "NEW", "PAID")) { RequestId = "pay" };

        var answers = await Task.WhenAll(Enumerable.Range(0, 20)
            .Select(async i => await (i % 2 == 0 ? _one : _two).Workflows.TransitionWorkflowAsync(move)));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answers.Count(a => a.Replayed), Is.EqualTo(19));
            // Their heads may differ: each is the newest when it was answered, and others write too.
            Assert.That(answers.Select(a => (a.Receipt.RecordHash, a.Receipt.LogIndex)).Distinct().Count(), Is.EqualTo(1));
        }
    }

    [Test]
    public async Task Of_callers_of_both_that_move_from_one_point_exactly_one_succeeds()
    {
        var id = await Given.WorkflowAsync(_one);

        var outcomes = await Task.WhenAll(Enumerable.Range(0, 20).Select(async i =>
        {
            try
            {
                await (i % 2 == 0 ? _one : _two).Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", $"S{i}"));
                return StatusCode.OK;
            }
            catch (RpcException e)
            {
                return e.StatusCode;
            }
        }));

        Assert.That(outcomes.Order(), Is.EqualTo(Enumerable.Repeat(StatusCode.Aborted, 19).Prepend(StatusCode.OK)));
    }

    [Test]
    public async Task Workers_of_both_share_what_is_pending()
    {
        await Task.WhenAll(Enumerable.Range(0, 120).Select(async i => await _one.Workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest(Given.Start($"{i}")) { Namespace = "shared" })));

        var shares = await Task.WhenAll(Enumerable.Range(0, 6).Select(async worker =>
        {
            using var call = (worker % 2 == 0 ? _one : _two).Recovery.ResumePendingWorkflows(
                new Pb.ResumePendingWorkflowsRequest { Namespace = "shared", Owner = $"w{worker}" });
            var ids = new List<string>();
            await foreach (var message in call.ResponseStream.ReadAllAsync())
                ids.AddRange(message.Resumed is { } one ? [one.Workflow.WorkflowId] : []);
            return ids;
        }));

        Assert.That(shares.SelectMany(s => s).Order(), Is.EqualTo(Enumerable.Range(0, 120).Select(i => $"{i}").Order()));
    }

    [Test]
    public async Task The_history_of_the_log_stays_whole_when_both_import()
    {
        await using var source = await TestServer.StartAsync(Database.Sqlite);
        var exports = new List<byte[]>();
        for (var i = 0; i < 10; i++)
        {
            var id = await Given.WorkflowAsync(source);
            exports.Add(await Exports.ReadAsync(source, new Pb.ExportWorkflowsRequest { WorkflowId = id }));
        }

        var outcomes = await Task.WhenAll(exports.Select((export, i) => Exports.ImportAsync(i % 2 == 0 ? _one : _two, export, takeOver: true)));
        var verified = await _one.Integrity.VerifyWorkflowAsync(
            new Pb.VerifyWorkflowRequest { Namespace = "aegis.system", WorkflowId = "log" });
        using var watch = _two.Workflows.WatchRecords(new Pb.WatchRecordsRequest { Namespace = "aegis.system", FromLogIndex = 0 });
        var states = new List<string>();
        while (states.Count < 11 && await watch.ResponseStream.MoveNext(CancellationToken.None))
            states.AddRange(watch.ResponseStream.Current.Record is { } record ? [record.ToState] : []);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcomes.Select(o => o.Single().Outcome), Is.All.EqualTo(Pb.ImportOutcome.Imported));
            Assert.That((verified.Intact, verified.RecordsVerified), Is.EqualTo((true, 11UL)));
            Assert.That(states, Is.EqualTo(Enumerable.Repeat("IMPORTED", 10).Prepend("OPEN")));
        }
    }
}
