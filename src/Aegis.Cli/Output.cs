using System.Globalization;
using System.Text;
using System.Text.Json;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
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
    private readonly Lock _lock = new();

    public Output(TextWriter stdout, TextWriter stderr, bool isJson)
    {
        (_stdout, _stderr, IsJson) = (stdout, stderr, isJson);
        Console = ConsoleOf(stdout, global::System.Console.IsOutputRedirected || stdout != global::System.Console.Out);
        ErrorConsole = ConsoleOf(stderr, global::System.Console.IsErrorRedirected || stderr != global::System.Console.Error);
    }

    public bool IsJson { get; }

    public IAnsiConsole Console { get; }

    private IAnsiConsole ErrorConsole { get; }

    /// <summary>A message for scripts; people are told something else.</summary>
    public void Message(IMessage message)
    {
        if (IsJson)
            Write(Json.Format(message));
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

    public void Table(IReadOnlyList<string> columns, IEnumerable<IReadOnlyList<string>> rows)
    {
        if (IsJson)
            return;
        var table = new Table().Border(TableBorder.Simple);
        foreach (var column in columns)
            table.AddColumn(new TableColumn(Markup.Escape(column)).NoWrap());
        foreach (var row in rows)
            table.AddRow([.. row.Select(cell => new Text(Clean(cell)).Overflow(Overflow.Ellipsis))]);
        Console.Write(table);
    }

    /// <summary>Shows progress on the error stream, where a terminal is; elsewhere only does the work.</summary>
    public async Task ProgressAsync(string description, double total, Func<Action<double>, Task> work)
    {
        if (IsJson || !ErrorConsole.Profile.Capabilities.Interactive)
        {
            await work(_ => { });
            return;
        }
        await ErrorConsole.Progress()
            .Columns(new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(), new RemainingTimeColumn())
            .StartAsync(async context =>
            {
                var task = context.AddTask(Markup.Escape(description), maxValue: Math.Max(total, 1));
                await work(done => task.Increment(done));
                task.Value = task.MaxValue;
            });
    }

    public void Fail(string message)
    {
        if (IsJson)
            _stderr.WriteLine(JsonSerializer.Serialize(new { error = new { code = "USAGE", reason = "", message } }));
        else
            _stderr.WriteLine("aegis: " + Clean(message));
    }

    /// <summary>What the service said: its message, its reason, and where the workflow stands on a conflict.</summary>
    public void Fail(RpcException e)
    {
        var info = e.GetRpcStatus()?.GetDetail<ErrorInfo>();
        var message = e.Status.Detail;
        if (info is null && e.StatusCode == Grpc.Core.StatusCode.Unavailable)
            message = $"the server cannot be reached: {message}";
        if (IsJson)
        {
            _stderr.WriteLine(JsonSerializer.Serialize(new
            {
                error = new
                {
                    code = e.StatusCode.ToString(),
                    reason = info?.Reason ?? "",
                    message,
                    metadata = info?.Metadata.ToDictionary() ?? [],
                },
            }));
            return;
        }
        _stderr.WriteLine($"aegis: {(info is null ? e.StatusCode.ToString() : info.Reason)}: {Clean(message)}");
        if (info is not null && info.Metadata.TryGetValue("current_state", out var state))
        {
            _stderr.WriteLine(Clean($"       it is in the state \"{state}\" at sequence "
                + $"{info.Metadata.GetValueOrDefault("current_sequence")}, hash {info.Metadata.GetValueOrDefault("current_hash")}"));
        }
    }

    public static string Time(Timestamp? time) =>
        time?.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss.fff", CultureInfo.InvariantCulture) ?? "";

    /// <summary>An enum's value as operators say it: RUNNING.</summary>
    public static string Name(global::System.Enum value) => value.ToString().ToUpperInvariant();

    public static string Hex(ByteString bytes, int most = 32) => Convert.ToHexStringLower(bytes.Span[..Math.Min(most, bytes.Length)]);

    private void Write(string line)
    {
        lock (_lock)
            _stdout.WriteLine(line);
    }

    private static string Clean(string text)
    {
        if (!text.Any(c => char.IsControl(c) && c != '\n'))
            return text;
        var clean = new StringBuilder();
        foreach (var c in text)
        {
            if (char.IsControl(c) && c != '\n')
                clean.Append(CultureInfo.InvariantCulture, $"\\x{(int)c:x2}");
            else
                clean.Append(c);
        }
        return clean.ToString();
    }

    private static IAnsiConsole ConsoleOf(TextWriter writer, bool isRedirected)
    {
        var console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(writer),
            Ansi = isRedirected ? AnsiSupport.No : AnsiSupport.Detect,
            ColorSystem = isRedirected ? ColorSystemSupport.NoColors : ColorSystemSupport.Detect,
            Interactive = isRedirected ? InteractionSupport.No : InteractionSupport.Detect,
        });
        if (isRedirected)
            console.Profile.Width = WidthWithoutTerminal;
        return console;
    }
}
