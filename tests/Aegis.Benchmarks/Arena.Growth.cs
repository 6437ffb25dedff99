using System.Data;
using Npgsql;

namespace Aegis.Benchmarks;

// What changes as a log, a chain or a snapshot grows, and while others read.
internal sealed partial class Arena
{
    private const int Callers64 = 64;

    /// <summary>How many records of a log are counted at its beginning and at its end.</summary>
    public static long SpanOf(long records) => Math.Max(1, records / 50);

    /// <summary>Transitions a second at the end of a log of many records, and how they compare with those at its beginning.</summary>
    public async Task<Measured> GrownAsync()
    {
        var span = SpanOf(_records);
        var first = await AegisAsync("grown", Counted(span));
        await AegisAsync("grown", Counted(_records - 2 * span));
        var last = await AegisAsync("grown", Counted(span));
        return last with { Growth = last.Value / first.Value };

        LoadOrder Counted(long calls) => new([], Work.Transition, Callers64, WarmSeconds, NoLimit, Calls: calls);
    }

    /// <summary>One caller on one workflow, whose chain grows.</summary>
    public async Task<Measured> ChainAsync()
    {
        // Until it is warm, and on other workflows.
        await AegisAsync("chain", Work.Transition, 1);
        return await AegisAsync("chain", new LoadOrder([], Work.Chain, 1, Warm: 0, NoLimit, Calls: SpanOf(_records)));
    }

    /// <summary>Transitions with snapshots of a size.</summary>
    public Task<Measured> SnapshotsAsync(int kibibytes) =>
        AegisAsync("snapshots", new LoadOrder([], Work.Transition, Callers64, WarmSeconds, _seconds, kibibytes * 1024));

    /// <summary>Transitions while a session sees the database as it was before them, as pg_dump does.</summary>
    public async Task<Measured> HeldAsync(string name)
    {
        await using var connection = await ConnectAsync(await DatabaseAsync(name));
        await using var transaction = await connection.BeginTransactionAsync(IsolationLevel.RepeatableRead);
        // A snapshot is taken by the first statement.
        await using (var command = new NpgsqlCommand("SELECT count(*) FROM pg_class", connection, transaction))
            await command.ExecuteScalarAsync();
        return await AegisAsync(name, Work.Transition, Callers64);
    }

    /// <summary>Transitions on a server of its own whose scrub is set.</summary>
    public Task<Measured> ScrubbedAsync(string name, params (string Name, string Value)[] settings) =>
        AegisAsync(name, new LoadOrder([], Work.Transition, Callers64, WarmSeconds, _seconds), sqlite: false, settings);
}
