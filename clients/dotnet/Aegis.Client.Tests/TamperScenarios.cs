using Aegis.Core;
using Aegis.Tests;

namespace Aegis.Client.Tests;

/// <summary>What is altered between server and client is not given out. One at a time, over one _proxy.</summary>
[Parallelizable(ParallelScope.Self)]
public sealed class TamperScenarios
{
    private FaultProxy _proxy = null!;

    [OneTimeSetUp]
    public async Task StartAsync() => _proxy = await FaultProxy.StartAsync((await Kit.ServerAsync()).Address);

    [OneTimeTearDown]
    public async Task EndAsync() => await _proxy.DisposeAsync();

    [TearDown]
    public async Task ForgetAsync() => await _proxy.OrderAsync("forget");

    private const string Write = "write";
    private const string Read = "read";
    private const string Load = "load";
    private const string List = "list";
    private const string Pending = "pending";
    private const string Follow = "follow";

    [TestCase(Write, "TransitionWorkflow record.reason", "content")]
    [TestCase(Write, "TransitionWorkflow record.actor", "person")]
    [TestCase(Write, "TransitionWorkflow record.metadata.k", "content")]
    [TestCase(Write, "TransitionWorkflow record.to_state", "hash")]
    [TestCase(Write, "TransitionWorkflow record.hash", "hash")]
    [TestCase(Write, "TransitionWorkflow record.workflow_id", "record of")]
    [TestCase(Write, "TransitionWorkflow record.snapshot_sha256", "snapshot")]
    [TestCase(Load, "GetCheckpoint record.recorded_at.seconds", "hash")]
    [TestCase(Load, "GetCheckpoint record.snapshot_content_type", "snapshot")]
    [TestCase(Load, "GetCheckpoint record.snapshot_digest", "snapshot")]
    [TestCase(Read, "ResumeWorkflow checkpoint.record.status", "hash")]
    [TestCase(Read, "ResumeWorkflow records_since.0.to_state", "hash")]
    [TestCase(Read, "ResumeWorkflow records_since.0.previous_hash", "hash")]
    [TestCase(Read, "ResumeWorkflow workflow.state", "head")]
    [TestCase(Read, "ResumeWorkflow workflow.sequence", "head")]
    [TestCase(Pending, "ResumePendingWorkflows resumed.checkpoint.record.reason", "content")]
    [TestCase(List, "ListRecords records.1.occurred_at.seconds", "hash")]
    [TestCase(List, "ListRecords records.0.log_id", "hash")]
    public async Task Tampered_record(string call, string flip, string named) => await RefusedAsync(call, flip, named);

    [TestCase(Write, "TransitionWorkflow receipt.inclusion_path.0", "inclusion path")]
    [TestCase(Write, "TransitionWorkflow receipt.log_index", "receipt")]
    [TestCase(Write, "TransitionWorkflow receipt.record_hash", "receipt")]
    [TestCase(Write, "TransitionWorkflow receipt.consistency_path.0", "consistency path")]
    [TestCase(Follow, "GetConsistencyProof path.0", "rewritten")]
    public async Task Tampered_proof(string call, string flip, string named) => await RefusedAsync(call, flip, named);

    [TestCase(Write, "TransitionWorkflow receipt.log_head", "sign")]
    [TestCase(Write, "TransitionWorkflow receipt.log_head 3", "sign")]
    [TestCase(Write, "TransitionWorkflow receipt.log_head 60", "sign")]
    [TestCase(Write, "TransitionWorkflow receipt.log_head 150", "sign")]
    [TestCase(Write, "TransitionWorkflow receipt.log_head 185", "sign")]
    [TestCase(Follow, "GetLogHead signed_note 60", "sign")]
    public async Task Tampered_head(string call, string flip, string named) => await RefusedAsync(call, flip, named);

    [TestCase(Load, "GetCheckpoint snapshot.content", "SHA-256")]
    [TestCase(Load, "GetCheckpoint snapshot.content_type", "snapshot")]
    [TestCase(Read, "ResumeWorkflow checkpoint.snapshot.content 0", "SHA-256")]
    [TestCase(Pending, "ResumePendingWorkflows resumed.checkpoint.snapshot.content", "SHA-256")]
    public async Task Tampered_snapshot(string call, string flip, string named) => await RefusedAsync(call, flip, named);

    [Test]
    public async Task Verify_integrity()
    {
        var engine = await Kit.EngineAsync(address: _proxy.Address);
        await HistoryAsync(engine);

        var honest = await engine.VerifyIntegrityAsync("w-1");
        for (var at = 0; at < 2200; at += 73)
        {
            await _proxy.OrderAsync($"flip ExportWorkflows chunk {at}");
            Assert.That(await IsProvenAsync(engine), Is.False, $"byte {at}");
            await _proxy.OrderAsync("forget");
        }

        Assert.That((honest.IsProven, honest.Records, honest.Snapshots), Is.EqualTo((true, 4L, 2L)));
        Assert.That((await engine.VerifyIntegrityAsync("w-1")).IsProven, "what was altered on the way stops nobody");
        await engine.CloseAsync();
    }

    private static async Task<bool> IsProvenAsync(DurableWorkflowEngine engine)
    {
        try
        {
            return (await engine.VerifyIntegrityAsync("w-1")).IsProven;
        }
        catch (IntegrityException)
        {
            return false;
        }
    }

    /// <summary>The same call is made once with the field flipped, and once honestly: so it is the flip that is refused.</summary>
    private async Task RefusedAsync(string call, string flip, string named)
    {
        var engine = await Kit.EngineAsync(address: _proxy.Address, engine: new EngineOptions { CheckpointOnTransition = call is Write });
        await HistoryAsync(engine);
        if (call is Follow)
        {
            // The log has grown past what this client has seen.
            var other = await Kit.EngineAsync(engine.Client.Namespace);
            await other.StartAsync("w-2");
            await other.CloseAsync();
        }
        await _proxy.OrderAsync($"flip {flip}");

        var refused = (await Assert.CatchAsync<IntegrityException>(() => MakeAsync(engine, call)))!;
        await _proxy.OrderAsync("forget");

        Assert.That(refused.Message, Does.Contain(named).IgnoreCase);
        await engine.CloseAsync();
        var honest = await Kit.EngineAsync(engine.Client.Namespace, _proxy.Address);
        await MakeAsync(honest, call);
        await honest.CloseAsync();
    }

    private static async Task MakeAsync(DurableWorkflowEngine engine, string call)
    {
        switch (call)
        {
            case Write:
                var details = new TransitionDetails
                {
                    Reason = "because",
                    Metadata = new Dictionary<string, string> { ["k"] = "value" },
                };
                await engine.TransitionAsync(await engine.ReadAsync<Permit>("w-1"), "NEXT", details: details);
                break;
            case Read:
                await engine.ReadAsync<Permit>("w-1");
                break;
            case Load:
                await engine.LoadCheckpointAsync<Permit>("w-1");
                break;
            case List:
                await engine.HistoryAsync("w-1");
                break;
            case Pending:
                ResumeFailure? failed = null;
                await foreach (var _ in engine.ResumeAllPendingAsync<Permit>(new ResumeOptions { OnFailed = f => failed = f }))
                {
                }
                if (failed is not null)
                    throw new IntegrityException(failed.Reason, failed.Message);
                break;
            case Follow:
                await engine.Client.FollowLogAsync();
                break;
        }
    }

    private static async Task HistoryAsync(DurableWorkflowEngine engine)
    {
        var details = new StartDetails { TakeLease = false, Reason = "asked" };
        var workflow = await engine.StartAsync("permit", "w-1", "RECEIVED", new Permit("Anna"), details);
        await engine.TransitionAsync(workflow, "CHECKED", details: new TransitionDetails { OccurredAt = DateTimeOffset.UtcNow, Checkpoint = true });
        workflow.Data = workflow.Data! with { Step = 2 };
        await engine.CheckpointAsync(workflow, new WriteDetails { Reason = "half done" });
        await engine.TransitionAsync(workflow, "ASSESSED", details: new TransitionDetails { Checkpoint = false });
    }
}
