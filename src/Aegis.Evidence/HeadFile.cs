using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Aegis.Evidence;

/// <summary>A head of the log as it is kept.</summary>
/// <param name="SignedNote">The head, a C2SP tlog-checkpoint as a signed note.</param>
/// <param name="VerifierKeys">The verifier keys under which it was trusted.</param>
public sealed record KeptHead(
    [property: JsonPropertyName("signed_note")] string SignedNote,
    [property: JsonPropertyName("verifier_keys")] IReadOnlyList<string> VerifierKeys);

/// <summary>
/// The small file in which a head is kept, by clients and by <c>aegis head watch --state</c>: as JSON, whole under its name. A
/// head that was rejected lies beside it, as <c>FILE.rejected</c>. Processes may share it: none replaces what another has kept
/// unless it has read it.
/// </summary>
/// <remarks>
/// All who write the file, in whatever language, do it alike. A draft, of a name that no other has, is written in a directory of
/// its own, which is then renamed to <c>FILE.lock</c>: that succeeds for one at a time, since no directory is renamed over one
/// that is not empty. Whoever holds the lock so compares what is kept, and renames the draft out of the lock over the file. A
/// holder that crashed leaves its draft there, and one who has waited for it long enough takes the draft away. Was it slow and
/// not dead, it no longer finds its draft and has replaced nothing: so no clock and no pause can make two of them write. What a
/// crash leaves elsewhere, a <c>FILE.*.part</c>, hinders nobody.
/// </remarks>
/// <param name="path">The file, made at first use in a directory that is there.</param>
public sealed class HeadFile(string path)
{
    /// <summary>How long one holder of a lock is waited for, who needs milliseconds, before it is taken to have crashed.</summary>
    private static readonly TimeSpan Crashed = TimeSpan.FromSeconds(2);

    /// <summary>How long all of them together are waited for.</summary>
    private static readonly TimeSpan LockedMax = TimeSpan.FromSeconds(30);

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    private readonly string _lock = path + ".lock";

    /// <summary>What is kept; null where there is none yet.</summary>
    /// <exception cref="InvalidDataException">The file holds something else. It may be all that is left to compare with.</exception>
    public async Task<KeptHead?> ReadAsync(CancellationToken cancellationToken)
    {
        if (!File.Exists(path))
            return null;
        try
        {
            var kept = JsonSerializer.Deserialize<KeptHead>(await File.ReadAllTextAsync(path, cancellationToken));
            return kept is { SignedNote: not null, VerifierKeys: not null } ? kept
                : throw new InvalidDataException($"{path} does not hold a head that was kept.");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} does not hold a head that was kept: {e.Message}", e);
        }
    }

    /// <summary>Replaces what is kept, durably, if it still is what was read.</summary>
    /// <param name="head">The newer head.</param>
    /// <param name="replaced">What was read, told apart by its signed note; null for nothing.</param>
    /// <param name="cancellationToken">Ends the waiting for others who write; nothing is replaced then.</param>
    /// <returns>Whether it did. If not, nothing has changed: what is kept has to be read again.</returns>
    /// <exception cref="InvalidDataException">The file holds something else.</exception>
    /// <exception cref="IOException">It cannot be written, or others held its lock for half a minute.</exception>
    /// <exception cref="UnauthorizedAccessException">It cannot be written.</exception>
    public async Task<bool> ReplaceAsync(KeptHead head, KeptHead? replaced, CancellationToken cancellationToken)
    {
        if (!Directory.Exists(Path.GetDirectoryName(Path.GetFullPath(path))))
            throw new DirectoryNotFoundException($"There is no directory for {path}.");
        var draft = Guid.NewGuid().ToString("N");
        var directory = $"{path}.{draft}.part";
        Directory.CreateDirectory(directory);
        try
        {
            await WriteNewAsync(Path.Combine(directory, draft), JsonSerializer.Serialize(head, Indented) + "\n", cancellationToken);
            await TakeLockAsync(directory, cancellationToken);
            if ((await ReadAsync(cancellationToken))?.SignedNote != replaced?.SignedNote)
                return false;
            return TryMove(Path.Combine(_lock, draft), path);
        }
        finally
        {
            // The lock may be another's by now: its draft has another name, and a directory that holds one is not removed.
            foreach (var each in new[] { directory, _lock })
            {
                Try(() => File.Delete(Path.Combine(each, draft)));
                Try(() => Directory.Delete(each));
            }
        }
    }

    /// <summary>Keeps a head that contradicts the kept one beside it: both signed notes together are evidence.</summary>
    /// <exception cref="IOException">It cannot be written.</exception>
    /// <exception cref="UnauthorizedAccessException">It cannot be written.</exception>
    public async Task RejectAsync(string signedNote, CancellationToken cancellationToken)
    {
        var draft = $"{path}.rejected.{Guid.NewGuid():N}.part";
        try
        {
            await WriteNewAsync(draft, signedNote, cancellationToken);
            File.Move(draft, path + ".rejected", overwrite: true);
        }
        catch
        {
            File.Delete(draft);
            throw;
        }
    }

    private async Task TakeLockAsync(string directory, CancellationToken cancellationToken)
    {
        var began = Stopwatch.StartNew();
        var held = Stopwatch.StartNew();
        string? holder = null;
        while (true)
        {
            try
            {
                Directory.Move(directory, _lock);
                return;
            }
            catch (IOException e) when (began.Elapsed > LockedMax)
            {
                throw new IOException($"{_lock} is held by others; where nobody writes {path} any more, remove it.", e);
            }
            catch (IOException)
            {
                // It is held, which not all systems tell alike; whatever else it may be is told in the end.
            }
            Try(() =>
            {
                var other = Directory.EnumerateFiles(_lock).FirstOrDefault();
                if (other != holder)
                {
                    holder = other;
                    held.Restart();
                }
                if (other is null)
                    Directory.Delete(_lock);
                else if (held.Elapsed > Crashed)
                    File.Delete(other);
            });
            await Task.Delay(Random.Shared.Next(3, 8), cancellationToken);
        }
    }

    private static async Task WriteNewAsync(string path, string text, CancellationToken cancellationToken)
    {
        await using var file = new FileStream(path, FileMode.CreateNew);
        await using var writer = new StreamWriter(file, leaveOpen: true);
        await writer.WriteAsync(text.AsMemory(), cancellationToken);
        await writer.FlushAsync(cancellationToken);
        file.Flush(flushToDisk: true);
    }

    /// <summary>Whether the draft was still there: who takes its writer for a crashed one takes it away.</summary>
    private static bool TryMove(string draft, string path)
    {
        try
        {
            File.Move(draft, path, overwrite: true);
            return true;
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            return false;
        }
    }

    /// <summary>What does not succeed is another's, or gone already.</summary>
    private static void Try(Action act)
    {
        try
        {
            act();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
        }
    }
}
