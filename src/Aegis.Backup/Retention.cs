using System.Globalization;

namespace Aegis.Backup;

/// <summary>Which proven backups are kept: the newest few, and of each of the last days and weeks that have one the newest.</summary>
/// <param name="Last">How many of the newest, at least 1: the newest proven one is never given up.</param>
/// <param name="Daily">Of how many days, by UTC.</param>
/// <param name="Weekly">Of how many weeks, which begin on Mondays.</param>
public sealed record Retention(int Last, int Daily, int Weekly)
{
    /// <param name="takenAt">When each was taken.</param>
    /// <returns>The places of those to keep.</returns>
    public IReadOnlySet<int> Keep(IReadOnlyList<DateTimeOffset> takenAt)
    {
        List<int> newestFirst = [.. Enumerable.Range(0, takenAt.Count).OrderByDescending(i => takenAt[i])];
        var kept = newestFirst.Take(Math.Max(Last, 1)).ToHashSet();
        kept.UnionWith(newestFirst.GroupBy(i => takenAt[i].UtcDateTime.Date).Take(Daily).Select(day => day.First()));
        kept.UnionWith(newestFirst.GroupBy(i => (ISOWeek.GetYear(takenAt[i].UtcDateTime), ISOWeek.GetWeekOfYear(takenAt[i].UtcDateTime)))
            .Take(Weekly).Select(week => week.First()));
        return kept;
    }
}
