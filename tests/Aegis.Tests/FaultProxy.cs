using System.Diagnostics;

namespace Aegis.Tests;

/// <summary>The fault proxy in a process of its own, in front of a server.</summary>
internal sealed class FaultProxy : IAsyncDisposable
{
    private const string Greeting = "listening on ";
    private readonly TemporaryDirectory _directory = new("proxy");
    private readonly SemaphoreSlim _oneAtATime = new(1);
    private readonly Process _process;

    private FaultProxy(string target)
        => _process = Process.Start(new ProcessStartInfo(ServerProcess.Host(), [ServerProcess.Assembly("FaultProxyAssembly"), target])
        {
            WorkingDirectory = _directory.Path,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        })!;

    /// <summary>Where it listens.</summary>
    public string Address { get; private set; } = "";

    public static async Task<FaultProxy> StartAsync(string target)
    {
        var proxy = new FaultProxy(target);
        try
        {
            var line = await proxy.ReadLineAsync();
            Assert.That(line, Does.StartWith(Greeting));
            proxy.Address = line[Greeting.Length..];
            return proxy;
        }
        catch
        {
            await proxy.DisposeAsync();
            throw;
        }
    }

    /// <summary>Gives a command and returns the answer, whatever it is.</summary>
    public async Task<string> TellAsync(string command)
    {
        await _oneAtATime.WaitAsync();
        try
        {
            await _process.StandardInput.WriteLineAsync(command);
            await _process.StandardInput.FlushAsync();
            return await ReadLineAsync();
        }
        finally
        {
            _oneAtATime.Release();
        }
    }

    /// <summary>Gives a command that has to be obeyed.</summary>
    public async Task OrderAsync(string command) => Assert.That(await TellAsync(command), Is.EqualTo("ok"), command);

    /// <summary>Ends its standard input and waits for its end.</summary>
    public async Task<int> EndAsync()
    {
        _process.StandardInput.Close();
        await _process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(30));
        return _process.ExitCode;
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            await _process.WaitForExitAsync();
        }

        _process.Dispose();
        _oneAtATime.Dispose();
        _directory.Dispose();
    }

    private async Task<string> ReadLineAsync()
        => await _process.StandardOutput.ReadLineAsync().WaitAsync(TimeSpan.FromSeconds(60))
            ?? throw new InvalidOperationException($"The proxy ended with {_process.ExitCode}.");
}
