using Aegis.Client.Example;

// Each role of the stories is a process of its own, so that one can be killed without the others noticing more than its silence.
switch (args)
{
    case ["permit", .. var rest] when Server.IsAddress(rest):
        await using (var server = await Server.AtAsync(rest))
            await PermitStory.TellAsync(server.Address);
        return 0;
    case ["agent", .. var rest] when Server.IsAddress(rest):
        await using (var server = await Server.AtAsync(rest))
            await AgentStory.TellAsync(server.Address);
        return 0;
    case ["permit-worker", var address, var @namespace]:
        await PermitWorker.RunAsync(address, @namespace);
        return 0;
    case ["agent-worker", var address, var @namespace, var crashAfter]:
        await AgentWorker.RunAsync(address, @namespace, int.Parse(crashAfter, System.Globalization.CultureInfo.InvariantCulture));
        return 0;
    default:
        Console.Error.WriteLine("""
            usage: dotnet run --project clients/dotnet/example -- permit|agent [--address http://127.0.0.1:50051]

            Without an address it starts a server of its own over a database that is gone at the end.
            """);
        return 2;
}
