using Aegis.Core;
using Aegis.Storage;
using Dapper;
using Npgsql;

namespace Aegis.Tests;

/// <summary>PostgreSQL killed, frozen, full or cut off in a transaction: what is told is true.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class PostgresFaultTests
{
    private static async Task<PostgresLedgerStore> OpenAsync(string database)
    {
        var store = PostgresLedgerStore.Open(database);
        await store.MigrateAsync(default);
        await WriteAsync(store, new OpenLogCommand(Ask.LogId, Ask.Parts()));
        return store;
    }

    private static async Task<LedgerBatch> WriteAsync(ILedgerStore store, Command command)
    {
        var (transaction, batch) = await DecideAsync(store, command);
        await using (transaction)
            await transaction.CommitAsync(batch.Sealed());
        return batch;
    }

    private static async Task<(LedgerTransaction Transaction, LedgerBatch Batch)> DecideAsync(ILedgerStore store, Command command)
    {
        var transaction = await store.BeginAsync([.. command.Workflows], [], 0, default);
        var batch = new LedgerBatch(transaction.State);
        batch.Decide(command);
        return (transaction, batch);
    }

    private static async Task<StoreFailure> FailureAsync(Func<Task> act) =>
        (await Assert.ThrowsAsync<StoreException>(() => act()))!.Failure;

    [Test]
    public async Task A_server_killed_before_the_commit_wrote_nothing_and_is_found_out()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var store = await OpenAsync(cluster.ConnectionString);
        var (transaction, batch) = await DecideAsync(store, Ask.Start("w"));
        await cluster.KillPostmasterAsync();
        await cluster.RestartAsync();

        var failure = await FailureAsync(() => transaction.CommitAsync(batch.Sealed()));
        await transaction.DisposeAsync();
        var first = batch.Records[0];
        var confirmed = await store.ConfirmAsync(first.LogIndex, first.Hash, default);
        await WriteAsync(store, Ask.Start("w"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(failure, Is.EqualTo(StoreFailure.OutcomeUnknown).Or.EqualTo(StoreFailure.Unavailable));
            Assert.That(confirmed, Is.False);
            Assert.That((await store.FindWorkflowAsync(Ask.Key("w"), default))!.CreatedLogIndex, Is.EqualTo(1));
        }
    }

    [TestCase(true)]
    [TestCase(false)]
    public async Task A_commit_whose_reply_is_lost_is_unknown_until_it_is_confirmed(bool arrives)
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        var settings = new NpgsqlConnectionStringBuilder(database);
        await using var proxy = new CuttingProxy(settings.Host!, settings.Port);
        (settings.Host, settings.Port) = ("127.0.0.1", proxy.Port);
        await using (var store = await OpenAsync(settings.ConnectionString))
        {
            var (transaction, batch) = await DecideAsync(store, Ask.Start("w"));
            var cut = arrives ? proxy.CutAfterRequest(_ => true) : proxy.CutBeforeRequest(_ => true);

            var failure = await FailureAsync(() => transaction.CommitAsync(batch.Sealed()));
            await cut;
            await transaction.DisposeAsync();
            var first = batch.Records[0];
            var confirmed = await store.ConfirmAsync(first.LogIndex, first.Hash, default);

            Assert.That(failure, Is.EqualTo(StoreFailure.OutcomeUnknown));
            Assert.That(confirmed, Is.EqualTo(arrives));
            Assert.That(await store.FindWorkflowAsync(Ask.Key("w"), default), arrives ? Is.Not.Null : Is.Null);
            await WriteAsync(store, Ask.Start("another"));
        }
        await PostgresCluster.DropDatabaseAsync(database);
    }

    [Test]
    public async Task A_writer_that_freezes_loses_the_log_to_the_next()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        await using var frozen = await OpenAsync(database);
        await using var next = PostgresLedgerStore.Open(database);
        var (transaction, batch) = await DecideAsync(frozen, Ask.Start("w"));

        // It does nothing for longer than a transaction may stand still; the next one waits for it no longer than that.
        await WriteAsync(next, Ask.Start("w"));

        Assert.That(await FailureAsync(() => transaction.CommitAsync(batch.Sealed())), Is.EqualTo(StoreFailure.OutcomeUnknown));
        await transaction.DisposeAsync();
        Assert.That(await frozen.ConfirmAsync(batch.Records[0].LogIndex, batch.Records[0].Hash, default), Is.False);
        await WriteAsync(frozen, Ask.Move("w", "NEW", "PAID"));
        Assert.That((await frozen.ReadChainAsync(Ask.Key("w"), 1, false, 10, default)).Select(r => r.LogIndex), Is.EqualTo(new[] { 1, 2 }));
    }

    [Test]
    public async Task A_lock_that_is_not_to_be_had_is_unavailable()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        await using var store = await OpenAsync(database);
        await using var other = new NpgsqlConnection(database);
        await other.OpenAsync();
        await other.ExecuteAsync("BEGIN; SELECT id FROM log_lock FOR UPDATE");

        var failure = await FailureAsync(() => WriteAsync(store, Ask.Start("w")));
        await other.ExecuteAsync("ROLLBACK");

        Assert.That(failure, Is.EqualTo(StoreFailure.Unavailable));
        await WriteAsync(store, Ask.Start("w"));
    }

    [Test]
    public async Task Reads_survive_a_restart()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var store = await OpenAsync(cluster.ConnectionString);
        await WriteAsync(store, Ask.Start("w"));
        await store.FindWorkflowAsync(Ask.Key("w"), default);
        await cluster.StopAsync();
        var down = await FailureAsync(() => store.FindWorkflowAsync(Ask.Key("w"), default));
        await cluster.RestartAsync();

        Assert.That(down, Is.EqualTo(StoreFailure.Unavailable));
        Assert.That(await store.FindWorkflowAsync(Ask.Key("w"), default), Is.Not.Null);
    }

    [TestCase("Host=127.0.0.1;Port=1;Username=u;Timeout=2", StoreFailure.Unavailable)]
    [TestCase("Host=no-such-host.invalid;Username=u;Timeout=2", StoreFailure.Unavailable)]
    public async Task A_server_that_is_not_there_is_unavailable(string database, StoreFailure expected)
    {
        await using var store = PostgresLedgerStore.Open(database);

        Assert.That(await FailureAsync(() => store.BeginAsync([], [], 0, default)), Is.EqualTo(expected));
        Assert.That(await FailureAsync(() => store.ProbeAsync(default)), Is.EqualTo(expected));
        Assert.That(await FailureAsync(() => store.MigrateAsync(default)), Is.EqualTo(expected));
        Assert.That(await FailureAsync(() => store.ConfirmAsync(0, default, default)), Is.EqualTo(expected));
    }

    [Test]
    public async Task No_password_is_told()
    {
        await using var store = PostgresLedgerStore.Open("Host=db;Username=u;Password=secret;Database=d");

        Assert.That(store.Location, Is.EqualTo("db:5432/d"));
        foreach (var wrong in new[] { "Password=secret", "Host=db;Password=secret;Nonsense=1", "Password=secret;Port=none", "secret" })
        {
            Assert.That(() => PostgresLedgerStore.Open(wrong), Throws.TypeOf<StoreException>()
                .With.Property(nameof(StoreException.Failure)).EqualTo(StoreFailure.Unusable).And.Message.Not.Contains("secret"), wrong);
        }
    }

    [Test]
    public async Task A_database_that_is_not_there_is_unusable()
    {
        var database = await PostgresCluster.CreateDatabaseAsync();
        await using var store = PostgresLedgerStore.Open(
            new NpgsqlConnectionStringBuilder(database) { Database = "absent" }.ConnectionString);

        Assert.That(await FailureAsync(() => store.BeginAsync([], [], 0, default)), Is.EqualTo(StoreFailure.Unusable));
    }

    [Test]
    public async Task A_read_only_server_takes_no_writes_and_says_so()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var store = await OpenAsync(cluster.ConnectionString);
        await using (var connection = new NpgsqlConnection(cluster.ConnectionString))
        {
            await connection.OpenAsync();
            await connection.ExecuteAsync("ALTER SYSTEM SET default_transaction_read_only = on");
            await connection.ExecuteAsync("SELECT pg_reload_conf()");
        }
        await Task.Delay(500);

        Assert.That((await store.ProbeAsync(default)).IsWritable, Is.False);
        Assert.That(await FailureAsync(() => WriteAsync(store, Ask.Start("w"))), Is.EqualTo(StoreFailure.Unavailable));
        Assert.That((await store.ReadHeadAsync(default))?.LogId, Is.EqualTo(Ask.LogId), "Reads go on.");
    }

    [Test]
    public async Task A_full_disk_stores_nothing_and_is_told()
    {
        await using var disk = await TinyDisk.MountAsync("24m", PostgresBinaries.Find()?.Owner);
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using (var connection = new NpgsqlConnection(cluster.ConnectionString))
        {
            await connection.OpenAsync();
            await connection.ExecuteAsync($"CREATE TABLESPACE tiny LOCATION '{disk.Path}'");
            await connection.ExecuteAsync("CREATE DATABASE tiny TEMPLATE template0 TABLESPACE tiny");
        }
        await using var store = await OpenAsync(
            new NpgsqlConnectionStringBuilder(cluster.ConnectionString) { Database = "tiny" }.ConnectionString);

        await FullDisk.MeetAsync(store, 2 << 20, disk.Fill, disk.Free);
    }

    [Test]
    public async Task The_owner_of_the_database_need_not_be_a_superuser()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using (var connection = new NpgsqlConnection(cluster.ConnectionString))
        {
            await connection.OpenAsync();
            await connection.ExecuteAsync("CREATE ROLE ordinary LOGIN");
            await connection.ExecuteAsync("CREATE DATABASE ordinary OWNER ordinary");
        }
        await using var store = await OpenAsync(new NpgsqlConnectionStringBuilder(cluster.ConnectionString)
        {
            Username = "ordinary",
            Database = "ordinary",
        }.ConnectionString);

        var batch = await WriteAsync(store, Ask.Start("w"));

        Assert.That(await store.ConfirmAsync(batch.Records[0].LogIndex, batch.Records[0].Hash, default), Is.True);
    }

    [Test]
    public async Task Writers_commit_synchronously_whatever_the_database_says()
    {
        var database = await PostgresCluster.CreateDatabaseAsync();
        await using var store = await OpenAsync(database);
        await using (var connection = new NpgsqlConnection(database))
        {
            await connection.OpenAsync();
            await connection.ExecuteAsync($"ALTER DATABASE {connection.Database} SET synchronous_commit = off");
        }
        await using var fresh = PostgresLedgerStore.Open(database);
        await using var transaction = await fresh.BeginAsync([], [], 0, default);

        Assert.That(await WriterOf<NpgsqlConnection>(transaction).QuerySingleAsync<string>("SHOW synchronous_commit"), Is.EqualTo("on"));
    }

    /// <summary>The very connection that a transaction writes with.</summary>
    internal static T WriterOf<T>(LedgerTransaction transaction) => (T)transaction.GetType()
        .GetFields(System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Instance)
        .Single(field => field.FieldType == typeof(T)).GetValue(transaction)!;

    [Test]
    public async Task A_reply_cut_anywhere_is_a_lost_connection_and_nothing_else([Values("begin", "read", "confirm", "commit")] string call)
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        var settings = new NpgsqlConnectionStringBuilder(database);
        await using var proxy = new CuttingProxy(settings.Host!, settings.Port);
        (settings.Host, settings.Port) = ("127.0.0.1", proxy.Port);
        await using var store = await OpenAsync(settings.ConnectionString);
        for (var i = 0; i < 4; i++)
            await WriteAsync(store, Ask.Start($"before {i}"));
        var head = (await store.ListRecordsAsync(new RecordFilter(), 0, false, 100, default))[^1];

        for (var bytes = 1; bytes < 700; bytes += 23)
        {
            var (transaction, batch) = call == "commit" ? await AgainAsync(() => DecideAsync(store, Ask.Start($"w{bytes}"))) : (null, null);
            _ = proxy.CutWithinReply(_ => true, bytes);
            StoreException? error = null;
            try
            {
                await (call switch
                {
                    "begin" => BeginAndEndAsync(),
                    "read" => store.FindWorkflowAsync(Ask.Key("before 1"), default),
                    "confirm" => store.ConfirmAsync(head.LogIndex, head.Hash, default),
                    _ => transaction!.CommitAsync(batch!.Sealed()),
                });
            }
            catch (StoreException e)
            {
                error = e;
            }
            if (transaction is not null)
                await transaction.DisposeAsync();

            // A reply shorter than the cut arrives whole, and a read is done again: both may succeed.
            Assert.That(error?.Failure, Is.Null.Or.EqualTo(StoreFailure.Unavailable).Or.EqualTo(StoreFailure.OutcomeUnknown),
                $"after {bytes} bytes");
        }

        // The connection that was cut is found out at the next use.
        static async Task<T> AgainAsync<T>(Func<Task<T>> begin)
        {
            try
            {
                return await begin();
            }
            catch (StoreException)
            {
                return await begin();
            }
        }

        async Task BeginAndEndAsync()
        {
            await using var transaction = await store.BeginAsync([Ask.Key("before 1"), Ask.Key("before 2")], [], 0, default);
        }
    }

    [Test]
    public async Task A_batch_costs_two_round_trips()
    {
        var database = await PostgresCluster.CreateLedgerDatabaseAsync();
        var settings = new NpgsqlConnectionStringBuilder(database);
        await using var counter = new CuttingProxy(settings.Host!, settings.Port);
        (settings.Host, settings.Port) = ("127.0.0.1", counter.Port);
        await using var store = await OpenAsync(settings.ConnectionString);
        for (var i = 0; i < 4; i++)
            await WriteAsync(store, Ask.Start($"before {i}"));

        var start = counter.RoundTrips;
        var (transaction, batch) = await DecideAsync(store, Ask.Start("w", parts: Ask.Parts(snapshot: "state"u8.ToArray())));
        var begun = counter.RoundTrips;
        await transaction.CommitAsync(batch.Sealed());
        await transaction.DisposeAsync();
        var committed = counter.RoundTrips;

        Assert.That((begun - start, committed - begun), Is.EqualTo((1, 1)));
    }
}
