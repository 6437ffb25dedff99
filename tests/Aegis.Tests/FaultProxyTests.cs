using Google.Protobuf;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// The fault proxy does what its commands say, and nothing else: the tests of all clients rest on it. One after the other, since
/// the log must not grow between answers that are compared.
/// </summary>
[Parallelizable(ParallelScope.Self)]
public sealed class FaultProxyTests
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task StartAsync() => _server = await TestServer.StartAsync(Database.Sqlite);

    [OneTimeTearDown]
    public async Task StopAsync() => await _server.DisposeAsync();

    [Test]
    public async Task Without_a_command_everything_passes()
    {
        await using var proxy = await FaultProxy.StartAsync(_server.Address);
        using var channel = GrpcChannel.ForAddress(proxy.Address);
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
        var id = $"w-{Guid.NewGuid():N}";
        var start = Given.Start(id);
        // Large enough to be answered in gzip.
        start.Snapshot = Given.Snapshot(new string('ä', 100_000));
        await workflows.StartWorkflowAsync(start);

        var through = await workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id });
        var direct = await _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id });
        var health = await new Health.HealthClient(channel).CheckAsync(new HealthCheckRequest());

        through.LogSize = direct.LogSize;
        Assert.That(through, Is.EqualTo(direct));
        await ErrorAssert.RefusedAsync(() => workflows.StartWorkflowAsync(start).ResponseAsync,
            "WORKFLOW_ALREADY_EXISTS", StatusCode.AlreadyExists);
        Assert.That(health.Status, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.Serving));
    }

    [Test]
    public async Task Streams_pass_in_both_directions()
    {
        await using var proxy = await FaultProxy.StartAsync(_server.Address);
        using var channel = GrpcChannel.ForAddress(proxy.Address);
        var recovery = new Pb.RecoveryService.RecoveryServiceClient(channel);
        var id = await Given.WorkflowAsync(_server);
        using var export = recovery.ExportWorkflows(new Pb.ExportWorkflowsRequest { WorkflowId = id });
        using var import = recovery.ImportWorkflows();

        await import.RequestStream.WriteAsync(new() { Options = new Pb.ImportOptions { AllowUnproven = true, TakeOver = true } });
        await foreach (var piece in export.ResponseStream.ReadAllAsync())
            await import.RequestStream.WriteAsync(new() { Chunk = piece.Chunk });
        await import.RequestStream.CompleteAsync();
        var outcomes = new List<Pb.ImportOutcome>();
        await foreach (var result in import.ResponseStream.ReadAllAsync())
            outcomes.Add(result.Outcome);

        Assert.That(outcomes, Is.EqualTo(new[] { Pb.ImportOutcome.Unchanged }));
    }

    [Test]
    public async Task A_cut_reply_is_lost_after_the_server_has_committed()
    {
        await using var proxy = await FaultProxy.StartAsync(_server.Address);
        using var channel = GrpcChannel.ForAddress(proxy.Address, new() { InitialReconnectBackoff = TimeSpan.FromMilliseconds(20) });
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        start.RequestId = "once";
        await proxy.OrderAsync("cut-reply StartWorkflow");

        var lost = (await Assert.ThrowsAsync<RpcException>(() => workflows.StartWorkflowAsync(start).ResponseAsync))!;
        var again = await Until.SucceedsAsync(() => workflows.StartWorkflowAsync(start).ResponseAsync);

        Assert.That(lost.StatusCode, Is.EqualTo(StatusCode.Unavailable), lost.Status.Detail);
        Assert.That(again.Replayed);
    }

    [Test]
    public async Task A_held_reply_waits_until_it_is_forgotten()
    {
        await using var proxy = await FaultProxy.StartAsync(_server.Address);
        using var channel = GrpcChannel.ForAddress(proxy.Address);
        var integrity = new Pb.IntegrityService.IntegrityServiceClient(channel);
        await proxy.OrderAsync("hold GetLogHead");

        var late = (await Assert.ThrowsAsync<RpcException>(()
            => integrity.GetLogHeadAsync(new(), deadline: DateTime.UtcNow.AddMilliseconds(300)).ResponseAsync))!;
        var held = integrity.GetLogHeadAsync(new()).ResponseAsync;
        var other = await new Pb.SystemService.SystemServiceClient(channel).GetServerInfoAsync(new());
        var wasHeld = !held.IsCompleted;
        await proxy.OrderAsync("forget");

        Assert.That(late.StatusCode, Is.EqualTo(StatusCode.DeadlineExceeded));
        Assert.That(wasHeld);
        Assert.That((await held.WaitAsync(TimeSpan.FromSeconds(10))).Size, Is.GreaterThan(0));
        Assert.That(other.LogId, Is.Not.Empty);
    }

    [TestCase("record.reason", "ünïcödé")]
    [TestCase("record.hash", null)]
    [TestCase("record.recorded_at.seconds", null)]
    [TestCase("record.metadata.k", "𐀀")]
    [TestCase("receipt.inclusion_path.0", null)]
    [TestCase("receipt.log_head 3", null)]
    public async Task One_bit_of_the_field_is_flipped(string field, string? text)
    {
        await using var proxy = await FaultProxy.StartAsync(_server.Address);
        using var channel = GrpcChannel.ForAddress(proxy.Address);
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(channel);
        var start = Given.Start($"w-{Guid.NewGuid():N}");
        (start.RequestId, start.Reason, start.IncludeProof) = ("once", text ?? "r", true);
        start.Metadata.Add("k", text ?? "v");
        // Large enough to be answered in gzip.
        start.Metadata.Add("filler", new string('x', 8_000));
        await workflows.StartWorkflowAsync(start);
        var honest = await workflows.StartWorkflowAsync(start);
        await proxy.OrderAsync($"flip StartWorkflow {field}");

        var flipped = await workflows.StartWorkflowAsync(start);
        await proxy.OrderAsync("forget");
        var after = await workflows.StartWorkflowAsync(start);

        Assert.That(Difference(honest.ToByteArray(), flipped.ToByteArray()), Is.EqualTo(1));
        Assert.That(after, Is.EqualTo(honest));
    }

    [TestCase("cut-reply TransitionWorkflows")]
    [TestCase("flip StartWorkflow record.nothing")]
    [TestCase("flip StartWorkflow record")]
    [TestCase("flip StartWorkflow receipt.inclusion_path")]
    [TestCase("flip StartWorkflow record.reason x")]
    [TestCase("hold")]
    public async Task A_command_that_would_do_nothing_is_refused(string command)
    {
        await using var proxy = await FaultProxy.StartAsync(_server.Address);

        Assert.That(await proxy.TellAsync(command), Does.StartWith("error: "));
        Assert.That(await proxy.TellAsync("forget"), Is.EqualTo("ok"));
    }

    [Test]
    public async Task It_ends_with_its_standard_input_even_while_it_holds()
    {
        await using var proxy = await FaultProxy.StartAsync(_server.Address);
        using var channel = GrpcChannel.ForAddress(proxy.Address);
        await proxy.OrderAsync("hold GetLogHead");
        var held = new Pb.IntegrityService.IntegrityServiceClient(channel).GetLogHeadAsync(new()).ResponseAsync;

        Assert.That(await proxy.EndAsync(), Is.Zero);
        await Assert.ThrowsAsync<RpcException>(() => held);
    }

    [Test]
    public async Task A_target_that_is_gone_looks_like_a_broken_connection()
    {
        await using var proxy = await FaultProxy.StartAsync($"http://127.0.0.1:{FreePort.Next()}");
        using var channel = GrpcChannel.ForAddress(proxy.Address);

        var error = (await Assert.ThrowsAsync<RpcException>(()
            => new Pb.SystemService.SystemServiceClient(channel).GetServerInfoAsync(new()).ResponseAsync))!;

        Assert.That(error.StatusCode, Is.EqualTo(StatusCode.Unavailable), error.Status.Detail);
    }

    private static int Difference(byte[] a, byte[] b)
    {
        Assert.That(a, Has.Length.EqualTo(b.Length));
        return a.Zip(b).Sum(pair => int.PopCount(pair.First ^ pair.Second));
    }
}
