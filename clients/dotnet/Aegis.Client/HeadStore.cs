using System.Text.Json;
using System.Text.Json.Serialization;

namespace Aegis.Client;

/// <summary>A head of the log as it is kept.</summary>
/// <param name="SignedNote">The head, a C2SP tlog-checkpoint as a signed note.</param>
/// <param name="VerifierKeys">The verifier keys under which it was trusted.</param>
public sealed record KeptHead(
    [property: JsonPropertyName("signed_note")] string SignedNote,
    [property: JsonPropertyName("verifier_keys")] IReadOnlyList<string> VerifierKeys);

/// <summary>
/// Keeps the last head of the log that was verified, out of reach of whoever runs the log. Called by one task at a time. Several
/// processes may share one: each links what the others have seen, and together they notice more than each of them alone.
/// </summary>
public interface IHeadStore
{
    /// <summary>The head that was kept; null where there is none yet. Fails where it cannot be told: nothing is written then.</summary>
    ValueTask<KeptHead?> LoadAsync(CancellationToken cancellationToken);

    /// <summary>Keeps a newer head, durably, as a whole or not at all.</summary>
    ValueTask SaveAsync(KeptHead head, CancellationToken cancellationToken);

    /// <summary>Keeps a head that contradicts the kept one beside it: both signed notes together are evidence.</summary>
    ValueTask RejectAsync(string signedNote, CancellationToken cancellationToken);
}

/// <summary>
/// Keeps the head in a small file, the same that <c>aegis head watch --state</c> keeps. A head that was rejected lies beside it,
/// as <c>FILE.rejected</c>.
/// </summary>
/// <param name="path">The file, made at first use in a directory that is there.</param>
public sealed class FileHeadStore(string path) : IHeadStore
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <inheritdoc/>
    /// <exception cref="InvalidDataException">The file holds something else. It may be all that is left to compare with.</exception>
    public async ValueTask<KeptHead?> LoadAsync(CancellationToken cancellationToken)
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

    /// <inheritdoc/>
    public ValueTask SaveAsync(KeptHead head, CancellationToken cancellationToken) =>
        WriteAsync(path, JsonSerializer.Serialize(head, Indented) + "\n", cancellationToken);

    /// <inheritdoc/>
    public ValueTask RejectAsync(string signedNote, CancellationToken cancellationToken) =>
        WriteAsync(path + ".rejected", signedNote, cancellationToken);

    /// <summary>Whole under its name: written beside it, synced, and renamed.</summary>
    private static async ValueTask WriteAsync(string path, string text, CancellationToken cancellationToken)
    {
        var draft = $"{path}.{Guid.NewGuid():N}.part";
        try
        {
            await using (var file = new FileStream(draft, FileMode.CreateNew))
            {
                await using var writer = new StreamWriter(file, leaveOpen: true);
                await writer.WriteAsync(text.AsMemory(), cancellationToken);
                await writer.FlushAsync(cancellationToken);
                file.Flush(flushToDisk: true);
            }
            File.Move(draft, path, overwrite: true);
        }
        catch
        {
            File.Delete(draft);
            throw;
        }
    }
}

/// <summary>Keeps the head while the process lives.</summary>
internal sealed class MemoryHeadStore : IHeadStore
{
    private KeptHead? _head;

    public ValueTask<KeptHead?> LoadAsync(CancellationToken cancellationToken) => new(_head);

    public ValueTask SaveAsync(KeptHead head, CancellationToken cancellationToken)
    {
        _head = head;
        return default;
    }

    public ValueTask RejectAsync(string signedNote, CancellationToken cancellationToken) => default;
}
