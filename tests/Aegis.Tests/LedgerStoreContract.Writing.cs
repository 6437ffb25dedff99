using System.Text;
using Aegis.Core;
using Aegis.Storage;
using Dapper;

namespace Aegis.Tests;

// What is written comes back as it was, or not at all.
public abstract partial class LedgerStoreContract
{
    [Test]
    public async Task Every_field_comes_back_as_it_was_recorded()
    {
        var parts = Ask.Parts("älice 😀", "～ \"why\"\n\t\\", Ask.Metadata(("😀key", "～"), ("", "empty key"), ("empty", ""), ("\"q\\", "\u007f")),
            [], "", "spiffe://principal");
        var large = new byte[Limits.SnapshotBytesMax];
        new Random(1).NextBytes(large);
        Command[] commands =
        [
            Ask.Start("wf ü/1", "réquest", parts) with { InitialState = "zu prüfen", Status = WorkflowStatus.Waiting, OccurredAt = 1 },
            Ask.Move("wf ü/1", "zu prüfen", "ok", "2", Ask.Parts(snapshot: large, contentType: "application/octet-stream; v=2"))
                with { OccurredAt = Limits.TimeMax },
            Ask.Start("plain") with { Owner = "wörker" },
        ];

        var (batch, _) = await WriteBatchAsync(Store, commands);

        using (Assert.EnterMultipleScope())
        {
            await AssertIsStoredAsync(batch, commands.Length);
            Assert.That(await Store.ReadSnapshotAsync(Ask.Key("wf ü/1"), Hash.Of([]), default), Is.EqualTo(Array.Empty<byte>()));
            Assert.That(await Store.ReadSnapshotAsync(Ask.Key("wf ü/1"), Hash.Of(large), default), Is.EqualTo(large));
            Assert.That(await Store.ReadSnapshotAsync(Ask.Key("plain"), Hash.Of(large), default), Is.Null);
            Assert.That(await VerifyAsync("wf ü/1"), Is.Empty);
        }
    }

    /// <summary>Each row with values of its own, or without: none may come to another's.</summary>
    [Test]
    public async Task A_batch_comes_back_whole_however_many_it_holds([Values(2, 64, 65, 130, 256)] int count)
    {
        Command[] commands =
        [
            .. Enumerable.Range(0, count).Select(n => Ask.Start($"w{n}", n % 3 == 0 ? "" : $"r{n}", (n % 4) switch
            {
                0 => Ask.Parts(),
                1 => Ask.Parts($"actor {n}", snapshot: Encoding.UTF8.GetBytes(new string('x', n))),
                2 => Ask.Parts(reason: $"reason {n}", principal: $"principal {n}"),
                _ => Ask.Parts(metadata: Ask.Metadata(("number", $"{n}")), snapshot: Encoding.UTF8.GetBytes($"{n}"), contentType: $"text/{n}"),
            }) with { Owner = n % 5 == 0 ? "" : $"owner {n}" }),
        ];

        var (batch, _) = await WriteBatchAsync(Store, commands);

        using (Assert.EnterMultipleScope())
        {
            await AssertIsStoredAsync(batch, count);
            foreach (var snapshot in batch.Snapshots)
                Assert.That(await Store.ReadSnapshotAsync(snapshot.Key, snapshot.Sha256, default), Is.EqualTo(snapshot.Content.ToArray()));
        }
    }

    /// <summary>The records, after the one that opened the log, and the heads.</summary>
    private async Task AssertIsStoredAsync(LedgerBatch batch, int records)
    {
        var read = (await LogAsync()).Skip(1).ToList();
        Assert.That(read.Select(r => (r.Record, r.Hash, r.LogIndex)), Is.EqualTo(batch.Records.Select(r => (r.Record, r.Hash, r.LogIndex))));
        Assert.That(read.Select(r => Convert.ToHexString(r.Encoded.Span)), Is.EqualTo(batch.Records.Select(r => Convert.ToHexString(r.Encoded.Span))));
        Assert.That(read, Has.Count.EqualTo(records).And.All.Matches<StoredRecord>(r => r!.IsConsistent()));
        foreach (var workflow in batch.Workflows)
            Assert.That(await Store.FindWorkflowAsync(workflow.Key, default), Is.EqualTo(workflow));
    }

    [Test]
    public async Task A_snapshot_is_kept_once_per_workflow()
    {
        await WriteAsync(Ask.Start("w", parts: Ask.Parts(snapshot: "same"u8.ToArray())));
        await WriteAsync(Ask.Checkpoint("w", "same", 1));
        await WriteAsync(Ask.Start("other", parts: Ask.Parts(snapshot: "same"u8.ToArray())));

        await using var connection = await ConnectAsync();

        Assert.That(await connection.QuerySingleAsync<long>("SELECT count(*) FROM snapshot"), Is.EqualTo(2));
    }

    [Test]
    public async Task Forks_and_leases_come_back()
    {
        var source = await WriteAsync(Ask.Start("source"));
        var point = new ForkPoint("source", 1, source.Hash);
        await WriteAsync(Ask.Start("fork") with { ForkedFrom = point });
        await WriteAsync(Store, Ask.Acquire("worker", "fork"));
        var held = (await Store.FindWorkflowAsync(Ask.Key("fork"), default))!;

        await WriteAsync(Store, Ask.Release("worker", "fork", held.Lease!.Epoch));
        var released = (await Store.FindWorkflowAsync(Ask.Key("fork"), default))!;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(held.ForkedFrom, Is.EqualTo(point));
            Assert.That(held.Lease!.Owner, Is.EqualTo("worker"));
            Assert.That(released.Lease, Is.EqualTo(held.Lease.Void()));
            Assert.That((await Store.FindWorkflowAsync(Ask.Key("source"), default))!.Lease, Is.Null);
            Assert.That(await VerifyAsync("fork"), Is.Empty);
        }
    }

    [Test]
    public async Task The_state_of_a_batch_is_what_was_committed()
    {
        var before = DateTime.UtcNow;
        var start = Ask.Start("w", "start");
        var record = await WriteAsync(start);

        await using var transaction = await BeginAsync(Store, start, Ask.Move("absent", "NEW", "X", "unknown"));

        var state = transaction.State;
        using (Assert.EnterMultipleScope())
        {
            Assert.That((state.LogId, state.LogSize, state.LastRecordedAt), Is.EqualTo((Ask.LogId, 2L, record.Record.RecordedAt)));
            Assert.That(state.Workflows.Select(w => (w.Key, w.HeadHash)), Is.EqualTo(new[] { (Ask.Key("w"), record.Hash) }));
            Assert.That(state.KnownRequests.Select(r => (r.Record, r.Hash, r.LogIndex)), Is.EqualTo(new[] { (record.Record, record.Hash, 1L) }));
            Assert.That(DateTime.UnixEpoch.AddMicroseconds(state.Now), Is.EqualTo(before).Within(TimeSpan.FromMinutes(1)));
        }
    }

    [Test]
    public async Task A_batch_may_touch_as_much_as_its_limits_allow()
    {
        Command[] starts = [.. Enumerable.Range(0, Limits.BatchCommandsMax).Select(i => Ask.Start($"w{i}", $"r{i}"))];
        await WriteAsync(Store, starts);
        var acquire = Ask.Acquire("worker", [.. Enumerable.Range(0, Limits.LeasesMax).Select(i => $"w{i}")]);

        var leases = (LeasesDecided)(await WriteAsync(Store, acquire))[0];
        var replayed = await WriteAsync(Store, starts);

        Assert.That(leases.Answers.Count(a => a.Refusal is null), Is.EqualTo(Limits.BatchCommandsMax));
        Assert.That(replayed, Has.All.InstanceOf<Written>().And.All.Property(nameof(Written.Replayed)).True);
    }

    [Test]
    public async Task What_is_not_committed_was_never_written()
    {
        var transaction = await BeginAsync(Store, Ask.Start("w"));
        new LedgerBatch(transaction.State).Decide(Ask.Start("w"));
        await transaction.DisposeAsync();
        await transaction.DisposeAsync();

        var record = await WriteAsync(Ask.Start("w"));

        Assert.That(record.LogIndex, Is.EqualTo(1));
        Assert.That(await ChainAsync("w"), Has.Count.EqualTo(1));
    }

    [Test]
    public async Task Transactions_take_turns()
    {
        var other = OpenAnother();
        var first = await BeginAsync(Store, Ask.Start("w"));
        var second = Task.Run(() => BeginAsync(other, Ask.Start("w")));
        await Task.Delay(300);
        var waited = !second.IsCompleted;
        var batch = new LedgerBatch(first.State);
        batch.Decide(Ask.Start("w"));
        await first.CommitAsync(batch.Sealed());
        await first.DisposeAsync();

        await using var next = await second;

        Assert.That(waited, Is.True);
        Assert.That(next.State.Workflows, Has.Count.EqualTo(1), "It sees what the one before committed.");
        Assert.That(next.State.LogSize, Is.EqualTo(2));
    }

    [Test]
    public async Task A_writer_among_others_is_asked_what_its_batch_touches_once_it_has_the_log()
    {
        var other = OpenAnother();
        var first = await BeginAsync(Store, Ask.Start("w"));
        var isAsked = false;
        var second = Task.Run(() => other.BeginAsync(() =>
        {
            Volatile.Write(ref isAsked, true);
            return new BatchKeys([Ask.Key("w")], []);
        }, Look.OnceLocked, 0, default));
        await Task.Delay(300);
        var wasAsked = Volatile.Read(ref isAsked);
        var batch = new LedgerBatch(first.State);
        batch.Decide(Ask.Start("w"));
        await first.CommitAsync(batch.Sealed());
        await first.DisposeAsync();

        await using var next = await second;

        Assert.That(wasAsked, Is.False);
        Assert.That(next.State.Workflows, Has.Count.EqualTo(1));
        Assert.That(next.State.HashesSince, Has.Count.EqualTo(2));
        var written = new LedgerBatch(next.State);
        written.Decide(Ask.Move("w", "NEW", "PAID"));
        await next.CommitAsync(written.Sealed());
        Assert.That(await VerifyAsync("w"), Is.Empty);
    }

    [Test]
    public async Task Reads_go_on_while_a_transaction_is_open_and_do_not_see_it()
    {
        await WriteAsync(Ask.Start("w"));
        await using var transaction = await BeginAsync(Store, Ask.Move("w", "NEW", "PAID"));
        var during = await ChainAsync("w");
        var batch = new LedgerBatch(transaction.State);
        batch.Decide(Ask.Move("w", "NEW", "PAID"));

        await transaction.CommitAsync(batch.Sealed());

        Assert.That(during, Has.Count.EqualTo(1));
        Assert.That(await ChainAsync("w"), Has.Count.EqualTo(2), "Durable and visible when the commit returns.");
    }

    [Test]
    public async Task Four_writers_give_one_log_without_a_gap()
    {
        const int Writers = 4, Batches = 15;
        await Task.WhenAll(Enumerable.Range(0, Writers).Select(writer => Task.Run(async () =>
        {
            var store = OpenAnother();
            for (var i = 0; i < Batches; i++)
            {
                await WriteAsync(store, Ask.Start($"own {writer} {i}"));
                // All of them move one workflow, from wherever it is.
                var head = (await WriteAsync(store, Ask.Start("shared", "shared")))[0] as Written;
                await WriteAsync(store, Ask.Move("shared", head!.Workflow.State, $"{writer}-{i}"));
            }
        })));

        var records = await Store.ListRecordsAsync(new RecordFilter(), 0, descending: false, 1000, default);
        using (Assert.EnterMultipleScope())
        {
            Assert.That(records.Select(r => r.LogIndex), Is.EqualTo(Enumerable.Range(0, records.Count).Select(i => (long)i)));
            Assert.That(records.Select(r => r.Record.RecordedAt), Is.Ordered);
            Assert.That(records.Count(r => r.Record.WorkflowId.StartsWith("own", StringComparison.Ordinal)), Is.EqualTo(Writers * Batches));
            Assert.That(await VerifyAsync("shared"), Is.Empty);
            Assert.That(await Store.ProbeAsync(default), Has.Property(nameof(StoreProbe.LogSize)).EqualTo(records.Count));
        }
    }

    [Test]
    public async Task A_commit_is_confirmed_when_its_record_is_there()
    {
        var record = await WriteAsync(Ask.Start("w"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(await Store.ConfirmAsync(record.LogIndex, record.Hash, default), Is.True);
            Assert.That(await Store.ConfirmAsync(record.LogIndex, Hash.Of("another"u8), default), Is.False);
            Assert.That(await Store.ConfirmAsync(record.LogIndex + 1, record.Hash, default), Is.False);
            Assert.That((await WriteAsync(Ask.Move("w", "NEW", "PAID"))).LogIndex, Is.EqualTo(record.LogIndex + 1), "The log goes on.");
        }
    }

    [Test]
    public async Task Erasing_takes_values_and_leaves_digests()
    {
        await WriteAsync(Ask.Start("w", parts: Ask.Parts("alice", "why", Ask.Metadata(("k", "v")), Encoding.UTF8.GetBytes("secret"))));
        var last = await WriteAsync(Ask.Move("w", "NEW", "PAID", parts: Ask.Parts("bob")));

        await EraseAsync(last, "1", "person,content,snapshot", new ErasedValues(Ask.Key("w"), 1, true, true, true, Hash.Of("secret"u8)));

        var chain = await ChainAsync("w");
        using (Assert.EnterMultipleScope())
        {
            Assert.That((chain[0].Record.Person, chain[0].Record.Content, chain[0].Record.Snapshot), Is.EqualTo(((Person?)null, (Content?)null, (SnapshotPart?)null)));
            Assert.That(chain[1].Record.Person!.Actor, Is.EqualTo("bob"), "Only what the ERASURE covers.");
            Assert.That(chain[0].IsConsistent(), Is.True);
            Assert.That(await Store.ReadSnapshotAsync(Ask.Key("w"), Hash.Of("secret"u8), default), Is.Null);
            Assert.That((await Store.FindWorkflowAsync(Ask.Key("w"), default))!.Metadata, Is.EqualTo(Metadata.Empty));
            Assert.That(await VerifyAsync("w"), Is.Empty);
        }
    }

    /// <summary>An ERASURE enters by an import, until there is a command for it.</summary>
    private async Task EraseAsync(StoredRecord last, string erased, string parts, params ErasedValues[] values) =>
        await WriteAsync(Store, new ImportCommand
        {
            Key = last.Record.Key,
            Records = [Ask.Erasure(last, erased, parts)],
            Snapshots = [],
            ForkedFrom = null,
            IsLast = true,
            Erased = values,
            LogEntry = Ask.Parts(),
        });
}
