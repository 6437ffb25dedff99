using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// That a workflow is quarantined is told once in the log's own history, by whichever server comes first.
public sealed partial class Findings
{
    private async Task RecordQuarantinesAsync(CancellationToken cancellationToken)
    {
        // A log that was rolled back takes nothing but an operator's acceptance: they wait for it.
        if (_known is not { } known || memory.RolledBack is not null)
            return;
        var unrecorded = known.ByWorkflow
            .Where(w => w.Key.Namespace.Length > 0 && w.Key != WorkflowKey.Log && w.Value.TrueForAll(v => v.RecordedAt == 0)
                && Limits.Problem(w.Key.Namespace, Limits.NameBytesMax) is null
                && Limits.Problem(w.Key.WorkflowId, Limits.NameBytesMax) is null)
            .Take(QuarantinesAtOnce)
            .ToList();
        if (unrecorded.Count == 0)
            return;
        await Task.WhenAll(unrecorded.Select(w => RecordAsync(w.Key, w.Value, cancellationToken)));
        // What was recorded now must not be looked at again as it was.
        await SyncAsync(cancellationToken);
    }

    private async Task RecordAsync(WorkflowKey key, List<FoundViolation> violations, CancellationToken cancellationToken)
    {
        var first = violations[^1].Violation;
        var parts = StoreMonitor.SystemParts(new Core.Metadata(
        [
            KeyValuePair.Create("namespace", key.Namespace),
            KeyValuePair.Create("workflow_id", key.WorkflowId),
            KeyValuePair.Create("class", first.Class.Name()),
            KeyValuePair.Create("sequence", Refusal.Text(first.Sequence)),
        ]));
        try
        {
            // Refused when another server was faster.
            await ledger.SubmitAsync(new LogActCommand(LogActCommand.Quarantined, parts)
            {
                Violations = new ViolationChange(ViolationFate.Recorded, [key], null, violations[0].Number),
            }, cancellationToken);
        }
        catch (RefusalException e)
        {
            logger.LogDebug(e, "The quarantine of {Workflow} is not recorded yet", key);
        }
    }
}
