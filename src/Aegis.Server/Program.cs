using Aegis.Server;
using Aegis.Storage;

try
{
    await using var app = AegisHost.Build(args);
    await AegisHost.PrepareAsync(app);
    await AegisHost.StartAsync(app);
    AegisHost.Greet(app);
    await app.WaitForShutdownAsync();
    return 0;
}
catch (ConfigurationException e)
{
    return Stop(e.Message);
}
catch (StoreException e)
{
    return Stop(e.Message);
}

static int Stop(string message)
{
    Console.Error.WriteLine($"aegis: {message}");
    return 1;
}
