using System.Collections.Concurrent;
using System.Diagnostics;
using System.Reflection;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;

namespace Aegis.Tests;

/// <summary>
/// The server as it was built, in a process of its own, for the tests that kill, freeze and restart it.
/// What does not need a process of its own is tested in this one, which is faster and easier to debug.
/// </summary>
internal sealed class ServerProcess : IAsyncDisposable
{
    /// <summary>The health service that says whether writes are taken.</summary>
    public const string Writes = "aegis.writes";

    private const int LinesKept = 2_000;
    private readonly TemporaryDirectory _directory = new("server");
    private readonly ConcurrentQueue<string> _lines = new();
    private readonly Dictionary<string, string> _environment;
    private Process? _process;

    private ServerProcess(string database, (string Name, string Value)[] environment)
    {
        _environment = environment.ToDictionary(variable => variable.Name, variable => variable.Value);
        _environment["AEGIS_DATABASE"] = database;
        _environment.TryAdd("AEGIS_DATA_DIR", _directory.Path);
        _environment.TryAdd("AEGIS_SIGNING_KEY", SharedKey.Path);
        // Without the wait of a second, which would be most of a recovery's time.
        Channel = GrpcChannel.ForAddress(Address, new GrpcChannelOptions
        {
            InitialReconnectBackoff = TimeSpan.FromMilliseconds(20),
        });
    }

    public int Port { get; } = FreePort.Next();

    public string Address => $"http://127.0.0.1:{Port}";

    /// <summary>A channel to it, with the limits that any client has by default. It outlives restarts.</summary>
    public GrpcChannel Channel { get; }

    /// <summary>Its AEGIS_DATA_DIR, unless the environment named another.</summary>
    public string DataDirectory => _environment["AEGIS_DATA_DIR"];

    public int Pid => Running.Id;

    public bool HasExited => Running.HasExited;

    /// <summary>The last lines it wrote, of all its lives.</summary>
    public string Output => string.Join(Environment.NewLine, _lines);

    private Process Running => _process ?? throw new InvalidOperationException("The server was not started.");

    /// <summary>Starts a server on a free port and waits until it takes writes.</summary>
    /// <param name="database">Its AEGIS_DATABASE.</param>
    /// <param name="environment">Further variables. Those of the tests that begin AEGIS_ are not passed on.</param>
    public static async Task<ServerProcess> StartAsync(
        string database, params (string Name, string Value)[] environment)
    {
        var server = Create(database, environment);
        try
        {
            await server.RestartAsync();
            return server;
        }
        catch
        {
            await server.DisposeAsync();
            throw;
        }
    }

    /// <summary>A server that is not started yet: <see cref="Launch"/> it and wait for whatever is expected of it.</summary>
    public static ServerProcess Create(string database, params (string Name, string Value)[] environment)
        => new(database, environment);

    /// <summary>Starts it, again after its end, and waits until it takes writes.</summary>
    /// <returns>How long that took.</returns>
    public async Task<TimeSpan> RestartAsync()
    {
        var watch = Stopwatch.StartNew();
        Launch();
        await UntilServingAsync();
        return watch.Elapsed;
    }

    /// <summary>Starts it without waiting for anything, on the same port and data after an end.</summary>
    /// <param name="urls">Where it listens, if not on <see cref="Address"/>.</param>
    public void Launch(string? urls = null)
    {
        if (_process is { HasExited: false })
        {
            throw new InvalidOperationException("The server is running.");
        }

        _process?.Dispose();
        _process = Process.Start(StartInfo(urls ?? Address))!;
        _process.OutputDataReceived += Keep;
        _process.ErrorDataReceived += Keep;
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
        _process.StandardInput.Close();
    }

    /// <summary>Waits until a health service is SERVING; fails with the server's output when it ends or takes too long.</summary>
    public async Task UntilServingAsync(string service = Writes, int timeoutSeconds = 60)
    {
        var health = new Health.HealthClient(Channel);
        var since = Stopwatch.StartNew();
        var last = "no answer";
        while (since.Elapsed < TimeSpan.FromSeconds(timeoutSeconds) && !HasExited)
        {
            try
            {
                var reply = await health.CheckAsync(
                    new HealthCheckRequest { Service = service }, deadline: DateTime.UtcNow.AddSeconds(2));
                if (reply.Status == HealthCheckResponse.Types.ServingStatus.Serving)
                {
                    return;
                }

                last = reply.Status.ToString();
            }
            catch (RpcException e)
            {
                last = e.Status.ToString();
            }

            await Task.Delay(25);
        }

        var end = HasExited ? $"it ended with {await ExitCodeAsync()}" : $"not so after {timeoutSeconds} s";
        throw new InvalidOperationException(
            $"The server is not SERVING {service}: {end}; last: {last}.{Environment.NewLine}{Output}");
    }

    /// <summary>SIGKILL, by its process id: no handler runs, nothing is closed. Done when it is gone.</summary>
    public async Task KillAsync()
    {
        Running.Kill();
        await ExitCodeAsync();
    }

    /// <summary>Sends a signal, such as a request to end, to freeze or to go on, and waits for nothing.</summary>
    public Task SendAsync(Signal signal) => Running.SendAsync(signal);

    /// <summary>Waits for its end.</summary>
    public async Task<int> ExitCodeAsync(int timeoutSeconds = 60)
    {
        await Running.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(timeoutSeconds));
        return Running.ExitCode;
    }

    public async ValueTask DisposeAsync()
    {
        if (_process is { HasExited: false })
        {
            await KillAsync();
        }

        _process?.Dispose();
        Channel.Dispose();
        _directory.Dispose();
    }

    /// <summary>Where a program was built: ServerAssembly or CliAssembly.</summary>
    public static string Assembly(string name)
        => typeof(ServerProcess).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>()
            .Single(attribute => attribute.Key == name).Value!;

    /// <summary>What runs a program.</summary>
    public static string Host()
        => Environment.GetEnvironmentVariable("DOTNET_HOST_PATH") is { Length: > 0 } host ? host
            : Path.GetFileNameWithoutExtension(Environment.ProcessPath) == "dotnet" ? Environment.ProcessPath!
            : "dotnet";

    private ProcessStartInfo StartInfo(string urls)
    {
        // Where it works is where the watchdog finds it.
        var start = new ProcessStartInfo(Host(), [Assembly("ServerAssembly"), "--urls", urls])
        {
            WorkingDirectory = _directory.Path,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (var name in start.Environment.Keys.Where(IsAboutServers).ToList())
        {
            start.Environment.Remove(name);
        }

        foreach (var (name, value) in _environment)
        {
            start.Environment[name] = value;
        }

        return start;
    }

    /// <summary>What the developer has set for a server of their own must not change those of the tests.</summary>
    private static bool IsAboutServers(string variable)
        => variable.StartsWith("AEGIS_", StringComparison.Ordinal)
            || variable.StartsWith("ASPNETCORE_", StringComparison.Ordinal)
            || variable.StartsWith("OTEL_", StringComparison.Ordinal);

    private void Keep(object sender, DataReceivedEventArgs line)
    {
        if (line.Data is not null)
        {
            _lines.Enqueue(line.Data);
            if (_lines.Count > LinesKept)
            {
                _lines.TryDequeue(out _);
            }
        }
    }
}
