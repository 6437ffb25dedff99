using Aegis.Core;
using Aegis.Evidence;

namespace Aegis.Cli;

/// <summary>Verifies an export without a server.</summary>
internal static class VerifyFile
{
    /// <returns>0 for intact and proven, or intact and allowed to be unproven; 1 where something is wrong.</returns>
    /// <exception cref="UsageException">It cannot be read, or nothing proves it.</exception>
    public static int Run(Session session, string path, IReadOnlyCollection<VerifierKey> keys, bool isUnprovenAllowed)
    {
        var report = Read(session, path, keys);
        var findings = report.Findings.OrderBy(f => f.Violation.Key == ExportReport.Whole ? 0 : 1).ToList();
        session.Output.Object(new
        {
            file = path,
            intact = report.IsIntact,
            proven = report.IsProven,
            log_id = report.Head?.LogId ?? report.Manifest.LogId,
            log_size = report.Head?.Size ?? (long)report.Manifest.LogSize,
            root = report.Head?.Root.ToString() ?? "",
            signed_by = report.SignedBy?.ToString() ?? "",
            workflows = report.Workflows.Count,
            records = report.Records,
            snapshots = report.Snapshots,
            violations = findings.Select(f => ToJson(f.Violation)).ToList(),
        });
        if (findings.Count > 0)
            return Tell(session.Output, path, findings);
        var content = $"{report.Workflows.Count} workflows, {report.Records} records, {report.Snapshots} snapshots";
        session.Output.Line($"{path} is intact{(report.IsProven ? " and proven" : "")}: {content}");
        if (report.Head is { } head)
            session.Output.Line($"  the log {head.LogId} at size {head.Size}, root {head.Root}");
        if (report.SignedBy is { } key)
            session.Output.Line($"  signed by {key}");
        if (report.IsProven)
            return ExitCode.Success;
        session.Output.Line("  not proven: that any log ever held these records, that these are all of each workflow, and by whom "
            + "they were signed");
        foreach (var said in report.Manifest.VerifierKeys)
            session.Output.Line($"  the file names as its key, which proves nothing: {said}");
        return isUnprovenAllowed
            ? ExitCode.Success
            : throw new UsageException($"{path} agrees with itself, and nothing proves it: give the log's verifier key with --key, or "
                + "--unproven if that is enough.");
    }

    private static ExportReport Read(Session session, string path, IReadOnlyCollection<VerifierKey> keys)
    {
        using var stream = Inputs.Open(path);
        using var reader = new ExportReader(stream);
        try
        {
            return ExportCheck.Read(reader, keys, session.Cancellation);
        }
        catch (FormatException e)
        {
            throw new UsageException($"{path} cannot be read as an export: {e.Message}.");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UsageException(e.Message);
        }
    }

    private static int Tell(Output output, string path, List<ExportFinding> findings)
    {
        output.Line($"{path} is not as it was exported: {findings.Count} {(findings.Count == 1 ? "violation" : "violations")}");
        foreach (var violation in findings.Select(f => f.Violation))
        {
            var place = violation.Key == ExportReport.Whole ? "the export"
                : violation.Sequence == 0 ? $"{violation.Key}"
                : $"{violation.Key} record {violation.Sequence}";
            output.Line($"  {place}: {Output.Name(violation.Class)}: {violation.Message}");
            foreach (var difference in violation.Differences.Where(d => d.Original is not null || d.Found is not null))
            {
                output.Line($"    {difference.Field} was {(difference.Original is { } was ? $"\"{was}\"" : "unknown")}, "
                    + $"is {(difference.Found is { } found ? $"\"{found}\"" : "gone")}");
            }
        }
        return ExitCode.Failed;
    }

    private static object ToJson(Violation violation) => new
    {
        @class = Output.Name(violation.Class),
        @namespace = violation.Key.Namespace,
        workflow_id = violation.Key.WorkflowId,
        sequence = violation.Sequence,
        log_index = violation.LogIndex,
        message = violation.Message,
        expected_hash = violation.ExpectedHash?.ToString(),
        actual_hash = violation.ActualHash?.ToString(),
        differences = violation.Differences.Select(d => new { field = d.Field, original = d.Original, found = d.Found }).ToList(),
    };
}
