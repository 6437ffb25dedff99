using System.Data.Common;
using System.Diagnostics;
using Aegis.Core;
using Aegis.Storage;
using Dapper;
using Microsoft.Data.Sqlite;

namespace Aegis.Tests;

public sealed class SqliteLedgerStoreTests : LedgerStoreContract
{
    private readonly List<TemporaryDirectory> _directories = [];

    protected override IEnumerable<string> FurtherChanges =>
    [
        "REPLACE INTO record SELECT * FROM record WHERE log_index = 2",
        "INSERT OR REPLACE INTO record SELECT 99, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, 'STOLEN', "
            + "status, '', NULL, lease_epoch, occurred_at, recorded_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "
            + "hash, encoded FROM record WHERE log_index = 2",
        "UPDATE OR REPLACE record SET log_index = 1 WHERE log_index = 2",
        "REPLACE INTO snapshot SELECT namespace, workflow_id, sha256, x'00' FROM snapshot",
        "INSERT INTO snapshot SELECT namespace, workflow_id, sha256, x'00' FROM snapshot WHERE true "
            + "ON CONFLICT DO UPDATE SET content = x'00'",
        "REPLACE INTO log_head SELECT size, 'stolen', 0 FROM log_head",
    ];

    protected override string RefusePoison =>
        "CREATE TRIGGER no_poison BEFORE INSERT ON record WHEN NEW.to_state = 'POISON' BEGIN SELECT RAISE(ABORT, 'poison'); END";

    protected override Task<string> CreateDatabaseAsync()
    {
        var directory = new TemporaryDirectory("sqlite");
        _directories.Add(directory);
        return Task.FromResult($"sqlite:{Path.Combine(directory.Path, "aegis.db")}");
    }

    protected override Task DropDatabaseAsync(string database)
    {
        _directories.Find(d => FileOf(database).StartsWith(d.Path, StringComparison.Ordinal))?.Dispose();
        return Task.CompletedTask;
    }

    protected override ILedgerStore Open(string database) => SqliteLedgerStore.Open(FileOf(database), TimeProvider.System);

    protected override ILedgerStore OpenAnother() => Store;

    protected override ILedgerStore OpenBeside(ILedgerStore first, string database) => first;

    protected override async Task<DbConnection> ConnectAsync()
    {
        var connection = new SqliteConnection($"Data Source={FileOf(Database)};Pooling=False");
        await connection.OpenAsync();
        return connection;
    }

    protected override string SetMetadata(string table) => table == "record"
        ? "UPDATE record SET metadata = @json WHERE workflow_id = 'w' AND sequence = 1"
        : "UPDATE workflow SET metadata = @json WHERE workflow_id = 'w'";

    /// <summary>SQLite can ignore them, but for the types of a STRICT table.</summary>
    protected override async Task DropConstraintsAsync()
    {
        await using var connection = await ConnectAsync();
        await connection.ExecuteAsync(
            """
            PRAGMA writable_schema = ON;
            UPDATE sqlite_schema SET sql = replace(replace(replace(sql,
                'CHECK (kind BETWEEN 1 AND 4)', 'CHECK (true)'),
                'CHECK (status BETWEEN 1 AND 5)', 'CHECK (true)'),
                'CHECK (length(hash) = 32)', 'CHECK (true)');
            PRAGMA writable_schema = RESET;
            """);
    }

    [Test]
    public async Task The_bundled_version_does_not_corrupt_its_log()
    {
        await using var connection = await ConnectAsync();
        var version = Version.Parse((await connection.QuerySingleAsync<string>("SELECT sqlite_version()"))!);

        Assert.That(version, Is.GreaterThanOrEqualTo(new Version(3, 51, 3)));
    }

    [Test]
    public async Task Durability_is_full()
    {
        await using var transaction = await BeginAsync(Store, Ask.Start("w"));
        var writer = PostgresFaultTests.WriterOf<SqliteWriter>(transaction).Connection;

        Assert.That(await writer.QuerySingleAsync<string>("PRAGMA journal_mode"), Is.EqualTo("wal"));
        Assert.That(await writer.QuerySingleAsync<long>("PRAGMA synchronous"), Is.EqualTo(2), "FULL");
    }

    [Test]
    public async Task A_second_server_is_refused_while_the_first_lives()
    {
        await WriteAsync(Ask.Start("w"));

        Assert.That(() => Open(Database), Throws.TypeOf<StoreException>()
            .With.Property(nameof(StoreException.Failure)).EqualTo(StoreFailure.Unusable)
            .And.Message.Contains("in use by another server").And.Message.Contains(FileOf(Database)));
        await Store.DisposeAsync();
        await using var second = Open(Database);
        await second.MigrateAsync(default);

        Assert.That((await WriteOneAsync(second, Ask.Move("w", "NEW", "PAID"))).LogIndex, Is.EqualTo(2));
    }

    [Test]
    public async Task A_file_whose_texts_are_not_in_UTF_8_is_refused()
    {
        var database = await CreateDatabaseAsync();
        await using (var connection = new SqliteConnection($"Data Source={FileOf(database)};Pooling=False"))
        {
            await connection.OpenAsync();
            await connection.ExecuteAsync("PRAGMA encoding = 'UTF-16le'; CREATE TABLE mark (id INTEGER)");
        }
        await using var store = Open(database);

        Assert.That(() => store.MigrateAsync(default), Throws.TypeOf<StoreException>()
            .With.Property(nameof(StoreException.Failure)).EqualTo(StoreFailure.Unusable)
            .And.Message.Contains("UTF-16le").And.Message.Contains(FileOf(database)));
    }

    [Test]
    public async Task A_closed_store_is_one_file()
    {
        await WriteAsync(Ask.Start("w"));
        await ChainAsync("w");

        await Store.DisposeAsync();

        var left = Directory.GetFiles(Path.GetDirectoryName(FileOf(Database))!).Select(Path.GetFileName);
        Assert.That(left, Is.EquivalentTo(new[] { "aegis.db", "aegis.db.lock" }), "Whoever copies the file has it all.");
    }

    [Test]
    public async Task A_store_that_is_closed_leaves_others_alone()
    {
        var database = await CreateDatabaseAsync();
        var other = Open(database);
        await other.MigrateAsync(default);
        await using var transaction = await BeginAsync(Store, Ask.Start("w"));

        await other.DisposeAsync();

        var batch = new LedgerBatch(transaction.State);
        batch.Decide(Ask.Start("w"));
        await transaction.CommitAsync(batch.Sealed());
        Assert.That(await ChainAsync("w"), Has.Count.EqualTo(1));
        await DropDatabaseAsync(database);
    }

    [Test]
    public async Task What_is_pending_is_found_among_any_number_of_closed_workflows()
    {
        await using var connection = await ConnectAsync();
        await connection.ExecuteAsync(
            """
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
            INSERT INTO workflow (namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence,
                metadata, created_log_index, created_at, updated_at, importing)
            SELECT 'default', 'w' || i, 'order', 'DONE', iif(i = 200000, 1, 3), 1, x'00', 0, '{}', i, i, i, 0 FROM n
            """);
        var (all, open) = (new WorkflowFilter(Ask.Namespace) { States = ["DONE"], WorkflowTypes = ["none"] },
            new WorkflowFilter(Ask.Namespace) { Statuses = [WorkflowStatus.Running, WorkflowStatus.Waiting] });

        var read = await FastestAsync(all);
        var pending = await FastestAsync(open);

        Assert.That((await Store.ListWorkflowsAsync(open, -1, 100, default)).Select(w => w.Key.WorkflowId), Is.EqualTo(new[] { "w200000" }));
        Assert.That(pending, Is.LessThan(read / 5), "Far less than reading all.");

        async Task<TimeSpan> FastestAsync(WorkflowFilter filter)
        {
            var fastest = TimeSpan.MaxValue;
            for (var i = 0; i < 3; i++)
            {
                var watch = Stopwatch.StartNew();
                await Store.ListWorkflowsAsync(filter, -1, 100, default);
                fastest = watch.Elapsed < fastest ? watch.Elapsed : fastest;
            }
            return fastest;
        }
    }

    [Test]
    public async Task A_backup_can_be_read_while_the_server_runs()
    {
        await WriteAsync(Ask.Start("w"));
        await using var backup = await ConnectAsync();
        await backup.ExecuteAsync("BEGIN;");
        var before = await backup.QuerySingleAsync<long>("SELECT count(*) FROM record");

        await WriteAsync(Ask.Move("w", "NEW", "PAID"));

        Assert.That(await backup.QuerySingleAsync<long>("SELECT count(*) FROM record"), Is.EqualTo(before));
    }

    [Test]
    public async Task A_writer_that_holds_the_file_makes_it_unavailable()
    {
        await using var other = await ConnectAsync();
        await other.ExecuteAsync("BEGIN IMMEDIATE");

        var failure = await FailureAsync(() => WriteAsync(Ask.Start("w")));
        await other.ExecuteAsync("ROLLBACK");

        Assert.That(failure, Is.EqualTo(StoreFailure.Unavailable));
        Assert.That((await WriteAsync(Ask.Start("w"))).LogIndex, Is.EqualTo(1));
    }

    [Test]
    public void A_path_that_cannot_be_is_no_other_server()
    {
        var path = Path.Combine(Path.GetDirectoryName(FileOf(Database))!, new string('x', 300));

        Assert.That(() => SqliteLedgerStore.Open(path, TimeProvider.System), Throws.TypeOf<StoreException>()
            .With.Property(nameof(StoreException.Failure)).EqualTo(StoreFailure.Unusable)
            .And.Message.Not.Contains("another server"));
    }

    // So large that it is written before the commit, and so small that it is written in the commit.
    [TestCase(2 << 20)]
    [TestCase(200 << 10)]
    public async Task A_full_disk_stores_nothing_and_is_told(int bytes)
    {
        await using var disk = await TinyDisk.MountAsync("4m");
        await using var store = SqliteLedgerStore.Open(Path.Combine(disk.Path, "aegis.db"), TimeProvider.System);
        await store.MigrateAsync(default);
        await WriteAsync(store, new OpenLogCommand(Ask.LogId, Ask.Parts()));

        await FullDisk.MeetAsync(store, bytes, disk.Fill, disk.Free);
    }

    private static string FileOf(string database) => database["sqlite:".Length..];
}
