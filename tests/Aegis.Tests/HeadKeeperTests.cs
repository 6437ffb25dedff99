using Aegis.Core;
using Aegis.Evidence;

namespace Aegis.Tests;

/// <summary>A head that was kept lets only its own continuation follow.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class HeadKeeperTests
{
    private const string LogId = "example/log";

    private readonly SigningKey _key = SigningKey.Create();

    [OneTimeTearDown]
    public void Dispose() => _key.Dispose();

    [Test]
    public async Task Every_later_head_of_a_log_that_only_grows_follows()
    {
        var log = Log("a", 70);
        for (var first = 1; first <= 70; first += 3)
        {
            var keeper = await KeeperAsync(log, first);
            for (var size = first; size <= 70; size += 7)
            {
                var step = await keeper.AdvanceAsync(Note(log, size), log.ProofAsync, CancellationToken.None);
                Assert.That(step, Is.EqualTo(size == first ? HeadStep.Same : HeadStep.Grown));
            }
            Assert.That(keeper.Kept!.Size, Is.EqualTo(first + ((70 - first) / 7 * 7)));
        }
    }

    [TestCase("smaller", "LOG_ROLLED_BACK")]
    [TestCase("another of the same size", "LOG_FORKED")]
    [TestCase("another that is larger", "LOG_FORKED")]
    [TestCase("a proof of another", "LOG_FORKED")]
    [TestCase("no proof", "LOG_FORKED")]
    [TestCase("another key", "SIGNATURE_INVALID")]
    [TestCase("no head", "SIGNATURE_INVALID")]
    [TestCase("another log", "LOG_ID_CHANGED")]
    [TestCase("a new generation", "LOG_ID_CHANGED")]
    public async Task What_does_not_continue_it_raises_an_alarm_and_the_kept_head_stays(string what, string reason)
    {
        var (log, other) = (Log("a", 50), Log("b", 50));
        var keeper = await KeeperAsync(log, 40);
        using var otherKey = SigningKey.Create();
        (string note, ConsistencySource proof) = what switch
        {
            "smaller" => (Note(log, 39), (ConsistencySource)log.ProofAsync),
            "another of the same size" => (Note(other, 40), other.ProofAsync),
            "another that is larger" => (Note(other, 50), other.ProofAsync),
            "a proof of another" => (Note(log, 50), other.ProofAsync),
            "no proof" => (Note(log, 50), (_, _, _) => Task.FromResult<IReadOnlyList<Hash>>([])),
            "another key" => (otherKey.Sign(log.Head(50)), log.ProofAsync),
            "no head" => (_key.Sign(LogId, "nothing\n"), log.ProofAsync),
            "another log" => (_key.Sign(log.Head(50) with { LogId = "example/other" }), log.ProofAsync),
            _ => (_key.Sign(log.Head(50) with { LogId = LogId + "/2" }), log.ProofAsync),
        };

        var alarm = (await Assert.ThrowsAsync<HeadAlarmException>(() => keeper.AdvanceAsync(note, proof, CancellationToken.None)))!;

        using (Assert.EnterMultipleScope())
        {
            Assert.That((alarm.Reason, alarm.KeptNote, alarm.NewNote), Is.EqualTo((reason, Note(log, 40), note)));
            Assert.That(keeper.Kept, Is.EqualTo(log.Head(40)));
            Assert.That(await keeper.AdvanceAsync(Note(log, 41), log.ProofAsync, CancellationToken.None), Is.EqualTo(HeadStep.Grown));
        }
    }

    [TestCase(30, 40)]
    [TestCase(40, 40)]
    [TestCase(45, 45)]
    public async Task What_another_has_kept_is_taken_over_where_it_is_of_one_history(int size, int kept)
    {
        var (log, other) = (Log("a", 50), Log("b", 50));
        var keeper = await KeeperAsync(log, 40);
        using var otherKey = SigningKey.Create();

        var forked = await Assert.ThrowsAsync<HeadAlarmException>(
            () => keeper.TakeOverAsync(Note(other, size), log.ProofAsync, CancellationToken.None));
        var unsigned = await Assert.ThrowsAsync<HeadAlarmException>(
            () => keeper.TakeOverAsync(otherKey.Sign(log.Head(size)), log.ProofAsync, CancellationToken.None));
        await keeper.TakeOverAsync(Note(log, size), log.ProofAsync, CancellationToken.None);

        Assert.That((forked?.Reason, unsigned?.Reason), Is.EqualTo(("LOG_FORKED", "SIGNATURE_INVALID")));
        Assert.That((keeper.Kept, keeper.KeptNote), Is.EqualTo((log.Head(kept), Note(log, kept))));
    }

    [TestCase(35, HeadStep.LostRecords)]
    [TestCase(50, HeadStep.Grown)]
    public async Task An_accepted_generation_follows_and_says_whether_anything_was_lost(int size, HeadStep step)
    {
        var log = Log("a", 50);
        var keeper = new HeadKeeper([_key.VerifierKey(LogId)], Note(log, 40), [LogId + "/2"]);
        var next = _key.Sign(log.Head(size) with { LogId = LogId + "/2" });

        var taken = await keeper.AdvanceAsync(next, log.ProofAsync, CancellationToken.None);
        var again = new HeadKeeper([_key.VerifierKey(LogId)], keeper.KeptNote, []);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(taken, Is.EqualTo(step));
            Assert.That(again.Kept?.LogId, Is.EqualTo(LogId + "/2"), "The key stays, under another name.");
            Assert.That(() => again.AdvanceAsync(Note(log, 50), log.ProofAsync, CancellationToken.None),
                Throws.TypeOf<HeadAlarmException>(), "The former generation is over.");
        }
    }

    [Test]
    public void A_first_head_is_taken_only_under_a_trusted_key()
    {
        var log = Log("a", 5);
        using var other = SigningKey.Create();
        var keeper = new HeadKeeper([other.VerifierKey(LogId)], null, []);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(() => keeper.AdvanceAsync(Note(log, 5), log.ProofAsync, CancellationToken.None), Throws.TypeOf<HeadAlarmException>());
            Assert.That(() => new HeadKeeper([other.VerifierKey(LogId)], Note(log, 5), []), Throws.TypeOf<FormatException>());
        }
    }

    private async Task<HeadKeeper> KeeperAsync(MadeTree log, int size)
    {
        var keeper = new HeadKeeper([_key.VerifierKey(LogId)], null, []);
        Assert.That(await keeper.AdvanceAsync(Note(log, size), log.ProofAsync, CancellationToken.None), Is.EqualTo(HeadStep.First));
        return keeper;
    }

    private string Note(MadeTree log, int size) => _key.Sign(log.Head(size));

    private static MadeTree Log(string name, int size) =>
        new([.. Enumerable.Range(0, size).Select(i => Hash.Of(System.Text.Encoding.UTF8.GetBytes($"{name}{i}")))]);

    private sealed record MadeTree(Hash[] Leaves)
    {
        public LogHead Head(int size) => new(LogId, size, MerkleTree.Root(Leaves.AsSpan(0, size)));

        public Task<IReadOnlyList<Hash>> ProofAsync(long first, long second, CancellationToken cancellationToken) =>
            Task.FromResult<IReadOnlyList<Hash>>([.. MerkleTree.ConsistencyPath(first, second)
                .Select(r => MerkleTree.Root(Leaves.AsSpan((int)r.From, (int)(r.To - r.From))))]);
    }
}
