using System.Globalization;
using Aegis.Tests;

namespace Aegis.Benchmarks;

/// <summary>
/// Aegis beside what it is compared with. In each round everybody has a turn, and a ratio is formed within the round, so that the
/// machine's moods are on both sides of it; the order is turned round each time.
/// </summary>
internal static class Compare
{
    private const string NodePeers = "peers/node/";

    /// <summary>A row: what of a round's turns it is made of, and how.</summary>
    private sealed record Contest(string Id, string Work, string Against, Target Target, string[] Turns, Func<Measured[], double> Value);

    private static readonly Contest[] Contests =
    [
        Faster("plain64", "64 callers", "pgbench, plain transaction, 64 clients", 4, "aegis64", "pgbench-plain64"),
        Faster("one64", "64 callers", "pgbench, best single statement, 64 clients", 1.8, "aegis64", "pgbench-one64"),
        Faster("plain8", "8 callers", "pgbench, plain transaction, 8 clients", 1.1, "aegis8", "pgbench-plain8"),
        Faster("plain1", "1 caller", "pgbench, plain transaction, 1 client", 1, "aegis1", "pgbench-plain1"),
        Faster("slow64", "64 callers, 1 ms more for every flush", "pgbench, plain transaction, 64 clients", 3.3, "slow-aegis64", "slow-pgbench-plain64"),
        Faster("slow8", "8 callers, 1 ms more for every flush", "pgbench, plain transaction, 8 clients", 0.9, "slow-aegis8", "slow-pgbench-plain8"),
        Faster("naive256", "256 callers", "one transaction for each call, 256 callers", 8, "aegis256", "naive256"),
        Faster("langgraph32", "32 callers", "LangGraph PostgresSaver put", 4, "aegis32", "langgraph-put32"),
        Faster("dbos32", "32 callers", "DBOS step", 11, "aegis32", "dbos32"),
        Faster("orm32", "32 callers", "SQLAlchemy with asyncpg", 13, "aegis32", "orm32"),
        Faster("resume32", "ResumeWorkflow, chain and snapshot verified, 32 callers", "LangGraph PostgresSaver getTuple", 6, "aegis-resume32", "langgraph-get32"),
        Faster("sqlite64", "SQLite, 64 callers", "SQLite, one transaction for each call, 64 callers", 4.5, "sqlite-aegis64", "sqlite-naive64"),
        new("cpu64", "CPU of all processes for a transition, 64 callers, how many times less", "one transaction for each call", Target.AtLeast(6.5, "×"),
            ["aegis64", "naive64"], m => m[1].Cpu!.Total / m[0].Cpu!.Total),
        Faster("two64", "two servers on one database, 32 callers each", "one server, 64 callers", 0.8, "aegis-two64", "aegis64"),
        new("refused64", "refused transitions, 64 callers", "transitions", Target.AtLeast(1, "×"), ["aegis-refused64", "aegis64"], Ratio),
        new("hot64", "64 callers on ten workflows", "on workflows of their own", Target.None("×"), ["aegis-hot64", "aegis64"], Ratio),
        new("ceiling", "empty unary calls, 64 callers", "", Target.None("a second"), ["aegis-empty64"], m => m[0].Rate),
    ];

    /// <param name="only">The ids of the rows wanted; none = all.</param>
    public static async Task<int> RunAsync(int rounds, double seconds, string[] only, bool write)
    {
        var contests = Contests.Where(c => only.Length == 0 || only.Contains(c.Id)).ToList();
        var turns = contests.SelectMany(c => c.Turns).Distinct().ToList();
        var measured = turns.ToDictionary(t => t, _ => new List<Measured>());
        string settings;
        await using (var arena = await Arena.OpenAsync(seconds, slowDisk: false))
        {
            settings = await arena.SettingsAsync();
            await RunAsync(arena, [.. turns.Where(t => !t.StartsWith("slow-", StringComparison.Ordinal))], rounds, measured);
        }
        if (turns.Any(t => t.StartsWith("slow-", StringComparison.Ordinal)))
        {
            await using var slow = await Arena.OpenAsync(seconds, slowDisk: true);
            await RunAsync(slow, [.. turns.Where(t => t.StartsWith("slow-", StringComparison.Ordinal))], rounds, measured);
        }
        TemporaryDirectory.RemoveAll();
        var report = new Report(settings, rounds, seconds,
            [.. contests.Select(c => Row.Of(c.Id, c.Work, c.Against, c.Target,
                Enumerable.Range(0, rounds).Select(r => c.Value([.. c.Turns.Select(t => measured[t][r])]))))],
            [.. turns.Select(t => Row.Of(t, "absolute", "", Target.None("a second"), measured[t].Select(m => m.Rate))),
                .. turns.Where(t => measured[t][0].Cpu is not null)
                    .Select(t => Row.Of(t, "CPU", "", Target.None("µs"), measured[t].Select(m => m.Cpu!.Total)))]);
        Console.WriteLine(report.ToMarkdown());
        if (write)
            await report.WriteAsync(Arena.Source("results"));
        return 0;
    }

    private static async Task RunAsync(Arena arena, IReadOnlyList<string> turns, int rounds, Dictionary<string, List<Measured>> measured)
    {
        for (var round = 1; round <= rounds; round++)
        {
            foreach (var turn in round % 2 == 1 ? turns : turns.Reverse())
            {
                var result = await TurnAsync(arena, turn);
                measured[turn].Add(result);
                Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"{round}  {turn,-22} {result.Rate,8:0} a second {result.Cpu}"));
            }
        }
    }

    private static Task<Measured> TurnAsync(Arena arena, string turn) => turn switch
    {
        "aegis64" or "slow-aegis64" => arena.AegisAsync("aegis", Work.Transition, 64),
        "aegis8" or "slow-aegis8" => arena.AegisAsync("aegis", Work.Transition, 8),
        "aegis1" => arena.AegisAsync("aegis", Work.Transition, 1),
        "aegis32" => arena.AegisAsync("aegis", Work.Transition, 32),
        "aegis256" => arena.AegisAsync("aegis", Work.Transition, 256),
        "aegis-resume32" => arena.AegisAsync("aegis", Work.Resume, 32),
        "aegis-refused64" => arena.AegisAsync("aegis", Work.Refused, 64),
        "aegis-hot64" => arena.AegisAsync("aegis", Work.HotTransition, 64),
        "aegis-empty64" => arena.AegisAsync("aegis", Work.Empty, 64),
        "aegis-two64" => arena.AegisAsync("two,other", Work.Transition, 64),
        "sqlite-aegis64" => arena.AegisAsync("sqlite", Work.Transition, 64, sqlite: true),
        "naive64" => arena.NaiveAsync("naive", 64),
        "naive256" => arena.NaiveAsync("naive", 256),
        "sqlite-naive64" => arena.NaiveAsync("sqlite_naive", 64, sqlite: true),
        "pgbench-plain64" or "slow-pgbench-plain64" => arena.PgbenchAsync("plain.sql", 64),
        "pgbench-plain8" or "slow-pgbench-plain8" => arena.PgbenchAsync("plain.sql", 8),
        "pgbench-plain1" => arena.PgbenchAsync("plain.sql", 1),
        "pgbench-one64" => arena.PgbenchAsync("one.sql", 64),
        "langgraph-put32" => arena.ProgramAsync("langgraph", 32, "node", Arena.Source($"{NodePeers}langgraph.mjs"), "put"),
        "langgraph-get32" => arena.ProgramAsync("langgraph", 32, "node", Arena.Source($"{NodePeers}langgraph.mjs"), "get"),
        "dbos32" => arena.ProgramAsync("dbos", 32, "node", Arena.Source($"{NodePeers}dbos.mjs")),
        "orm32" => arena.ProgramAsync("orm", 32, "/usr/bin/python3", Arena.Source("peers/python/orm.py")),
        _ => throw new ArgumentException($"There is no turn {turn}.", nameof(turn)),
    };

    private static Contest Faster(string id, string work, string against, double target, string mine, string theirs) =>
        new(id, work, against, Target.AtLeast(target, "×"), [mine, theirs], Ratio);

    private static double Ratio(Measured[] measured) => measured[0].Rate / measured[1].Rate;
}
