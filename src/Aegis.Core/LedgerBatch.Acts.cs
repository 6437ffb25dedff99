namespace Aegis.Core;

// Acts upon the log itself: each leaves a record in the log's own history.
public sealed partial class LedgerBatch
{
    private Outcome Decide(LogActCommand command)
    {
        if (command.NewLogId is not null && LogSize != command.SurvivingSize)
        {
            return new Refused(new Refusal(Reason.SequenceMismatch,
                $"The log has {LogSize} records, and {command.SurvivingSize} were to survive: it moved meanwhile. Look again.",
                ("log_size", Refusal.Text(LogSize)), ("surviving_size", Refusal.Text(command.SurvivingSize))));
        }
        if (command.Violations is { } change && Apply(change) is { } refusal)
            return new Refused(refusal);
        if (command.Repair is { } repair)
            return Decide(command, repair);
        LogId = command.NewLogId ?? LogId;
        return new LogActed(AppendToLogHistory(command.Act, command.Parts));
    }

    /// <summary>
    /// A repair was worked out before the lock was held. Nothing has moved since: its workflow is closed to writes by an open
    /// violation, or nothing of it is left and one of the log tells so, as must be seen here. The log's own history never is, and where its head is repaired the act itself goes on from the right one.
    /// </summary>
    private Outcome Decide(LogActCommand command, Repair repair)
    {
        if (repair.Key != WorkflowKey.Log)
        {
            if (CheckQuarantine(repair.Key) is null && command.Violations?.Keys.Any(_quarantines.ContainsKey) != true)
            {
                return new Refused(Refusal.Invalid("workflow_id",
                    "has no open violation any more: somebody else repaired or released it"));
            }
            _repairs.Add(repair);
            return new LogActed(AppendToLogHistory(command.Act, command.Parts));
        }
        if (repair.Head is null)
        {
            _repairs.Add(repair);
            return new LogActed(AppendToLogHistory(command.Act, command.Parts));
        }
        _workflows[WorkflowKey.Log] = repair.Head;
        var record = AppendToLogHistory(command.Act, command.Parts);
        _repairs.Add(repair with { Head = _workflows[WorkflowKey.Log] });
        return new LogActed(record);
    }

    private static Refusal FoundMeanwhile(WorkflowKey key) => new(Reason.SequenceMismatch,
        $"Other violations of {(key == WorkflowKey.None ? "the log" : key.ToString())} are open than when this was worked out. "
        + "Look again.",
        Refusal.Of(key));

    private Refusal? Apply(ViolationChange change)
    {
        // A repair may be of what nothing was found about; recording or releasing has to concern something.
        if (change.Fate != ViolationFate.Repaired && !change.Keys.Any(IsConcerned))
        {
            return new Refusal(Reason.WorkflowNotFound, $"No open violation of {change.Keys[0]} is there to act upon.",
                Refusal.Of(change.Keys[0]));
        }
        foreach (var seen in change.Seen)
        {
            var open = _state.Quarantines.FirstOrDefault(q => q.Key == seen.Key)?.Open ?? new OpenOf(seen.Key, 0, 0);
            if (open != seen)
                return FoundMeanwhile(seen.Key);
        }
        foreach (var key in change.Keys.Where(_quarantines.ContainsKey))
        {
            if (change.Fate == ViolationFate.Recorded)
                _quarantines[key] = true;
        }
        _violationChanges.Add(change);
        return null;

        bool IsConcerned(WorkflowKey key) =>
            _quarantines.TryGetValue(key, out var isRecorded) && (change.Fate != ViolationFate.Recorded || !isRecorded);
    }
}
