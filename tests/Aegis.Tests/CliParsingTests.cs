using System.Reflection;
using System.Text.Json.Nodes;
using Aegis.Cli;

namespace Aegis.Tests;

/// <summary>
/// What the command says without a server. A command line or a file that passes every check ends with
/// <see cref="ExitCode.Unavailable"/>, since nobody listens.
/// </summary>
[Parallelizable(ParallelScope.All)]
public sealed class CliParsingTests
{
    private static readonly string Nobody = $"http://127.0.0.1:{FreePort.Next()}";

    private TemporaryDirectory _directory = null!;

    [OneTimeSetUp]
    public void MakeDirectory() => _directory = new TemporaryDirectory("cli-parsing");

    [OneTimeTearDown]
    public void RemoveDirectory() => _directory.Dispose();

    [TestCase("", "Required command was not provided.")]
    [TestCase("lsit", "Unrecognized command or argument 'lsit'.")]
    [TestCase("show", "Required argument 'ID' missing")]
    [TestCase("start a --type t --color red", "Unrecognized command or argument '--color'.")]
    [TestCase("start a --state s", "Option '--type' is required.")]
    [TestCase("transition a --from x", "Option '--to' is required.")]
    [TestCase("info --timeout soon", "Cannot parse argument 'soon' for option '--timeout'. See aegis info --help.")]
    [TestCase("info --timeout 0", "--timeout must be more than 0 seconds")]
    [TestCase("info --server ftp://somewhere", "is not the URL of a server")]
    [TestCase("list --limit -1", "--limit must not be negative.")]
    [TestCase("list --status SLEEPING", "\"SLEEPING\" is not a status")]
    [TestCase("list --status 1", "\"1\" is not a status")]
    [TestCase("list --metadata novalue", "--metadata novalue: expected KEY=VALUE.")]
    [TestCase("list --metadata a=1 --metadata a=2", "--metadata a=2: the key was given before.")]
    [TestCase("start a --type t --state s --request-id EMPTY", "--request-id must not be empty.")]
    [TestCase("start a --type t --state s --content-type text/plain", "--content-type needs a --snapshot.")]
    [TestCase("start a --type t --state s --snapshot /nowhere/at/all", "/nowhere/at/all")]
    [TestCase("start a --type t --fork b", "--fork b: expected ID@SEQUENCE.")]
    [TestCase("start a --type t --state s --owner w --lease-duration 7200", "--lease-duration must be from 1 to 3600 seconds.")]
    [TestCase("checkpoint a --snapshot -", "A checkpoint needs --expected-sequence, --expected-hash or --lease-epoch")]
    [TestCase("transition a --from x --to y --expected-hash abcd", "\"abcd\" is not a hash")]
    [TestCase("transition a --from x --to y --expected-sequence 1 --expected-hash abcd", "not both")]
    [TestCase("resume", "--owner is required")]
    [TestCase("resume --owner w --snapshot-out x", "--snapshot-out needs the id of one workflow.")]
    [TestCase("resume a --max 3", "give them without an id")]
    [TestCase("export", "Option '--out' is required.")]
    [TestCase("backup create --to b", "Option '--key' is required.")]
    [TestCase("backup prove b", "Option '--key' is required.")]
    [TestCase("backup prove b --key nonsense", "\"nonsense\" is not a verifier key")]
    [TestCase("import /nowhere/at/all", "/nowhere/at/all")]
    [TestCase("load /nowhere/at/all --case c --state s", "/nowhere/at/all")]
    [TestCase("load - --case c --state s --parallel 0", "--parallel must be from 1 to 1024.")]
    public async Task Wrong_usage_is_told_in_one_line(string line, string message)
    {
        var run = await RunAsync([.. line.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(a => a == "EMPTY" ? "" : a)]);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Usage));
            Assert.That(run.Error, Does.StartWith("aegis: ").And.Contain(message));
            Assert.That(run.Error.TrimEnd().Split('\n'), Has.Length.EqualTo(1));
            Assert.That(run.Output, Is.Empty);
        }
    }

    [Test]
    public async Task A_wrong_command_line_is_told_to_scripts_as_JSON()
    {
        var run = await RunAsync("transition", "a", "--json");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Usage));
            Assert.That((string?)JsonNode.Parse(run.Error)!["error"]!["code"], Is.EqualTo("USAGE"));
        }
    }

    [TestCase("health")]
    [TestCase("info")]
    [TestCase("list")]
    [TestCase("count")]
    [TestCase("show a")]
    [TestCase("verify")]
    [TestCase("verify a")]
    [TestCase("resume a")]
    [TestCase("resume --owner w")]
    [TestCase("watch")]
    [TestCase("watch --from 7")]
    [TestCase("start @a --type t --state @s --timeout 0.3")]
    [TestCase("transition a --from x --to y --timeout 0.3 --expected-hash 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f")]
    [TestCase("transition a --from x --to y --timeout 0.3 --expected-hash AAECAwQFBgcICQoLDA0ODwABAgMEBQYHCAkKCwwNDg8=")]
    public async Task A_server_that_is_not_there_is_told(string line)
    {
        var run = await RunAsync(line.Split(' '));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Unavailable), run.Error);
            Assert.That(run.Error, Does.Contain($"The server at {Nobody} cannot be reached"));
        }
    }

    [Test]
    public async Task A_write_that_found_no_server_tells_how_to_repeat_it_safely()
    {
        var run = await RunAsync("start", "a", "--type", "t", "--state", "s", "--request-id", "mine", "--timeout", "0.3", "--json");
        var error = JsonNode.Parse(run.Error)!["error"]!;

        using (Assert.EnterMultipleScope())
        {
            Assert.That((string?)error["code"], Is.EqualTo("UNAVAILABLE"));
            Assert.That((string?)error["message"], Does.Contain("--request-id mine"));
            Assert.That((string?)error["metadata"]!["request_id"], Is.EqualTo("mine"));
        }
    }

    [Test]
    public async Task An_export_that_fails_leaves_the_file_as_it_was()
    {
        var file = File("kept.aegis", "kept");

        var run = await RunAsync("export", "--out", file);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Unavailable));
            Assert.That(System.IO.File.ReadAllText(file), Is.EqualTo("kept"));
            Assert.That(Directory.GetFiles(_directory.Path, "kept.aegis*"), Is.EqualTo(new[] { file }));
        }
    }

    [TestCase("2026-01-31")]
    [TestCase("2026-01-31T12:00Z")]
    [TestCase("2026-01-31T12:00:00")]
    [TestCase("2026-01-31 12:00:00.123456789+02:00")]
    [TestCase("2026-01-31T12:00:00-0330")]
    [TestCase("2026-01-31T12:00:00 +02")]
    public async Task Times_are_taken_in_ISO_8601(string time) =>
        Assert.That((await RunAsync("list", "--updated-after", time)).Code, Is.EqualTo(ExitCode.Unavailable));

    [TestCase("31/01/2026")]
    [TestCase("2026-1-31")]
    [TestCase("2026-02-30")]
    [TestCase("2026-01-31T25:00:00Z")]
    [TestCase("12:00")]
    [TestCase("2026-01-31T12:00:00+02:00 or so")]
    [TestCase("yesterday")]
    public async Task Times_that_could_be_read_in_two_ways_or_none_are_not_taken(string time) =>
        Assert.That((await RunAsync("list", "--updated-after", time)).Code, Is.EqualTo(ExitCode.Usage));

    [TestCase("case,state,actor,time\nc,A,alice,2011-10-11 13:45:40.276000+02:00\n")]
    [TestCase("\uFEFFcase,state,actor,time\r\nc,A,,2011-10-11T13:45Z\r\n")]
    [TestCase("time,other,actor,state,case\n2011-10-11,x,\"a, or b\",\"two\nlines\",c\n\n\n")]
    public async Task An_event_log_that_can_be_recorded_is_sent(string csv) =>
        Assert.That((await LoadAsync(csv)).Code, Is.EqualTo(ExitCode.Unavailable));

    [TestCase("case,state,actor,time\n", "The file has no events.")]
    [TestCase("case,state,actor\nc,A,alice\n", "The file has no column \"time\"; it has: case, state, actor.")]
    [TestCase("case,state,actor,time,actor\nc,A,alice,2011-10-11,bob\n", "The file has more than one column \"actor\".")]
    [TestCase("case,state,actor,time\nc,A,alice,2011-10-11\nc,,alice,2011-10-11\n", "Line 3: the column \"state\" is empty.")]
    [TestCase("case,state,actor,time\nc,A,alice\n", "Line 2: 3 fields, but the header has 4.")]
    [TestCase("case,state,actor,time\nc,A,alice,2011-10-11,more\n", "Line 2: 5 fields, but the header has 4.")]
    [TestCase("case,state,actor,time\nc,A,alice,\n", "Line 2: the column \"time\" is empty.")]
    [TestCase("case,state,actor,time\nc,A,alice,10/11/2011\n", "Line 2: \"10/11/2011\" is not a time such as")]
    [TestCase("case,state,actor,time\nc,A,alice,1969-07-20\n", "Line 2: \"1969-07-20\" is before 1970")]
    [TestCase("case,state,actor,time\n\nc,\"two\nlines\",alice,never\n", "Line 3: \"never\" is not a time such as")]
    [TestCase("case,state,actor,time\nc,A,alice,\"2011-10-11\nd,A,alice,2011-10-11\n", "the quotes do not match.")]
    public async Task An_event_log_that_cannot_be_recorded_is_refused_and_names_the_line(string csv, string message)
    {
        var run = await LoadAsync(csv);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Usage));
            Assert.That(run.Error, Does.Contain(message));
        }
    }

    [Test]
    public async Task An_event_log_in_another_encoding_is_refused()
    {
        var file = Path.Combine(_directory.Path, "latin1.csv");
        await System.IO.File.WriteAllBytesAsync(file, [.. "case,state\nc,R"u8, 0xe9, .. "ception\n"u8]);

        var run = await RunAsync("load", file, "--case", "case", "--state", "state");

        Assert.That((run.Code, run.Error), Is.EqualTo((ExitCode.Usage, "aegis: The file is not in UTF-8, somewhere after line 1.\n")));
    }

    [Test]
    public async Task Help_tells_every_exit_code()
    {
        var run = await RunAsync("--help");
        var codes = typeof(ExitCode).GetFields(BindingFlags.Public | BindingFlags.Static)
            .Where(f => f.FieldType == typeof(int)).Select(f => (int)f.GetRawConstantValue()!);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Success));
            foreach (var code in codes)
                Assert.That(run.Output, Does.Match($@"(?m)^\s+{code}\s+\w"));
        }
    }

    private async Task<(int Code, string Output, string Error)> LoadAsync(string csv)
    {
        var file = File($"{Guid.NewGuid():N}.csv", csv);
        return await RunAsync("load", file, "--case", "case", "--state", "state", "--actor", "actor", "--time", "time");
    }

    private static async Task<(int Code, string Output, string Error)> RunAsync(params string[] args)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        string[] server = args.Contains("--server") ? [] : ["--server", Nobody];
        var code = await AegisCommand.RunAsync([.. args, .. server], output, error);
        return (code, output.ToString(), error.ToString());
    }

    private string File(string name, string content)
    {
        var path = Path.Combine(_directory.Path, name);
        System.IO.File.WriteAllText(path, content);
        return path;
    }
}
