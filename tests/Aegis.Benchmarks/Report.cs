using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Aegis.Benchmarks;

/// <summary>What a value should be, and in what it is counted.</summary>
internal sealed record Target(string Unit, double? Min, double? Max)
{
    public static Target AtLeast(double min, string unit) => new(unit, min, null);

    public static Target AtMost(double max, string unit) => new(unit, null, max);

    /// <summary>For reference.</summary>
    public static Target None(string unit) => new(unit, null, null);

    public bool IsMetBy(double value) => !(value < Min) && !(value > Max);

    public override string ToString() => this switch
    {
        { Min: { } min } => string.Create(CultureInfo.InvariantCulture, $"≥ {min}"),
        { Max: { } max } => string.Create(CultureInfo.InvariantCulture, $"≤ {max}"),
        _ => "",
    };
}

/// <summary>A row of the results.</summary>
internal sealed record Row(string Id, string Work, string Against, double Median, double Min, double Max, string Unit, string Target, bool Met)
{
    public static Row Of(string id, string work, string against, Target target, IEnumerable<double> values)
    {
        var sorted = values.Order().ToList();
        var median = sorted[sorted.Count / 2];
        return new Row(id, work, against, median, sorted[0], sorted[^1], target.Unit, target.ToString(), target.IsMetBy(median));
    }
}

/// <summary>What a run came to, with the machine and the settings it ran on.</summary>
internal sealed record Report(string Settings, int Rounds, double Seconds, IReadOnlyList<Row> Rows, IReadOnlyList<Row> Absolute)
{
    private static readonly JsonSerializerOptions Json = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    public static string Machine { get; } = string.Create(CultureInfo.InvariantCulture,
        $"{Environment.ProcessorCount} processors, {GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / (1 << 30)} GiB, .NET {Environment.Version}");

    public string ToMarkdown()
    {
        var text = new StringBuilder();
        text.AppendLine("# Compared").AppendLine();
        text.AppendLine(CultureInfo.InvariantCulture, $"{DateTime.UtcNow:yyyy-MM-dd}. {Machine}, shared by all that runs, over loopback.");
        text.AppendLine(CultureInfo.InvariantCulture, $"PostgreSQL: {Settings}. SQLite: synchronous=FULL. Answered after the commit.");
        text.AppendLine("The work is a transition with a JSON snapshot of 1 KiB on workflows of each caller's own, where nothing else is said. Peers are");
        text.AppendLine("untuned; LangGraph, DBOS and SQLAlchemy run the callers in their own single process, without the network hop of a service.");
        text.AppendLine(CultureInfo.InvariantCulture, $"{Rounds} rounds of {Seconds} s a turn; ratios are formed within a round.").AppendLine();
        Table(text, Rows);
        text.AppendLine("## What each did").AppendLine();
        text.AppendLine("The same runs in absolute figures, which another machine or hour would change.").AppendLine();
        Table(text, Absolute);
        return text.ToString();
    }

    public async Task WriteAsync(string directory)
    {
        Directory.CreateDirectory(directory);
        await File.WriteAllTextAsync(Path.Combine(directory, "compare.md"), ToMarkdown());
        await File.WriteAllTextAsync(Path.Combine(directory, "compare.json"), JsonSerializer.Serialize(
            new { Machine, Settings, Rounds, Seconds, Date = DateTime.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture), Rows, Absolute }, Json) + "\n");
    }

    private static void Table(StringBuilder text, IEnumerable<Row> rows)
    {
        text.AppendLine("| id | work | against | median | min | max | unit | target | met |");
        text.AppendLine("|---|---|---|---:|---:|---:|---|---|---|");
        foreach (var row in rows)
        {
            text.AppendLine(CultureInfo.InvariantCulture,
                $"| {row.Id} | {row.Work} | {row.Against} | {Number(row.Median)} | {Number(row.Min)} | {Number(row.Max)} | {row.Unit} | {row.Target} | {(row.Target.Length == 0 ? "" : row.Met ? "yes" : "no")} |");
        }
        text.AppendLine();
    }

    /// <summary>Three digits that count.</summary>
    private static string Number(double value) => value.ToString(value >= 100 ? "0" : value >= 10 ? "0.0" : "0.00", CultureInfo.InvariantCulture);
}
