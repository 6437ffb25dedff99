using System.Net;
using System.Text;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>What the server measures of itself reaches a collector, and what it logs holds no content.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class MetricsTests
{
    [Test]
    public async Task Metrics_are_exported_where_the_environment_says()
    {
        using var collector = new HttpListener();
        var endpoint = $"http://127.0.0.1:{FreePort.Next()}/";
        collector.Prefixes.Add(endpoint);
        collector.Start();
        await using var server = await ServerProcess.StartAsync("sqlite::memory:",
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "300"));
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        await workflows.StartWorkflowAsync(Given.Start("measured"));
        await ErrorAssert.RefusedAsync(async () => await workflows.StartWorkflowAsync(Given.Start("measured")),
            "WORKFLOW_ALREADY_EXISTS", Grpc.Core.StatusCode.AlreadyExists);

        string[] wanted =
        [
            "aegis.batch.size", "aegis.queue.wait", "aegis.queue.length", "aegis.commit.time", "aegis.records",
            "aegis.refusals", "WORKFLOW_ALREADY_EXISTS", "aegis.log.size", "aegis.clock.skew",
            "aegis.replication.synchronous", "aegis.reads",
        ];
        var seen = new HashSet<string>();
        for (var until = DateTime.UtcNow.AddSeconds(30); seen.Count < wanted.Length && DateTime.UtcNow < until;)
        {
            var received = await collector.GetContextAsync().WaitAsync(TimeSpan.FromSeconds(30));
            using var body = new MemoryStream();
            await received.Request.InputStream.CopyToAsync(body);
            var text = Encoding.Latin1.GetString(body.ToArray());
            seen.UnionWith(wanted.Where(name => text.Contains(name, StringComparison.Ordinal)));
            received.Response.Close();
        }

        Assert.That(seen, Is.EquivalentTo(wanted));
    }

    [Test]
    public async Task The_log_is_quiet_and_as_JSON_when_asked_and_never_holds_content()
    {
        await using var server = await ServerProcess.StartAsync("sqlite::memory:",
            ("AEGIS_LOG_FORMAT", "json"), ("AEGIS_DRAIN_SECONDS", "0"));
        var workflows = new Pb.WorkflowService.WorkflowServiceClient(server.Channel);
        var start = Given.Start("quiet");
        (start.Snapshot, start.Actor) = (Given.Snapshot("the content"), "the actor");
        await workflows.StartWorkflowAsync(start);
        await ErrorAssert.RefusedAsync(async () => await workflows.StartWorkflowAsync(start),
            "WORKFLOW_ALREADY_EXISTS", Grpc.Core.StatusCode.AlreadyExists);
        await server.SendAsync(Signal.Terminate);
        await server.ExitCodeAsync();

        var logged = server.Output.Split('\n').Where(line => line.StartsWith('{')).ToList();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(server.Output, Does.Not.Contain("the content").And.Not.Contain("the actor"));
            Assert.That(logged, Is.Empty, "Nothing went wrong, so nothing is told.");
        }
    }
}
