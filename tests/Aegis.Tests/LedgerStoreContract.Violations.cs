using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Tests;

// Violations: kept once, beside the log, whatever text was found.
public abstract partial class LedgerStoreContract
{
    [Test]
    public async Task A_violation_is_kept_once_and_comes_back_whole()
    {
        var found = new FoundViolation(
            new Violation(ViolationClass.WorkflowHeadModified, Ask.Key("w"), 0, "Altered.")
            {
                LogIndex = 7,
                ExpectedHash = Hash.Of([1]),
                ActualHash = Hash.Of([2]),
                Differences = [new Difference("state", "A", "B \"é\" \u0001"), new Difference("metadata", "secret", null)],
                LastGoodLogSize = 9,
            },
            foundAt: 42);

        var first = await Store.AddViolationsAsync([found], areFresh: true, default);
        var again = await Store.AddViolationsAsync([found with { FoundAt = 43 }], areFresh: true, default);
        var kept = (await Store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, 10, default)).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(first, Is.EqualTo(new[] { found.Id }));
            Assert.That(again, Is.Empty);
            Assert.That((kept.Id, kept.FoundAt, kept.RecordedAt, kept.ReleasedAt), Is.EqualTo((found.Id, 42L, 0L, 0L)));
            Assert.That(kept.Violation with { Differences = [] }, Is.EqualTo(found.Violation with { Differences = [] }));
            Assert.That(kept.Violation.Differences,
                Is.EqualTo(new[] { new Difference("state", "A", "B \"é\" \u0001"), new Difference("metadata", null, null) }));
        }
    }

    [Test]
    public async Task Violations_are_counted_and_listed_newest_first_by_workflow_and_id()
    {
        var found = Enumerable.Range(0, 5).Select(i => Finding($"w{i % 2}", i)).ToList();
        await Store.AddViolationsAsync(found, areFresh: true, default);

        var all = await Store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, 3, default);
        var rest = await Store.ListViolationsAsync(new ViolationFilter(), all[^1].Number, 3, default);
        var one = await Store.ListViolationsAsync(
            new ViolationFilter { Namespace = Ask.Namespace, WorkflowId = "w1", IncludeReleased = true }, long.MaxValue, 10, default);
        var byId = await Store.ListViolationsAsync(new ViolationFilter { Ids = [found[3].Id] }, long.MaxValue, 10, default);
        var open = await Store.CountOpenViolationsAsync(default);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(all.Concat(rest).Select(v => v.Id), Is.EqualTo(found.Select(v => v.Id).Reverse()));
            Assert.That(one.Select(v => v.Violation.Sequence), Is.EqualTo(new[] { 3, 1 }));
            Assert.That(byId.Select(v => v.Id), Is.EqualTo(new[] { found[3].Id }));
            Assert.That((open.Count, open.Recorded, open.NewestNumber), Is.EqualTo((5L, 0L, all[0].Number)));
        }
    }

    [Test]
    public async Task Of_a_workflow_that_was_repaired_lately_only_what_was_read_since_is_taken()
    {
        var found = Finding("w", 1);
        await Store.AddViolationsAsync([found], areFresh: true, default);
        await WriteAsync(Store, Act(ViolationFate.Repaired, found));

        var stale = await Store.AddViolationsAsync([found, Finding("w", 2)], areFresh: false, default);
        var other = await Store.AddViolationsAsync([Finding("other", 2)], areFresh: false, default);
        var fresh = await Store.AddViolationsAsync([found], areFresh: true, default);

        Assert.That((stale.Count, other.Count, fresh.Count), Is.EqualTo((0, 1, 1)));
    }

    [Test]
    public async Task What_was_released_stays_so_and_what_is_recorded_stays_open()
    {
        var found = Finding("w", 1);
        await Store.AddViolationsAsync([found], areFresh: true, default);

        await WriteAsync(Store, Act(ViolationFate.Recorded, found));
        var recorded = (await Store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, 10, default)).Single();
        await WriteAsync(Store, Act(ViolationFate.Released, found));
        var again = await Store.AddViolationsAsync([found], areFresh: true, default);
        var released = (await Store.ListViolationsAsync(
            new ViolationFilter { IncludeReleased = true }, long.MaxValue, 10, default)).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That((recorded.RecordedAt > 0, recorded.ReleasedAt), Is.EqualTo((true, 0L)));
            Assert.That(again, Is.Empty);
            Assert.That(released.ReleasedAt, Is.Positive);
            Assert.That((await Store.CountOpenViolationsAsync(default)).Count, Is.Zero);
        }
    }

    private static FoundViolation Finding(string id, long sequence) =>
        new(new Violation(ViolationClass.FieldModified, Ask.Key(id), sequence, "Altered.") { ActualHash = Hash.Of([1]) }, foundAt: 1);

    private static LogActCommand Act(ViolationFate fate, FoundViolation found) =>
        new(fate == ViolationFate.Released ? LogActCommand.Released : LogActCommand.Quarantined, Ask.Parts())
        {
            Violations = new ViolationChange(fate, [found.Violation.Key], null, long.MaxValue),
        };
}
