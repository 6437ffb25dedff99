using Aegis.Core;
using Aegis.Evidence;
using Aegis.Tests;

namespace Aegis.Client.Tests;

/// <summary>Where heads are kept, none is replaced by who has not seen it.</summary>
public sealed class HeadStoreScenarios
{
    [Test]
    public async Task What_another_keeps_just_before_is_linked_and_not_put_back()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        var store = new OvertakenStore(file);
        var slow = await Kit.EngineAsync(configure: options => options.HeadStore = store);
        var fast = await Kit.EngineAsync(slow.Client.Namespace, configure: options => options.HeadFile = file);
        // The first one of all, and a later one.
        foreach (var n in new[] { 1, 2 })
        {
            store.Meanwhile = async () =>
            {
                await fast.StartAsync($"fast-{n}-1");
                await fast.StartAsync($"fast-{n}-2");
            };
            await slow.Client.FollowLogAsync();
            var kept = await store.LoadAsync(default);
            Assert.That(kept?.SignedNote, Is.EqualTo(fast.Client.Trust!.KeptNote));
            Assert.That(slow.Client.Trust!.KeptNote, Is.EqualTo(kept?.SignedNote));
            await fast.StartAsync($"fast-{n}-3");
        }

        // One that is older is linked too, and does not stay.
        var older = await store.LoadAsync(default);
        await slow.StartAsync("slow-1");
        store.Meanwhile = async () => Assert.That(await store.SaveAsync(older!, await store.LoadAsync(default), default), Is.True);
        await slow.StartAsync("slow-2");

        Assert.That((await store.LoadAsync(default))?.SignedNote, Is.EqualTo(slow.Client.Trust!.KeptNote));
        Assert.That(slow.Client.Trust.Alarm, Is.Null);
        Assert.That(Directory.EnumerateFileSystemEntries(directory.Path), Is.EqualTo([file]));
        // One of another history is an alarm, whoever kept it.
        var forked = new LogHead(slow.Client.Trust.Kept!.LogId, 3, Hash.Of([1]));
        store.Meanwhile = async () => Assert.That(
            await store.SaveAsync(new KeptHead(SharedKey.Key.Sign(forked), []), await store.LoadAsync(default), default), Is.True);
        var alarm = (await Assert.ThrowsAsync<LogAlarmException>(() => slow.StartAsync("slow-3")))!;
        Assert.That(alarm.Reason, Is.EqualTo("LOG_FORKED"));
        await slow.CloseAsync();
        await fast.CloseAsync();
    }

    [TestCase(true)]
    [TestCase(false)]
    public async Task A_store_saves_only_over_what_was_loaded(bool isFile)
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        IHeadStore store = isFile ? new FileHeadStore(file) : new MemoryHeadStore();
        var (first, second, third) = (Head(1), Head(2), Head(3));

        Assert.That(await store.SaveAsync(second, first, default), Is.False);
        Assert.That(await store.LoadAsync(default), Is.Null);
        Assert.That(await store.SaveAsync(first, null, default), Is.True);
        Assert.That(await store.SaveAsync(second, null, default), Is.False);
        Assert.That(await store.SaveAsync(second, third, default), Is.False);
        Assert.That((await store.LoadAsync(default))?.SignedNote, Is.EqualTo("1"));
        Assert.That(await store.SaveAsync(second, first, default), Is.True);
        Assert.That((await store.LoadAsync(default))?.SignedNote, Is.EqualTo("2"));
        if (isFile)
        {
            Assert.That(await File.ReadAllTextAsync(file),
                Is.EqualTo("{\n  \"signed_note\": \"2\",\n  \"verifier_keys\": [\n    \"key\"\n  ]\n}\n"));
        }
    }

    [Test]
    public async Task Of_many_that_count_in_a_file_none_counts_for_another()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        await new FileHeadStore(file).SaveAsync(Head(0), null, default);

        var saved = await Task.WhenAll(Enumerable.Range(0, 8).Select(async _ =>
        {
            var (store, count) = (new FileHeadStore(file), 0);
            for (var i = 0; i < 20; i++)
            {
                var kept = await store.LoadAsync(default);
                if (await store.SaveAsync(Head(int.Parse(kept!.SignedNote) + 1), kept, default))
                    count++;
            }
            return count;
        }));

        Assert.That((await new FileHeadStore(file).LoadAsync(default))?.SignedNote, Is.EqualTo($"{saved.Sum()}"));
        Assert.That(Directory.EnumerateFileSystemEntries(directory.Path), Is.EqualTo([file]));
    }

    [Test]
    public async Task A_lock_that_a_process_left_when_it_ended_is_taken_away()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/head.json";
        var store = new FileHeadStore(file);
        Directory.CreateDirectory(file + ".lock");
        await File.WriteAllTextAsync(file + ".lock/crashed", "half of a h");

        Assert.That(await store.SaveAsync(Head(1), null, default), Is.True);
        Directory.CreateDirectory(file + ".lock");
        Assert.That(await store.SaveAsync(Head(2), Head(1), default), Is.True);

        Assert.That(Directory.EnumerateFileSystemEntries(directory.Path), Is.EqualTo([file]));
    }

    private static KeptHead Head(int n) => new($"{n}", ["key"]);

    /// <summary>A head file in which something happens between what is loaded and what is saved, once.</summary>
    private sealed class OvertakenStore(string path) : IHeadStore
    {
        private readonly FileHeadStore _file = new(path);

        public Func<Task>? Meanwhile { get; set; }

        public ValueTask<KeptHead?> LoadAsync(CancellationToken cancellationToken) => _file.LoadAsync(cancellationToken);

        public async ValueTask<bool> SaveAsync(KeptHead head, KeptHead? replaced, CancellationToken cancellationToken)
        {
            var meanwhile = Meanwhile;
            Meanwhile = null;
            await (meanwhile?.Invoke() ?? Task.CompletedTask);
            return await _file.SaveAsync(head, replaced, cancellationToken);
        }

        public ValueTask RejectAsync(string signedNote, CancellationToken cancellationToken) => _file.RejectAsync(signedNote, cancellationToken);
    }
}
