using System.Text.Json;
using System.Text.Json.Nodes;
using Aegis.Cli;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The command, run as an operator runs it, against a real server.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class CliTests(Database database)
{
    private const string EventLog =
        """
        case,activity,who,when
        c1,Received,alice,2011-10-11 13:45:40.276000+02:00
        c2,Received,bob,2011-10-11 13:50:00+02:00
        c1,"Checked, twice",bob,2011-10-12 08:26:25.398000+02:00
        c1,Decided,alice,2011-10-11 23:00:00+02:00
        c3,Réception,,2011-10-11 13:45:40.276000+02:00
        """;

    private TestServer _server = null!;
    private TemporaryDirectory _directory = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _server = await TestServer.StartAsync(database);
        _directory = new TemporaryDirectory("cli");
    }

    [OneTimeTearDown]
    public async Task Stop()
    {
        await _server.DisposeAsync();
        _directory.Dispose();
    }

    [Test]
    public async Task A_session_from_start_to_verify()
    {
        var state = File("state.json", "{}");

        using (Assert.EnterMultipleScope())
        {
            await SucceedsAsync("hash", "start", "order-1", "--type", "order", "--state", "NEW", "--actor", "alice", "--metadata", "customer=17");
            await SucceedsAsync("sequence 2 in PAID", "transition", "order-1", "--from", "NEW", "--to", "PAID", "--snapshot", state,
                "--content-type", "application/json", "--expected-sequence", "1");
            await SucceedsAsync("sequence 3", "checkpoint", "order-1", "--snapshot", state, "--expected-sequence", "2");
            await SucceedsAsync("NEW → PAID", "show", "order-1");
            await SucceedsAsync("customer = 17", "show", "order-1");
            await SucceedsAsync("intact: 3 records, 2 snapshots", "verify", "order-1");
            await SucceedsAsync("checkpoint at 3", "resume", "order-1");
            await SucceedsAsync("order-1", "list", "--metadata", "customer=17");
            await SucceedsAsync("1 workflows", "count");
            await SucceedsAsync("aegis.integrity", "health");
            await SucceedsAsync("snapshot_bytes_max", "info");
            await SucceedsAsync("epoch", "resume", "--owner", "w1");
        }
    }

    [Test]
    public async Task An_event_log_is_loaded_resumed_verified_and_moved_to_the_other_database()
    {
        var log = File("log.csv", EventLog);
        var export = Path.Combine(_directory.Path, "log.aegis");
        string[] load = ["load", log, "-n", "loaded", "--case", "case", "--state", "activity", "--actor", "who", "--time", "when"];
        await using var other = await TestServer.StartAsync(database == Database.Sqlite ? Database.PostgreSql : Database.Sqlite);

        await SucceedsAsync("3 cases, 5 events recorded, 0 of them before", load);
        await SucceedsAsync("3 cases, 5 events recorded, 5 of them before", load);
        await SucceedsAsync("3 resumed, 0 failed", "resume", "-n", "loaded", "--owner", "w");
        await SucceedsAsync("3 workflows, 5 records", "verify", "-n", "loaded");
        await SucceedsAsync("bytes written", "export", "-n", "loaded", "--out", export);
        var imported = await RunAsync(other, "import", export, "--allow-unproven", "--take-over");
        var verified = await RunAsync(other, "verify", "-n", "loaded");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(imported.Output, Does.Contain("3 IMPORTED"));
            Assert.That(verified.Output, Does.Contain("3 workflows, 5 records, 0 snapshots verified: all intact"));
            Assert.That(await HeadsAsync(other), Is.EqualTo(await HeadsAsync(_server)));
            Assert.That((await RecordsAsync("c1")).Select(r => (r.ToState, r.Actor)), Is.EqualTo(new[]
            {
                ("Received", "alice"), ("Decided", "alice"), ("Checked, twice", "bob"),
            }), "Events of a case are in order of time.");
            Assert.That((await RecordsAsync("c1"))[0].OccurredAt.ToDateTime(),
                Is.EqualTo(new DateTime(2011, 10, 11, 11, 45, 40, 276, DateTimeKind.Utc)));
        }
    }

    [Test]
    public async Task A_loaded_case_is_closed_when_told()
    {
        var log = File("complete.csv", "case,activity\nk1,A\nk1,B\nk2,A\n");

        await SucceedsAsync("2 cases, 3 events", "load", log, "-n", "complete", "--case", "case", "--state", "activity", "--complete");
        var counts = await _server.Workflows.CountWorkflowsAsync(new Pb.CountWorkflowsRequest { Namespace = "complete" });

        Assert.That(counts.Counts.Select(c => c.Status), Is.All.EqualTo(Pb.WorkflowStatus.Completed));
    }

    [TestCase("case,activity\n,A\n", "Line 2: the column \"case\" is empty.")]
    [TestCase("case,activity,when\nc,A,yesterday\n", "Line 2: \"yesterday\" is not a time such as 2026-01-31T12:00:00+01:00.")]
    [TestCase("id,activity\nc,A\n", "The file has no column \"case\"; it has: id, activity.")]
    [TestCase("", "The file is empty.")]
    public async Task A_bad_event_log_is_refused_before_anything_is_sent(string csv, string message)
    {
        var log = File($"bad-{Guid.NewGuid():N}.csv", csv);
        string[] time = csv.Contains("when", StringComparison.Ordinal) ? ["--time", "when"] : [];

        var run = await RunAsync(_server, ["load", log, "-n", "bad", "--case", "case", "--state", "activity", .. time]);

        Assert.That((run.Code, run.Error.Trim()), Is.EqualTo((ExitCode.Usage, $"aegis: {message}")));
    }

    [Test]
    public async Task Scripts_read_JSON()
    {
        await SucceedsAsync("", "start", "json-1", "-n", "json", "--type", "order", "--state", "NEW");

        var list = await RunAsync(_server, "list", "-n", "json", "--json");
        var verified = await RunAsync(_server, "verify", "-n", "json", "--json");
        var refused = await RunAsync(_server, "transition", "json-1", "-n", "json", "--from", "X", "--to", "Y", "--json");

        using (Assert.EnterMultipleScope())
        {
            Assert.That((string?)JsonNode.Parse(list.Output)!["workflow_id"], Is.EqualTo("json-1"));
            Assert.That((int?)JsonNode.Parse(verified.Output)!["workflows"], Is.EqualTo(1));
            Assert.That((string?)JsonNode.Parse(refused.Error)!["error"]!["reason"], Is.EqualTo("STATE_MISMATCH"));
            Assert.That((string?)JsonNode.Parse(refused.Error)!["error"]!["metadata"]!["current_state"], Is.EqualTo("NEW"));
        }
    }

    [Test]
    public async Task Exit_codes_tell_scripts_what_happened()
    {
        await SucceedsAsync("", "start", "codes", "-n", "codes", "--type", "order", "--state", "NEW");

        using (Assert.EnterMultipleScope())
        {
            Assert.That((await RunAsync(_server, "show", "nobody")).Code, Is.EqualTo(ExitCode.NotFound));
            Assert.That((await RunAsync(_server, "start", "codes", "-n", "codes", "--type", "order", "--state", "NEW")).Code, Is.EqualTo(ExitCode.Conflict));
            Assert.That((await RunAsync(_server, "transition", "codes", "-n", "codes", "--from", "X", "--to", "Y")).Code, Is.EqualTo(ExitCode.Conflict));
            Assert.That((await RunAsync(_server, "list", "--status", "SLEEPING")).Code, Is.EqualTo(ExitCode.Usage));
            Assert.That((await RunAsync(_server, "show")).Code, Is.EqualTo(ExitCode.Usage));
            Assert.That((await RunAsync(_server, "import", "/nowhere/at/all", "--allow-unproven")).Code, Is.EqualTo(ExitCode.Usage));
            Assert.That((await RunAsync(_server, "import", File("garbage", "garbage"), "--allow-unproven")).Code, Is.EqualTo(ExitCode.Failed));
            Assert.That((await RunAsync(_server, "start", "x", "--type", "t", "--state", "s", "--metadata", "novalue")).Code, Is.EqualTo(ExitCode.Usage));
            Assert.That((await RunAsync($"http://127.0.0.1:{FreePort.Next()}", "health")).Code, Is.EqualTo(ExitCode.Unavailable));
            Assert.That((await RunAsync("nonsense://", "list")).Code, Is.EqualTo(ExitCode.Usage));
        }
    }

    [Test]
    public async Task A_broken_workflow_is_named_and_makes_verify_and_health_fail()
    {
        await using var server = await TestServer.StartAsync(database);
        await RunAsync(server, "start", "broken", "--type", "order", "--state", "NEW");
        await Tampering.RunAsync(server, "UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = 'broken'");

        var verify = await RunAsync(server, "verify");
        var health = await RunAsync(server, "health");
        var export = Path.Combine(_directory.Path, "broken.aegis");
        var exported = await RunAsync(server, "export", "--out", export);
        var allowed = await RunAsync(server, "export", "--out", export, "--allow-quarantined");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(verify.Code, Is.EqualTo(ExitCode.Violation));
            Assert.That(verify.Output, Does.Contain("FIELD_MODIFIED").And.Contain("to_state was \"NEW\", is \"STOLEN\""));
            Assert.That(health.Code, Is.EqualTo(ExitCode.Violation));
            Assert.That((exported.Code, allowed.Code), Is.EqualTo((ExitCode.Violation, ExitCode.Success)));
            Assert.That((await RunAsync(server, "verify", export, "--unproven")).Code, Is.EqualTo(ExitCode.Failed), "It names what is broken.");
        }
    }

    [Test]
    public async Task Violations_are_listed_released_and_repaired()
    {
        await using var server = await TestServer.StartAsync(database);
        var export = Path.Combine(_directory.Path, "repair.aegis");
        await RunAsync(server, "start", "w", "--type", "order", "--state", "NEW", "--actor", "alice", "--snapshot", File("w.json", "{}"));
        await RunAsync(server, "export", "--out", export);
        var none = await RunAsync(server, "violations");
        await Tampering.RunAsync(server, "UPDATE record SET actor = 'mallory' WHERE workflow_id = 'w'");
        await Tampering.RunAsync(server, "DELETE FROM snapshot WHERE workflow_id = 'w'");
        await RunAsync(server, "verify");
        string[] who = ["--actor", "op", "--reason", "why"];

        var listed = await RunAsync(server, "violations", "--all-namespaces");
        var refused = await RunAsync(server, ["repair", "w", "--sequence", "1", .. who]);
        var repaired = await RunAsync(server, ["repair", "w", "--sequence", "1", "--from", export, .. who]);
        await Tampering.RunAsync(server, "UPDATE workflow SET state = 'X' WHERE workflow_id = 'w'");
        await RunAsync(server, "verify");
        var head = await RunAsync(server, ["repair", "w", .. who]);
        await Tampering.RunAsync(server, "UPDATE workflow SET state = 'X' WHERE workflow_id = 'w'");
        await RunAsync(server, "verify");
        var released = await RunAsync(server, ["release", "w", .. who]);
        var all = await RunAsync(server, "violations", "w", "--released");

        using (Assert.EnterMultipleScope())
        {
            Assert.That((none.Code, none.Output), Is.EqualTo((ExitCode.Success, "")));
            Assert.That(listed.Code, Is.EqualTo(ExitCode.Violation));
            Assert.That(listed.Output, Does.Contain("default/w record 1, log index 1: FIELD_MODIFIED").And.Contain("person differs")
                .And.Contain("SNAPSHOT_MISSING").And.Not.Contain("mallory"));
            Assert.That((refused.Code, refused.Error), Is.EqualTo((ExitCode.Failed, refused.Error)));
            Assert.That(refused.Error, Does.Contain("INVALID_FIELD"));
            Assert.That((repaired.Error, repaired.Output), Is.EqualTo(("", repaired.Output)));
            Assert.That(repaired.Output, Does.Contain("restored: record, snapshot; 2 violations closed"));
            Assert.That(head.Output, Does.Contain("restored: head; 1 violation closed"));
            Assert.That(released.Output, Does.Contain("1 violation released"));
            Assert.That(all.Code, Is.EqualTo(ExitCode.Success));
            Assert.That(all.Output.Split(", released").Length - 1, Is.EqualTo(3));
        }
    }

    [Test]
    public async Task Control_characters_of_users_never_reach_a_terminal()
    {
        await SucceedsAsync("", "start", "evil\u001b[31m", "-n", "control", "--type", "[red]", "--state", "[/]\u0007");

        var list = await RunAsync(_server, "list", "-n", "control");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(list.Output, Does.Contain("evil\\u001b[31m").And.Contain("[red]").And.Contain("[/]\\u0007"));
            Assert.That(list.Output, Does.Not.Contain("\u001b"));
        }
    }

    private async Task SucceedsAsync(string expected, params string[] args)
    {
        var run = await RunAsync(_server, args);
        Assert.That((run.Code, run.Error), Is.EqualTo((ExitCode.Success, "")), string.Join(' ', args));
        Assert.That(run.Output, Does.Contain(expected), string.Join(' ', args));
    }

    private static Task<(int Code, string Output, string Error)> RunAsync(TestServer server, params string[] args) =>
        RunAsync(server.Address, args);

    private static async Task<(int Code, string Output, string Error)> RunAsync(string server, params string[] args)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        var code = await AegisCommand.RunAsync(["--server", server, .. args], output, error);
        return (code, output.ToString(), error.ToString());
    }

    private string File(string name, string content)
    {
        var path = Path.Combine(_directory.Path, name);
        System.IO.File.WriteAllText(path, content);
        return path;
    }

    private static async Task<IEnumerable<(string, string)>> HeadsAsync(TestServer server) =>
        (await server.Workflows.ListWorkflowsAsync(new Pb.ListWorkflowsRequest { Namespace = "loaded" })).Workflows
            .Select(w => (w.WorkflowId, Convert.ToHexStringLower(w.HeadHash.Span))).Order();

    private async Task<IReadOnlyList<Pb.Record>> RecordsAsync(string id) =>
        (await _server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { Namespace = "loaded", WorkflowId = id })).Records;
}
