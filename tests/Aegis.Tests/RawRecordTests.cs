using System.Text;
using Aegis.Core;
using CsCheck;

namespace Aegis.Tests;

/// <summary>What is told of a record from its bytes alone is what is told of it field by field.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class RawRecordTests
{
    private const int Logs = 100;

    [Test]
    public void An_honest_record_is_consistent_and_reads_as_itself() => RandomChains.Logs.Sample(log =>
    {
        var texts = new Texts();
        foreach (var stored in log.Records)
        {
            Assert.That(IsConsistent(stored), Is.True);
            var vote = Vote(stored, texts);
            Assert.That(vote.IsSound, Is.True);
            Assert.That(vote.Hash, Is.EqualTo(stored.Hash));
            Assert.That(vote.Stored.Record, Is.EqualTo(stored.Record));
            Assert.That(vote.Stored.Encoded.ToArray(), Is.EqualTo(stored.Encoded.ToArray()));
        }
    }, iter: Logs);

    [Test]
    public void Any_altered_record_gets_the_vote_that_its_fields_give() => RandomChains.Logs.Sample(log =>
    {
        foreach (var (name, altered) in log.Records.SelectMany(Alterations.Of))
        {
            Assert.That(IsConsistent(altered), Is.False, name);
            var (fromBytes, fromFields) = (Vote(altered, new Texts()), RecordVote.Of(Stored(altered)));
            Assert.That((fromBytes.IsSound, fromBytes.Hash, fromBytes.Finding?.Message),
                Is.EqualTo((fromFields.IsSound, fromFields.Hash, fromFields.Finding?.Message)), name);
        }
    }, iter: Logs / 5);

    [Test]
    public void Numbers_that_no_record_can_have_are_not_taken_for_others()
    {
        var stored = Started();
        Assert.That(new RawRecord { Encoded = stored.Encoded.Span, Kind = 257, Metadata = Metadata.Empty }.IsConsistent(), Is.False);
        var kind = (long)stored.Record.Kind;
        Assert.That(IsConsistent(stored, kind), Is.True);
        Assert.That(IsConsistent(stored, kind + 256), Is.False);
        Assert.That(IsConsistent(stored, -1), Is.False);
    }

    [Test]
    public void A_text_longer_than_its_length_can_say_is_not_consistent()
    {
        var stored = Started();
        var longer = stored with { Record = stored.Record with { Person = stored.Record.Person! with { Actor = new string('x', 70_000) } } };
        Assert.That(IsConsistent(longer), Is.False);
    }

    private static StoredRecord Started()
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w", "start", Ask.Parts("alice")));
        return log.Records[^1];
    }

    private static bool IsConsistent(StoredRecord stored, long? kind = null)
    {
        var consistent = false;
        Read(stored, kind, (in RawRecord raw) => consistent = raw.IsConsistent());
        return consistent;
    }

    private static RecordVote Vote(StoredRecord stored, Texts texts)
    {
        RecordVote? vote = null;
        Read(stored, null, (in RawRecord raw) => vote = RecordVote.Of(raw, texts));
        return vote!;
    }

    private static StoredRecord Stored(StoredRecord stored)
    {
        StoredRecord? read = null;
        Read(stored, null, (in RawRecord raw) => read = raw.ToStoredRecord(new Texts()));
        return read!;
    }

    internal delegate void Reader(in RawRecord raw);

    /// <summary>The record as a store has it.</summary>
    internal static void Read(StoredRecord stored, long? kind, Reader read)
    {
        var r = stored.Record;
        read(new RawRecord
        {
            LogIndex = stored.LogIndex,
            LogId = Utf8(r.LogId),
            Namespace = Utf8(r.Namespace),
            WorkflowId = Utf8(r.WorkflowId),
            Sequence = r.Sequence,
            Kind = kind ?? (long)r.Kind,
            WorkflowType = Utf8(r.WorkflowType),
            FromState = Utf8(r.FromState),
            ToState = Utf8(r.ToState),
            Status = (long)r.Status,
            RequestId = Utf8(r.RequestId),
            RequestKey = r.RequestId.Length == 0 ? [] : RecordFormat.RequestKey(r.Key, r.RequestId).ToArray(),
            LeaseEpoch = r.LeaseEpoch,
            OccurredAt = r.OccurredAt,
            RecordedAt = r.RecordedAt,
            PersonSalt = r.Person?.Salt,
            Actor = Utf8(r.Person?.Actor),
            Principal = Utf8(r.Person?.Principal),
            ContentSalt = r.Content?.Salt,
            Reason = Utf8(r.Content?.Reason),
            Metadata = r.Content?.Metadata ?? Metadata.Empty,
            SnapshotSalt = r.Snapshot?.Salt,
            SnapshotContentType = Utf8(r.Snapshot?.ContentType),
            SnapshotSize = r.Snapshot?.Size ?? 0,
            SnapshotSha256 = r.Snapshot?.Sha256 ?? default,
            Hash = stored.Hash,
            Encoded = stored.Encoded.Span,
        });
    }

    private static byte[] Utf8(string? text) => Encoding.UTF8.GetBytes(text ?? "");
}
