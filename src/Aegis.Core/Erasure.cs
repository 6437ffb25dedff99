using System.Globalization;

namespace Aegis.Core;

/// <summary>
/// What an ERASURE record says was erased from its own chain: <c>aegis.erased</c> holds ascending ranges of
/// sequences ("3-7,9"), <c>aegis.parts</c> any of "person", "content", "snapshot", or "snapshot-bytes" when only
/// the bytes go and what describes them stays.
/// </summary>
public sealed class Erasure
{
    public const string ErasedKey = "aegis.erased";
    public const string PartsKey = "aegis.parts";

    private readonly List<(long From, long To)> _ranges;
    private readonly HashSet<string> _parts;

    private Erasure(List<(long From, long To)> ranges, HashSet<string> parts) => (_ranges, _parts) = (ranges, parts);

    public bool Covers(long sequence, string part) =>
        _parts.Contains(part) && _ranges.Exists(r => r.From <= sequence && sequence <= r.To);

    /// <summary>Whether the bytes of a record's snapshot are covered, alone or with what describes them.</summary>
    public bool CoversBytes(long sequence) => Covers(sequence, "snapshot") || Covers(sequence, "snapshot-bytes");

    /// <summary>The erasure that a record says, or null when it says none that can be read.</summary>
    public static Erasure? Of(Record record)
    {
        if (record.Kind != RecordKind.Erasure || record.Content?.Metadata is not { } metadata)
            return null;
        if (metadata[ErasedKey] is not { } erased || metadata[PartsKey] is not { } parts)
            return null;
        var ranges = new List<(long, long)>();
        foreach (var range in erased.Split(','))
        {
            var ends = range.Split('-');
            if (ends.Length > 2 || !Parse(ends[0], out var from) || !Parse(ends[^1], out var to) || to < from)
                return null;
            // Only what came before can be erased: an erasure cannot excuse its own values or later ones.
            ranges.Add((from, Math.Min(to, record.Sequence - 1)));
        }
        return new Erasure(ranges, [.. parts.Split(',')]);
    }

    private static bool Parse(string text, out long value) =>
        long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value);
}
