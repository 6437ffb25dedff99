using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Following the log: nothing missed, nothing twice, from any point on.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class WatchTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task All_records_come_without_gap_or_repeat_while_writers_write()
    {
        var writing = Task.WhenAll(Enumerable.Range(0, 8).Select(async _ =>
        {
            for (var i = 0; i < 40; i++)
                await Given.WorkflowAsync(_server);
        }));

        var indexes = (await WatchAsync(_server, new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = 0 }, 321))
            .Select(r => (int)r.LogIndex);

        await writing;
        Assert.That(indexes, Is.EqualTo(Enumerable.Range(0, 321)));
    }

    [Test]
    public async Task Filters_choose_and_progress_tells_how_far_it_is()
    {
        const string @namespace = "watched";
        var start = Given.Start("one");
        start.Namespace = @namespace;
        var first = (await _server.Workflows.StartWorkflowAsync(start)).Record;
        (start.WorkflowId, start.WorkflowType) = ("two", "permit");
        var second = (await _server.Workflows.StartWorkflowAsync(start)).Record;

        var byNamespace = await WatchAsync(_server, new Pb.WatchRecordsRequest { Namespace = @namespace, FromLogIndex = 0 }, 2);
        var byWorkflow = await WatchAsync(_server, new Pb.WatchRecordsRequest { Namespace = @namespace, WorkflowId = "two", FromLogIndex = 0 }, 1);
        var byType = await WatchAsync(_server, new Pb.WatchRecordsRequest { Namespace = @namespace, WorkflowType = "permit", FromLogIndex = 0 }, 1);
        using var nothing = _server.Workflows.WatchRecords(new Pb.WatchRecordsRequest { Namespace = "empty", FromLogIndex = 0 });
        await nothing.ResponseStream.MoveNext(CancellationToken.None);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(byNamespace, Is.EqualTo(new[] { first, second }));
            Assert.That(byWorkflow.Concat(byType), Is.All.EqualTo(second));
            Assert.That(nothing.ResponseStream.Current.Progress.NextLogIndex, Is.GreaterThan(second.LogIndex));
        }
    }

    [Test]
    public async Task Who_has_all_that_was_there_is_told_so_at_once()
    {
        await using var server = await TestServer.StartAsync(database);
        await Given.WorkflowAsync(server);
        var silence = System.Diagnostics.Stopwatch.StartNew();
        using var watch = server.Workflows.WatchRecords(new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = 0 });
        var records = 0UL;
        while (await watch.ResponseStream.MoveNext(CancellationToken.None) && watch.ResponseStream.Current.Record is not null)
            records++;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(watch.ResponseStream.Current.Progress.NextLogIndex, Is.EqualTo(records));
            Assert.That(records, Is.Positive);
            Assert.That(silence.Elapsed.TotalSeconds, Is.LessThan(9), "That was the word of silence.");
        }
    }

    [Test]
    public async Task Without_a_cursor_only_what_comes_is_delivered()
    {
        var before = await Given.WorkflowAsync(_server);
        using var watch = _server.Workflows.WatchRecords(new Pb.WatchRecordsRequest());
        await watch.ResponseStream.MoveNext(CancellationToken.None);
        var after = await Given.WorkflowAsync(_server);

        var seen = new List<string>();
        while (!seen.Contains(after) && await watch.ResponseStream.MoveNext(CancellationToken.None))
        {
            if (watch.ResponseStream.Current.Record is { } record)
                seen.Add(record.WorkflowId);
        }

        Assert.That(seen, Does.Not.Contain(before));
    }

    [Test]
    public async Task A_cursor_goes_on_where_it_stood_and_another_history_is_noticed()
    {
        var id = await Given.WorkflowAsync(_server);
        var record = (await Given.RecordsAsync(_server, id))[0];

        var next = new Pb.WatchRecordsRequest
        {
            AllNamespaces = true,
            FromLogIndex = record.LogIndex + 1,
            AfterHash = record.Hash,
        };
        await Given.WorkflowAsync(_server);
        var going = await WatchAsync(_server, next, 1);
        next.AfterHash = ByteString.CopyFrom(new byte[32]);
        var info = await ErrorAssert.RefusedAsync(() => WatchAsync(_server, next, 1), "LOG_FORKED", StatusCode.DataLoss);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(going[0].LogIndex, Is.EqualTo(record.LogIndex + 1));
            Assert.That(info.Metadata["actual_hash"], Is.EqualTo(Convert.ToHexStringLower(record.Hash.Span)));
        }
    }

    [Test]
    public async Task A_cursor_beyond_the_log_is_refused()
    {
        var info = await ErrorAssert.RefusedAsync(
            () => WatchAsync(_server, new Pb.WatchRecordsRequest { FromLogIndex = 1_000_000 }, 1),
            "CURSOR_AHEAD_OF_LOG", StatusCode.OutOfRange);

        Assert.That(info.Metadata["from_log_index"], Is.EqualTo("1000000"));
    }

    [Test]
    public async Task A_watch_that_has_nothing_to_tell_says_so_every_ten_seconds()
    {
        await using var server = await TestServer.StartAsync(database);
        using var watch = server.Workflows.WatchRecords(new Pb.WatchRecordsRequest());
        await watch.ResponseStream.MoveNext(CancellationToken.None);
        var first = watch.ResponseStream.Current;
        var silence = System.Diagnostics.Stopwatch.StartNew();

        await watch.ResponseStream.MoveNext(CancellationToken.None);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(watch.ResponseStream.Current, Is.EqualTo(first));
            Assert.That(silence.Elapsed.TotalSeconds, Is.InRange(9, 20));
        }
    }

    private static async Task<List<Pb.Record>> WatchAsync(TestServer server, Pb.WatchRecordsRequest request, int count)
    {
        using var watch = server.Workflows.WatchRecords(request, deadline: DateTime.UtcNow.AddSeconds(60));
        var records = new List<Pb.Record>();
        while (records.Count < count && await watch.ResponseStream.MoveNext(CancellationToken.None))
        {
            if (watch.ResponseStream.Current.Record is { } record)
                records.Add(record);
        }
        return records;
    }
}
