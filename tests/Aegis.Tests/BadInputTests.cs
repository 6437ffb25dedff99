using System.Text;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>What cannot be taken is refused with what was wrong, and nothing of it is stored.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class BadInputTests(Database database)
{
    private const int SnapshotBytesMax = 3 * 1024 * 1024;

    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task All_fields_that_are_wrong_are_named_at_once()
    {
        var fields = await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.StartWorkflowAsync(
            new Pb.StartWorkflowRequest
            {
                Namespace = "aegis.system",
                Status = (Pb.WorkflowStatus)17,
                Actor = "a\0b",
                Reason = new string('r', 4097),
                OccurredAt = new Timestamp(),
                RequestId = new string('q', 129),
                LeaseDuration = Duration.FromTimeSpan(TimeSpan.FromMilliseconds(1)),
                ForkedFrom = new Pb.ForkPoint(),
            }));

        Assert.That(fields, Is.EquivalentTo(new[]
        {
            "namespace", "workflow_id", "workflow_type", "status", "actor", "reason", "occurred_at", "request_id",
            "lease_duration", "lease_duration", "forked_from.workflow_id", "forked_from.sequence",
        }));
    }

    [TestCase("x", 255, true)]
    [TestCase("x", 256, false)]
    [TestCase("é", 127, true)]
    [TestCase("é", 128, false)]
    [TestCase("🛡", 63, true)]
    [TestCase("🛡", 64, false)]
    public async Task Names_have_up_to_255_bytes_of_UTF8(string character, int count, bool isTaken)
    {
        var start = Given.Start(string.Concat(Enumerable.Repeat(character, count)));

        if (isTaken)
            Assert.That((await _server.Workflows.StartWorkflowAsync(start)).Workflow.WorkflowId, Is.EqualTo(start.WorkflowId));
        else
            Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.StartWorkflowAsync(start)), Is.EqualTo(new[] { "workflow_id" }));
    }

    [Test]
    public async Task Bytes_that_are_not_UTF8_are_refused_and_not_replaced()
    {
        // workflow_id (field 2) of two bytes that no UTF-8 has, then a type and a state.
        byte[] request = [0x12, 0x02, 0xC3, 0x28, 0x1A, 0x01, (byte)'t', 0x22, 0x01, (byte)'s'];
        var method = new Method<byte[], byte[]>(MethodType.Unary, "aegis.v1.WorkflowService", "StartWorkflow",
            Marshallers.Create<byte[]>(b => b, b => b), Marshallers.Create<byte[]>(b => b, b => b));

        await ErrorAssert.RefusedAsync(
            async () => await _server.Channel.CreateCallInvoker().AsyncUnaryCall(method, null, default, request),
            "INVALID_FIELD", StatusCode.InvalidArgument);
    }

    [TestCase("aegis.system")]
    [TestCase("aegis.mine")]
    public async Task Reserved_namespaces_are_the_services_own(string @namespace)
    {
        var start = Given.Start("x");
        start.Namespace = @namespace;
        var move = Given.Move("log", "OPEN", "MINE");
        move.Namespace = @namespace;

        foreach (var call in new Func<Task>[]
        {
            async () => await _server.Workflows.StartWorkflowAsync(start),
            async () => await _server.Workflows.TransitionWorkflowAsync(move),
            async () => await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
            {
                Namespace = @namespace,
                WorkflowId = "log",
                ExpectedSequence = 1,
                Snapshot = new Pb.Snapshot(),
            }),
            async () => await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest
            {
                Namespace = @namespace,
                WorkflowId = "log",
                Owner = "me",
            }),
            async () => await _server.Recovery.RenewLeasesAsync(new Pb.RenewLeasesRequest
            {
                Namespace = @namespace,
                Owner = "me",
                Leases = { new Pb.LeaseReference { WorkflowId = "log", Epoch = 1 } },
            }),
        })
        {
            Assert.That(await ErrorAssert.InvalidFieldsAsync(call), Is.EqualTo(new[] { "namespace" }));
        }
    }

    [TestCase(0, 0, false)]
    [TestCase(-1, 0, false)]
    [TestCase(0, 999, false)]
    [TestCase(0, 1000, true)]
    [TestCase(253_402_300_799, 999_999_999, true)]
    [TestCase(253_402_300_800, 0, false)]
    [TestCase(1, -1, false)]
    public async Task Times_lie_after_1970_and_before_10000(long seconds, int nanos, bool isTaken)
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        start.OccurredAt = new Timestamp { Seconds = seconds, Nanos = nanos };

        if (isTaken)
        {
            var record = (await _server.Workflows.StartWorkflowAsync(start)).Record;
            Assert.That(record.OccurredAt, Is.EqualTo(new Timestamp { Seconds = seconds, Nanos = nanos / 1000 * 1000 }));
        }
        else
        {
            Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.StartWorkflowAsync(start)), Is.EqualTo(new[] { "occurred_at" }));
        }
    }

    [TestCase(Pb.WorkflowStatus.Completed)]
    [TestCase((Pb.WorkflowStatus)6)]
    public async Task A_workflow_starts_running_or_waiting(Pb.WorkflowStatus status)
    {
        var start = Given.Start("never");
        start.Status = status;

        Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.StartWorkflowAsync(start)), Is.EqualTo(new[] { "status" }));
    }

    [TestCase(0)]
    [TestCase(1)]
    [TestCase(SnapshotBytesMax)]
    public async Task Snapshots_up_to_the_limit_come_back_to_a_default_client(int size)
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        start.Snapshot = new Pb.Snapshot { ContentType = "application/octet-stream", Content = ByteString.CopyFrom(Noise(size)) };
        start.Metadata.Add("big", new string('m', 16_000));
        start.Reason = new string('r', 4096);
        await _server.Workflows.StartWorkflowAsync(start);

        var checkpoint = await _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = start.WorkflowId });
        var resumed = await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = start.WorkflowId });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(checkpoint.Snapshot.Content, Is.EqualTo(start.Snapshot.Content));
            Assert.That(resumed.Checkpoint.Snapshot, Is.EqualTo(checkpoint.Snapshot));
            Assert.That(checkpoint.Record.SnapshotSize, Is.EqualTo((ulong)size));
        }
    }

    [TestCase(SnapshotBytesMax + 1)]
    [TestCase(15 * 1024 * 1024)]
    public async Task A_snapshot_over_the_limit_is_refused_with_the_limit_and_nothing_is_stored(int size)
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        start.Snapshot = new Pb.Snapshot { Content = ByteString.CopyFrom(new byte[size]) };

        var info = await ErrorAssert.RefusedAsync(async () => await _server.Workflows.StartWorkflowAsync(start),
            "SNAPSHOT_TOO_LARGE", StatusCode.InvalidArgument);

        Assert.That(info.Metadata["snapshot_bytes_max"], Is.EqualTo($"{SnapshotBytesMax}"));
        await ErrorAssert.RefusedAsync(() => Given.ReadAsync(_server, start.WorkflowId), "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
    }

    [Test]
    public async Task A_wrong_sha256_is_refused()
    {
        var start = Given.Start("never");
        start.Snapshot = new Pb.Snapshot { Content = ByteString.CopyFromUtf8("x"), Sha256 = ByteString.CopyFrom(new byte[32]) };

        Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.StartWorkflowAsync(start)),
            Is.EqualTo(new[] { "snapshot.sha256" }));
    }

    [TestCase(64, 10, true)]
    [TestCase(65, 10, false)]
    [TestCase(1, 16_383, true)]
    [TestCase(1, 16_384, false)]
    public async Task Metadata_is_bounded(int entries, int valueBytes, bool isTaken)
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        for (var i = 0; i < entries; i++)
            start.Metadata.Add(entries == 1 ? "k" : $"{i:00}", new string('v', valueBytes));

        if (isTaken)
            Assert.That((await _server.Workflows.StartWorkflowAsync(start)).Workflow.Metadata, Is.EqualTo(start.Metadata));
        else
            Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.StartWorkflowAsync(start)), Is.EqualTo(new[] { "metadata" }));
    }

    [Test]
    public async Task Everything_that_is_not_ASCII_comes_back_as_it_was_and_hashes_alike()
    {
        var start = Given.Start($"ключ-🛡-{Guid.NewGuid():N}", "approuvé\t\n\u0001");
        (start.Actor, start.Reason, start.RequestId) = ("～key", "\"quotes\" \\ \u2028", "запрос");
        start.Metadata.Add("😀key", "1");
        start.Metadata.Add("～key", "2");
        start.Metadata.Add("", "empty key");
        start.Metadata.Add("a.b", "");

        var started = (await _server.Workflows.StartWorkflowAsync(start)).Record;
        var read = (await Given.RecordsAsync(_server, start.WorkflowId))[0];
        var found = await _server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Metadata = { ["😀key"] = "1", ["a.b"] = "" } });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(read, Is.EqualTo(started));
            Assert.That(Clients.Recompute(read).ToArray(), Is.EqualTo(read.Hash.ToByteArray()));
            Assert.That(found.Workflows.Select(w => w.WorkflowId), Does.Contain(start.WorkflowId));
        }
    }

    [Test]
    public async Task The_largest_refusal_still_reaches_its_caller()
    {
        var name = string.Concat(Enumerable.Repeat("é", 127));
        var start = Given.Start(name, name);
        start.Namespace = name;
        await _server.Workflows.StartWorkflowAsync(start);
        var move = Given.Move(name, name + "x", name);
        (move.Namespace, move.RequestId) = (name, new string('q', 128));

        var error = await Assert.ThrowsAsync<RpcException>(async () => await _server.Workflows.TransitionWorkflowAsync(move));
        var status = error!.GetRpcStatus()!;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(status.GetDetail<ErrorInfo>()!.Reason, Is.EqualTo("STATE_MISMATCH"));
            Assert.That(status.GetDetail<ErrorInfo>()!.Metadata["current_state"], Is.EqualTo(name));
            Assert.That(status.Details.Sum(d => d.CalculateSize()), Is.LessThanOrEqualTo(4096));
            Assert.That(error.Trailers.Sum(t => t.Key.Length + (t.IsBinary ? t.ValueBytes.Length * 4 / 3 : t.Value.Length)), Is.LessThan(8192));
        }
    }

    [Test]
    public async Task Field_violations_are_bounded_too()
    {
        var list = new Pb.ListWorkflowsRequest();
        list.States.AddRange(Enumerable.Range(0, 40).Select(i => new string('s', 300) + i));

        var fields = await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.ListWorkflowsAsync(list));

        Assert.That(fields, Has.Length.EqualTo(16));
    }

    [Test]
    public async Task What_is_not_there_is_not_found()
    {
        foreach (var call in new Func<Task>[]
        {
            () => Given.ReadAsync(_server, "nobody"),
            async () => await _server.Workflows.TransitionWorkflowAsync(Given.Move("nobody", "A", "B")),
            async () => await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = "nobody" }),
            async () => await _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = "nobody" }),
            async () => await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = "nobody" }),
            async () => await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = "nobody", Owner = "w" }),
            async () => await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = "nobody" }),
            () => Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { WorkflowId = "nobody" }),
        })
        {
            var info = await ErrorAssert.RefusedAsync(call, "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
            Assert.That(info.Metadata["workflow_id"], Is.EqualTo("nobody"));
        }
    }

    private static byte[] Noise(int size)
    {
        var bytes = new byte[size];
        new Random(7).NextBytes(bytes);
        return bytes;
    }
}
