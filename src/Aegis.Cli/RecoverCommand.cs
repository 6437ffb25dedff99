using System.CommandLine;
using System.Globalization;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>What an operator decides when the log cannot go on by itself.</summary>
internal static class RecoverCommand
{
    public static Command Create() =>
        new("recover", "Decide what the log cannot decide by itself, and find what to go back to.") { AcceptRollback(), Moment() };

    private static Command AcceptRollback()
    {
        var actor = new Option<string>("--actor") { Description = "Who decides it.", HelpName = "NAME", Required = true };
        var reason = new Option<string>("--reason") { Description = "Why.", HelpName = "TEXT", Required = true };
        var dryRun = new Option<bool>("--dry-run") { Description = "Only tell what would be lost." };
        return Session.Define("accept-rollback", "Accept that the database was taken back behind a signed head (LOG_ROLLED_BACK): tells "
            + "which log positions are gone, and begins a new generation of the log.", async session =>
        {
            var isDry = session.Get(dryRun);
            var answer = await session.Integrity.AcceptRollbackAsync(new Pb.AcceptRollbackRequest
            {
                Actor = session.Get(actor),
                Reason = session.Get(reason),
                DryRun = isDry,
            }, session.Unary);
            session.Output.Message(answer);
            session.Output.Line(PositionsOf(answer));
            session.Output.Line($"  lost head       {HeadText.Of(answer.LostHead)}");
            session.Output.Line($"  surviving head  {HeadText.Of(answer.SurvivingHead)}");
            session.Output.Line(isDry
                ? $"Nothing was accepted. The log would go on as {answer.LogId}."
                : $"The log goes on as {answer.LogId}, from record {answer.Record.LogIndex} on. Its verifier key has a new name: "
                    + "see aegis key show.");
            return ExitCode.Success;
        }, actor, reason, dryRun);
    }

    private static Command Moment()
    {
        var index = new Argument<ulong>("LOG_INDEX") { Description = "The last record that is to be there." };
        return Session.Define("moment", "Tell to what time PostgreSQL has to be restored (recovery_target_time) to have the record at a log "
            + "index and nothing that was committed after it. Exit code 3 when nothing was recorded after it: then restore to the end.",
            session => TellMomentAsync(session, session.Get(index)), index);
    }

    /// <summary>
    /// A record is committed after its recorded_at, and before the next batch reads the clock, which waits for the log until then:
    /// recovery to the recorded_at of the next batch takes in the one and not the other.
    /// </summary>
    private static async Task<int> TellMomentAsync(Session session, ulong index)
    {
        var size = (await session.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest(), session.Unary)).Size;
        if (index >= size)
            throw new UsageException($"The log has {size} records: there is none at {index}.");
        var request = new Pb.WatchRecordsRequest { AllNamespaces = true, FromLogIndex = index };
        using var call = session.Workflows.WatchRecords(request, session.Streaming);
        Timestamp? recordedAt = null;
        await foreach (var message in call.ResponseStream.ReadAllAsync(session.Cancellation))
        {
            if (message.Record is { } record && record.LogIndex < size)
            {
                if (recordedAt is null && record.LogIndex != index)
                    throw new UsageException($"The record at {index} is gone: name one that is still there.");
                recordedAt ??= record.RecordedAt;
                if (record.RecordedAt > recordedAt)
                {
                    var moment = record.RecordedAt.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss.ffffff'+00'", CultureInfo.InvariantCulture);
                    session.Output.Object(new { log_index = index, moment, next_log_index = record.LogIndex });
                    session.Output.Line(moment);
                    return ExitCode.Success;
                }
            }
            if ((message.Record?.LogIndex + 1 ?? message.Progress.NextLogIndex) >= size)
                break;
        }
        session.Output.Notice($"Nothing was recorded after the record at {index}: restore to the end.");
        return ExitCode.NotFound;
    }

    private static string PositionsOf(Pb.AcceptRollbackResponse answer)
    {
        var (from, to) = (answer.LostFromLogIndex, answer.LostToLogIndex);
        return from >= to ? "No log position is gone."
            : to - from == 1 ? $"Log position {from} is gone: 1 record, as it was acknowledged."
            : $"Log positions {from} to {to - 1} are gone: {to - from} records, as they were acknowledged.";
    }
}
