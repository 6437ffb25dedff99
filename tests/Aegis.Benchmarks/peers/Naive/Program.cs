using Aegis.Benchmarks.Naive;
using Dapper;
using Grpc.Health.V1;
using Grpc.HealthCheck;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Npgsql;

DefaultTypeMap.MatchNamesWithUnderscores = true;

var builder = WebApplication.CreateSlimBuilder(args);
builder.Logging.SetMinimumLevel(LogLevel.Warning);
builder.WebHost.ConfigureKestrel(kestrel =>
{
    kestrel.ConfigureEndpointDefaults(endpoint => endpoint.Protocols = HttpProtocols.Http2);
    // As the server it is compared with, whose callers may share one connection.
    kestrel.Limits.Http2.MaxStreamsPerConnection = 1000;
});
builder.Services.AddGrpc();
builder.Services.AddSingleton(TimeProvider.System);
builder.Services.AddSingleton<HealthServiceImpl>();

const string Sqlite = "sqlite:";
var database = builder.Configuration["NAIVE_DATABASE"] ?? throw new InvalidOperationException("NAIVE_DATABASE is not set.");
if (database.StartsWith(Sqlite, StringComparison.Ordinal))
{
    builder.Services.AddSingleton<IStore>(_ => new SqliteStore(database[Sqlite.Length..]));
}
else
{
    var settings = new NpgsqlConnectionStringBuilder(database) { MaxAutoPrepare = 50, AutoPrepareMinUsages = 2 };
    builder.Services.AddSingleton(_ => NpgsqlDataSource.Create(settings));
    builder.Services.AddSingleton<IStore, PostgresStore>();
}

await using var app = builder.Build();
app.MapGrpcService<NaiveService>();
app.MapGrpcService<HealthServiceImpl>();
await app.Services.GetRequiredService<IStore>().PrepareAsync();
// Under the name at which the other is asked whether it takes writes.
app.Services.GetRequiredService<HealthServiceImpl>().SetStatus("aegis.writes", HealthCheckResponse.Types.ServingStatus.Serving);
await app.RunAsync();
