using Aegis.Core;

namespace Aegis.Evidence;

/// <summary>A head of the log under keys that somebody trusts.</summary>
public static class TrustedHead
{
    /// <summary>
    /// The head that a signed note says, if one of the keys has signed it, under the name of whichever generation of its log; else null.
    /// </summary>
    public static LogHead? Verify(string note, IReadOnlyCollection<VerifierKey> keys)
    {
        if (SignedNote.TryParse(note) is not { } signed || LogHead.TryParse(signed.Text) is not { } claimed)
            return null;
        var @base = LogName.Split(claimed.LogId).Base;
        return LogHead.Verify(note, [.. keys.Where(k => LogName.Split(k.Name).Base == @base).Select(k => k.Named(claimed.LogId))],
            Ed25519Signatures.Check);
    }
}
