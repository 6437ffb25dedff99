using System.Buffers.Binary;
using System.Text;
using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Commands as a server gives them to Core, with plain values; a test states what matters by `with`.</summary>
internal static class Ask
{
    public const string LogId = "aegis.example/tests";
    public const string Namespace = "default";

    private static long _salts;

    public static WorkflowKey Key(string id) => new(Namespace, id);

    public static StartCommand Start(string id, string request = "", Parts? parts = null) => new()
    {
        Key = Key(id),
        RequestId = request,
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = parts ?? Parts(),
        WorkflowType = "order",
        InitialState = "NEW",
        Status = WorkflowStatus.Running,
    };

    public static TransitionCommand Move(string id, string from, string to, string request = "", Parts? parts = null) => new()
    {
        Key = Key(id),
        RequestId = request,
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = parts ?? Parts(),
        FromState = from,
        ToState = to,
        Status = WorkflowStatus.Running,
    };

    public static CheckpointCommand Checkpoint(string id, string content, long sequence, string request = "") => new()
    {
        Key = Key(id),
        RequestId = request,
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = Parts(snapshot: Encoding.UTF8.GetBytes(content)),
        Expected = new Expectation(sequence, null),
    };

    public static AcquireLeasesCommand Acquire(string owner, params string[] ids) => new()
    {
        Keys = [.. ids.Select(Key)],
        Owner = owner,
        Duration = 30_000_000,
        TakeOverOwn = false,
    };

    public static KeepLeasesCommand Renew(string owner, string id, long epoch) => new()
    {
        Leases = [(Key(id), epoch)],
        Owner = owner,
        Duration = 30_000_000,
    };

    public static KeepLeasesCommand Release(string owner, string id, long epoch) =>
        Renew(owner, id, epoch) with { Duration = 0 };

    public static Parts Parts(string actor = "", string reason = "", Metadata? metadata = null, byte[]? snapshot = null,
        string contentType = "application/json", string principal = "")
    {
        var content = reason.Length == 0 && metadata is null
            ? null
            : new Content(Salt(), reason, metadata ?? Core.Metadata.Empty);
        var part = snapshot is null
            ? null
            : new SnapshotPart(Salt(), contentType, snapshot.Length, Hash.Of(snapshot));
        return new Parts(new Person(Salt(), actor, principal), content, part, snapshot);
    }

    public static Metadata Metadata(params (string Key, string Value)[] entries) =>
        new(entries.Select(e => KeyValuePair.Create(e.Key, e.Value)));

    /// <summary>A record of the kind that no command makes yet: what it erases, at the end of a chain.</summary>
    public static StoredRecord Erasure(StoredRecord last, string erased, string parts, long logIndex = 0)
    {
        var values = Parts(metadata: Metadata(
            (Core.Erasure.ErasedKey, erased), (Core.Erasure.PartsKey, parts)));
        return StoredRecord.Seal(
            last.Record with
            {
                Sequence = last.Record.Sequence + 1,
                Kind = RecordKind.Erasure,
                FromState = last.Record.ToState,
                RequestId = "",
                LeaseEpoch = 0,
                OccurredAt = 0,
                PersonDigest = values.PersonDigest,
                ContentDigest = values.ContentDigest,
                SnapshotDigest = default,
                PreviousHash = last.Hash,
                Person = values.Person,
                Content = values.Content,
                Snapshot = null,
            },
            logIndex);
    }

    /// <summary>Salts that differ, and are the same in every run.</summary>
    private static Bytes16 Salt()
    {
        Span<byte> bytes = stackalloc byte[Bytes16.Size];
        BinaryPrimitives.WriteInt64BigEndian(bytes, Interlocked.Increment(ref _salts));
        return new Bytes16(bytes);
    }
}

internal static class LedgerBatchExtensions
{
    /// <summary>The batch as a store takes it: with a head, whose signature no store looks at.</summary>
    public static LedgerBatch Sealed(this LedgerBatch batch)
    {
        if (batch.Head is null)
            batch.Seal(head => head.Text + "\n— test c2lnbmF0dXJl\n");
        return batch;
    }
}
