using Aegis.Core;

namespace Aegis.Tests;

/// <summary>A known request_id gives the same record again, whatever has happened since, or says what differs.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class LedgerBatchReplayTests
{
    private static readonly Metadata Metadata = Ask.Metadata(("k", "v"));

    private static Parts Parts(string actor = "alice", string reason = "why", Metadata? metadata = null, string snapshot = "s",
        string contentType = "application/json") =>
        Ask.Parts(actor, reason, metadata ?? Metadata, System.Text.Encoding.UTF8.GetBytes(snapshot), contentType);

    private static StartCommand Start(Parts? parts = null) => Ask.Start("w", "start", parts ?? Parts());

    private static TransitionCommand Move(Parts? parts = null) => Ask.Move("w", "NEW", "PAID", "move", parts ?? Parts());

    private static MemoryLog Log()
    {
        var log = new MemoryLog();
        log.Write(Start());
        log.Write(Move());
        log.Write(Ask.Checkpoint("w", "later", 2, "checkpoint"));
        return log;
    }

    private static IEnumerable<TestCaseData> Same()
    {
        yield return Case("a start", Start());
        yield return Case("a transition", Move());
        yield return Case("a checkpoint", Ask.Checkpoint("w", "later", 2, "checkpoint"));
        yield return Case("another expectation", Move() with { Expected = new Expectation(99, null) });
        yield return Case("another lease", Move() with { LeaseEpoch = 99 });
        yield return Case("another owner", Start() with { Owner = "somebody" });
        yield return Case("a known log size", Move() with { KnownLogSize = 2 });

        static TestCaseData Case(string name, Command command) => new TestCaseData(command).SetArgDisplayNames(name);
    }

    [TestCaseSource(nameof(Same))]
    public void The_same_request_gives_the_same_record(WriteCommand command)
    {
        var log = Log();
        var size = log.Records.Count;

        var again = log.Write(command);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(again.Replayed, Is.True);
            Assert.That(again.Record, Is.EqualTo(log.Records.Single(r => r.Record.RequestId == command.RequestId)));
            Assert.That(log.Records, Has.Count.EqualTo(size));
        }
    }

    private static IEnumerable<TestCaseData> Differing()
    {
        yield return Case("kind", Move() with { RequestId = "start" });
        yield return Case("kind", Start() with { RequestId = "move" });
        yield return Case("kind", Ask.Checkpoint("w", "s", 1, "move"));
        yield return Case("workflow_type", Start() with { WorkflowType = "other" });
        yield return Case("initial_state", Start() with { InitialState = "OTHER" });
        yield return Case("status", Start() with { Status = WorkflowStatus.Waiting });
        yield return Case("forked_from", Start() with { ForkedFrom = new ForkPoint("source", 1, Hash.Zero) });
        yield return Case("from_state", Move() with { FromState = "OTHER" });
        yield return Case("to_state", Move() with { ToState = "OTHER" });
        yield return Case("status", Move() with { Status = WorkflowStatus.Completed });
        yield return Case("occurred_at", Move() with { OccurredAt = 1 });
        yield return Case("actor", Move(Parts(actor: "bob")));
        yield return Case("reason", Move(Parts(reason: "other")));
        yield return Case("metadata", Move(Parts(metadata: Ask.Metadata(("k", "other")))));
        yield return Case("metadata", Move(Parts(metadata: Ask.Metadata())));
        yield return Case("snapshot", Move(Parts(snapshot: "other")));
        yield return Case("snapshot", Move(Parts(contentType: "text/plain")));
        yield return Case("snapshot", Move(Ask.Parts("alice", "why", Metadata)));

        static TestCaseData Case(string field, Command command) => new(command, field);
    }

    [TestCaseSource(nameof(Differing))]
    public void Another_request_under_the_same_id_is_refused_with_the_field(WriteCommand command, string field)
    {
        var refusal = Log().Refuse(command);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refusal.Reason, Is.EqualTo(Reason.RequestIdReused));
            Assert.That(refusal.Facts["field"], Is.EqualTo(field));
            Assert.That(refusal.Facts["request_id"], Is.EqualTo(command.RequestId));
        }
    }

    [Test]
    public void A_request_is_answered_alike_after_the_workflow_closed_and_years_later()
    {
        var log = Log();
        log.Write(Ask.Move("w", "PAID", "DONE") with { Status = WorkflowStatus.Completed });
        log.Now += 3L * 365 * 24 * 3_600_000_000;

        var again = log.Write(Move());

        Assert.That((again.Replayed, again.Record.Record.Sequence, again.Workflow.State), Is.EqualTo((true, 2L, "DONE")));
    }

    [Test]
    public void A_duplicate_inside_a_batch_gives_the_record_of_the_first()
    {
        var log = new MemoryLog();

        var outcomes = log.DecideAll(Start(), Move(), Move(), Move(Parts(actor: "bob")), Start());

        using (Assert.EnterMultipleScope())
        {
            Assert.That(((Written)outcomes[2]).Record, Is.EqualTo(((Written)outcomes[1]).Record));
            Assert.That(((Written)outcomes[2]).Replayed, Is.True);
            Assert.That(((Refused)outcomes[3]).Refusal.Reason, Is.EqualTo(Reason.RequestIdReused));
            Assert.That(((Written)outcomes[4]).Replayed, Is.True);
            Assert.That(log.Chain("w"), Has.Count.EqualTo(2));
        }
    }

    [Test]
    public void The_same_id_on_another_workflow_is_another_request()
    {
        var log = Log();

        var written = log.Write(Ask.Start("other", "start", Parts()));

        Assert.That(written.Replayed, Is.False);
    }

    [Test]
    public void An_empty_id_is_no_id()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));

        log.Write(Ask.Move("w", "NEW", "A"));
        log.Write(Ask.Move("w", "A", "A") with { Expected = new Expectation(2, null) });

        Assert.That(log.Chain("w"), Has.Count.EqualTo(3));
    }

    [Test]
    public void A_replayed_start_tells_its_lease_only_while_it_is_still_its_owners()
    {
        var log = new MemoryLog();
        var start = Start() with { Owner = "worker" };
        var lease = log.Write(start).Lease;
        var stillHeld = log.Write(start).Lease;
        log.Now += 31_000_000;
        log.Acquire("w", "other");

        using (Assert.EnterMultipleScope())
        {
            Assert.That(stillHeld, Is.EqualTo(lease));
            Assert.That(log.Write(start).Lease, Is.Null);
        }
    }

    [Test]
    public void Values_erased_since_are_not_compared()
    {
        var log = Log();
        var erased = log.Chain("w")[1];
        erased = erased with { Record = erased.Record with { Person = null, Content = null, Snapshot = null } };
        var state = new BatchState
        {
            LogId = Ask.LogId,
            LogSize = 10,
            Frontier = new MerkleFrontier(10, [Hash.Zero, Hash.Zero]),
            SignedNote = "",
            LastRecordedAt = log.Now,
            Now = log.Now,
            Workflows = [log.Head("w")],
            KnownRequests = [erased],
        };

        var same = new LedgerBatch(state).Decide(Move(Parts("bob", "other", Ask.Metadata(), "other")));
        var other = new LedgerBatch(state).Decide(Move(Parts("bob")) with { ToState = "OTHER" });

        Assert.That(same, Is.InstanceOf<Written>());
        Assert.That(((Refused)other).Refusal.Facts["field"], Is.EqualTo("to_state"));
    }

    [Test]
    public void A_record_that_was_altered_answers_no_request()
    {
        var log = Log();
        var record = log.Chain("w")[1];
        var state = new BatchState
        {
            LogId = Ask.LogId,
            LogSize = 10,
            Frontier = new MerkleFrontier(10, [Hash.Zero, Hash.Zero]),
            SignedNote = "",
            LastRecordedAt = log.Now,
            Now = log.Now,
            Workflows = [log.Head("w")],
            KnownRequests = [record with { Record = record.Record with { ToState = "STOLEN" } }],
        };

        var outcome = new LedgerBatch(state).Decide(Move() with { ToState = "STOLEN" });

        Assert.That(((Refused)outcome).Refusal.Reason, Is.EqualTo(Reason.ChainBroken));
    }

    [Test]
    public void A_replayed_fork_does_not_compare_what_it_took_from_its_source()
    {
        var log = new MemoryLog();
        var source = log.Write(Ask.Start("source", parts: Ask.Parts(snapshot: "s"u8.ToArray()))).Record;
        var fork = Ask.Start("fork", "f", Ask.Parts(snapshot: "s"u8.ToArray())) with
        {
            ForkedFrom = new ForkPoint("source", 1, source.Hash),
            StateFromFork = true,
            SnapshotFromFork = true,
        };
        log.Write(fork);

        var again = log.Decide(fork with { Parts = Ask.Parts(), InitialState = "", ForkRefusal = Refusal.NotFound(Ask.Key("source")) });

        Assert.That(again, Is.InstanceOf<Written>().With.Property(nameof(Written.Replayed)).True);
        Assert.That(log.Refuse(fork with { ForkedFrom = new ForkPoint("source", 2, source.Hash) }).Facts["field"],
            Is.EqualTo("forked_from"));
    }
}
