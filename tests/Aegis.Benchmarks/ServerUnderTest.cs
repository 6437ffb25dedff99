using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;
using Aegis.Tests;
using Grpc.Health.V1;
using Grpc.Net.Client;

namespace Aegis.Benchmarks;

/// <summary>A server as it was built, in a process of its own.</summary>
internal sealed class ServerUnderTest : IAsyncDisposable
{
    private readonly TemporaryDirectory _directory;
    private readonly Process _process;
    private readonly string _database;
    private readonly bool _ownsDatabase;

    private ServerUnderTest(TemporaryDirectory directory, Process process, string database, bool ownsDatabase, string address)
    {
        (_directory, _process, _database, _ownsDatabase) = (directory, process, database, ownsDatabase);
        Address = address;
        // It is called from before it listens, and tried again at once: not after the second that a client otherwise waits.
        Channel = GrpcChannel.ForAddress(address, new GrpcChannelOptions { InitialReconnectBackoff = TimeSpan.FromMilliseconds(1) });
    }

    private static readonly Lazy<Task<string>> Published = new(PublishAsync);

    /// <summary>The server of this build.</summary>
    public static string ThisBuild { get; } = Told("ServerAssembly");

    /// <summary>The server as it is deployed: published for this machine. Gone with the temporary directories.</summary>
    public static Task<string> ReleasedAsync() => Published.Value;

    /// <summary>The file of this project, beside which its other sources are.</summary>
    public static string ProjectFile { get; } = Told("ProjectFile");

    public GrpcChannel Channel { get; }

    public string Address { get; }

    /// <summary>How long it took until it told that it takes writes.</summary>
    public TimeSpan Startup { get; private set; }

    public int Pid => _process.Id;

    /// <summary>Where its signing key is, for another server on the same log.</summary>
    public string KeyFile => Path.Combine(_directory.Path, "signing-key.pem");

    /// <summary>Starts on a new database, which is dropped afterwards.</summary>
    public static async Task<ServerUnderTest> StartAsync(string assembly, bool sqlite)
    {
        var directory = new TemporaryDirectory("server");
        var database = sqlite ? $"sqlite:{Path.Combine(directory.Path, "aegis.db")}" : await PostgresCluster.CreateDatabaseAsync();
        return await StartAsync(assembly, directory, database, ownsDatabase: !sqlite, []);
    }

    /// <summary>Starts on a database that is there.</summary>
    public static Task<ServerUnderTest> StartOnAsync(string assembly, string database, params (string Name, string Value)[] settings) =>
        StartAsync(assembly, new TemporaryDirectory("server"), database, ownsDatabase: false, settings);

    /// <summary>Starts the service as most would write it.</summary>
    public static Task<ServerUnderTest> StartNaiveAsync(string database) =>
        StartAsync(Told("NaiveAssembly"), new TemporaryDirectory("naive"), database, ownsDatabase: false,
            [("NAIVE_DATABASE", database)]);

    /// <summary>Has it stand still, or go on.</summary>
    public Task SendAsync(Signal signal) => _process.SendAsync(signal);

    public async ValueTask DisposeAsync()
    {
        Channel.Dispose();
        _process.Kill();
        await _process.WaitForExitAsync();
        _process.Dispose();
        if (_ownsDatabase)
            await PostgresCluster.DropDatabaseAsync(_database);
        _directory.Dispose();
    }

    private static async Task<string> PublishAsync()
    {
        var project = Path.GetFullPath("../../src/Aegis.Server/Aegis.Server.csproj", Path.GetDirectoryName(ProjectFile)!);
        var output = new TemporaryDirectory("released").Path;
        await ChildProcess.RunAsync("dotnet", "publish", project, "-c", "Release", "-r", RuntimeInformation.RuntimeIdentifier,
            "--no-self-contained", "-o", output, "-v", "quiet");
        return Path.Combine(output, Path.GetFileName(ThisBuild));
    }

    private static string Told(string what) => typeof(ServerUnderTest).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>()
        .Single(a => a.Key == what).Value!;

    private static async Task<ServerUnderTest> StartAsync(string assembly, TemporaryDirectory directory, string database,
        bool ownsDatabase, (string Name, string Value)[] settings)
    {
        var address = $"http://127.0.0.1:{FreePort.Next()}";
        var start = new ProcessStartInfo("dotnet", [assembly, "--urls", address])
        {
            WorkingDirectory = directory.Path,
            RedirectStandardOutput = true,
            Environment = { ["AEGIS_DATABASE"] = database, ["AEGIS_DATA_DIR"] = directory.Path },
        };
        foreach (var (name, value) in settings)
            start.Environment[name] = value;
        var watch = Stopwatch.StartNew();
        var process = Process.Start(start)!;
        process.OutputDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        var server = new ServerUnderTest(directory, process, database, ownsDatabase, address);
        await server.UntilServingAsync();
        server.Startup = watch.Elapsed;
        return server;
    }

    private async Task UntilServingAsync()
    {
        var health = new Health.HealthClient(Channel);
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                var reply = await health.CheckAsync(new HealthCheckRequest { Service = "aegis.writes" });
                if (reply.Status == HealthCheckResponse.Types.ServingStatus.Serving)
                    return;
            }
            catch (Grpc.Core.RpcException) when (attempt < 1000 && !_process.HasExited)
            {
                // Not listening yet.
            }
            await Task.Delay(10);
        }
    }
}
