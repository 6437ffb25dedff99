using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Records that come with their hashes are joined to what is stored, and keep them.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class LedgerBatchImportTests
{
    /// <summary>NEW, PAID with a snapshot, and leased; as another log recorded it.</summary>
    private static IReadOnlyList<StoredRecord> Foreign(long epoch = 5)
    {
        var log = new MemoryLog { Now = MemoryLog.Start - 3_600_000_000 };
        log.Write(Ask.Start("w", "start", Ask.Parts(metadata: Ask.Metadata(("k", "v")))));
        log.Write(Ask.Move("w", "NEW", "PAID", "move", Ask.Parts(snapshot: "state"u8.ToArray())));
        List<StoredRecord> chain = [];
        foreach (var record in log.Chain("w"))
        {
            chain.Add(StoredRecord.Seal(record.Record with
            {
                LogId = "aegis.example/foreign",
                LeaseEpoch = epoch,
                PreviousHash = chain.Count == 0 ? default : chain[^1].Hash,
            }, record.LogIndex));
        }
        return chain;
    }

    private static ImportCommand Import(params IReadOnlyList<StoredRecord> records) => new()
    {
        Key = Ask.Key("w"),
        Records = records,
        Snapshots = [],
        ForkedFrom = null,
        IsLast = true,
        Erased = [],
        LogEntry = Ask.Parts(metadata: Ask.Metadata(("workflow_id", "w"))),
    };

    [Test]
    public void An_absent_workflow_is_taken_as_it_is()
    {
        var log = new MemoryLog();
        var chain = Foreign();

        var outcome = log.Decide(Import(chain));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcome, Is.InstanceOf<Imported>());
            Assert.That(log.Chain("w").Select(r => (r.Record, r.Hash)), Is.EqualTo(chain.Select(r => (r.Record, r.Hash))));
            Assert.That(log.Chain("w").Select(r => r.LogIndex), Is.EqualTo(new long[] { 1, 2 }));
            var head = log.Head("w");
            Assert.That((head.State, head.Sequence, head.HeadHash, head.CheckpointSequence, head.Importing),
                Is.EqualTo(("PAID", 2L, chain[1].Hash, 2L, false)));
            Assert.That((head.CreatedAt, head.UpdatedAt, head.CreatedLogIndex),
                Is.EqualTo((chain[0].Record.RecordedAt, chain[1].Record.RecordedAt, 1L)));
            Assert.That(head.Metadata, Is.EqualTo(Ask.Metadata(("k", "v"))));
        }
    }

    [Test]
    public void It_goes_on_in_the_new_log_and_verifies()
    {
        var log = new MemoryLog();
        log.Decide(Import(Foreign(epoch: MemoryLog.Start + 7)) with
        {
            Snapshots = [new Snapshot(Ask.Key("w"), Hash.Of("state"u8), "state"u8.ToArray())],
        });

        var epoch = log.Acquire("w");
        log.Write(Ask.Move("w", "PAID", "DONE") with { LeaseEpoch = epoch });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(epoch, Is.EqualTo(MemoryLog.Start + 8), "Above the highest seen.");
            Assert.That(log.Chain("w").Select(r => r.Record.LogId).Distinct().Count(), Is.EqualTo(2));
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    [Test]
    public void The_first_and_the_last_of_several_slices_leave_records_in_the_logs_own_history()
    {
        var log = new MemoryLog();
        var chain = Foreign();

        log.Decide(Import(chain[0]) with { IsLast = false });
        var begun = log.LogHead;
        log.Decide(Import(chain[1]));

        var entry = log.Chain(WorkflowKey.Log)[^1].Record;
        using (Assert.EnterMultipleScope())
        {
            Assert.That((begun.Sequence, begun.State), Is.EqualTo((2L, "IMPORTING")));
            Assert.That((entry.Sequence, entry.Kind, entry.FromState, entry.ToState),
                Is.EqualTo((3L, RecordKind.Transition, "IMPORTING", "IMPORTED")));
            Assert.That(entry.Content!.Metadata, Is.EqualTo(Ask.Metadata(("workflow_id", "w"))));
            Assert.That(log.Verify(log.Chain(WorkflowKey.Log), log.LogHead), Is.Empty);
        }
    }

    [Test]
    public void A_slice_between_and_an_import_of_one_slice_tell_no_beginning()
    {
        var log = new MemoryLog();
        var chain = Foreign();

        log.Decide(Import(chain[0]) with { IsLast = false });
        log.Decide(Import(chain[1]) with { IsLast = false });
        var between = log.Chain(WorkflowKey.Log);
        var other = new MemoryLog();
        other.Decide(Import(chain));

        Assert.That(between.Select(r => r.Record.ToState), Is.EqualTo(new[] { "OPEN", "IMPORTING" }));
        Assert.That(other.Chain(WorkflowKey.Log).Select(r => r.Record.ToState), Is.EqualTo(new[] { "OPEN", "IMPORTED" }));
    }

    [Test]
    public void Until_the_last_slice_the_workflow_is_closed_to_callers()
    {
        var log = new MemoryLog();
        log.Decide(Import(Foreign()[0]) with { IsLast = false });

        Assert.That(log.Refuse(Ask.Move("w", "NEW", "X")).Reason, Is.EqualTo(Reason.WorkflowClosed));
        Assert.That(log.Lease(Ask.Acquire("worker", "w")).Refusal!.Reason, Is.EqualTo(Reason.WorkflowClosed));
    }

    [Test]
    public void A_longer_chain_extends_the_one_that_is_here()
    {
        var log = new MemoryLog();
        var chain = Foreign();
        log.Decide(Import(chain[0]));

        var outcome = log.Decide(Import(chain[1]));

        Assert.That(outcome, Is.InstanceOf<Imported>());
        Assert.That(log.Head("w").Metadata, Is.EqualTo(Ask.Metadata(("k", "v"))), "That of record 1 stays.");
    }

    [Test]
    public void A_chain_that_does_not_join_is_refused()
    {
        var log = new MemoryLog();
        var chain = Foreign();
        var withoutStart = log.Refuse(Import(chain[1]));
        log.Write(Ask.Start("w"));

        var another = log.Refuse(Import(chain[1]));
        var again = log.Refuse(Import(chain[0]));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(withoutStart.Reason, Is.EqualTo(Reason.WorkflowNotFound));
            Assert.That((another.Reason, again.Reason), Is.EqualTo((Reason.HashMismatch, Reason.HashMismatch)));
            Assert.That(another.Facts["current_sequence"], Is.EqualTo("1"));
        }
    }

    [Test]
    public void A_workflow_that_is_leased_is_not_extended()
    {
        var log = new MemoryLog();
        var chain = Foreign();
        log.Decide(Import(chain[0]));
        log.Acquire("w");

        Assert.That(log.Refuse(Import(chain[1])).Reason, Is.EqualTo(Reason.LeaseHeld));
    }

    [TestCase(Limits.ImportAheadMax, true)]
    [TestCase(Limits.ImportAheadMax + 1, false)]
    public void Records_from_the_future_are_refused_beyond_five_minutes(long ahead, bool accepted)
    {
        var log = new MemoryLog();
        var first = Foreign()[0].Record;
        var record = StoredRecord.Seal(first with { RecordedAt = log.Now + ahead }, 0);

        var outcome = log.Decide(Import(record));

        Assert.That(outcome, accepted ? Is.InstanceOf<Imported>() : Is.InstanceOf<Refused>());
    }

    [Test]
    public void What_follows_an_import_from_ahead_is_not_recorded_before_it()
    {
        var log = new MemoryLog();
        var first = Foreign(epoch: 0)[0].Record;
        log.Decide(Import(StoredRecord.Seal(first with { RecordedAt = log.Now + 60_000_000 }, 0)));

        var next = log.Write(Ask.Move("w", "NEW", "PAID")).Record.Record;
        var other = log.Write(Ask.Start("other")).Record.Record;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(next.RecordedAt, Is.EqualTo(log.Now + 60_000_000));
            Assert.That(other.RecordedAt, Is.GreaterThanOrEqualTo(next.RecordedAt), "Nor may the log's own times fall.");
            Assert.That(log.Verify("w"), Is.Empty);
        }
    }

    [Test]
    public void Erased_values_of_record_1_leave_the_head_too()
    {
        var log = new MemoryLog();
        var chain = Foreign(epoch: 0);
        log.Decide(Import(chain[0]));
        var key = Ask.Key("w");
        var batch = log.Begin();

        batch.Decide(Import(chain[1], Ask.Erasure(chain[1], "1", "content")) with
        {
            Erased = [new ErasedValues(key, 1, Person: false, Content: true, Snapshot: false, Bytes: null)],
        });

        Assert.That(batch.Workflows.Single(w => w.Key == key).Metadata, Is.EqualTo(Metadata.Empty));
        Assert.That(batch.Erased, Has.Count.EqualTo(1));
    }

    [Test]
    public void A_request_of_an_imported_chain_is_answered_in_the_same_batch()
    {
        var log = new MemoryLog();
        var chain = Foreign();

        var outcomes = log.DecideAll(Import(chain),
            Ask.Move("w", "NEW", "PAID", "move", Ask.Parts(snapshot: "state"u8.ToArray())));

        Assert.That(outcomes[1], Is.InstanceOf<Written>().With.Property(nameof(Written.Replayed)).True);
    }
}
