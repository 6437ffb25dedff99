using System.Globalization;
using System.Text;
using CsvHelper;
using CsvHelper.Configuration;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>One event of an event log.</summary>
/// <param name="Line">Where it stands in the file, from 1.</param>
internal sealed record LoggedEvent(
    int Line, string State, string Actor, DateTimeOffset? OccurredAt, IReadOnlyList<KeyValuePair<string, string>> Metadata);

/// <summary>The events of one case, in their order.</summary>
internal sealed record LoggedCase(string Id, IReadOnlyList<LoggedEvent> Events);

/// <summary>Which columns of a file say what.</summary>
internal sealed record EventColumns(string Case, string State, string? Actor, string? Time, IReadOnlyList<string> Metadata);

/// <summary>
/// An event log in CSV, as process mining tools write it: a header, then one event a row. All of it is read and checked before
/// anything is sent, since what is recorded stays.
/// </summary>
internal static class EventLog
{
    private static readonly UTF8Encoding StrictUtf8 = new(false, throwOnInvalidBytes: true);

    /// <summary>
    /// The cases in order of appearance. The events of a case are in the order of the file, or in that of their times; events of
    /// the same time keep the order of the file.
    /// </summary>
    /// <exception cref="UsageException">A column is missing or a row cannot be used; names the line.</exception>
    public static IReadOnlyList<LoggedCase> Read(Stream stream, EventColumns columns)
    {
        using var text = new StreamReader(stream, StrictUtf8);
        using var csv = new CsvReader(text, new CsvConfiguration(CultureInfo.InvariantCulture)
        {
            BadDataFound = bad => throw new UsageException($"Line {bad.Context.Parser?.RawRow}: the quotes do not match."),
            LineBreakInQuotedFieldIsBadData = false,
        });
        try
        {
            return Read(csv, columns);
        }
        catch (DecoderFallbackException)
        {
            throw new UsageException($"The file is not in UTF-8, somewhere after line {csv.Parser.RawRow}.");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UsageException(e.Message);
        }
    }

    /// <summary>Refuses what the server would refuse, before the first event is recorded.</summary>
    /// <exception cref="UsageException">An event is beyond the limits; names the line.</exception>
    public static void Check(IEnumerable<LoggedCase> cases, Pb.Limits limits)
    {
        foreach (var (id, events) in cases)
        {
            foreach (var logged in events)
            {
                var longest = new[] { id, logged.State, logged.Actor }.MaxBy(Encoding.UTF8.GetByteCount)!;
                if (Encoding.UTF8.GetByteCount(longest) > limits.NameBytesMax)
                    throw Wrong(logged.Line, $"\"{longest[..20]}…\" is longer than {limits.NameBytesMax} bytes");
                if (logged.Metadata.Count > limits.MetadataEntriesMax)
                    throw Wrong(logged.Line, $"more than {limits.MetadataEntriesMax} columns of metadata");
                var bytes = logged.Metadata.Sum(m => Encoding.UTF8.GetByteCount(m.Key) + Encoding.UTF8.GetByteCount(m.Value));
                if (bytes > limits.MetadataBytesMax)
                    throw Wrong(logged.Line, $"{bytes} bytes of metadata, and at most {limits.MetadataBytesMax} are taken");
                if (new[] { id, logged.State, logged.Actor }.Concat(logged.Metadata.Select(m => m.Value)).Any(v => v.Contains('\0')))
                    throw Wrong(logged.Line, "the character U+0000 cannot be recorded");
            }
        }
    }

    private static List<LoggedCase> Read(CsvReader csv, EventColumns columns)
    {
        if (!csv.Read() || !csv.ReadHeader())
            throw new UsageException("The file is empty.");
        var header = csv.HeaderRecord!;
        var caseIndex = IndexOf(header, columns.Case);
        var stateIndex = IndexOf(header, columns.State);
        var actorIndex = columns.Actor is null ? -1 : IndexOf(header, columns.Actor);
        var timeIndex = columns.Time is null ? -1 : IndexOf(header, columns.Time);
        var metadataIndexes = columns.Metadata.Distinct().Select(c => IndexOf(header, c)).ToArray();

        var cases = new Dictionary<string, List<LoggedEvent>>();
        while (csv.Read())
        {
            var line = LineOf(csv.Parser);
            var row = csv.Parser.Record!;
            if (row.Length != header.Length)
                throw Wrong(line, $"{row.Length} fields, but the header has {header.Length}");
            var id = Required(row, caseIndex);
            if (!cases.TryGetValue(id, out var events))
                cases[id] = events = [];
            events.Add(new LoggedEvent(line, Required(row, stateIndex), actorIndex < 0 ? "" : row[actorIndex],
                timeIndex < 0 ? null : TimeOf(line, Required(row, timeIndex)),
                [.. metadataIndexes.Where(i => row[i].Length > 0).Select(i => KeyValuePair.Create(header[i], row[i]))]));

            string Required(string[] row, int index) =>
                row[index].Length > 0 ? row[index] : throw Wrong(line, $"the column \"{header[index]}\" is empty");
        }
        if (cases.Count == 0)
            throw new UsageException("The file has no events.");
        // OrderBy is stable.
        return [.. cases.Select(c => new LoggedCase(c.Key, [.. c.Value.OrderBy(e => e.OccurredAt)]))];
    }

    private static int IndexOf(string[] header, string column) => header.Count(c => c == column) switch
    {
        0 => throw new UsageException($"The file has no column \"{column}\"; it has: {string.Join(", ", header)}."),
        1 => Array.IndexOf(header, column),
        _ => throw new UsageException($"The file has more than one column \"{column}\"."),
    };

    /// <summary>The line a row begins on: the parser counts to its end, and a quoted field may hold line breaks.</summary>
    private static int LineOf(IParser parser) =>
        parser.RawRow - parser.RawRecord.AsSpan().TrimEnd("\r\n").Count('\n');

    private static DateTimeOffset TimeOf(int line, string text)
    {
        if (!Inputs.TryTime(text, out var time))
            throw Wrong(line, $"\"{text}\" is not a time such as 2026-01-31T12:00:00+01:00");
        return time > DateTimeOffset.UnixEpoch
            ? time
            : throw Wrong(line, $"\"{text}\" is before 1970 and cannot be recorded");
    }

    private static UsageException Wrong(int line, string problem) => new($"Line {line}: {problem}.");
}
