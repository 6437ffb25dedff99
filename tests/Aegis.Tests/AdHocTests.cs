using System.Diagnostics;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Google.Protobuf.Reflection;
using Grpc.Health.V1;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>What clients/AD-HOC.md shows is run as it stands there, and does what it says.</summary>
[Parallelizable(ParallelScope.All)]
public sealed partial class AdHocTests
{
    private const string File = "clients/AD-HOC.md";
    private const string Address = "http://127.0.0.1:50051";
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(4);

    [Test]
    public void Every_call_is_shown_for_both_tools()
    {
        var steps = Page.Read();
        var calls = typeof(Pb.WorkflowService).Assembly.GetTypes().Append(typeof(HealthReflection))
            .Select(type => type.GetProperty("Descriptor")?.GetValue(null)).OfType<FileDescriptor>()
            .SelectMany(file => file.Services).SelectMany(service => service.Methods)
            .Select(method => $"{method.Service.FullName}/{method.Name}").ToList();

        Assert.That(calls, Has.Count.GreaterThan(20));
        using (Assert.EnterMultipleScope())
        {
            foreach (var call in calls)
            {
                Assert.That(steps.Where(step => step.Grpcurl is not null && EndsWithWord(step.Shell, call)), Is.Not.Empty, call);
            }
        }
    }

    [Test]
    public void A_grpcurl_line_is_the_same_call_as_the_line_of_buf_before_it()
    {
        using (Assert.EnterMultipleScope())
        {
            foreach (var step in Page.Read().Where(step => step.Grpcurl is not null))
            {
                Assert.That(OneLine(step.Grpcurl!), Is.EqualTo(OneLine(ForGrpcurl(step.Shell))), step.Heading);
            }
        }
    }

    [Test]
    public async Task Every_line_does_in_order_what_the_page_says()
    {
        var bin = Repository.PathOf("protos/node_modules/.bin");
        if (!System.IO.File.Exists(Path.Combine(bin, "buf")))
        {
            Installed.Missing("buf is not installed: npm ci --prefix protos --ignore-scripts");
        }

        await using var server = await ServerProcess.StartAsync("sqlite:aegis.db");
        using var directory = new TemporaryDirectory("ad-hoc");
        var steps = Page.Read();
        await RunAsync(Script(steps).Replace(Address, server.Address, StringComparison.Ordinal), bin, directory.Path);
        using (Assert.EnterMultipleScope())
        {
            foreach (var (i, step) in steps.Index())
            {
                var output = await ReadAsync(directory, $"output-{i}");
                var told = $"{step.Heading}{Environment.NewLine}{step.Shell}{Environment.NewLine}{output}";
                Assert.That((await ReadAsync(directory, $"code-{i}")).Trim(), Is.EqualTo($"{step.ExitCode}"), told);
                Assert.That(step.Shown?.IsIn(output), Is.Not.False, told);
            }
        }
    }

    [TestCase("""{"a": "x…", "b": [1]}""", """{"b": [1], "c": 2, "a": "xyz"}""", true)]
    [TestCase("""{"a": "x…"}""", """{"a": "x"}""", false)]
    [TestCase("""{"a": 1}""", """{"a": "1"}""", false)]
    [TestCase("""{"a": [1]}""", """{"a": [1, 2]}""", false)]
    [TestCase("""{"a": 1}""", """{}""", false)]
    [TestCase("""{}""", """{"a": 1}""", false)]
    [TestCase("""{"a": 1} {"a": 2}""", """{"a": 1} {"b": 3} {"a": 2}""", true)]
    [TestCase("""{"a": 2} {"a": 1}""", """{"a": 1} {"a": 2}""", false)]
    [TestCase("""{"a": 1}""", "Failure: no such method", false)]
    public void What_is_shown_is_found_only_where_it_is(string shown, string output, bool expected)
        => Assert.That(new Shown(true, shown).IsIn(output), Is.EqualTo(expected));

    private static string ForGrpcurl(string shell)
    {
        var listed = shell.Replace($"--list-services {Address}", "127.0.0.1:50051 list", StringComparison.Ordinal)
            .Replace("buf curl --protocol grpc", "grpcurl -plaintext", StringComparison.Ordinal)
            .Replace("-d @-", "-d @", StringComparison.Ordinal);
        return Timeout().Replace(Target().Replace(listed, "127.0.0.1:50051 "), "-max-time $1");
    }

    private static string OneLine(string shell) => Space().Replace(shell.Replace("\\\n", " ", StringComparison.Ordinal), " ").Trim();

    private static bool EndsWithWord(string shell, string call)
        => Regex.IsMatch(shell, $@"/{Regex.Escape(call)}\b");

    /// <summary>All blocks in one shell, as somebody would run them who copies them into a terminal.</summary>
    private static string Script(IEnumerable<Step> steps)
        => string.Concat(steps.Select((step, i) => $"{{\n{step.Shell}}} >output-{i} 2>&1 </dev/null\necho $? >code-{i}\n"));

    private static async Task RunAsync(string script, string bin, string directory)
    {
        var start = new ProcessStartInfo("sh", ["-c", script]) { WorkingDirectory = directory };
        start.Environment["PATH"] = $"{bin}{Path.PathSeparator}{Environment.GetEnvironmentVariable("PATH")}";
        start.Environment["BUF_CACHE_DIR"] = Path.Combine(directory, "cache");
        using var process = Process.Start(start)!;
        try
        {
            await process.WaitForExitAsync().WaitAsync(Patience);
        }
        catch (TimeoutException)
        {
            // The codes that are missing tell how far it came.
            process.Kill(entireProcessTree: true);
        }
    }

    private static async Task<string> ReadAsync(TemporaryDirectory directory, string name)
    {
        var path = Path.Combine(directory.Path, name);
        return System.IO.File.Exists(path) ? await System.IO.File.ReadAllTextAsync(path) : "";
    }

    [GeneratedRegex(@"--timeout (\d+)s")]
    private static partial Regex Timeout();

    [GeneratedRegex(@"http://127\.0\.0\.1:50051/")]
    private static partial Regex Target();

    [GeneratedRegex(@"\s+")]
    private static partial Regex Space();

    [GeneratedRegex(@"exit\s+code\s+(?:is\s+)?(\d+)", RegexOptions.IgnoreCase)]
    private static partial Regex ExitCode();

    /// <summary>Something to run, and what the page says comes of it.</summary>
    private sealed record Step(string Heading, string Shell, int ExitCode)
    {
        public Shown? Shown { get; init; }

        /// <summary>The same for grpcurl; null when only buf is shown.</summary>
        public string? Grpcurl { get; init; }
    }

    /// <summary>The page as a reader goes through it.</summary>
    private static class Page
    {
        /// <summary>
        /// What is run are the shell blocks after the preparations. The words before one tell its exit code, if it is not 0; a
        /// block of JSON or text after it shows output.
        /// </summary>
        public static List<Step> Read()
        {
            var steps = new List<Step>();
            var heading = "";
            var words = new StringBuilder();
            using var lines = System.IO.File.ReadLines(Repository.PathOf(File)).GetEnumerator();
            while (lines.MoveNext())
            {
                if (lines.Current.StartsWith('#'))
                {
                    heading = lines.Current;
                    words.Clear();
                }
                else if (!lines.Current.StartsWith("```", StringComparison.Ordinal))
                {
                    words.Append(lines.Current).Append('\n');
                }
                else if (heading == "## Begin")
                {
                    Block(lines);
                }
                else
                {
                    Add(steps, heading, words.ToString(), lines.Current[3..], Block(lines));
                    words.Clear();
                }
            }

            Assert.That(steps, Is.Not.Empty);
            return steps;
        }

        private static void Add(List<Step> steps, string heading, string words, string language, string block)
        {
            if (language != "sh")
            {
                steps[^1] = steps[^1] with { Shown = new Shown(language == "json", block) };
            }
            else if (block.Contains("grpcurl", StringComparison.Ordinal))
            {
                steps[^1] = steps[^1] with { Grpcurl = block };
            }
            else
            {
                var code = ExitCode().Matches(words).LastOrDefault()?.Groups[1].Value ?? "0";
                steps.Add(new Step(heading, block, int.Parse(code, System.Globalization.CultureInfo.InvariantCulture)));
            }
        }

        private static string Block(IEnumerator<string> lines)
        {
            var block = new StringBuilder();
            while (lines.MoveNext() && lines.Current != "```")
            {
                block.Append(lines.Current).Append('\n');
            }

            return block.ToString();
        }
    }

    /// <summary>
    /// Output as shown: lines of text, or JSON values in order, each with the fields that matter, where … stands for anything
    /// that is not empty. There may be more than is shown, but in what is shown as an array or as empty.
    /// </summary>
    private sealed record Shown(bool IsJson, string Text)
    {
        public bool IsIn(string output)
        {
            if (!IsJson)
            {
                return Text.Split('\n').All(output.Split('\n').Contains);
            }

            var expected = Values(Text);
            Queue<JsonNode?> actual;
            try
            {
                actual = new Queue<JsonNode?>(Values(output));
            }
            catch (JsonException)
            {
                // A complaint of the tool itself.
                return false;
            }

            return expected.All(shown =>
            {
                while (actual.TryDequeue(out var next))
                {
                    if (Fits(shown, next))
                    {
                        return true;
                    }
                }

                return false;
            });
        }

        private static bool Fits(JsonNode? shown, JsonNode? actual) => (shown, actual) switch
        {
            (JsonObject few, JsonObject all) => (few.Count > 0 || all.Count == 0)
                && few.All(field => all.TryGetPropertyValue(field.Key, out var value) && Fits(field.Value, value)),
            (JsonArray few, JsonArray all) => few.Count == all.Count && few.Zip(all).All(pair => Fits(pair.First, pair.Second)),
            (JsonValue one, JsonValue other) when one.TryGetValue<string>(out var text) => other.TryGetValue<string>(out var found)
                && Regex.IsMatch(found, $"^{string.Join(".+", text.Split('…').Select(Regex.Escape))}$", RegexOptions.Singleline),
            _ => JsonNode.DeepEquals(shown, actual),
        };

        private static List<JsonNode?> Values(string text)
        {
            var values = new List<JsonNode?>();
            var reader = new Utf8JsonReader(Encoding.UTF8.GetBytes(text), new JsonReaderOptions { AllowMultipleValues = true });
            while (reader.Read())
            {
                values.Add(JsonNode.Parse(ref reader));
            }

            return values;
        }
    }
}
