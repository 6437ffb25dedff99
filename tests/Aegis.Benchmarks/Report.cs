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

/// <summary>What a part of the database takes of the disk.</summary>
/// <param name="What">Table, index or column.</param>
/// <param name="Bytes">For a transition.</param>
internal sealed record Share(string What, string Name, double Bytes);

/// <summary>What a run came to, with the machine and the settings it ran on.</summary>
/// <param name="About">What a reader has to know of it.</param>
/// <param name="Budget">Where the bytes on disk go; empty where they were not measured.</param>
internal sealed record Report(string Name, string About, string Settings, RunOptions Options,
    IReadOnlyList<Row> Rows, IReadOnlyList<Row> Absolute, IReadOnlyList<Share> Budget)
{
    private static readonly JsonSerializerOptions Json = new()
    {
        WriteIndented = true,
        // Of a turn too short for one call.
        NumberHandling = System.Text.Json.Serialization.JsonNumberHandling.AllowNamedFloatingPointLiterals,
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    public static string Machine { get; } = string.Create(CultureInfo.InvariantCulture,
        $"{Environment.ProcessorCount} processors, {GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / (1 << 30)} GiB, .NET {Environment.Version}");

    public string ToMarkdown()
    {
        var text = new StringBuilder();
        text.AppendLine(CultureInfo.InvariantCulture, $"# {char.ToUpperInvariant(Name[0])}{Name[1..]}").AppendLine();
        text.AppendLine(CultureInfo.InvariantCulture, $"{DateTime.UtcNow:yyyy-MM-dd}. {Machine}, shared by all that runs, over loopback.");
        text.AppendLine(CultureInfo.InvariantCulture, $"PostgreSQL: {Settings}. SQLite: synchronous=FULL. Answered after the commit.");
        text.AppendLine(About);
        text.AppendLine(CultureInfo.InvariantCulture,
            $"{Options.Rounds} rounds of {Options.Seconds} s a turn; ratios are formed within a round. What goes up to many records goes up to {Options.Records:N0}.");
        text.AppendLine();
        Table(text, Rows);
        if (Absolute.Count > 0)
        {
            text.AppendLine("## What each did").AppendLine();
            text.AppendLine("The same runs in absolute figures, which another machine or hour would change.").AppendLine();
            Table(text, Absolute);
        }
        if (Budget.Count > 0)
            BudgetTable(text);
        return text.ToString();
    }

    public async Task WriteAsync(string directory)
    {
        Directory.CreateDirectory(directory);
        await File.WriteAllTextAsync(Path.Combine(directory, $"{Name}.md"), ToMarkdown());
        await File.WriteAllTextAsync(Path.Combine(directory, $"{Name}.json"), JsonSerializer.Serialize(
            new
            {
                Machine,
                Settings,
                Options.Rounds,
                Options.Seconds,
                Options.Records,
                Date = DateTime.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture),
                Rows,
                Absolute,
                Budget,
            }, Json) + "\n");
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

    private void BudgetTable(StringBuilder text)
    {
        text.AppendLine("## Where the bytes go").AppendLine();
        text.AppendLine("On disk for a transition, from one byte on; what is kept once a workflow or a batch counts for its share. Columns are those of `record`, on average.");
        text.AppendLine().AppendLine("| what | name | bytes |").AppendLine("|---|---|---:|");
        foreach (var share in Budget)
            text.AppendLine(CultureInfo.InvariantCulture, $"| {share.What} | {share.Name} | {Number(share.Bytes)} |");
        text.AppendLine();
    }

    /// <summary>Three digits that count.</summary>
    public static string Number(double value) => value.ToString(value >= 100 ? "0" : value >= 10 ? "0.0" : "0.00", CultureInfo.InvariantCulture);
}
