using Npgsql;

namespace Aegis.Tests;

public sealed class PostgresClusterTests
{
    [Test]
    public async Task Two_databases_side_by_side_know_nothing_of_each_other()
    {
        var both = await Task.WhenAll(PostgresCluster.CreateDatabaseAsync(), PostgresCluster.CreateDatabaseAsync());
        await QueryAsync(both[0], "CREATE TABLE mark (id INT)");

        Assert.That(await QueryAsync(both[0], "SELECT to_regclass('mark') IS NOT NULL"), Is.True);
        Assert.That(await QueryAsync(both[1], "SELECT to_regclass('mark') IS NOT NULL"), Is.False);

        await PostgresCluster.DropDatabaseAsync(both[0]);
        await PostgresCluster.DropDatabaseAsync(both[1]);
        Assert.That(() => QueryAsync(both[0], "SELECT 1"),
            Throws.TypeOf<PostgresException>().With.Property(nameof(PostgresException.SqlState)).EqualTo("3D000"));
    }

    [Test]
    public async Task A_database_is_dropped_although_somebody_is_connected()
    {
        var database = await PostgresCluster.CreateDatabaseAsync();
        await using var connection = new NpgsqlConnection(database);
        await connection.OpenAsync();

        Assert.That(() => PostgresCluster.DropDatabaseAsync(database), Throws.Nothing);
    }

    [Test]
    public async Task A_killed_cluster_restarts_with_its_data_and_the_same_address()
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync("max_connections=20");
        var (before, address) = (cluster.Pid, cluster.ConnectionString);
        await QueryAsync(address, "CREATE TABLE mark (id INT)");
        await QueryAsync(address, "INSERT INTO mark VALUES (1)");

        await cluster.KillPostmasterAsync();
        Assert.That(() => QueryAsync(address, "SELECT 1"), Throws.InstanceOf<NpgsqlException>());
        await cluster.RestartAsync();

        Assert.That(cluster.ConnectionString, Is.EqualTo(address));
        Assert.That(cluster.Pid, Is.Not.EqualTo(before));
        Assert.That(await QueryAsync(address, "SELECT count(*) FROM mark"), Is.EqualTo(1L));
        Assert.That(await QueryAsync(address, "SHOW max_connections"), Is.EqualTo("20"));
    }

    [TestCase(false)]
    [TestCase(true)]
    public async Task A_stopped_cluster_restarts_with_its_data(bool immediate)
    {
        await using var cluster = await PostgresCluster.StartPrivateAsync();
        await QueryAsync(cluster.ConnectionString, "CREATE TABLE mark (id INT)");

        await cluster.StopAsync(immediate);
        await cluster.RestartAsync();

        Assert.That(await QueryAsync(cluster.ConnectionString, "SELECT to_regclass('mark') IS NOT NULL"), Is.True);
    }

    [Test]
    public async Task Durability_is_not_relaxed()
    {
        var database = await PostgresCluster.CreateDatabaseAsync();

        Assert.That(await QueryAsync(database, "SHOW fsync"), Is.EqualTo("on"));
        Assert.That(await QueryAsync(database, "SHOW synchronous_commit"), Is.EqualTo("on"));
        Assert.That(await QueryAsync(database, "SHOW full_page_writes"), Is.EqualTo("on"));

        await PostgresCluster.DropDatabaseAsync(database);
    }

    private static async Task<object?> QueryAsync(string connectionString, string sql)
    {
        // A pooled connection may be one that a killed server left behind.
        await using var connection = new NpgsqlConnection($"{connectionString};Pooling=false");
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(sql, connection);
        return await command.ExecuteScalarAsync();
    }
}
