using System.CommandLine;
using System.CommandLine.Invocation;
using System.CommandLine.Parsing;
using System.Text.RegularExpressions;

namespace Aegis.Cli;

/// <summary>The command `aegis`: everything an operator does with a running service, from a shell.</summary>
public static partial class AegisCommand
{
    // Commands keep no state of a run, so one tree serves all.
    private static readonly RootCommand Root = new(
        "Records, resumes, checks and moves workflows of an Aegis service.\n\n" + ExitCode.Help)
    {
        GlobalOptions.Server,
        GlobalOptions.Namespace,
        GlobalOptions.Json,
        GlobalOptions.Timeout,
        StatusCommands.Health(),
        StatusCommands.Info(),
        ListCommands.List(),
        ListCommands.Count(),
        ShowCommand.Create(),
        WriteCommands.Start(),
        WriteCommands.Transition(),
        WriteCommands.Checkpoint(),
        ResumeCommand.Create(),
        VerifyCommand.Create(),
        VerifyLogCommand.Create(),
        ViolationCommands.Violations(),
        ViolationCommands.Release(),
        ViolationCommands.Repair(),
        ExportCommand.Create(),
        ImportCommand.Create(),
        WatchCommand.Create(),
        HeadCommand.Create(),
        KeyCommand.Create(),
        RecoverCommand.Create(),
        BackupCommand.Create(),
        LoadCommand.Create(),
    };

    private static readonly TimeSpan TerminationTimeout = TimeSpan.FromSeconds(30);

    // An id or a state may begin with "@": it is no file to read arguments from.
    private static readonly ParserConfiguration Parser = new() { ResponseFileTokenReplacer = null };

    /// <summary>Runs one command line.</summary>
    /// <returns>One of <see cref="ExitCode"/>.</returns>
    public static async Task<int> RunAsync(string[] args, TextWriter stdout, TextWriter stderr)
    {
        var parsed = Root.Parse(args, Parser);
        if (parsed.Action is ParseErrorAction)
        {
            var command = NameOf(parsed.CommandResult);
            var problems = string.Join(" ", parsed.Errors.Select(e => NetType().Replace(e.Message, "")));
            return Fail(Failure.OfUsage($"{problems} See {command} --help."));
        }
        try
        {
            return await parsed.InvokeAsync(new InvocationConfiguration
            {
                Output = stdout,
                Error = stderr,
                EnableDefaultExceptionHandler = false,
                // A backup that is interrupted stops the server of its proof, and leaves nothing.
                ProcessTerminationTimeout = TerminationTimeout,
            });
        }
        catch (OutputException e)
        {
            return Fail(Failure.Of(e));
        }

        int Fail(Failure failure)
        {
            new Output(stdout, stderr, parsed.GetValue(GlobalOptions.Json)).Fail(failure);
            return failure.ExitCode;
        }
    }

    private static string NameOf(CommandResult result) => result.Command == Root
        ? "aegis"
        : $"{(result.Parent is CommandResult parent ? NameOf(parent) : "aegis")} {result.Command.Name}";

    /// <summary>What the parser says of a value, and no operator understands.</summary>
    [GeneratedRegex(@" as expected type '[^']*'")]
    private static partial Regex NetType();
}
