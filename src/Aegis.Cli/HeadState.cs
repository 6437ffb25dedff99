using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Aegis.Core;

namespace Aegis.Cli;

/// <summary>
/// The head that `aegis head watch` keeps, in a file: the signed note, and the verifier keys under which it was trusted.
/// </summary>
internal sealed record HeadState(
    [property: JsonPropertyName("signed_note")] string SignedNote,
    [property: JsonPropertyName("verifier_keys")] IReadOnlyList<string> VerifierKeys)
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>What a file holds; null where there is none yet.</summary>
    /// <exception cref="UsageException">It cannot be read. It is never written over: it may be all that is left to compare with.</exception>
    public static HeadState? Read(string path)
    {
        try
        {
            if (!File.Exists(path))
                return null;
            var state = JsonSerializer.Deserialize<HeadState>(File.ReadAllText(path));
            return state is { SignedNote: not null, VerifierKeys: not null }
                ? state
                : throw new UsageException($"{path} does not hold a head that was kept.");
        }
        catch (Exception e) when (e is JsonException or IOException or UnauthorizedAccessException)
        {
            throw new UsageException($"{path} does not hold a head that was kept: {e.Message}");
        }
    }

    /// <summary>Replaces the file as a whole, or leaves it.</summary>
    public static Task WriteAsync(string path, string signedNote, IEnumerable<VerifierKey> keys) =>
        WriteTextAsync(path, JsonSerializer.Serialize(new HeadState(signedNote, [.. keys.Select(k => k.ToString())]), Indented) + "\n");

    public static Task WriteTextAsync(string path, string text) =>
        OutputFile.WriteAsync(path, stream => stream.WriteAsync(Encoding.UTF8.GetBytes(text)).AsTask());
}
