using Aegis.Core;

namespace Aegis.Evidence;

/// <summary>The limits of the contract, for records that did not come through it.</summary>
internal static class RecordLimits
{
    /// <summary>What is wrong with the numbers that stand for words; null for nothing.</summary>
    public static string? Undefined(Record record) =>
        !Enum.IsDefined(record.Kind) ? $"kind {(byte)record.Kind} is none"
        : !Enum.IsDefined(record.Status) ? $"status {(byte)record.Status} is none"
        : null;

    /// <summary>What is longer, larger or emptier than the contract allows; null for nothing.</summary>
    public static string? Problem(Record record)
    {
        foreach (var (field, value, max, required) in new[]
        {
            ("log_id", record.LogId, Limits.NameBytesMax, true),
            ("namespace", record.Namespace, Limits.NameBytesMax, true),
            ("workflow_id", record.WorkflowId, Limits.NameBytesMax, true),
            ("workflow_type", record.WorkflowType, Limits.NameBytesMax, true),
            ("from_state", record.FromState, Limits.NameBytesMax, record.Kind != RecordKind.Started),
            ("to_state", record.ToState, Limits.NameBytesMax, true),
            ("request_id", record.RequestId, Limits.RequestIdBytesMax, false),
            ("actor", record.Person?.Actor ?? "", Limits.NameBytesMax, false),
            ("principal", record.Person?.Principal ?? "", Limits.PrincipalBytesMax, false),
            ("reason", record.Content?.Reason ?? "", Limits.ReasonBytesMax, false),
            ("snapshot_content_type", record.Snapshot?.ContentType ?? "", Limits.NameBytesMax, false),
        })
        {
            if (required && value.Length == 0)
                return $"{field} is required";
            if (Limits.Problem(value, max) is { } problem)
                return $"{field} {problem}";
        }
        // An epoch grows by one or to the time in microseconds: one above every time would leave no room to grow.
        if (record.LeaseEpoch > Limits.TimeMax)
            return "lease_epoch is out of range";
        if (record.OccurredAt is < 0 or > Limits.TimeMax || record.RecordedAt is < 1 or > Limits.TimeMax)
            return "a time is out of range";
        if (record.Content?.Metadata is not { } metadata)
            return null;
        if (metadata.Any(e => Limits.Problem(e.Key + e.Value, int.MaxValue) is not null))
            return "metadata must be valid UTF-8 without U+0000";
        return metadata.Count > Limits.MetadataEntriesMax || metadata.ByteCount() > Limits.MetadataBytesMax
            ? "metadata is too large"
            : null;
    }
}
