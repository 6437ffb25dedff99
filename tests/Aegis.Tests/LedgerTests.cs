using Aegis.Core;
using Aegis.Server;
using Dapper;
using Google.Rpc;
using Grpc.Core;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The single writer: its queue, its batches, and what happens to who waits.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class LedgerTests(Database database)
{
    [Test]
    public async Task A_deadline_that_ends_in_the_queue_writes_nothing()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(server);
        RpcException? late;
        await using (await HeldLog.TakeAsync(server))
        {
            // The first command is taken and waits for the log; the second waits in the queue.
            var first = server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "FIRST"));
            await Task.Delay(200);
            late = await Assert.ThrowsAsync<RpcException>(async () => await server.Workflows.TransitionWorkflowAsync(
                Given.Move(id, "FIRST", "LATE"), deadline: DateTime.UtcNow.AddMilliseconds(300)));
            // The server counts from when the call reached it, and so notices a little later than the caller.
            await Task.Delay(500);
            _ = first;
        }
        await Task.Delay(300);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(late!.StatusCode, Is.EqualTo(StatusCode.DeadlineExceeded));
            Assert.That((await Given.ReadAsync(server, id)).State, Is.EqualTo("FIRST"));
        }
    }

    [Test]
    public async Task A_deadline_that_ends_after_a_command_was_taken_leaves_its_record_and_a_retry_finds_it()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(server);
        var move = Given.Move(id, "NEW", "PAID");
        move.RequestId = "pay";
        RpcException? late;
        await using (await HeldLog.TakeAsync(server))
        {
            late = await Assert.ThrowsAsync<RpcException>(async () =>
                await server.Workflows.TransitionWorkflowAsync(move, deadline: DateTime.UtcNow.AddMilliseconds(300)));
        }

        var again = await server.Workflows.TransitionWorkflowAsync(move);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(late!.StatusCode, Is.EqualTo(StatusCode.DeadlineExceeded));
            Assert.That(again.Replayed, Is.True);
            Assert.That(again.Record.Sequence, Is.EqualTo(2));
        }
    }

    [Test]
    public async Task A_full_queue_refuses_and_says_when_to_come_back()
    {
        await using var server = await TestServer.StartAsync(database,
            KeyValuePair.Create("AEGIS_QUEUE_COMMANDS_MAX", "4"));
        var ledger = server.Services.GetRequiredService<Ledger>();
        var waiting = new List<Task>();
        RpcException? refused;
        await using (await HeldLog.TakeAsync(server))
        {
            // Some are taken and wait for the log; those that come then fill the queue.
            waiting.Add(Given.WorkflowAsync(server));
            await Task.Delay(500);
            for (var until = DateTime.UtcNow.AddSeconds(5); ledger.QueueLength < 4 && DateTime.UtcNow < until; await Task.Delay(50))
                waiting.AddRange(Enumerable.Range(0, 4 - ledger.QueueLength).Select(_ => Given.WorkflowAsync(server)));
            refused = await Assert.ThrowsAsync<RpcException>(() => Given.WorkflowAsync(server));
        }

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refused!.StatusCode, Is.EqualTo(StatusCode.ResourceExhausted));
            Assert.That(refused.GetRpcStatus()!.GetDetail<ErrorInfo>()!.Reason, Is.EqualTo("OVERLOADED"));
            Assert.That(refused.GetRpcStatus()!.GetDetail<RetryInfo>(), Is.Not.Null);
        }
        // One or the other may itself have come to a full queue.
        await Task.WhenAll(waiting).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        Assert.That(waiting.Count(w => w.IsCompletedSuccessfully), Is.GreaterThanOrEqualTo(5));
    }

    [Test]
    public async Task Commands_on_one_workflow_in_one_batch_see_each_other()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(server, "S0");
        var ledger = server.Services.GetRequiredService<Ledger>();
        var moves = new List<Task<Pb.TransitionWorkflowResponse>>();
        await using (await HeldLog.TakeAsync(server))
        {
            // One command is taken and holds the writer; the others become one batch, in the order in which they came.
            moves.Add(MoveAsync(0));
            await Task.Delay(200);
            for (var i = 1; i < 6; i++)
            {
                moves.Add(MoveAsync(i));
                // A busy machine may be late with one, and the next must not come before it.
                var waiting = i;
                await Until.TrueAsync(() => Task.FromResult(ledger.QueueLength >= waiting));
            }
        }

        var records = (await Task.WhenAll(moves)).Select(m => m.Record).ToList();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(records.Select(r => r.ToState), Is.EqualTo(Enumerable.Range(1, 6).Select(i => $"S{i}")));
            Assert.That(records.Skip(1).Zip(records, (next, previous) => next.PreviousHash == previous.Hash), Is.All.True);
        }

        async Task<Pb.TransitionWorkflowResponse> MoveAsync(int i) =>
            await server.Workflows.TransitionWorkflowAsync(Given.Move(id, $"S{i}", $"S{i + 1}"));
    }

    [Test]
    public async Task A_value_that_the_database_refuses_fails_alone_in_its_batch()
    {
        await using var server = await TestServer.StartAsync(database);
        await PoisonAsync(server);
        List<Task<Pb.StartWorkflowResponse>> starts;
        await using (await HeldLog.TakeAsync(server))
        {
            var first = Given.WorkflowAsync(server);
            await Task.Delay(200);
            starts = [.. Enumerable.Range(0, 30).Select(async i =>
            {
                var start = Given.Start($"{i}");
                start.Reason = i == 17 ? "poison" : "";
                return await server.Workflows.StartWorkflowAsync(start);
            })];
            await Task.Delay(200);
            _ = first;
        }

        var poisoned = await Assert.ThrowsAsync<RpcException>(async () => await starts[17]);
        var others = await Task.WhenAll(starts.Where((_, i) => i != 17));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(poisoned!.StatusCode, Is.EqualTo(StatusCode.Internal));
            Assert.That(poisoned.Status.Detail, Does.Not.Contain("poison"), "Nothing internal leaks.");
            Assert.That(others.Select(o => o.Record.LogIndex).Order(), Is.Unique);
        }
        var log = (await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { PageSize = 1000 })).Records;
        Assert.That(log.Select(r => (int)r.LogIndex), Is.EqualTo(Enumerable.Range(1, 30)), "The log has a gap.");
    }

    [Test]
    public void Every_reason_of_Core_is_one_of_the_contract_and_has_a_code()
    {
        foreach (var reason in Enum.GetValues<Reason>())
        {
            using (Assert.EnterMultipleScope())
            {
                Assert.That(reason.ToPb().ToString(), Is.EqualTo(reason.ToString()));
                Assert.That($"ERROR_REASON_{reason.Name()}", Is.EqualTo(NameInProto(reason.ToPb())));
                Assert.That(StatusMapping.CodeOf(reason), Is.Not.EqualTo(StatusCode.OK));
            }
        }
        foreach (var reason in Enum.GetValues<Pb.ErrorReason>().Where(r => r != Pb.ErrorReason.Unspecified))
            Assert.That(Enum.TryParse<Reason>(reason.ToString(), out _), Is.True, $"Core has no {reason}.");
    }

    [Test]
    public void The_enums_of_Core_have_the_numbers_of_the_contract()
    {
        using (Assert.EnterMultipleScope())
        {
            Assert.That(Numbers<ViolationClass>(), Is.EqualTo(Numbers<Pb.ViolationClass>()));
            Assert.That(Numbers<RecordKind>(), Is.EqualTo(Numbers<Pb.RecordKind>()));
            Assert.That(Numbers<WorkflowStatus>(), Is.EqualTo(Numbers<Pb.WorkflowStatus>()));
        }

        static IEnumerable<string> Numbers<T>() where T : struct, Enum => Enum.GetValues<T>()
            .Where(v => Convert.ToInt32(v, null) != 0).Select(v => $"{v} = {Convert.ToInt32(v, null)}");
    }

    private static string NameInProto(Pb.ErrorReason reason) => Pb.ErrorReasonReflection.Descriptor.EnumTypes[0]
        .FindValueByNumber((int)reason)!.Name;

    /// <summary>Has the database refuse records whose reason is "poison".</summary>
    private static async Task PoisonAsync(TestServer server)
    {
        if (server.Connection.StartsWith("sqlite:", StringComparison.Ordinal))
        {
            await using var sqlite = new SqliteConnection($"Data Source={server.Connection["sqlite:".Length..]};Pooling=False");
            await sqlite.ExecuteAsync("CREATE TRIGGER poison BEFORE INSERT ON record WHEN NEW.reason = 'poison' BEGIN SELECT RAISE(ABORT, 'poison'); END");
            return;
        }
        await using var postgres = new NpgsqlConnection(server.Connection);
        await postgres.ExecuteAsync("ALTER TABLE record ADD CONSTRAINT poison CHECK (reason <> 'poison')");
    }
}

/// <summary>The lock of the log in other hands, so that the writer of a server waits.</summary>
internal sealed class HeldLog : IAsyncDisposable
{
    private readonly System.Data.Common.DbConnection _connection;

    private HeldLog(System.Data.Common.DbConnection connection) => _connection = connection;

    public static Task<HeldLog> TakeAsync(TestServer server) => TakeAsync(server.Connection);

    public static async Task<HeldLog> TakeAsync(string database)
    {
        var isSqlite = database.StartsWith("sqlite:", StringComparison.Ordinal);
        System.Data.Common.DbConnection connection = isSqlite
            ? new SqliteConnection($"Data Source={database["sqlite:".Length..]};Pooling=False")
            : new NpgsqlConnection(database);
        await connection.OpenAsync();
        await connection.ExecuteAsync(isSqlite ? "BEGIN IMMEDIATE" : "BEGIN; SELECT 1 FROM log_lock FOR UPDATE");
        return new HeldLog(connection);
    }

    public async ValueTask DisposeAsync()
    {
        await _connection.ExecuteAsync("ROLLBACK");
        await _connection.DisposeAsync();
    }
}
