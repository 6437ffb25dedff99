using System.CommandLine;
using Aegis.Cli;

return await AegisCommand.RunAsync(args, Console.Out, Console.Error);

namespace Aegis.Cli
{
    /// <summary>The command `aegis`: everything an operator does with a running service, from a shell.</summary>
    public static class AegisCommand
    {
        /// <summary>Runs one command line.</summary>
        /// <returns>One of <see cref="ExitCode"/>.</returns>
        public static async Task<int> RunAsync(string[] args, TextWriter stdout, TextWriter stderr)
        {
            var root = new RootCommand("Records, resumes, checks and moves workflows of an Aegis service.\n\n" + ExitCode.Help)
            {
                GlobalOptions.Server,
                GlobalOptions.Namespace,
                GlobalOptions.Json,
                GlobalOptions.Timeout,
                StatusCommands.Health(),
                StatusCommands.Info(),
                ReadCommands.List(),
                ReadCommands.Count(),
                ReadCommands.Show(),
                WriteCommands.Start(),
                WriteCommands.Transition(),
                WriteCommands.Checkpoint(),
                ResumeCommand.Create(),
                VerifyCommand.Create(),
                TransferCommands.Export(),
                TransferCommands.Import(),
                WatchCommand.Create(),
                LoadCommand.Create(),
            };
            var parsed = root.Parse(args);
            if (parsed.Errors.Count > 0)
            {
                foreach (var error in parsed.Errors)
                    await stderr.WriteLineAsync($"aegis: {error.Message}");
                return ExitCode.Usage;
            }
            var configuration = new InvocationConfiguration
            {
                Output = stdout,
                Error = stderr,
                EnableDefaultExceptionHandler = false,
            };
            return await parsed.InvokeAsync(configuration);
        }
    }
}
