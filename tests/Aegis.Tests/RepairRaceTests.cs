using Aegis.Core;
using Aegis.Server;
using Aegis.Storage;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// What was read before a repair and is told during it or after it: what the repair mended does not stay open, so that no
/// operator has to repair it once more, and what is still wrong does.
/// </summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class RepairRaceTests(Database database) : IAsyncDisposable
{
    private TestServer _server = null!;
    private string _id = "";
    private IReadOnlyList<Pb.Record> _records = [];

    [SetUp]
    public async Task StartAsync()
    {
        _server = await TestServer.StartAsync(database);
        _id = await Chain.RecordAsync(_server);
        _records = await Given.RecordsAsync(_server, _id);
    }

    public async ValueTask DisposeAsync()
    {
        if (_server is not null)
            await _server.DisposeAsync();
    }

    [Test]
    public async Task A_finding_of_before_a_repair_that_is_told_after_it_does_not_stay()
    {
        await AlterAsync(2);
        await RepairAsync(2);

        var key = new WorkflowKey("default", _id);
        Findings.Report([.. Mended(),
            new Violation(ViolationClass.TailTruncated, key, 3, "Gone.") { LogIndex = (long)_records[2].LogIndex },
            new Violation(ViolationClass.WorkflowHeadModified, key, 0, "Another.")]);
        await Findings.SettleAsync(CancellationToken.None);

        await StaysCleanAsync();
    }

    [Test]
    public async Task A_finding_that_is_told_while_its_repair_waits_to_be_written_does_not_stay()
    {
        await AlterAsync(2);
        Task repairing;
        await using (await HeldLog.TakeAsync(_server))
        {
            repairing = RepairAsync(2);
            // It has been worked out by then, and waits for the log.
            await Task.Delay(1500);
            Findings.Report([.. Mended()]);
            await Findings.SettleAsync(CancellationToken.None);
        }
        await repairing;

        await StaysCleanAsync();
    }

    [Test]
    public async Task A_finding_that_is_told_after_a_repair_of_the_tiles_does_not_stay()
    {
        await Task.WhenAll(Enumerable.Range(0, 260).Select(
            _ => _server.Workflows.StartWorkflowAsync(Given.Start($"fill-{Guid.NewGuid():N}")).ResponseAsync));
        await Tampering.RunAsync(_server, "DELETE FROM log_tile WHERE tile_index = 0");
        await _server.Integrity.RepairRecordAsync(
            new Pb.RepairRecordRequest { Namespace = "aegis.system", WorkflowId = "log", Actor = "op", Reason = "why" });

        Findings.Report([new Violation(ViolationClass.TileModified, WorkflowKey.None, 0, "It is gone.") { LogIndex = 0 }]);
        await Findings.SettleAsync(CancellationToken.None);

        await StaysCleanAsync();
    }

    [Test]
    public async Task A_finding_of_another_workflow_is_kept_whatever_is_repaired()
    {
        var other = await Chain.RecordAsync(_server);
        await Task.WhenAll(Enumerable.Range(0, 300).Select(
            _ => _server.Workflows.StartWorkflowAsync(Given.Start($"far-{Guid.NewGuid():N}")).ResponseAsync));
        var far = await Chain.RecordAsync(_server);
        await AlterAsync(2);
        await RepairAsync(2);

        Findings.Report([new Violation(ViolationClass.FieldModified, new WorkflowKey("default", far), 2, "Told late.")
        {
            LogIndex = (long)(await Given.RecordsAsync(_server, far))[1].LogIndex,
        }, new Violation(ViolationClass.WorkflowHeadModified, new WorkflowKey("default", other), 0, "Told late.")]);
        await Findings.SettleAsync(CancellationToken.None);

        Assert.That((await OpenAsync()).Select(v => v.WorkflowId), Is.EquivalentTo(new[] { far, other }));
    }

    [TestCase("UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = @id AND sequence = 2")]
    [TestCase("UPDATE record SET hash = @zero WHERE workflow_id = @id AND sequence = 2")]
    [TestCase("DELETE FROM record WHERE workflow_id = @id AND sequence = 2")]
    [TestCase("DELETE FROM record WHERE workflow_id = @id AND sequence = 3")]
    [TestCase("DELETE FROM record WHERE workflow_id = @id; DELETE FROM workflow WHERE workflow_id = @id")]
    [TestCase("DELETE FROM record WHERE workflow_id = @id AND sequence = 3; DELETE FROM log_tile")]
    [TestCase("DELETE FROM record WHERE workflow_id = @id; DELETE FROM workflow WHERE workflow_id = @id; DELETE FROM log_tile")]
    [TestCase("DELETE FROM snapshot WHERE workflow_id = @id")]
    [TestCase("UPDATE workflow SET state = 'X' WHERE workflow_id = @id")]
    [TestCase("DELETE FROM log_tile")]
    [TestCase("UPDATE record SET log_index = 100000 WHERE workflow_id = @id AND sequence = 3")]
    public async Task What_is_still_so_is_found_again_at_its_place(string edit)
    {
        var auditor = _server.Services.GetServices<IHostedService>().OfType<Auditor>().Single();
        var store = _server.Services.GetRequiredService<ILedgerStore>();
        await Task.WhenAll(Enumerable.Range(0, 260).Select(
            _ => _server.Workflows.StartWorkflowAsync(Given.Start($"fill-{Guid.NewGuid():N}")).ResponseAsync));
        // What is deleted after it was audited is known by its name, and by nothing that is stored.
        var size = (await store.ReadHeadAsync(default))!.Size;
        await Until.TrueAsync(() => Task.FromResult(_server.Services.GetRequiredService<AuditStatus>().Size >= size));
        await Tampering.RunAsync(_server, edit, new { id = _id, zero = new byte[32] });
        if (!edit.Contains("log_tile", StringComparison.Ordinal) && !edit.Contains("DELETE FROM workflow", StringComparison.Ordinal))
            await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = _id });
        await Until.TrueAsync(async () => (await OpenAsync()).Count > 0);
        await Task.Delay(3000);

        size = (await store.ReadHeadAsync(default))!.Size;
        foreach (var found in await store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, 100, default))
        {
            var again = await auditor.FindAgainAsync(found.Violation, size, default);
            Assert.That(again.Select(Place), Does.Contain(Place(found.Violation)), string.Join("; ", again.Select(Place)));
        }

        static (ViolationClass, WorkflowKey, long, long?) Place(Violation v) => (v.Class, v.Key, v.Sequence, v.LogIndex);
    }

    private Findings Findings => _server.Services.GetRequiredService<Findings>();

    /// <summary>What an audit could have read of the altered record, under other names than it was found.</summary>
    private IEnumerable<Violation> Mended()
    {
        yield return new Violation(ViolationClass.RecordMissing, WorkflowKey.None, 0, "Gone.") { LogIndex = (long)_records[1].LogIndex };
        yield return new Violation(ViolationClass.RecordInserted, new WorkflowKey("default", _id), 2, "Inserted.")
        { LogIndex = (long)_records[1].LogIndex };
    }

    private async Task AlterAsync(int sequence)
    {
        await Tampering.RunAsync(_server, "UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = @id AND sequence = @sequence",
            new { id = _id, sequence });
        var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = _id });
        Assert.That(verified.Intact, Is.False);
    }

    private async Task RepairAsync(ulong sequence) => await _server.Integrity.RepairRecordAsync(
        new Pb.RepairRecordRequest { WorkflowId = _id, Sequence = sequence, Actor = "op", Reason = "why" });

    private async Task<IReadOnlyList<Pb.Violation>> OpenAsync() =>
        (await _server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true })).Violations;

    /// <summary>For longer than an audit takes to come round.</summary>
    private async Task StaysCleanAsync()
    {
        for (var until = DateTime.UtcNow.AddSeconds(4); DateTime.UtcNow < until; await Task.Delay(200))
            Assert.That(await OpenAsync(), Is.Empty);
        await Until.HealthAsync(_server.Health, "aegis.integrity", serving: true);
        Assert.That((await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = _id })).Intact, Is.True);
    }
}
