using Aegis.Server;
using Aegis.Storage;
using Microsoft.Extensions.DependencyInjection;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The whole history is verified round and round, and its position is believed only under the log's key.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class ScrubTests(Database database)
{
    private static readonly KeyValuePair<string, string>[] Often = [KeyValuePair.Create("AEGIS_SCRUB_PERIOD", "4s")];

    [TestCase("INSERT INTO snapshot SELECT namespace, workflow_id, head_hash, head_hash FROM workflow WHERE workflow_id = 'w'",
        Pb.ViolationClass.SnapshotModified, "w")]
    [TestCase("INSERT INTO lease SELECT namespace, 'nobody', 'o', 1, 1 FROM workflow WHERE workflow_id = 'w'",
        Pb.ViolationClass.WorkflowHeadModified, "nobody")]
    [TestCase(
        """
        INSERT INTO workflow
        SELECT namespace, 'forged', workflow_type, state, status, sequence, head_hash, checkpoint_sequence, metadata,
            forked_from_workflow_id, forked_from_sequence, forked_from_hash, created_log_index, created_at, updated_at, importing
        FROM workflow
        WHERE workflow_id = 'w'
        """, Pb.ViolationClass.WorkflowHeadModified, "forged")]
    public async Task Rows_that_belong_to_nothing_are_found(string sql, Pb.ViolationClass @class, string id)
    {
        await using var server = await TestServer.StartAsync(database, Often);
        await server.Workflows.StartWorkflowAsync(Given.Start("w"));
        await WholeRoundAsync(server);
        Assert.That(await ViolationsAsync(server), Is.Empty);

        await Tampering.RunAsync(server, sql);

        await Until.TrueAsync(async () => (await ViolationsAsync(server)).Any(v => v.Class == @class && v.WorkflowId == id));
    }

    [Test]
    public async Task Its_position_survives_a_restart_and_a_forged_one_is_not_believed()
    {
        using var directory = new TemporaryDirectory("aegis");
        var connection = database == Database.Sqlite
            ? $"sqlite:{Path.Combine(directory.Path, "aegis.db")}"
            : await PostgresCluster.CreateLedgerDatabaseAsync();
        await using (var first = await TestServer.StartAsync(connection, Often))
        {
            await first.Workflows.StartWorkflowAsync(Given.Start("w"));
            await WholeRoundAsync(first);
        }

        ScrubPosition noted;
        await using (var second = await TestServer.StartAsync(connection))
        {
            noted = await PositionAsync(second);
            Assert.That(noted.WholeEnded, Is.GreaterThan(0));
            await ScrubbedAsync(second);
            var at = DateTimeOffset.UnixEpoch.AddTicks(noted.WholeEnded * TimeSpan.TicksPerMicrosecond);
            Assert.That(second.Services.GetRequiredService<AuditStatus>().ScrubAge,
                Is.EqualTo(DateTimeOffset.UtcNow - at).Within(TimeSpan.FromSeconds(2)));
        }

        // A time that nobody signed, which would keep health serving for long.
        await Tampering.RunAsync(connection, "UPDATE audit_position SET signed_note = replace(signed_note, @old, @new)",
            new { old = $"{noted.WholeEnded}", @new = $"{noted.WholeEnded + 1}" });
        await using var third = await TestServer.StartAsync(connection);
        await ScrubbedAsync(third);
        await Until.TrueAsync(async () => await Store(third).ReadAuditPositionAsync(default) is { } note
            && ScrubPosition.Verify(note, third.Services.GetRequiredService<LogSigner>()) is { WholeEnded: 0 });
    }

    [Test]
    public void Health_tells_when_the_newest_records_or_the_history_were_not_verified_in_time()
    {
        using var metrics = new Metrics();
        var clock = new Clock();
        var status = new AuditStatus(new LogTail(null!), new ServerOptions { ScrubPeriod = TimeSpan.FromDays(1) }, metrics, clock);
        Assert.That(status.IsCurrent, Is.False, "before the first audit");

        status.Audited(1);
        Assert.That(status.IsCurrent, Is.True, "a fresh log");
        status.Scrubbed(clock.GetUtcNow());
        clock.Now += TimeSpan.FromDays(1) - TimeSpan.FromSeconds(1);
        Assert.That(status.IsCurrent, Is.False, "no look at the newest records for a day");
        status.Audited(1);
        Assert.That(status.IsCurrent, Is.True);
        clock.Now += TimeSpan.FromSeconds(2);
        Assert.That(status.IsCurrent, Is.False, "a history that was not verified within its period");
        status.Scrubbed(clock.GetUtcNow());
        Assert.That(status.IsCurrent, Is.True);
    }

    private sealed class Clock : TimeProvider
    {
        public DateTimeOffset Now { get; set; } = DateTimeOffset.UnixEpoch.AddYears(50);

        public override DateTimeOffset GetUtcNow() => Now;

        public override long GetTimestamp() => Now.Ticks;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;
    }

    private static ILedgerStore Store(TestServer server) => server.Services.GetRequiredService<ILedgerStore>();

    private static async Task<ScrubPosition> PositionAsync(TestServer server) =>
        ScrubPosition.Verify((await Store(server).ReadAuditPositionAsync(default))!, server.Services.GetRequiredService<LogSigner>())!;

    private static Task WholeRoundAsync(TestServer server)
    {
        var signer = server.Services.GetRequiredService<LogSigner>();
        var from = (DateTimeOffset.UtcNow - DateTimeOffset.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;
        return Until.TrueAsync(async () => await Store(server).ReadAuditPositionAsync(default) is { } note
            && ScrubPosition.Verify(note, signer) is { } position && position.WholeEnded > 0 && position.RoundBegan > from);
    }

    /// <summary>Waits until the noted position was looked at.</summary>
    private static Task ScrubbedAsync(TestServer server) => Until.TrueAsync(
        () => Task.FromResult(server.Services.GetRequiredService<AuditStatus>().ScrubAge > TimeSpan.Zero));

    private static async Task<IReadOnlyList<Pb.Violation>> ViolationsAsync(TestServer server)
    {
        await server.Services.GetRequiredService<Findings>().SettleAsync(default);
        return (await server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true })).Violations;
    }
}
