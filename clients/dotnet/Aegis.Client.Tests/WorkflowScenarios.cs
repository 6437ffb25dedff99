using System.Security.Cryptography;
using System.Text;
using Aegis.Core;
using Aegis.Evidence;

namespace Aegis.Client.Tests;

using Pb = Aegis.V1;

/// <summary>What a service does all day.</summary>
public sealed class WorkflowScenarios
{
    [Test]
    public async Task First_use()
    {
        var engine = await Kit.EngineAsync();
        var workflow = await engine.StartAsync("permit", "p-1", "RECEIVED", new Permit("Anna"), new StartDetails { Reason = "asked at the desk" });
        workflow.Data = workflow.Data! with { Step = 1 };
        await engine.TransitionAsync(workflow, "CHECKED");
        workflow.Data = workflow.Data with { Step = 2 };
        await engine.CheckpointAsync(workflow);

        var again = await engine.ReadAsync<Permit>("p-1");

        using (Assert.EnterMultipleScope())
        {
            Assert.That((again.State, again.Status, again.Sequence), Is.EqualTo(("CHECKED", WorkflowStatus.Running, 3L)));
            Assert.That(again.Data, Is.EqualTo(new Permit("Anna", 2)));
            Assert.That(again.HeadHash, Is.EqualTo(workflow.HeadHash));
            Assert.That(again.RecordsSince, Is.Empty);
            Assert.That((await engine.HistoryAsync("p-1")).Select(r => r.Record.Kind),
                Is.EqualTo(new[] { RecordKind.Started, RecordKind.Transition, RecordKind.Checkpoint }));
        }
        await engine.CloseAsync();
    }

    [Test]
    public async Task Codec()
    {
        var engine = await Kit.EngineAsync();
        engine.Register("secret", new EncryptingCodec());
        await engine.StartAsync("secret", "s-1", "NEW", "what only we know");

        var there = await engine.Client.Workflows.GetCheckpointAsync(
            new Pb.GetCheckpointRequest { Namespace = engine.Client.Namespace, WorkflowId = "s-1" });
        var here = await engine.ReadAsync<string>("s-1");

        Assert.That(there.Snapshot.ContentType, Is.EqualTo("application/x-sealed;version=1"));
        Assert.That(there.Snapshot.Content.ToStringUtf8(), Does.Not.Contain("know"));
        Assert.That(there.ToString(), Does.Not.Contain("know"));
        Assert.That(here.Data, Is.EqualTo("what only we know"));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Conflict()
    {
        var engine = await Kit.EngineAsync();
        var calls = new CountingInterceptor();
        var other = await Kit.EngineAsync(engine.Client.Namespace, configure: options => options.Interceptors.Add(calls));
        await engine.StartAsync("c-1");
        var one = await engine.ReadAsync<Permit>("c-1");
        var two = await other.ReadAsync<Permit>("c-1");
        await engine.TransitionAsync(one, "CHECKED");
        calls.Count = 0;

        var conflict = (await Assert.ThrowsAsync<WorkflowConflictException>(() => other.TransitionAsync(two, "REJECTED")))!;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(conflict.Reason, Is.EqualTo("STATE_MISMATCH"));
            Assert.That((conflict.CurrentState, conflict.CurrentSequence, conflict.CurrentHash), Is.EqualTo(("CHECKED", 2L, one.HeadHash)));
            Assert.That(calls.Count, Is.EqualTo(1), "no retry");
            Assert.That((two.State, two.Sequence), Is.EqualTo(("RECEIVED", 1L)));
            Assert.That(await engine.HistoryAsync("c-1"), Has.Count.EqualTo(2));
        }
        await engine.CloseAsync();
        await other.CloseAsync();
    }

    [Test]
    public async Task Typed_errors()
    {
        var engine = await Kit.EngineAsync();
        var other = await Kit.EngineAsync(engine.Client.Namespace);
        var held = await engine.StartAsync("t-1", takeLease: true);
        var seen = await other.ReadAsync<Permit>("t-1");
        var closed = await engine.StartAsync("t-2");
        await engine.TransitionAsync(closed, "DONE", WorkflowStatus.Completed);
        var reused = await engine.StartAsync("t-3");
        await engine.TransitionAsync(reused, "A", details: new TransitionDetails { RequestId = "once" });
        // Not even a workflow's own process can be made to lose a lease by accident: another worker under the same name takes it.
        var thief = await Kit.EngineAsync(engine.Client.Namespace, engine: new EngineOptions { Owner = engine.Owner });
        var lost = await engine.StartAsync("t-4", takeLease: true);
        await thief.ResumeAsync<Permit>("t-4", new ResumeOptions { TakeOverOwn = true });

        using (Assert.EnterMultipleScope())
        {
            var missing = (await Assert.ThrowsAsync<WorkflowNotFoundException>(() => engine.ReadAsync<Permit>("nobody")))!;
            Assert.That((missing.Facts["workflow_id"], missing.Facts["namespace"]), Is.EqualTo(("nobody", engine.Client.Namespace)));
            await Assert.ThrowsAsync<WorkflowAlreadyExistsException>(() => engine.StartAsync("t-1"));
            await Assert.ThrowsAsync<WorkflowClosedException>(() => engine.TransitionAsync(closed, "AGAIN"));
            var holder = (await Assert.ThrowsAsync<LeaseHeldException>(() => other.ResumeAsync<Permit>("t-1")))!;
            Assert.That(holder.Owner, Is.EqualTo(engine.Owner));
            Assert.That(holder.ExpiresAt, Is.EqualTo(held.LeaseExpiresAt));
            await Assert.ThrowsAsync<LeaseRequiredException>(() => other.TransitionAsync(seen, "CHECKED"));
            await Assert.ThrowsAsync<LeaseLostException>(() => engine.TransitionAsync(lost, "CHECKED"));
            Assert.That(lost.LeaseLost.IsCancellationRequested);
            var again = (await Assert.ThrowsAsync<RequestIdReusedException>(
                () => engine.TransitionAsync(reused, "B", details: new TransitionDetails { RequestId = "once" })))!;
            Assert.That(again.Field, Is.Not.Empty);
            var bad = (await Assert.ThrowsAsync<InvalidFieldException>(() => engine.StartAsync("permit", "", "", new Permit("x"))))!;
            Assert.That(bad.Fields.Select(f => f.Field), Is.EquivalentTo(new[] { "workflow_id", "initial_state" }));
            await Assert.ThrowsAsync<CheckpointNotFoundException>(async () =>
            {
                await engine.StartAsync<Permit>("permit", "t-5", "NEW", null);
                await engine.LoadCheckpointAsync<Permit>("t-5");
            });
        }
        await engine.CloseAsync();
        await other.CloseAsync();
        await thief.CloseAsync();
    }

    [Test]
    public async Task Snapshot_sizes()
    {
        var engine = await Kit.EngineAsync();
        engine.Register("bytes", new BytesCodec());
        var limit = (int)(await engine.Client.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).Limits.SnapshotBytesMax;
        var large = RandomNumberGenerator.GetBytes(limit);
        var workflow = await engine.StartAsync("bytes", "b-1", "NEW", Array.Empty<byte>());
        var empty = (await engine.LoadCheckpointAsync<byte[]>("b-1")).Data;
        workflow.Data = large;
        await engine.CheckpointAsync(workflow);
        var full = (await engine.ReadAsync<byte[]>("b-1")).Data;
        workflow.Data = new byte[limit + 1];

        var refused = (await Assert.ThrowsAsync<SnapshotTooLargeException>(() => engine.CheckpointAsync(workflow)))!;

        Assert.That(empty, Is.Empty);
        Assert.That(full, Is.EqualTo(large));
        Assert.That(refused.SnapshotBytesMax, Is.EqualTo(limit));
        Assert.That(await engine.HistoryAsync("b-1"), Has.Count.EqualTo(2));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Non_ascii()
    {
        var engine = await Kit.EngineAsync(Kit.NewNamespace() + "-Zürich-東京");
        const string id = "Żółć/Ωμέγα/ליקוי/𝒲orkflow-🌍";
        var details = new TransitionDetails
        {
            Actor = "Ólafía Þórunn 𐍈",
            Reason = "Прошу — 请求 — 🜁\nзвонок",
            Metadata = new Dictionary<string, string> { ["\uFF5E"] = "fullwidth", ["𐀀"] = "linear B", ["é"] = "composed", ["e\u0301"] = "decomposed" },
        };
        var workflow = await engine.StartAsync("permit", id, "Wörk·neu", new Permit("नमस्ते 👩‍👩‍👧", 1, "\u0001\u200F"));
        await engine.TransitionAsync(workflow, "処理中", details: details);

        var again = await engine.ReadAsync<Permit>(id);
        var record = (await engine.HistoryAsync(id))[1].Record;
        var report = await engine.VerifyIntegrityAsync(id);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((again.WorkflowId, again.State), Is.EqualTo((id, "処理中")));
            Assert.That(again.Data, Is.EqualTo(new Permit("नमस्ते 👩‍👩‍👧", 1, "\u0001\u200F")));
            Assert.That((record.FromState, record.Person!.Actor, record.Content!.Reason), Is.EqualTo(("Wörk·neu", details.Actor, details.Reason)));
            Assert.That(record.Content.Metadata.ToDictionary(), Is.EqualTo(details.Metadata));
            Assert.That(report.IsProven);
        }
        await engine.CloseAsync();
    }

    [Test]
    public async Task Time_travel()
    {
        var engine = await Kit.EngineAsync();
        var workflow = await engine.StartAsync("z-1");
        var times = new List<DateTimeOffset>();
        for (var step = 1; step <= 3; step++)
        {
            workflow.Data = workflow.Data! with { Step = step };
            await engine.TransitionAsync(workflow, $"S{step}");
            times.Add(Times.FromMicroseconds(workflow.LastWritten!.Record.RecordedAt));
            await Task.Delay(5);
        }

        var bySequence = await engine.LoadCheckpointAsync<Permit>("z-1", sequence: 3);
        var byTime = await engine.LoadCheckpointAsync<Permit>("z-1", asOf: times[0].AddMilliseconds(1));
        var newest = await engine.LoadCheckpointAsync<Permit>("z-1");
        var fork = await engine.ForkAsync<Permit>("permit", "z-2", "z-1", sequence: 2);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((bySequence.State, bySequence.Data.Step), Is.EqualTo(("S2", 2)));
            Assert.That((byTime.State, byTime.Data.Step), Is.EqualTo(("S1", 1)));
            Assert.That((newest.State, newest.Data.Step), Is.EqualTo(("S3", 3)));
            Assert.That((fork.State, fork.Data!.Step), Is.EqualTo(("S1", 1)));
            Assert.That((await engine.VerifyIntegrityAsync("z-2")).IsProven);
        }
        await engine.CloseAsync();
    }

    [Test]
    public async Task A_fork_takes_its_sources_object_unless_it_has_one_of_its_own_whatever_the_type()
    {
        var engine = await Kit.EngineAsync();
        engine.Register<Guid>("ticket");
        var (first, second) = (Guid.NewGuid(), Guid.NewGuid());
        await engine.StartAsync("ticket", "f-1", "NEW", first, new StartDetails { TakeLease = false });

        var fork = await engine.ForkAsync<Guid>("ticket", "f-2", "f-1", sequence: 1);
        var own = await engine.ForkAsync("ticket", "f-3", "f-1", sequence: 1, initialState: null, data: second);
        var none = await engine.ForkAsync("ticket", "f-4", "f-1", sequence: 1, initialState: null, data: Guid.Empty);

        Assert.That((fork.Data, own.Data, none.Data), Is.EqualTo((first, second, Guid.Empty)));
        Assert.That((await engine.LoadCheckpointAsync<Guid>("f-2")).Data, Is.EqualTo(first));
        Assert.That((await engine.LoadCheckpointAsync<Guid>("f-4")).Data, Is.EqualTo(Guid.Empty));
        await engine.CloseAsync();
    }

    [Test]
    public async Task A_moved_state_without_an_object_is_told_by_the_records_since()
    {
        var engine = await Kit.EngineAsync(engine: new EngineOptions { CheckpointOnTransition = false });
        var workflow = await engine.StartAsync("r-1");
        for (var step = 1; step <= 3; step++)
            await engine.TransitionAsync(workflow, $"S{step}");

        var again = await engine.ReadAsync<Permit>("r-1");

        Assert.That(again.State, Is.EqualTo("S3"));
        Assert.That(again.Data, Is.EqualTo(new Permit("Anna")));
        Assert.That(again.RecordsSince.Select(r => r.ToState), Is.EqualTo(new[] { "S1", "S2", "S3" }));
        await engine.CloseAsync();
    }

    [Test]
    public async Task A_start_that_is_repeated_after_a_crash_gives_the_workflow_as_it_stands()
    {
        var engine = await Kit.EngineAsync();
        var details = new StartDetails { RequestId = "start-1", Actor = "desk" };
        var workflow = await engine.StartAsync("permit", "a-1", "RECEIVED", new Permit("Anna"), details);
        workflow.Data = new Permit("Anna", 1);
        await engine.TransitionAsync(workflow, "CHECKED");

        var again = await engine.StartAsync("permit", "a-1", "RECEIVED", new Permit("Anna"), details);

        Assert.That(again.LastWritten!.Replayed);
        Assert.That((again.State, again.Sequence, again.Data), Is.EqualTo(("CHECKED", 2L, new Permit("Anna", 1))));
        await engine.CloseAsync();
    }

    private sealed class EncryptingCodec : ICodec<string>
    {
        private readonly byte[] _key = RandomNumberGenerator.GetBytes(32);

        public EncodedState Encode(string value)
        {
            var plain = Encoding.UTF8.GetBytes(value);
            var content = new byte[12 + plain.Length + 16];
            RandomNumberGenerator.Fill(content.AsSpan(0, 12));
            using var aes = new AesGcm(_key, 16);
            aes.Encrypt(content.AsSpan(0, 12), plain, content.AsSpan(12, plain.Length), content.AsSpan(12 + plain.Length));
            return new EncodedState("application/x-sealed;version=1", content);
        }

        public string Decode(EncodedState state)
        {
            var content = state.Content.Span;
            var plain = new byte[content.Length - 28];
            using var aes = new AesGcm(_key, 16);
            aes.Decrypt(content[..12], content[12..^16], content[^16..], plain);
            return Encoding.UTF8.GetString(plain);
        }
    }

    private sealed class BytesCodec : ICodec<byte[]>
    {
        public EncodedState Encode(byte[] value) => new("application/octet-stream", value);

        public byte[] Decode(EncodedState state) => state.Content.ToArray();
    }
}
