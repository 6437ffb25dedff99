using System.Security.Cryptography;
using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf;
using Google.Protobuf.Collections;
using Google.Protobuf.WellKnownTypes;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>
/// Reads the fields of one request and gathers what is wrong with them, so that a caller hears of all at once. Every method
/// gives a usable value; <see cref="Check"/> then throws if anything was wrong.
/// </summary>
internal sealed class Fields
{
    private readonly List<(string Field, string Problem)> _problems = [];
    private Refusal? _tooLarge;

    /// <summary>Notes a problem. No more are kept than an answer can hold: a request has room for millions.</summary>
    public void Wrong(string field, string problem)
    {
        if (_problems.Count < StatusMapping.FieldViolationsMax)
            _problems.Add((field, problem));
    }

    /// <exception cref="RefusalException">Something was wrong.</exception>
    public void Check()
    {
        if (_problems.Count > 0)
            throw new RefusalException(Refusal.Invalid(_problems));
        if (_tooLarge is not null)
            throw new RefusalException(_tooLarge);
    }

    public string Text(string field, string value, int bytesMax = Limits.NameBytesMax)
    {
        if (Limits.Problem(value, bytesMax) is { } problem)
            Wrong(field, problem);
        return value;
    }

    public string Required(string field, string value)
    {
        if (value.Length == 0)
            Wrong(field, "is required");
        return Text(field, value);
    }

    public string Namespace(string value) => value.Length == 0 ? Limits.DefaultNamespace : Text("namespace", value);

    public string WritableNamespace(string value)
    {
        if (Limits.IsReserved(value))
            Wrong("namespace", $"must not begin with \"{Limits.ReservedNamespacePrefix}\", which is the service's own");
        return Namespace(value);
    }

    public WorkflowKey Key(string @namespace, string workflowId) =>
        new(Namespace(@namespace), Required("workflow_id", workflowId));

    public WorkflowKey WritableKey(string @namespace, string workflowId) =>
        new(WritableNamespace(@namespace), Required("workflow_id", workflowId));

    public WorkflowStatus Status(string field, Pb.WorkflowStatus value, WorkflowStatus otherwise)
    {
        if (value == Pb.WorkflowStatus.Unspecified)
            return otherwise;
        if (!System.Enum.IsDefined(value))
            Wrong(field, $"is unknown: {(int)value}");
        return (WorkflowStatus)value;
    }

    public IReadOnlyCollection<WorkflowStatus> Statuses(string field, RepeatedField<Pb.WorkflowStatus> values)
    {
        foreach (var value in values)
        {
            if (value == Pb.WorkflowStatus.Unspecified || !System.Enum.IsDefined(value))
                Wrong(field, $"has an unknown status: {(int)value}");
        }
        return [.. values.Select(v => (WorkflowStatus)v).Distinct()];
    }

    /// <summary>Which workflows: the filter that lists and exports share.</summary>
    public WorkflowFilter Filter(string @namespace, RepeatedField<string> workflowTypes, RepeatedField<string> states,
        RepeatedField<Pb.WorkflowStatus> statuses, MapField<string, string> metadata, Timestamp? updatedBefore,
        Timestamp? updatedAfter) => new(Namespace(@namespace))
        {
            WorkflowTypes = Texts("workflow_types", workflowTypes),
            States = Texts("states", states),
            Statuses = Statuses("statuses", statuses),
            Metadata = Metadata(metadata),
            UpdatedBefore = Bound("updated_before", updatedBefore),
            UpdatedAfter = Bound("updated_after", updatedAfter),
        };

    public IReadOnlyCollection<string> Texts(string field, RepeatedField<string> values)
    {
        if (values.Count > Limits.PageSizeMax)
            Wrong(field, $"must have at most {Limits.PageSizeMax} entries, has {values.Count}");
        foreach (var value in values)
            Text(field, value);
        return [.. values.Distinct()];
    }

    /// <summary>Microseconds; 0 for not said.</summary>
    public long OccurredAt(Timestamp? value)
    {
        if (value is null)
            return 0;
        var microseconds = Mapping.ToMicroseconds(value);
        if (microseconds is < 1 or > Limits.TimeMax)
            Wrong("occurred_at", "must lie between 1970, exclusive, and the end of the year 9999");
        return microseconds;
    }

    /// <summary>A time to search by: any valid timestamp.</summary>
    public long? Time(string field, Timestamp? value)
    {
        if (value is null)
            return null;
        if (value.Seconds is < -62_135_596_800 or > 253_402_300_799 || value.Nanos is < 0 or > 999_999_999)
            Wrong(field, "is not a valid timestamp");
        return Math.Max(0, Mapping.ToMicroseconds(value));
    }

    /// <summary>
    /// A time before which, or from which on: what is recorded lies on whole microseconds, so that a bound between two of them
    /// is as good as the later one.
    /// </summary>
    public long? Bound(string field, Timestamp? value) =>
        Time(field, value) is { } time ? time + (value!.Nanos % 1000 > 0 ? 1 : 0) : null;

    public long LeaseDuration(Duration? value)
    {
        if (value is null)
            return Limits.LeaseDurationDefault;
        var isValid = value.Seconds is >= 0 and <= 3600 && value.Nanos is >= 0 and <= 999_999_999;
        var microseconds = isValid ? (value.Seconds * 1_000_000) + (value.Nanos / 1000) : -1;
        if (microseconds is < Limits.LeaseDurationMin or > Limits.LeaseDurationMax)
            Wrong("lease_duration", "must be from 1 s to 1 h");
        return microseconds;
    }

    public long Integer(string field, ulong value)
    {
        if (value > long.MaxValue)
            Wrong(field, "must be at most 2^63 − 1");
        return value > long.MaxValue ? 0 : (long)value;
    }

    public Hash HashOf(string field, ByteString value)
    {
        if (value.Length == Hash.Size)
            return new Hash(value.Span);
        Wrong(field, $"must have {Hash.Size} bytes, has {value.Length}");
        return default;
    }

    public int PageSize(uint value)
    {
        if (value > Limits.PageSizeMax)
            Wrong("page_size", $"must be at most {Limits.PageSizeMax}");
        return value == 0 ? Limits.PageSizeDefault : (int)Math.Min(value, Limits.PageSizeMax);
    }

    public Metadata Metadata(MapField<string, string> map)
    {
        if (map.Count > Limits.MetadataEntriesMax)
            Wrong("metadata", $"must have at most {Limits.MetadataEntriesMax} entries, has {map.Count}");
        foreach (var (key, value) in map)
        {
            if ((Limits.Problem(key, Limits.MetadataBytesMax) ?? Limits.Problem(value, Limits.MetadataBytesMax))
                is { } problem)
            {
                Wrong("metadata", problem);
                return Core.Metadata.Empty;
            }
        }
        var metadata = new Metadata(map);
        var bytes = metadata.ByteCount();
        if (bytes > Limits.MetadataBytesMax)
            Wrong("metadata", $"must have at most {Limits.MetadataBytesMax} bytes in all, has {bytes}");
        return metadata;
    }

    /// <summary>The erasable parts of a record to be, each with a salt of its own.</summary>
    public Parts Parts(string actor, string reason, MapField<string, string> metadata, Pb.Snapshot? snapshot,
        int snapshotBytesMax)
    {
        var person = new Person(NewSalt(), Text("actor", actor), "");
        var facts = Metadata(metadata);
        Text("reason", reason, Limits.ReasonBytesMax);
        var content = reason.Length == 0 && facts.Count == 0 ? null : new Content(NewSalt(), reason, facts);
        var part = snapshot is null ? null : Snapshot(snapshot, snapshotBytesMax);
        // What is wrong already is not worth encoding, and perhaps cannot be.
        return _problems.Count > 0 || _tooLarge is not null
            ? new Parts(new Person(default, "", ""), null, null, default)
            : new Parts(person, content, part, snapshot?.Content.Memory ?? default);
    }

    public static Bytes16 NewSalt()
    {
        Span<byte> salt = stackalloc byte[Bytes16.Size];
        RandomNumberGenerator.Fill(salt);
        return new Bytes16(salt);
    }

    private SnapshotPart Snapshot(Pb.Snapshot snapshot, int bytesMax)
    {
        Text("snapshot.content_type", snapshot.ContentType);
        if (snapshot.Content.Length > bytesMax)
        {
            _tooLarge = new Refusal(Reason.SnapshotTooLarge,
                $"The snapshot has {snapshot.Content.Length} bytes, and at most {bytesMax} are taken.",
                ("snapshot_size", Refusal.Text(snapshot.Content.Length)),
                ("snapshot_bytes_max", Refusal.Text(bytesMax)));
            return new SnapshotPart(default, "", 0, default);
        }
        var sha256 = Hash.Of(snapshot.Content.Span);
        if (!snapshot.Sha256.IsEmpty && HashOf("snapshot.sha256", snapshot.Sha256) != sha256)
            Wrong("snapshot.sha256", "is not that of the content");
        return new SnapshotPart(NewSalt(), snapshot.ContentType, snapshot.Content.Length, sha256);
    }
}
