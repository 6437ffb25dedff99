using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Commands as the service would make them.</summary>
internal static class Commands
{
    public static StartCommand Start(string id, string type = "order", string state = "NEW", string actor = "", string reason = "",
        byte[]? snapshot = null, params (string Key, string Value)[] metadata) => new()
        {
            Key = new WorkflowKey("default", id),
            WorkflowType = type,
            InitialState = state,
            Status = WorkflowStatus.Running,
            RequestId = "",
            OccurredAt = 0,
            KnownLogSize = 0,
            Parts = Parts(actor, reason, snapshot, metadata),
        };

    public static TransitionCommand Move(string id, string from, string to) => new()
    {
        Key = new WorkflowKey("default", id),
        FromState = from,
        ToState = to,
        Status = WorkflowStatus.Running,
        RequestId = "",
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = Parts(),
    };

    public static CheckpointCommand Checkpoint(string id, long expectedSequence, byte[] snapshot) => new()
    {
        Key = new WorkflowKey("default", id),
        Expected = new Expectation(expectedSequence, null),
        RequestId = "",
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = Parts(snapshot: snapshot),
    };

    public static ImportCommand Import(params StoredRecord[] records) => new()
    {
        Key = records[0].Record.Key,
        Records = records,
        Snapshots = [],
        ForkedFrom = null,
        IsLast = true,
        Erased = [],
        LogEntry = Parts(),
    };

    public static Parts Parts(string actor = "", string reason = "", byte[]? snapshot = null,
        params (string Key, string Value)[] metadata)
    {
        var salt = new Bytes16(Guid.NewGuid().ToByteArray());
        return new Parts(
            new Person(salt, actor, ""),
            reason.Length == 0 && metadata.Length == 0
                ? null
                : new Content(salt, reason, new Metadata(metadata.Select(m => KeyValuePair.Create(m.Key, m.Value)))),
            snapshot is null ? null : new SnapshotPart(salt, "application/octet-stream", snapshot.Length, Hash.Of(snapshot)),
            snapshot);
    }
}
