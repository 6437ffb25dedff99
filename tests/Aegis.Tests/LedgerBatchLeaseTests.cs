using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Who may move a workflow, and until when: each acquisition is a higher epoch.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class LedgerBatchLeaseTests
{
    private const long Second = 1_000_000;

    private static MemoryLog Log()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));
        return log;
    }

    [Test]
    public void A_live_lease_is_needed_by_every_write()
    {
        var log = Log();
        var epoch = log.Acquire("w");

        var refusal = log.Refuse(Ask.Move("w", "NEW", "PAID"));
        var checkpoint = log.Refuse(Ask.Checkpoint("w", "s", 1));
        log.Write(Ask.Move("w", "NEW", "PAID") with { LeaseEpoch = epoch });

        using (Assert.EnterMultipleScope())
        {
            Assert.That((refusal.Reason, checkpoint.Reason), Is.EqualTo((Reason.LeaseRequired, Reason.LeaseRequired)));
            Assert.That(refusal.Facts["owner"], Is.EqualTo("worker"));
            Assert.That(refusal.Facts["expires_at"], Is.EqualTo("2027-01-15T08:00:30.000000Z"));
            Assert.That(refusal.Facts["current_state"], Is.EqualTo("NEW"));
            Assert.That(log.Chain("w")[^1].Record.LeaseEpoch, Is.EqualTo(epoch));
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    [TestCase(1)]
    [TestCase(-1)]
    public void Another_epoch_is_stale_be_it_lower_or_higher(int difference)
    {
        var log = Log();
        var epoch = log.Acquire("w");

        var refusal = log.Refuse(Ask.Move("w", "NEW", "PAID") with { LeaseEpoch = epoch + difference });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refusal.Reason, Is.EqualTo(Reason.LeaseStale));
            Assert.That(refusal.Facts["current_epoch"], Is.EqualTo($"{epoch}"));
            Assert.That(log.Lease(Ask.Renew("worker", "w", epoch + difference)).Refusal!.Reason, Is.EqualTo(Reason.LeaseStale));
        }
    }

    [Test]
    public void An_epoch_of_a_workflow_without_a_lease_is_stale()
        => Assert.That(Log().Refuse(Ask.Move("w", "NEW", "PAID") with { LeaseEpoch = 7 }).Reason, Is.EqualTo(Reason.LeaseStale));

    [Test]
    public void A_lease_that_merely_ran_out_still_writes_and_renews()
    {
        var log = Log();
        var epoch = log.Acquire("w");
        log.Now += 31 * Second;

        log.Write(Ask.Move("w", "NEW", "PAID") with { LeaseEpoch = epoch });
        var renewed = log.Lease(Ask.Renew("worker", "w", epoch));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(renewed.Workflow!.Lease, Is.EqualTo(new Lease("worker", epoch, log.Now + 30 * Second)));
            Assert.That(log.Refuse(Ask.Move("w", "PAID", "X")).Reason, Is.EqualTo(Reason.LeaseRequired));
        }
    }

    [Test]
    public void A_write_without_a_lease_ends_one_that_ran_out()
    {
        var log = Log();
        var epoch = log.Acquire("w");
        log.Now += 30 * Second;

        log.Write(Ask.Move("w", "NEW", "PAID"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(log.Refuse(Ask.Move("w", "PAID", "X") with { LeaseEpoch = epoch }).Reason, Is.EqualTo(Reason.LeaseStale));
            Assert.That(log.Lease(Ask.Renew("worker", "w", epoch)).Refusal!.Reason, Is.EqualTo(Reason.LeaseStale));
            Assert.That(log.Acquire("w"), Is.GreaterThan(epoch));
        }
    }

    [Test]
    public void A_superseded_or_released_epoch_is_stale()
    {
        var log = Log();
        var first = log.Acquire("w");
        log.Now += 31 * Second;
        var second = log.Acquire("w", "other");
        var superseded = log.Refuse(Ask.Move("w", "NEW", "PAID") with { LeaseEpoch = first });
        log.Lease(Ask.Release("other", "w", second));
        var released = log.Refuse(Ask.Move("w", "NEW", "PAID") with { LeaseEpoch = second });

        using (Assert.EnterMultipleScope())
        {
            Assert.That((superseded.Reason, released.Reason), Is.EqualTo((Reason.LeaseStale, Reason.LeaseStale)));
            Assert.That(log.Head("w").Lease, Is.EqualTo(new Lease("", second, 0)), "The epoch is remembered.");
            Assert.That(log.Decide(Ask.Move("w", "NEW", "PAID")), Is.InstanceOf<Written>());
        }
    }

    [Test]
    public void Only_the_owner_keeps_a_lease()
    {
        var log = Log();
        var epoch = log.Acquire("w");

        Assert.That(log.Lease(Ask.Renew("other", "w", epoch)).Refusal!.Reason, Is.EqualTo(Reason.LeaseStale));
        Assert.That(log.Lease(Ask.Release("other", "w", epoch)).Refusal!.Reason, Is.EqualTo(Reason.LeaseStale));
    }

    [Test]
    public void A_live_lease_is_held_against_all_but_its_owner_who_takes_it_over()
    {
        var log = Log();
        var epoch = log.Acquire("w");
        var takeOver = Ask.Acquire("worker", "w") with { TakeOverOwn = true };

        var other = log.Lease(Ask.Acquire("other", "w") with { TakeOverOwn = true });
        var own = log.Lease(Ask.Acquire("worker", "w"));
        var taken = log.Lease(takeOver);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((other.Refusal!.Reason, own.Refusal!.Reason), Is.EqualTo((Reason.LeaseHeld, Reason.LeaseHeld)));
            Assert.That(taken.Workflow!.Lease!.Epoch, Is.GreaterThan(epoch));
            Assert.That(log.Refuse(Ask.Move("w", "NEW", "X") with { LeaseEpoch = epoch }).Reason, Is.EqualTo(Reason.LeaseStale));
        }
    }

    [Test]
    public void Epochs_grow_and_are_not_below_the_time()
    {
        var log = Log();
        var takeOver = Ask.Acquire("worker", "w") with { TakeOverOwn = true };
        var first = log.Lease(takeOver).Workflow!.Lease!.Epoch;
        var sameTime = log.Lease(takeOver).Workflow!.Lease!.Epoch;
        log.Now -= 3600 * Second;
        var clockBack = log.Lease(takeOver).Workflow!.Lease!.Epoch;
        log.Now += 7200 * Second;
        var later = log.Lease(takeOver).Workflow!.Lease!.Epoch;

        Assert.That((first, sameTime, clockBack, later),
            Is.EqualTo((MemoryLog.Start, MemoryLog.Start + 1, MemoryLog.Start + 2, log.Now)));
    }

    [Test]
    public void A_workflow_goes_to_one_of_those_who_ask_in_one_batch()
    {
        var log = Log();

        var outcomes = log.DecideAll(Ask.Acquire("a", "w", "absent"), Ask.Acquire("b", "w"));

        var (a, b) = ((LeasesDecided)outcomes[0], (LeasesDecided)outcomes[1]);
        using (Assert.EnterMultipleScope())
        {
            Assert.That(a.Answers.Select(x => x.Refusal?.Reason), Is.EqualTo(new Reason?[] { null, Reason.WorkflowNotFound }));
            Assert.That(b.Answers.Single().Refusal!.Reason, Is.EqualTo(Reason.LeaseHeld));
            Assert.That(log.Head("w").Lease!.Owner, Is.EqualTo("a"));
            Assert.That(log.Records, Has.Count.EqualTo(2), "Leases leave no record.");
        }
    }

    [Test]
    public void A_workflow_that_has_moved_on_is_not_taken()
    {
        var log = Log();
        var pending = new PendingFilter(Ask.Namespace, ["order"], ["NEW"], [WorkflowStatus.Running]);
        log.Write(Ask.Move("w", "NEW", "PAID"));

        var answer = log.Lease(Ask.Acquire("worker", "w") with { Filter = pending });
        var matching = log.Lease(Ask.Acquire("worker", "w") with { Filter = pending with { States = ["PAID"] } });

        Assert.That(answer.Refusal!.Reason, Is.EqualTo(Reason.StateMismatch));
        Assert.That(matching.Workflow!.Lease!.Owner, Is.EqualTo("worker"));
    }

    [Test]
    public void A_write_with_a_lease_keeps_it_and_its_end()
    {
        var log = Log();
        var epoch = log.Acquire("w");
        var lease = log.Head("w").Lease;
        log.Now += Second;

        var written = log.Write(Ask.Move("w", "NEW", "PAID") with { LeaseEpoch = epoch });

        Assert.That((written.Lease, log.Head("w").Lease), Is.EqualTo((lease, lease)));
    }
}
