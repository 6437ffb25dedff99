using System.CommandLine;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Verifies the log as a whole, or a range of it.</summary>
internal static class VerifyLogCommand
{
    public static Command Create()
    {
        var from = Place("--from", "The first log index, inclusive.");
        var to = Place("--to", "The last log index, exclusive; without it, the end of the log.");
        return Session.Define("verify-log", "Check the whole log, record by record, up to its signed head. Exit code 5 when somebody "
            + "rewrote it. With --json each finding, and a summary.",
            session => RunAsync(session, session.Get(from), session.Get(to)), from, to);
    }

    private static async Task<int> RunAsync(Session session, ulong from, ulong to)
    {
        var request = new Pb.VerifyLogRequest { FromLogIndex = from, ToLogIndex = to };
        using var call = session.Integrity.VerifyLog(request, session.Streaming);
        Pb.VerifyLogSummary? summary = null;
        var total = to > from ? (double)(to - from) : (await session.Integrity.GetLogHeadAsync(new(), session.Unary)).Size - (double)from;
        await session.Output.ProgressAsync("Verifying", total, async advance =>
        {
            var verified = 0UL;
            while (await call.ResponseStream.MoveNext(session.Cancellation))
            {
                var answer = call.ResponseStream.Current;
                if (answer.Progress is { } progress)
                {
                    advance(progress.Verified - verified);
                    verified = progress.Verified;
                }
                if (answer.Violation is { } violation)
                {
                    session.Output.Message(violation);
                    VerifyCommand.Tell(session, violation, PlaceOf(violation));
                }
                summary = answer.Summary ?? summary;
            }
        });
        session.Output.Message(summary!);
        session.Output.Line($"{summary!.RecordsVerified} records, {summary.SnapshotsVerified} snapshots verified: "
            + (summary.Intact ? "intact" : $"{summary.Violations} violations"));
        return summary.Intact ? ExitCode.Success : ExitCode.Violation;
    }

    private static Option<ulong> Place(string name, string description) =>
        new(name) { Description = description, HelpName = "LOG_INDEX" };

    private static string PlaceOf(Pb.Violation violation)
    {
        var index = violation.HasLogIndex ? $" (log index {violation.LogIndex})" : "";
        return violation.WorkflowId.Length == 0 ? $"the log{index}"
            : violation.Sequence == 0 ? $"{violation.Namespace}/{violation.WorkflowId}{index}"
            : $"record {violation.Sequence} of {violation.Namespace}/{violation.WorkflowId}{index}";
    }
}
