using System.Globalization;
using Aegis.Tests;

namespace Aegis.Benchmarks;

/// <summary>
/// Two builds of the server beside each other. In each round both run, one after the other, each in a process of its own on a
/// new database of the same cluster, and what counts is the ratio within the round: the machine's moods are in both.
/// </summary>
internal static class Builds
{
    public static async Task RunAsync(FileInfo other, int callers, int rounds, int seconds, bool sqlite)
    {
        var (mine, theirs, ratios) = (new List<double>(), new List<double>(), new List<double>());
        try
        {
            for (var round = 1; round <= rounds; round++)
            {
                // Who goes first changes, so that neither always finds the warmer machine.
                var isMineFirst = round % 2 == 1;
                var first = await RateAsync(isMineFirst ? ServerUnderTest.ThisBuild : other.FullName, callers, seconds, sqlite);
                var second = await RateAsync(isMineFirst ? other.FullName : ServerUnderTest.ThisBuild, callers, seconds, sqlite);
                var (my, their) = isMineFirst ? (first, second) : (second, first);
                mine.Add(my);
                theirs.Add(their);
                ratios.Add(my / their);
                Write($"round {round}: this {my:0} a second, other {their:0} a second, ratio {my / their:0.000}");
            }
        }
        finally
        {
            await PostgresCluster.EndRunAsync();
        }
        Write($"{callers} callers, {(sqlite ? "SQLite" : "PostgreSQL")}, {rounds} rounds of {seconds} s, {Environment.ProcessorCount} processors");
        Write($"this  {Summary(mine, "0")}");
        Write($"other {Summary(theirs, "0")}");
        Write($"ratio {Summary(ratios, "0.000")}");
    }

    private static async Task<double> RateAsync(string assembly, int callers, int seconds, bool sqlite)
    {
        await using var server = await ServerUnderTest.StartAsync(assembly, sqlite);
        using var load = new Load(new LoadOrder([server.Address], Work.Transition, callers, Warm: 2, seconds));
        return (await load.RunAsync()).Rate;
    }

    private static string Summary(List<double> values, string format)
    {
        values.Sort();
        string Text(double value) => value.ToString(format, CultureInfo.InvariantCulture);
        return $"median {Text(values[values.Count / 2])} (min {Text(values[0])}, max {Text(values[^1])})";
    }

    private static void Write(FormattableString line) => Console.WriteLine(line.ToString(CultureInfo.InvariantCulture));
}
