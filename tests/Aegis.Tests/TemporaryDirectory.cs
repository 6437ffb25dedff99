using System.Diagnostics;

namespace Aegis.Tests;

/// <summary>
/// A directory for one test or helper, removed when disposed.
/// </summary>
/// <remarks>
/// All of them lie in one directory of the test run, and whatever the tests start runs with its working
/// directory in one of them. So a watchdog outside the test host can end it all and remove it all once the
/// test host is gone, however it went: it holds the read end of a pipe that only the test host can write to.
/// </remarks>
internal sealed class TemporaryDirectory : IDisposable
{
    private const string WatchdogScript = """
        trap '' INT TERM HUP
        exec >/dev/null 2>&1
        cat
        round=0
        while [ $round -lt 50 ]; do
            round=$((round + 1))
            left=
            for process in /proc/[0-9]*; do
                case "$(readlink "$process/cwd")" in
                    "$0"/*) left=1; kill -KILL "${process#/proc/}" ;;
                esac
            done
            [ -z "$left" ] && break
            sleep 0.1
        done
        rm -rf "$0"
        """;

    private static readonly Lazy<string> Run = new(CreateRun);
    private static Process? _watchdog;
    private static int _count;

    /// <param name="name">What it is for; shows in its path.</param>
    public TemporaryDirectory(string name = "test")
    {
        Path = System.IO.Path.Combine(Run.Value, $"{name}-{Interlocked.Increment(ref _count)}");
        Create(Path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
    }

    public string Path { get; }

    public void Dispose() => Remove(Path);

    /// <summary>Removes the directory of the run, with all that is left in it. The watchdog does it again, later.</summary>
    public static void RemoveAll()
    {
        if (Run.IsValueCreated)
        {
            Remove(Run.Value);
        }
    }

    private static string CreateRun()
    {
        var path = System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"aegis-tests-{Environment.ProcessId}-{Guid.NewGuid():N}");
        // Others may pass through, since PostgreSQL does not run as root; they cannot list it.
        Create(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute
            | UnixFileMode.GroupExecute | UnixFileMode.OtherExecute);
        if (OperatingSystem.IsLinux())
        {
            // In a session of its own: what ends the test host's process group must not end its watchdog.
            _watchdog = Process.Start(new ProcessStartInfo("setsid", ["sh", "-c", WatchdogScript, path])
            {
                RedirectStandardInput = true,
                WorkingDirectory = "/",
            });
        }

        return path;
    }

    private static void Create(string path, UnixFileMode mode)
    {
        Directory.CreateDirectory(path);
        if (!OperatingSystem.IsWindows())
        {
            File.SetUnixFileMode(path, mode);
        }
    }

    private static void Remove(string path)
    {
        // A process that was just killed may still write its last file.
        for (var attempt = 1; Directory.Exists(path); attempt++)
        {
            try
            {
                Directory.Delete(path, recursive: true);
            }
            catch (Exception e) when (attempt < 20 && e is IOException or UnauthorizedAccessException)
            {
                Thread.Sleep(50);
            }
        }
    }
}
