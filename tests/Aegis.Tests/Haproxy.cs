using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Grpc.Net.Client;

namespace Aegis.Tests;

/// <summary>HAProxy in front of two servers, with the configuration that operators get, on ports of its own.</summary>
internal sealed class Haproxy : IAsyncDisposable
{
    public const string Configuration = "clients/haproxy.cfg";

    private static readonly HttpClient Http = new();
    private readonly TemporaryDirectory _directory = new("haproxy");
    private readonly ConcurrentQueue<string> _lines = new();
    private readonly int _port = FreePort.Next();
    private readonly int _statisticsPort = FreePort.Next();
    private Process? _process;

    private Haproxy()
    {
    }

    public string Address => $"http://127.0.0.1:{_port}";

    /// <summary>What it wrote, such as which server came and went, and why.</summary>
    public string Output => string.Join(Environment.NewLine, _lines);

    /// <summary>Where it is installed. Where it is not the test ends here.</summary>
    public static string Program()
    {
        var program = Installed.Find("haproxy", "/usr/sbin", "/usr/local/sbin");
        if (program is null)
        {
            Installed.Missing("HAProxy is not installed (Debian: apt-get install haproxy).");
        }

        return program!;
    }

    /// <summary>Starts it and waits until it has found both servers well, for calls.</summary>
    public static async Task<Haproxy> StartAsync(ServerProcess first, ServerProcess second)
    {
        var haproxy = new Haproxy();
        try
        {
            var file = Path.Combine(haproxy._directory.Path, "haproxy.cfg");
            await File.WriteAllTextAsync(file, haproxy.Configure(first.Port, second.Port));
            haproxy.Launch(file);
            await Until.TrueAsync(async () => haproxy._process!.HasExited || (await haproxy.CheckedAsync("calls")));
            Assert.That(haproxy._process!.HasExited, Is.False, () => haproxy.Output);
            return haproxy;
        }
        catch
        {
            await haproxy.DisposeAsync();
            throw;
        }
    }

    /// <summary>A connection of its own through it.</summary>
    public GrpcChannel Connect() => GrpcChannel.ForAddress(Address);

    /// <summary>What it tells of a server in a backend.</summary>
    public async Task<ServerStatistics> LookAsync(string backend, string server)
    {
        var lines = (await Http.GetStringAsync($"http://127.0.0.1:{_statisticsPort}/;csv")).Split('\n');
        var names = lines[0].TrimStart('#', ' ').Split(',');
        var values = lines.Single(line => line.StartsWith($"{backend},{server},", StringComparison.Ordinal)).Split(',');
        string Value(string name) => values[Array.IndexOf(names, name)];
        return new ServerStatistics(
            Value("status"), Value("check_status"), Number(Value("scur")), Number(Value("stot")));
    }

    /// <summary>Waits until a server is in or out of the rotation, in every backend.</summary>
    public async Task UntilAsync(string server, bool isUp)
    {
        foreach (var backend in new[] { "writes", "calls" })
        {
            // "UP 1/3" is a server that is about to go down.
            await Until.TrueAsync(async () =>
                (await LookAsync(backend, server)).Status.StartsWith(isUp ? "UP" : "DOWN", StringComparison.Ordinal));
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (_process is { HasExited: false })
        {
            _process.Kill();
            await _process.WaitForExitAsync();
        }

        _process?.Dispose();
        _directory.Dispose();
    }

    private static int Number(string text) => int.Parse(text, CultureInfo.InvariantCulture);

    private async Task<bool> CheckedAsync(string backend)
    {
        try
        {
            return (await LookAsync(backend, "aegis-1")).Check == "L7OK" && (await LookAsync(backend, "aegis-2")).Check == "L7OK";
        }
        catch (HttpRequestException)
        {
            // It does not listen yet.
            return false;
        }
    }

    private string Configure(int firstPort, int secondPort)
    {
        var text = File.ReadAllText(Repository.PathOf(Configuration));
        foreach (var (shown, port) in new[] { (50050, _port), (50051, firstPort), (50052, secondPort), (8404, _statisticsPort) })
        {
            Assert.That(text, Does.Contain($"127.0.0.1:{shown}"));
            text = text.Replace($"127.0.0.1:{shown}", $"127.0.0.1:{port}", StringComparison.Ordinal);
        }

        return text;
    }

    private void Launch(string file)
    {
        // -db: in the foreground, the process that is started is the one that works.
        _process = Process.Start(new ProcessStartInfo(Program(), ["-db", "-f", file])
        {
            WorkingDirectory = _directory.Path,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        _process.OutputDataReceived += Keep;
        _process.ErrorDataReceived += Keep;
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
        _process.StandardInput.Close();
    }

    private void Keep(object sender, DataReceivedEventArgs line)
    {
        if (line.Data is not null)
        {
            _lines.Enqueue(line.Data);
        }
    }
}

/// <summary>What HAProxy tells of a server.</summary>
/// <param name="Status">UP or DOWN; "UP 1/3" on the way from one to the other.</param>
/// <param name="Check">The result of the last health check.</param>
/// <param name="Running">How many calls it has now.</param>
/// <param name="Calls">How many calls it had in all.</param>
internal sealed record ServerStatistics(string Status, string Check, int Running, int Calls);
