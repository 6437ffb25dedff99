using System.Text.Json.Nodes;
using Aegis.Cli;
using Aegis.Evidence;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Evidence as an operator handles it: keys, heads and exports, checked with and without a server.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class CliEvidenceTests(Database database)
{
    // Where nobody answers: what works here needs no server.
    private static readonly string Nobody = $"http://127.0.0.1:{FreePort.Next()}";

    private TestServer _server = null!;
    private TemporaryDirectory _directory = null!;
    private string _key = null!;
    private string _export = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _server = await TestServer.StartAsync(database);
        _directory = new TemporaryDirectory("cli-evidence");
        foreach (var id in new[] { "a", "b" })
            await RunAsync(_server.Address, "start", id, "--type", "order", "--state", "NEW", "--status", "WAITING", "--actor", "alice");
        await RunAsync(_server.Address, "transition", "b", "--from", "NEW", "--to", "PAID", "--status", "WAITING");
        _export = PathOf("cases.aegis");
        await RunAsync(_server.Address, "export", "--out", _export);
        _key = (await RunAsync(_server.Address, "key", "show")).Output.Trim();
    }

    [OneTimeTearDown]
    public async Task Stop()
    {
        await _server.DisposeAsync();
        _directory.Dispose();
    }

    [Test]
    public async Task An_export_is_proven_without_a_server()
    {
        var key = WriteFile("key.txt", _key + "\n");
        using var other = SigningKey.Create();
        foreach (var args in new string[][]
        {
            [_export, "--key", _key], [_export, "--key", "@" + key], ["--file", _export, "--key", _key],
            [_export, "--key", other.VerifierKey("another").ToString(), "--key", _key],
        })
        {
            var run = await RunAsync(Nobody, ["verify", .. args]);
            Assert.That((run.Code, run.Error), Is.EqualTo((ExitCode.Success, "")), string.Join(' ', args));
            Assert.That(run.Output, Does.Contain("intact and proven: 2 workflows, 3 records, 0 snapshots").And.Contain($"signed by {_key}"));
        }
    }

    [Test]
    public async Task An_export_without_a_key_is_told_as_unproven()
    {
        var without = await RunAsync(Nobody, "verify", _export);
        var allowed = await RunAsync(Nobody, "verify", _export, "--unproven");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(without.Code, Is.EqualTo(ExitCode.Usage));
            Assert.That(without.Output, Does.Contain("not proven: ").And.Contain($"names as its key, which proves nothing: {_key}"));
            Assert.That(without.Error, Does.Contain("nothing proves it"));
            Assert.That((allowed.Code, allowed.Error), Is.EqualTo((ExitCode.Success, "")));
        }
    }

    [Test]
    public async Task An_altered_export_is_named_and_ends_with_1()
    {
        var messages = Exports.Parse(await File.ReadAllBytesAsync(_export));
        messages.Last(m => m.Record is not null).Record.Record.ToState = "STOLEN";
        messages.First(m => m.Record is not null).Record.Record.Actor = "mallory";
        var path = PathOf("altered.aegis");
        await File.WriteAllBytesAsync(path, Exports.Write(messages));

        var run = await RunAsync(Nobody, "verify", path, "--key", _key);
        var json = JsonNode.Parse((await RunAsync(Nobody, "verify", path, "--key", _key, "--json")).Output)!;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.EqualTo(ExitCode.Failed));
            Assert.That(run.Output, Does.Contain("default/a record 1: FIELD_MODIFIED").And.Contain("default/b record 2: FIELD_MODIFIED")
                .And.Contain("person").And.Not.Contain("mallory"), "Of an erasable part no value is told.");
            Assert.That(((bool?)json["intact"], (bool?)json["proven"]), Is.EqualTo((false, false)));
            Assert.That((string?)json["violations"]![0]!["class"], Is.EqualTo("FIELD_MODIFIED"));
            Assert.That((string?)json["violations"]![0]!["workflow_id"], Is.EqualTo("a"));
        }
    }

    [Test]
    public async Task What_cannot_be_checked_is_no_violation()
    {
        var cut = PathOf("cut.aegis");
        await File.WriteAllBytesAsync(cut, (await File.ReadAllBytesAsync(_export))[..^10]);
        using var other = SigningKey.Create();

        foreach (var (args, code, message) in new (string[], int, string)[]
        {
            ([cut, "--key", _key], ExitCode.Usage, "cannot be read as an export: it ends early."),
            ([WriteFile("text", "no export"), "--key", _key], ExitCode.Usage, "cannot be read as an export"),
            (["/nowhere/at/all", "--key", _key], ExitCode.Usage, "/nowhere/at/all"),
            ([_export, "--key", "nonsense"], ExitCode.Usage, "\"nonsense\" is not a verifier key"),
            ([_export, "--key", "@/nowhere/at/all"], ExitCode.Usage, "/nowhere/at/all"),
            (["--key", _key], ExitCode.Usage, "need an export"),
            ([_export, "--file", _export], ExitCode.Usage, "not both"),
        })
        {
            var run = await RunAsync(Nobody, ["verify", .. args]);
            Assert.That((run.Code, run.Output), Is.EqualTo((code, "")), string.Join(' ', args));
            Assert.That(run.Error, Does.Contain(message));
        }
        var wrong = await RunAsync(Nobody, "verify", _export, "--key", other.VerifierKey("another").ToString());
        Assert.That((wrong.Code, wrong.Output.Contains("None of the trusted keys has signed its head.", StringComparison.Ordinal)),
            Is.EqualTo((ExitCode.Failed, true)));
    }

    [Test]
    public async Task A_workflow_of_a_files_name_is_still_reached()
    {
        var file = WriteFile("named", "anything");
        await RunAsync(_server.Address, "start", file, "-n", "named", "--type", "order", "--state", "NEW");

        var run = await RunAsync(_server.Address, "verify", "--workflow", file, "-n", "named");

        Assert.That((run.Code, run.Output.Contains("is intact: 1 records", StringComparison.Ordinal)), Is.EqualTo((ExitCode.Success, true)));
    }

    [Test]
    public async Task The_key_from_its_file_is_the_one_the_server_tells()
    {
        var logId = _key[.._key.IndexOf('+', StringComparison.Ordinal)];

        var fromServer = await RunAsync(_server.Address, "key", "show");
        var fromFile = await RunAsync(Nobody, "key", "show", "--file", SharedKey.Path, "--log-id", logId);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(fromServer.Error, Does.Contain("for display"));
            Assert.That((fromFile.Code, fromFile.Output, fromFile.Error), Is.EqualTo((ExitCode.Success, fromServer.Output, "")));
            Assert.That((await RunAsync(Nobody, "key", "show", "--file", SharedKey.Path)).Code, Is.EqualTo(ExitCode.Usage));
            Assert.That((await RunAsync(Nobody, "key", "show", "--file", SharedKey.Path, "--log-id", "no name")).Code,
                Is.EqualTo(ExitCode.Usage));
            Assert.That((await RunAsync(Nobody, "key", "show", "--file", _export, "--log-id", "x")).Code, Is.EqualTo(ExitCode.Usage));
        }
    }

    [Test]
    public async Task The_head_is_shown_as_it_was_signed()
    {
        using var other = SigningKey.Create();

        var head = await RunAsync(_server.Address, "head", "--key", _key);
        var wrong = await RunAsync(_server.Address, "head", "--key", other.VerifierKey("another").ToString());

        using (Assert.EnterMultipleScope())
        {
            Assert.That(head.Code, Is.EqualTo(ExitCode.Success));
            Assert.That(Core.LogHead.Verify(head.Output.ReplaceLineEndings("\n"), [Core.VerifierKey.Parse(_key)], Ed25519Signatures.Check), Is.Not.Null);
            Assert.That((wrong.Code, wrong.Output), Is.EqualTo((ExitCode.Failed, "")));
        }
    }

    [Test]
    public async Task An_import_trusts_the_key_it_is_given()
    {
        await using var target = await TestServer.StartAsync(database);
        using var other = SigningKey.Create();

        var refused = await RunAsync(target.Address, "import", _export, "--trust", other.VerifierKey("another").ToString());
        var taken = await RunAsync(target.Address, "import", _export, "--trust", _key);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refused.Code, Is.EqualTo(ExitCode.Failed));
            Assert.That(refused.Error, Does.Contain("options.trusted_keys"));
            Assert.That(taken.Code, Is.EqualTo(ExitCode.Success), taken.Error);
            Assert.That(taken.Output, Does.Contain("2 IMPORTED"));
        }
    }

    [Test]
    public async Task A_rollback_is_accepted_only_where_there_is_one()
    {
        var run = await RunAsync(_server.Address, "recover", "accept-rollback", "--actor", "op", "--reason", "why", "--dry-run");

        Assert.That((run.Code, run.Output), Is.EqualTo((ExitCode.Failed, "")));
        Assert.That((await RunAsync(Nobody, "recover", "accept-rollback", "--actor", "op")).Error,
            Does.Contain("Option '--reason' is required. See aegis recover accept-rollback --help."));
    }

    private static async Task<(int Code, string Output, string Error)> RunAsync(string server, params string[] args)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        var code = await AegisCommand.RunAsync([.. args, "--server", server], output, error);
        return (code, output.ToString(), error.ToString());
    }

    private string PathOf(string name) => Path.Combine(_directory.Path, name);

    private string WriteFile(string name, string content)
    {
        File.WriteAllText(PathOf(name), content);
        return PathOf(name);
    }
}
