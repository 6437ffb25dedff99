using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using StatusCode = Grpc.Core.StatusCode;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// Requests and exports with random damage: whatever comes, the answer is a result or a refusal with a reason, never a failure
/// of the server. The seed is part of a failure's message.
/// </summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class FuzzTests(Database database)
{
    private static readonly int Seed = Environment.TickCount;

    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _server = await TestServer.StartAsync(database);
        var start = Given.Start("w", "S");
        start.Snapshot = Given.Snapshot("state");
        await _server.Workflows.StartWorkflowAsync(start);
    }

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    private static readonly (string Method, MethodType Type, IMessage Request)[] Requests =
    [
        ("WorkflowService/StartWorkflow", MethodType.Unary, new Pb.StartWorkflowRequest
        {
            Namespace = "n",
            WorkflowId = "fuzz",
            WorkflowType = "order",
            InitialState = "S",
            Status = Pb.WorkflowStatus.Waiting,
            Actor = "actor",
            Reason = "reason",
            Metadata = { ["key"] = "value", ["kez"] = "" },
            Snapshot = new Pb.Snapshot { ContentType = "text/plain", Content = ByteString.CopyFromUtf8("content") },
            OccurredAt = new Timestamp { Seconds = 1_700_000_000, Nanos = 5000 },
            ForkedFrom = new Pb.ForkPoint { WorkflowId = "w", Sequence = 1 },
            Owner = "owner",
            LeaseDuration = new Duration { Seconds = 30 },
            RequestId = "request",
            KnownLogSize = 1,
        }),
        ("WorkflowService/TransitionWorkflow", MethodType.Unary, new Pb.TransitionWorkflowRequest
        {
            WorkflowId = "w",
            FromState = "S",
            ToState = "S",
            ExpectedSequence = 1,
            LeaseEpoch = 7,
            Metadata = { ["key"] = "value" },
            Snapshot = new Pb.Snapshot { Content = ByteString.CopyFromUtf8("content") },
            RequestId = "request",
        }),
        ("WorkflowService/CheckpointWorkflow", MethodType.Unary, new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = "w",
            Snapshot = new Pb.Snapshot { Content = ByteString.CopyFromUtf8("content") },
            ExpectedHash = ByteString.CopyFrom(new byte[32]),
        }),
        ("WorkflowService/GetWorkflow", MethodType.Unary, new Pb.GetWorkflowRequest { Namespace = "default", WorkflowId = "w" }),
        ("WorkflowService/ListWorkflows", MethodType.Unary, new Pb.ListWorkflowsRequest
        {
            WorkflowTypes = { "order", "permit" },
            States = { "S" },
            Statuses = { Pb.WorkflowStatus.Running },
            Metadata = { ["key"] = "value" },
            UpdatedBefore = new Timestamp { Seconds = 4_000_000_000 },
            UpdatedAfter = new Timestamp { Seconds = 1 },
            PageSize = 10,
        }),
        ("WorkflowService/CountWorkflows", MethodType.Unary, new Pb.CountWorkflowsRequest { Namespace = "default" }),
        ("WorkflowService/ListRecords", MethodType.Unary, new Pb.ListRecordsRequest
        {
            Actor = "a",
            Principal = "p",
            RecordedAfter = new Timestamp { Seconds = 1 },
            RecordedBefore = new Timestamp { Seconds = 4_000_000_000 },
            Descending = true,
            PageSize = 10,
        }),
        ("WorkflowService/GetCheckpoint", MethodType.Unary, new Pb.GetCheckpointRequest { WorkflowId = "w", AsOf = new Timestamp { Seconds = 4_000_000_000 } }),
        ("RecoveryService/ResumeWorkflow", MethodType.Unary, new Pb.ResumeWorkflowRequest
        {
            WorkflowId = "w",
            Owner = "owner",
            LeaseDuration = new Duration { Seconds = 1 },
            TakeOverOwn = true,
        }),
        ("RecoveryService/ResumePendingWorkflows", MethodType.ServerStreaming, new Pb.ResumePendingWorkflowsRequest
        {
            WorkflowTypes = { "order" },
            States = { "S" },
            Statuses = { Pb.WorkflowStatus.Waiting },
            Owner = "owner",
            MaxWorkflows = 3,
        }),
        ("RecoveryService/RenewLeases", MethodType.Unary, new Pb.RenewLeasesRequest
        {
            Owner = "owner",
            Leases = { new Pb.LeaseReference { WorkflowId = "w", Epoch = 1 }, new Pb.LeaseReference { WorkflowId = "v", Epoch = 2 } },
        }),
        ("RecoveryService/ReleaseLeases", MethodType.Unary, new Pb.ReleaseLeasesRequest
        {
            Owner = "owner",
            Leases = { new Pb.LeaseReference { WorkflowId = "w", Epoch = 1 } },
        }),
        ("RecoveryService/ExportWorkflows", MethodType.ServerStreaming, new Pb.ExportWorkflowsRequest { WorkflowTypes = { "order" }, States = { "S" } }),
        ("IntegrityService/VerifyWorkflow", MethodType.Unary, new Pb.VerifyWorkflowRequest { Namespace = "default", WorkflowId = "w" }),
        ("SystemService/GetServerInfo", MethodType.Unary, new Pb.GetServerInfoRequest()),
    ];

    [Test]
    public async Task A_damaged_request_is_answered_or_refused_with_a_reason()
    {
        var random = new Random(Seed);
        foreach (var (name, type, request) in Requests)
        {
            var parts = name.Split('/');
            var method = new Method<byte[], byte[]>(type, $"aegis.v1.{parts[0]}", parts[1],
                Marshallers.Create<byte[]>(b => b, b => b), Marshallers.Create<byte[]>(b => b, b => b));
            for (var i = 0; i < 150; i++)
            {
                var bytes = Damaged(request.ToByteArray(), random);
                if (await CallAsync(method, bytes) is { } failure)
                    Assert.Fail($"{name} of {Convert.ToHexStringLower(bytes)}: {failure}; seed {Seed}");
            }
        }
    }

    [Test]
    public async Task A_damaged_export_under_a_sound_trailer_is_taken_or_refused_with_a_reason()
    {
        var random = new Random(Seed);
        for (var i = 0; i < 250; i++)
        {
            var id = $"f-{Guid.NewGuid():N}";
            var started = Foreign.Started(id, actor: "alice");
            var messages = Exports.Parse(Foreign.Export(id, started, Foreign.Erasure(started, "1", "person")));
            var at = random.Next(messages.Count - 1);
            var bytes = Damaged(messages[at].ToByteArray(), random);
            try
            {
                messages[at] = Pb.ExportChunk.Parser.ParseFrom(bytes);
            }
            catch (InvalidProtocolBufferException)
            {
                continue;
            }
            try
            {
                await Exports.ImportAsync(_server, Exports.Write(messages), takeOver: true);
            }
            catch (RpcException e) when (IsRefusal(e))
            {
                // Refused as a whole.
            }
            catch (RpcException e)
            {
                Assert.Fail($"Message {at}, {Convert.ToHexStringLower(bytes)}: {e.Status}; seed {Seed}");
            }
            await SoundAsync(id, $"Message {at}, {Convert.ToHexStringLower(bytes)}; seed {Seed}");
        }
    }

    /// <summary>What was taken, if anything, verifies and can be gone on with.</summary>
    private async Task SoundAsync(string id, string damage)
    {
        try
        {
            var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
            Assert.That(verified.Intact, Is.True, damage + verified);
            await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "NEXT"));
        }
        catch (RpcException e)
        {
            Assert.That(e.StatusCode, Is.EqualTo(StatusCode.NotFound), damage);
        }
    }

    private async Task<string?> CallAsync(Method<byte[], byte[]> method, byte[] request)
    {
        var options = new CallOptions(deadline: DateTime.UtcNow.AddSeconds(10));
        var invoker = _server.Channel.CreateCallInvoker();
        try
        {
            if (method.Type == MethodType.Unary)
            {
                await invoker.AsyncUnaryCall(method, null, options, request);
                return null;
            }
            using var call = invoker.AsyncServerStreamingCall(method, null, options, request);
            while (await call.ResponseStream.MoveNext(CancellationToken.None))
            {
            }
            return null;
        }
        catch (RpcException e)
        {
            return IsRefusal(e) ? null : e.Status.ToString();
        }
    }

    private static bool IsRefusal(RpcException e) =>
        e.StatusCode is not (StatusCode.Unknown or StatusCode.Internal) && e.GetRpcStatus()?.GetDetail<ErrorInfo>() is not null;

    /// <summary>Bytes that are flipped, cut, doubled or overwritten, here and there.</summary>
    private static byte[] Damaged(byte[] bytes, Random random)
    {
        var damaged = bytes.ToList();
        for (var i = random.Next(1, 4); i > 0 && damaged.Count > 0; i--)
        {
            var at = random.Next(damaged.Count);
            switch (random.Next(5))
            {
                case 0: damaged[at] ^= (byte)(1 << random.Next(8)); break;
                case 1: damaged.RemoveAt(at); break;
                case 2: damaged.Insert(at, damaged[at]); break;
                case 3: damaged[at] = (byte)random.Next(256); break;
                default: damaged.RemoveRange(at, random.Next(damaged.Count - at)); break;
            }
        }
        return [.. damaged];
    }
}
