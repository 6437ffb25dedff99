namespace Aegis.Core;

/// <summary>
/// Whether a finding was read before a repair that may have mended what it tells of. Such a finding says nothing of now: it has
/// to be looked at again before it is kept. Where a REPAIRED record does not tell enough, the answer is yes.
/// </summary>
public static class Overtaken
{
    /// <summary>
    /// In the metadata of a REPAIRED record: how many workflows besides the one it names had rows that were moved or taken away.
    /// </summary>
    public const string OtherWorkflows = "other_workflows";

    /// <param name="found">The finding.</param>
    /// <param name="repaired">The REPAIRED records of the log from the least <see cref="FoundViolation.ReadAt"/> on.</param>
    public static bool IsSo(FoundViolation found, IEnumerable<StoredRecord> repaired) =>
        repaired.Any(r => r.LogIndex >= found.ReadAt && MayConcern(r.Record, found.Violation));

    private static bool MayConcern(Record repaired, Violation violation)
    {
        if (repaired.Content?.Metadata is not { } told || told[OtherWorkflows] is not null)
            return true;
        if (violation.IsOfLog)
        {
            // Heads are never repaired.
            return violation.Class is not (ViolationClass.LogRolledBack or ViolationClass.LogForked or ViolationClass.SignatureInvalid);
        }
        if ((told["namespace"], told["workflow_id"]) == (violation.Key.Namespace, violation.Key.WorkflowId))
            return true;
        // The records of one batch prove one another: where one was wrong, its neighbours could not be told from it.
        return violation.LogIndex is { } index && told["log_indexes"] is { } indexes
            && indexes.Split(',').Any(i => !long.TryParse(i, out var at) || Math.Abs(at - index) <= Tile.Width);
    }
}
