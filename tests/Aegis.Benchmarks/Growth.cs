using System.Globalization;

namespace Aegis.Benchmarks;

/// <summary>What a log that grows, long chains, large snapshots and other readers cost.</summary>
internal static class Growth
{
    private const string About =
        """
        The work is a transition with a JSON snapshot of 1 KiB on workflows of each caller's own over PostgreSQL, 64 callers, where
        nothing else is said. What grows is measured once, all else in every round.
        """;

    public static Task<int> RunAsync(RunOptions options) => Contests.RunAsync("growth", About, Rows(options.Records), TurnAsync, options);

    private static Contest[] Rows(long records) =>
    [
        new("records", Text($"the last {Arena.SpanOf(records):N0} of {records:N0} records"), "the first", Target.AtLeast(0.85, "×"),
            ["grown64"], m => m[0].Growth) { IsOnce = true },
        new("chain", Text($"median time of a transition in the last hundredth of a chain of {Arena.SpanOf(records):N0}, 1 caller"), "in the first",
            Target.AtMost(1.2, "×"), ["chain1"], m => m[0].Growth) { IsOnce = true },
        .. Snapshots(1), .. Snapshots(64), .. Snapshots(1024),
        Contest.Faster("held", "while a session holds a REPEATABLE READ snapshot", "without", Target.None("×"), "held64", "free64"),
        Contest.Faster("scrub", "with the scrub as it is by default", "without", Target.AtLeast(0.95, "×"), "scrubbed64", "unscrubbed64"),
        Contest.Faster("scrub-late", "with a scrub that is late and never rests beyond its budget", "without", Target.AtLeast(0.95, "×"),
            "scrubbed-late64", "unscrubbed64"),
    ];

    private static IEnumerable<Contest> Snapshots(int kibibytes)
    {
        var id = $"snapshot{kibibytes}";
        yield return Contest.Alone(id, Text($"snapshots of {kibibytes:N0} KiB"), Target.None("a second"));
        yield return new Contest($"{id}-mb", "the same in bytes of snapshots", "", Target.None("MB/s"), [id], m => m[0].Value * kibibytes * 1024 / 1e6);
    }

    private static Task<Measured> TurnAsync(Arena arena, string turn) => turn switch
    {
        "grown64" => arena.GrownAsync(),
        "chain1" => arena.ChainAsync(),
        "snapshot1" => arena.SnapshotsAsync(1),
        "snapshot64" => arena.SnapshotsAsync(64),
        "snapshot1024" => arena.SnapshotsAsync(1024),
        "free64" => arena.AegisAsync("held", Work.Transition, 64),
        "held64" => arena.HeldAsync("held"),
        "scrubbed64" => arena.ScrubbedAsync("scrub_default"),
        // The first step is followed by a pause that no turn lives to see.
        "unscrubbed64" => arena.ScrubbedAsync("scrub_off", ("AEGIS_SCRUB_PERIOD", "365d"), ("AEGIS_SCRUB_BYTES_PER_SECOND", "65536")),
        "scrubbed-late64" => arena.ScrubbedAsync("scrub_late", ("AEGIS_SCRUB_PERIOD", "1s")),
        _ => throw new ArgumentException($"There is no turn {turn}.", nameof(turn)),
    };

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
