using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Aegis.Server;
using Grpc.Net.Client;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Configuration;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The start: with nothing configured, and with what cannot be used, which stops it with one clear line.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ConfigurationTests
{
    [TestCase("AEGIS_DRAIN_SECONDS", "soon", "AEGIS_DRAIN_SECONDS must be a whole number from 0 to 3600, not \"soon\".")]
    [TestCase("AEGIS_DRAIN_SECONDS", "-1", "AEGIS_DRAIN_SECONDS must be a whole number")]
    [TestCase("AEGIS_ALLOW_INSECURE", "yes", "AEGIS_ALLOW_INSECURE must be true or false, not \"yes\".")]
    [TestCase("AEGIS_SNAPSHOT_BYTES_MAX", "4000000", "AEGIS_SNAPSHOT_BYTES_MAX must be a whole number from 1 to 3145728")]
    [TestCase("AEGIS_LOG_ID", "has space", "AEGIS_LOG_ID must have 1 to 255 bytes without white space")]
    [TestCase("AEGIS_LOG_ID", "log/2", "AEGIS_LOG_ID must not end in \"/\" and digits")]
    [TestCase("AEGIS_LOG_FORMAT", "xml", "AEGIS_LOG_FORMAT must be text or json")]
    [TestCase("AEGIS_DATABASE", "sqlite:", "AEGIS_DATABASE names no file")]
    [TestCase("AEGIS_DATABASE", "mysql://nowhere", "AEGIS_DATABASE is neither sqlite:PATH nor an Npgsql connection string")]
    [TestCase("AEGIS_DATABASE", "Host=127.0.0.1:1,127.0.0.1:2;Target Session Attributes=any",
        "AEGIS_DATABASE asks for Target Session Attributes=any, which need not take writes")]
    [TestCase("AEGIS_READ_DATABASE", "Host=127.0.0.1", "AEGIS_READ_DATABASE needs AEGIS_DATABASE to be PostgreSQL")]
    [TestCase("AEGIS_READ_LAG_MAX", "0s", "AEGIS_READ_LAG_MAX must be a time from 1 second to 1 hour")]
    [TestCase("AEGIS_DATABASE", "sqlite:/proc/no/such.db", "Cannot open the database /proc/no/such.db")]
    public async Task A_wrong_value_stops_the_start_with_one_line(string name, string value, string message)
    {
        await using var server = name == "AEGIS_DATABASE"
            ? ServerProcess.Create(value)
            : ServerProcess.Create("sqlite::memory:", (name, value));
        server.Launch();

        var code = await server.ExitCodeAsync();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(code, Is.EqualTo(1));
            Assert.That(server.Output, Does.StartWith("aegis: " + message));
            Assert.That(server.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries), Has.Length.EqualTo(1));
        }
    }

    [TestCase("AEGIS_QUEUE_COMMANDS_MAX", "0")]
    [TestCase("AEGIS_QUEUE_COMMANDS_MAX", "many")]
    [TestCase("AEGIS_QUEUE_BYTES_MAX", "16777215")]
    [TestCase("AEGIS_QUEUE_BYTES_MAX", "1e9")]
    [TestCase("AEGIS_SNAPSHOT_BYTES_MAX", "0")]
    [TestCase("AEGIS_SNAPSHOT_BYTES_MAX", " 1000")]
    [TestCase("AEGIS_SNAPSHOT_BYTES_MAX", "99999999999999999999")]
    [TestCase("AEGIS_DRAIN_SECONDS", "3601")]
    [TestCase("AEGIS_BACKUP_MAX_AGE", "a day")]
    [TestCase("AEGIS_LOG_ID", "a+b")]
    [TestCase("AEGIS_LOG_ID", "a\u0000b")]
    public void A_wrong_value_is_named(string name, string value) =>
        Assert.That(() => Build("http://127.0.0.1:0", (name, value)),
            Throws.InstanceOf<ConfigurationException>().With.Message.StartsWith(name));

    [TestCase("http://0.0.0.0:1234", false)]
    [TestCase("http://+:1234", false)]
    [TestCase("http://10.1.2.3:1234", false)]
    [TestCase("HTTP://0.0.0.0:1234", false)]
    [TestCase("http://[::]:1234", false)]
    [TestCase("http://example.org:1234", false)]
    [TestCase(" http://0:1234 ", false)]
    [TestCase("http://127.0.0.1:1;http://192.168.0.1:1", false)]
    [TestCase("http://127.0.0.1:1234", true)]
    [TestCase("http://[::1]:1234", true)]
    [TestCase("http://localhost:1234", true)]
    [TestCase("https://0.0.0.0:1234", true)]
    public void Plaintext_stays_on_this_machine(string urls, bool isTaken)
    {
        if (isTaken)
            Assert.That(() => Build(urls), Throws.Nothing);
        else
            Assert.That(() => Build(urls), Throws.InstanceOf<ConfigurationException>().With.Message.Contains("AEGIS_ALLOW_INSECURE"));
        Assert.That(() => Build(urls, ("AEGIS_ALLOW_INSECURE", "true")), Throws.Nothing);
    }

    [Test]
    public async Task Nothing_configured_serves_and_says_where()
    {
        using var directory = new TemporaryDirectory("default");
        await using var server = await ServerProcess.StartAsync("", ("AEGIS_DATA_DIR", directory.Path));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(server.Output, Does.Contain($"listens on {server.Address}"));
            Assert.That(server.Output, Does.Contain($"Data: sqlite {Path.Combine(directory.Path, "aegis.db")}"));
            Assert.That(server.Output, Does.Contain("Try: aegis"));
        }
    }

    [Test]
    public async Task A_port_in_use_stops_the_start_with_one_line()
    {
        await using var first = await TestServer.StartAsync(Database.Sqlite);
        await using var second = ServerProcess.Create("sqlite::memory:");
        second.Launch(first.Address);

        var code = await second.ExitCodeAsync();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(code, Is.EqualTo(1));
            Assert.That(second.Output, Does.Contain("address already in use"));
            Assert.That(second.Output, Does.Not.Contain("   at "), "No stack trace.");
        }
    }

    [TestCase("https://127.0.0.1:0", "", "")]
    [TestCase("https://127.0.0.1:0", "ASPNETCORE_Kestrel__Certificates__Default__Path", "/no/such.pfx")]
    [TestCase("https://127.0.0.1:0", "ASPNETCORE_Kestrel__Certificates__Default__Path", "/etc/passwd")]
    [TestCase("ftp://127.0.0.1:0", "", "")]
    [TestCase("http://127.0.0.1:0/path", "", "")]
    [TestCase("http://127.0.0.1:99999", "", "")]
    [TestCase("nonsense", "", "")]
    [TestCase("http://0.0.0.0:0", "", "")]
    [TestCase("http://127.0.0.1:0", "ASPNETCORE_Kestrel__Endpoints__Rpc__Url", "http://0.0.0.0:0")]
    [TestCase("http://127.0.0.1:0", "ASPNETCORE_Kestrel__Endpoints__Rpc__Protocols", "Http2")]
    public async Task An_address_that_cannot_be_served_stops_the_start_with_one_line(string address, string name, string value)
    {
        await using var server = name.Length == 0
            ? ServerProcess.Create("sqlite::memory:")
            : ServerProcess.Create("sqlite::memory:", (name, value));
        server.Launch(address);

        var code = await server.ExitCodeAsync();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(code, Is.EqualTo(1));
            Assert.That(server.Output.Split('\n').Last(), Does.StartWith("aegis: "));
            Assert.That(server.Output, Does.Not.Contain("   at ").And.Not.Contain("Unhandled"), "No stack trace.");
        }
    }

    [Test]
    public async Task A_second_server_on_one_SQLite_file_stops_with_one_line()
    {
        await using var first = await TestServer.StartAsync(Database.Sqlite);
        await using var second = ServerProcess.Create(first.Connection);
        second.Launch();

        var code = await second.ExitCodeAsync();

        Assert.That((code, second.Output), Is.EqualTo((1,
            $"aegis: The database {first.Connection["sqlite:".Length..]} is in use by another server; a SQLite file serves one.")));
    }

    [Test]
    public async Task A_log_id_is_kept_and_another_stops_the_start()
    {
        using var directory = new TemporaryDirectory("log-id");
        var database = $"sqlite:{Path.Combine(directory.Path, "a.db")}";
        string logId;
        await using (var first = await TestServer.StartAsync(database, KeyValuePair.Create("AEGIS_LOG_ID", "house/log")))
            logId = (await first.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).LogId;
        await using (var again = await TestServer.StartAsync(database))
            Assert.That((await again.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).LogId, Is.EqualTo(logId));

        await using var other = ServerProcess.Create(database, ("AEGIS_LOG_ID", "other/log"));
        other.Launch();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(logId, Is.EqualTo("house/log"));
            Assert.That(await other.ExitCodeAsync(), Is.EqualTo(1));
            Assert.That(other.Output, Is.EqualTo("aegis: AEGIS_LOG_ID is \"other/log\", and the database holds the log \"house/log\"."));
        }
    }

    [Test]
    public async Task A_temporary_database_is_gone_with_the_server()
    {
        string path;
        await using (var server = await TestServer.StartAsync("sqlite::memory:"))
        {
            await Given.WorkflowAsync(server);
            path = server.Location;
            Assert.That(File.Exists(path), Is.True);
        }

        Assert.That(Directory.Exists(Path.GetDirectoryName(path)), Is.False);
    }

    [Test]
    public async Task It_serves_TLS_with_a_certificate()
    {
        using var directory = new TemporaryDirectory("tls");
        var certificate = Path.Combine(directory.Path, "server.pfx");
        using var own = SelfSigned();
        await File.WriteAllBytesAsync(certificate, own.Export(X509ContentType.Pfx));
        await using var server = ServerProcess.Create("sqlite::memory:", ("ASPNETCORE_Kestrel__Certificates__Default__Path", certificate));
        var address = $"https://127.0.0.1:{server.Port}";
        server.Launch(address);
        using var channel = GrpcChannel.ForAddress(address, new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler { SslOptions = { RemoteCertificateValidationCallback = (_, shown, _, _) => own.GetCertHashString() == shown!.GetCertHashString() } },
        });
        var system = new Pb.SystemService.SystemServiceClient(channel);

        var info = await system.GetServerInfoAsync(new Pb.GetServerInfoRequest(),
            new Grpc.Core.CallOptions(deadline: DateTime.UtcNow.AddSeconds(30)).WithWaitForReady());

        Assert.That(info.Store, Is.EqualTo("sqlite"), server.Output);
    }

    private static void Build(string urls, params (string Name, string Value)[] settings)
    {
        var app = AegisHost.Build(["--urls", urls], builder => builder.Configuration.AddInMemoryCollection(
            settings.Select(s => KeyValuePair.Create<string, string?>(s.Name, s.Value))));
        ((IDisposable)app).Dispose();
    }

    private static X509Certificate2 SelfSigned()
    {
        using var key = RSA.Create(2048);
        var request = new CertificateRequest("CN=localhost", key, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1);
        return request.CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1));
    }
}
