using System.Data.Common;
using Aegis.Core;
using Aegis.Storage;
using Dapper;
using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Tests;

/// <summary>The one contract of the stores: every test runs on both.</summary>
public abstract class LedgerStoreContract
{
    private protected ILedgerStore Store { get; set; } = null!;

    /// <summary>A further store on the same database.</summary>
    protected abstract ILedgerStore OpenAnother();

    /// <summary>A connection of the database's owner, beside the service.</summary>
    protected abstract DbConnection Connect();

    [Test]
    public async Task Every_field_comes_back_as_it_was_stored()
    {
        var full = Commands.Start("full", type: "approuvé", state: "tab\tnew\nline", actor: "～key", reason: "🛡️", snapshot: [1, 2, 3],
            metadata: [("😀key", "1"), ("～key", ""), ("", "empty")]) with
        { RequestId = "req", OccurredAt = 1, Owner = "worker", LeaseDuration = 60_000_000 };
        var bare = Commands.Start("bare");

        var written = await WriteAsync(full, bare);
        var chain = await Store.ReadChainAsync(full.Key, 1, descending: false, 10, default);
        var workflow = await Store.FindWorkflowAsync(full.Key, default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(chain, Has.Count.EqualTo(1));
            Assert.That(chain[0].Record, Is.EqualTo(written[0].Record.Record));
            Assert.That(chain[0].Encoded.ToArray(), Is.EqualTo(written[0].Record.Encoded.ToArray()));
            Assert.That(chain[0].IsConsistent(), Is.True);
            Assert.That(workflow, Is.EqualTo(written[0].Workflow));
            Assert.That(await Store.FindWorkflowAsync(bare.Key, default), Is.EqualTo(written[1].Workflow));
            Assert.That((await Store.ReadChainAsync(bare.Key, 1, false, 10, default))[0].Record, Is.EqualTo(written[1].Record.Record));
            Assert.That(await Store.ReadSnapshotAsync(full.Key, Hash.Of([1, 2, 3]), default), Is.EqualTo(new byte[] { 1, 2, 3 }));
            Assert.That(await Store.ReadSnapshotAsync(bare.Key, Hash.Of([1, 2, 3]), default), Is.Null);
        }
    }

    [TestCase(0)]
    [TestCase(Limits.SnapshotBytesMax)]
    public async Task Snapshots_of_any_size_are_kept(int size)
    {
        var content = new byte[size];
        new Random(3).NextBytes(content);

        await WriteAsync(Commands.Start($"s{size}", snapshot: content));

        Assert.That(await Store.ReadSnapshotAsync(new WorkflowKey("default", $"s{size}"), Hash.Of(content), default), Is.EqualTo(content));
    }

    [Test]
    public async Task A_snapshot_is_kept_once_per_workflow()
    {
        var start = Commands.Start("once", snapshot: [7]);
        await WriteAsync(start);
        await WriteAsync(Commands.Checkpoint("once", 1, [7]));

        await using var connection = Connect();

        Assert.That(await connection.ExecuteScalarAsync<long>("SELECT count(*) FROM snapshot WHERE workflow_id = 'once'"), Is.EqualTo(1));
    }

    [Test]
    public async Task What_is_not_committed_is_not_there()
    {
        await using (var transaction = await Store.BeginAsync([], [], default))
        {
            var batch = new LedgerBatch(transaction.State);
            batch.Decide(Commands.Start("never"));
        }

        Assert.That(await Store.FindWorkflowAsync(new WorkflowKey("default", "never"), default), Is.Null);
    }

    [Test]
    public async Task Transactions_take_turns_and_the_second_sees_what_the_first_stored()
    {
        var first = await Store.BeginAsync([], [], default);
        var second = Store.BeginAsync([new WorkflowKey("default", "turn")], [], default);
        await Task.Delay(200);
        var waited = !second.IsCompleted;
        var batch = new LedgerBatch(first.State);
        batch.Decide(Commands.Start("turn"));
        await first.CommitAsync(batch);
        await first.DisposeAsync();

        await using var transaction = await second;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(waited, Is.True);
            Assert.That(transaction.State.LogSize, Is.EqualTo(first.State.LogSize + 1));
            Assert.That(transaction.State.Workflows.Single().State, Is.EqualTo("NEW"));
        }
    }

    [Test]
    public async Task Known_requests_are_found_and_others_are_not()
    {
        var start = Commands.Start("asked") with { RequestId = "known" };
        var written = await WriteAsync(start);

        await using var transaction = await Store.BeginAsync([],
            [start.RequestKey!.Value, RecordFormat.RequestKey(start.Key, "unknown")], default);

        Assert.That(transaction.State.KnownRequests.Select(r => r.Hash), Is.EqualTo(new[] { written[0].Record.Hash }));
    }

    [Test]
    public async Task A_commit_is_confirmed_by_its_record_and_the_log_goes_on()
    {
        var record = (await WriteAsync(Commands.Start("confirmed")))[0].Record;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(await Store.ConfirmAsync(record.LogIndex, record.Hash, default), Is.True);
            Assert.That(await Store.ConfirmAsync(record.LogIndex, Hash.Of([1]), default), Is.False);
            Assert.That(await Store.ConfirmAsync(1_000_000, record.Hash, default), Is.False);
            Assert.That((await WriteAsync(Commands.Start("after")))[0].Record.LogIndex, Is.EqualTo(record.LogIndex + 1));
        }
    }

    [Test]
    public async Task Leases_are_stored_alone_and_with_their_workflow()
    {
        var key = (await WriteAsync(Commands.Start("leased") with { Owner = "a" }))[0].Workflow.Key;
        await using (var transaction = await Store.BeginAsync([key], [], default))
        {
            var batch = new LedgerBatch(transaction.State);
            batch.Decide(new AcquireLeasesCommand { Keys = [key], Owner = "a", Duration = 5_000_000, TakeOverOwn = true });
            await transaction.CommitAsync(batch);
        }

        var lease = (await Store.FindWorkflowAsync(key, default))!.Lease!;

        Assert.That((lease.Owner, lease.IsVoid), Is.EqualTo(("a", false)));
    }

    [Test]
    public async Task Migrations_run_once_however_many_servers_start()
    {
        await Store.MigrateAsync(default);
        await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() => Store.MigrateAsync(default))));

        Assert.That((await WriteAsync(Commands.Start("still")))[0].Record.LogIndex, Is.GreaterThanOrEqualTo(0));
    }

    [Test]
    public async Task A_database_of_a_later_version_is_refused()
    {
        await using (var connection = Connect())
        {
            await connection.OpenAsync();
            await connection.ExecuteAsync(Store.Kind == "sqlite"
                ? "INSERT INTO SchemaVersions (ScriptName, Applied) VALUES ('Aegis.Storage.Migrations.9999_later.sql', '2030-01-01')"
                : "INSERT INTO schemaversions (scriptname, applied) VALUES ('Aegis.Storage.Migrations.9999_later.sql', '2030-01-01')");
        }

        var error = await Assert.ThrowsAsync<StoreException>(() => Store.MigrateAsync(default));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(error!.Failure, Is.EqualTo(StoreFailure.Unusable));
            Assert.That(error.Message, Does.Contain("9999_later"));
        }
    }

    [TestCase("UPDATE record SET to_state = 'X' WHERE workflow_id = 'guarded'")]
    [TestCase("UPDATE record SET actor = 'mallory' WHERE workflow_id = 'guarded'")]
    [TestCase("UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL WHERE workflow_id = 'guarded'")]
    [TestCase("DELETE FROM record WHERE workflow_id = 'guarded'")]
    [TestCase("UPDATE snapshot SET content = sha256 WHERE workflow_id = 'guarded'")]
    [TestCase("DELETE FROM snapshot WHERE workflow_id = 'guarded'")]
    [TestCase("UPDATE log_head SET last_recorded_at = 0")]
    [TestCase("DELETE FROM log_head")]
    public async Task The_database_itself_refuses_to_change_history(string sql)
    {
        await WriteAsync(Commands.Start("guarded", actor: "alice", snapshot: [1]));
        await using var connection = Connect();
        await connection.OpenAsync();

        Assert.That(async () => await connection.ExecuteAsync(sql), Throws.InstanceOf<DbException>().With.Message.Contains("append-only"));
    }

    [Test]
    public async Task An_erasure_takes_values_only_together_with_its_record()
    {
        var started = Foreign.Started("erased", actor: "alice");
        var import = Commands.Import(started);
        var erasure = Commands.Import(Foreign.Erasure(started, "1", "person")) with
        {
            Erased = [new ErasedValues(started.Record.Key, 1, Person: true, Content: false, Snapshot: false, Bytes: null)],
        };
        await CommitAsync(import);

        await CommitAsync(erasure);
        var chain = await Store.ReadChainAsync(started.Record.Key, 1, false, 10, default);
        await using var connection = Connect();
        await connection.OpenAsync();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(chain[0].Record.Person, Is.Null);
            Assert.That(chain[0].Record.Content, Is.EqualTo(started.Record.Content));
            Assert.That(async () => await connection.ExecuteAsync(
                "UPDATE record SET content_salt = NULL, reason = NULL, metadata = NULL WHERE workflow_id = 'erased' AND sequence = 1"),
                Throws.InstanceOf<DbException>(), "The ERASURE of an earlier transaction excuses nothing more.");
        }
    }

    [Test]
    public async Task Lists_follow_the_log_and_end_where_they_are_told()
    {
        var written = await WriteAsync(Commands.Start("l1"), Commands.Start("l2"), Commands.Start("l3"));
        var first = written[0].Record.LogIndex;

        var up = await Store.ListRecordsAsync(new RecordFilter(), first, descending: false, 2, default);
        var down = await Store.ListRecordsAsync(new RecordFilter { Namespace = "default" }, first + 1, descending: true, 2, default);
        var workflows = await Store.ListWorkflowsAsync(new WorkflowFilter("default"), first, 10, default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(up.Select(r => r.Record.WorkflowId), Is.EqualTo(new[] { "l1", "l2" }));
            Assert.That(down.Select(r => r.LogIndex).First(), Is.EqualTo(first + 1));
            Assert.That(workflows.Select(w => w.Key.WorkflowId).Take(2), Is.EqualTo(new[] { "l2", "l3" }));
        }
    }

    [Test]
    public async Task A_checkpoint_is_found_by_sequence_and_by_time()
    {
        await WriteAsync(Commands.Start("c", snapshot: [1]));
        var second = (await WriteAsync(Commands.Checkpoint("c", 1, [2])))[0].Record;
        var key = second.Record.Key;

        var latest = await Store.FindCheckpointAsync(key, long.MaxValue, long.MaxValue, default);
        var bySequence = await Store.FindCheckpointAsync(key, 1, long.MaxValue, default);
        var byTime = await Store.FindCheckpointAsync(key, long.MaxValue, second.Record.RecordedAt, default);
        var before = await Store.FindCheckpointAsync(key, long.MaxValue, 1, default);

        Assert.That((latest!.Record.Sequence, bySequence!.Record.Sequence, byTime!.Record.Sequence, before), Is.EqualTo((2L, 1L, 2L, (StoredRecord?)null)));
    }

    [Test]
    public async Task A_probe_tells_that_it_can_write_and_how_far_the_log_is()
    {
        var record = (await WriteAsync(Commands.Start("probed")))[0].Record;

        var probe = await Store.ProbeAsync(default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(probe.IsWritable, Is.True);
            Assert.That(probe.LogSize, Is.EqualTo(record.LogIndex + 1));
            Assert.That(Math.Abs(probe.Clock - Foreign.Now), Is.LessThan(60_000_000));
        }
    }

    /// <summary>Decides and commits commands as one batch.</summary>
    protected async Task<List<Written>> WriteAsync(params WriteCommand[] commands) =>
        [.. (await CommitAsync(commands)).Cast<Written>()];

    private Task<List<Outcome>> CommitAsync(params Command[] commands) => CommitAsync(Store, commands);

    private protected static async Task<List<Outcome>> CommitAsync(ILedgerStore store, params Command[] commands)
    {
        await using var transaction = await store.BeginAsync(
            [.. commands.SelectMany(c => c.Workflows).Distinct()],
            [.. commands.OfType<WriteCommand>().Select(c => c.RequestKey).OfType<Bytes16>()], default);
        var batch = new LedgerBatch(transaction.State);
        if (transaction.State.LogSize == 0)
            batch.Decide(new OpenLogCommand("aegis/test", Commands.Parts()));
        List<Outcome> outcomes = [.. commands.Select(batch.Decide)];
        await transaction.CommitAsync(batch);
        return outcomes;
    }
}

[Parallelizable(ParallelScope.Self)]
public sealed class SqliteLedgerStoreTests : LedgerStoreContract
{
    private TemporaryDirectory _directory = null!;

    private string File => Path.Combine(_directory.Path, "aegis.db");

    [SetUp]
    public async Task Open()
    {
        _directory = new TemporaryDirectory("store");
        Store = OpenAnother();
        await Store.MigrateAsync(default);
    }

    [TearDown]
    public async Task Close()
    {
        await Store.DisposeAsync();
        _directory.Dispose();
    }

    [Test]
    public async Task A_second_server_is_kept_out_until_the_first_is_gone()
    {
        var error = Assert.Throws<StoreException>(() => OpenAnother());
        await Store.DisposeAsync();
        Store = OpenAnother();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(error!.Failure, Is.EqualTo(StoreFailure.Unusable));
            Assert.That(error.Message, Does.Contain("in use by another server"));
            Assert.That((await Store.ProbeAsync(default)).IsWritable, Is.True);
        }
    }

    [Test]
    public async Task Readers_read_while_the_writer_writes()
    {
        var record = (await WriteAsync(Commands.Start("read")))[0].Record;
        await using var transaction = await Store.BeginAsync([], [], default);

        Assert.That((await Store.ReadChainAsync(record.Record.Key, 1, false, 1, default))[0].Hash, Is.EqualTo(record.Hash));
    }

    [Test]
    public async Task Durability_is_full_and_the_build_is_one_that_does_not_corrupt()
    {
        await using var transaction = await Store.BeginAsync([], [], default);
        await using var connection = Connect();
        await connection.OpenAsync();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(await connection.ExecuteScalarAsync<string>("PRAGMA journal_mode"), Is.EqualTo("wal"));
            Assert.That(Version.Parse((await connection.ExecuteScalarAsync<string>("SELECT sqlite_version()"))!),
                Is.GreaterThanOrEqualTo(new Version(3, 51, 3)));
            Assert.That(await SynchronousOfWriterAsync(transaction), Is.EqualTo(2), "FULL");
        }
    }

    protected override ILedgerStore OpenAnother() => SqliteLedgerStore.Open(File, TimeProvider.System);

    protected override DbConnection Connect() => new SqliteConnection($"Data Source={File};Pooling=False");

    /// <summary>Asks the very connection that the transaction writes with.</summary>
    private static async Task<long> SynchronousOfWriterAsync(LedgerTransaction transaction)
    {
        var field = transaction.GetType().GetFields(System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Instance)
            .Single(f => f.FieldType == typeof(SqliteConnection));
        return await ((SqliteConnection)field.GetValue(transaction)!).ExecuteScalarAsync<long>("PRAGMA synchronous");
    }
}

[Parallelizable(ParallelScope.Self)]
public sealed class PostgresLedgerStoreTests : LedgerStoreContract
{
    private string _connection = null!;

    [SetUp]
    public async Task Open()
    {
        _connection = await PostgresCluster.CreateDatabaseAsync();
        Store = OpenAnother();
        await Store.MigrateAsync(default);
    }

    [TearDown]
    public async Task Close()
    {
        await Store.DisposeAsync();
        await PostgresCluster.DropDatabaseAsync(_connection);
    }

    [TestCase("record")]
    [TestCase("snapshot")]
    [TestCase("log_head")]
    public async Task Truncating_is_refused(string table)
    {
        await using var connection = Connect();

        Assert.That(async () => await connection.ExecuteAsync($"TRUNCATE {table}"),
            Throws.InstanceOf<PostgresException>().With.Message.Contains("append-only"));
    }

    [Test]
    public async Task Four_servers_write_one_log_without_a_gap()
    {
        await WriteAsync(Commands.Start("first"));
        await Task.WhenAll(Enumerable.Range(0, 4).Select(async server =>
        {
            await using var store = OpenAnother();
            for (var i = 0; i < 25; i++)
                await CommitAsync(store, Commands.Start($"{server}-{i}"), Commands.Start($"{server}-{i}-b"));
        }));

        var log = await Store.ListRecordsAsync(new RecordFilter(), 0, false, 1000, default);

        Assert.That(log.Select(r => r.LogIndex), Is.EqualTo(Enumerable.Range(0, 202).Select(i => (long)i)));
    }

    [Test]
    public async Task A_writer_that_stands_still_loses_the_log_and_knows_that_nothing_was_stored()
    {
        await WriteAsync(Commands.Start("first"));
        await using var frozen = await Store.BeginAsync([], [], default);
        var batch = new LedgerBatch(frozen.State);
        batch.Decide(Commands.Start("frozen"));

        // The database ends the session after 5 s of idleness, and the next writer goes on.
        await using var other = OpenAnother();
        await CommitAsync(other, Commands.Start("other"));
        var error = await Assert.ThrowsAsync<StoreException>(() => frozen.CommitAsync(batch));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(error!.Failure, Is.EqualTo(StoreFailure.OutcomeUnknown).Or.EqualTo(StoreFailure.Unavailable));
            Assert.That(await Store.ConfirmAsync(batch.Records[0].LogIndex, batch.Records[0].Hash, default), Is.False);
            Assert.That(await Store.FindWorkflowAsync(new WorkflowKey("default", "frozen"), default), Is.Null);
        }
    }

    [Test]
    public async Task A_batch_costs_two_round_trips()
    {
        var settings = new NpgsqlConnectionStringBuilder(_connection);
        await using var proxy = new CuttingProxy(settings.Host!, settings.Port);
        settings.Host = "127.0.0.1";
        settings.Port = proxy.Port;
        await using var store = PostgresLedgerStore.Open(settings.ToString());
        // Until the statements are prepared.
        for (var i = 0; i < 5; i++)
            await CommitAsync(store, Commands.Start($"warm-{i}", snapshot: [1]));

        var before = proxy.RoundTrips;
        await CommitAsync(store, Commands.Start("measured", snapshot: [1]), Commands.Start("too") with { RequestId = "r" });

        Assert.That(proxy.RoundTrips - before, Is.EqualTo(2));
    }

    [Test]
    public async Task Writers_commit_synchronously_whatever_the_database_says()
    {
        await using (var connection = Connect())
        {
            await connection.ExecuteAsync($"ALTER DATABASE \"{new NpgsqlConnectionStringBuilder(_connection).Database}\" SET synchronous_commit = off");
        }
        await using var store = OpenAnother();
        await using var transaction = await store.BeginAsync([], [], default);

        var writer = (NpgsqlConnection)transaction.GetType()
            .GetFields(System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Instance)
            .Single(f => f.FieldType == typeof(NpgsqlConnection)).GetValue(transaction)!;

        Assert.That(await writer.ExecuteScalarAsync<string>("SHOW synchronous_commit"), Is.EqualTo("on"));
    }

    protected override ILedgerStore OpenAnother() => PostgresLedgerStore.Open(_connection);

    protected override DbConnection Connect() => new NpgsqlConnection(_connection);
}
