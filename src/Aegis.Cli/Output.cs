using System.Globalization;
using System.Text;
using System.Text.Json;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Spectre.Console;

namespace Aegis.Cli;

/// <summary>
/// What a command prints: tables and lines for people, JSON for scripts. Data of users never reaches a terminal as control
/// characters, nor Spectre as markup.
/// </summary>
internal sealed class Output
{
    private const int WidthWithoutTerminal = 200;

    private static readonly JsonFormatter Json = new(
        JsonFormatter.Settings.Default.WithPreserveProtoFieldNames(true).WithFormatDefaultValues(true));

    private readonly TextWriter _stdout;
    private readonly TextWriter _stderr;
    private readonly IAnsiConsole _console;
    private readonly IAnsiConsole _errorConsole;
    private readonly Lock _lock = new();

    public Output(TextWriter stdout, TextWriter stderr, bool isJson)
    {
        (_stdout, _stderr, IsJson) = (stdout, stderr, isJson);
        _console = ConsoleOf(stdout, !Console.IsOutputRedirected && stdout == Console.Out);
        _errorConsole = ConsoleOf(stderr, !Console.IsErrorRedirected && stderr == Console.Error);
    }

    public bool IsJson { get; }

    /// <summary>A message for scripts; people are told something else.</summary>
    public void Message(IMessage message)
    {
        if (IsJson)
            Write(ToJson(message));
    }

    /// <summary>A document for scripts that is made of several messages.</summary>
    public void Document(string json)
    {
        if (IsJson)
            Write(json);
    }

    /// <summary>An object for scripts that is no message of the contract.</summary>
    public void Object(object value)
    {
        if (IsJson)
            Write(JsonSerializer.Serialize(value));
    }

    /// <summary>A line for people.</summary>
    public void Line(string text)
    {
        if (!IsJson)
            Write(Clean(text));
    }

    /// <summary>
    /// A table for people. Where it is too wide, cells of the columns that may wrap go on in further lines; of a cell's own
    /// lines each begins a new one.
    /// </summary>
    public void Table(IReadOnlyList<Column> columns, IEnumerable<IReadOnlyList<string>> rows)
    {
        if (IsJson)
            return;
        var table = new Table().Border(TableBorder.None);
        foreach (var column in columns)
        {
            var header = new Text(column.Name.ToUpperInvariant(), new Style(decoration: Decoration.Bold));
            table.AddColumn(new TableColumn(header) { NoWrap = !column.Wraps, Padding = new Padding(0, 0, 2, 0) });
        }
        var isEmpty = true;
        foreach (var row in rows)
        {
            table.AddRow(row.Select((cell, i) => new Text(
                string.Join('\n', cell.Split('\n').Select(Clean)), columns[i].Name == "status" ? StyleOf(cell) : Style.Plain)));
            isEmpty = false;
        }
        if (isEmpty)
            return;
        lock (_lock)
            _console.Write(table);
    }

    /// <summary>Shows progress on the error stream, where a terminal is; elsewhere only does the work.</summary>
    public async Task ProgressAsync(string description, double total, Func<Action<double>, Task> work)
    {
        if (IsJson || !_errorConsole.Profile.Capabilities.Interactive)
        {
            await work(_ => { });
            return;
        }
        await _errorConsole.Progress()
            .AutoClear(true)
            .Columns(new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(), new RemainingTimeColumn())
            .StartAsync(async context =>
            {
                var task = context.AddTask(Markup.Escape(description), maxValue: Math.Max(total, 1));
                await work(done => task.Increment(done));
                task.Value = task.MaxValue;
            });
    }

    /// <summary>Something to know that is no result and no failure; scripts need it not.</summary>
    public void Notice(string text)
    {
        if (!IsJson)
            TellError(text);
    }

    public void Fail(Failure failure)
    {
        // Who interrupts, or closes the pipe, knows.
        if (failure.ExitCode is ExitCode.Interrupted or ExitCode.OutputClosed)
            return;
        if (IsJson)
        {
            var (code, reason, message, metadata) = (failure.Code, failure.Reason, failure.Message, failure.Metadata);
            _stderr.WriteLine(JsonSerializer.Serialize(new { error = new { code, reason, message, metadata } }));
        }
        else
        {
            TellError(failure.ToString());
        }
    }

    public static string ToJson(IMessage message) => Json.Format(message);

    public static string Time(Timestamp? time) =>
        time?.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss", CultureInfo.InvariantCulture) ?? "";

    /// <summary>An enum's value as operators and the contract say it: RUNNING, FIELD_MODIFIED.</summary>
    public static string Name(global::System.Enum value) => string.Concat(value.ToString()
        .Select((c, i) => char.IsUpper(c) && i > 0 ? $"_{c}" : $"{char.ToUpperInvariant(c)}"));

    public static string Hex(ByteString bytes, int most = 32) => Convert.ToHexStringLower(bytes.Span[..Math.Min(most, bytes.Length)]);

    /// <summary>
    /// Text whose every character can be seen. Escape sequences could move the cursor and feign lines that were never printed,
    /// and marks of direction could turn the order of what is read.
    /// </summary>
    public static string Clean(string text)
    {
        if (!text.Any(IsUnsafe))
            return text;
        var clean = new StringBuilder();
        foreach (var c in text)
        {
            if (IsUnsafe(c))
                clean.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
            else
                clean.Append(c);
        }
        return clean.ToString();
    }

    private static bool IsUnsafe(char c) => char.GetUnicodeCategory(c)
        is UnicodeCategory.Control or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator
        || c is '\u061c' or '\u200e' or '\u200f' or (>= '\u202a' and <= '\u202e') or (>= '\u2066' and <= '\u2069');

    private static Style StyleOf(string status) => status switch
    {
        "RUNNING" => new Style(Color.Blue),
        "WAITING" => new Style(Color.Olive),
        "COMPLETED" or "SERVING" => new Style(Color.Green),
        "FAILED" or "CANCELLED" or "NOT_SERVING" or "UNKNOWN" or "UNREACHABLE" => new Style(Color.Maroon),
        _ => Style.Plain,
    };

    private void Write(string line)
    {
        lock (_lock)
            _stdout.WriteLine(line);
    }

    private void TellError(string text)
    {
        var line = $"aegis: {Clean(text)}";
        lock (_lock)
        {
            // Beside a progress bar only the console knows where to write.
            if (_errorConsole.Profile.Capabilities.Interactive)
                _errorConsole.WriteLine(line);
            else
                _stderr.WriteLine(line);
        }
    }

    private static IAnsiConsole ConsoleOf(TextWriter writer, bool isTerminal)
    {
        var isPlain = !isTerminal || Environment.GetEnvironmentVariable("NO_COLOR") is { Length: > 0 };
        var console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(writer),
            Ansi = isTerminal ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = isPlain ? ColorSystemSupport.NoColors : ColorSystemSupport.Detect,
            Interactive = isTerminal ? InteractionSupport.Detect : InteractionSupport.No,
        });
        if (!isTerminal)
            console.Profile.Width = WidthWithoutTerminal;
        return console;
    }
}

/// <summary>A column of a table.</summary>
/// <param name="Name">Its header.</param>
/// <param name="Wraps">Whether its cells may take several lines where the table is too wide.</param>
internal sealed record Column(string Name, bool Wraps = false)
{
    public static implicit operator Column(string name) => new(name);
}
