namespace Aegis.Cli;

/// <summary>How a command ended, for scripts.</summary>
public static class ExitCode
{
    public const int Success = 0;

    /// <summary>
    /// The service refused or failed the request, an export was altered, a head is not continued, or something else went wrong.
    /// </summary>
    public const int Failed = 1;

    /// <summary>Wrong usage, or an input file that cannot be read.</summary>
    public const int Usage = 2;

    public const int NotFound = 3;

    /// <summary>The workflow is elsewhere, exists, is closed or leased.</summary>
    public const int Conflict = 4;

    /// <summary>Verification found something, a health name does not serve, or data is lost.</summary>
    public const int Violation = 5;

    /// <summary>The server cannot be reached, or not in time.</summary>
    public const int Unavailable = 6;

    public const int Interrupted = 130;

    /// <summary>The reader of standard output has gone, as shells tell it of commands that a SIGPIPE ended.</summary>
    public const int OutputClosed = 141;

    public const string Help = """
        Exit codes:
          0    done
          1    the service refused or failed the request; an export was altered; a head or a backup is not continued
          2    wrong usage, a program that is missing, or an input file that cannot be read or that no key proves
          3    not found
          4    conflict: the workflow is elsewhere, exists, is closed or leased
          5    verification or health found something, or data is lost
          6    the server or the database cannot be reached, or not in time
          130  interrupted
          141  standard output was closed by its reader

        Errors are one line on standard error; with --json an object
        {"error":{"code","reason","message","metadata"}}.
        """;
}
