using Aegis.Core;
using Aegis.Storage;
using Dapper;
using Npgsql;

namespace Aegis.Tests;

/// <summary>What PostgreSQL reads to answer, by its own counters: never a whole table, and not much beyond the answer.</summary>
[NonParallelizable]
public sealed class PostgresPlanTests
{
    private string _database = "";

    [SetUp]
    public async Task CreateDatabase() => _database = await PostgresCluster.CreateDatabaseAsync();

    [TearDown]
    public Task DropDatabase() => PostgresCluster.DropDatabaseAsync(_database);

    [Test]
    public async Task Writing_reads_no_table_from_end_to_end()
    {
        await using (var store = PostgresLedgerStore.Open(_database))
        {
            await store.MigrateAsync(default);
            await WriteAsync(store, new OpenLogCommand(Ask.LogId, Ask.Parts()));
        }
        var before = await SequentialScansAsync();
        await using (var store = PostgresLedgerStore.Open(_database))
        {
            for (var i = 0; i < 20; i++)
            {
                await WriteAsync(store, Ask.Start($"w{i}", $"r{i}", Ask.Parts(snapshot: "s"u8.ToArray())) with { Owner = "worker" });
                await WriteAsync(store, Ask.Acquire("worker", $"w{i}") with { TakeOverOwn = true });
            }
        }

        Assert.That(await SequentialScansAsync(), Is.EqualTo(before));
    }

    /// <summary>20,000 closed workflows, 20 that are open, one actor and one entry of metadata that are rare.</summary>
    private async Task FillAsync()
    {
        await using (var store = PostgresLedgerStore.Open(_database))
            await store.MigrateAsync(default);
        await InsertAsync();
        await ExecuteAsync("VACUUM ANALYZE");
    }

    private Task InsertAsync() => ExecuteAsync(
        """
        INSERT INTO workflow (namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
            metadata, created_log_index, created_at, updated_at, importing)
        SELECT 'default', 'w' || i, 'order', CASE WHEN i % 1000 = 0 THEN 'NEW' ELSE 'DONE' END,
            CASE WHEN i % 1000 = 0 THEN 1 ELSE 3 END, 1, '\x00', 0,
            jsonb_build_object('team', CASE WHEN i = 15000 THEN 'rare' ELSE 'common' || i % 10 END), i, i, i, false
        FROM generate_series(1, 20000) AS i;
        INSERT INTO record (log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state,
            status, request_id, lease_epoch, occurred_at, recorded_at, person_salt, actor, principal, hash, encoded)
        SELECT i, 'l', 'default', 'w' || i, 1, 1, 'order', '', 'NEW', 1, '', 0, 0, i, '\x00',
            CASE WHEN i = 15000 THEN 'rare' ELSE 'common' END, CASE WHEN i = 15000 THEN 'rare' ELSE '' END,
            decode(repeat('00', 32), 'hex'), '\x00'
        FROM generate_series(1, 20000) AS i;
        """);

    private static readonly WorkflowFilter All = new(Ask.Namespace);

    private static IEnumerable<TestCaseData> Reads()
    {
        yield return Case("a workflow", store => store.FindWorkflowAsync(Ask.Key("w15000"), default), 10);
        yield return Case("a chain", store => store.ReadChainAsync(Ask.Key("w15000"), 1, false, 100, default), 10);
        yield return Case("a checkpoint", store => store.FindCheckpointAsync(Ask.Key("w15000"), long.MaxValue, long.MaxValue, default), 10);
        yield return Case("a page of workflows", store => store.ListWorkflowsAsync(All, 10_000, 100, default), 300);
        yield return Case("what is pending", store => store.ListPendingAsync(
            new PendingFilter("default", ["order"], [], [WorkflowStatus.Running]), -1, 100, default), 300);
        yield return Case("what is open", store => store.ListWorkflowsAsync(
            All with { Statuses = [WorkflowStatus.Running], WorkflowTypes = ["order"] }, -1, 100, default), 300);
        yield return Case("workflows by rare metadata", store => store.ListWorkflowsAsync(
            All with { Metadata = Ask.Metadata(("team", "rare")) }, -1, 100, default), 300);
        yield return Case("a page of the log", store => store.ListRecordsAsync(new RecordFilter(), 10_000, false, 100, default), 300);
        yield return Case("a rare actor", store => store.ListRecordsAsync(
            new RecordFilter { Namespace = Ask.Namespace, Actor = "rare" }, 0, false, 100, default), 300);
        yield return Case("a rare principal, newest first", store => store.ListRecordsAsync(
            new RecordFilter { Namespace = Ask.Namespace, Principal = "rare" }, long.MaxValue, true, 100, default), 300);
        yield return Case("the records of a time", store => store.ListRecordsAsync(
            new RecordFilter { Namespace = Ask.Namespace, RecordedAfter = 19_950, RecordedBefore = 19_960 }, 19_000, false, 100, default), 3000);

        static TestCaseData Case(string name, Func<PostgresLedgerStore, Task> read, long rows) =>
            new TestCaseData(read, rows).SetArgDisplayNames(name);
    }

    [TestCaseSource(nameof(Reads))]
    public async Task Reading_takes_little_more_than_the_answer(Func<PostgresLedgerStore, Task> read, long rowsMax)
    {
        const int Times = 10;
        await FillAsync();
        var (scans, rows) = (await SequentialScansAsync(), await RowsReadAsync());
        // More often than a statement is planned anew.
        await using (var store = PostgresLedgerStore.Open(_database))
        {
            for (var i = 0; i < Times; i++)
                await read(store);
        }

        Assert.That(await SequentialScansAsync() - scans, Is.Zero, "Whole tables read.");
        Assert.That((await RowsReadAsync() - rows) / Times, Is.LessThanOrEqualTo(rowsMax));
    }

    /// <summary>A server that has started on an empty database keeps its plans while the tables grow.</summary>
    [Test]
    public async Task What_was_planned_on_empty_tables_takes_little_more_than_the_answer_from_full_ones()
    {
        const int Times = 10;
        await using (var store = PostgresLedgerStore.Open(_database))
        {
            await store.MigrateAsync(default);
            await WriteAsync(store, new OpenLogCommand(Ask.LogId, Ask.Parts()));
            for (var i = 0; i < Times; i++)
                await LookAsync(store, $"absent{i}");
            await InsertAsync();
            for (var i = 0; i < Times; i++)
                await LookAsync(store, $"w{15_000 + i}");
        }

        Assert.That(await RowsReadAsync() / Times, Is.LessThanOrEqualTo(300));

        static async Task LookAsync(PostgresLedgerStore store, string id)
        {
            var key = Ask.Key(id);
            await store.FindWorkflowAsync(key, default);
            await store.ListWorkflowsAsync(All, 1000, 10, default);
            await store.ListWorkflowsAsync(All with { Statuses = [WorkflowStatus.Running] }, 1000, 10, default);
            await store.ListPendingAsync(new PendingFilter("default", [], [], [WorkflowStatus.Running]), 1000, 10, default);
            await store.ReadResumableAsync([key], 10, 1000, default);
            await store.ReadChainAsync(key, 1, descending: false, 10, default);
            await store.ReadSnapshotAsync(key, Hash.Of([1]), default);
            // One is looked up by another statement than several.
            foreach (var keys in new WorkflowKey[][] { [key], [key, Ask.Key($"{id}-absent")] })
            {
                await using var transaction = await store.BeginAsync(
                    keys, [.. keys.Select(k => RecordFormat.RequestKey(k, "r"))], long.MaxValue, default);
            }
        }
    }

    private static async Task WriteAsync(PostgresLedgerStore store, Command command)
    {
        await using var transaction = await store.BeginAsync([.. command.Workflows],
            command is WriteCommand { RequestKey: { } key } ? [key] : [], 0, default);
        var batch = new LedgerBatch(transaction.State);
        batch.Decide(command);
        await transaction.CommitAsync(batch.Sealed());
    }

    // Not the small or empty ones, which are rightly read whole.
    private Task<long> SequentialScansAsync() => CountAsync(
        "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN ('record', 'workflow', 'snapshot')");

    /// <summary>Of a table known to be empty the planner would keep all rows, and go through them for every key.</summary>
    [Test]
    public async Task What_was_planned_while_no_lease_was_held_reads_one_lease_for_each_workflow()
    {
        const int Workflows = 500;
        await FillAsync();
        await using (var store = PostgresLedgerStore.Open(_database))
        {
            await LookAsync(store);
            await ExecuteAsync(
                """
                INSERT INTO lease (namespace, workflow_id, owner, epoch, expires_at)
                SELECT 'default', 'w' || i, 'worker', 1, 1
                FROM generate_series(1, 2000) AS i
                """);
            await LookAsync(store);
        }

        Assert.That(await CountAsync("SELECT idx_tup_read::numeric FROM pg_stat_user_indexes WHERE relname = 'lease'"),
            Is.LessThanOrEqualTo(10 * Workflows));

        static async Task LookAsync(PostgresLedgerStore store)
        {
            var keys = Enumerable.Range(1, Workflows).Select(i => Ask.Key($"w{i}")).ToList();
            await store.ReadResumableAsync(keys, 10, 1000, default);
            await store.ListWorkflowsAsync(All with { Statuses = [WorkflowStatus.Running] }, 0, Workflows, default);
            await using var transaction = await store.BeginAsync(keys, [], long.MaxValue, default);
        }
    }

    private Task<long> RowsReadAsync() => CountAsync("SELECT sum(idx_tup_read) FROM pg_stat_user_indexes");

    /// <summary>Sessions report as they end, so that a store has to be closed before.</summary>
    private async Task<long> CountAsync(string sql)
    {
        await using var connection = new NpgsqlConnection(_database + ";Pooling=false");
        await connection.OpenAsync();
        for (var others = 1; others > 0; await Task.Delay(20))
        {
            others = await connection.QuerySingleAsync<int>(
                "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'aegis'");
        }
        return (long)await connection.QuerySingleAsync<decimal>(sql);
    }

    private async Task ExecuteAsync(string sql)
    {
        await using var connection = new NpgsqlConnection(_database);
        await connection.OpenAsync();
        await connection.ExecuteAsync(sql);
    }
}
