using Google.Protobuf;
using Grpc.Core;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Calls that break off in the middle, and what they leave.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class BrokenOffTests(Database database)
{
    [Test]
    public async Task An_import_that_broke_off_is_closed_until_it_is_sent_again()
    {
        await using var source = await TestServer.StartAsync(Database.Sqlite);
        await using var target = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(source, "S0");
        for (var i = 0; i < 450; i++)
            await source.Workflows.TransitionWorkflowAsync(Given.Move(id, $"S{i}", $"S{i + 1}"));
        var export = await Exports.ReadAsync(source, new Pb.ExportWorkflowsRequest { WorkflowId = id });

        var (half, importing) = (export[..^1], target.Recovery.ImportWorkflows());
        await using (await HeldLog.TakeAsync(target))
        {
            await importing.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest
            {
                Options = new Pb.ImportOptions { TakeOver = true, AllowUnproven = true },
            });
            await importing.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFrom(half) });
            await importing.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFrom(export[^1..]) });
            await importing.RequestStream.CompleteAsync();
            // Its first slice is with the writer, which waits for the log.
            await Task.Delay(1500);
            importing.Dispose();
            await Task.Delay(300);
        }
        await UntilAsync(async () => (await target.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest())).Workflows.Count == 1);

        await ErrorAssert.RefusedAsync(async () => await target.Workflows.TransitionWorkflowAsync(Given.Move(id, "S199", "X")),
            "WORKFLOW_CLOSED", StatusCode.FailedPrecondition);
        await ErrorAssert.RefusedAsync(async () => await target.Recovery.ResumeWorkflowAsync(
            new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "w" }), "WORKFLOW_CLOSED", StatusCode.FailedPrecondition);
        var shorter = (await Exports.ImportAsync(target, Shorter(export, 100), takeOver: true)).Single();
        var again = (await Exports.ImportAsync(target, export, takeOver: true)).Single();
        var verified = await target.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        var moved = await target.Workflows.TransitionWorkflowAsync(Given.Move(id, "S450", "S451"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(shorter.Outcome, Is.EqualTo(Pb.ImportOutcome.Refused), "It would stay closed.");
            Assert.That(again.Outcome, Is.EqualTo(Pb.ImportOutcome.Imported), again.Message);
            Assert.That((verified.Intact, verified.RecordsVerified), Is.EqualTo((true, 451UL)));
            Assert.That(moved.Record.Sequence, Is.EqualTo(452));
        }
    }

    [Test]
    public async Task A_workflow_that_somebody_works_on_is_not_extended_by_an_import()
    {
        await using var source = await TestServer.StartAsync(Database.Sqlite);
        await using var target = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(source);
        await Exports.ImportAsync(target, await Exports.ReadAsync(source, new Pb.ExportWorkflowsRequest { WorkflowId = id }), takeOver: true);
        var lease = (await target.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "here" })).Lease;
        await source.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"));

        var answer = (await Exports.ImportAsync(
            target, await Exports.ReadAsync(source, new Pb.ExportWorkflowsRequest { WorkflowId = id }), takeOver: true)).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That((answer.Outcome, answer.Reason), Is.EqualTo((Pb.ImportOutcome.Refused, "LEASE_HELD")));
            Assert.That((await Given.ReadAsync(target, id)).Lease, Is.EqualTo(lease));
        }
    }

    [Test]
    public async Task A_lease_whose_caller_had_gone_before_it_was_granted_is_given_back()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(server);
        await using (await HeldLog.TakeAsync(server))
        {
            var late = await Assert.ThrowsAsync<RpcException>(async () => await server.Recovery.ResumeWorkflowAsync(
                new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "gone" }, deadline: DateTime.UtcNow.AddMilliseconds(300)));
            Assert.That(late!.StatusCode, Is.EqualTo(StatusCode.DeadlineExceeded));
        }

        // Commands are taken in order: once this one is answered, the lease has been granted.
        await Given.WorkflowAsync(server);
        await UntilAsync(async () => (await Given.ReadAsync(server, id)).Lease is null);
        var next = await server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "next" });

        Assert.That(next.Lease.Owner, Is.EqualTo("next"));
    }

    [Test]
    public async Task A_command_cancelled_in_the_queue_writes_nothing()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(server);
        var ledger = server.Services.GetRequiredService<Server.Ledger>();
        Task<Pb.TransitionWorkflowResponse> first;
        await using (await HeldLog.TakeAsync(server))
        {
            first = server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "FIRST")).ResponseAsync;
            await Task.Delay(200);
            using var second = server.Workflows.TransitionWorkflowAsync(Given.Move(id, "FIRST", "SECOND"));
            await UntilAsync(() => Task.FromResult(ledger.QueueLength == 1));
            second.Dispose();
            await Task.Delay(200);
        }
        await first;
        await UntilAsync(() => Task.FromResult(ledger.QueueLength == 0));

        Assert.That((await Given.ReadAsync(server, id)).State, Is.EqualTo("FIRST"));
    }

    [Test]
    public async Task A_queue_full_of_bytes_refuses_too()
    {
        await using var server = await TestServer.StartAsync(database, KeyValuePair.Create("AEGIS_QUEUE_BYTES_MAX", $"{16 << 20}"));
        var large = Enumerable.Range(0, 12).Select(i => new Pb.StartWorkflowRequest(Given.Start($"{i}"))
        {
            Snapshot = new Pb.Snapshot { Content = ByteString.CopyFrom(new byte[3 << 20]) },
        });
        List<Task<string>> calls;
        await using (await HeldLog.TakeAsync(server))
        {
            calls = [.. large.Select(async start =>
            {
                try
                {
                    await server.Workflows.StartWorkflowAsync(start);
                    return "";
                }
                catch (RpcException e)
                {
                    return e.GetRpcStatus()!.GetDetail<Google.Rpc.ErrorInfo>()!.Reason;
                }
            })];
            await UntilAsync(() => Task.FromResult(calls.Exists(c => c.IsCompleted)));
            await Task.Delay(500);
        }
        var reasons = await Task.WhenAll(calls);
        var stored = (await server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest())).Workflows.Count;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(reasons, Is.All.EqualTo("").Or.EqualTo("OVERLOADED"));
            Assert.That(reasons.Count(r => r.Length == 0), Is.EqualTo(stored).And.InRange(5, 11));
        }
    }

    [Test]
    public async Task A_server_killed_in_the_middle_of_an_import_leaves_no_file_of_it()
    {
        using var temporary = new TemporaryDirectory("import");
        await using var server = await ServerProcess.StartAsync("sqlite::memory:", ("TMPDIR", temporary.Path));
        using var call = new Pb.RecoveryService.RecoveryServiceClient(server.Channel).ImportWorkflows();
        await call.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest { Options = new Pb.ImportOptions { AllowUnproven = true } });
        for (var i = 0; i < 20; i++)
            await call.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFrom(new byte[100_000]) });

        await server.KillAsync();

        Assert.That(Directory.EnumerateFiles(temporary.Path, "aegis-import-*"), Is.Empty);
    }

    /// <summary>An export of the first records only.</summary>
    private static byte[] Shorter(byte[] export, int records)
    {
        var messages = Exports.Parse(export);
        var kept = messages.Take(2 + records).ToList();
        kept[1].Workflow.Records = (ulong)records;
        kept[1].Workflow.HeadHash = kept[^1].Record.Record.Hash;
        return Exports.Write(kept);
    }

    private static async Task UntilAsync(Func<Task<bool>> condition)
    {
        for (var until = DateTime.UtcNow.AddSeconds(15); !await condition(); await Task.Delay(25))
            Assert.That(DateTime.UtcNow, Is.LessThan(until), "It did not come to pass.");
    }
}
