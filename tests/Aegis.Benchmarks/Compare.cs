namespace Aegis.Benchmarks;

/// <summary>Aegis beside what it is compared with, and what it takes by itself.</summary>
internal static class Compare
{
    private const string NodePeers = "peers/node/";

    private const string About =
        """
        The work is a transition with a JSON snapshot of 1 KiB on workflows of each caller's own, where nothing else is said. Peers are
        untuned; LangGraph, DBOS and SQLAlchemy run the callers in their own single process, without the network hop of a service.
        """;

    private static readonly Contest[] Rows =
    [
        Faster("plain64", "64 callers", "pgbench, plain transaction, 64 clients", 4, "aegis64", "pgbench-plain64") with { Gate = 1 },
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
            ["aegis64", "naive64"], m => m[1].Cpu!.Total / m[0].Cpu!.Total) { Gate = 1.8 },
        Faster("two64", "two servers on one database, 32 callers each", "one server, 64 callers", 0.8, "aegis-two64", "aegis64"),
        Faster("refused64", "refused transitions, 64 callers", "transitions", 1, "aegis-refused64", "aegis64"),
        Contest.Faster("hot64", "64 callers on ten workflows", "on workflows of their own", Target.None("×"), "aegis-hot64", "aegis64"),
        new("ceiling", "empty unary calls, 64 callers", "", Target.None("a second"), ["aegis-empty64"], m => m[0].Value),
        Contest.Alone("pending100", "100 pending workflows resumed with their leases", Target.AtMost(30, "ms")),
        Contest.Alone("pending10k", "10,000 pending workflows resumed with their leases", Target.AtMost(500, "ms")),
        Contest.Alone("pending100k", "100,000 pending workflows resumed with their leases", Target.AtMost(5000, "ms")),
        Contest.Alone("verify", "VerifyLog, everything checked", Target.AtLeast(400_000, "records a second")),
        Contest.Alone("start", "from the process's start to the first answer that writes are taken", Target.AtMost(0.6, "s")),
        Contest.Alone("memory", "resident memory of the server, 256 callers", Target.AtMost(250, "MB")) with { IsOnce = true },
        new("memory-growth", "the same in the last tenth of the records", "in the first", Target.AtMost(1.2, "×"), ["memory"], m => m[0].Growth)
        {
            IsOnce = true,
        },
        Contest.Alone("bytes", "on disk for a transition, 64 callers", Target.AtMost(2100, "bytes")),
    ];

    public static Task<int> RunAsync(RunOptions options) => Contests.RunAsync("compare", About, Rows, TurnAsync, options);

    /// <summary>The few rows that are held to, against what no change may fall below.</summary>
    public static Task<int> GateAsync(RunOptions options) => Contests.RunAsync("gate", About,
        [.. Rows.Where(c => c.Gate is not null).Select(c => c with { Target = Target.AtLeast(c.Gate!.Value, "×") })], TurnAsync,
        options with { MustMeet = true });

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
        "pending100" => arena.PendingAsync(turn, 100),
        "pending10k" => arena.PendingAsync(turn, 10_000),
        "pending100k" => arena.PendingAsync(turn, 100_000),
        "verify" => arena.VerifyAsync(),
        "start" => arena.StartAsync(),
        "memory" => arena.MemoryAsync(),
        "bytes" => arena.BytesAsync(),
        _ => throw new ArgumentException($"There is no turn {turn}.", nameof(turn)),
    };

    private static Contest Faster(string id, string work, string against, double target, string mine, string theirs) =>
        Contest.Faster(id, work, against, Target.AtLeast(target, "×"), mine, theirs);
}
