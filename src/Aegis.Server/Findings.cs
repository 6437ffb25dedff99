using System.Collections.Concurrent;
using Aegis.Core;

namespace Aegis.Server;

/// <summary>
/// The workflows in which this server has found violations, by verification and by the checks that every read makes. A
/// workflow that verifies again is taken off.
/// </summary>
public sealed class Findings(ILogger<Findings> logger)
{
    private readonly ConcurrentDictionary<WorkflowKey, byte> _broken = [];

    /// <summary>Called when the first one is found, and when the last one is gone.</summary>
    public event Action? Changed;

    public bool IsClean => _broken.IsEmpty;

    public void Report(IReadOnlyList<Violation> violations)
    {
        foreach (var violation in violations)
        {
            if (_broken.TryAdd(violation.Key, 0))
            {
                logger.LogError("Violation {Class} in {Workflow} at sequence {Sequence}: {Message}",
                    violation.Class, violation.Key, violation.Sequence, violation.Message);
            }
        }
        Changed?.Invoke();
    }

    /// <summary>A complete verification found nothing.</summary>
    public void Clear(WorkflowKey key)
    {
        if (_broken.TryRemove(key, out _))
        {
            logger.LogInformation("{Workflow} verifies again", key);
            Changed?.Invoke();
        }
    }
}
