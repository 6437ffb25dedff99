using System.Diagnostics;
using Aegis.Core;
using Aegis.Evidence;
using Grpc.Health.V1;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// What the owner of the database can do to it with the guards removed, while a server runs: each act is found by the server's own
/// audit, shown by health, and named. Prints one line for each: found by, class, named what, seconds until health flipped.
/// </summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class TamperMatrixTests(Database database)
{
    private const string Workflow = "case";

    private static readonly Dictionary<string, Act> Acts = new()
    {
        ["edit a state"] = new(Pb.ViolationClass.FieldModified, 3,
            async s => await SqlAsync(s, "UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = 'case' AND sequence = 3"),
            Differs: ("to_state", "S3", "STOLEN")),
        ["edit one byte of a reason"] = new(Pb.ViolationClass.FieldModified, 3,
            async s => await SqlAsync(s, "UPDATE record SET reason = 'Reason 3' WHERE workflow_id = 'case' AND sequence = 3"),
            Differs: ("content", null, null)),
        ["edit the encoded bytes"] = new(Pb.ViolationClass.FieldModified, 3,
            async s => await SqlAsync(s,
                "UPDATE record SET encoded = (SELECT encoded FROM record WHERE log_index = 1) WHERE workflow_id = 'case' AND sequence = 3")),
        ["edit the hash"] = new(Pb.ViolationClass.FieldModified, 3,
            async s => await SqlAsync(s, "UPDATE record SET hash = @hash WHERE workflow_id = 'case' AND sequence = 3",
                new { hash = new byte[32] })),
        ["edit the key of a request"] = new(Pb.ViolationClass.FieldModified, 3,
            async s => await SqlAsync(s, "UPDATE record SET request_key = NULL WHERE workflow_id = 'case' AND sequence = 3"),
            Differs: ("request_key", Convert.ToHexStringLower(
                RecordFormat.RequestKey(new WorkflowKey("default", Workflow), "request 3").ToArray()), "")),
        ["delete a record"] = new(Pb.ViolationClass.RecordMissing, 3,
            async s => await SqlAsync(s, "DELETE FROM record WHERE workflow_id = 'case' AND sequence = 3")),
        ["insert a record beyond the head"] = new(Pb.ViolationClass.RecordInserted, 0, InsertAsync, AnySequence: true),
        ["insert a forged workflow"] = new(Pb.ViolationClass.RecordInserted, 0, InsertWorkflowAsync, Of: "forged", AnySequence: true),
        ["swap two records"] = new(Pb.ViolationClass.RecordsReordered, 3, SwapAsync, AnySequence: true),
        ["move a record to another workflow"] = new(Pb.ViolationClass.FieldModified, 0, MoveAsync, AnyClass: true, AnySequence: true),
        ["cut the last records and fix the head"] = new(Pb.ViolationClass.TailTruncated, 0, CutAsync, AnySequence: true),
        ["delete a workflow with everything"] = new(Pb.ViolationClass.WorkflowDeleted, 0, DeleteAsync, AnySequence: true),
        ["edit a snapshot"] = new(Pb.ViolationClass.SnapshotModified, 0,
            async s => await SqlAsync(s, "UPDATE snapshot SET content = @content WHERE workflow_id = 'case'",
                new { content = "forged"u8.ToArray() }), AnySequence: true),
        ["replace a snapshot and its digest"] = new(Pb.ViolationClass.FieldModified, 3, ReplaceSnapshotAsync, AnyClass: true),
        ["delete a snapshot"] = new(Pb.ViolationClass.SnapshotMissing, 0,
            async s => await SqlAsync(s, "DELETE FROM snapshot WHERE workflow_id = 'case'"), AnySequence: true),
        ["null a salt and its values"] = new(Pb.ViolationClass.ErasedWithoutRecord, 3,
            async s => await SqlAsync(s,
                "UPDATE record SET person_salt = NULL, actor = NULL, principal = NULL WHERE workflow_id = 'case' AND sequence = 3"),
            Differs: ("person", null, null)),
        ["edit a workflow's state"] = new(Pb.ViolationClass.WorkflowHeadModified, 0,
            async s => await SqlAsync(s, "UPDATE workflow SET state = 'PAID' WHERE workflow_id = 'case'"),
            Differs: ("state", "S5", "PAID")),
        ["say that a workflow is being imported"] = new(Pb.ViolationClass.WorkflowHeadModified, 0,
            async s => await SqlAsync(s, "UPDATE workflow SET importing = (1 = 1) WHERE workflow_id = 'case'"),
            Differs: ("importing", "false", "true")),
        ["delete a workflow's head"] = new(Pb.ViolationClass.WorkflowHeadModified, 0,
            async s => await SqlAsync(s, "DELETE FROM workflow WHERE workflow_id = 'case'"), AnyClass: true),
        ["edit and recompute the whole chain"] = new(Pb.ViolationClass.FieldModified, 3,
            s => new Forgery(s).RewriteChainAsync(Workflow, 3, r => r with { ToState = "STOLEN" }),
            Differs: ("to_state", "S3", "STOLEN")),
        ["edit a tile"] = new(Pb.ViolationClass.TileModified, 0,
            async s => await SqlAsync(s, "UPDATE log_tile SET hashes = @hashes WHERE level = 0", new { hashes = new byte[8192] }),
            Of: "", AnySequence: true),
        ["erase a tile"] = new(Pb.ViolationClass.TileModified, 0,
            async s => await SqlAsync(s, "DELETE FROM log_tile"), Of: "", AnySequence: true),
        ["edit a signature"] = new(Pb.ViolationClass.SignatureInvalid, 0, EditSignatureAsync, Of: "", AnySequence: true),
        ["rewrite records, tiles and head without the key"] = new(Pb.ViolationClass.SignatureInvalid, 0, RewriteAllAsync,
            Of: "", AnyClass: true, AnySequence: true),
        ["sign another history with the key"] = new(Pb.ViolationClass.LogRolledBack, 0, ForkAsync, Of: "", AnySequence: true),
        ["sign another head of an older size with the key"] = new(Pb.ViolationClass.LogForked, 0, ForkHeadAsync, Of: "", AnySequence: true),
        ["take the log back"] = new(Pb.ViolationClass.LogRolledBack, 0, TakeBackAsync, Of: "", AnySequence: true),
    };

    private static IEnumerable<TestCaseData> Names() => Acts.Keys.Select(name => new TestCaseData(name).SetArgDisplayNames(name));

    [TestCaseSource(nameof(Names))]
    public async Task An_act_is_found_and_named(string name)
    {
        var act = Acts[name];
        await using var server = await TestServer.StartAsync(database);
        await FillAsync(server);
        await Until.HealthAsync(server.Health, "aegis.integrity", serving: true);
        using var watch = server.Health.Watch(new HealthCheckRequest { Service = "aegis.integrity" });
        await watch.ResponseStream.MoveNext(CancellationToken.None);

        await act.Do(server);
        var since = Stopwatch.StartNew();
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(30));
        while (watch.ResponseStream.Current.Status == ServingStatus.Serving)
            await watch.ResponseStream.MoveNext(patience.Token);
        var flipped = since.Elapsed;

        var violation = await NamedAsync(server, act);
        TestContext.Out.WriteLine(
            $"{database}: {name}: found by the audit, {violation.Class}, named {violation.Namespace}/{violation.WorkflowId} "
            + $"sequence {violation.Sequence} log index {(violation.HasLogIndex ? violation.LogIndex.ToString() : "-")} "
            + $"[{string.Join(", ", violation.Differences.Select(d => $"{d.Field}: {d.Original} -> {d.Found}"))}], "
            + $"health flipped after {flipped.TotalSeconds:0.0} s");
    }

    /// <summary>A record that says it was recorded before the one before it, under a log that is signed with the key.</summary>
    [Test]
    public async Task A_clock_that_went_back_is_found()
    {
        await using var server = await TestServer.StartAsync(database);
        await FillAsync(server, others: 0);
        var forgery = new Forgery(server);
        var last = (await forgery.ChainAsync(Workflow))[^1];
        await forgery.RewriteChainAsync(Workflow, last.Record.Sequence, r => r with { RecordedAt = r.RecordedAt - 60_000_000 });
        await forgery.RewriteTreeAsync(SharedKey.Key);

        var verified = await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = Workflow });

        Assert.That(verified.Violations.Select(v => v.Class), Does.Contain(Pb.ViolationClass.ClockRegression));
    }

    private static async Task<Pb.Violation> NamedAsync(TestServer server, Act act)
    {
        Pb.Violation? found = null;
        IReadOnlyList<Pb.Violation> all = [];
        await Until.TrueAsync(async () =>
        {
            all = (await server.Integrity.ListViolationsAsync(new Pb.ListViolationsRequest { AllNamespaces = true })).Violations;
            found = all.FirstOrDefault(v => v.WorkflowId == act.Of && (act.AnyClass || v.Class == act.Class)
                && (act.AnySequence || v.Sequence == (ulong)act.Sequence)
                && (act.Differs is not { } d || v.Differences.Any(x => x.Field == d.Field && (d.Original is null
                    || (x.Original == d.Original && x.Found == d.Found)))));
            return found is not null;
        });
        using (Assert.EnterMultipleScope())
        {
            Assert.That(found!.FoundAt, Is.Not.Null);
            Assert.That(found.ViolationId, Is.Not.Empty);
            if (act.Differs is { Original: null })
                Assert.That(found.Differences.All(d => !d.HasOriginal && !d.HasFound), Is.True, "Values of an erasable part are told.");
        }
        return found!;
    }

    /// <summary>A case with a snapshot and a lease among enough others for a tile.</summary>
    private static async Task FillAsync(TestServer server, int others = 300)
    {
        await server.Workflows.StartWorkflowAsync(Given.Start("before"));
        await server.Workflows.StartWorkflowAsync(Given.Start(Workflow, "S1"));
        for (var i = 2; i <= 5; i++)
        {
            var move = Given.Move(Workflow, $"S{i - 1}", $"S{i}");
            move.Actor = "alice";
            move.Reason = $"reason {i}";
            move.RequestId = $"request {i}";
            if (i == 3)
                move.Snapshot = Given.Snapshot("the state");
            await server.Workflows.TransitionWorkflowAsync(move);
        }
        await Task.WhenAll(Enumerable.Range(0, others)
            .Select(i => server.Workflows.StartWorkflowAsync(Given.Start($"other {i}")).ResponseAsync));
    }

    private static Task SqlAsync(TestServer server, string sql, object? parameters = null) =>
        Tampering.RunAsync(server, sql, parameters);

    private static async Task InsertAsync(TestServer server)
    {
        await CopyRecordAsync(server, "case", 6);
        await SqlAsync(server, "UPDATE workflow SET sequence = 6 WHERE workflow_id = 'case'");
    }

    private static async Task InsertWorkflowAsync(TestServer server)
    {
        await CopyRecordAsync(server, "forged", 1);
        await SqlAsync(server,
            """
            INSERT INTO workflow (
                namespace, workflow_id, workflow_type, state, status, sequence, head_hash, checkpoint_sequence, metadata,
                created_log_index, created_at, updated_at, importing)
            SELECT
                namespace, 'forged', workflow_type, state, status, 1, head_hash, 0, metadata, created_log_index, created_at,
                updated_at, importing
            FROM workflow
            WHERE workflow_id = 'case'
            """);
    }

    private static Task CopyRecordAsync(TestServer server, string id, long sequence) => SqlAsync(server,
        """
        INSERT INTO record (
            log_index, log_id, namespace, workflow_id, sequence, kind, workflow_type, from_state, to_state, status, request_id,
            lease_epoch, occurred_at, recorded_at, hash, encoded)
        SELECT
            (SELECT max(log_index) + 1 FROM record), log_id, namespace, @id, @sequence, kind, workflow_type, from_state, to_state,
            status, '', lease_epoch, occurred_at, recorded_at, hash, encoded
        FROM record
        WHERE workflow_id = 'case' AND sequence = 5
        """,
        new { id, sequence });

    private static async Task SwapAsync(TestServer server)
    {
        await SqlAsync(server, "UPDATE record SET sequence = 99 WHERE workflow_id = 'case' AND sequence = 3");
        await SqlAsync(server, "UPDATE record SET sequence = 3 WHERE workflow_id = 'case' AND sequence = 4");
        await SqlAsync(server, "UPDATE record SET sequence = 4 WHERE workflow_id = 'case' AND sequence = 99");
    }

    private static async Task MoveAsync(TestServer server)
    {
        await SqlAsync(server, "UPDATE record SET workflow_id = 'before', sequence = 2 WHERE workflow_id = 'case' AND sequence = 5");
        await SqlAsync(server, "UPDATE workflow SET sequence = 4 WHERE workflow_id = 'case'");
    }

    private static async Task CutAsync(TestServer server)
    {
        await SqlAsync(server, "DELETE FROM record WHERE workflow_id = 'case' AND sequence > 3");
        await SqlAsync(server,
            """
            UPDATE workflow SET
                sequence = 3,
                state = 'S3',
                head_hash = (SELECT hash FROM record WHERE workflow_id = 'case' AND sequence = 3),
                updated_at = (SELECT recorded_at FROM record WHERE workflow_id = 'case' AND sequence = 3)
            WHERE workflow_id = 'case'
            """);
    }

    private static async Task DeleteAsync(TestServer server)
    {
        foreach (var table in new[] { "record", "workflow", "snapshot", "lease" })
            await SqlAsync(server, $"DELETE FROM {table} WHERE workflow_id = 'case'");
    }

    private static async Task ReplaceSnapshotAsync(TestServer server)
    {
        var content = "forged"u8.ToArray();
        await SqlAsync(server, "UPDATE snapshot SET content = @content, sha256 = @sha256 WHERE workflow_id = 'case'",
            new { content, sha256 = Hash.Of(content).ToArray() });
        await new Forgery(server).RewriteChainAsync(Workflow, 3, r => r with
        {
            Snapshot = r.Snapshot! with { Size = content.Length, Sha256 = Hash.Of(content) },
        });
    }

    private static async Task EditSignatureAsync(TestServer server)
    {
        var head = await new Forgery(server).HeadAsync();
        await SqlAsync(server, "UPDATE log_head SET signed_note = @note WHERE size = @Size",
            new { note = Forged(new LogHead(head.LogId, head.Size, head.Frontier!.Root)), head.Size });
    }

    private static string Forged(LogHead head) => SignedNote.Write(head.Text, SharedKey.Key.VerifierKey(head.LogId), new byte[64]);

    private static async Task RewriteAllAsync(TestServer server)
    {
        using var forger = SigningKey.Create();
        var forgery = new Forgery(server);
        await forgery.RewriteChainAsync(Workflow, 3, r => r with { ToState = "STOLEN" });
        await forgery.RewriteTreeAsync(forger);
    }

    /// <summary>An operator who has the key: the memory of the server has seen the other history.</summary>
    private static async Task ForkAsync(TestServer server)
    {
        var forgery = new Forgery(server);
        await forgery.RewriteChainAsync(Workflow, 3, r => r with { ToState = "STOLEN" });
        await forgery.RewriteTreeAsync(SharedKey.Key);
    }

    /// <summary>Two heads that the key has signed, one of which no tree of these records has.</summary>
    private static async Task ForkHeadAsync(TestServer server)
    {
        var head = await new Forgery(server).HeadAsync();
        var size = await Tampering.CountAsync(server, "SELECT min(size) FROM log_head WHERE size > 1");
        var frontier = new MerkleFrontier();
        for (var i = 0L; i < size; i++)
            frontier.Append(Hash.Of([(byte)i]));
        await SqlAsync(server, "UPDATE log_head SET root = @root, frontier = @frontier, signed_note = @note WHERE size = @size",
            new
            {
                root = frontier.Root.ToArray(),
                frontier = frontier.ToArray(),
                note = SharedKey.Key.Sign(new LogHead(head.LogId, size, frontier.Root)),
                size,
            });
    }

    private static async Task TakeBackAsync(TestServer server)
    {
        var size = (await new Forgery(server).HeadAsync()).Size;
        await SqlAsync(server, "DELETE FROM record WHERE log_index >= @from", new { from = size - 3 });
        await SqlAsync(server, "DELETE FROM log_head WHERE size > @to", new { to = size - 3 });
    }

    /// <param name="Class">The class it is expected to be found as.</param>
    /// <param name="Sequence">The record that is named.</param>
    /// <param name="Do">What the owner does.</param>
    /// <param name="Of">The workflow that is named; empty for the log itself.</param>
    /// <param name="Differs">A field or part that is named, with original and found value where it is not erasable.</param>
    /// <param name="AnyClass">Several classes tell the truth of it.</param>
    /// <param name="AnySequence">It concerns more than one record.</param>
    private sealed record Act(Pb.ViolationClass Class, long Sequence, Func<TestServer, Task> Do, string Of = Workflow,
        (string Field, string? Original, string? Found)? Differs = null, bool AnyClass = false, bool AnySequence = false);
}
