using System.Diagnostics;
using System.Text.Json.Nodes;
using Aegis.Cli;
using Aegis.Core;
using Aegis.Evidence;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>`aegis head watch` keeps a head elsewhere, and what is taken back or rewritten behind it is noticed.</summary>
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class HeadWatchTests : IDisposable
{
    private readonly TemporaryDirectory _directory = new("head");

    private string State => Path.Combine(_directory.Path, "state.json");

    public void Dispose() => _directory.Dispose();

    [TestCase(Database.Sqlite)]
    [TestCase(Database.PostgreSql)]
    public async Task A_log_that_grows_is_followed(Database database)
    {
        await using var server = await TestServer.StartAsync(database);
        var key = (await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).VerifierKeys.Single();

        var first = await LookAsync(server, "--key", key);
        var same = await LookAsync(server, "--key", key);
        for (var i = 0; i < 5; i++)
            await Given.WorkflowAsync(server);
        var grown = await LookAsync(server, "--key", key);
        var kept = JsonNode.Parse(await File.ReadAllTextAsync(State))!;

        using (Assert.EnterMultipleScope())
        {
            Assert.That((first.Code, same.Code, grown.Code), Is.EqualTo((0, 0, 0)), grown.Error);
            Assert.That(first.Error, Does.Contain("FIRST USE"));
            Assert.That((same.Error, grown.Error), Is.EqualTo(("", "")));
            Assert.That(grown.Output, Does.StartWith("grown").And.Contain("size 6").And.Contain("continues size 1"));
            Assert.That((string?)kept["signed_note"], Is.EqualTo((await server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest())).SignedNote));
        }
    }

    [Test]
    public async Task A_database_restored_to_an_older_copy_raises_an_alarm()
    {
        var database = Path.Combine(_directory.Path, "aegis.db");
        await using (var server = await TestServer.StartAsync("sqlite:" + database))
            await Given.WorkflowAsync(server);
        File.Copy(database, database + ".copy");
        string keptBefore;
        await using (var server = await TestServer.StartAsync("sqlite:" + database))
        {
            await Given.WorkflowAsync(server);
            Assert.That((await LookAsync(server)).Code, Is.Zero);
            keptBefore = await File.ReadAllTextAsync(State);
        }
        foreach (var file in new[] { database, database + "-wal", database + "-shm" })
            File.Delete(file);
        File.Copy(database + ".copy", database);

        // Each server here has a memory of its own, so that this one knows nothing of what was taken back.
        await using var restored = await TestServer.StartAsync("sqlite:" + database);
        var smaller = await LookAsync(restored, "--json");
        await Given.WorkflowAsync(restored);
        var sameSize = await LookAsync(restored);
        await Given.WorkflowAsync(restored);
        var larger = await LookAsync(restored);

        using (Assert.EnterMultipleScope())
        {
            var error = JsonNode.Parse(smaller.Error)!["error"]!;
            Assert.That((smaller.Code, (string?)error["reason"]), Is.EqualTo((ExitCode.Failed, "LOG_ROLLED_BACK")));
            Assert.That((string?)error["metadata"]!["kept_head"], Does.Contain("\n3\n"));
            Assert.That((string?)error["metadata"]!["new_head"], Does.Contain("\n2\n"));
            foreach (var run in new[] { sameSize, larger })
            {
                Assert.That(run.Code, Is.EqualTo(ExitCode.Failed));
                Assert.That(run.Error, Does.Contain("LOG_FORKED").And.Contain("Kept: ").And.Contain("size 3").And.Contain("Now: "));
            }
            Assert.That(await File.ReadAllTextAsync(State), Is.EqualTo(keptBefore), "What was kept is kept.");
            Assert.That(await File.ReadAllTextAsync(State + ".rejected"), Is.EqualTo(
                (await restored.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest())).SignedNote), "Both notes together are the evidence.");
        }
    }

    [Test]
    public async Task What_another_process_keeps_just_before_is_not_put_back()
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        await LookAsync(server);
        await Given.WorkflowAsync(server);
        // Another process is about to write the file: this look has seen the state and the log as they are now, and waits.
        Directory.CreateDirectory(State + ".lock");
        var other = Path.Combine(State + ".lock", "another");
        await File.WriteAllTextAsync(other, "");
        var look = LookAsync(server);
        await Until.TrueAsync(() => Task.FromResult(Directory.GetDirectories(_directory.Path, "*.part").Length > 0));

        await Given.WorkflowAsync(server);
        var newest = await server.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest());
        var state = JsonNode.Parse(await File.ReadAllTextAsync(State))!;
        state["signed_note"] = newest.SignedNote;
        await File.WriteAllTextAsync(other, state.ToJsonString());
        File.Move(other, State, overwrite: true);
        Directory.Delete(State + ".lock");
        var run = await look;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(run.Code, Is.Zero, run.Error);
            Assert.That((string?)JsonNode.Parse(await File.ReadAllTextAsync(State))!["signed_note"], Is.EqualTo(newest.SignedNote));
            Assert.That(Directory.EnumerateFileSystemEntries(_directory.Path), Is.EqualTo([State]));
        }
    }

    [TestCase(1, "LOG_FORKED")]
    [TestCase(99, "LOG_ROLLED_BACK")]
    public async Task A_watch_goes_on_from_what_others_keep(int size, string reason)
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        await LookAsync(server);
        var state = new HeadFile(State);
        var older = (await state.ReadAsync(default))!;
        using var output = new StringWriter();
        using var error = new StringWriter();
        var watch = AegisCommand.RunAsync(["head", "watch", "--state", State, "--interval", "20ms", "--server", server.Address], output, error);
        await Given.WorkflowAsync(server);
        await LookAsync(server);
        var newer = (await state.ReadAsync(default))!;
        Assert.That(newer.SignedNote, Is.Not.EqualTo(older.SignedNote));

        // An older one that somebody puts there does not stay, and one that this log does not continue is an alarm.
        Assert.That(await state.ReplaceAsync(older, newer, default), Is.True);
        await Until.TrueAsync(async () => (await state.ReadAsync(default))!.SignedNote == newer.SignedNote);
        var logId = newer.SignedNote.Split('\n')[0];
        var other = SharedKey.Key.Sign(new LogHead(logId, size, Hash.Of([1])));
        Assert.That(await state.ReplaceAsync(newer with { SignedNote = other }, newer, default), Is.True);

        Assert.That(await watch.WaitAsync(TimeSpan.FromSeconds(30)), Is.EqualTo(ExitCode.Failed));
        Assert.That(error.ToString(), Does.Contain(reason));
        Assert.That((await state.ReadAsync(default))!.SignedNote, Is.EqualTo(other), "It is evidence.");
    }

    [Test]
    public async Task Another_log_or_key_raises_an_alarm()
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        await using var other = await TestServer.StartAsync(Database.Sqlite);
        using var key = SigningKey.Create();
        var logId = (await server.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).LogId;

        var unsigned = await LookAsync(server, "--key", key.VerifierKey(logId).ToString());
        var exists = File.Exists(State);
        await LookAsync(server);
        var elsewhere = await LookAsync(other);
        var accepted = await LookAsync(other, "--accept-generation", (await other.System.GetServerInfoAsync(new())).LogId);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((unsigned.Code, exists), Is.EqualTo((ExitCode.Failed, false)));
            Assert.That(unsigned.Error, Does.Contain("SIGNATURE_INVALID"));
            Assert.That(elsewhere.Code, Is.EqualTo(ExitCode.Failed));
            Assert.That(elsewhere.Error, Does.Contain("LOG_ID_CHANGED"));
            Assert.That(accepted.Code, Is.EqualTo(ExitCode.Failed), "Another log is no generation of this one.");
        }
    }

    [Test]
    public async Task An_accepted_rollback_is_followed_once_told()
    {
        var database = Path.Combine(_directory.Path, "aegis.db");
        var memory = KeyValuePair.Create("AEGIS_MEMORY_FILE", Path.Combine(_directory.Path, "memory.json"));
        await using (var server = await TestServer.StartAsync("sqlite:" + database, memory))
            await Given.WorkflowAsync(server);
        File.Copy(database, database + ".copy");
        await using (var server = await TestServer.StartAsync("sqlite:" + database, memory))
        {
            await Given.WorkflowAsync(server);
            await LookAsync(server);
        }
        foreach (var file in new[] { database, database + "-wal", database + "-shm" })
            File.Delete(file);
        File.Copy(database + ".copy", database);
        await using var restored = await TestServer.StartAsync("sqlite:" + database, memory);

        string[] accept = ["recover", "accept-rollback", "--actor", "op", "--reason", "restored"];
        var dry = await RunAsync([.. accept, "--dry-run", "--server", restored.Address]);
        var done = await RunAsync([.. accept, "--server", restored.Address]);
        var logId = (await restored.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest())).SignedNote.Split('\n')[0];
        var alarm = await LookAsync(restored);
        var followed = await LookAsync(restored, "--accept-generation", logId);
        await Given.WorkflowAsync(restored);
        var grown = await LookAsync(restored);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((dry.Code, done.Code), Is.EqualTo((0, 0)), dry.Error + done.Error);
            Assert.That(dry.Output, Does.Contain("Log position 2 is gone: 1 record").And.Contain("Nothing was accepted."));
            Assert.That(done.Output, Does.Contain("Log position 2 is gone").And.Contain($"goes on as {logId}"));
            Assert.That(alarm.Code, Is.EqualTo(ExitCode.Failed));
            Assert.That(alarm.Error, Does.Contain("LOG_ID_CHANGED"));
            Assert.That((followed.Code, followed.Output.StartsWith("accepted", StringComparison.Ordinal)), Is.EqualTo((0, true)), followed.Error);
            Assert.That((grown.Code, grown.Output.StartsWith("grown", StringComparison.Ordinal)), Is.EqualTo((0, true)), grown.Error);
        }
    }

    [TestCase("not JSON")]
    [TestCase("{}")]
    [TestCase("""{"signed_note": "nothing", "verifier_keys": []}""")]
    public async Task A_state_that_cannot_be_read_is_never_written_over(string content)
    {
        await using var server = await TestServer.StartAsync(Database.Sqlite);
        await File.WriteAllTextAsync(State, content);

        var run = await LookAsync(server);

        Assert.That((run.Code, await File.ReadAllTextAsync(State)), Is.EqualTo((ExitCode.Usage, content)), run.Error);
    }

    [Test]
    public async Task A_server_that_is_away_is_no_alarm()
    {
        var run = await RunAsync("head", "watch", "--state", State, "--once", "--server", $"http://127.0.0.1:{FreePort.Next()}");

        Assert.That(run.Code, Is.EqualTo(ExitCode.Unavailable));
        Assert.That(File.Exists(State), Is.False);
    }

    [TestCase("0s")]
    [TestCase("soon")]
    [TestCase("2d")]
    [TestCase("25h")]
    public async Task An_interval_that_is_none_is_told(string interval)
    {
        var run = await RunAsync("head", "watch", "--state", State, "--interval", interval, "--server", "http://127.0.0.1:1");

        Assert.That((run.Code, run.Error.Contains("--interval", StringComparison.Ordinal)), Is.EqualTo((ExitCode.Usage, true)));
    }

    [Test]
    public async Task It_waits_for_a_server_follows_it_and_ends_when_interrupted()
    {
        var database = Path.Combine(_directory.Path, "aegis.db");
        await using var server = ServerProcess.Create("sqlite:" + database);
        var start = new ProcessStartInfo(ServerProcess.Host(),
            [ServerProcess.Assembly("CliAssembly"), "head", "watch", "--state", State, "--interval", "100ms", "--server", server.Address])
        {
            WorkingDirectory = _directory.Path,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var watch = Process.Start(start)!;
        var output = watch.StandardOutput.ReadToEndAsync();
        var error = watch.StandardError.ReadToEndAsync();
        try
        {
            await server.RestartAsync();
            await Until.TrueAsync(() => Task.FromResult(File.Exists(State)));
            await watch.SendAsync(Signal.Interrupt);
            await watch.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(30));
        }
        finally
        {
            if (!watch.HasExited)
                watch.Kill();
        }

        using (Assert.EnterMultipleScope())
        {
            Assert.That(watch.ExitCode, Is.EqualTo(ExitCode.Success), await error);
            Assert.That(await output, Does.StartWith("kept "));
            Assert.That(await error, Does.Contain("FIRST USE"));
        }
    }

    private Task<(int Code, string Output, string Error)> LookAsync(TestServer server, params string[] args) =>
        RunAsync(["head", "watch", "--state", State, "--once", "--server", server.Address, .. args]);

    private static async Task<(int Code, string Output, string Error)> RunAsync(params string[] args)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        var code = await AegisCommand.RunAsync(args, output, error);
        return (code, output.ToString(), error.ToString());
    }
}
