using Aegis.Server;
using Aegis.Storage;
using Dapper;
using Grpc.Core;
using Microsoft.Data.Sqlite;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// Pages of the database's files that it refuses to read: health tells at once, calls that need them are told so and not to try
/// again, and everything else goes on.
/// </summary>
[Parallelizable(ParallelScope.All)]
public sealed class DamagedFilesTests
{
    private const int PageBytes = 8192;

    [Test]
    public async Task A_page_that_PostgreSQL_cannot_read_is_told_and_the_rest_goes_on()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await using var server = await TestServer.StartAsync(cluster.ConnectionString);
        var ids = await Given.WorkflowsAsync(server, 300);
        var file = await FileOfAsync(cluster, "record");
        await cluster.StopAsync();
        var page = await OverwriteAsync(file, PageBytes, Enumerable.Repeat((byte)0xff, 24).ToArray());
        await cluster.RestartAsync();

        await Until.HealthAsync(server.Health, "", serving: true);
        await Until.HealthAsync(server.Health, "aegis.integrity", serving: false);
        await ErrorAssert.RefusedAsync(() => VerifyLogAsync(server), "CHAIN_BROKEN", StatusCode.DataLoss);
        var read = await Given.EachAsync(ids, id => ReasonAsync(() => Given.RecordsAsync(server, id)));
        Assert.That(read.Distinct(), Is.EquivalentTo(new[] { "", "CHAIN_BROKEN" }), "Some are there, and some are not.");
        await Until.SucceedsAsync(async () => await server.Workflows.StartWorkflowAsync(Given.Start("after")));
        var moved = await Given.EachAsync(ids, id => ReasonAsync(
            async () => await server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"))));
        Assert.That(moved, Is.EqualTo(read), "Nothing is written upon what cannot be read, and all else goes on.");

        await cluster.StopAsync();
        await OverwriteAsync(file, PageBytes, page);
        await cluster.RestartAsync();

        await Until.HealthAsync(server.Health, "aegis.integrity", serving: true);
        await VerifyLogAsync(server);
    }

    [Test]
    public async Task A_page_that_SQLite_cannot_read_is_told()
    {
        using var directory = new TemporaryDirectory("damage");
        var file = Path.Combine(directory.Path, "aegis.db");
        long root;
        await using (var server = await TestServer.StartAsync($"sqlite:{file}"))
        {
            await Given.WorkflowsAsync(server, 100);
            await using var owner = new SqliteConnection($"Data Source={file};Pooling=False");
            root = await owner.ExecuteScalarAsync<long>("SELECT rootpage FROM sqlite_master WHERE name = 'record'");
        }
        await OverwriteAsync(file, (root - 1) * 4096, Enumerable.Repeat((byte)0xff, 64).ToArray());

        await using var store = SqliteLedgerStore.Open(file, TimeProvider.System);

        var failure = await Assert.ThrowsAsync<StoreException>(() => store.ReadLogAsync(0, 100, 100, default));
        Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Damaged), failure.Message);
        Assert.That(StatusMapping.ToRefusal(failure)!.Reason, Is.EqualTo(Core.Reason.ChainBroken));
    }

    private static async Task VerifyLogAsync(TestServer server)
    {
        using var call = server.Integrity.VerifyLog(new Pb.VerifyLogRequest());
        await foreach (var message in call.ResponseStream.ReadAllAsync())
            Assert.That(message.Violation, Is.Null);
    }

    private static async Task<string> ReasonAsync(Func<Task> call)
    {
        try
        {
            await call();
            return "";
        }
        catch (RpcException e)
        {
            return e.GetRpcStatus()?.GetDetail<Google.Rpc.ErrorInfo>()?.Reason ?? e.Status.ToString();
        }
    }

    /// <summary>Where a table is, once all of it is written there.</summary>
    private static async Task<string> FileOfAsync(PostgresCluster cluster, string table)
    {
        await using var owner = new NpgsqlConnection(cluster.ConnectionString);
        await owner.ExecuteAsync("CHECKPOINT;");
        return Path.Combine(await owner.ExecuteScalarAsync<string>("SHOW data_directory") ?? "",
            await owner.ExecuteScalarAsync<string>("SELECT pg_relation_filepath(@table)", new { table }) ?? "");
    }

    /// <summary>Writes over a place of a file, and gives what was there.</summary>
    private static async Task<byte[]> OverwriteAsync(string file, long offset, byte[] bytes)
    {
        await using var stream = new FileStream(file, FileMode.Open, FileAccess.ReadWrite);
        var before = new byte[bytes.Length];
        stream.Position = offset;
        await stream.ReadExactlyAsync(before);
        stream.Position = offset;
        await stream.WriteAsync(bytes);
        return before;
    }
}
