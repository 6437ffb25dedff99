using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Aegis.Tests;

using Alpha = Grpc.Reflection.V1Alpha;
using Pb = Aegis.V1;

/// <summary>Health, reflection and compression, as clients and balancers see them.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class HealthTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [TestCase("liveness")]
    [TestCase("")]
    [TestCase("aegis.v1.WorkflowService")]
    [TestCase("aegis.v1.RecoveryService")]
    [TestCase("aegis.v1.IntegrityService")]
    [TestCase("aegis.v1.SystemService")]
    [TestCase("aegis.writes")]
    [TestCase("aegis.integrity")]
    public async Task Every_name_serves(string name)
    {
        var reply = await _server.Health.CheckAsync(new HealthCheckRequest { Service = name });

        Assert.That(reply.Status, Is.EqualTo(ServingStatus.Serving));
    }

    [Test]
    public async Task An_unknown_name_is_not_found_by_Check_and_unknown_to_Watch()
    {
        var error = await Assert.ThrowsAsync<RpcException>(
            async () => await _server.Health.CheckAsync(new HealthCheckRequest { Service = "nobody" }));
        using var watch = _server.Health.Watch(new HealthCheckRequest { Service = "nobody" });
        await watch.ResponseStream.MoveNext(CancellationToken.None);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(error!.StatusCode, Is.EqualTo(StatusCode.NotFound));
            Assert.That(watch.ResponseStream.Current.Status, Is.EqualTo(ServingStatus.ServiceUnknown));
        }
    }

    [Test]
    public async Task Watch_pushes_every_change()
    {
        await using var server = await TestServer.StartAsync(database);
        var id = await Given.WorkflowAsync(server);
        using var watch = server.Health.Watch(new HealthCheckRequest { Service = "aegis.integrity" });
        var seen = new List<ServingStatus>();
        await NextAsync();

        await Tampering.RunAsync(server, "UPDATE workflow SET state = 'X' WHERE workflow_id = @id", new { id });
        await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        await NextAsync();
        await server.Integrity.ReleaseQuarantineAsync(
            new Pb.ReleaseQuarantineRequest { WorkflowId = id, Actor = "op", Reason = "looked into" });
        await NextAsync();

        Assert.That(seen, Is.EqualTo(new[] { ServingStatus.Serving, ServingStatus.NotServing, ServingStatus.Serving }));

        async Task NextAsync()
        {
            await watch.ResponseStream.MoveNext(CancellationToken.None);
            seen.Add(watch.ResponseStream.Current.Status);
        }
    }

    [TestCase("grpc.reflection.v1alpha.ServerReflection")]
    [TestCase("grpc.reflection.v1.ServerReflection")]
    public async Task Reflection_lists_the_services(string service)
    {
        // The two versions have the same messages.
        var method = new Method<Alpha.ServerReflectionRequest, Alpha.ServerReflectionResponse>(
            MethodType.DuplexStreaming, service, "ServerReflectionInfo",
            Marshallers.Create(m => Google.Protobuf.MessageExtensions.ToByteArray(m), Alpha.ServerReflectionRequest.Parser.ParseFrom),
            Marshallers.Create(m => Google.Protobuf.MessageExtensions.ToByteArray(m), Alpha.ServerReflectionResponse.Parser.ParseFrom));
        using var call = _server.Channel.CreateCallInvoker().AsyncDuplexStreamingCall(method, null, default);
        await call.RequestStream.WriteAsync(new Alpha.ServerReflectionRequest { ListServices = "" });
        await call.ResponseStream.MoveNext(CancellationToken.None);

        var names = call.ResponseStream.Current.ListServicesResponse.Service.Select(s => s.Name);
        await call.RequestStream.CompleteAsync();

        Assert.That(names, Is.SupersetOf(new[]
        {
            "aegis.v1.WorkflowService", "aegis.v1.RecoveryService", "aegis.v1.IntegrityService", "aegis.v1.SystemService",
            "grpc.health.v1.Health",
        }));
    }

    [Test]
    public async Task Large_answers_are_compressed_and_small_ones_and_health_never()
    {
        using var frames = new FrameFlags();
        using var channel = GrpcChannel.ForAddress(_server.Address, new GrpcChannelOptions { HttpHandler = frames });
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.Metadata.Add("big", new string('m', 10_000));
        await _server.Workflows.TransitionWorkflowAsync(move);

        await workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = id });
        await workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id });
        await new Pb.RecoveryService.RecoveryServiceClient(channel).ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest
        {
            Owner = "w",
            Leases = { new Pb.LeaseReference { WorkflowId = id, Epoch = 1 } },
        });
        await new Health.HealthClient(channel).CheckAsync(new HealthCheckRequest());

        Assert.That(frames.Seen, Is.EqualTo(new[]
        {
            ("ListRecords", 1), ("GetWorkflow", 0), ("ReleaseLeases", 0), ("Check", 0),
        }));
    }

    [Test]
    public async Task The_server_tells_its_limits()
    {
        var info = await _server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest());

        using (Assert.EnterMultipleScope())
        {
            Assert.That(info.LogId, Does.StartWith("aegis/"));
            Assert.That(info.Store, Is.EqualTo(database == Database.Sqlite ? "sqlite" : "postgresql"));
            Assert.That(info.Limits.SnapshotBytesMax, Is.EqualTo(3 * 1024 * 1024));
            Assert.That(info.Version, Is.Not.Empty);
        }
    }

    /// <summary>Notes the compressed flag, the first byte of each answer's first message.</summary>
    private sealed class FrameFlags() : DelegatingHandler(new SocketsHttpHandler())
    {
        public List<(string Method, int Flag)> Seen { get; } = [];

        protected override async Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellationToken)
        {
            var response = await base.SendAsync(request, cancellationToken);
            var bytes = await response.Content.ReadAsByteArrayAsync(cancellationToken);
            Seen.Add((request.RequestUri!.Segments[^1], bytes[0]));
            var content = new ByteArrayContent(bytes);
            foreach (var header in response.Content.Headers)
                content.Headers.TryAddWithoutValidation(header.Key, header.Value);
            response.Content = content;
            return response;
        }
    }
}
