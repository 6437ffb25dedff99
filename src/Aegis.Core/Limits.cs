using System.Text;

namespace Aegis.Core;

/// <summary>
/// What requests must keep to, in one place. Lengths are in UTF-8 bytes, durations in microseconds. Everything
/// here is enforced before anything is written and told by GetServerInfo.
/// </summary>
public static class Limits
{
    /// <summary>namespace, workflow_id, workflow_type, states, owner, actor, content_type.</summary>
    public const int NameBytesMax = 255;
    public const int PrincipalBytesMax = 1024;
    public const int RequestIdBytesMax = 128;
    public const int ReasonBytesMax = 4 * 1024;
    public const int MetadataEntriesMax = 64;
    public const int MetadataBytesMax = 16 * 1024;

    /// <summary>The largest snapshot ever taken; a deployment may configure less.</summary>
    public const int SnapshotBytesMax = 3 * 1024 * 1024;

    public const int PageSizeMax = 1000;
    public const int PageSizeDefault = 100;
    public const int LeasesMax = 1000;

    public const long LeaseDurationMin = 1_000_000;
    public const long LeaseDurationMax = 3_600_000_000;
    public const long LeaseDurationDefault = 30_000_000;

    /// <summary>Default clients take 4 MiB; what is larger never leaves.</summary>
    public const int ResponseBytesMax = 3_932_160;

    /// <summary>More than any valid request, so that what is too large gets a reason and not a transport error.</summary>
    public const int RequestBytesMax = 16 * 1024 * 1024;

    /// <summary>The latest time a caller can name: the end of the year 9999.</summary>
    public const long TimeMax = 253_402_300_799_999_999;

    /// <summary>How far ahead of the database's clock an import may be.</summary>
    public const long ImportAheadMax = 300_000_000;

    public const int BatchCommandsMax = 256;
    public const int BatchBytesMax = 8 * 1024 * 1024;

    public const string DefaultNamespace = "default";

    /// <summary>Namespaces that begin so are written by the service alone.</summary>
    public const string ReservedNamespacePrefix = "aegis.";
    public const string SystemNamespace = "aegis.system";

    public static bool IsReserved(string @namespace) =>
        @namespace.StartsWith(ReservedNamespacePrefix, StringComparison.Ordinal);

    /// <summary>
    /// What is wrong with a text, or null: longer than it may be, carrying U+0000, or not to be had in UTF-8.
    /// </summary>
    public static string? Problem(string text, int bytesMax)
    {
        if (text.Contains('\0', StringComparison.Ordinal))
            return "must not contain the character U+0000";
        var bytes = Encoding.UTF8.GetByteCount(text);
        if (bytes > bytesMax)
            return $"must have at most {bytesMax} bytes, has {bytes}";
        for (var i = 0; i < text.Length; i++)
        {
            if (!char.IsSurrogate(text[i]))
                continue;
            if (!char.IsHighSurrogate(text[i]) || i + 1 == text.Length || !char.IsLowSurrogate(text[i + 1]))
                return "must be valid UTF-8";
            i++;
        }
        return null;
    }
}
