using System.Globalization;
using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;
using Grpc.Core;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The log as a whole, or any part of it, verified on demand.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class VerifyLogTests(Database database) : IAsyncDisposable
{
    private const int Workflows = 700;

    private TestServer _server = null!;

    [SetUp]
    public async Task StartAsync()
    {
        _server = await TestServer.StartAsync(database);
        await Task.WhenAll(Enumerable.Range(0, Workflows).Select(async i =>
        {
            var start = Given.Start($"w{i}");
            if (i % 10 == 0)
                start.Snapshot = Given.Snapshot($"state {i}");
            await _server.Workflows.StartWorkflowAsync(start);
            if (i % 7 == 0)
                await _server.Workflows.TransitionWorkflowAsync(Given.Move($"w{i}", "NEW", "PAID"));
        }));
    }

    public async ValueTask DisposeAsync()
    {
        if (_server is not null)
            await _server.DisposeAsync();
    }

    [Test]
    public async Task An_honest_log_is_intact_up_to_its_signed_head()
    {
        var answers = await VerifyAsync();

        var summary = answers[^1].Summary;
        var head = LogHead.Verify(summary.LogHead, [SharedKey.Key.VerifierKey(summary.LogHead.Split('\n')[0])], Ed25519Signatures.Check)!;
        using (Assert.EnterMultipleScope())
        {
            Assert.That(summary.Intact, Is.True);
            Assert.That(summary.RecordsVerified, Is.EqualTo(1 + Workflows + (Workflows / 7)));
            Assert.That(summary.SnapshotsVerified, Is.EqualTo(Workflows / 10));
            Assert.That(head.Size, Is.EqualTo((long)summary.RecordsVerified));
            Assert.That(answers[^2].Progress.Verified, Is.EqualTo(answers[^2].Progress.Total));
        }
    }

    [Test]
    public async Task Any_range_is_verified_up_to_a_signed_head_behind_it()
    {
        foreach (var (from, to) in new[] { (0UL, 1UL), (1UL, 256UL), (255UL, 257UL), (300UL, 300UL), (511UL, 700UL), (700UL, 0UL) })
        {
            var summary = (await VerifyAsync(from, to))[^1].Summary;

            Assert.That(summary.Intact, Is.True, $"{from} to {to}");
            if (to > from)
                Assert.That(summary.RecordsVerified, Is.EqualTo(to - from));
        }
    }

    [Test]
    public async Task What_is_wrong_is_told_where_it_is_and_nowhere_else()
    {
        // Of a workflow with records before and behind it, those would have to tell that it is gone.
        var records = (await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { PageSize = 1000 })).Records;
        var gone = records.GroupBy(r => r.WorkflowId).Where(w => w.Count() == 1).Select(w => w.First().LogIndex).Where(i => i >= 300).Min();
        await Tampering.RunAsync(_server, "UPDATE record SET to_state = 'STOLEN' WHERE log_index = 260");
        await Tampering.RunAsync(_server, "DELETE FROM record WHERE log_index = @gone", new { gone = (long)gone });

        var before = await VerifyAsync(0, 260);
        var within = await VerifyAsync(260, gone + 1);
        var after = await VerifyAsync(gone + 1);

        var found = within.Select(a => a.Violation).Where(v => v is not null).ToList();
        using (Assert.EnterMultipleScope())
        {
            Assert.That(before[^1].Summary.Violations + after[^1].Summary.Violations, Is.Zero);
            Assert.That(within[^1].Summary.Violations, Is.EqualTo((ulong)found.Count));
            Assert.That(found.Where(v => v.HasLogIndex).Select(v => v.LogIndex), Is.EquivalentTo(new[] { 260UL, gone }));
            Assert.That(found.Single(v => v.LogIndex == 260).Differences.Single().Field, Is.EqualTo("to_state"));
            Assert.That(found.Single(v => v.LogIndex == gone).WorkflowId, Is.Not.Empty, "its tile names it");
        }
    }

    [Test]
    public async Task A_range_beyond_the_log_or_turned_around_is_refused()
    {
        var beyond = await Assert.ThrowsAsync<RpcException>(() => VerifyAsync(0, 100_000));
        var turned = await Assert.ThrowsAsync<RpcException>(() => VerifyAsync(5, 4));

        Assert.That(beyond!.StatusCode, Is.EqualTo(StatusCode.OutOfRange));
        Assert.That(turned!.StatusCode, Is.EqualTo(StatusCode.InvalidArgument));
    }

    [Test]
    public async Task A_workflow_is_verified_in_its_place_in_the_log()
    {
        var store = _server.Services.GetRequiredService<ILedgerStore>();
        var stored = (await store.ReadLogAsync(100, 200, 100, default)).Select(v => v.Stored)
            .First(r => r.Record.Sequence == 1 && int.Parse(r.Record.WorkflowId[1..], CultureInfo.InvariantCulture) % 7 != 0);
        var id = stored.Record.WorkflowId;
        var forged = StoredRecord.Seal(stored.Record with { ToState = "STOLEN" }, stored.LogIndex);

        // Record and head of the workflow agree with each other, and not with the log.
        await Tampering.RunAsync(_server,
            """
            UPDATE record SET to_state = 'STOLEN', hash = @hash, encoded = @encoded WHERE workflow_id = @id;
            UPDATE workflow SET state = 'STOLEN', head_hash = @hash WHERE workflow_id = @id
            """, new { id, hash = forged.Hash.ToArray(), encoded = forged.Encoded.ToArray() });
        var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

        Assert.That(verified.Intact, Is.False);
        Assert.That(verified.Violations[0].Differences.Single(d => d.Field == "to_state").Original, Is.EqualTo("NEW"));
    }

    private async Task<IReadOnlyList<Pb.VerifyLogResponse>> VerifyAsync(ulong from = 0, ulong to = 0)
    {
        using var call = _server.Integrity.VerifyLog(new Pb.VerifyLogRequest { FromLogIndex = from, ToLogIndex = to });
        var answers = new List<Pb.VerifyLogResponse>();
        while (await call.ResponseStream.MoveNext(CancellationToken.None))
            answers.Add(call.ResponseStream.Current);
        return answers;
    }
}
