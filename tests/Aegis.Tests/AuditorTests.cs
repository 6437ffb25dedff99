using System.Diagnostics;
using Aegis.Core;
using Aegis.Server;
using Aegis.Storage;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// What the owner of the database changes behind the service, without anyone asking for it, turns health within seconds and is
/// named.
/// </summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class AuditorTests(Database database) : IAsyncDisposable
{
    private static readonly TimeSpan FlipMax = TimeSpan.FromSeconds(5);

    private TestServer _server = null!;

    [SetUp]
    public async Task StartAsync() => _server = await TestServer.StartAsync(database);

    public async ValueTask DisposeAsync()
    {
        if (_server is not null)
            await _server.DisposeAsync();
    }

    [TestCase("UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = 'w' AND sequence = 2", Pb.ViolationClass.FieldModified, 2)]
    [TestCase("UPDATE record SET actor = 'mallory' WHERE workflow_id = 'w' AND sequence = 2", Pb.ViolationClass.FieldModified, 2)]
    [TestCase("UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL WHERE workflow_id = 'w' AND sequence = 2",
        Pb.ViolationClass.ErasedWithoutRecord, 2)]
    [TestCase("DELETE FROM record WHERE workflow_id = 'w' AND sequence = 2", Pb.ViolationClass.RecordMissing, 2)]
    [TestCase("DELETE FROM record WHERE workflow_id = 'w' AND sequence >= 2", Pb.ViolationClass.TailTruncated, 2)]
    [TestCase(
        """
        DELETE FROM record WHERE workflow_id = 'w';
        DELETE FROM snapshot WHERE workflow_id = 'w';
        DELETE FROM workflow WHERE workflow_id = 'w'
        """, Pb.ViolationClass.WorkflowDeleted, 1)]
    [TestCase("UPDATE snapshot SET content = sha256 WHERE workflow_id = 'w'", Pb.ViolationClass.SnapshotModified, 2)]
    [TestCase("DELETE FROM snapshot WHERE workflow_id = 'w'", Pb.ViolationClass.SnapshotMissing, 2)]
    [TestCase("UPDATE workflow SET state = 'STOLEN' WHERE workflow_id = 'w'", Pb.ViolationClass.WorkflowHeadModified, 0)]
    [TestCase("UPDATE workflow SET metadata = '{}' WHERE workflow_id = 'w'", Pb.ViolationClass.WorkflowHeadModified, 0)]
    [TestCase("UPDATE workflow SET sequence = 99 WHERE workflow_id = 'w'", Pb.ViolationClass.TailTruncated, 4)]
    [TestCase("UPDATE workflow SET sequence = 2 WHERE workflow_id = 'w'", Pb.ViolationClass.WorkflowHeadModified, 0)]
    [TestCase("DELETE FROM workflow WHERE workflow_id = 'w'", Pb.ViolationClass.WorkflowHeadModified, 0)]
    [TestCase(
        """
        UPDATE record SET log_index = 1000 WHERE workflow_id = 'w' AND sequence = 1;
        UPDATE record SET log_index = log_index - 1 WHERE workflow_id = 'w' AND sequence = 2;
        UPDATE record SET log_index = (SELECT log_index + 1 FROM record WHERE workflow_id = 'w' AND sequence = 2) WHERE log_index = 1000
        """, Pb.ViolationClass.RecordsReordered, 1)]
    [TestCase("UPDATE record SET workflow_id = 'other' WHERE workflow_id = 'w' AND sequence = 3", Pb.ViolationClass.FieldModified, 3)]
    public async Task An_edit_is_found_and_named(string sql, Pb.ViolationClass @class, int sequence)
    {
        await ChainAsync();

        var violations = await FoundAsync(sql);

        Assert.That(violations.Select(v => (v.Class, v.WorkflowId, (int)v.Sequence)), Does.Contain((@class, "w", sequence)));
    }

    [Test]
    public async Task A_record_rewritten_with_all_its_hashes_is_told_with_what_it_was()
    {
        await ChainAsync();
        var row = (await Store.ReadChainAsync(new WorkflowKey("default", "w"), 2, descending: false, 1, default))[0];
        var forged = StoredRecord.Seal(row.Record with { ToState = "STOLEN" }, row.LogIndex);

        var violations = await FoundAsync(
            """
            UPDATE record SET to_state = 'STOLEN', hash = @hash, encoded = @encoded WHERE workflow_id = 'w' AND sequence = 2
            """, new { hash = forged.Hash.ToArray(), encoded = forged.Encoded.ToArray() });

        var violation = violations.First(v => v.Class == Pb.ViolationClass.FieldModified);
        using (Assert.EnterMultipleScope())
        {
            Assert.That((violation.WorkflowId, violation.Sequence, violation.LogIndex), Is.EqualTo(("w", 2UL, (ulong)row.LogIndex)));
            Assert.That(violation.Differences.Single(d => d.Field == "to_state").Original, Is.EqualTo("PAID"));
            Assert.That(new Hash(violation.ExpectedHash.Span), Is.EqualTo(row.Hash));
            Assert.That(new Hash(violation.ActualHash.Span), Is.EqualTo(forged.Hash));
            Assert.That(violation.LastGoodLogSize, Is.GreaterThanOrEqualTo(row.LogIndex + 1));
        }
    }

    [Test]
    public async Task A_record_put_behind_the_log_is_found()
    {
        await ChainAsync();

        var violations = await FoundAsync("UPDATE record SET log_index = 5000 WHERE workflow_id = 'w' AND sequence = 3");

        Assert.That(violations.Select(v => v.Class), Does.Contain(Pb.ViolationClass.RecordInserted));
    }

    [TestCase("signed_note = log_id")]
    [TestCase("root = (SELECT hash FROM record WHERE log_index = 0)")]
    [TestCase("frontier = (SELECT hash FROM record WHERE log_index = 0)")]
    public async Task A_head_that_is_not_as_it_was_signed_is_found(string change)
    {
        await ChainAsync();

        var violations = await FoundAsync($"UPDATE log_head SET {change} WHERE size = 3");

        Assert.That(violations.Select(v => (v.Class, v.Namespace, v.WorkflowId, v.LogIndex)),
            Is.EqualTo(new[] { (Pb.ViolationClass.SignatureInvalid, "", "", 3UL) }));
    }

    [TestCase("DELETE FROM log_tile")]
    [TestCase("UPDATE log_tile SET root = substr(hashes, 1, 32)")]
    [TestCase("UPDATE log_tile SET hashes = entries")]
    [TestCase("UPDATE log_tile SET entries = hashes")]
    [TestCase("UPDATE log_tile SET tile_index = 7")]
    public async Task A_tile_that_is_changed_or_erased_is_found_and_blames_no_record(string sql)
    {
        if (database == Database.Sqlite && sql.Contains("hashes = entries", StringComparison.Ordinal))
            sql = "UPDATE log_tile SET hashes = substr(entries, 1, 8192)";
        else if (sql.Contains("hashes = entries", StringComparison.Ordinal))
            sql = "UPDATE log_tile SET hashes = substring(entries FROM 1 FOR 8192)";
        await Task.WhenAll(Enumerable.Range(0, 300).Select(i => _server.Workflows.StartWorkflowAsync(Given.Start($"w{i}")).ResponseAsync));

        var violations = await FoundAsync(sql);

        Assert.That(violations.Select(v => v.Class).Distinct(), Is.EqualTo(new[] { Pb.ViolationClass.TileModified }));
    }

    [Test]
    public async Task Honest_writing_by_two_servers_gives_nothing()
    {
        await using var second = database == Database.PostgreSql ? await TestServer.StartAsync(_server.Connection) : null;
        TestServer[] servers = second is null ? [_server] : [_server, second];
        var until = DateTime.UtcNow.AddSeconds(4);
        await Task.WhenAll(Enumerable.Range(0, 12).Select(async i =>
        {
            var server = servers[i % servers.Length];
            for (var n = 0; DateTime.UtcNow < until; n++)
            {
                var id = $"w{i}-{n}";
                await server.Workflows.StartWorkflowAsync(Given.Start(id));
                for (var sequence = 1UL; sequence < 5; sequence++)
                {
                    await server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
                    {
                        WorkflowId = id,
                        ExpectedSequence = sequence,
                        Snapshot = Given.Snapshot($"{id} {sequence}"),
                    });
                }
            }
        }));
        foreach (var server in servers)
        {
            await AuditedAsync(server);
            Assert.That(await ViolationsAsync(server), Is.Empty);
        }
    }

    private ILedgerStore Store => _server.Services.GetRequiredService<ILedgerStore>();

    private async Task ChainAsync()
    {
        var start = Given.Start("w");
        start.Metadata.Add("k", "v");
        await _server.Workflows.StartWorkflowAsync(start);
        var move = Given.Move("w", "NEW", "PAID");
        (move.Actor, move.Snapshot) = ("alice", Given.Snapshot("state"));
        await _server.Workflows.TransitionWorkflowAsync(move);
        await _server.Workflows.TransitionWorkflowAsync(Given.Move("w", "PAID", "SENT"));
        await Given.WorkflowAsync(_server);
    }

    /// <summary>Tampers once all that was written was audited, and waits for health to tell; gives what that round found.</summary>
    private async Task<IReadOnlyList<Pb.Violation>> FoundAsync(string sql, object? parameters = null)
    {
        await AuditedAsync(_server);
        Assert.That(await ViolationsAsync(_server), Is.Empty);
        await Tampering.RunAsync(_server, sql, parameters);
        var clock = Stopwatch.StartNew();
        await Until.HealthAsync(_server.Health, "aegis.integrity", serving: false);
        Assert.That(clock.Elapsed, Is.LessThan(FlipMax));
        TestContext.Out.WriteLine($"health flipped after {clock.Elapsed.TotalSeconds:0.0} s");
        var status = _server.Services.GetRequiredService<AuditStatus>();
        var rounds = status.Rounds;
        await Until.TrueAsync(() => Task.FromResult(status.Rounds > rounds));
        return await ViolationsAsync(_server);
    }

    /// <summary>Waits until all that is in the log by now was audited.</summary>
    private static async Task AuditedAsync(TestServer server)
    {
        var size = (await server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest())).Size;
        await Until.TrueAsync(() => Task.FromResult(server.Services.GetRequiredService<AuditStatus>().Size >= (long)size));
    }

    private static async Task<IReadOnlyList<Pb.Violation>> ViolationsAsync(TestServer server)
    {
        await server.Services.GetRequiredService<Findings>().SettleAsync(default);
        return (await server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true })).Violations;
    }
}
