using System.Globalization;
using Aegis.Tests;

namespace Aegis.Benchmarks;

/// <summary>How much is measured, and of what.</summary>
/// <param name="Records">How many records what depends on their number goes up to.</param>
/// <param name="Only">The ids of the rows wanted; none = all.</param>
/// <param name="Write">Whether the report is kept.</param>
/// <param name="MustMeet">Whether a row that misses its target fails the run.</param>
internal sealed record RunOptions(int Rounds, double Seconds, long Records, string[] Only, bool Write, bool MustMeet = false);

/// <summary>A row: what of a round's turns it is made of, and how. A turn may serve several rows, and has its own name.</summary>
internal sealed record Contest(string Id, string Work, string Against, Target Target, string[] Turns, Func<Measured[], double> Value)
{
    /// <summary>Its turns are too long to be repeated: they have one, in the first round.</summary>
    public bool IsOnce { get; init; }

    /// <summary>What no change may fall below, where that is held to: far from the target, since the machine's moods must not decide.</summary>
    public double? Gate { get; init; }

    /// <summary>How many times as fast the first of two turns is.</summary>
    public static Contest Faster(string id, string work, string against, Target target, string mine, string theirs) =>
        new(id, work, against, target, [mine, theirs], m => m[0].Value / m[1].Value);

    /// <summary>A value by itself.</summary>
    public static Contest Alone(string id, string work, Target target) => new(id, work, "", target, [id], m => m[0].Value);
}

/// <summary>
/// In each round everybody has a turn, and a ratio is formed within the round, so that the machine's moods are on both sides of it;
/// the order is turned round each time.
/// </summary>
internal static class Contests
{
    private const string Slow = "slow-";

    /// <summary>Runs those that are wanted, and tells what came of it.</summary>
    /// <param name="name">Of the report.</param>
    /// <param name="about">What a reader has to know of it.</param>
    /// <param name="all">All rows that there are.</param>
    /// <param name="turnAsync">Runs one turn.</param>
    public static async Task<int> RunAsync(
        string name, string about, IReadOnlyList<Contest> all, Func<Arena, string, Task<Measured>> turnAsync, RunOptions options)
    {
        if (options.Only.Except(all.Select(c => c.Id)).FirstOrDefault() is { } unknown)
        {
            Console.Error.WriteLine($"There is no row {unknown}. There are: {string.Join(' ', all.Select(c => c.Id))}");
            return 1;
        }
        var contests = all.Where(c => options.Only.Length == 0 || options.Only.Contains(c.Id)).ToList();
        var measured = contests.SelectMany(c => c.Turns).Distinct().ToDictionary(t => t, _ => new List<Measured>());
        var once = contests.Where(c => c.IsOnce).SelectMany(c => c.Turns).ToHashSet();
        string settings;
        IReadOnlyList<Share> budget;
        await using (var arena = await Arena.OpenAsync(options.Seconds, options.Records, slowDisk: false))
        {
            settings = await arena.SettingsAsync();
            await RunAsync(arena, isSlow: false);
            budget = arena.Budget;
        }
        if (measured.Keys.Any(IsSlow))
        {
            await using var slow = await Arena.OpenAsync(options.Seconds, options.Records, slowDisk: true);
            await RunAsync(slow, isSlow: true);
        }
        TemporaryDirectory.RemoveAll();
        var report = new Report(name, about, settings, options,
            [.. contests.Select(c => Row.Of(c.Id, c.Work, c.Against, c.Target,
                Enumerable.Range(0, c.IsOnce ? 1 : options.Rounds).Select(r => c.Value([.. c.Turns.Select(t => measured[t][r])]))))],
            Absolute(all, measured), budget);
        Console.WriteLine(report.ToMarkdown());
        if (options.Write)
            await report.WriteAsync(Arena.Source("results"));
        return options.MustMeet && !report.Rows.All(row => row.Met) ? 1 : 0;

        async Task RunAsync(Arena arena, bool isSlow)
        {
            var turns = measured.Keys.Where(t => IsSlow(t) == isSlow).ToList();
            for (var round = 1; round <= options.Rounds; round++)
            {
                foreach (var turn in (round % 2 == 1 ? turns : turns.AsEnumerable().Reverse()).Where(t => round == 1 || !once.Contains(t)))
                {
                    var result = await turnAsync(arena, turn);
                    measured[turn].Add(result);
                    Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture,
                        $"{round}  {turn,-22} {Report.Number(result.Value),8} {result.Cpu}"));
                }
            }
        }
    }

    private static bool IsSlow(string turn) => turn.StartsWith(Slow, StringComparison.Ordinal);

    /// <summary>What the rows were formed of. A turn that is itself a row has been told.</summary>
    private static List<Row> Absolute(IReadOnlyList<Contest> all, Dictionary<string, List<Measured>> measured) =>
    [
        .. measured.Where(t => all.All(c => c.Id != t.Key))
            .Select(t => Row.Of(t.Key, "absolute", "", Target.None("a second"), t.Value.Select(m => m.Value))),
        .. measured.Where(t => t.Value[0].Cpu is not null)
            .Select(t => Row.Of(t.Key, "CPU", "", Target.None("µs"), t.Value.Select(m => m.Cpu!.Total))),
    ];
}
