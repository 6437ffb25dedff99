using System.Net;
using Aegis.FaultProxy;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;

if (args is not [var target] || !Uri.TryCreate(target, UriKind.Absolute, out var uri) || uri.Scheme != Uri.UriSchemeHttp)
{
    await Console.Error.WriteLineAsync("usage: Aegis.FaultProxy http://HOST:PORT");
    return 2;
}

var rules = new Rules();
using var forwarder = new Forwarder(uri, rules);
// Nothing is read from the surroundings, and nothing but answers is written to standard output.
var builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel =>
{
    kestrel.AddServerHeader = false;
    kestrel.Limits.MaxRequestBodySize = null;
    kestrel.Limits.MinRequestBodyDataRate = null;
    kestrel.Limits.MinResponseDataRate = null;
    kestrel.Limits.Http2.MaxStreamsPerConnection = 1000;
    kestrel.Listen(IPAddress.Loopback, 0, listen =>
    {
        listen.Protocols = HttpProtocols.Http2;
        listen.Use(next => connection => forwarder.RememberAsync(connection, next));
    });
});
await using var app = builder.Build();
app.Run(forwarder.ForwardAsync);
await app.StartAsync();
var addresses = app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses;
Console.WriteLine($"listening on {addresses.Single()}");

while (await Console.In.ReadLineAsync() is { } line)
    Console.WriteLine(rules.Obey(line));

// Held calls must not hold the end.
rules.Obey("forget");
forwarder.CutAll();
return 0;
