using System.Net;
using System.Net.Sockets;

namespace Aegis.Tests;

public sealed class ServerProcessTests
{
    [Test]
    public async Task A_killed_server_serves_again_at_the_same_address_and_data()
    {
        await using var server = await ServerProcess.StartAsync("sqlite:aegis.db");
        var (pid, address) = (server.Pid, server.Address);

        await server.KillAsync();
        Assert.That(server.HasExited, Is.True);
        await server.RestartAsync();

        Assert.That(server.Pid, Is.Not.EqualTo(pid));
        Assert.That(server.Address, Is.EqualTo(address));
    }

    [Test]
    public async Task A_frozen_server_answers_nothing_until_it_goes_on()
    {
        await using var server = await ServerProcess.StartAsync("sqlite:aegis.db");

        await server.SendAsync(Signal.Stop);
        Assert.That(() => server.UntilServingAsync(timeoutSeconds: 1), Throws.InvalidOperationException);

        await server.SendAsync(Signal.Continue);
        await server.UntilServingAsync();
    }

    [Test]
    public async Task A_server_asked_to_end_ends_in_order()
    {
        await using var server = await ServerProcess.StartAsync("sqlite:aegis.db", ("AEGIS_DRAIN_SECONDS", "0"));

        await server.SendAsync(Signal.Terminate);

        Assert.That(await server.ExitCodeAsync(), Is.Zero, server.Output);
    }

    [Test]
    public async Task A_server_that_ends_at_once_says_why()
    {
        await using var server = ServerProcess.Create("sqlite:aegis.db");
        using var squatter = new TcpListener(IPAddress.Loopback, server.Port);
        squatter.Start();

        Assert.That(() => server.RestartAsync(), Throws.InvalidOperationException.With.Message.Contains("address already in use"));
    }

    [Test]
    public async Task Nothing_of_it_is_left_when_it_is_disposed()
    {
        var server = await ServerProcess.StartAsync("sqlite:aegis.db");
        var directory = server.DataDirectory;
        Assert.That(Directory.Exists(directory), Is.True);

        await server.DisposeAsync();

        Assert.That(Directory.Exists(directory), Is.False);
    }
}
