using System.Diagnostics;
using Aegis.Server;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Configuration;

namespace Aegis.Client.Example;

/// <summary>The server of a story: the one at an address, or one in this process over a directory that is gone at the end.</summary>
internal sealed class Server : IAsyncDisposable
{
    private readonly WebApplication? _app;
    private readonly string _directory = "";

    private Server(string address) => Address = address;

    private Server(WebApplication app, string directory) => (_app, _directory, Address) = (app, directory, app.Urls.Single());

    public string Address { get; }

    public static bool IsAddress(string[] args) => args is [] or ["--address", _];

    public static async Task<Server> AtAsync(string[] args)
    {
        if (args is ["--address", var address])
            return new Server(address);
        var directory = Directory.CreateTempSubdirectory("aegis-example-").FullName;
        var app = AegisHost.Build(["--urls", "http://127.0.0.1:0"], builder => builder.Configuration.AddInMemoryCollection(
            new Dictionary<string, string?>
            {
                ["AEGIS_DATA_DIR"] = directory,
                ["AEGIS_DATABASE"] = "sqlite:example.db",
                ["AEGIS_DRAIN_SECONDS"] = "0",
                ["Logging:LogLevel:Default"] = "Error",
            }));
        await AegisHost.PrepareAsync(app);
        await AegisHost.StartAsync(app);
        return new Server(app, directory);
    }

    /// <summary>This program again, in another role.</summary>
    public static Process Start(params string[] role)
    {
        var program = Environment.ProcessPath!;
        var isHost = Path.GetFileNameWithoutExtension(program) == "dotnet";
        return Process.Start(new ProcessStartInfo(program, isHost ? [typeof(Server).Assembly.Location, .. role] : role))!;
    }

    public static void Say(string who, string what) => Console.WriteLine($"{DateTime.UtcNow:HH:mm:ss.fff}  {who,-10} {what}");

    public async ValueTask DisposeAsync()
    {
        if (_app is null)
            return;
        await _app.StopAsync();
        await _app.DisposeAsync();
        Directory.Delete(_directory, recursive: true);
    }
}
