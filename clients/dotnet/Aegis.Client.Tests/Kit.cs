using System.Diagnostics;
using Aegis.Tests;

[assembly: Parallelizable(ParallelScope.All)]

namespace Aegis.Client.Tests;

/// <summary>A state object, as a service would have one.</summary>
internal sealed record Permit(string Applicant, int Step = 0, string Note = "");

/// <summary>One server for all scenarios that do not take theirs apart, and what most of them begin with.</summary>
[SetUpFixture]
public sealed class Kit
{
    private static readonly SemaphoreSlim Starting = new(1);
    private static ServerProcess? _server;
    private static string _key = "";

    /// <summary>Patience with what has to come; nothing is measured by it.</summary>
    internal static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    [OneTimeTearDown]
    public async Task EndAsync()
    {
        if (_server is not null)
            await _server.DisposeAsync();
        Starting.Dispose();
        SharedKey.Dispose();
        TemporaryDirectory.RemoveAll();
    }

    internal static async Task<ServerProcess> ServerAsync()
    {
        await Starting.WaitAsync();
        try
        {
            if (_server is null)
            {
                _server = await ServerProcess.StartAsync("sqlite:aegis.db");
                _key = await KeyOfAsync(_server);
            }
            return _server;
        }
        finally
        {
            Starting.Release();
        }
    }

    /// <summary>The verifier key of a server's log, which in earnest comes by another way.</summary>
    internal static async Task<string> KeyOfAsync(ServerProcess server)
    {
        await using var client = new AegisClient(server.Address);
        return (await client.System.GetServerInfoAsync(new V1.GetServerInfoRequest())).VerifierKeys.Single();
    }

    /// <summary>An engine with permits, over a client of its own in a namespace of its own, on the shared server.</summary>
    /// <param name="isTrusting">Whether the shared server's key is trusted, so that all is proven.</param>
    internal static async Task<DurableWorkflowEngine> EngineAsync(string? @namespace = null, string? address = null, bool isTrusting = true,
        EngineOptions? engine = null, Action<AegisClientOptions>? configure = null)
    {
        var server = await ServerAsync();
        var options = new AegisClientOptions { Addresses = [address ?? server.Address], Namespace = @namespace ?? NewNamespace() };
        if (isTrusting)
            options.TrustedKeys.Add(_key);
        configure?.Invoke(options);
        return Engine(options, engine);
    }

    internal static DurableWorkflowEngine Engine(AegisClientOptions options, EngineOptions? engine = null)
    {
        var result = new DurableWorkflowEngine(new AegisClient(options), engine);
        result.Register<Permit>("permit");
        return result;
    }

    internal static async Task UntilAsync(Func<Task<bool>> condition)
    {
        for (var since = Stopwatch.StartNew(); !await condition(); await Task.Delay(20))
            Assert.That(since.Elapsed, Is.LessThan(Patience), "It does not come true.");
    }

    internal static string NewNamespace() => $"n-{Guid.NewGuid():N}";
}

/// <summary>What most scenarios do with an engine.</summary>
internal static class EngineExtensions
{
    public static Task<Workflow<Permit>> StartAsync(this DurableWorkflowEngine engine, string id, bool takeLease = false, string state = "RECEIVED")
        => engine.StartAsync("permit", id, state, new Permit("Anna"), new StartDetails { TakeLease = takeLease });

    /// <summary>The engine and its client.</summary>
    public static async Task CloseAsync(this DurableWorkflowEngine engine)
    {
        await engine.DisposeAsync();
        await engine.Client.DisposeAsync();
    }

    public static async Task<List<WrittenRecord>> HistoryAsync(this DurableWorkflowEngine engine, string id)
    {
        var records = new List<WrittenRecord>();
        await foreach (var record in engine.ListRecordsAsync(id))
            records.Add(record);
        return records;
    }
}
