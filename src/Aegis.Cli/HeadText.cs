using Aegis.Core;

namespace Aegis.Cli;

/// <summary>Heads of a log, for people.</summary>
internal static class HeadText
{
    public static string Of(LogHead head) => $"{head.LogId}, size {head.Size}, root {head.Root}";

    /// <summary>What a signed note says, verified or not.</summary>
    public static string Of(string note) =>
        SignedNote.TryParse(note) is { } signed && LogHead.TryParse(signed.Text) is { } head ? Of(head) : "none that can be read";
}
