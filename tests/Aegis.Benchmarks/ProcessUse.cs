using System.Globalization;

namespace Aegis.Benchmarks;

/// <summary>What processes use, as Linux counts it in /proc.</summary>
internal static class ProcessUse
{
    private const double TicksPerSecond = 100;

    /// <summary>The CPU seconds of processes, of all they started and of those that have ended since.</summary>
    public static double CpuSeconds(params IEnumerable<int> roots)
    {
        var all = Directory.GetDirectories("/proc")
            .Select(path => int.TryParse(Path.GetFileName(path), out var id) ? Stat(id) : null)
            .OfType<(int Id, int Parent, long Ticks)>()
            .ToList();
        var (counted, ticks) = (new HashSet<int>(roots), 0L);
        // Children have been found once a round finds no more.
        for (var known = 0; known != counted.Count;)
        {
            known = counted.Count;
            counted.UnionWith(all.Where(p => counted.Contains(p.Parent)).Select(p => p.Id));
        }
        ticks = all.Where(p => counted.Contains(p.Id)).Sum(p => p.Ticks);
        return ticks / TicksPerSecond;
    }

    /// <summary>The memory that a process holds, in bytes.</summary>
    public static long ResidentBytes(int id) => File.ReadLines($"/proc/{id}/status")
        .Where(line => line.StartsWith("VmRSS:", StringComparison.Ordinal))
        .Select(line => long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * 1024)
        .Single();

    private static (int Id, int Parent, long Ticks)? Stat(int id)
    {
        try
        {
            // The name in parentheses may hold anything; the fields count from behind it: state, ppid, …, utime, stime, cutime, cstime.
            var stat = File.ReadAllText($"/proc/{id}/stat");
            var fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            return (id, int.Parse(fields[1], CultureInfo.InvariantCulture),
                fields[11..15].Sum(f => long.Parse(f, CultureInfo.InvariantCulture)));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It has just ended.
            return null;
        }
    }
}
