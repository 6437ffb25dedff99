using System.Collections.Concurrent;
using System.Data.Common;
using System.Diagnostics;
using Aegis.Core;
using Aegis.Storage;
using Dapper;
using Npgsql;

namespace Aegis.Tests;

public sealed class PostgresLedgerStoreTests : LedgerStoreContract
{
    protected override IEnumerable<string> FurtherChanges =>
    [
        "TRUNCATE record",
        "TRUNCATE snapshot",
        "TRUNCATE log_head",
        "TRUNCATE record, snapshot, log_head, workflow CASCADE",
        "INSERT INTO snapshot SELECT namespace, workflow_id, sha256, '\\x00' FROM snapshot "
            + "ON CONFLICT (namespace, workflow_id, sha256) DO UPDATE SET content = excluded.content",
        "MERGE INTO record USING (VALUES (1)) AS one ON true WHEN MATCHED THEN DELETE",
        "MERGE INTO record USING (VALUES (1)) AS one ON true WHEN MATCHED THEN UPDATE SET to_state = 'STOLEN'",
    ];

    protected override string RefusePoison => "ALTER TABLE record ADD CONSTRAINT no_poison CHECK (to_state <> 'POISON')";

    protected override Task<string> CreateDatabaseAsync() => PostgresCluster.CreateDatabaseAsync();

    protected override Task<string> CreateLedgerDatabaseAsync() => PostgresCluster.CreateLedgerDatabaseAsync();

    protected override Task DropDatabaseAsync(string database) => PostgresCluster.DropDatabaseAsync(database);

    protected override ILedgerStore Open(string database) => PostgresLedgerStore.Open(database);

    protected override ILedgerStore OpenAnother() => Keep(Open(Database));

    protected override ILedgerStore OpenBeside(ILedgerStore first, string database) => Open(database);

    protected override async Task<DbConnection> ConnectAsync()
    {
        var connection = new NpgsqlConnection(Database);
        await connection.OpenAsync();
        return connection;
    }

    [Test]
    public async Task A_start_that_finds_all_migrations_done_waits_for_no_lock()
    {
        await using var other = await ConnectAsync();
        await other.ExecuteAsync("SELECT pg_advisory_lock(x'6165676973'::bigint)");
        await using var store = Open(Database);

        await store.MigrateAsync(default).WaitAsync(TimeSpan.FromSeconds(20));
    }

    [Test]
    public async Task A_migration_that_waits_for_a_long_transaction_holds_nobody_up_behind_it()
    {
        var database = await CreateDatabaseAsync();
        try
        {
            await MigrateToFirstVersionAsync(database);
            await using var store = PostgresLedgerStore.Open(database);
            await using var reader = new NpgsqlConnection(database);
            await reader.OpenAsync();
            await using var reading = await reader.BeginTransactionAsync();
            // As a dump does: what changes the table has to wait for the end of this.
            await reader.ExecuteAsync("SELECT count(*) FROM log_head", transaction: reading);

            var failures = new ConcurrentQueue<StoreException>();
            var migrated = Task.Run(() => MigrateAsync(store, failures));
            var longest = TimeSpan.Zero;
            await using (var caller = new NpgsqlConnection(database))
            {
                await caller.OpenAsync();
                for (var since = Stopwatch.StartNew(); failures.Count < 2 && since.Elapsed < TimeSpan.FromSeconds(30);)
                {
                    var watch = Stopwatch.StartNew();
                    await caller.ExecuteAsync("BEGIN; LOCK TABLE log_head IN ROW EXCLUSIVE MODE; COMMIT", commandTimeout: 10);
                    longest = watch.Elapsed > longest ? watch.Elapsed : longest;
                    await Task.Delay(20);
                }
            }
            var isWaiting = !migrated.IsCompleted;
            await reading.CommitAsync();
            await migrated.WaitAsync(TimeSpan.FromSeconds(60));

            Assert.That(isWaiting, Is.True);
            Assert.That(longest, Is.LessThan(TimeSpan.FromSeconds(3)));
            Assert.That(failures.Select(e => e.Failure).ToList(), Has.Count.GreaterThanOrEqualTo(2).And.All.EqualTo(StoreFailure.Unavailable));
            Assert.That(failures.First().Message, Does.Contain("transaction"));
            await WriteAsync(store, new OpenLogCommand(Ask.LogId, Ask.Parts()));
        }
        finally
        {
            await DropDatabaseAsync(database);
        }
    }

    /// <summary>As a server does: again and again, while the store says that it is unavailable.</summary>
    private static async Task MigrateAsync(PostgresLedgerStore store, ConcurrentQueue<StoreException> failures)
    {
        while (true)
        {
            try
            {
                await store.MigrateAsync(default);
                return;
            }
            catch (StoreException e)
            {
                failures.Enqueue(e);
            }
        }
    }

    private static async Task MigrateToFirstVersionAsync(string database)
    {
        const string first = "Aegis.Storage.Migrations.PostgreSql.0001_ledger.sql";
        await using var script = typeof(PostgresLedgerStore).Assembly.GetManifestResourceStream(first)!;
        using var text = new StreamReader(script);
        await using var connection = new NpgsqlConnection(database);
        await connection.OpenAsync();
        await connection.ExecuteAsync(await text.ReadToEndAsync());
        await connection.ExecuteAsync(
            """
            CREATE TABLE schemaversions (
                schemaversionsid serial PRIMARY KEY,
                scriptname varchar(255) NOT NULL,
                applied timestamp NOT NULL
            );
            INSERT INTO schemaversions (scriptname, applied) VALUES (@first, CURRENT_TIMESTAMP)
            """,
            new { first });
    }

    protected override string SetMetadata(string table) => table == "record"
        ? "UPDATE record SET metadata = @json::jsonb WHERE workflow_id = 'w' AND sequence = 1"
        : "UPDATE workflow SET metadata = @json::jsonb WHERE workflow_id = 'w'";

    [Test]
    public async Task What_a_tile_keeps_of_its_records_is_compressed()
    {
        await WriteAsync(Store, [.. Enumerable.Range(0, 255).Select(i => Ask.Start($"w{i}"))]);

        await using var connection = await ConnectAsync();
        var (plain, stored) = await connection.QuerySingleAsync<(long, long)>(
            "SELECT octet_length(entries), pg_column_size(entries) FROM log_tile WHERE level = 0");

        Assert.That(stored, Is.LessThan(plain * 2 / 3));
    }

    protected override async Task DropConstraintsAsync()
    {
        await using var connection = await ConnectAsync();
        await connection.ExecuteAsync(
            """
            ALTER TABLE record DROP CONSTRAINT record_kind_is_known;
            ALTER TABLE record DROP CONSTRAINT record_status_is_known;
            ALTER TABLE record DROP CONSTRAINT record_hash_is_sha256;
            """);
    }
}
