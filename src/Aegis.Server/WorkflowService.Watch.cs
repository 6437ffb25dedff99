using Aegis.Core;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// Watching: pages of the log from a cursor on, then waiting for it to grow.
public sealed partial class WorkflowService
{
    private const int WatchPageSize = 500;

    /// <summary>How long a watch is silent at most, and how often a slow one tells where it is.</summary>
    private static readonly TimeSpan ProgressInterval = TimeSpan.FromSeconds(10);

    public override Task WatchRecords(Pb.WatchRecordsRequest request,
        IServerStreamWriter<Pb.WatchRecordsResponse> responseStream, ServerCallContext context) =>
        drain.StreamAsync(context, ending => WatchAsync(request, responseStream, ending));

    private async Task WatchAsync(Pb.WatchRecordsRequest request,
        IServerStreamWriter<Pb.WatchRecordsResponse> responseStream, CancellationToken cancellationToken)
    {
        var filter = FilterOf(request);
        var history = tail.History;
        var cursor = await StartAsync(request, cancellationToken);
        // Unknown until all that is there was delivered once: who waits for that is told, also behind a record.
        long? told = null;
        while (true)
        {
            if (tail.History != history)
            {
                throw new RefusalException(new Refusal(Reason.LogForked,
                    "The log was taken back while it was watched: what was delivered may be no more. Tell the operator.",
                    ("next_log_index", Refusal.Text(cursor))));
            }
            // The size is read before the records: all below it are there, those that match and those that do not.
            var size = tail.Size;
            var page = cursor < size
                ? await store.ListRecordsAsync(filter, cursor, descending: false, WatchPageSize, cancellationToken)
                : [];
            foreach (var record in page)
            {
                var message = new Pb.WatchRecordsResponse { Record = record.ToPb().Cut() };
                AddViolations(message.Violations, chains.Note(record), message.Record.CalculateSize());
                await responseStream.WriteAsync(message, cancellationToken);
                cursor = record.LogIndex + 1;
                if (told is not null)
                    told = cursor;
            }
            if (page.Count == WatchPageSize)
                continue;
            cursor = Math.Max(cursor, size);
            if (told != cursor)
            {
                await TellAsync(cursor);
                told = cursor;
            }
            if (!await tail.WaitBeyondAsync(cursor, ProgressInterval, cancellationToken))
                await TellAsync(cursor);
        }

        Task TellAsync(long next) => responseStream.WriteAsync(
            new Pb.WatchRecordsResponse { Progress = new Pb.WatchProgress { NextLogIndex = (ulong)next } },
            cancellationToken);
    }

    private static RecordFilter FilterOf(Pb.WatchRecordsRequest request)
    {
        var fields = new Fields();
        if (request.AllNamespaces && request.Namespace.Length > 0)
            fields.Wrong("namespace", "cannot be combined with all_namespaces");
        if (request.AfterHash.Length > 0)
            fields.HashOf("after_hash", request.AfterHash);
        if (request.AfterHash.Length > 0 && request.FromLogIndex == 0)
            fields.Wrong("after_hash", "needs a from_log_index above 0");
        var filter = new RecordFilter
        {
            Namespace = request.AllNamespaces ? null : fields.Namespace(request.Namespace),
            WorkflowId = request.WorkflowId.Length == 0 ? null : fields.Text("workflow_id", request.WorkflowId),
            WorkflowType = request.WorkflowType.Length == 0 ? null : fields.Text("workflow_type", request.WorkflowType),
        };
        fields.Check();
        return filter;
    }

    private async Task<long> StartAsync(Pb.WatchRecordsRequest request, CancellationToken cancellationToken)
    {
        // Another server may have written what this one has not seen yet, and that is there too.
        var size = await tail.CurrentAsync(cancellationToken);
        if (!request.HasFromLogIndex)
            return size;
        if (request.FromLogIndex > (ulong)size)
            throw new RefusalException(tail.AheadOfLog("from_log_index", request.FromLogIndex));
        var from = (long)request.FromLogIndex;
        if (request.AfterHash.Length == 0)
            return from;
        var before = await store.ListRecordsAsync(new RecordFilter(), from - 1, descending: false, 1, cancellationToken);
        var expected = new Hash(request.AfterHash.Span);
        if (before.Count == 0 || before[0].LogIndex != from - 1 || before[0].Hash != expected)
        {
            throw new RefusalException(new Refusal(Reason.LogForked,
                $"The record at log index {from - 1} is not the one that the caller knows: this is another history.",
                ("log_index", Refusal.Text(from - 1)), ("expected_hash", expected.ToString()),
                ("actual_hash", before.Count == 0 ? "" : before[0].Hash.ToString())));
        }
        return from;
    }
}
