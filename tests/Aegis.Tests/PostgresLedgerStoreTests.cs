using System.Data.Common;
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
