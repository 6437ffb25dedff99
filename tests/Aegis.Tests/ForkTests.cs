using Aegis.Core;
using Aegis.Server;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Forks and checkpoints of old: what is taken from a history, and that nothing forged is taken from it.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class ForkTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task A_closed_case_is_gone_on_with_in_a_fork_and_a_fork_of_that()
    {
        var id = await ChainAsync();
        await _server.Workflows.TransitionWorkflowAsync(
            new Pb.TransitionWorkflowRequest(Given.Move(id, "S4", "END")) { Status = Pb.WorkflowStatus.Completed });

        var fork = await ForkAsync(id, 5);
        var second = await ForkAsync(fork.Workflow.WorkflowId, 1);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((fork.Workflow.State, fork.Workflow.Status), Is.EqualTo(("END", Pb.WorkflowStatus.Running)));
            Assert.That(second.Workflow.ForkedFrom.WorkflowId, Is.EqualTo(fork.Workflow.WorkflowId));
            Assert.That(second.Record.PreviousHash, Is.EqualTo(fork.Record.Hash));
            Assert.That(await ContentAsync(second.Workflow.WorkflowId), Is.EqualTo("three"));
            Assert.That((await VerifyAsync(second.Workflow.WorkflowId)).Intact, Is.True);
        }
    }

    [Test]
    public async Task A_fork_may_bring_a_state_and_a_snapshot_of_its_own()
    {
        var id = await ChainAsync();

        var fork = await ForkAsync(id, 4, f => (f.InitialState, f.Snapshot) = ("OTHER", Given.Snapshot("mine")));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(fork.Workflow.State, Is.EqualTo("OTHER"));
            Assert.That(await ContentAsync(fork.Workflow.WorkflowId), Is.EqualTo("mine"));
        }
    }

    [Test]
    public async Task A_request_that_leaves_to_the_source_what_the_first_one_brought_is_another()
    {
        var id = await ChainAsync();
        var fork = await ForkAsync(id, 4, f => (f.RequestId, f.InitialState, f.Snapshot) = ("fork", "OTHER", Given.Snapshot("mine")));
        var request = new Pb.StartWorkflowRequest
        {
            WorkflowId = fork.Workflow.WorkflowId,
            WorkflowType = fork.Workflow.WorkflowType,
            RequestId = "fork",
            ForkedFrom = new Pb.ForkPoint { WorkflowId = id, Sequence = 4 },
        };

        var state = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.StartWorkflowAsync(request), "REQUEST_ID_REUSED", StatusCode.AlreadyExists);
        request.InitialState = "OTHER";
        var snapshot = await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.StartWorkflowAsync(request), "REQUEST_ID_REUSED", StatusCode.AlreadyExists);

        Assert.That((state.Metadata["field"], snapshot.Metadata["field"]), Is.EqualTo(("initial_state", "snapshot")));
    }

    [Test]
    public async Task A_fork_from_before_the_first_checkpoint_has_none()
    {
        var fork = await ForkAsync(await ChainAsync(), 1);

        Assert.That(fork.Workflow.CheckpointSequence, Is.Zero);
    }

    [Test]
    public async Task What_a_refused_fork_says_a_program_can_read_too()
    {
        var id = await ChainAsync();
        var record = (await Given.RecordsAsync(_server, id))[0];

        var none = await ErrorAssert.RefusedAsync(() => ForkAsync(id, 99), "RECORD_NOT_FOUND", StatusCode.NotFound);
        var other = await ErrorAssert.RefusedAsync(
            () => ForkAsync(id, 2, f => f.ForkedFrom.Hash = record.Hash), "HASH_MISMATCH", StatusCode.Aborted);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(none.Metadata, Is.SupersetOf(new Dictionary<string, string>
            {
                ["namespace"] = "default",
                ["workflow_id"] = id,
                ["sequence"] = "99",
                ["current_sequence"] = "4",
            }));
            Assert.That(other.Metadata, Is.SupersetOf(new Dictionary<string, string>
            {
                ["namespace"] = "default",
                ["workflow_id"] = id,
                ["sequence"] = "2",
                ["current_state"] = "S2",
                ["current_sequence"] = "2",
            }));
            Assert.That(other.Metadata["current_hash"], Has.Length.EqualTo(64).And.EqualTo(other.Metadata["current_hash"].ToLowerInvariant()));
        }
    }

    [Test]
    public async Task A_forged_checkpoint_with_a_sound_hash_of_its_own_is_handed_to_nobody()
    {
        var id = await ChainAsync();
        await ForgeAsync(id, 3);

        foreach (var call in new Func<Task>[]
        {
            () => ContentAsync(id),
            () => ContentAsync(id, 3),
            () => ForkAsync(id, 3),
            () => ForkAsync(id, 4),
            async () => await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id }),
        })
        {
            await ErrorAssert.RefusedAsync(call, "CHAIN_BROKEN", StatusCode.DataLoss);
        }
        Assert.That(await ContentAsync(id, 2, allowQuarantined: true), Is.EqualTo("two"), "What lies before is as it was.");
    }

    [Test]
    public async Task A_forged_newest_record_is_not_the_head()
    {
        var id = await ChainAsync();
        await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = id,
            ExpectedSequence = 4,
            Snapshot = Given.Snapshot("five"),
        });
        await ForgeAsync(id, 5);

        await ErrorAssert.RefusedAsync(() => ContentAsync(id), "CHAIN_BROKEN", StatusCode.DataLoss);
        await ErrorAssert.RefusedAsync(() => ForkAsync(id, 5), "CHAIN_BROKEN", StatusCode.DataLoss);
        Assert.That(await ContentAsync(id, 4, allowQuarantined: true), Is.EqualTo("three"));
    }

    [Test]
    public async Task A_newest_checkpoint_that_was_deleted_is_not_answered_by_an_older_one()
    {
        var id = await ChainAsync();
        await Tampering.RunAsync(_server, "DELETE FROM record WHERE workflow_id = @id AND sequence = 3", new { id });

        await ErrorAssert.RefusedAsync(() => ContentAsync(id), "CHAIN_BROKEN", StatusCode.DataLoss);
        await ErrorAssert.RefusedAsync(() => ForkAsync(id, 4), "CHAIN_BROKEN", StatusCode.DataLoss);
    }

    [Test]
    public async Task A_known_request_is_answered_whatever_became_of_its_source()
    {
        var id = await ChainAsync();
        var first = await ForkAsync(id, 4, f => (f.WorkflowId, f.RequestId) = ($"{id}-once", "fork"));
        await Tampering.RunAsync(_server, "UPDATE snapshot SET content = @bad WHERE workflow_id = @id", new { id, bad = "bad"u8.ToArray() });

        var again = await ForkAsync(id, 4, f => (f.WorkflowId, f.RequestId) = ($"{id}-once", "fork"));
        await ErrorAssert.RefusedAsync(() => ForkAsync(id, 4), "SNAPSHOT_CORRUPT", StatusCode.DataLoss);

        Assert.That((again.Replayed, again.Record), Is.EqualTo((true, first.Record)));
    }

    [Test]
    public async Task A_fork_does_not_answer_for_what_was_altered_in_its_source()
    {
        var id = await ChainAsync();
        var fork = (await ForkAsync(id, 4)).Workflow.WorkflowId;
        await Tampering.RunAsync(_server, "UPDATE record SET hash = @hash WHERE workflow_id = @id AND sequence = 4",
            new { id, hash = Hash.Of("another"u8).ToArray() });

        using (Assert.EnterMultipleScope())
        {
            Assert.That((await VerifyAsync(fork)).Violations, Is.Empty);
            Assert.That((await VerifyAsync(id)).Violations, Is.Not.Empty);
        }
    }

    /// <summary>S1, S2 and S3 each with a snapshot, S4 without.</summary>
    private async Task<string> ChainAsync()
    {
        var id = await Given.WorkflowAsync(_server, "S1");
        foreach (var (sequence, content) in new[] { (2, "two"), (3, "three"), (4, null) })
        {
            var move = Given.Move(id, $"S{sequence - 1}", $"S{sequence}");
            move.Snapshot = content is null ? null : Given.Snapshot(content);
            await _server.Workflows.TransitionWorkflowAsync(move);
        }
        return id;
    }

    private async Task<Pb.StartWorkflowResponse> ForkAsync(string id, ulong sequence, Action<Pb.StartWorkflowRequest>? change = null)
    {
        var fork = new Pb.StartWorkflowRequest
        {
            WorkflowId = $"f-{Guid.NewGuid():N}",
            WorkflowType = "order",
            ForkedFrom = new Pb.ForkPoint { WorkflowId = id, Sequence = sequence },
        };
        change?.Invoke(fork);
        return await _server.Workflows.StartWorkflowAsync(fork);
    }

    private async Task<string> ContentAsync(string id, ulong? sequence = null, bool allowQuarantined = false)
    {
        var request = new Pb.GetCheckpointRequest { WorkflowId = id, AllowQuarantined = allowQuarantined };
        if (sequence is { } s)
            request.Sequence = s;
        return (await _server.Workflows.GetCheckpointAsync(request)).Snapshot.Content.ToStringUtf8();
    }

    private async Task<Pb.VerifyWorkflowResponse> VerifyAsync(string id) =>
        await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

    /// <summary>Gives a record another snapshot, and fits its digest, bytes and hash to it, as somebody with patience would.</summary>
    private async Task ForgeAsync(string id, int sequence)
    {
        var content = "forged"u8.ToArray();
        var record = Evidence.RecordMessages.ToStoredRecord((await Given.RecordsAsync(_server, id))[sequence - 1]);
        var part = record.Record.Snapshot! with { Size = content.Length, Sha256 = Hash.Of(content) };
        var forged = StoredRecord.Seal(
            record.Record with { Snapshot = part, SnapshotDigest = RecordFormat.DigestOf(part) }, record.LogIndex);
        var sha256 = part.Sha256.ToArray();
        await Tampering.RunAsync(_server,
            "INSERT INTO snapshot (namespace, workflow_id, sha256, content) VALUES ('default', @id, @sha256, @content)",
            new { id, sha256, content });
        await Tampering.RunAsync(_server,
            """
            UPDATE record SET snapshot_size = 6, snapshot_sha256 = @sha256, encoded = @encoded, hash = @hash
            WHERE workflow_id = @id AND sequence = @sequence
            """,
            new { id, sequence, sha256, encoded = forged.Encoded.ToArray(), hash = forged.Hash.ToArray() });
    }
}
