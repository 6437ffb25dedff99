using Aegis.Core;

namespace Aegis.Storage;

/// <summary>A row of record as a store holds it, with the columns of <see cref="RecordRow.Read"/> in that order.</summary>
internal interface IRawRow
{
    /// <summary>The bytes of a text or of bytes; none for NULL.</summary>
    ReadOnlySpan<byte> this[int column] { get; }

    bool IsNull(int column);

    /// <summary>An integer; 0 for NULL.</summary>
    long Integer(int column);

    /// <summary>The UTF-8 text of what is kept as JSON; none for NULL.</summary>
    ReadOnlySpan<byte> Json(int column);
}

/// <summary>Makes records of rows without a copy: what they point to lasts as long as the row.</summary>
internal static class RawRow
{
    public static RawRecord ToRecord<T>(T row)
        where T : IRawRow, allows ref struct => new()
        {
            LogIndex = row.Integer(0),
            LogId = row[1],
            Namespace = row[2],
            WorkflowId = row[3],
            Sequence = row.Integer(4),
            Kind = row.Integer(5),
            WorkflowType = row[6],
            FromState = row[7],
            ToState = row[8],
            Status = row.Integer(9),
            RequestId = row[10],
            RequestKey = row[11],
            LeaseEpoch = row.Integer(12),
            OccurredAt = row.Integer(13),
            RecordedAt = row.Integer(14),
            PersonSalt = Salt(row, 15),
            Actor = row[16],
            Principal = row[17],
            ContentSalt = Salt(row, 18),
            Reason = row[19],
            Metadata = MetadataJson.Read(row.Json(20)),
            SnapshotSalt = Salt(row, 21),
            SnapshotContentType = row[22],
            SnapshotSize = row.Integer(23),
            SnapshotSha256 = HashBytes.One(row[24]),
            Hash = HashBytes.One(row[25]),
            Encoded = row[26],
        };

    /// <summary>Null for NULL. One of another length was altered; what it becomes matches nothing.</summary>
    private static Bytes16? Salt<T>(T row, int column)
        where T : IRawRow, allows ref struct => row.IsNull(column) ? null
            : row[column] is var bytes && bytes.Length == Bytes16.Size ? new Bytes16(bytes)
            : default(Bytes16);
}
