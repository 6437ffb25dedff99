using System.CommandLine;
using System.Diagnostics;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>
/// Records an event log through the service: each case a workflow, its first event the start, each later one a transition.
/// The request_ids follow from the file, so that a load that broke off is run again and doubles nothing.
/// </summary>
internal static class LoadCommand
{
    private static readonly Argument<string> File = new("file") { Description = "A CSV file with a header, - for standard input." };
    private static readonly Option<string> Case = new("--case") { Description = "The column with the case.", Required = true };
    private static readonly Option<string> State = new("--state") { Description = "The column with the state or activity.", Required = true };
    private static readonly Option<string?> Actor = new("--actor") { Description = "The column with the actor." };
    private static readonly Option<string?> Time = new("--time") { Description = "The column with the time, by which the events of a case are ordered." };
    private static readonly Option<string[]> Metadata = new("--metadata")
    {
        Description = "A column to keep as metadata; may be repeated.",
        DefaultValueFactory = _ => [],
    };
    private static readonly Option<string> Type = new("--type")
    {
        Description = "The type of the workflows.",
        DefaultValueFactory = _ => "case",
    };
    private static readonly Option<bool> Complete = new("--complete") { Description = "Close each case with its last event, as COMPLETED." };
    private static readonly Option<int> Parallel = new("--parallel")
    {
        Description = "How many cases at once.",
        DefaultValueFactory = _ => 32,
    };

    private sealed class Progress
    {
        public long Events;
        public long Replayed;
    }

    public static Command Create() => Session.Define("load", "Record an event log from a CSV file.", RunAsync,
        File, Case, State, Actor, Time, Metadata, Type, Complete, Parallel);

    private static async Task<int> RunAsync(Session session)
    {
        var begun = Stopwatch.GetTimestamp();
        var columns = new EventColumns(session.Get(Case), session.Get(State), session.Get(Actor), session.Get(Time), session.Get(Metadata));
        using var text = session.Get(File) == "-" ? Console.In : global::System.IO.File.OpenText(session.Get(File));
        var cases = EventLog.Read(text, columns);
        var progress = new Progress();
        await session.Output.ProgressAsync("Loading", cases.Sum(c => (double)c.Events.Count), advance =>
            global::System.Threading.Tasks.Parallel.ForEachAsync(cases, new ParallelOptions
            {
                MaxDegreeOfParallelism = Math.Clamp(session.Get(Parallel), 1, 1024),
                CancellationToken = session.Cancellation,
            }, async (item, _) => await LoadAsync(session, item.Case, item.Events, progress, advance)));
        var seconds = Math.Round(Stopwatch.GetElapsedTime(begun).TotalSeconds, 2);
        session.Output.Object(new { cases = cases.Count, events = progress.Events, replayed = progress.Replayed, seconds });
        session.Output.Line(
            $"{cases.Count} cases, {progress.Events} events recorded, {progress.Replayed} of them before, in {seconds} s");
        return ExitCode.Success;
    }

    private static async Task LoadAsync(Session session, string id, IReadOnlyList<LoggedEvent> events, Progress progress,
        Action<double> advance)
    {
        var start = new Pb.StartWorkflowRequest
        {
            Namespace = session.Namespace,
            WorkflowId = id,
            WorkflowType = session.Get(Type),
            InitialState = events[0].State,
            Actor = events[0].Actor,
            OccurredAt = events[0].OccurredAt,
            RequestId = "load-1",
        };
        foreach (var (key, value) in events[0].Metadata)
            start.Metadata.Add(key, value);
        Count((await session.Workflows.StartWorkflowAsync(start, session.Unary)).Replayed);
        for (var i = 1; i < events.Count; i++)
        {
            var isLast = i == events.Count - 1;
            await MoveAsync(events[i - 1].State, events[i], $"load-{i + 1}", isLast && session.Get(Complete));
        }
        if (events.Count == 1 && session.Get(Complete))
        {
            // A workflow cannot start closed: the case of one event is closed by a move to where it is.
            await MoveAsync(events[0].State, events[0], "load-complete", close: true, isEvent: false);
        }

        async Task MoveAsync(string from, LoggedEvent to, string requestId, bool close, bool isEvent = true)
        {
            var request = new Pb.TransitionWorkflowRequest
            {
                Namespace = session.Namespace,
                WorkflowId = id,
                FromState = from,
                ToState = to.State,
                Status = close ? Pb.WorkflowStatus.Completed : Pb.WorkflowStatus.Running,
                Actor = to.Actor,
                OccurredAt = to.OccurredAt,
                RequestId = requestId,
            };
            foreach (var (key, value) in to.Metadata)
                request.Metadata.Add(key, value);
            var response = await session.Workflows.TransitionWorkflowAsync(request, session.Unary);
            if (isEvent)
                Count(response.Replayed);
        }

        void Count(bool replayed)
        {
            Interlocked.Increment(ref progress.Events);
            if (replayed)
                Interlocked.Increment(ref progress.Replayed);
            advance(1);
        }
    }
}
