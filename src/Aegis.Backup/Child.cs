using System.ComponentModel;
using System.Diagnostics;

namespace Aegis.Backup;

/// <summary>Runs a program to its end. Secrets reach it through its environment, never by its command line, which all can see.</summary>
internal static class Child
{
    private const int ErrorLinesMax = 8;

    /// <param name="program">Its path, or a name on PATH.</param>
    /// <param name="arguments">Its command line.</param>
    /// <param name="environment">What it is told besides this process's own environment; null takes a variable away.</param>
    /// <param name="output">Where its standard output goes; null for nowhere.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="BackupException">It cannot be run, or failed; the message has what it said.</exception>
    public static async Task RunAsync(string program, IEnumerable<string> arguments, IReadOnlyDictionary<string, string?> environment,
        Stream? output, CancellationToken cancellationToken)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (var (name, value) in environment)
            start.Environment[name] = value;
        using var process = Start(start);
        process.StandardInput.Close();
        var error = process.StandardError.ReadToEndAsync(CancellationToken.None);
        try
        {
            await process.StandardOutput.BaseStream.CopyToAsync(output ?? Stream.Null, cancellationToken);
            await process.WaitForExitAsync(cancellationToken);
        }
        catch
        {
            // Interrupted, or the disk is full: what it would still write is of no use.
            process.Kill(entireProcessTree: true);
            await process.WaitForExitAsync(CancellationToken.None);
            throw;
        }
        if (process.ExitCode != 0)
        {
            var lines = (await error).Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
            throw new BackupException(BackupProblem.Failed,
                $"{Path.GetFileName(program)} failed with {process.ExitCode}: {string.Join(" ", lines.Take(ErrorLinesMax))}");
        }
    }

    /// <summary>What a program prints.</summary>
    public static async Task<string> OutputOfAsync(string program, IEnumerable<string> arguments, CancellationToken cancellationToken)
    {
        using var output = new MemoryStream();
        await RunAsync(program, arguments, new Dictionary<string, string?>(), output, cancellationToken);
        return System.Text.Encoding.UTF8.GetString(output.ToArray());
    }

    public static Process Start(ProcessStartInfo start)
    {
        try
        {
            return Process.Start(start)!;
        }
        catch (Win32Exception e)
        {
            throw new BackupException(BackupProblem.Usage, $"{start.FileName} cannot be run: {e.Message}", e);
        }
    }
}
