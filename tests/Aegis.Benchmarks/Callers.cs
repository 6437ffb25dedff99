using System.Diagnostics;
using System.Text.Json;
using Aegis.Tests;

namespace Aegis.Benchmarks;

/// <summary>
/// The callers, in a process of their own that stays warm: an order comes as a line of JSON, and two lines answer, one when counting
/// begins and one with what was counted.
/// </summary>
internal sealed class Callers : IAsyncDisposable
{
    private const string Counting = "counting";

    private readonly TemporaryDirectory _directory = new("callers");
    private readonly Process _process;

    public Callers()
    {
        _process = Process.Start(new ProcessStartInfo("dotnet", [typeof(Callers).Assembly.Location, "callers"])
        {
            WorkingDirectory = _directory.Path,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        })!;
    }

    public int Pid => _process.Id;

    /// <param name="onCounting">Called when counting begins.</param>
    public async Task<LoadResult> RunAsync(LoadOrder order, Action? onCounting = null)
    {
        await _process.StandardInput.WriteLineAsync(JsonSerializer.Serialize(order));
        await _process.StandardInput.FlushAsync();
        if (await LineAsync() == Counting)
            onCounting?.Invoke();
        return JsonSerializer.Deserialize<LoadResult>(await LineAsync())!;

        async Task<string> LineAsync() => await _process.StandardOutput.ReadLineAsync()
            ?? throw new InvalidOperationException("The callers ended; what they met is above.");
    }

    /// <summary>What the process of the callers does.</summary>
    public static async Task ObeyAsync()
    {
        while (await Console.In.ReadLineAsync() is { } line)
        {
            using var load = new Load(JsonSerializer.Deserialize<LoadOrder>(line)!);
            var result = await load.RunAsync(() => Console.WriteLine(Counting));
            Console.WriteLine(JsonSerializer.Serialize(result));
        }
    }

    public async ValueTask DisposeAsync()
    {
        _process.StandardInput.Close();
        await _process.WaitForExitAsync();
        _process.Dispose();
        _directory.Dispose();
    }
}
