using System.Net;
using System.Net.Sockets;
using System.Text;
using Npgsql;

namespace Aegis.Tests;

public sealed class CuttingProxyTests
{
    [Test]
    public async Task Everything_passes_in_both_directions_until_something_is_armed()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        var sent = new byte[1_000_000];
        Random.Shared.NextBytes(sent);

        var sending = client.GetStream().WriteAsync(sent);
        var received = new byte[sent.Length];
        await client.GetStream().ReadExactlyAsync(received);
        await sending;

        Assert.That(received, Is.EqualTo(sent));
        Assert.That(proxy.Accepted, Is.EqualTo(1));
    }

    [Test]
    public async Task An_end_in_order_is_passed_on_as_one()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        await client.GetStream().WriteAsync("last words"u8.ToArray());

        using var reader = new StreamReader(client.GetStream());
        client.Client.Shutdown(SocketShutdown.Send);

        Assert.That(await reader.ReadToEndAsync(), Is.EqualTo("last words"));
    }

    [Test]
    public async Task A_cut_resets_what_is_open_and_refuses_what_is_new_until_restored()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        await AskAsync(client, "before");

        proxy.CutNow();
        AssertReset(client);
        Assert.That(() => ConnectAsync(proxy),
            Throws.TypeOf<SocketException>().With.Property(nameof(SocketException.SocketErrorCode)).EqualTo(SocketError.ConnectionRefused));

        proxy.Restore();
        using var again = await ConnectAsync(proxy);
        Assert.That(await AskAsync(again, "after"), Is.EqualTo("after"));
    }

    [Test]
    public async Task A_request_can_be_lost_on_its_way()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        var cut = proxy.CutBeforeRequest(CuttingProxy.Text("COMMIT"));
        Assert.That(await AskAsync(client, "INSERT"), Is.EqualTo("INSERT"));

        await client.GetStream().WriteAsync("COMMIT"u8.ToArray());

        AssertReset(client);
        await cut;
        Assert.That(echo.Heard, Is.EqualTo("INSERT"));
    }

    [Test]
    public async Task A_reply_can_be_lost_on_its_way_although_the_request_arrived()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        using var bystander = await ConnectAsync(proxy);
        await AskAsync(client, "COMMIT earlier, ");
        var cut = proxy.CutAfterRequest(CuttingProxy.Text("COMMIT"));
        Assert.That(await AskAsync(client, "INSERT, "), Is.EqualTo("INSERT, "));

        await client.GetStream().WriteAsync("COMMIT"u8.ToArray());

        AssertReset(client);
        await cut;
        Assert.That(echo.Heard, Is.EqualTo("COMMIT earlier, INSERT, COMMIT"));
        Assert.That(await AskAsync(bystander, "?"), Is.EqualTo("?"), "Others go on.");
        using var next = await ConnectAsync(proxy);
        Assert.That(await AskAsync(next, "COMMIT"), Is.EqualTo("COMMIT"), "Only the first is cut.");
    }

    [Test]
    public async Task A_request_can_break_off_in_the_middle()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        var cut = proxy.CutWithinRequest(CuttingProxy.Text("COMMIT"), requestBytes: 3);

        await client.GetStream().WriteAsync("COMMIT"u8.ToArray());
        await cut;

        await Until.TrueAsync(() => Task.FromResult(echo.Heard == "COM"));
        Assert.That(async () => await client.GetStream().ReadExactlyAsync(new byte[10]), Throws.TypeOf<IOException>());
    }

    [Test]
    public async Task What_was_armed_can_be_taken_back()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        var cut = proxy.CutBeforeRequest(CuttingProxy.Text("COMMIT"));

        proxy.Disarm();
        proxy.Disarm();

        Assert.That(await AskAsync(client, "COMMIT"), Is.EqualTo("COMMIT"));
        Assert.That(cut.IsCanceled, Is.True);
    }

    [Test]
    public async Task A_request_in_two_pieces_is_still_noticed_and_everybody_can_be_cut_with_it()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        using var bystander = await ConnectAsync(proxy);
        await AskAsync(bystander, "?");
        var cut = proxy.CutAfterRequest(CuttingProxy.Text("COMMIT"), thenRefuse: true);
        await AskAsync(client, "COM");

        await client.GetStream().WriteAsync("MIT"u8.ToArray());
        await cut;

        AssertReset(bystander);
        Assert.That(() => ConnectAsync(proxy), Throws.TypeOf<SocketException>());
    }

    [Test]
    public async Task Replies_can_be_held_while_requests_pass()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);

        proxy.HoldReplies();
        var asked = AskAsync(client, "hello");
        Assert.That(() => echo.Heard, Is.EqualTo("hello").After(5_000, 10));
        await Task.Delay(50);
        Assert.That(asked.IsCompleted, Is.False);

        proxy.ReleaseReplies();
        Assert.That(await asked, Is.EqualTo("hello"));
    }

    [Test]
    public async Task A_client_that_is_gone_is_gone_for_the_target_too()
    {
        await using var echo = new Echo();
        await using var proxy = new CuttingProxy("127.0.0.1", echo.Port);
        using var client = await ConnectAsync(proxy);
        await AskAsync(client, "hello");
        Assert.That(echo.Listening, Is.EqualTo(1));

        client.Client.LingerState = new LingerOption(enable: true, seconds: 0);
        client.Close();

        Assert.That(() => echo.Listening, Is.Zero.After(5_000, 10));
    }

    [Test]
    public async Task A_target_that_is_down_shows_as_a_reset()
    {
        await using var proxy = new CuttingProxy("127.0.0.1", FreePort.Next());

        // The reset may come as early as the connection.
        Assert.That(
            async () =>
            {
                using var client = await ConnectAsync(proxy);
                await client.GetStream().ReadExactlyAsync(new byte[1]);
            },
            Throws.TypeOf<SocketException>().Or.TypeOf<IOException>());
    }

    [TestCase(false, 0)]
    [TestCase(true, 1)]
    public async Task Of_a_commit_the_database_knows_the_outcome_and_the_client_does_not(bool arrives, long rows)
    {
        var database = await PostgresCluster.CreateDatabaseAsync();
        var address = new NpgsqlConnectionStringBuilder(database);
        await using var proxy = new CuttingProxy(address.Host!, address.Port);
        await using var direct = NpgsqlDataSource.Create(database);
        await direct.CreateCommand("CREATE TABLE mark (id INT)").ExecuteNonQueryAsync();
        (address.Host, address.Port) = ("127.0.0.1", proxy.Port);
        await using var behind = NpgsqlDataSource.Create(address);
        await using var connection = await behind.OpenConnectionAsync();
        await using var transaction = await connection.BeginTransactionAsync();
        await using var insert = new NpgsqlCommand("INSERT INTO mark VALUES (1)", connection, transaction);
        await insert.ExecuteNonQueryAsync();

        var commit = CuttingProxy.Text("COMMIT");
        var cut = arrives ? proxy.CutAfterRequest(commit) : proxy.CutBeforeRequest(commit);
        Assert.That(() => transaction.CommitAsync(), Throws.InstanceOf<NpgsqlException>());
        await cut;

        Assert.That(await direct.CreateCommand("SELECT count(*) FROM mark").ExecuteScalarAsync(), Is.EqualTo(rows));
    }

    private static async Task<TcpClient> ConnectAsync(CuttingProxy proxy)
    {
        var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, proxy.Port);
        return client;
    }

    private static async Task<string> AskAsync(TcpClient client, string text)
    {
        await client.GetStream().WriteAsync(Encoding.UTF8.GetBytes(text));
        var reply = new byte[Encoding.UTF8.GetByteCount(text)];
        await client.GetStream().ReadExactlyAsync(reply);
        return Encoding.UTF8.GetString(reply);
    }

    private static void AssertReset(TcpClient client)
        => Assert.That(async () => await client.GetStream().ReadExactlyAsync(new byte[1]),
            Throws.TypeOf<IOException>().With.InnerException.TypeOf<SocketException>()
                .And.InnerException.Property(nameof(SocketException.SocketErrorCode)).EqualTo(SocketError.ConnectionReset));

    /// <summary>A server that says back what it hears.</summary>
    private sealed class Echo : IAsyncDisposable
    {
        private readonly TcpListener _listener = new(IPAddress.Loopback, FreePort.Next());
        private readonly StringBuilder _heard = new();
        private readonly Task _serving;
        private int _listening;

        public Echo()
        {
            _listener.Start();
            _serving = ServeAsync();
        }

        /// <summary>How many connections it has.</summary>
        public int Listening => Volatile.Read(ref _listening);

        public int Port => ((IPEndPoint)_listener.LocalEndpoint).Port;

        public string Heard
        {
            get
            {
                lock (_heard)
                {
                    return _heard.ToString();
                }
            }
        }

        public async ValueTask DisposeAsync()
        {
            _listener.Stop();
            await _serving;
        }

        private async Task ServeAsync()
        {
            try
            {
                while (true)
                {
                    _ = SpeakAsync(await _listener.AcceptTcpClientAsync());
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // Stopped.
            }
        }

        private async Task SpeakAsync(TcpClient client)
        {
            Interlocked.Increment(ref _listening);
            using (client)
            {
                var buffer = new byte[4096];
                try
                {
                    for (int read; (read = await client.GetStream().ReadAsync(buffer)) > 0;)
                    {
                        lock (_heard)
                        {
                            _heard.Append(Encoding.Latin1.GetString(buffer, 0, read));
                        }

                        await client.GetStream().WriteAsync(buffer.AsMemory(0, read));
                    }
                }
                catch (IOException)
                {
                    // The client is gone.
                }
                finally
                {
                    Interlocked.Decrement(ref _listening);
                }
            }
        }
    }
}
