using Aegis.Core;

namespace Aegis.Client;

/// <summary>
/// What came from the server does not fit what it proves, or what was proven before. It was not given out, and is never tried
/// again: tell somebody who has no part in running the log.
/// </summary>
public class IntegrityException : Exception
{
    internal IntegrityException(string reason, string message, IReadOnlyList<Violation>? violations = null)
        : base(message)
        => (Reason, Violations) = (reason, violations ?? []);

    /// <summary>
    /// What does not fit: <c>RECORD</c>, <c>SNAPSHOT</c>, <c>RECEIPT</c>, <c>SIGNATURE_INVALID</c>, <c>INCLUSION_PATH</c>,
    /// <c>CONSISTENCY_PATH</c>, <c>ANSWER</c> (of another workflow, or not what was sent), or one of <see cref="LogAlarmException"/>.
    /// </summary>
    public string Reason { get; }

    /// <summary>The findings in a chain; empty where it is no matter of a chain.</summary>
    public IReadOnlyList<Violation> Violations { get; }
}

/// <summary>
/// The log is not the one that was followed: it was taken back (<c>LOG_ROLLED_BACK</c>), rewritten (<c>LOG_FORKED</c>), or is
/// another (<c>LOG_ID_CHANGED</c>). The client makes no more calls. The two signed notes contradict each other and are evidence.
/// </summary>
public sealed class LogAlarmException : IntegrityException
{
    internal LogAlarmException(string reason, string message, string? keptNote, string newNote)
        : base(reason, message)
        => (KeptNote, NewNote) = (keptNote, newNote);

    /// <summary>The head that was kept, a signed note; null where there was none.</summary>
    public string? KeptNote { get; }

    /// <summary>The head that came instead of a continuation, a signed note.</summary>
    public string NewNote { get; }
}
