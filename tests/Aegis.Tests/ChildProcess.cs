using System.Diagnostics;

namespace Aegis.Tests;

/// <summary>What a test may send to a process it started.</summary>
internal enum Signal
{
    Interrupt,
    Quit,
    Terminate,
    Stop,
    Continue,
    Kill,
}

/// <summary>The few things the tests do to processes beyond starting them.</summary>
internal static class ChildProcess
{
    /// <summary>Runs a command to its end; one that fails throws with what it printed.</summary>
    public static Task RunAsync(string command, params IEnumerable<string> arguments) =>
        OutputOfAsync(null, [], command, arguments);

    /// <summary>The same, and what it printed on standard output.</summary>
    /// <param name="directory">Where it runs; null = here.</param>
    /// <param name="environment">What its environment has besides this one's.</param>
    public static async Task<string> OutputOfAsync(string? directory, IEnumerable<(string Name, string Value)> environment,
        string command, params IEnumerable<string> arguments)
    {
        var start = new ProcessStartInfo(command, arguments)
        {
            WorkingDirectory = directory ?? "",
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        using var process = Process.Start(start)!;
        process.StandardInput.Close();
        var output = process.StandardOutput.ReadToEndAsync();
        var error = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        if (process.ExitCode != 0)
        {
            throw new InvalidOperationException(
                $"{command} ended with {process.ExitCode}:{Environment.NewLine}{await output}{await error}");
        }

        return await output;
    }

    /// <summary>Sends a signal by process id. The shell knows its number on every system.</summary>
    public static Task SendAsync(this Process process, Signal signal)
    {
        var name = signal switch
        {
            Signal.Interrupt => "INT",
            Signal.Quit => "QUIT",
            Signal.Terminate => "TERM",
            Signal.Stop => "STOP",
            Signal.Continue => "CONT",
            Signal.Kill => "KILL",
            _ => throw new ArgumentOutOfRangeException(nameof(signal)),
        };
        return RunAsync("sh", "-c", $"kill -s {name} {process.Id}");
    }
}
