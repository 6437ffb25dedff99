using System.Data.Common;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Aegis.Core;

namespace Aegis.Storage;

/// <summary>A row of the table record, as both databases give it.</summary>
internal sealed class RecordRow
{
    public long LogIndex { get; init; }
    public string LogId { get; init; } = "";
    public string Namespace { get; init; } = "";
    public string WorkflowId { get; init; } = "";
    public long Sequence { get; init; }
    public long Kind { get; init; }
    public string WorkflowType { get; init; } = "";
    public string FromState { get; init; } = "";
    public string ToState { get; init; } = "";
    public long Status { get; init; }
    public string RequestId { get; init; } = "";
    public byte[]? RequestKey { get; init; }
    public long LeaseEpoch { get; init; }
    public long OccurredAt { get; init; }
    public long RecordedAt { get; init; }
    public byte[]? PersonSalt { get; init; }
    public string? Actor { get; init; }
    public string? Principal { get; init; }
    public byte[]? ContentSalt { get; init; }
    public string? Reason { get; init; }
    public string? Metadata { get; init; }
    public byte[]? SnapshotSalt { get; init; }
    public string? SnapshotContentType { get; init; }
    public long? SnapshotSize { get; init; }
    public byte[]? SnapshotSha256 { get; init; }
    public byte[] Hash { get; init; } = [];
    public byte[] Encoded { get; init; } = [];

    /// <summary>
    /// A record by the order of its columns, from log_index to encoded: verification reads millions of them.
    /// </summary>
    /// <param name="reader">Where it stands.</param>
    /// <param name="first">The column of log_index.</param>
    public static StoredRecord Read(DbDataReader reader, int first = 0)
    {
        return new RecordRow
        {
            LogIndex = reader.GetInt64(first),
            LogId = reader.GetString(first + 1),
            Namespace = reader.GetString(first + 2),
            WorkflowId = reader.GetString(first + 3),
            Sequence = reader.GetInt64(first + 4),
            Kind = reader.GetInt64(first + 5),
            WorkflowType = reader.GetString(first + 6),
            FromState = reader.GetString(first + 7),
            ToState = reader.GetString(first + 8),
            Status = reader.GetInt64(first + 9),
            RequestId = reader.GetString(first + 10),
            RequestKey = Bytes(11),
            LeaseEpoch = reader.GetInt64(first + 12),
            OccurredAt = reader.GetInt64(first + 13),
            RecordedAt = reader.GetInt64(first + 14),
            PersonSalt = Bytes(15),
            Actor = Text(16),
            Principal = Text(17),
            ContentSalt = Bytes(18),
            Reason = Text(19),
            Metadata = Text(20),
            SnapshotSalt = Bytes(21),
            SnapshotContentType = Text(22),
            SnapshotSize = reader.IsDBNull(first + 23) ? null : reader.GetInt64(first + 23),
            SnapshotSha256 = Bytes(24),
            Hash = Bytes(25) ?? [],
            Encoded = Bytes(26) ?? [],
        }.ToStoredRecordUnread();

        byte[]? Bytes(int column) => reader.IsDBNull(first + column) ? null : reader.GetFieldValue<byte[]>(first + column);

        string? Text(int column) => reader.IsDBNull(first + column) ? null : reader.GetString(first + column);
    }

    /// <summary>
    /// The record as it is stored. The digests and the link have no columns and come from the encoded bytes; where
    /// those cannot be read they are zero, which no verification takes for sound.
    /// </summary>
    public StoredRecord ToStoredRecord()
    {
        var decoded = RecordFormat.TryDecode(Encoded);
        return ToStoredRecord(decoded?.PersonDigest ?? default, decoded?.ContentDigest ?? default,
            decoded?.SnapshotDigest ?? default, decoded?.PreviousHash ?? default);
    }

    /// <summary>
    /// The same for who will compare the fields with the encoded bytes anyway: digests and link are taken from where they
    /// stand, at the end.
    /// </summary>
    public StoredRecord ToStoredRecordUnread()
    {
        var (person, content, snapshot, previous) = RecordFormat.EndOf(Encoded);
        return ToStoredRecord(person, content, snapshot, previous);
    }

    private StoredRecord ToStoredRecord(Hash person, Hash content, Hash snapshot, Hash previous)
    {
        var record = new Record
        {
            LogId = LogId,
            Namespace = Namespace,
            WorkflowId = WorkflowId,
            Sequence = Sequence,
            Kind = (RecordKind)StoredByte.Of(Kind),
            WorkflowType = WorkflowType,
            FromState = FromState,
            ToState = ToState,
            Status = (WorkflowStatus)StoredByte.Of(Status),
            RequestId = RequestId,
            LeaseEpoch = LeaseEpoch,
            OccurredAt = OccurredAt,
            RecordedAt = RecordedAt,
            PersonDigest = person,
            ContentDigest = content,
            SnapshotDigest = snapshot,
            PreviousHash = previous,
            Person = PersonSalt is null ? null : new Person(Salt(PersonSalt), Actor ?? "", Principal ?? ""),
            Content = ContentSalt is null
                ? null
                : new Content(Salt(ContentSalt), Reason ?? "", MetadataJson.Read(Metadata)),
            Snapshot = SnapshotSalt is null
                ? null
                : new SnapshotPart(Salt(SnapshotSalt), SnapshotContentType ?? "", SnapshotSize ?? 0,
                    HashBytes.One(SnapshotSha256)),
        };
        return new StoredRecord(record, Encoded, HashBytes.One(Hash), LogIndex) { RequestKey = RequestKey ?? [] };
    }

    /// <summary>A salt or hash of another length was altered; what it becomes matches nothing.</summary>
    private static Bytes16 Salt(byte[] bytes) => bytes.Length == Bytes16.Size ? new Bytes16(bytes) : default;
}

/// <summary>The encoded bytes of a record.</summary>
internal sealed class EncodedRow
{
    public byte[] Encoded { get; init; } = [];
}

/// <summary>A row of the table log_head.</summary>
internal sealed class HeadRow
{
    public byte[]? Root { get; init; }
    public string LogId { get; init; } = "";
    public long Size { get; init; }
    public byte[]? Frontier { get; init; }
    public string? SignedNote { get; init; }
    public long LastRecordedAt { get; init; }

    public StoredHead ToStoredHead() => new(LogId, Size, SignedNote ?? "",
        Frontier is null ? null : MerkleFrontier.TryRead(Size, Frontier), LastRecordedAt);

    public LogHeadRow ToLogHeadRow() => new(Size, LogId, HashBytes.One(Root),
        Frontier is null ? null : MerkleFrontier.TryRead(Size, Frontier), SignedNote ?? "", LastRecordedAt);
}

/// <summary>A row of the table log_tile.</summary>
internal sealed class TileRow
{
    public long Level { get; init; }
    public long TileIndex { get; init; }
    public byte[] Root { get; init; } = [];
    public byte[] Hashes { get; init; } = [];
    public byte[]? Entries { get; init; }

    public LogTileRow ToLogTileRow() => new((int)Level, TileIndex, HashBytes.One(Root), Hashes, Entries);
}

/// <summary>A key of the table snapshot, and what was asked of it.</summary>
internal sealed class SnapshotRow
{
    public string Namespace { get; init; } = "";
    public string WorkflowId { get; init; } = "";
    public byte[] Sha256 { get; init; } = [];
    public byte[] Actual { get; init; } = [];
    public long Size { get; init; }
    public bool IsCarried { get; init; }

    public SnapshotHash ToHash() => new(new(Namespace, WorkflowId), HashBytes.One(Sha256), HashBytes.One(Actual), Size);

    public SnapshotUse ToUse() => new(new(Namespace, WorkflowId), HashBytes.One(Sha256), IsCarried);
}

/// <summary>Hashes as bytes, one or many after the other.</summary>
internal static class HashBytes
{
    /// <summary>One of another length was altered; what it becomes matches nothing.</summary>
    public static Hash One(byte[]? bytes) => One(bytes.AsSpan());

    public static Hash One(ReadOnlySpan<byte> bytes) => bytes.Length == Hash.Size ? new Hash(bytes) : default;

    public static IReadOnlyList<Hash> Many(ReadOnlySpan<byte> bytes)
    {
        var hashes = new Hash[bytes.Length / Hash.Size];
        for (var i = 0; i < hashes.Length; i++)
            hashes[i] = new Hash(bytes.Slice(i * Hash.Size, Hash.Size));
        return hashes;
    }
}

/// <summary>A row of the table workflow, with its lease.</summary>
internal sealed class WorkflowRow
{
    public string Namespace { get; init; } = "";
    public string WorkflowId { get; init; } = "";
    public string WorkflowType { get; init; } = "";
    public string State { get; init; } = "";
    public long Status { get; init; }
    public long Sequence { get; init; }
    public byte[] HeadHash { get; init; } = [];
    public long CheckpointSequence { get; init; }
    public string? Metadata { get; init; }
    public string? ForkedFromWorkflowId { get; init; }
    public long? ForkedFromSequence { get; init; }
    public byte[]? ForkedFromHash { get; init; }
    public long CreatedLogIndex { get; init; }
    public long CreatedAt { get; init; }
    public long UpdatedAt { get; init; }
    public bool Importing { get; init; }
    public bool Quarantined { get; init; }
    public string? LeaseOwner { get; init; }
    public long? LeaseEpoch { get; init; }
    public long? LeaseExpiresAt { get; init; }

    /// <summary>How many columns <see cref="Read"/> takes.</summary>
    public const int Columns = 20;

    /// <summary>A workflow by the order of the first columns, those of workflow_and_lease: every write and every resume reads some.</summary>
    public static Workflow Read(DbDataReader reader)
    {
        return new WorkflowRow
        {
            Namespace = reader.GetString(0),
            WorkflowId = reader.GetString(1),
            WorkflowType = reader.GetString(2),
            State = reader.GetString(3),
            Status = reader.GetInt64(4),
            Sequence = reader.GetInt64(5),
            HeadHash = reader.GetFieldValue<byte[]>(6),
            CheckpointSequence = reader.GetInt64(7),
            Metadata = reader.GetString(8),
            ForkedFromWorkflowId = Text(9),
            ForkedFromSequence = Integer(10),
            ForkedFromHash = reader.IsDBNull(11) ? null : reader.GetFieldValue<byte[]>(11),
            CreatedLogIndex = reader.GetInt64(12),
            CreatedAt = reader.GetInt64(13),
            UpdatedAt = reader.GetInt64(14),
            Importing = reader.GetBoolean(15),
            LeaseOwner = Text(16),
            LeaseEpoch = Integer(17),
            LeaseExpiresAt = Integer(18),
            Quarantined = reader.GetBoolean(19),
        }.ToWorkflow();

        string? Text(int column) => reader.IsDBNull(column) ? null : reader.GetString(column);

        long? Integer(int column) => reader.IsDBNull(column) ? null : reader.GetInt64(column);
    }

    public Workflow ToWorkflow() => new()
    {
        Key = new WorkflowKey(Namespace, WorkflowId),
        WorkflowType = WorkflowType,
        State = State,
        Status = (WorkflowStatus)StoredByte.Of(Status),
        Sequence = Sequence,
        HeadHash = HashBytes.One(HeadHash),
        CheckpointSequence = CheckpointSequence,
        Metadata = MetadataJson.Read(Metadata),
        ForkedFrom = ForkedFromWorkflowId is null
            ? null
            : new ForkPoint(ForkedFromWorkflowId, ForkedFromSequence ?? 0, HashBytes.One(ForkedFromHash)),
        CreatedLogIndex = CreatedLogIndex,
        CreatedAt = CreatedAt,
        UpdatedAt = UpdatedAt,
        Importing = Importing,
        Quarantined = Quarantined,
        Lease = LeaseEpoch is { } epoch ? new Lease(LeaseOwner ?? "", epoch, LeaseExpiresAt ?? 0) : null,
    };
}

/// <summary>How many violations of a workflow are open.</summary>
internal sealed class OpenRow
{
    public long Count { get; init; }
    public long NewestNumber { get; init; }
    public long IsRecorded { get; init; }
}

/// <summary>A row of the table violation.</summary>
internal sealed class ViolationRow
{
    public long Number { get; init; }
    public string ViolationId { get; init; } = "";
    public long Class { get; init; }
    public string Namespace { get; init; } = "";
    public string WorkflowId { get; init; } = "";
    public long Sequence { get; init; }
    public long? LogIndex { get; init; }
    public byte[]? ExpectedHash { get; init; }
    public byte[]? ActualHash { get; init; }
    public string? Differences { get; init; }
    public string Message { get; init; } = "";
    public long LastGoodLogSize { get; init; }
    public long FoundAt { get; init; }
    public long RecordedAt { get; init; }
    public long ReleasedAt { get; init; }
    public bool IsRepaired { get; init; }

    public FoundViolation ToFoundViolation() => new(ViolationId,
        new Violation((ViolationClass)StoredByte.Of(Class), new WorkflowKey(Namespace, WorkflowId), Sequence, Message)
        {
            LogIndex = LogIndex,
            Differences = DifferencesJson.Read(Differences),
            ExpectedHash = ExpectedHash is null ? null : HashBytes.One(ExpectedHash),
            ActualHash = ActualHash is null ? null : HashBytes.One(ActualHash),
            LastGoodLogSize = LastGoodLogSize,
        },
        FoundAt)
    {
        Number = Number,
        RecordedAt = RecordedAt,
        ReleasedAt = ReleasedAt,
        IsRepaired = IsRepaired,
    };
}

/// <summary>Differences as a JSON array of {field, original, found}.</summary>
internal static class DifferencesJson
{
    private static readonly JsonSerializerOptions Options = new()
    {
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        DefaultIgnoreCondition = System.Text.Json.Serialization.JsonIgnoreCondition.WhenWritingNull,
    };

    /// <summary>
    /// What an altered row holds can be text that PostgreSQL takes and its JSON does not: U+0000 is left out.
    /// </summary>
    public static string Write(IReadOnlyList<Difference> differences) =>
        JsonSerializer.Serialize(differences.Select(d => new Stored(d.Field, Clean(d.Original), Clean(d.Found))), Options);

    /// <summary>What is no such array was altered: it reads as none.</summary>
    public static IReadOnlyList<Difference> Read(string? json)
    {
        try
        {
            return [.. (JsonSerializer.Deserialize<Stored[]>(json ?? "[]", Options) ?? [])
                .Select(d => new Difference(d.Field ?? "", d.Original, d.Found))];
        }
        catch (JsonException)
        {
            return [];
        }
    }

    public static string? Clean(string? text) => text?.Replace("\0", "", StringComparison.Ordinal);

    private sealed record Stored(string? Field, string? Original, string? Found);
}

/// <summary>Metadata as a JSON object of strings, which both databases can search.</summary>
internal static class MetadataJson
{
    private static readonly JsonSerializerOptions Options = new()
    {
        // Readable in the database: nothing here is ever put into a web page.
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    public static string Write(Metadata metadata) =>
        metadata.Count == 0 ? "{}" : JsonSerializer.Serialize(metadata.ToDictionary(), Options);

    /// <summary>Of the UTF-8 bytes, most of which say nothing and need no text.</summary>
    public static Metadata Read(ReadOnlySpan<byte> utf8) =>
        utf8.IsEmpty || utf8.SequenceEqual("{}"u8) ? Metadata.Empty : Read(Encoding.UTF8.GetString(utf8));

    /// <summary>What is not an object of strings was altered: it reads as empty, and its digest tells.</summary>
    public static Metadata Read(string? json)
    {
        if (string.IsNullOrEmpty(json) || json == "{}")
            return Metadata.Empty;
        try
        {
            var entries = JsonSerializer.Deserialize<Dictionary<string, string?>>(json, Options) ?? [];
            return entries.ContainsValue(null) ? Metadata.Empty : new Metadata(entries!);
        }
        catch (JsonException)
        {
            return Metadata.Empty;
        }
    }
}
