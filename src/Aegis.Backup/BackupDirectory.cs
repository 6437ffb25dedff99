using System.Globalization;
using System.Security.Cryptography;

namespace Aegis.Backup;

/// <summary>
/// A directory of backups, each a file and what is noted of it. A file under its final name is whole and on the disk: it is written
/// beside it, synced, and renamed, and a crash leaves a draft that the next run removes. One process at a time works in it.
/// </summary>
public sealed class BackupDirectory : IDisposable
{
    /// <summary>The end of the name of what is not whole yet.</summary>
    public const string DraftSuffix = ".part";

    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    private readonly FileStream _lock;

    private BackupDirectory(string path, FileStream @lock) => (FullPath, _lock) = (path, @lock);

    public string FullPath { get; }

    /// <summary>Takes the directory for this process, and removes what a crash has left in it.</summary>
    /// <exception cref="BackupException">It is not there, cannot be used, or another process works in it.</exception>
    public static BackupDirectory Open(string path, bool create)
    {
        path = Path.GetFullPath(path);
        try
        {
            if (create && !Directory.Exists(path))
                CreateDirectory(path);
            if (!Directory.Exists(path))
                throw new BackupException(BackupProblem.Usage, $"There is no directory {path}.");
            var file = Path.Combine(path, ".lock");
            var directory = new BackupDirectory(path, new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
            foreach (var draft in Directory.EnumerateFiles(path, "*" + DraftSuffix))
                File.Delete(draft);
            return directory;
        }
        catch (IOException e) when (e.GetType() == typeof(IOException) && File.Exists(Path.Combine(path, ".lock")))
        {
            throw new BackupException(BackupProblem.Failed, $"Another process works in {path}.", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BackupException(BackupProblem.Usage, $"{path} cannot be used for backups: {e.Message}", e);
        }
    }

    /// <summary>The path of a backup that is to be taken.</summary>
    /// <param name="name">Its name without suffix; null for one by the time.</param>
    /// <param name="suffix">As its source says.</param>
    /// <param name="takenAt">When it is begun.</param>
    /// <exception cref="BackupException">There is one of that name, or the name is none of a file.</exception>
    public string PathOf(string? name, string suffix, DateTimeOffset takenAt)
    {
        name ??= $"aegis-{takenAt.UtcDateTime.ToString("yyyyMMdd'T'HHmmss'Z'", CultureInfo.InvariantCulture)}";
        if (name != Path.GetFileName(name) || name.StartsWith('.'))
            throw new BackupException(BackupProblem.Usage, $"\"{name}\" is not the name of a file: the directory is given with --to.");
        var path = Path.Combine(FullPath, name + suffix);
        return File.Exists(path) || File.Exists(path + BackupNote.Suffix)
            ? throw new BackupException(BackupProblem.Usage, $"There is a backup {path} already.")
            : path;
    }

    /// <summary>Takes a backup, under its final name once it is whole.</summary>
    public static async Task<BackupNote> TakeAsync(
        BackupSource source, string path, DateTimeOffset takenAt, CancellationToken cancellationToken)
    {
        var draft = path + DraftSuffix;
        try
        {
            await Create(draft).DisposeAsync();
            await source.CopyToAsync(draft, cancellationToken);
            BackupNote note;
            await using (var stream = new FileStream(draft, FileMode.Open, FileAccess.ReadWrite))
            {
                stream.Flush(flushToDisk: true);
                note = new BackupNote
                {
                    File = Path.GetFileName(path),
                    TakenAt = takenAt,
                    Bytes = stream.Length,
                    Sha256 = Convert.ToHexStringLower(await SHA256.HashDataAsync(stream, cancellationToken)),
                };
            }
            File.Move(draft, path);
            // A crash between the two leaves a backup of which nothing is noted: it is not listed, and can be proven.
            note.Write(path + BackupNote.Suffix);
            return note;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BackupException(BackupProblem.Failed, $"The backup {path} cannot be written: {e.Message}", e);
        }
        finally
        {
            foreach (var left in new[] { draft, draft + "-journal", draft + "-wal", draft + "-shm" })
                File.Delete(left);
        }
    }

    /// <summary>Whether a file is what was noted when it was written.</summary>
    /// <exception cref="BackupException">It is not, or cannot be read.</exception>
    public static async Task DemandUnchangedAsync(string path, BackupNote note, CancellationToken cancellationToken)
    {
        try
        {
            await using var stream = File.OpenRead(path);
            var sha256 = Convert.ToHexStringLower(await SHA256.HashDataAsync(stream, cancellationToken));
            if (sha256 != note.Sha256)
            {
                throw new BackupException(BackupProblem.Damaged,
                    $"The backup {path} is not the file that was written: its SHA-256 was {note.Sha256} and is {sha256}.");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BackupException(BackupProblem.Usage, $"The backup cannot be read: {e.Message}", e);
        }
    }

    /// <summary>All of which something is noted, the newest first.</summary>
    public static IReadOnlyList<BackupNote> List(string path)
    {
        if (!Directory.Exists(path))
            throw new BackupException(BackupProblem.Usage, $"There is no directory {path}.");
        return [.. Directory.EnumerateFiles(path, "*" + BackupNote.Suffix).Select(BackupNote.Read).OfType<BackupNote>()
            .OrderByDescending(n => n.TakenAt)];
    }

    /// <summary>
    /// Those to give up: proven ones that the retention does not keep, unproven ones that are older than the newest proven one, and
    /// notes whose file is gone. While nothing is proven, nothing is given up.
    /// </summary>
    public IReadOnlyList<BackupNote> Superfluous(Retention retention)
    {
        var all = List(FullPath);
        List<BackupNote> proven = [.. all.Where(n => n.Proof is not null && File.Exists(Path.Combine(FullPath, n.File)))];
        if (proven.Count == 0)
            return [];
        var kept = retention.Keep([.. proven.Select(n => n.TakenAt)]).Select(i => proven[i]).ToHashSet();
        return [.. all.Where(n => !kept.Contains(n) && (n.Proof is not null || n.TakenAt < proven[0].TakenAt))];
    }

    /// <summary>Removes a backup, and then what is noted of it.</summary>
    public void Remove(BackupNote note)
    {
        try
        {
            File.Delete(Path.Combine(FullPath, note.File));
            File.Delete(Path.Combine(FullPath, note.File + BackupNote.Suffix));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new BackupException(BackupProblem.Failed, $"{note.File} cannot be removed: {e.Message}", e);
        }
    }

    public void Dispose() => _lock.Dispose();

    /// <summary>A new file that its owner alone can read: a backup holds all that the database does.</summary>
    internal static FileStream Create(string path)
    {
        var options = new FileStreamOptions { Mode = FileMode.Create, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows())
            options.UnixCreateMode = OwnerOnly;
        return new FileStream(path, options);
    }

    private static void CreateDirectory(string path)
    {
        if (OperatingSystem.IsWindows())
            Directory.CreateDirectory(path);
        else
            Directory.CreateDirectory(path, OwnerOnly | UnixFileMode.UserExecute);
    }
}
