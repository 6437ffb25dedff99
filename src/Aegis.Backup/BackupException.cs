using Aegis.Core;

namespace Aegis.Backup;

/// <summary>What kind of trouble a backup is in: each asks for something else.</summary>
public enum BackupProblem
{
    /// <summary>What was asked for cannot be done so: a wrong path, a program that is missing, a key that proves nothing.</summary>
    Usage,

    /// <summary>It went wrong on the way: no room, a program that failed.</summary>
    Failed,

    /// <summary>The database cannot be reached.</summary>
    Unreachable,

    /// <summary>The backup is not what was recorded, or cannot be restored.</summary>
    Damaged,
}

/// <summary>A backup that was not taken, or is not proven; the message says what to do.</summary>
public sealed class BackupException(BackupProblem problem, string message, Exception? inner = null) : Exception(message, inner)
{
    public BackupProblem Problem => problem;

    /// <summary>What verification found, the first of it where there is much.</summary>
    public IReadOnlyList<Violation> Violations { get; init; } = [];
}
