using System.Text;
using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Chains that break one rule each, everything rehashed: only the rules can tell.</summary>
internal static class RefusedChains
{
    private static readonly byte[] Body = "{\"step\":1}"u8.ToArray();

    /// <param name="Why">What is wrong.</param>
    /// <param name="FirstWrong">The sequence at which it is.</param>
    /// <param name="Records">With the bytes of their snapshots; null where these are gone.</param>
    public sealed record Case(string Why, long FirstWrong, IReadOnlyList<(StoredRecord Record, byte[]? Body)> Records);

    public static StoredRecord Sound() => new Chain().Records[0].Record;

    public static IEnumerable<Case> All() =>
    [
        .. Beginnings(), .. States(), .. Links(), .. Times(), .. Erasures(), .. Snapshots(),
    ];

    private static IEnumerable<Case> Beginnings()
    {
        yield return new("begins with a TRANSITION", 1,
            new Chain(r => r with { Kind = RecordKind.Transition, FromState = "OLD" }).Records);
        yield return new("begins with an ERASURE", 1, new Chain(r => r with { Kind = RecordKind.Erasure, FromState = "NEW" }).Records);
        yield return new("STARTED has a from_state", 1, new Chain(r => r with { FromState = "NEW" }).Records);
        yield return new("a second STARTED", 2, new Chain().Add(r => r with { Kind = RecordKind.Started, FromState = "" }).Records);
        yield return new("begins at sequence 2", 1, new Chain(r => r with { Sequence = 2 }).Records);
        yield return new("a record is missing", 2, new Chain().Add(r => r with { Sequence = 3 }).Records);
        yield return new("kind 0 is unknown", 2, new Chain().Add(r => r with { Kind = 0 }).Records);
        yield return new("kind 5 is unknown", 2, new Chain().Add(r => r with { Kind = (RecordKind)5 }).Records);
        yield return new("status 0 is unknown", 2, new Chain().Add(r => r with { Status = 0 }).Records);
        yield return new("status 6 is unknown", 2, new Chain().Add(r => r with { Status = (WorkflowStatus)6 }).Records);
    }

    private static IEnumerable<Case> States()
    {
        yield return new("from_state is not what the record before left", 2, new Chain().Add(r => r with { FromState = "OTHER" }).Records);
        yield return new("from_state is empty and the kind is not STARTED", 2,
            new Chain(r => r with { ToState = "" }).Add(r => r with { FromState = "", ToState = "PAID" }).Records);
        yield return new("another workflow_type", 2, new Chain().Add(r => r with { WorkflowType = "invoice" }).Records);
        yield return new("a TRANSITION after COMPLETED", 3, Closed(WorkflowStatus.Completed).Add().Records);
        yield return new("a TRANSITION that reopens after FAILED", 3,
            Closed(WorkflowStatus.Failed).Add(r => r with { Status = WorkflowStatus.Running }).Records);
        yield return new("a CHECKPOINT after CANCELLED", 3, Closed(WorkflowStatus.Cancelled).Checkpoint(r => r).Records);
        yield return new("a CHECKPOINT that changes the state", 2, new Chain().Checkpoint(r => r with { ToState = "PAID" }).Records);
        yield return new("a CHECKPOINT that changes the status", 2,
            new Chain().Checkpoint(r => r with { Status = WorkflowStatus.Waiting }).Records);
        yield return new("a CHECKPOINT without a snapshot", 2,
            new Chain().Checkpoint(r => r with { SnapshotDigest = default, Snapshot = null }).Records);
        yield return new("an ERASURE that changes the state", 2, new Chain().Erase("1", "person", r => r with { ToState = "PAID" }).Records);
        yield return new("an ERASURE that changes the status", 2,
            new Chain().Erase("1", "person", r => r with { Status = WorkflowStatus.Completed }).Records);

        static Chain Closed(WorkflowStatus status) => new Chain().Add(r => r with { ToState = "END", Status = status });
    }

    private static IEnumerable<Case> Links()
    {
        yield return new("previous_hash is another", 2, new Chain().Add(r => r with { PreviousHash = Hash.Of("another"u8) }).Records);
        yield return new("previous_hash is zero", 2, new Chain().Add(r => r with { PreviousHash = default }).Records);
        yield return new("previous_hash is that of the record two before", 3, TwoBefore().Records);
        yield return new("a record of another workflow_id", 2, new Chain().Add(r => r with { WorkflowId = "wf-2" }).Records);
        yield return new("a record of another namespace", 2, new Chain().Add(r => r with { Namespace = "other" }).Records);

        static Chain TwoBefore()
        {
            var chain = new Chain().Add();
            var first = chain.Records[0].Record.Hash;
            return chain.Add(r => r with { PreviousHash = first });
        }
    }

    private static IEnumerable<Case> Times()
    {
        yield return new("recorded_at falls", 2, new Chain().Add(r => r with { RecordedAt = r.RecordedAt - 2 }).Records);
        yield return new("lease_epoch falls", 3,
            new Chain().Add(r => r with { LeaseEpoch = 10 }).Add(r => r with { LeaseEpoch = 9 }).Records);
        yield return new("lease_epoch falls, with a record without a lease between", 4,
            new Chain().Add(r => r with { LeaseEpoch = 10 }).Add().Add(r => r with { LeaseEpoch = 9 }).Records);
    }

    private static IEnumerable<Case> Erasures()
    {
        yield return new("the person is gone, and there is no ERASURE", 1, new Chain(Gone).Add().Records);
        yield return new("the ERASURE covers only later records", 1, new Chain(Gone).Add(Gone).Erase("2", "person").Records);
        yield return new("the ERASURE covers only earlier records", 2, new Chain(Gone).Add(Gone).Erase("1", "person").Records);
        yield return new("the ERASURE covers another part", 1, new Chain(Gone).Erase("1", "content,snapshot").Records);
        yield return new("the ERASURE comes before what is gone", 3, new Chain().Erase("1-9", "person").Add(Gone).Records);
        yield return new("the ERASURE covers itself", 2, new Chain().Erase("1-9", "person,content,snapshot", Gone).Records);
        yield return new("the ERASURE names no range", 1, new Chain(Gone).Erase("", "person").Records);
        yield return new("the ERASURE's range has no end", 1, new Chain(Gone).Erase("1-", "person").Records);
        yield return new("the ERASURE's range runs backwards", 1, new Chain(Gone).Add().Erase("2-1", "person").Records);
        yield return new("the ERASURE's range is no number", 1, new Chain(Gone).Erase("all", "person").Records);
        yield return new("the metadata of an ERASURE is gone, though a later one says so", 2, new Chain()
            .Erase("1", "content", r => r with { Content = null }).Erase("2", "content").Records);
        yield return new("an ERASURE in the log's own history", 2,
            new Chain(r => r with { Namespace = "aegis.system", WorkflowId = "log", WorkflowType = "aegis.log", ToState = "OPEN" })
                .Erase("1", "person").Records);

        static Record Gone(Record r) => r with { Person = null };
    }

    private static IEnumerable<Case> Snapshots()
    {
        yield return new("the bytes of a snapshot are gone, and there is no ERASURE", 2, new Chain().Checkpoint(r => r, null).Add().Records);
        yield return new("the bytes of a snapshot are gone, and the ERASURE covers another record", 2,
            new Chain().Checkpoint(r => r, null).Erase("1", "snapshot-bytes").Records);
        yield return new("the bytes of a snapshot are others", 2, new Chain().Checkpoint(r => r, "{\"step\":2}"u8.ToArray()).Records);
        yield return new("the bytes of a snapshot are cut short", 2, new Chain().Checkpoint(r => r, Body[..^1]).Records);
        yield return new("the size is not that of the bytes", 2, new Chain().Checkpoint(r =>
        {
            var snapshot = r.Snapshot! with { Size = r.Snapshot.Size + 1 };
            return r with { Snapshot = snapshot, SnapshotDigest = RecordFormat.DigestOf(snapshot) };
        }).Records);
    }

    /// <summary>Builds a chain record by record; each change is made to the record that would be sound, before it is hashed.</summary>
    private sealed class Chain
    {
        private readonly List<(StoredRecord Record, byte[]? Body)> _records = [];

        public Chain(Func<Record, Record>? change = null)
        {
            var person = new Person(Salt("person"), "alice", "");
            var first = new Record
            {
                LogId = "aegis.example/refused",
                Namespace = "default",
                WorkflowId = "wf",
                Sequence = 1,
                Kind = RecordKind.Started,
                WorkflowType = "order",
                FromState = "",
                ToState = "NEW",
                Status = WorkflowStatus.Running,
                RequestId = "",
                LeaseEpoch = 0,
                OccurredAt = 0,
                RecordedAt = MemoryLog.Start,
                PersonDigest = RecordFormat.DigestOf(person),
                ContentDigest = default,
                SnapshotDigest = default,
                PreviousHash = default,
                Person = person,
            };
            Seal(change is null ? first : change(first), null);
        }

        public IReadOnlyList<(StoredRecord Record, byte[]? Body)> Records => _records;

        /// <summary>A TRANSITION that leaves the state as it is.</summary>
        public Chain Add(Func<Record, Record>? change = null)
        {
            var next = Next(RecordKind.Transition);
            return Seal(change is null ? next : change(next), null);
        }

        public Chain Checkpoint(Func<Record, Record> change) => Checkpoint(change, Body);

        public Chain Checkpoint(Func<Record, Record> change, byte[]? stored)
        {
            var snapshot = new SnapshotPart(Salt("snapshot"), "application/json", Body.Length, Hash.Of(Body));
            return Seal(change(Next(RecordKind.Checkpoint) with
            {
                SnapshotDigest = RecordFormat.DigestOf(snapshot),
                Snapshot = snapshot,
            }), stored);
        }

        public Chain Erase(string erased, string parts, Func<Record, Record>? change = null)
        {
            var content = new Content(Salt("content"), "", Ask.Metadata((Erasure.ErasedKey, erased), (Erasure.PartsKey, parts)));
            var next = Next(RecordKind.Erasure) with { ContentDigest = RecordFormat.DigestOf(content), Content = content };
            return Seal(change is null ? next : change(next), null);
        }

        private Record Next(RecordKind kind)
        {
            var last = _records[^1].Record;
            var person = new Person(Salt("person"), "alice", "");
            return last.Record with
            {
                Sequence = last.Record.Sequence + 1,
                Kind = kind,
                FromState = last.Record.ToState,
                LeaseEpoch = 0,
                RecordedAt = last.Record.RecordedAt + 1,
                PersonDigest = RecordFormat.DigestOf(person),
                ContentDigest = default,
                SnapshotDigest = default,
                PreviousHash = last.Hash,
                Person = person,
                Content = null,
                Snapshot = null,
            };
        }

        private Chain Seal(Record record, byte[]? body)
        {
            _records.Add((StoredRecord.Seal(record, _records.Count), body));
            return this;
        }

        /// <summary>The same in every run.</summary>
        private Bytes16 Salt(string part) => new(Hash.Of(Encoding.UTF8.GetBytes($"{part} {_records.Count + 1}")).ToArray().AsSpan(0, Bytes16.Size));
    }
}
