using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Findings that random chains do not reach: what is named, and under which class.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ChainVerifierTests
{
    [Test]
    public void Metadata_of_the_head_that_only_reads_alike_is_found()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w", parts: Ask.Parts(metadata: Ask.Metadata(("a", "1"), ("b", "2")))));

        var violations = log.Verify(log.Chain("w"), log.Head("w") with { Metadata = Ask.Metadata(("a", "1, b=2")) });

        Assert.That(violations.Select(v => v.Class), Is.EqualTo(new[] { ViolationClass.WorkflowHeadModified }));
        Assert.That(violations[0].Differences.Single().Field, Is.EqualTo("metadata"));
    }

    [Test]
    public void An_altered_column_is_named_with_its_original_value()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));
        log.Write(Ask.Move("w", "NEW", "PAID"));
        var chain = log.Chain("w").ToArray();
        chain[1] = chain[1] with { Record = chain[1].Record with { ToState = "STOLEN" } };

        var violation = log.Verify(chain, log.Head("w")).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That((violation.Class, violation.Sequence, violation.LogIndex), Is.EqualTo((ViolationClass.FieldModified, 2L, (long?)2L)));
            Assert.That(violation.Differences, Is.EqualTo(new[] { new Difference("to_state", "PAID", "STOLEN") }));
            Assert.That(violation.ExpectedHash, Is.EqualTo(chain[1].Hash));
        }
    }

    [Test]
    public void A_text_that_has_no_encoding_is_an_altered_one()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w", parts: Ask.Parts("alice", "why", Ask.Metadata(("k", "v")))));
        var sound = log.Chain("w")[0];
        var (tooLong, halfCharacter) = (new string('x', 70_000), "\ud800");
        StoredRecord[] altered =
        [
            sound with { Record = sound.Record with { RequestId = tooLong } },
            sound with { Record = sound.Record with { RequestId = halfCharacter } },
            sound with { Record = sound.Record with { Person = sound.Record.Person! with { Actor = tooLong } } },
            sound with { Record = sound.Record with { Content = sound.Record.Content! with { Reason = halfCharacter } } },
            sound with { Record = sound.Record with { Content = sound.Record.Content! with { Metadata = Ask.Metadata((tooLong, "")) } } },
        ];

        using (Assert.EnterMultipleScope())
        {
            foreach (var stored in altered)
            {
                Assert.That(stored.IsConsistent(), Is.False);
                Assert.That(log.Verify([stored], null).Select(v => v.Class), Is.EqualTo(new[] { ViolationClass.FieldModified }));
            }
        }
    }

    [Test]
    public void Values_that_an_erasure_covers_may_be_gone()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w", parts: Ask.Parts("alice", "why", snapshot: "state"u8.ToArray())));
        log.Write(Ask.Move("w", "NEW", "PAID", parts: Ask.Parts("bob")));
        var chain = log.Chain("w").ToList();
        chain.Add(Ask.Erasure(chain[^1], "1-2", "person,content,snapshot"));
        chain[0] = chain[0] with { Record = chain[0].Record with { Person = null, Content = null, Snapshot = null } };
        chain[1] = chain[1] with { Record = chain[1].Record with { Person = null } };

        Assert.That(log.Verify(chain, null), Is.Empty);
    }

    [Test]
    public void A_snapshot_is_never_vouched_for_by_a_description_that_was_altered()
    {
        var log = new MemoryLog();
        var stored = log.Write(Ask.Start("w", parts: Ask.Parts(snapshot: "state"u8.ToArray()))).Record;
        var forged = stored with { Record = stored.Record with { Snapshot = stored.Record.Snapshot! with { Sha256 = Hash.Of("forged"u8) } } };
        var (whole, alone) = (new ChainVerifier(Ask.Key("w")), new ChainVerifier(Ask.Key("w")));

        whole.Add(forged);
        whole.AddSnapshot(forged, (Hash.Of("forged"u8), 5));
        alone.AddSnapshot(forged, (Hash.Of("forged"u8), 5));

        Assert.That(whole.Complete(null).Select(v => v.Class), Is.EqualTo(new[] { ViolationClass.FieldModified }));
        Assert.That(alone.Complete(null).Select(v => v.Class), Is.EqualTo(new[] { ViolationClass.SnapshotModified }));
    }

    [Test]
    public void A_workflow_without_records_has_lost_them_all()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));

        var violation = log.Verify([], log.Head("w")).Single();

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((ViolationClass.TailTruncated, 1L)));
    }

    [Test]
    public void A_reading_may_begin_in_the_middle()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));
        log.Write(Ask.Move("w", "NEW", "PAID"));
        log.Write(Ask.Move("w", "PAID", "DONE"));
        var verifier = new ChainVerifier(Ask.Key("w"), firstSequence: 2);

        foreach (var record in log.Chain("w").Skip(1))
            verifier.Add(record);

        Assert.That(verifier.Complete(log.Head("w")), Is.Empty);
        Assert.That((verifier.RecordsVerified, verifier.HeadHash), Is.EqualTo((2L, log.Head("w").HeadHash)));
    }

    [Test]
    public void Only_so_many_findings_are_kept()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w"));
        var verifier = new ChainVerifier(Ask.Key("w"));
        for (var i = 0; i < ChainVerifier.ViolationsMax + 10; i++)
            verifier.Add(log.Chain("w")[0] with { Hash = default });

        Assert.That(verifier.Complete(null), Has.Count.EqualTo(ChainVerifier.ViolationsMax));
    }
}
