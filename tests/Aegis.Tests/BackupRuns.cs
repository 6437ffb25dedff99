using Aegis.Cli;
using Aegis.Core;
using Grpc.Core;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>`aegis backup` beside a server, and writes meanwhile.</summary>
internal static class BackupRuns
{
    public static Task<(int Code, string Output, string Error)> RunAsync(TestServer server, params IEnumerable<string> args) =>
        RunAsync(server.Address, args);

    public static async Task<(int Code, string Output, string Error)> RunAsync(string server, params IEnumerable<string> args)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        var code = await AegisCommand.RunAsync(["--server", server, .. args], output, error);
        return (code, output.ToString(), error.ToString());
    }

    public static async Task<(int Code, string Output, string Error)> CreateAsync(TestServer server, string to, params IEnumerable<string> args) =>
        await RunAsync(server, ["backup", "create", "--to", to, "--database", server.Connection, "--key", await KeyAsync(server), .. args]);

    public static async Task<(int Code, string Output, string Error)> ProveAsync(TestServer server, params IEnumerable<string> args) =>
        await RunAsync(server, ["backup", "prove", "--key", await KeyAsync(server), .. args]);

    /// <summary>The key of a server's log, from the key's file.</summary>
    public static async Task<string> KeyAsync(TestServer server) => SharedKey.Key.VerifierKey(
        LogName.Split((await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).LogId).Base).ToString();

    public static async Task WriteAsync(TestServer server, string name, int count)
    {
        for (var i = 0; i < count; i++)
        {
            var start = Given.Start($"{name} {i}");
            start.Snapshot = Given.Snapshot($"{{\"number\": {i}}}");
            await server.Workflows.StartWorkflowAsync(start);
        }
    }

    /// <summary>Writes until it is told to end, and gives how often.</summary>
    public static async Task<int> WriteUntilAsync(TestServer server, CancellationToken ending)
    {
        for (var i = 0; ; i++)
        {
            if (ending.IsCancellationRequested)
                return i;
            await server.Workflows.StartWorkflowAsync(Given.Start($"meanwhile {i}"), cancellationToken: CancellationToken.None);
        }
    }

    /// <summary>Puts an archive of pg_dump into an empty database.</summary>
    public static async Task LoadAsync(string database, string archive)
    {
        var settings = new NpgsqlConnectionStringBuilder(database);
        await ChildProcess.RunAsync(PostgresBinaries.Find()!.PathOf("pg_restore"), "--no-owner", "--exit-on-error", "-h", settings.Host!,
            "-p", $"{settings.Port}", "-U", settings.Username!, "-d", settings.Database!, archive);
    }
}
