using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Tests;

// What is looked for is found, in order and page by page.
public abstract partial class LedgerStoreContract
{
    [Test]
    public async Task Workflows_are_listed_by_every_filter_in_order_of_creation()
    {
        await WriteAsync(Store,
            Ask.Start("a", parts: Ask.Parts(metadata: Ask.Metadata(("team", "ü"), ("tier", "1")))),
            Ask.Start("b") with { WorkflowType = "loan" },
            Ask.Start("c", parts: Ask.Parts(metadata: Ask.Metadata(("team", "ü"), ("tier", "2")))) with { Status = WorkflowStatus.Waiting },
            Ask.Start("d") with { Key = new WorkflowKey("other", "d") });
        await Task.Delay(5);
        var moved = await WriteAsync(Ask.Move("b", "NEW", "PAID"));
        await WriteAsync(Ask.Move("a", "NEW", "DONE") with { Status = WorkflowStatus.Completed });
        var all = new WorkflowFilter(Ask.Namespace);

        using (Assert.EnterMultipleScope())
        {
            await ListAsync(all, "a", "b", "c");
            await ListAsync(all with { Namespace = "other" }, "d");
            await ListAsync(all with { Namespace = "none" });
            await ListAsync(all with { WorkflowTypes = ["loan", "unknown"] }, "b");
            await ListAsync(all with { States = ["NEW", "DONE"] }, "a", "c");
            await ListAsync(all with { Statuses = [WorkflowStatus.Running] }, "b");
            await ListAsync(all with { Statuses = [WorkflowStatus.Running, WorkflowStatus.Waiting] }, "b", "c");
            await ListAsync(all with { Statuses = [WorkflowStatus.Completed] }, "a");
            await ListAsync(all with { Statuses = [WorkflowStatus.Completed, WorkflowStatus.Waiting] }, "a", "c");
            await ListAsync(all with { Metadata = Ask.Metadata(("team", "ü")) }, "a", "c");
            await ListAsync(all with { Metadata = Ask.Metadata(("team", "ü"), ("tier", "2")) }, "c");
            await ListAsync(all with { Metadata = Ask.Metadata(("team", "")) });
            await ListAsync(all with { UpdatedAfter = moved.Record.RecordedAt }, "a", "b");
            await ListAsync(all with { UpdatedBefore = moved.Record.RecordedAt }, "c");
            await ListAsync(all with { WorkflowTypes = ["order"], States = ["NEW"], Statuses = [WorkflowStatus.Waiting], Metadata = Ask.Metadata(("tier", "2")) }, "c");
        }

        async Task ListAsync(WorkflowFilter filter, params string[] expected) => Assert.That(
            (await Store.ListWorkflowsAsync(filter, -1, 100, default)).Select(w => w.Key.WorkflowId), Is.EqualTo(expected), filter.ToString());
    }

    [Test]
    public async Task What_a_worker_may_take_is_listed_by_its_filter_and_nothing_that_is_still_imported()
    {
        await WriteAsync(Store,
            Ask.Start("a"),
            Ask.Start("b") with { WorkflowType = "loan" },
            Ask.Start("c") with { Status = WorkflowStatus.Waiting },
            Ask.Start("d") with { Key = new WorkflowKey("other", "d") },
            Ask.Start("e"),
            Ask.Start("f"));
        await WriteAsync(Ask.Move("a", "NEW", "DONE") with { Status = WorkflowStatus.Completed });
        await WriteAsync(Ask.Move("e", "NEW", "PAID"));
        await Tampering.RunAsync(Database, "UPDATE workflow SET importing = true WHERE workflow_id = 'f'");
        var running = new PendingFilter(Ask.Namespace, [], [], [WorkflowStatus.Running]);

        using (Assert.EnterMultipleScope())
        {
            await ListAsync(running, "b", "e");
            await ListAsync(running with { Statuses = [WorkflowStatus.Running, WorkflowStatus.Waiting] }, "b", "c", "e");
            await ListAsync(running with { WorkflowTypes = ["order", "unknown"] }, "e");
            await ListAsync(running with { States = ["NEW"] }, "b");
            await ListAsync(running with { Namespace = "other" }, "d");
            var first = (await Store.ListPendingAsync(running, -1, 1, default)).Single();
            Assert.That(first.Key, Is.EqualTo(Ask.Key("b")));
            Assert.That(first.CreatedLogIndex, Is.EqualTo((await Store.FindWorkflowAsync(first.Key, default))!.CreatedLogIndex));
            Assert.That((await Store.ListPendingAsync(running, first.CreatedLogIndex, 9, default)).Select(w => w.Key.WorkflowId),
                Is.EqualTo(new[] { "e" }));
        }

        async Task ListAsync(PendingFilter filter, params string[] expected) => Assert.That(
            (await Store.ListPendingAsync(filter, -1, 100, default)).Select(w => w.Key.WorkflowId), Is.EqualTo(expected), filter.ToString());
    }

    [Test]
    public async Task Metadata_is_found_whatever_characters_it_has()
    {
        var odd = Ask.Metadata(("\"quoted\\\"", "tab\tline\n"), ("a.b[0]", "$.x"), ("😀", "～"), ("'", "%_"));
        await WriteAsync(Ask.Start("w", parts: Ask.Parts(metadata: odd)));

        var found = await Store.ListWorkflowsAsync(new WorkflowFilter(Ask.Namespace) { Metadata = odd }, -1, 10, default);

        Assert.That(found.Select(w => w.Metadata), Is.EqualTo(new[] { odd }));
    }

    [Test]
    public async Task Pages_of_workflows_follow_each_other()
    {
        await WriteAsync(Store, [.. Enumerable.Range(0, 7).Select(i => Ask.Start($"w{i}"))]);
        List<string> read = [];
        for (var after = -1L; ;)
        {
            var page = await Store.ListWorkflowsAsync(new WorkflowFilter(Ask.Namespace), after, 3, default);
            read.AddRange(page.Select(w => w.Key.WorkflowId));
            if (page.Count < 3)
                break;
            after = page[^1].CreatedLogIndex;
        }

        Assert.That(read, Is.EqualTo(Enumerable.Range(0, 7).Select(i => $"w{i}")));
    }

    [Test]
    public async Task Workflows_are_counted_by_type_state_and_status()
    {
        await WriteAsync(Store, Ask.Start("a"), Ask.Start("b"), Ask.Start("c") with { WorkflowType = "loan" },
            Ask.Move("b", "NEW", "DONE") with { Status = WorkflowStatus.Completed }, Ask.Start("d"));

        var counts = await Store.CountWorkflowsAsync(Ask.Namespace, default);

        Assert.That(counts, Is.EqualTo(new[]
        {
            new WorkflowCount("loan", "NEW", WorkflowStatus.Running, 1),
            new WorkflowCount("order", "DONE", WorkflowStatus.Completed, 1),
            new WorkflowCount("order", "NEW", WorkflowStatus.Running, 2),
        }));
    }

    [Test]
    public async Task A_chain_is_read_upwards_and_downwards_from_any_sequence()
    {
        await WriteAsync(Store, Ask.Start("w"), Ask.Move("w", "NEW", "A"), Ask.Move("w", "A", "B"), Ask.Start("other"), Ask.Move("w", "B", "C"));

        using (Assert.EnterMultipleScope())
        {
            await ReadAsync(1, false, 10, 1, 2, 3, 4);
            await ReadAsync(2, false, 2, 2, 3);
            await ReadAsync(5, false, 10);
            await ReadAsync(long.MaxValue, true, 10, 4, 3, 2, 1);
            await ReadAsync(3, true, 2, 3, 2);
        }

        async Task ReadAsync(long from, bool descending, int limit, params long[] expected) => Assert.That(
            (await Store.ReadChainAsync(Ask.Key("w"), from, descending, limit, default)).Select(r => r.Record.Sequence), Is.EqualTo(expected));
    }

    [Test]
    public async Task Records_are_listed_by_every_filter_in_the_order_of_the_log()
    {
        await WriteAsync(Store, Ask.Start("a", parts: Ask.Parts("alice")), Ask.Start("b", parts: Ask.Parts("bob", principal: "cn=bob")));
        await Task.Delay(5);
        var third = await WriteAsync(Ask.Move("a", "NEW", "PAID", parts: Ask.Parts("bob")));
        await WriteAsync(Ask.Start("c", parts: Ask.Parts("alice")) with { Key = new WorkflowKey("other", "c"), WorkflowType = "loan" });
        var all = new RecordFilter();

        using (Assert.EnterMultipleScope())
        {
            await ListAsync(all, 0, 1, 2, 3, 4);
            await ListAsync(all with { Namespace = Ask.Namespace }, 1, 2, 3);
            await ListAsync(all with { Namespace = Ask.Namespace, WorkflowId = "a" }, 1, 3);
            await ListAsync(all with { WorkflowType = "loan" }, 4);
            await ListAsync(all with { Namespace = Ask.Namespace, Actor = "alice" }, 1);
            await ListAsync(all with { Namespace = Ask.Namespace, Principal = "cn=bob" }, 2);
            await ListAsync(all with { Namespace = Ask.Namespace, Actor = "" });
            await ListAsync(all with { Namespace = "other", Actor = "alice" }, 4);
            await ListAsync(all with { RecordedAfter = third.Record.RecordedAt }, 3, 4);
            await ListAsync(all with { RecordedBefore = third.Record.RecordedAt, Namespace = Ask.Namespace }, 1, 2);
        }
        using (Assert.EnterMultipleScope())
        {
            Assert.That((await Store.ListRecordsAsync(all, 2, descending: false, 2, default)).Select(r => r.LogIndex), Is.EqualTo(new[] { 2, 3 }));
            Assert.That((await Store.ListRecordsAsync(all, 3, descending: true, 2, default)).Select(r => r.LogIndex), Is.EqualTo(new[] { 3, 2 }));
        }

        async Task ListAsync(RecordFilter filter, params long[] expected)
        {
            var up = await Store.ListRecordsAsync(filter, 0, descending: false, 100, default);
            var down = await Store.ListRecordsAsync(filter, long.MaxValue, descending: true, 100, default);
            Assert.That(up.Select(r => r.LogIndex), Is.EqualTo(expected), filter.ToString());
            Assert.That(down.Select(r => r.LogIndex), Is.EqualTo(expected.Reverse()), filter.ToString());
        }
    }

    [Test]
    public async Task The_checkpoint_of_a_point_in_time_is_the_newest_before_it()
    {
        await WriteAsync(Ask.Start("w"));
        var first = await WriteAsync(Ask.Checkpoint("w", "one", 1));
        await WriteAsync(Ask.Move("w", "NEW", "PAID"));
        await Task.Delay(5);
        var second = await WriteAsync(Ask.Checkpoint("w", "two", 3));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(await FindAsync(long.MaxValue, long.MaxValue), Is.EqualTo(4));
            Assert.That(await FindAsync(4, long.MaxValue), Is.EqualTo(4));
            Assert.That(await FindAsync(3, long.MaxValue), Is.EqualTo(2));
            Assert.That(await FindAsync(1, long.MaxValue), Is.Null);
            Assert.That(await FindAsync(long.MaxValue, second.Record.RecordedAt), Is.EqualTo(4));
            Assert.That(await FindAsync(long.MaxValue, second.Record.RecordedAt - 1), Is.EqualTo(2));
            Assert.That(await FindAsync(long.MaxValue, first.Record.RecordedAt - 1), Is.Null);
        }

        async Task<long?> FindAsync(long maxSequence, long asOf) =>
            (await Store.FindCheckpointAsync(Ask.Key("w"), maxSequence, asOf, default))?.Record.Sequence;
    }

    [Test]
    public async Task A_checkpoint_whose_description_was_erased_is_still_the_newest()
    {
        await WriteAsync(Ask.Start("w", parts: Ask.Parts(snapshot: "one"u8.ToArray())));
        var last = await WriteAsync(Ask.Checkpoint("w", "two", 1));
        await EraseAsync(last, "2", "snapshot", new ErasedValues(Ask.Key("w"), 2, false, false, true, Hash.Of("two"u8)));

        var found = await Store.FindCheckpointAsync(Ask.Key("w"), long.MaxValue, long.MaxValue, default);

        Assert.That((found!.Record.Sequence, found.Record.IsCheckpoint, found.Record.Snapshot), Is.EqualTo((2L, true, (SnapshotPart?)null)),
            "An older state must not pass for the newest.");
    }

    [Test]
    public async Task What_is_not_there_is_null_or_empty()
    {
        using (Assert.EnterMultipleScope())
        {
            Assert.That(await Store.FindWorkflowAsync(Ask.Key("absent"), default), Is.Null);
            Assert.That(await ChainAsync("absent"), Is.Empty);
            Assert.That(await Store.FindCheckpointAsync(Ask.Key("absent"), long.MaxValue, long.MaxValue, default), Is.Null);
            Assert.That(await Store.ReadSnapshotAsync(Ask.Key("absent"), default, default), Is.Null);
            Assert.That(await Store.CountWorkflowsAsync("absent", default), Is.Empty);
        }
    }

    [Test]
    public async Task A_probe_tells_size_clock_and_that_it_takes_writes()
    {
        var probe = await Store.ProbeAsync(default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((probe.IsWritable, probe.LogSize), Is.EqualTo((true, 1L)));
            Assert.That(DateTime.UnixEpoch.AddMicroseconds(probe.Clock), Is.EqualTo(DateTime.UtcNow).Within(TimeSpan.FromMinutes(1)));
            Assert.That((await Store.ReadHeadAsync(default))?.LogId, Is.EqualTo(Ask.LogId));
        }
    }

    [Test]
    public async Task What_workflows_go_on_from_is_read_in_one_look()
    {
        var (small, large) = ("small"u8.ToArray(), new byte[2000]);
        await WriteAsync(Ask.Start("none"));
        await WriteAsync(Ask.Start("since", parts: Ask.Parts(snapshot: "old"u8.ToArray())));
        await WriteAsync(Ask.Move("since", "NEW", "A", parts: Ask.Parts(snapshot: small)));
        foreach (var (from, to) in new[] { ("A", "B"), ("B", "C"), ("C", "D") })
            await WriteAsync(Ask.Move("since", from, to));
        await WriteAsync(Ask.Start("large", parts: Ask.Parts(snapshot: large)));

        var read = await Store.ReadResumableAsync(
            [Ask.Key("since"), Ask.Key("absent"), Ask.Key("none"), Ask.Key("large")], 3, 1000, default);

        var found = read.ToDictionary(r => r.Workflow.Key.WorkflowId);
        var chain = await ChainAsync("since");
        using (Assert.EnterMultipleScope())
        {
            Assert.That(found.Keys, Is.EquivalentTo(new[] { "since", "none", "large" }));
            foreach (var (id, resumable) in found)
                Assert.That(resumable.Workflow, Is.EqualTo(await Store.FindWorkflowAsync(Ask.Key(id), default)));
            Assert.That(found["since"].Records.Select(r => r.Record.Sequence), Is.EqualTo(new[] { 2, 3, 4 }), "From the checkpoint, and no more than asked for.");
            Assert.That(found["since"].Records.Select(r => r.Hash), Is.EqualTo(chain.Skip(1).Take(3).Select(r => r.Hash)));
            Assert.That(found["since"].Records, Has.All.Matches<StoredRecord>(r => r!.IsConsistent()));
            Assert.That(found["since"].Snapshot, Is.EqualTo(small));
            Assert.That(found["none"].Records, Has.Count.EqualTo(1));
            Assert.That(found["none"].Snapshot, Is.Null);
            Assert.That(found["large"].Snapshot, Is.Null, "Larger than asked for.");
            Assert.That(found["large"].Records, Has.Count.EqualTo(1));
            Assert.That(await Store.ReadResumableAsync([], 3, 1000, default), Is.Empty);
        }
    }
}
