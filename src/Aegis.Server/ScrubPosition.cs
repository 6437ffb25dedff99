using System.Globalization;
using Aegis.Core;
using Aegis.Evidence;

namespace Aegis.Server;

/// <summary>
/// How far the verification of the whole history has come. Kept in the database, and so under the hands of whoever rewrites it:
/// hence as a note that the log's key signs, tied to a head of the log. Seven lines: log_id, <c>aegis/scrub/v1</c>, the
/// log_index to go on from, when the round began and when the last whole round ended (microseconds since 1970, 0 for none), and
/// size and root of the head that the records so far led to.
/// </summary>
public sealed record ScrubPosition(string LogId, long Position, long RoundBegan, long WholeEnded, long Size, Hash Root)
{
    private const string Label = "aegis/scrub/v1";

    public string Text => string.Create(CultureInfo.InvariantCulture,
        $"{LogId}\n{Label}\n{Position}\n{RoundBegan}\n{WholeEnded}\n{Size}\n{Convert.ToBase64String(Root.ToArray())}\n");

    /// <summary>The position that a note says under the log's key, or null.</summary>
    public static ScrubPosition? Verify(string note, LogSigner signer)
    {
        if (SignedNote.TryParse(note) is not { } signed
            || signed.Text.Split('\n') is not [{ Length: > 0 } logId, Label, var position, var began, var ended, var size, var root, ""]
            || !signed.IsSignedBy([signer.VerifierKey(logId)], Ed25519Signatures.Check)
            || !Number(position, out var at) || !Number(began, out var from) || !Number(ended, out var to) || !Number(size, out var of))
        {
            return null;
        }
        var bytes = new byte[Hash.Size];
        return Convert.TryFromBase64String(root, bytes, out var length) && length == Hash.Size
            ? new ScrubPosition(logId, at, from, to, of, new Hash(bytes))
            : null;
    }

    private static bool Number(string text, out long value) =>
        long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value);
}
