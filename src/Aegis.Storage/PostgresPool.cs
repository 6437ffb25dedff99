using Dapper;
using Npgsql;

namespace Aegis.Storage;

/// <summary>
/// Connections of one kind, kept for the next who needs one. Of several hosts they go to the one that takes writes. Thread-safe.
/// </summary>
/// <remarks>
/// The driver would ask the hosts in turn for each connection, and one that is gone without a word would keep each waiting. So the
/// host that took writes last is asked alone; when it fails, the others are asked at once, and the first that takes writes is taken.
/// </remarks>
internal sealed class PostgresPool : IAsyncDisposable
{
    /// <summary>What a host of several may have to be, besides the primary: in a connection string.</summary>
    public const string ReadWrite = "read-write";

    private const int None = -1;

    private static readonly TimeSpan AskAgainInterval = TimeSpan.FromMilliseconds(250);

    private readonly NpgsqlDataSource[] _hosts;

    // Of several hosts: what the one has to be.
    private readonly TargetSessionAttributes _wanted;
    private volatile int _primary = None;

    /// <param name="settings">Where the database is, at one host or several.</param>
    /// <param name="connectionsMax">How many connections are kept to a host.</param>
    /// <param name="seconds">How long a statement may take that says nothing else.</param>
    /// <param name="session">What each connection is told before its first use.</param>
    /// <exception cref="ArgumentException">The settings contradict each other.</exception>
    public PostgresPool(NpgsqlConnectionStringBuilder settings, int connectionsMax, int seconds, params string[] session)
    {
        var hosts = settings.Host!.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
        _hosts = Array.ConvertAll(hosts, host => Source(settings, host, hosts.Length > 1, connectionsMax, seconds, session));
        _wanted = settings.TargetSessionAttributes == ReadWrite ? TargetSessionAttributes.ReadWrite : TargetSessionAttributes.Primary;
    }

    /// <exception cref="NpgsqlException">It cannot be reached, of several hosts none that takes writes.</exception>
    public async Task<NpgsqlConnection> OpenAsync(CancellationToken cancellationToken)
    {
        if (_hosts.Length == 1)
            return await _hosts[0].OpenConnectionAsync(cancellationToken);
        var primary = _primary;
        if (primary == None)
            return await FindAsync(_ => true, cancellationToken);
        try
        {
            return await OpenAsync(primary, cancellationToken);
        }
        catch (Exception e) when (e is NpgsqlException or TimeoutException)
        {
            Interlocked.CompareExchange(ref _primary, None, primary);
            return await FindAsync(host => host != primary, cancellationToken);
        }
    }

    /// <summary>Closes the connections that are idle.</summary>
    public void Clear() => Array.ForEach(_hosts, host => host.Clear());

    /// <summary>Closes the connections that are idle, and forgets which host took writes: those opened from now on look for it.</summary>
    public void Leave()
    {
        Clear();
        Array.ForEach(_hosts, Forget);
        _primary = None;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var host in _hosts)
            await host.DisposeAsync();
    }

    private Task<NpgsqlConnection> OpenAsync(int host, CancellationToken cancellationToken) =>
        ((NpgsqlMultiHostDataSource)_hosts[host]).OpenConnectionAsync(_wanted, cancellationToken).AsTask();

    private static NpgsqlDataSource Source(NpgsqlConnectionStringBuilder settings, string host, bool isOfMany,
        int connectionsMax, int seconds, string[] session)
    {
        var builder = new NpgsqlDataSourceBuilder(new NpgsqlConnectionStringBuilder(settings.ToString())
        {
            Host = host,
            TargetSessionAttributes = null,
            MaxPoolSize = connectionsMax,
            NoResetOnClose = true,
            MaxAutoPrepare = 50,
            AutoPrepareMinUsages = 2,
            CommandTimeout = seconds,
        }.ToString());
        builder.UsePhysicalConnectionInitializer(
            connection => Array.ForEach(session, statement => connection.Execute(statement)),
            async connection =>
            {
                foreach (var statement in session)
                    await connection.ExecuteAsync(statement);
            });
        // Whether a host takes writes the driver asks only for one of many, be they one.
        return isOfMany ? builder.BuildMultiHost() : builder.Build();
    }

    /// <summary>What the driver knows of a host, it keeps for a second: a standby may have become the primary meanwhile.</summary>
    private static void Forget(NpgsqlDataSource host) => (host as NpgsqlMultiHostDataSource)?.ClearDatabaseStates();

    /// <summary>
    /// Asks hosts at once; the first that takes writes is remembered. While one has not answered yet the others are asked again and again:
    /// one of them may become the primary meanwhile.
    /// </summary>
    private async Task<NpgsqlConnection> FindAsync(Func<int, bool> isAsked, CancellationToken cancellationToken)
    {
        using var found = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var silent = Enumerable.Range(0, _hosts.Length).Where(isAsked).ToHashSet();
        var asked = silent.ToDictionary(host => OpenAsync(host, found.Token));
        List<Exception> failures = [];
        try
        {
            while (silent.Count > 0)
            {
                var ended = await Task.WhenAny(asked.Keys);
                asked.Remove(ended, out var host);
                try
                {
                    var connection = await ended;
                    _primary = host;
                    return connection;
                }
                catch (Exception e) when (e is NpgsqlException or TimeoutException or OperationCanceledException)
                {
                    Forget(_hosts[host]);
                    silent.Remove(host);
                    failures.Add(e);
                    asked.Add(AskAgainAsync(host, found.Token), host);
                }
            }
        }
        finally
        {
            await found.CancelAsync();
            foreach (var late in asked.Keys)
                _ = CloseAsync(late);
        }
        cancellationToken.ThrowIfCancellationRequested();
        // One that answers knows more than one that does not.
        throw failures.Find(e => e is PostgresException) ?? failures[0];
    }

    private async Task<NpgsqlConnection> AskAgainAsync(int host, CancellationToken cancellationToken)
    {
        await Task.Delay(AskAgainInterval, cancellationToken);
        return await OpenAsync(host, cancellationToken);
    }

    /// <summary>Of one that was asked and is no longer needed.</summary>
    private static async Task CloseAsync(Task<NpgsqlConnection> late)
    {
        try
        {
            await (await late).DisposeAsync();
        }
        catch (Exception e) when (e is NpgsqlException or TimeoutException or OperationCanceledException)
        {
            // It would not have been the primary.
        }
    }
}
