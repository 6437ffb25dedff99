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
            _repairs.Add(repair);
        LogId = command.NewLogId ?? LogId;
        return new LogActed(AppendToLogHistory(command.Act, command.Parts));
    }

    private Refusal? Apply(ViolationChange change)
    {
        // A repair may be of what nothing was found about; recording or releasing has to concern something.
        if (change.Fate != ViolationFate.Repaired && !change.Keys.Any(IsConcerned))
        {
            return new Refusal(Reason.WorkflowNotFound, $"No open violation of {change.Keys[0]} is there to act upon.",
                Refusal.Of(change.Keys[0]));
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
