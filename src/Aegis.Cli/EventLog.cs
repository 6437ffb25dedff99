using System.Globalization;
using CsvHelper;
using CsvHelper.Configuration;
using Google.Protobuf.WellKnownTypes;

namespace Aegis.Cli;

/// <summary>One event of an event log.</summary>
internal sealed record LoggedEvent(
    string State, string Actor, Timestamp? OccurredAt, IReadOnlyList<KeyValuePair<string, string>> Metadata);

/// <summary>Which columns of a file say what.</summary>
internal sealed record EventColumns(string Case, string State, string? Actor, string? Time, IReadOnlyList<string> Metadata);

/// <summary>
/// An event log in CSV, as process mining tools write it: one event a row, the events of one case in order of time. All of it
/// is read and checked before anything is sent.
/// </summary>
internal static class EventLog
{
    /// <summary>The cases in order of appearance, each with its events.</summary>
    /// <exception cref="UsageException">A column is missing or a row cannot be used; names the line.</exception>
    public static IReadOnlyList<(string Case, IReadOnlyList<LoggedEvent> Events)> Read(TextReader text, EventColumns columns)
    {
        using var csv = new CsvReader(text, new CsvConfiguration(CultureInfo.InvariantCulture)
        {
            BadDataFound = bad => throw new UsageException($"Line {bad.Context.Parser?.RawRow}: the quotes do not match."),
            MissingFieldFound = null,
        });
        if (!csv.Read() || !csv.ReadHeader())
            throw new UsageException("The file is empty.");
        var named = new[] { columns.Case, columns.State, columns.Actor, columns.Time }.OfType<string>().Concat(columns.Metadata);
        foreach (var column in named)
        {
            if (!csv.HeaderRecord!.Contains(column))
            {
                throw new UsageException(
                    $"The file has no column \"{column}\"; it has: {string.Join(", ", csv.HeaderRecord!)}.");
            }
        }
        var cases = new Dictionary<string, List<LoggedEvent>>();
        while (csv.Read())
        {
            var line = csv.Parser.RawRow;
            var id = Required(csv, columns.Case, line);
            if (!cases.TryGetValue(id, out var events))
                cases[id] = events = [];
            events.Add(new LoggedEvent(
                Required(csv, columns.State, line),
                columns.Actor is null ? "" : csv.GetField(columns.Actor) ?? "",
                columns.Time is null ? null : TimeOf(csv, columns.Time, line),
                [.. columns.Metadata.Select(c => KeyValuePair.Create(c, csv.GetField(c) ?? ""))]));
        }
        // OrderBy is stable: events of the same time keep the order of the file.
        return [.. cases.Select(c => (c.Key, (IReadOnlyList<LoggedEvent>)[.. c.Value.OrderBy(e => e.OccurredAt?.ToDateTime())]))];
    }

    private static string Required(CsvReader csv, string column, int line) =>
        csv.GetField(column) is { Length: > 0 } value
            ? value
            : throw new UsageException($"Line {line}: the column \"{column}\" is empty.");

    private static Timestamp TimeOf(CsvReader csv, string column, int line)
    {
        var text = Required(csv, column, line);
        return Inputs.TryTime(text, out var time)
            ? time
            : throw new UsageException($"Line {line}: \"{text}\" in the column \"{column}\" is not a time.");
    }
}
