using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Aegis.Tests;
using Grpc.Core;
using Grpc.Health.V1;

namespace Aegis.Client.Tests;

using Pb = Aegis.V1;

/// <summary>What networks do.</summary>
public sealed class ConnectionScenarios
{
    /// <summary>Far more at once than a queue of one takes.</summary>
    private const int Writes = 32;

    [Test]
    public async Task Dropped_reply()
    {
        await using var proxy = await FaultProxy.StartAsync((await Kit.ServerAsync()).Address);
        var engine = await Kit.EngineAsync(address: proxy.Address);
        await proxy.OrderAsync("cut-reply StartWorkflow");
        var workflow = await engine.StartAsync("d-1", takeLease: true);
        var isStartReplayed = workflow.LastWritten!.Replayed;
        await proxy.OrderAsync("cut-reply TransitionWorkflow");
        var moved = await engine.TransitionAsync(workflow, "CHECKED");
        await proxy.OrderAsync("cut-reply CheckpointWorkflow");
        var stored = await engine.CheckpointAsync(workflow);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((isStartReplayed, moved.Replayed, stored.Replayed), Is.EqualTo((true, true, true)));
            Assert.That(await engine.HistoryAsync("d-1"), Has.Count.EqualTo(3));
            Assert.That((workflow.State, workflow.Sequence, workflow.IsLeased), Is.EqualTo(("CHECKED", 3L, true)));
        }
        await workflow.DisposeAsync();
        await proxy.OrderAsync("cut-reply ResumeWorkflow");
        Assert.That((await engine.ResumeAsync<Permit>("d-1")).IsLeased, "its own lease, of the reply that was lost, is no other's");
        await engine.CloseAsync();
    }

    [Test]
    public async Task Overloaded()
    {
        await using var server = await ServerProcess.StartAsync("sqlite:aegis.db", ("AEGIS_QUEUE_COMMANDS_MAX", "1"));
        var calls = new CountingInterceptor();
        var options = new AegisClientOptions { Addresses = [server.Address], TrustedKeys = [await Kit.KeyOfAsync(server)] };
        options.Interceptors.Add(calls);
        var engine = Kit.Engine(options);
        await engine.StartAsync("before");
        calls.Count = 0;

        var started = await Task.WhenAll(Enumerable.Range(0, Writes).Select(i => engine.StartAsync($"o-{i}")));

        Assert.That(calls.Count, Is.GreaterThan(Writes), "some were turned away");
        Assert.That(started.Select(w => w.Sequence), Is.All.EqualTo(1));
        foreach (var workflow in started)
            Assert.That(await engine.HistoryAsync(workflow.WorkflowId), Has.Count.EqualTo(1));
        await engine.CloseAsync();
    }

    [Test]
    public async Task What_was_handed_out_in_a_lost_reply_is_handed_out_again()
    {
        await using var proxy = await FaultProxy.StartAsync((await Kit.ServerAsync()).Address);
        var engine = await Kit.EngineAsync(address: proxy.Address, engine: new EngineOptions { LeaseDuration = TimeSpan.FromSeconds(1) });
        await engine.StartAsync("d-1");
        await proxy.OrderAsync("cut-reply ResumePendingWorkflows");
        var handedOut = new List<string>();

        await foreach (var workflow in engine.ResumeAllPendingAsync<Permit>())
            handedOut.Add(workflow.WorkflowId);

        Assert.That(handedOut, Is.EqualTo(new[] { "d-1" }));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Server_restart()
    {
        using var directory = new TemporaryDirectory();
        await using var server = await ServerProcess.StartAsync($"sqlite:{directory.Path}/aegis.db");
        var key = await Kit.KeyOfAsync(server);
        var engine = Kit.Engine(new AegisClientOptions { Addresses = [server.Address], TrustedKeys = [key] });
        var acknowledged = new ConcurrentDictionary<string, long>();
        using var stop = new CancellationTokenSource();

        var load = Task.WhenAll(Enumerable.Range(0, 8).Select(async i =>
        {
            var workflow = await engine.StartAsync($"r-{i}", takeLease: i % 2 == 0);
            while (!stop.IsCancellationRequested)
            {
                workflow.Data = workflow.Data! with { Step = workflow.Data.Step + 1 };
                acknowledged[workflow.WorkflowId] = (await engine.TransitionAsync(workflow, $"S{workflow.Data.Step}")).Record.Sequence;
            }
        }));
        for (var i = 0; i < 2; i++)
        {
            var before = acknowledged.Values.Sum();
            await Kit.UntilAsync(() => Task.FromResult(acknowledged.Values.Sum() > before + 20));
            await server.KillAsync();
            await server.RestartAsync();
        }
        await Task.Delay(500);
        await stop.CancelAsync();
        await load;

        foreach (var (id, sequence) in acknowledged)
        {
            var workflow = await engine.ReadAsync<Permit>(id);
            Assert.That((workflow.Sequence, workflow.State, workflow.Data!.Step), Is.EqualTo((sequence, $"S{sequence - 1}", (int)sequence - 1)));
        }
        await engine.CloseAsync();
    }

    [Test]
    public async Task Empty_messages_gzip()
    {
        var calls = new CountingInterceptor("gzip");
        var engine = await Kit.EngineAsync(configure: options => options.Interceptors.Add(calls));
        var info = await engine.Client.System.GetServerInfoAsync(new Pb.GetServerInfoRequest());
        var health = await engine.Client.Health.CheckAsync(new HealthCheckRequest());
        var workflow = await engine.StartAsync("permit", "g-1", "NEW", new Permit(new string('x', 10_000)));
        var back = await engine.ReadAsync<Permit>("g-1");
        // An answer without any field.
        await engine.Client.Recovery.ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest
        {
            Namespace = engine.Client.Namespace,
            Owner = engine.Owner,
            Leases = { new Pb.LeaseReference { WorkflowId = "g-1", Epoch = (ulong)workflow.LeaseEpoch } },
        });

        Assert.That(info.LogId, Is.Not.Empty);
        Assert.That(health.Status, Is.EqualTo(HealthCheckResponse.Types.ServingStatus.Serving));
        Assert.That(back.Data!.Applicant, Has.Length.EqualTo(10_000));
        Assert.That(calls.Count, Is.GreaterThanOrEqualTo(5));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Deadline()
    {
        await using var proxy = await FaultProxy.StartAsync((await Kit.ServerAsync()).Address);
        var engine = await Kit.EngineAsync(address: proxy.Address);
        var workflow = await engine.StartAsync("d-1");
        await proxy.OrderAsync("hold TransitionWorkflow");
        var watch = Stopwatch.StartNew();
        var details = new TransitionDetails { Timeout = TimeSpan.FromMilliseconds(500) };

        var late = (await Assert.ThrowsAsync<CallTimeoutException>(() => engine.TransitionAsync(workflow, "CHECKED", details: details)))!;
        var elapsed = watch.Elapsed;
        await proxy.OrderAsync("forget");
        var again = await engine.TransitionAsync(workflow, "CHECKED", details: new TransitionDetails { RequestId = late.RequestId });

        Assert.That(late.StatusCode, Is.EqualTo(StatusCode.DeadlineExceeded));
        Assert.That(elapsed, Is.LessThan(Kit.Patience / 2), "long before the client's own timeout");
        Assert.That(again.Replayed, "it was written all the same");
        Assert.That(workflow.Sequence, Is.EqualTo(2));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Cancellation()
    {
        await using var proxy = await FaultProxy.StartAsync((await Kit.ServerAsync()).Address);
        var engine = await Kit.EngineAsync(address: proxy.Address);
        var workflow = await engine.StartAsync("c-1");
        await proxy.OrderAsync("hold TransitionWorkflow");
        using var giveUp = new CancellationTokenSource();
        var call = engine.TransitionAsync(workflow, "CHECKED", cancellationToken: giveUp.Token);
        await Task.Delay(100);
        var wasHeld = !call.IsCompleted;
        var watch = Stopwatch.StartNew();
        await giveUp.CancelAsync();

        Assert.That(async () => await call, Throws.InstanceOf<OperationCanceledException>());
        Assert.That(watch.Elapsed, Is.LessThan(Kit.Patience / 2));
        Assert.That(wasHeld);
        Assert.That((await engine.ReadAsync<Permit>("c-1")).Sequence, Is.EqualTo(2));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Several_addresses()
    {
        var server = await Kit.ServerAsync();
        var engine = await Kit.EngineAsync(configure: options =>
        {
            options.Addresses.Clear();
            options.Addresses.Add($"http://127.0.0.1:{FreePort.Next()}");
            options.Addresses.Add(server.Address);
        });
        for (var i = 0; i < 20; i++)
            await engine.StartAsync($"s-{i}");

        Assert.That((await engine.ReadAsync<Permit>("s-19")).State, Is.EqualTo("RECEIVED"));
        await engine.CloseAsync();
    }

    [Test]
    public async Task Tls_and_call_credentials_pass_through()
    {
        using var directory = new TemporaryDirectory();
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var names = new SubjectAlternativeNameBuilder();
        names.AddIpAddress(IPAddress.Loopback);
        var request = new CertificateRequest("CN=aegis", key, HashAlgorithmName.SHA256) { CertificateExtensions = { names.Build() } };
        using var certificate = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1));
        await File.WriteAllTextAsync($"{directory.Path}/tls.pem", certificate.ExportCertificatePem());
        await File.WriteAllTextAsync($"{directory.Path}/tls.key", key.ExportPkcs8PrivateKeyPem());
        await using var server = ServerProcess.Create($"sqlite:{directory.Path}/aegis.db",
            ("ASPNETCORE_Kestrel__Certificates__Default__Path", $"{directory.Path}/tls.pem"),
            ("ASPNETCORE_Kestrel__Certificates__Default__KeyPath", $"{directory.Path}/tls.key"));
        var address = $"https://127.0.0.1:{server.Port}";
        server.Launch(address);
        var tokens = 0;
        var options = new AegisClientOptions
        {
            Addresses = [$"https://127.0.0.1:{FreePort.Next()}", address],
            ConfigureHandler = handler => handler.SslOptions.RemoteCertificateValidationCallback = (_, c, _, _) => c!.GetCertHashString() == certificate.GetCertHashString(),
            CallCredentials = CallCredentials.FromInterceptor((_, metadata) =>
            {
                Interlocked.Increment(ref tokens);
                metadata.Add("authorization", "Bearer token");
                return Task.CompletedTask;
            }),
        };
        var engine = Kit.Engine(options);

        var workflow = await engine.StartAsync("t-1");

        Assert.That(workflow.Sequence, Is.EqualTo(1));
        Assert.That(tokens, Is.GreaterThan(0));
        Assert.That(() => new AegisClient(new AegisClientOptions { Addresses = [server.Address], CallCredentials = options.CallCredentials }),
            Throws.ArgumentException.With.Message.Contains("plaintext"));
        await engine.CloseAsync();
    }

    [TestCase]
    [TestCase("http://127.0.0.1:1", "https://127.0.0.1:2")]
    [TestCase("127.0.0.1:1")]
    [TestCase("http://127.0.0.1:1", "http://")]
    public void Addresses_that_cannot_be_used_are_told(params string[] addresses)
        => Assert.That(() => new AegisClient(new AegisClientOptions { Addresses = addresses }), Throws.ArgumentException);
}
