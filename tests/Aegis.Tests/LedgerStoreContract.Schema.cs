using System.Data.Common;
using Aegis.Core;
using Aegis.Storage;
using Dapper;

namespace Aegis.Tests;

// The schema, and the guards in it against changes of the history.
public abstract partial class LedgerStoreContract
{
    /// <summary>Ways to change the history that only this database has.</summary>
    protected abstract IEnumerable<string> FurtherChanges { get; }

    /// <summary>Makes the database refuse records whose to_state is POISON.</summary>
    protected abstract string RefusePoison { get; }

    [Test]
    public async Task Migrating_again_changes_nothing()
    {
        await WriteAsync(Ask.Start("w"));

        await Store.MigrateAsync(default);
        await OpenAnother().MigrateAsync(default);

        Assert.That(await VerifyAsync("w"), Is.Empty);
        Assert.That(await LogAsync(), Has.Count.EqualTo(2));
    }

    [Test]
    public async Task Servers_that_migrate_at_once_take_turns()
    {
        var database = await CreateDatabaseAsync();
        try
        {
            await using var first = Open(database);
            var stores = Enumerable.Range(0, 4).Select(i => i == 0 ? first : OpenBeside(first, database)).ToList();

            await Task.WhenAll(stores.Select(store => Task.Run(() => store.MigrateAsync(default))));

            await WriteAsync(stores[3], new OpenLogCommand(Ask.LogId, Ask.Parts()));
            Assert.That((await first.ReadHeadAsync(default))?.LogId, Is.EqualTo(Ask.LogId));
            foreach (var store in stores.Skip(1))
                await store.DisposeAsync();
        }
        finally
        {
            await DropDatabaseAsync(database);
        }
    }

    /// <summary>Another server's store on the same database; the first one where a database serves only one.</summary>
    protected abstract ILedgerStore OpenBeside(ILedgerStore first, string database);

    [Test]
    public async Task A_database_of_a_later_version_is_refused()
    {
        await using (var connection = await ConnectAsync())
        {
            await connection.ExecuteAsync(
                "INSERT INTO schemaversions (scriptname, applied) VALUES ('Aegis.Storage.Migrations.9999_later.sql', CURRENT_TIMESTAMP)");
        }

        Assert.That(async () => await Store.MigrateAsync(default), Throws.TypeOf<StoreException>()
            .With.Property(nameof(StoreException.Failure)).EqualTo(StoreFailure.Unusable)
            .And.Message.Contains("later version").And.Message.Contains("9999_later"));
    }

    [Test]
    public async Task The_database_itself_refuses_to_change_the_history()
    {
        await WriteAsync(Ask.Start("w", "r", Ask.Parts("alice", "why", snapshot: "state"u8.ToArray())));
        await WriteAsync(Ask.Move("w", "NEW", "PAID"));
        var before = await LogAsync();
        string[] changes =
        [
            "UPDATE record SET to_state = 'STOLEN'",
            "UPDATE record SET hash = encoded",
            "UPDATE record SET log_index = log_index + 100",
            "UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL",
            "DELETE FROM record",
            "DELETE FROM record WHERE log_index = 2",
            "UPDATE snapshot SET content = sha256",
            "DELETE FROM snapshot",
            "UPDATE log_head SET size = size + 1",
            "UPDATE log_head SET last_recorded_at = 0",
            "DELETE FROM log_head",
            .. FurtherChanges,
        ];
        List<string> accepted = [];
        await using (var connection = await ConnectAsync())
        {
            await connection.ExecuteAsync("BEGIN;");
            foreach (var change in changes)
            {
                if (await IsAcceptedAsync(connection, change))
                    accepted.Add(change);
            }
            await connection.ExecuteAsync("COMMIT");
        }

        using (Assert.EnterMultipleScope())
        {
            Assert.That(accepted, Is.Empty);
            Assert.That((await LogAsync()).Select(r => (r.Record, r.Hash)), Is.EqualTo(before.Select(r => (r.Record, r.Hash))));
            Assert.That(await VerifyAsync("w"), Is.Empty);
        }
    }

    [Test]
    public async Task Only_an_erasure_that_its_own_transaction_records_may_take_values()
    {
        await WriteAsync(Ask.Start("w", parts: Ask.Parts("alice", "why", snapshot: "state"u8.ToArray())));
        await WriteAsync(Ask.Start("other", parts: Ask.Parts("bob", snapshot: "other"u8.ToArray())));
        await using var connection = await ConnectAsync();
        var erasure = Ask.Erasure((await ChainAsync("w"))[0], "1", "person");
        await connection.ExecuteAsync("BEGIN;");
        await connection.ExecuteAsync(
            """
            INSERT INTO record (log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state,
                status, request_id, lease_epoch, occurred_at, recorded_at, hash, encoded)
            VALUES (3, 'x', 'default', 'w', 2, 4, 'order', 'NEW', 'NEW', 1, '', 0, 0, 0, @hash, @encoded)
            """, new { hash = erasure.Hash.ToArray(), encoded = erasure.Encoded.ToArray() });
        string[] refused =
        [
            "UPDATE record SET to_state = 'STOLEN' WHERE log_index = 1",
            "UPDATE record SET actor = 'mallory' WHERE log_index = 1",
            "UPDATE record SET actor = NULL WHERE log_index = 1",
            "UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL, to_state = 'STOLEN' WHERE log_index = 1",
            "UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL WHERE log_index = 2",
            "UPDATE record SET snapshot_size = NULL WHERE log_index = 1",
            "UPDATE record SET content_salt = hash WHERE log_index = 3",
            "DELETE FROM snapshot WHERE workflow_id = 'other'",
            "DELETE FROM record WHERE log_index = 1",
        ];
        const string Allowed = "UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL WHERE log_index = 1";
        const string Bytes = "DELETE FROM snapshot WHERE workflow_id = 'w'";
        List<string> accepted = [];
        foreach (var change in refused)
        {
            if (await IsAcceptedAsync(connection, change))
                accepted.Add(change);
        }
        Assert.That(accepted, Is.Empty);
        Assert.That(await IsAcceptedAsync(connection, Allowed), Is.True);
        Assert.That(await IsAcceptedAsync(connection, Bytes), Is.True);
        await connection.ExecuteAsync("INSERT INTO log_head (size, log_id, last_recorded_at) VALUES (4, 'x', 0); COMMIT; BEGIN;");

        Assert.That(await IsAcceptedAsync(connection, "UPDATE record SET content_salt = NULL, reason = NULL, metadata = NULL WHERE log_index = 1"),
            Is.False, "Its transaction is over.");
    }

    [Test]
    public async Task What_an_erasure_says_is_never_erased()
    {
        var first = await WriteAsync(Ask.Start("w", parts: Ask.Parts("alice")));
        await EraseAsync(first, "1", "person", new ErasedValues(Ask.Key("w"), 1, true, false, false, null));
        var erasure = (await ChainAsync("w"))[1];

        var failure = await FailureAsync(() => EraseAsync(erasure, "2", "content", new ErasedValues(Ask.Key("w"), 2, false, true, false, null)));

        Assert.That(failure, Is.EqualTo(StoreFailure.Rejected).Or.EqualTo(StoreFailure.Unavailable));
        Assert.That(await VerifyAsync("w"), Is.Empty);
    }

    [Test]
    public async Task A_value_that_the_database_refuses_is_rejected_and_the_log_goes_on()
    {
        await using (var connection = await ConnectAsync())
            await connection.ExecuteAsync(RefusePoison);

        var failure = await FailureAsync(() => WriteAsync(Store, Ask.Start("w"), Ask.Move("w", "NEW", "POISON")));
        var record = await WriteAsync(Ask.Start("w"));

        Assert.That(failure, Is.EqualTo(StoreFailure.Rejected));
        Assert.That(record.LogIndex, Is.EqualTo(1), "Nothing of the batch was stored.");
    }

    [Test]
    public async Task A_request_that_is_recorded_cannot_be_recorded_twice()
    {
        await WriteAsync(Ask.Start("w", "r"));
        await using var transaction = await Store.BeginAsync([Ask.Key("w")], [], 0, default);
        var batch = new LedgerBatch(transaction.State);
        batch.Decide(Ask.Move("w", "NEW", "PAID", "r"));

        Assert.That(await FailureAsync(() => transaction.CommitAsync(batch.Sealed())), Is.EqualTo(StoreFailure.Rejected));
    }

    /// <summary>Whether the database takes a change; one that it refuses is taken back alone.</summary>
    private static async Task<bool> IsAcceptedAsync(DbConnection connection, string change)
    {
        await connection.ExecuteAsync("SAVEPOINT change");
        try
        {
            await connection.ExecuteAsync(change);
            await connection.ExecuteAsync("RELEASE SAVEPOINT change");
            return true;
        }
        catch (DbException)
        {
            await connection.ExecuteAsync("ROLLBACK TO SAVEPOINT change");
            await connection.ExecuteAsync("RELEASE SAVEPOINT change");
            return false;
        }
    }
}
