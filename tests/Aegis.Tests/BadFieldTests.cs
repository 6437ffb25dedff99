using System.Net.Http.Headers;
using Aegis.Core;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Grpc.Net.Client;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Bad input of every call, beyond the start of a workflow: named, small in the answer, and without effect.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class BadFieldTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task The_character_U_0000_is_refused_in_every_text_of_every_write()
    {
        const string bad = "a\0b";
        var start = new Pb.StartWorkflowRequest
        {
            Namespace = bad,
            WorkflowId = bad,
            WorkflowType = bad,
            InitialState = bad,
            Actor = bad,
            Reason = bad,
            Owner = bad,
            RequestId = bad,
            Metadata = { [bad] = "" },
            Snapshot = new Pb.Snapshot { ContentType = bad },
            ForkedFrom = new Pb.ForkPoint { WorkflowId = bad, Sequence = 1 },
        };
        var move = new Pb.TransitionWorkflowRequest
        {
            Namespace = bad,
            WorkflowId = bad,
            FromState = bad,
            ToState = "b",
            Actor = bad,
            Reason = bad,
            RequestId = bad,
            Metadata = { ["k"] = bad },
        };

        using (Assert.EnterMultipleScope())
        {
            Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.StartWorkflowAsync(start)),
                Is.EquivalentTo(new[]
                {
                    "namespace", "workflow_id", "workflow_type", "forked_from.workflow_id", "initial_state", "owner", "request_id",
                    "actor", "metadata", "reason", "snapshot.content_type",
                }));
            Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Workflows.TransitionWorkflowAsync(move)),
                Is.EquivalentTo(new[] { "namespace", "workflow_id", "from_state", "request_id", "actor", "metadata", "reason" }));
        }
    }

    [TestCase(0, 999_999_999, false)]
    [TestCase(1, 0, true)]
    [TestCase(3600, 0, true)]
    [TestCase(3600, 1000, false)]
    [TestCase(0, 0, false)]
    [TestCase(-1, 0, false)]
    [TestCase(2, -1, false)]
    [TestCase(long.MaxValue, 0, false)]
    [TestCase(long.MinValue, 0, false)]
    public async Task Leases_last_from_a_second_to_an_hour(long seconds, int nanos, bool isTaken)
    {
        var duration = new Duration { Seconds = seconds, Nanos = nanos };
        var id = await Given.WorkflowAsync(_server);
        var calls = new Func<Task>[]
        {
            async () => await _server.Workflows.StartWorkflowAsync(
                new Pb.StartWorkflowRequest(Given.Start($"w-{Guid.NewGuid():N}", owner: "w")) { LeaseDuration = duration }),
            async () => await _server.Recovery.ResumeWorkflowAsync(
                new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "w", LeaseDuration = duration }),
            async () => await _server.Recovery.RenewLeasesAsync(new Pb.RenewLeasesRequest
            {
                Owner = "w",
                LeaseDuration = duration,
                Leases = { new Pb.LeaseReference { WorkflowId = id, Epoch = 1 } },
            }),
            async () => await _server.Recovery.ResumePendingWorkflows(new Pb.ResumePendingWorkflowsRequest
            {
                Namespace = "nothing-here",
                Owner = "w",
                LeaseDuration = duration,
            }).ResponseStream.MoveNext(CancellationToken.None),
        };

        foreach (var call in calls)
        {
            if (isTaken)
                await call();
            else
                Assert.That(await ErrorAssert.InvalidFieldsAsync(call), Is.EqualTo(new[] { "lease_duration" }));
        }
    }

    [Test]
    public async Task Nothing_is_leased_in_a_reserved_namespace_and_a_wrong_one_is_named_once()
    {
        var lease = new Pb.LeaseReference { WorkflowId = "log", Epoch = 1 };
        foreach (var @namespace in new[] { "aegis.x", new string('n', 256) })
        {
            foreach (var call in new Func<Task>[]
            {
                async () => await _server.Recovery.ReleaseLeasesAsync(
                    new Pb.ReleaseLeasesRequest { Namespace = @namespace, Owner = "w", Leases = { lease } }),
                async () => await _server.Recovery.ResumePendingWorkflows(
                    new Pb.ResumePendingWorkflowsRequest { Namespace = @namespace, Owner = "w" }).ResponseStream.MoveNext(CancellationToken.None),
                async () => await _server.Recovery.ResumeWorkflowAsync(
                    new Pb.ResumeWorkflowRequest { Namespace = @namespace, WorkflowId = "log", Owner = "w" }),
            })
            {
                Assert.That(await ErrorAssert.InvalidFieldsAsync(call), Is.EqualTo(new[] { "namespace" }));
            }
        }
    }

    [Test]
    public void However_much_is_wrong_the_refusal_stays_small()
    {
        var fields = new Server.Fields();
        for (var i = 0; i < 100_000; i++)
            fields.Text("states", "\0");

        var refusal = Assert.Throws<RefusalException>(fields.Check)!.Refusal;

        Assert.That(refusal.Message, Has.Length.LessThan(4096), "A request of 16 MiB must not become a message of 300 MiB.");
    }

    [Test]
    public async Task Nothing_of_a_message_with_bytes_that_are_not_UTF8_is_stored()
    {
        foreach (var spoil in new Action<Pb.StartWorkflowRequest>[]
        {
            r => r.Metadata.Add("~~", "v"),
            r => r.Metadata.Add("k", "~~"),
            r => r.Snapshot = new Pb.Snapshot { ContentType = "~~" },
            r => r.Reason = new string('r', 4000) + "~~",
        })
        {
            var start = Given.Start($"w-{Guid.NewGuid():N}");
            spoil(start);

            await ErrorAssert.RefusedAsync(
                async () => await _server.Channel.CreateCallInvoker().AsyncUnaryCall(
                    Raw(MethodType.Unary, "WorkflowService", "StartWorkflow"), null, default, Spoiled(start)),
                "INVALID_FIELD", StatusCode.InvalidArgument);
            await ErrorAssert.RefusedAsync(
                () => Given.ReadAsync(_server, start.WorkflowId), "WORKFLOW_NOT_FOUND", StatusCode.NotFound);
        }
    }

    [Test]
    public async Task Streams_refuse_what_is_no_message_too()
    {
        var invoker = _server.Channel.CreateCallInvoker();
        var watch = Spoiled(new Pb.WatchRecordsRequest { WorkflowId = "~~" });
        var options = new Pb.ImportWorkflowsRequest { Options = new Pb.ImportOptions { AllowUnproven = true } }.ToByteArray();

        await ErrorAssert.RefusedAsync(
            () => invoker.AsyncServerStreamingCall(Raw(MethodType.ServerStreaming, "WorkflowService", "WatchRecords"), null, default, watch)
                .ResponseStream.MoveNext(CancellationToken.None),
            "INVALID_FIELD", StatusCode.InvalidArgument);
        foreach (var messages in new byte[][][] { [[0xFF]], [options, [0x0A, 0x7F]] })
        {
            using var import = invoker.AsyncDuplexStreamingCall(
                Raw(MethodType.DuplexStreaming, "RecoveryService", "ImportWorkflows"), null, default);
            foreach (var message in messages)
                await import.RequestStream.WriteAsync(message);
            await ErrorAssert.RefusedAsync(
                () => import.ResponseStream.MoveNext(CancellationToken.None), "INVALID_FIELD", StatusCode.InvalidArgument);
        }
    }

    [Test]
    public async Task A_deployment_may_take_smaller_snapshots_only()
    {
        await using var server = await TestServer.StartAsync(database, KeyValuePair.Create("AEGIS_SNAPSHOT_BYTES_MAX", "1000"));
        var id = await Given.WorkflowAsync(server);
        var info = await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest());
        var checkpoint = new Pb.CheckpointWorkflowRequest { WorkflowId = id, ExpectedSequence = 1, Snapshot = Given.Snapshot(new string('s', 1001)) };
        var move = Given.Move(id, "NEW", "PAID");
        move.Snapshot = checkpoint.Snapshot;

        foreach (var call in new Func<Task>[]
        {
            async () => await server.Workflows.CheckpointWorkflowAsync(checkpoint),
            async () => await server.Workflows.TransitionWorkflowAsync(move),
        })
        {
            var refused = await ErrorAssert.RefusedAsync(call, "SNAPSHOT_TOO_LARGE", StatusCode.InvalidArgument);
            Assert.That(refused.Metadata["snapshot_bytes_max"], Is.EqualTo("1000"));
        }
        checkpoint.Snapshot = Given.Snapshot(new string('s', 1000));
        var taken = await server.Workflows.CheckpointWorkflowAsync(checkpoint);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(info.Limits.SnapshotBytesMax, Is.EqualTo(1000));
            Assert.That(taken.Record.Sequence, Is.EqualTo(2));
        }
    }

    [TestCase("🛡", 63)]
    [TestCase("é", 127)]
    public async Task A_refusal_fits_into_8_KiB_of_headers_as_it_is_encoded(string character, int count)
    {
        var name = string.Concat(Enumerable.Repeat(character, count));
        using var wire = new TrailerSizes();
        using var channel = GrpcChannel.ForAddress(_server.Address, new GrpcChannelOptions { HttpHandler = wire });
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
        var start = new Pb.StartWorkflowRequest(Given.Start(name, name, owner: name)) { Namespace = name };
        await workflows.StartWorkflowAsync(start);
        var move = new Pb.TransitionWorkflowRequest(Given.Move(name, name, name + "x")) { Namespace = name, RequestId = "r" };

        await ErrorAssert.RefusedAsync(async () => await workflows.StartWorkflowAsync(start), "WORKFLOW_ALREADY_EXISTS", StatusCode.AlreadyExists);
        Assert.That(wire.Last, Is.InRange(1000, 8191));
        move.ToState = "x";
        await ErrorAssert.RefusedAsync(async () => await workflows.TransitionWorkflowAsync(move), "LEASE_REQUIRED", StatusCode.FailedPrecondition);
        Assert.That(wire.Last, Is.InRange(1000, 8191));
    }

    private static Method<byte[], byte[]> Raw(MethodType type, string service, string name) => new(
        type, $"aegis.v1.{service}", name, Marshallers.Create<byte[]>(b => b, b => b), Marshallers.Create<byte[]>(b => b, b => b));

    /// <summary>The bytes of a message, with two bytes that no UTF-8 has in place of each "~~".</summary>
    private static byte[] Spoiled(IMessage message)
    {
        var bytes = message.ToByteArray();
        for (var at = bytes.AsSpan().IndexOf("~~"u8); at >= 0; at = bytes.AsSpan().IndexOf("~~"u8))
            (bytes[at], bytes[at + 1]) = (0xC3, 0x28);
        return bytes;
    }

    /// <summary>Notes how many bytes the headers and trailers of the last answer have on the wire.</summary>
    private sealed class TrailerSizes() : DelegatingHandler(new SocketsHttpHandler())
    {
        public int Last { get; private set; }

        protected override async Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellationToken)
        {
            var response = await base.SendAsync(request, cancellationToken);
            await response.Content.LoadIntoBufferAsync(cancellationToken);
            Last = SizeOf(response.Headers) + SizeOf(response.TrailingHeaders);
            return response;
        }

        private static int SizeOf(HttpHeaders headers) =>
            headers.NonValidated.Sum(h => h.Key.Length + h.Value.ToString().Length + 32);
    }
}
