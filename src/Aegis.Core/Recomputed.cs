using System.Text;

namespace Aegis.Core;

/// <summary>
/// Hashes of what was found stored. A store can be made to hold what no caller could send, texts that are too long or not
/// to be had in UTF-8: those have no encoding, so they have no hash, and are found as altered like anything else.
/// </summary>
internal static class Recomputed
{
    /// <summary>32 bytes of 0xff, in the place of a hash that cannot be had.</summary>
    public static readonly Hash None = new([.. Enumerable.Repeat((byte)0xff, Hash.Size)]);

    public static Hash Of(Record record) => OrNone(record, static r => RecordFormat.HashOf(RecordFormat.Encode(r)));

    public static Hash Of(Person person) => OrNone(person, RecordFormat.DigestOf);

    public static Hash Of(Content content) => OrNone(content, RecordFormat.DigestOf);

    public static Hash Of(SnapshotPart snapshot) => OrNone(snapshot, RecordFormat.DigestOf);

    /// <summary>Whether a record's fields give these bytes.</summary>
    public static bool Equals(Record record, ReadOnlySpan<byte> encoded)
    {
        try
        {
            return RecordFormat.Encodes(record, encoded);
        }
        catch (Exception e) when (e is OverflowException or EncoderFallbackException)
        {
            return false;
        }
    }

    private static Hash OrNone<T>(T value, Func<T, Hash> hash)
    {
        try
        {
            return hash(value);
        }
        catch (Exception e) when (e is OverflowException or EncoderFallbackException)
        {
            return None;
        }
    }
}
