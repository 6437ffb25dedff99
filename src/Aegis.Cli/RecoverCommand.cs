using System.CommandLine;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>What an operator decides when the log cannot go on by itself.</summary>
internal static class RecoverCommand
{
    public static Command Create() =>
        new("recover", "Decide what the log cannot decide by itself.") { AcceptRollback() };

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

    private static string PositionsOf(Pb.AcceptRollbackResponse answer)
    {
        var (from, to) = (answer.LostFromLogIndex, answer.LostToLogIndex);
        return from >= to ? "No log position is gone."
            : to - from == 1 ? $"Log position {from} is gone: 1 record, as it was acknowledged."
            : $"Log positions {from} to {to - 1} are gone: {to - from} records, as they were acknowledged.";
    }
}
