using Aegis.Core;
using Aegis.Evidence;
using Aegis.Tests;

namespace Aegis.Client.Tests;

/// <summary>What a client believes, and what it notices.</summary>
public sealed class TrustScenarios
{
    [Test]
    public async Task Trust_kept()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        var engine = await Kit.EngineAsync(configure: options => options.HeadFile = file);
        var workflow = await engine.StartAsync("t-1", takeLease: true);
        var first = engine.Client.Trust!.Kept!;
        await engine.TransitionAsync(workflow, "CHECKED");
        await engine.CheckpointAsync(workflow);
        var second = engine.Client.Trust.Kept!;
        await engine.CloseAsync();

        var again = await Kit.EngineAsync(engine.Client.Namespace, configure: options => options.HeadFile = file);
        var next = await again.ReadAsync<Permit>("t-1");
        await again.TransitionAsync(next, "DONE", WorkflowStatus.Completed);
        var third = again.Client.Trust!.Kept!;
        await again.Client.FollowLogAsync();
        await again.CloseAsync();

        Assert.That(first.Size, Is.LessThan(second.Size));
        Assert.That(second.Size, Is.LessThan(third.Size));
        // Many writes at once, of two that share the file, are linked all the same, and what one kept is not put back.
        var two = await Task.WhenAll(Enumerable.Range(0, 2).Select(
            _ => Kit.EngineAsync(engine.Client.Namespace, configure: options => options.HeadFile = file)));
        await Task.WhenAll(two.SelectMany((each, e) => Enumerable.Range(0, 20).Select(i => each.StartAsync($"t-{e}-{i}"))));
        var newest = two.Select(each => each.Client.Trust!).MaxBy(trust => trust.Kept!.Size)!;
        Assert.That((await new FileHeadStore(file).LoadAsync(default))?.SignedNote, Is.EqualTo(newest.KeptNote));
        Assert.That(newest.Kept!.Size, Is.GreaterThanOrEqualTo(third.Size + 40));
        foreach (var each in two)
        {
            Assert.That(each.Client.Trust!.Alarm, Is.Null);
            await each.CloseAsync();
        }
        // The same file goes on under the operators' own command.
        await ChildProcess.RunAsync(ServerProcess.Host(), ServerProcess.Assembly("CliAssembly"), "--server", (await Kit.ServerAsync()).Address,
            "head", "watch", "--once", "--state", file);
        Assert.That(Directory.EnumerateFileSystemEntries(directory.Path), Is.EqualTo([file]));
    }

    [Test]
    public async Task Many_writers_share_one_head()
    {
        var engine = await Kit.EngineAsync();

        await Task.WhenAll(Enumerable.Range(0, 24).Select(async i =>
        {
            var workflow = await engine.StartAsync($"m-{i}", takeLease: i % 2 == 0);
            for (var step = 0; step < 8; step++)
                await engine.TransitionAsync(workflow, $"S{step}");
        }));

        Assert.That(engine.Client.Trust!.Kept!.Size, Is.GreaterThanOrEqualTo(24 * 9));
        Assert.That(engine.Client.Trust.Alarm, Is.Null);
        await engine.CloseAsync();
    }

    [TestCase(false, "LOG_ROLLED_BACK")]
    [TestCase(true, "LOG_FORKED")]
    public async Task History_taken_back(bool hasGrownSince, string reason)
    {
        using var directory = new TemporaryDirectory();
        using var copy = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        await using var server = await ServerProcess.StartAsync($"sqlite:{directory.Path}/aegis.db");
        var key = await Kit.KeyOfAsync(server);
        var options = new AegisClientOptions { Addresses = [server.Address], TrustedKeys = [key], HeadFile = file };
        var engine = Kit.Engine(options);
        var workflow = await engine.StartAsync("h-1");
        await server.KillAsync();
        foreach (var name in Directory.GetFiles(directory.Path, "aegis.db*"))
            File.Copy(name, Path.Combine(copy.Path, Path.GetFileName(name)));
        await server.RestartAsync();
        for (var step = 1; step <= 4; step++)
            await engine.TransitionAsync(workflow, $"S{step}");
        var kept = await File.ReadAllTextAsync(file);
        await server.KillAsync();
        foreach (var name in Directory.GetFiles(directory.Path, "aegis.db*"))
            File.Delete(name);
        foreach (var name in Directory.GetFiles(copy.Path))
            File.Copy(name, Path.Combine(directory.Path, Path.GetFileName(name)));
        foreach (var name in Directory.GetFiles(server.DataDirectory, "memory-*"))
            File.Delete(name);
        await server.RestartAsync();
        if (hasGrownSince)
        {
            await using var other = Kit.Engine(new AegisClientOptions { Addresses = [server.Address] });
            for (var i = 0; i < 8; i++)
                await other.StartAsync($"o-{i}");
            await other.Client.DisposeAsync();
        }

        var alarm = (await Assert.ThrowsAsync<LogAlarmException>(() => engine.StartAsync("h-2")))!;
        await Assert.ThrowsAsync<LogAlarmException>(() => engine.ReadAsync<Permit>("h-1"));
        await engine.CloseAsync();
        var restarted = Kit.Engine(options);
        await Assert.ThrowsAsync<LogAlarmException>(() => restarted.Client.FollowLogAsync());
        await restarted.CloseAsync();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(alarm.Reason, Is.EqualTo(reason));
            Assert.That(kept, Does.Contain(alarm.KeptNote!.Split('\n')[2]).Or.Contain(System.Text.Json.JsonEncodedText.Encode(alarm.KeptNote.Split('\n')[2]).ToString()));
            Assert.That(await File.ReadAllTextAsync(file), Is.EqualTo(kept), "the kept head stays");
            Assert.That(await File.ReadAllTextAsync(file + ".rejected"), Is.EqualTo(alarm.NewNote));
            Assert.That(LogHead.Verify(alarm.NewNote, [VerifierKey.Parse(key)], Ed25519Signatures.Check), Is.Not.Null, "the other is evidence too");
        }
    }

    [Test]
    public async Task A_log_that_was_taken_back_stops_a_client_before_its_first_call()
    {
        var engine = await Kit.EngineAsync();
        await engine.StartAsync("b-1");
        var longer = engine.Client.Trust!.Kept! with { Size = 1_000_000_000 };
        using var directory = new TemporaryDirectory();
        var store = new FileHeadStore($"{directory.Path}/head.json");
        await store.SaveAsync(new KeptHead(SharedKey.Key.Sign(longer), []), null, default);
        var calls = new List<string>();
        var restarted = await Kit.EngineAsync(engine.Client.Namespace, configure: options =>
        {
            options.HeadStore = store;
            options.Interceptors.Add(new LyingInterceptor(request => calls.Add(request.Descriptor.Name)));
        });

        var alarm = (await Assert.ThrowsAsync<LogAlarmException>(() => restarted.ResumeAsync<Permit>("b-1")))!;

        Assert.That(alarm.Reason, Is.EqualTo("LOG_ROLLED_BACK"));
        Assert.That(calls, Is.EqualTo(new[] { "GetLogHeadRequest" }));
        await restarted.CloseAsync();
        await engine.CloseAsync();
    }

    [Test]
    public async Task New_log_id()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        await using var server = await ServerProcess.StartAsync("sqlite:aegis.db");
        var first = await Kit.KeyOfAsync(server);
        var engine = Kit.Engine(new AegisClientOptions { Addresses = [server.Address], TrustedKeys = [first], HeadFile = file });
        await engine.StartAsync("n-1");
        await server.KillAsync();
        foreach (var name in Directory.GetFiles(server.DataDirectory, "*aegis.db*"))
            File.Delete(name);
        await server.RestartAsync();
        var second = await Kit.KeyOfAsync(server);
        var logId = VerifierKey.Parse(second).Name;

        var alarm = (await Assert.CatchAsync<LogAlarmException>(() => engine.StartAsync("n-2")))!;
        await Assert.ThrowsAsync<LogAlarmException>(() => engine.ReadAsync<Permit>("n-2"));
        await engine.CloseAsync();
        // The new log's key alone changes nothing; that it may follow has to be said.
        engine = Kit.Engine(new AegisClientOptions { Addresses = [server.Address], TrustedKeys = [first, second], HeadFile = file });
        await Assert.ThrowsAsync<LogAlarmException>(() => engine.StartAsync("n-3"));
        engine.Client.Trust!.Accept(logId);
        await engine.StartAsync("n-4");
        var kept = engine.Client.Trust.Kept!;
        await engine.CloseAsync();

        Assert.That(alarm.Reason, Is.EqualTo("LOG_ID_CHANGED"));
        Assert.That(alarm.Message, Does.Contain(VerifierKey.Parse(first).Name).And.Contain(logId));
        Assert.That(kept.LogId, Is.EqualTo(logId));
        Assert.That(await File.ReadAllTextAsync(file), Does.Contain(logId.Split('/')[1]));
    }

    [Test]
    public async Task Processes_that_share_a_head_file_see_what_each_of_them_saw()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        var one = await Kit.EngineAsync(configure: options => options.HeadFile = file);
        var two = await Kit.EngineAsync(one.Client.Namespace, configure: options => options.HeadFile = file);
        await one.StartAsync("s-1");
        await two.StartAsync("s-2");
        var seen = two.Client.Trust!.Kept!.Size;
        await one.StartAsync("s-3");
        await one.Client.FollowLogAsync();

        Assert.That(one.Client.Trust!.Kept!.Size, Is.GreaterThan(seen));
        var logId = one.Client.Trust.Kept.LogId;
        // What another process saw and this log cannot prove, though the log's own key has signed it.
        var store = new FileHeadStore(file);
        var forked = new KeptHead(SharedKey.Key.Sign(new LogHead(logId, 3, Hash.Of([1]))), []);
        Assert.That(await store.SaveAsync(forked, await store.LoadAsync(default), default), Is.True);
        var alarm = (await Assert.ThrowsAsync<LogAlarmException>(() => one.StartAsync("s-4")))!;
        Assert.That(alarm.Reason, Is.EqualTo("LOG_FORKED"));
        await one.CloseAsync();
        await two.CloseAsync();
    }

    [Test]
    public async Task A_write_has_one_time_with_all_its_proofs()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        await using var proxy = await FaultProxy.StartAsync((await Kit.ServerAsync()).Address);
        var one = await Kit.EngineAsync(address: proxy.Address, configure: options => options.HeadFile = file);
        var two = await Kit.EngineAsync(one.Client.Namespace, configure: options => options.HeadFile = file);
        var workflow = await one.StartAsync("p-1");
        // What the other has kept is to be linked first, and the server does not prove it in time.
        await two.StartAsync("p-2");
        await proxy.OrderAsync("hold GetConsistencyProof");
        var watch = System.Diagnostics.Stopwatch.StartNew();

        var late = (await Assert.ThrowsAsync<CallTimeoutException>(() => one.TransitionAsync(workflow, "CHECKED",
            details: new TransitionDetails { Timeout = TimeSpan.FromSeconds(2) })))!;
        var elapsed = watch.Elapsed;
        await proxy.OrderAsync("forget");
        var again = await one.TransitionAsync(workflow, "CHECKED", details: new TransitionDetails { RequestId = late.RequestId });

        Assert.That(elapsed, Is.LessThan(Kit.Patience / 2), "long before the client's own timeout");
        Assert.That(again.Replayed, "it was written, and is proven now");
        await one.CloseAsync();
        await two.CloseAsync();
    }

    [Test]
    public async Task A_log_without_a_trusted_key_is_refused_at_first_use()
    {
        using var key = SigningKey.Create();
        var server = await Kit.ServerAsync();
        var engine = Kit.Engine(new AegisClientOptions { Addresses = [server.Address], TrustedKeys = [key.VerifierKey("another").ToString()] });

        Assert.That(async () => await engine.StartAsync($"f-{Guid.NewGuid():N}"), Throws.InstanceOf<LogAlarmException>());
        await engine.CloseAsync();
    }

    [Test]
    public async Task A_head_file_that_holds_something_else_is_not_written_over()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        await File.WriteAllTextAsync(file, "{}");
        var engine = await Kit.EngineAsync(configure: options => options.HeadFile = file);

        await Assert.ThrowsAsync<InvalidDataException>(() => engine.StartAsync("f-1"));

        Assert.That(await File.ReadAllTextAsync(file), Is.EqualTo("{}"));
        await engine.CloseAsync();
    }
}
