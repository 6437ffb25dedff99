using Aegis.Core;
using Google.Protobuf;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Chains and exports of another log, made by hand: what this service has no call to make.</summary>
internal static class Foreign
{
    private static readonly byte[] Content = "state"u8.ToArray();

    public static long Now => (DateTime.UtcNow - DateTime.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;

    /// <summary>A waiting workflow with a snapshot, a reason and metadata.</summary>
    public static StoredRecord Started(string id, string actor = "", long recordedAt = 0) => Seal(new Record
    {
        LogId = "elsewhere",
        Namespace = "default",
        WorkflowId = id,
        Sequence = 1,
        Kind = RecordKind.Started,
        WorkflowType = "order",
        FromState = "",
        ToState = "NEW",
        Status = WorkflowStatus.Waiting,
        RequestId = "",
        LeaseEpoch = 0,
        OccurredAt = 0,
        RecordedAt = recordedAt == 0 ? Now - 1000 : recordedAt,
        PersonDigest = default,
        ContentDigest = default,
        SnapshotDigest = default,
        PreviousHash = default,
        Person = new Person(Salt(1), actor, ""),
        Content = new Content(Salt(2), "why", new Metadata([KeyValuePair.Create("k", "v")])),
        Snapshot = new SnapshotPart(Salt(3), "text/plain", Content.Length, Hash.Of(Content)),
    });

    public static StoredRecord Erasure(StoredRecord previous, string sequences, string parts) => Seal(previous.Record with
    {
        Sequence = previous.Record.Sequence + 1,
        Kind = RecordKind.Erasure,
        FromState = previous.Record.ToState,
        PreviousHash = previous.Hash,
        Person = new Person(Salt(4), "eraser", ""),
        Content = new Content(Salt(5), "", new Metadata(
        [
            KeyValuePair.Create(Core.Erasure.ErasedKey, sequences),
            KeyValuePair.Create(Core.Erasure.PartsKey, parts),
        ])),
        Snapshot = null,
    });

    public static byte[] Export(string id, params StoredRecord[] chain) => Export(id, chain, snapshots: true);

    public static byte[] Export(string id, StoredRecord first, StoredRecord second, bool snapshots) =>
        Export(id, [first, second], snapshots);

    private static byte[] Export(string id, StoredRecord[] chain, bool snapshots)
    {
        var messages = new List<Pb.ExportChunk>
        {
            new() { Manifest = new Pb.ExportManifest { Format = "aegis/export/v1", LogId = "elsewhere" } },
            new()
            {
                Workflow = new Pb.ExportWorkflow
                {
                    Namespace = "default",
                    WorkflowId = id,
                    Records = (ulong)chain.Length,
                    HeadHash = ByteString.CopyFrom(chain[^1].Hash.ToArray()),
                },
            },
        };
        foreach (var stored in chain)
        {
            if (stored.Record.Snapshot is { } part && snapshots)
            {
                messages.Add(new Pb.ExportChunk
                {
                    Snapshot = new Pb.ExportSnapshotPart
                    {
                        Sha256 = ByteString.CopyFrom(part.Sha256.ToArray()),
                        Size = (ulong)Content.Length,
                        Data = ByteString.CopyFrom(Content),
                    },
                });
            }
            messages.Add(new Pb.ExportChunk { Record = new Pb.ExportRecord { Record = Server.Mapping.ToPb(stored) } });
        }
        return Exports.Write(messages);
    }

    private static StoredRecord Seal(Record record) => StoredRecord.Seal(record with
    {
        PersonDigest = RecordFormat.DigestOf(record.Person!),
        ContentDigest = RecordFormat.DigestOf(record.Content),
        SnapshotDigest = RecordFormat.DigestOf(record.Snapshot),
    }, 0);

    private static Bytes16 Salt(byte value) => new([.. Enumerable.Repeat(value, Bytes16.Size)]);
}
