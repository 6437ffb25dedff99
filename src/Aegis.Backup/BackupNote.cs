using System.Text.Json;
using Aegis.Evidence;

namespace Aegis.Backup;

/// <summary>What is known of a backup, kept in a file beside it: how to tell that it is still what was written, and its proof.</summary>
public sealed record BackupNote
{
    /// <summary>The end of the name of such files.</summary>
    public const string Suffix = ".json";

    public static readonly JsonSerializerOptions Options = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <summary>The same on one line.</summary>
    public static readonly JsonSerializerOptions Line = new(Options) { WriteIndented = false };

    /// <summary>The name of the backup, which lies in the same directory.</summary>
    public required string File { get; init; }

    /// <summary>When the copy was begun, by the clock of the machine that took it.</summary>
    public required DateTimeOffset TakenAt { get; init; }

    public required long Bytes { get; init; }

    /// <summary>Of the file, in lower-case hex.</summary>
    public required string Sha256 { get; init; }

    /// <summary>Null until it was restored and verified.</summary>
    public BackupNoteProof? Proof { get; init; }

    /// <exception cref="BackupException">It cannot be read.</exception>
    public static BackupNote? Read(string path)
    {
        try
        {
            return System.IO.File.Exists(path)
                ? JsonSerializer.Deserialize<BackupNote>(System.IO.File.ReadAllBytes(path), Options)
                : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            throw new BackupException(BackupProblem.Usage, $"What is noted of a backup, {path}, cannot be read: {e.Message}", e);
        }
    }

    /// <summary>Replaces the file whole: a crash leaves the old one or the new one.</summary>
    public void Write(string path)
    {
        var draft = path + BackupDirectory.DraftSuffix;
        using (var stream = BackupDirectory.Create(draft))
        {
            JsonSerializer.Serialize(stream, this, Options);
            stream.Flush(flushToDisk: true);
        }
        System.IO.File.Move(draft, path, overwrite: true);
        FileName.Sync(Path.GetDirectoryName(Path.GetFullPath(path))!);
    }
}

/// <summary>What proved a backup.</summary>
public sealed record BackupNoteProof
{
    public required DateTimeOffset ProvenAt { get; init; }

    /// <summary>The newest head in the backup, a signed note.</summary>
    public required string SignedHead { get; init; }

    public required string LogId { get; init; }
    public required long Size { get; init; }
    public required string Root { get; init; }
    public required long Records { get; init; }
    public required long Snapshots { get; init; }

    /// <summary>The log index of the record that tells of it in the log; null when no server was told.</summary>
    public long? RecordedAs { get; init; }
}
