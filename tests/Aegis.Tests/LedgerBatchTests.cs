using Aegis.Core;

namespace Aegis.Tests;

/// <summary>What a batch decides, and in which order it refuses.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class LedgerBatchTests
{
    [Test]
    public void The_first_record_of_the_log_opens_it()
    {
        var log = new MemoryLog();
        var first = log.Records.Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(first.LogIndex, Is.Zero);
            Assert.That(first.Record.Key, Is.EqualTo(WorkflowKey.Log));
            Assert.That((first.Record.Kind, first.Record.WorkflowType, first.Record.ToState),
                Is.EqualTo((RecordKind.Started, "aegis.log", "OPEN")));
            Assert.That(first.Record.LogId, Is.EqualTo(Ask.LogId));
            Assert.That(log.Verify([first], log.LogHead), Is.Empty);
        }
    }

    [Test]
    public void A_log_is_opened_once()
    {
        var log = new MemoryLog();

        var again = log.Decide(new OpenLogCommand("another", Ask.Parts()));

        Assert.That(again, Is.EqualTo(new LogOpened(Ask.LogId)));
        Assert.That(log.Records, Has.Count.EqualTo(1));
    }

    [Test]
    public void A_start_is_the_first_record_of_its_chain()
    {
        var log = new MemoryLog();

        var written = log.Write(Ask.Start("w", parts: Ask.Parts("alice", "why", Ask.Metadata(("k", "v")), "state"u8.ToArray()))
            with
        { Status = WorkflowStatus.Waiting, OccurredAt = 17 });

        var record = written.Record.Record;
        using (Assert.EnterMultipleScope())
        {
            Assert.That(written.Record.LogIndex, Is.EqualTo(1));
            Assert.That((record.Sequence, record.Kind, record.FromState, record.ToState, record.Status),
                Is.EqualTo((1L, RecordKind.Started, "", "NEW", WorkflowStatus.Waiting)));
            Assert.That((record.OccurredAt, record.RecordedAt, record.LeaseEpoch), Is.EqualTo((17L, log.Now, 0L)));
            Assert.That(record.PreviousHash.IsZero, Is.True);
            Assert.That(written.Workflow.Metadata, Is.EqualTo(Ask.Metadata(("k", "v"))));
            Assert.That((written.Workflow.CheckpointSequence, written.Workflow.CreatedLogIndex), Is.EqualTo((1L, 1L)));
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    [Test]
    public void A_start_with_an_owner_grants_a_lease()
    {
        var log = new MemoryLog();

        var written = log.Write(Ask.Start("w") with { Owner = "worker", LeaseDuration = 5 });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(written.Lease, Is.EqualTo(new Lease("worker", log.Now, log.Now + 5)));
            Assert.That(written.Record.Record.LeaseEpoch, Is.EqualTo(log.Now));
            Assert.That(log.Head("w").Lease, Is.EqualTo(written.Lease));
        }
    }

    [Test]
    public void A_fork_starts_from_the_record_it_names()
    {
        var log = new MemoryLog();
        var source = log.Write(Ask.Start("source"));
        log.Write(Ask.Move("source", "NEW", "PAID"));

        var fork = log.Write(Ask.Start("fork") with { ForkedFrom = new ForkPoint("source", 1, source.Record.Hash) });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(fork.Record.Record.PreviousHash, Is.EqualTo(source.Record.Hash));
            Assert.That(log.Verify("fork"), Is.Empty);
            Assert.That(log.Head("source").Sequence, Is.EqualTo(2), "The source stays as it was.");
        }
    }

    [Test]
    public void A_transition_follows_the_head_and_moves_it()
    {
        var log = new MemoryLog();
        var first = log.Write(Ask.Start("w"));

        var second = log.Write(Ask.Move("w", "NEW", "PAID") with { Status = WorkflowStatus.Waiting });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(second.Record.Record.PreviousHash, Is.EqualTo(first.Record.Hash));
            Assert.That((second.Workflow.State, second.Workflow.Status, second.Workflow.Sequence, second.Workflow.HeadHash),
                Is.EqualTo(("PAID", WorkflowStatus.Waiting, 2L, second.Record.Hash)));
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    [Test]
    public void A_checkpoint_leaves_state_and_status()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w") with { Status = WorkflowStatus.Waiting });

        var written = log.Write(Ask.Checkpoint("w", "state", sequence: 1));

        using (Assert.EnterMultipleScope())
        {
            Assert.That((written.Workflow.State, written.Workflow.Status, written.Workflow.CheckpointSequence),
                Is.EqualTo(("NEW", WorkflowStatus.Waiting, 2L)));
            Assert.That(written.Record.Record.Kind, Is.EqualTo(RecordKind.Checkpoint));
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    [Test]
    public void Commands_of_one_batch_see_each_other()
    {
        var log = new MemoryLog();

        var outcomes = log.DecideAll(
            Ask.Start("w"), Ask.Move("w", "NEW", "PAID"), Ask.Move("w", "NEW", "LOST"), Ask.Start("w"),
            Ask.Move("w", "PAID", "DONE") with { Status = WorkflowStatus.Completed }, Ask.Move("w", "DONE", "MORE"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcomes.Select(o => (o as Refused)?.Refusal.Reason), Is.EqualTo(new Reason?[]
            {
                null, null, Reason.StateMismatch, Reason.WorkflowAlreadyExists, null, Reason.WorkflowClosed,
            }));
            Assert.That(log.Records.Select(r => r.LogIndex), Is.EqualTo(new long[] { 0, 1, 2, 3 }), "A refusal leaves no gap.");
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    [Test]
    public void A_batch_that_only_refuses_stores_nothing()
    {
        var batch = new MemoryLog().Begin();

        batch.Decide(Ask.Move("absent", "NEW", "PAID"));

        Assert.That(batch.IsEmpty, Is.True);
    }

    [Test]
    public void A_snapshot_is_stored_once_however_often_it_is_given()
    {
        var log = new MemoryLog();
        var batch = log.Begin();

        batch.Decide(Ask.Start("w", parts: Ask.Parts(snapshot: "same"u8.ToArray())));
        batch.Decide(Ask.Checkpoint("w", "same", sequence: 1));
        batch.Decide(Ask.Start("other", parts: Ask.Parts(snapshot: "same"u8.ToArray())));

        Assert.That(batch.Snapshots.Select(s => s.Key.WorkflowId), Is.EquivalentTo(new[] { "w", "other" }));
    }

    [Test]
    public void The_time_of_recording_never_falls()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));
        log.Now -= 60_000_000;
        var moved = log.Write(Ask.Move("w", "NEW", "PAID"));
        log.Write(Ask.Start("other"));
        log.Now += 120_000_000;
        log.Write(Ask.Move("w", "PAID", "DONE"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(moved.Record.Record.RecordedAt, Is.EqualTo(MemoryLog.Start));
            Assert.That(log.Records.Select(r => r.Record.RecordedAt), Is.Ordered);
            Assert.That(log.Records[^1].Record.RecordedAt, Is.EqualTo(log.Now));
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    private static IEnumerable<TestCaseData> Order()
    {
        // A command that is wrong in every way is refused for the first of them; each next case mends one.
        var wrong = Ask.Move("w", "OTHER", "X", "used") with
        {
            KnownLogSize = 999,
            LeaseEpoch = 5,
            Expected = new Expectation(77, null),
            OccurredAt = 3,
        };
        yield return Case(wrong, Reason.CursorAheadOfLog, closed: true);
        yield return Case(wrong with { KnownLogSize = 0 }, Reason.RequestIdReused, closed: true);
        var fresh = wrong with { KnownLogSize = 0, RequestId = "fresh" };
        yield return Case(fresh with { Key = Ask.Key("absent") }, Reason.WorkflowNotFound, closed: true);
        yield return Case(fresh, Reason.WorkflowClosed, closed: true);
        yield return Case(fresh, Reason.LeaseStale);
        yield return Case(fresh with { LeaseEpoch = 0 }, Reason.StateMismatch);
        yield return Case(fresh with { LeaseEpoch = 0, FromState = "NEW" }, Reason.SequenceMismatch);

        static TestCaseData Case(TransitionCommand command, Reason reason, bool closed = false) =>
            new TestCaseData(command, reason, closed).SetArgDisplayNames(reason.ToString());
    }

    [TestCaseSource(nameof(Order))]
    public void Refusals_come_in_the_order_of_decision(Command command, Reason reason, bool closed)
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w", "used"));
        if (closed)
            log.Write(Ask.Move("w", "NEW", "DONE") with { Status = WorkflowStatus.Completed });

        Assert.That(log.Refuse(command).Reason, Is.EqualTo(reason));
    }

    [Test]
    public void A_start_is_refused_in_the_order_of_decision()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w", "used"));
        var wrong = Ask.Start("w", "used") with
        {
            KnownLogSize = 999,
            InitialState = "OTHER",
            ForkRefusal = Refusal.NotFound(Ask.Key("source")),
        };

        using (Assert.EnterMultipleScope())
        {
            Assert.That(log.Refuse(wrong).Reason, Is.EqualTo(Reason.CursorAheadOfLog));
            Assert.That(log.Refuse(wrong with { KnownLogSize = 2 }).Reason, Is.EqualTo(Reason.RequestIdReused));
            Assert.That(log.Refuse(wrong with { KnownLogSize = 0, RequestId = "" }).Reason, Is.EqualTo(Reason.WorkflowAlreadyExists));
            Assert.That(log.Refuse(wrong with { KnownLogSize = 0, RequestId = "", Key = Ask.Key("new") }).Reason,
                Is.EqualTo(Reason.WorkflowNotFound));
        }
    }

    [Test]
    public void A_conflict_tells_what_is_current()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));
        var head = log.Write(Ask.Move("w", "NEW", "PAID")).Record;
        Command[] conflicts =
        [
            Ask.Move("w", "NEW", "X"),
            Ask.Move("w", "PAID", "X") with { Expected = new Expectation(1, null) },
            Ask.Move("w", "PAID", "X") with { Expected = new Expectation(null, Hash.Of("other"u8)) },
            Ask.Checkpoint("w", "state", sequence: 3),
        ];

        var refusals = conflicts.Select(log.Refuse).ToList();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refusals.Select(r => r.Reason), Is.EqualTo(new[]
            {
                Reason.StateMismatch, Reason.SequenceMismatch, Reason.HashMismatch, Reason.SequenceMismatch,
            }));
            foreach (var facts in refusals.Select(r => r.Facts))
            {
                Assert.That(facts["current_state"], Is.EqualTo("PAID"));
                Assert.That(facts["current_sequence"], Is.EqualTo("2"));
                Assert.That(facts["current_hash"], Is.EqualTo(head.Hash.ToString()));
                Assert.That((facts["namespace"], facts["workflow_id"]), Is.EqualTo(("default", "w")));
            }
        }
    }

    [Test]
    public void An_expectation_that_holds_is_accepted()
    {
        var log = new MemoryLog();
        var first = log.Write(Ask.Start("w")).Record;

        var second = log.Write(Ask.Move("w", "NEW", "NEW") with { Expected = new Expectation(null, first.Hash) });
        log.Write(Ask.Move("w", "NEW", "PAID") with { Expected = new Expectation(second.Record.Record.Sequence, null) });

        Assert.That(log.Verify("w"), Is.Empty);
    }

    [TestCase(WorkflowStatus.Completed)]
    [TestCase(WorkflowStatus.Failed)]
    [TestCase(WorkflowStatus.Cancelled)]
    public void A_closed_workflow_takes_nothing_more(WorkflowStatus status)
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w") with { Owner = "worker" });
        var epoch = log.Head("w").Lease!.Epoch;
        log.Write(Ask.Move("w", "NEW", "END") with { Status = status, LeaseEpoch = epoch });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(log.Head("w").Lease!.IsVoid, Is.True, "Closing releases.");
            Assert.That(log.Refuse(Ask.Move("w", "END", "NEW")).Reason, Is.EqualTo(Reason.WorkflowClosed));
            Assert.That(log.Refuse(Ask.Checkpoint("w", "s", 2)).Reason, Is.EqualTo(Reason.WorkflowClosed));
            Assert.That(log.Lease(Ask.Acquire("worker", "w")).Refusal!.Reason, Is.EqualTo(Reason.WorkflowClosed));
            Assert.That(log.Lease(Ask.Renew("worker", "w", epoch)).Refusal!.Reason, Is.EqualTo(Reason.WorkflowClosed));
        }
    }

    [Test]
    public void A_log_size_that_the_log_has_is_known()
    {
        var log = new MemoryLog();

        Assert.That(log.Refuse(Ask.Start("w") with { KnownLogSize = 2 }).Facts["log_size"], Is.EqualTo("1"));
        Assert.That(log.Decide(Ask.Start("w") with { KnownLogSize = 1 }), Is.InstanceOf<Written>());
    }
}
