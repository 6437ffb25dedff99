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

        var first = await Store.AddViolationsAsync([found], default);
        var again = await Store.AddViolationsAsync([found with { FoundAt = 43 }], default);
        var kept = (await Store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, 10, default)).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(first.Opened, Is.EqualTo(new[] { found.Id }));
            Assert.That(again.Opened, Is.Empty);
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
        await Store.AddViolationsAsync(found, default);

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
    public async Task What_was_read_before_a_repair_is_not_kept_after_it()
    {
        var found = Finding("w", 1);
        await Store.AddViolationsAsync([found], default);
        await WriteAsync(Store, Repaired("w", "20", found));
        var size = (await Store.ReadHeadAsync(default))!.Size;
        var ofLog = new FoundViolation(
            new Violation(ViolationClass.RecordMissing, WorkflowKey.None, 0, "Gone.") { LogIndex = 20 }, foundAt: 1);
        var head = new FoundViolation(
            new Violation(ViolationClass.SignatureInvalid, WorkflowKey.None, 0, "Not signed.") { LogIndex = 20 }, foundAt: 1);

        var stale = await Store.AddViolationsAsync(
            [found, Finding("w", 2), Finding("near", 2, 21), Finding("other", 2), Finding("far", 2, 1000), ofLog, head], default);
        var fresh = await Store.AddViolationsAsync([found with { ReadAt = size }, ofLog with { ReadAt = size }], default);

        Assert.That(stale.Overtaken,
            Is.EquivalentTo(new[] { found.Id, Finding("w", 2).Id, Finding("near", 2, 21).Id, ofLog.Id }));
        Assert.That(stale.Opened, Is.EquivalentTo(new[] { Finding("other", 2).Id, Finding("far", 2, 1000).Id, head.Id }));
        Assert.That((fresh.Opened.Count, fresh.Overtaken.Count), Is.EqualTo((2, 0)));
    }

    [Test]
    public async Task A_repair_that_moved_rows_of_others_may_have_mended_anything()
    {
        await WriteAsync(Store, new LogActCommand(LogActCommand.Repaired, Ask.Parts(
            metadata: new Metadata([KeyValuePair.Create("workflow_id", "w"), KeyValuePair.Create(Overtaken.OtherWorkflows, "1")]))));

        Assert.That((await Store.AddViolationsAsync([Finding("other", 2)], default)).Overtaken, Has.Count.EqualTo(1));
    }

    [Test]
    public async Task An_act_that_was_worked_out_from_other_violations_than_are_open_is_refused()
    {
        var found = Finding("w", 1);
        await Store.AddViolationsAsync([found], default);
        var seen = OpenOf.Of(Ask.Key("w"), await Store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, 10, default));
        var act = Repaired("w", "1", found) with { Repair = new Repair { Key = Ask.Key("w") } };
        LogActCommand Worked(params OpenOf[] open) => act with { Violations = act.Violations! with { Seen = open } };

        var ofNone = (await WriteAsync(Store, Worked(new OpenOf(Ask.Key("w"), 0, 0)))).Single();
        await Store.AddViolationsAsync([Finding("w", 2)], default);
        var before = (await WriteAsync(Store, Worked(seen))).Single();
        var ofLog = (await WriteAsync(Store, Worked(
            new OpenOf(Ask.Key("w"), 2, seen.NewestNumber + 1), new OpenOf(WorkflowKey.None, 1, 7)))).Single();
        var now = (await WriteAsync(Store, Worked(
            new OpenOf(Ask.Key("w"), 2, seen.NewestNumber + 1), new OpenOf(WorkflowKey.None, 0, 0)))).Single();

        foreach (var refused in new[] { ofNone, before, ofLog })
            Assert.That(((Refused)refused).Refusal.Reason, Is.EqualTo(Reason.SequenceMismatch));
        Assert.That(now, Is.TypeOf<LogActed>());
    }

    [Test]
    public async Task What_was_released_stays_so_and_what_is_recorded_stays_open()
    {
        var found = Finding("w", 1);
        await Store.AddViolationsAsync([found], default);

        await WriteAsync(Store, Act(ViolationFate.Recorded, found));
        var recorded = (await Store.ListViolationsAsync(new ViolationFilter(), long.MaxValue, 10, default)).Single();
        await WriteAsync(Store, Act(ViolationFate.Released, found));
        var again = await Store.AddViolationsAsync([found], default);
        var released = (await Store.ListViolationsAsync(
            new ViolationFilter { IncludeReleased = true }, long.MaxValue, 10, default)).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That((recorded.RecordedAt > 0, recorded.ReleasedAt), Is.EqualTo((true, 0L)));
            Assert.That(again.Opened, Is.Empty);
            Assert.That(released.ReleasedAt, Is.Positive);
            Assert.That((await Store.CountOpenViolationsAsync(default)).Count, Is.Zero);
        }
    }

    private static FoundViolation Finding(string id, long sequence, long? logIndex = null) =>
        new(new Violation(ViolationClass.FieldModified, Ask.Key(id), sequence, "Altered.")
        { LogIndex = logIndex, ActualHash = Hash.Of([1]) }, foundAt: 1);

    private static LogActCommand Repaired(string id, string logIndexes, FoundViolation found) =>
        new(LogActCommand.Repaired, Ask.Parts(metadata: new Metadata(
        [
            KeyValuePair.Create("namespace", Ask.Namespace), KeyValuePair.Create("workflow_id", id),
            KeyValuePair.Create("log_indexes", logIndexes),
        ])))
        {
            Violations = new ViolationChange(ViolationFate.Repaired, [Ask.Key(id)], [found.Id], long.MaxValue),
        };

    private static LogActCommand Act(ViolationFate fate, FoundViolation found) =>
        new(fate == ViolationFate.Released ? LogActCommand.Released : LogActCommand.Quarantined, Ask.Parts())
        {
            Violations = new ViolationChange(fate, [found.Violation.Key], null, long.MaxValue),
        };
}
