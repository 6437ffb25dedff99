using System.Buffers.Binary;
using System.IO.Compression;
using System.Net;
using System.Net.Http.Headers;
using Google.Protobuf;
using Grpc.Health.V1;

namespace Aegis.Tests;

using Alpha = Grpc.Reflection.V1Alpha;
using Pb = Aegis.V1;

/// <summary>What goes over the wire, frame by frame, as clients in other languages send and receive it.</summary>
[TestFixture(Database.Sqlite)]
[Parallelizable(ParallelScope.All)]
public sealed class WireTests(Database database)
{
    private TestServer _server = null!;
    private HttpClient _client = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _server = await TestServer.StartAsync(database);
        _client = new HttpClient
        {
            BaseAddress = new Uri(_server.Address),
            DefaultRequestVersion = HttpVersion.Version20,
            DefaultVersionPolicy = HttpVersionPolicy.RequestVersionExact,
        };
    }

    [OneTimeTearDown]
    public async Task Stop()
    {
        _client.Dispose();
        await _server.DisposeAsync();
    }

    [Test]
    public async Task A_compressed_request_is_read()
    {
        var start = Given.Start("compressed");

        var answer = await CallAsync("aegis.v1.WorkflowService/StartWorkflow", Gzip(start.ToByteArray()), isCompressed: true);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Status, Is.EqualTo("0"));
            Assert.That((await Given.ReadAsync(_server, "compressed")).State, Is.EqualTo("NEW"));
        }
    }

    [Test]
    public async Task A_small_request_that_unpacks_to_a_huge_one_is_refused_before_it_fills_the_memory()
    {
        var before = GC.GetTotalAllocatedBytes();
        var answer = await CallAsync("aegis.v1.WorkflowService/StartWorkflow", GzipOfZeros(1L << 30), isCompressed: true);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Status, Is.EqualTo("8"), answer.Message);
            Assert.That(GC.GetTotalAllocatedBytes() - before, Is.LessThan(500L << 20));
        }
    }

    [Test]
    public async Task What_only_pretends_to_be_compressed_is_refused_with_a_reason()
    {
        var answer = await CallAsync("aegis.v1.WorkflowService/StartWorkflow", "not gzip"u8.ToArray(), isCompressed: true);

        Assert.That((answer.Status, answer.HasDetails), Is.EqualTo(("3", true)), answer.Message);
    }

    [Test]
    public async Task A_request_over_16_MiB_is_refused()
    {
        var start = Given.Start("huge");
        start.Reason = new string('r', 17 << 20);

        var answer = await CallAsync("aegis.v1.WorkflowService/StartWorkflow", start.ToByteArray());

        Assert.That(answer.Status, Is.EqualTo("8"), answer.Message);
    }

    [TestCase("identity")]
    [TestCase("")]
    [TestCase("br,deflate")]
    public async Task Who_does_not_ask_for_gzip_gets_none(string accepted)
    {
        var move = Given.Move(await Given.WorkflowAsync(_server), "NEW", "PAID");
        move.Metadata.Add("big", new string('m', 10_000));
        await _server.Workflows.TransitionWorkflowAsync(move);

        var answer = await CallAsync("aegis.v1.WorkflowService/ListRecords",
            new Pb.ListRecordsRequest { WorkflowId = move.WorkflowId }.ToByteArray(), accepts: accepted);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Frames.Single()[0], Is.Zero);
            Assert.That(Pb.ListRecordsResponse.Parser.ParseFrom(answer.Frames[0].AsSpan(5)).Records, Has.Count.EqualTo(2));
        }
    }

    [Test]
    public async Task Of_a_stream_only_the_large_messages_are_compressed()
    {
        var id = await Given.WorkflowAsync(_server);
        var move = Given.Move(id, "NEW", "PAID");
        move.Metadata.Add("big", new string('m', 10_000));
        await _server.Workflows.TransitionWorkflowAsync(move);

        var answer = await CallAsync("aegis.v1.RecoveryService/ResumePendingWorkflows",
            new Pb.ResumePendingWorkflowsRequest { Owner = "w" }.ToByteArray());

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Frames.Select(f => f[0]), Does.Contain(1));
            Assert.That(answer.Frames[^1][0], Is.Zero, "The summary is small.");
        }
    }

    [TestCase("grpc.reflection.v1.ServerReflection/ServerReflectionInfo")]
    [TestCase("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")]
    [TestCase("grpc.health.v1.Health/Check")]
    public async Task Health_and_reflection_are_never_compressed(string method)
    {
        IMessage request = method.StartsWith("grpc.health", StringComparison.Ordinal)
            ? new HealthCheckRequest()
            : new Alpha.ServerReflectionRequest { FileContainingSymbol = "aegis.v1.WorkflowService" };

        var answer = await CallAsync(method, request.ToByteArray());

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Status, Is.EqualTo("0"), answer.Message);
            Assert.That(answer.Frames.Select(f => f[0]), Is.Not.Empty.And.All.Zero);
            Assert.That(answer.Encoding, Is.Null.Or.EqualTo("identity"));
        }
    }

    [TestCase("aegis.v1.WorkflowService/DeleteWorkflow")]
    [TestCase("aegis.v2.WorkflowService/StartWorkflow")]
    public async Task What_is_not_in_the_contract_is_unimplemented(string method) =>
        Assert.That((await CallAsync(method, [])).Status, Is.EqualTo("12"));

    private async Task<Answer> CallAsync(string method, byte[] message, bool isCompressed = false, string accepts = "gzip")
    {
        var frame = new byte[5 + message.Length];
        frame[0] = isCompressed ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteInt32BigEndian(frame.AsSpan(1), message.Length);
        message.CopyTo(frame, 5);
        using var request = new HttpRequestMessage(HttpMethod.Post, method) { Content = new ByteArrayContent(frame) };
        request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/grpc");
        request.Headers.Add("te", "trailers");
        if (accepts.Length > 0)
            request.Headers.Add("grpc-accept-encoding", accepts);
        if (isCompressed)
            request.Headers.Add("grpc-encoding", "gzip");
        (request.Version, request.VersionPolicy) = (HttpVersion.Version20, HttpVersionPolicy.RequestVersionExact);
        using var response = await _client.SendAsync(request);
        return new Answer(response, await response.Content.ReadAsByteArrayAsync());
    }

    private static byte[] Gzip(byte[] bytes)
    {
        using var packed = new MemoryStream();
        using (var gzip = new GZipStream(packed, CompressionLevel.Fastest))
            gzip.Write(bytes);
        return packed.ToArray();
    }

    private static byte[] GzipOfZeros(long count)
    {
        using var packed = new MemoryStream();
        using (var gzip = new GZipStream(packed, CompressionLevel.Fastest))
        {
            var zeros = new byte[1 << 20];
            for (; count > 0; count -= zeros.Length)
                gzip.Write(zeros);
        }
        return packed.ToArray();
    }

    private sealed class Answer(HttpResponseMessage response, byte[] body)
    {
        public string? Status { get; } = Header(response, "grpc-status");
        public string? Message { get; } = Header(response, "grpc-message");
        public string? Encoding { get; } = Header(response, "grpc-encoding");
        public bool HasDetails { get; } = Header(response, "grpc-status-details-bin") is not null;
        public List<byte[]> Frames { get; } = Split(body);

        private static string? Header(HttpResponseMessage response, string name) =>
            response.TrailingHeaders.TryGetValues(name, out var trailers) ? trailers.Single()
            : response.Headers.TryGetValues(name, out var headers) ? headers.Single() : null;

        private static List<byte[]> Split(byte[] body)
        {
            var frames = new List<byte[]>();
            for (var at = 0; at < body.Length;)
            {
                var size = 5 + BinaryPrimitives.ReadInt32BigEndian(body.AsSpan(at + 1));
                frames.Add(body[at..(at + size)]);
                at += size;
            }
            return frames;
        }
    }
}
