using System.Diagnostics.Metrics;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Net.Client;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Where watches begin and how they end.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
public sealed class WatchEndTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    [NonParallelizable]
    public async Task Watchers_that_vanish_leave_no_call_running()
    {
        long active = 0;
        using var listener = new MeterListener();
        listener.InstrumentPublished = (instrument, l) =>
        {
            if (instrument is { Name: "http.server.active_requests", Meter.Name: "Microsoft.AspNetCore.Hosting" })
                l.EnableMeasurementEvents(instrument);
        };
        listener.SetMeasurementEventCallback<long>((_, change, _, _) => Interlocked.Add(ref active, change));
        listener.Start();
        for (var i = 0; i < 30; i++)
        {
            using var channel = GrpcChannel.ForAddress(_server.Address);
            var call = new Pb.WorkflowService.WorkflowServiceClient(channel).WatchRecords(
                new Pb.WatchRecordsRequest { AllNamespaces = i % 2 == 0, FromLogIndex = 0 });
            await call.ResponseStream.MoveNext(CancellationToken.None);
        }

        Assert.That(() => Interlocked.Read(ref active), Is.Zero.After(20_000, 50));
        await Given.WorkflowAsync(_server);
    }

    [Test]
    public async Task A_watch_begins_at_the_end_of_the_log_with_its_place()
    {
        var id = await Given.WorkflowAsync(_server);
        var size = (await _server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id })).LogSize;
        using var watch = _server.Workflows.WatchRecords(new Pb.WatchRecordsRequest { FromLogIndex = size });
        await watch.ResponseStream.MoveNext(CancellationToken.None);
        var first = watch.ResponseStream.Current;

        var next = await Given.WorkflowAsync(_server);
        await watch.ResponseStream.MoveNext(CancellationToken.None);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(first.Progress?.NextLogIndex, Is.EqualTo(size));
            Assert.That(watch.ResponseStream.Current.Record?.WorkflowId, Is.EqualTo(next));
        }
    }

    [Test]
    public async Task What_contradicts_itself_is_refused()
    {
        var hash = ByteString.CopyFrom(new byte[32]);
        foreach (var (request, field) in new (Pb.WatchRecordsRequest, string)[]
        {
            (new() { AllNamespaces = true, Namespace = "default" }, "namespace"),
            (new() { AfterHash = hash }, "after_hash"),
            (new() { AfterHash = hash, FromLogIndex = 0 }, "after_hash"),
            (new() { AfterHash = ByteString.CopyFrom(new byte[31]), FromLogIndex = 1 }, "after_hash"),
        })
        {
            using var watch = _server.Workflows.WatchRecords(request);
            Assert.That(await ErrorAssert.InvalidFieldsAsync(() => watch.ResponseStream.MoveNext(CancellationToken.None)),
                Is.EqualTo(new[] { field }));
        }
        using var ahead = _server.Workflows.WatchRecords(new Pb.WatchRecordsRequest { FromLogIndex = ulong.MaxValue });
        await ErrorAssert.RefusedAsync(
            () => ahead.ResponseStream.MoveNext(CancellationToken.None), "CURSOR_AHEAD_OF_LOG", StatusCode.OutOfRange);
    }

    [Test]
    public async Task A_server_that_goes_down_tells_its_watchers()
    {
        await using var server = await TestServer.StartAsync(database);
        using var channel = GrpcChannel.ForAddress(server.Address);
        using var watch = new Pb.WorkflowService.WorkflowServiceClient(channel).WatchRecords(new Pb.WatchRecordsRequest());
        await watch.ResponseStream.MoveNext(CancellationToken.None);

        var stopping = server.DisposeAsync();

        await ErrorAssert.RefusedAsync(
            () => watch.ResponseStream.MoveNext(CancellationToken.None), "SHUTTING_DOWN", StatusCode.Unavailable);
        await stopping;
    }
}
