using System.CommandLine;
using Aegis.Evidence;
using Google.Protobuf;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>What verification found, and what an operator does about it.</summary>
internal static class ViolationCommands
{
    private const uint PageSize = 1000;

    public static Command Violations()
    {
        var id = Inputs.OptionalId("Only of this workflow.");
        var all = new Option<bool>("--all-namespaces") { Description = "Of all namespaces, and of the log itself." };
        var released = new Option<bool>("--released") { Description = "Those too that were released or repaired." };
        return Session.Define("violations", "List what verification found and nobody has released or repaired, newest first. Exit code 5 "
            + "when there is any that is open.", async session =>
        {
            var request = new Pb.ListViolationsRequest
            {
                Namespace = session.Get(all) ? "" : session.Namespace,
                AllNamespaces = session.Get(all),
                WorkflowId = session.Get(id) ?? "",
                IncludeReleased = session.Get(released),
                PageSize = PageSize,
            };
            var (listed, open) = (0L, 0L);
            do
            {
                var page = await session.Integrity.ListViolationsAsync(request, session.Unary);
                foreach (var violation in page.Violations)
                {
                    session.Output.Message(violation);
                    Tell(session.Output, violation);
                }
                listed += page.Violations.Count;
                open += page.Violations.Count(v => !v.Released);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length > 0);
            if (listed == 0)
                session.Output.Notice("There are no such violations.");
            return open > 0 ? ExitCode.Violation : ExitCode.Success;
        }, id, all, released);
    }

    public static Command Release()
    {
        var id = Inputs.OptionalId("The workflow to release.");
        var violations = Inputs.Many("--violation", "ID", "A violation to release by itself, such as one about the log. May be repeated.");
        var act = new ActOptions();
        return Session.Define("release", "Open a quarantined workflow to writes again, with its violations as they are: the same finding is "
            + "not opened again.", async session =>
        {
            if (session.Get(id) is null == (session.Get(violations).Length == 0))
                throw new UsageException("Give a workflow or --violation.");
            var request = new Pb.ReleaseQuarantineRequest
            {
                Namespace = session.Get(id) is null ? "" : session.Namespace,
                WorkflowId = session.Get(id) ?? "",
                Actor = session.Get(act.Actor),
                Reason = session.Get(act.Reason),
            };
            request.ViolationIds.AddRange(session.Get(violations));
            var answer = await session.Integrity.ReleaseQuarantineAsync(request, session.Unary);
            session.Output.Message(answer);
            session.Output.Line($"{Count(answer.Released)} released, as record {answer.Record.LogIndex} of the log tells");
            return ExitCode.Success;
        }, [id, violations, .. act.All]);
    }

    public static Command Repair()
    {
        var id = Inputs.Id();
        var sequence = new Option<ulong>("--sequence")
        {
            Description = "The record to restore; without it the head of the workflow is made again from its records. Of the workflow "
                + "\"log\" in the namespace \"aegis.system\" that also makes the log's tiles again.",
            HelpName = "N",
        };
        var export = Inputs.Text("--from", "FILE", "An export that has the record and its snapshot, for what the log itself does not keep: "
            + "values that can be erased, lost rows, snapshots.");
        var snapshot = Inputs.Text("--snapshot", "FILE", "The snapshot that the record carries, or - for standard input.");
        var act = new ActOptions();
        return Session.Define("repair", "Restore what was altered, from what the log keeps or from an export; nothing is taken that the log "
            + "does not prove.", async session =>
        {
            var request = new Pb.RepairRecordRequest
            {
                Namespace = session.Namespace,
                WorkflowId = session.Get(id),
                Sequence = session.Get(sequence),
                Actor = session.Get(act.Actor),
                Reason = session.Get(act.Reason),
            };
            if (session.Get(export) is { } file)
            {
                if (request.Sequence == 0)
                    throw new UsageException("--from needs a --sequence: which record?");
                (request.Record, request.Snapshot) = RecordOf(session, file, request.WorkflowId, request.Sequence);
            }
            if (await Inputs.SnapshotAsync(session.Get(snapshot), null, session.Cancellation) is { } brought)
                request.Snapshot = brought;
            var answer = await session.Integrity.RepairRecordAsync(request, session.Unary);
            session.Output.Message(answer);
            session.Output.Line($"restored: {answer.Record.Metadata["what"].Replace(",", ", ", StringComparison.Ordinal)}; "
                + $"{Count(answer.Released)} closed, as record {answer.Record.LogIndex} of the log tells");
            return ExitCode.Success;
        }, [id, sequence, export, snapshot, .. act.All]);
    }

    /// <summary>A finding, and below it what differs: as verify tells it too.</summary>
    private static void Tell(Output output, Pb.Violation violation)
    {
        var workflow = violation.WorkflowId.Length == 0 ? "the log" : $"{violation.Namespace}/{violation.WorkflowId}";
        var place = violation.Sequence == 0 ? workflow : $"{workflow} record {violation.Sequence}";
        var index = violation.HasLogIndex ? $", log index {violation.LogIndex}" : "";
        output.Line($"{violation.ViolationId} {Output.Time(violation.FoundAt)} {place}{index}: {Output.Name(violation.Class)}"
            + (violation.Released ? ", released" : ""));
        output.Line($"  {violation.Message}");
        VerifyCommand.TellDifferences(output, violation);
    }

    private static string Count(ulong violations) => violations == 1 ? "1 violation" : $"{violations} violations";

    /// <summary>A record of an export, and the snapshot that it carries where the file has it.</summary>
    /// <exception cref="UsageException">The file cannot be read, or has no such record.</exception>
    private static (Pb.Record Record, Pb.Snapshot? Snapshot) RecordOf(Session session, string path, string workflowId, ulong sequence)
    {
        using var stream = Inputs.Open(path);
        using var reader = new ExportReader(stream);
        var assembly = new SnapshotAssembly();
        // A snapshot comes before the first record that carries it, of all of one workflow.
        var snapshots = new Dictionary<Core.Hash, byte[]>();
        var isOfIt = false;
        try
        {
            while (reader.Read() is { } chunk)
            {
                if (chunk.Workflow is { } workflow)
                    isOfIt = workflow.WorkflowId == workflowId && workflow.Namespace == session.Namespace;
                else if (isOfIt && chunk.Snapshot is { } part && assembly.Add(part) is { } whole)
                    snapshots[whole.Sha256] = whole.Content;
                else if (isOfIt && chunk.Record?.Record is { } record && record.Sequence == sequence)
                    return (record, SnapshotOf(record, snapshots));
            }
        }
        catch (FormatException e)
        {
            throw new UsageException($"{path} cannot be read as an export: {e.Message}.");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UsageException(e.Message);
        }
        throw new UsageException($"{path} has no record {sequence} of {session.Namespace}/{workflowId}.");
    }

    private static Pb.Snapshot? SnapshotOf(Pb.Record record, Dictionary<Core.Hash, byte[]> snapshots) =>
        record.SnapshotSha256.Length == Core.Hash.Size && snapshots.TryGetValue(new Core.Hash(record.SnapshotSha256.Span), out var content)
            ? new Pb.Snapshot
            {
                ContentType = record.SnapshotContentType,
                Content = UnsafeByteOperations.UnsafeWrap(content),
                Sha256 = record.SnapshotSha256,
            }
            : null;

    /// <summary>Who acts and why, as the log's own history keeps it.</summary>
    private sealed class ActOptions
    {
        public Option<string> Actor { get; } = new("--actor") { Description = "Who decides it.", HelpName = "NAME", Required = true };
        public Option<string> Reason { get; } = new("--reason") { Description = "Why.", HelpName = "TEXT", Required = true };
        public Symbol[] All => [Actor, Reason];
    }
}
