using System.CommandLine;
using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>
/// Records an event log through the service: each case a workflow, its first event the start, each later one a transition.
/// The request_ids follow from the place of an event in its case, so that a load that broke off is run again and doubles
/// nothing.
/// </summary>
internal static class LoadCommand
{
    private const int RefusalsToldMax = 20;

    private static readonly Argument<string> File = Inputs.File("A CSV file in UTF-8 with a header.");
    private static readonly Option<string> Case = Column("--case", "The column with the case, the workflow's id.");
    private static readonly Option<string> State = Column("--state", "The column with the state or activity.");
    private static readonly Option<string?> Actor = Inputs.Text("--actor", "COLUMN", "The column with the actor.");
    private static readonly Option<string?> Time = Inputs.Text("--time", "COLUMN",
        "The column with the time in ISO 8601 (UTC when it has no offset), by which the events of a case are ordered.");
    private static readonly Option<string[]> Metadata = Inputs.Many("--metadata", "COLUMN",
        "A column to keep as metadata, where it is not empty. May be repeated.");
    private static readonly Option<string> Type = new("--type")
    {
        Description = "The type of the workflows.",
        HelpName = "TYPE",
        DefaultValueFactory = _ => "case",
    };
    private static readonly Option<bool> Complete = new("--complete")
    {
        Description = "Close each case with its last event, as COMPLETED.",
    };
    private static readonly Option<int> Parallel = new("--parallel")
    {
        Description = "How many cases at once.",
        HelpName = "N",
        DefaultValueFactory = _ => 32,
    };

    public static Command Create() => Session.Define("load",
        "Record an event log from a CSV file: all of it is checked before anything is sent, and it can be run again.", RunAsync,
        File, Case, State, Actor, Time, Metadata, Type, Complete, Parallel);

    private static Option<string> Column(string name, string description) =>
        new(name) { Description = description, HelpName = "COLUMN", Required = true };

    private static async Task<int> RunAsync(Session session)
    {
        var begun = Stopwatch.GetTimestamp();
        var parallel = session.Get(Parallel);
        if (parallel is < 1 or > 1024)
            throw new UsageException("--parallel must be from 1 to 1024.");
        IReadOnlyList<LoggedCase> cases;
        await using (var stream = Inputs.Open(session.Get(File)))
        {
            cases = EventLog.Read(stream, new EventColumns(session.Get(Case), session.Get(State), session.Get(Actor),
                session.Get(Time), session.Get(Metadata)));
        }
        var info = await session.System.GetServerInfoAsync(new Pb.GetServerInfoRequest(), session.Unary);
        EventLog.Check(cases, info.Limits);

        var load = new Load(session);
        await session.Output.ProgressAsync("Loading", cases.Sum(c => (double)c.Events.Count), advance =>
            global::System.Threading.Tasks.Parallel.ForEachAsync(cases, new ParallelOptions
            {
                MaxDegreeOfParallelism = parallel,
                CancellationToken = session.Cancellation,
            }, async (item, _) => await load.RecordAsync(item, advance)));
        load.Tell(cases.Count, Math.Round(Stopwatch.GetElapsedTime(begun).TotalSeconds, 2));
        return load.Code;
    }

    /// <summary>A load under way. Its counts are changed by many cases at once.</summary>
    private sealed class Load(Session session)
    {
        private readonly string _type = session.Get(Type);
        private readonly bool _isToComplete = session.Get(Complete);
        private long _events;
        private long _replayed;
        private int _refused;
        private int _code;

        /// <summary>That of the first refusal.</summary>
        public int Code => _code;

        /// <summary>Records one case. A refusal ends this case alone; what would stop the others too ends the load.</summary>
        public async Task RecordAsync(LoggedCase item, Action<double> advance)
        {
            var at = item.Events[0];
            try
            {
                await StartAsync(item, advance);
                for (var i = 1; i < item.Events.Count; i++)
                {
                    at = item.Events[i];
                    var isToClose = _isToComplete && i == item.Events.Count - 1;
                    Count(await MoveAsync(item.Id, item.Events[i - 1].State, at, $"load-{i + 1}", isToClose), advance);
                }
                // A workflow cannot start closed: the case of one event is closed by a move to where it is.
                if (_isToComplete && item.Events.Count == 1)
                    await MoveAsync(item.Id, at.State, at, "load-complete", isToClose: true);
            }
            catch (WriteException e) when (IsOfTheCase(e.Cause.StatusCode))
            {
                var failure = Failure.Of(e);
                Interlocked.CompareExchange(ref _code, failure.ExitCode, ExitCode.Success);
                if (Interlocked.Increment(ref _refused) <= RefusalsToldMax)
                    session.Output.Fail(failure with { Message = $"Line {at.Line}: {failure.Message}" });
            }
        }

        public void Tell(int cases, double seconds)
        {
            session.Output.Object(new { cases, events = _events, replayed = _replayed, refused = _refused, seconds });
            if (_refused > RefusalsToldMax)
                session.Output.Notice($"… and {_refused - RefusalsToldMax} more cases refused.");
            session.Output.Line($"{cases} cases, {_events} events recorded, {_replayed} of them before, "
                + $"{(_refused > 0 ? $"{_refused} cases refused, " : "")}in {seconds} s");
        }

        private async Task StartAsync(LoggedCase item, Action<double> advance)
        {
            var first = item.Events[0];
            var request = new Pb.StartWorkflowRequest
            {
                Namespace = session.Namespace,
                WorkflowId = item.Id,
                WorkflowType = _type,
                InitialState = first.State,
                Actor = first.Actor,
                OccurredAt = TimestampOf(first),
                RequestId = "load-1",
            };
            foreach (var (key, value) in first.Metadata)
                request.Metadata.Add(key, value);
            var response = await session.WriteAsync("", options => session.Workflows.StartWorkflowAsync(request, options));
            Count(response.Replayed, advance);
        }

        /// <returns>Whether it had been recorded before.</returns>
        private async Task<bool> MoveAsync(string id, string from, LoggedEvent to, string requestId, bool isToClose)
        {
            var request = new Pb.TransitionWorkflowRequest
            {
                Namespace = session.Namespace,
                WorkflowId = id,
                FromState = from,
                ToState = to.State,
                Status = isToClose ? Pb.WorkflowStatus.Completed : Pb.WorkflowStatus.Running,
                Actor = to.Actor,
                OccurredAt = TimestampOf(to),
                RequestId = requestId,
            };
            foreach (var (key, value) in to.Metadata)
                request.Metadata.Add(key, value);
            return (await session.WriteAsync("", options => session.Workflows.TransitionWorkflowAsync(request, options))).Replayed;
        }

        private void Count(bool isReplayed, Action<double> advance)
        {
            Interlocked.Increment(ref _events);
            if (isReplayed)
                Interlocked.Increment(ref _replayed);
            advance(1);
        }

        private static bool IsOfTheCase(StatusCode code) => code is StatusCode.InvalidArgument or StatusCode.NotFound
            or StatusCode.AlreadyExists or StatusCode.Aborted or StatusCode.FailedPrecondition or StatusCode.DataLoss;

        private static Timestamp? TimestampOf(LoggedEvent logged) =>
            logged.OccurredAt is { } time ? Timestamp.FromDateTimeOffset(time) : null;
    }
}
