using System.Collections;
using System.Text;

namespace Aegis.Core;

/// <summary>
/// A map of strings whose order is that of the record format: ascending by the keys' UTF-8 bytes. Immutable and
/// compared by content.
/// </summary>
// The contract's word is metadata; a suffix would make it another.
#pragma warning disable CA1710
public sealed class Metadata : IReadOnlyCollection<KeyValuePair<string, string>>, IEquatable<Metadata>
#pragma warning restore CA1710
{
    public static readonly Metadata Empty = new([]);

    private readonly KeyValuePair<string, string>[] _entries;

    /// <exception cref="ArgumentException">A key occurs twice.</exception>
    public Metadata(IEnumerable<KeyValuePair<string, string>> entries)
    {
        _entries = [.. entries];
        Array.Sort(_entries, static (a, b) => CompareUtf8(a.Key, b.Key));
        for (var i = 1; i < _entries.Length; i++)
        {
            if (_entries[i].Key == _entries[i - 1].Key)
                throw new ArgumentException($"The key \"{_entries[i].Key}\" occurs twice.", nameof(entries));
        }
    }

    public int Count => _entries.Length;

    /// <summary>The value of a key, or null.</summary>
    public string? this[string key]
    {
        get
        {
            foreach (var entry in _entries)
            {
                if (entry.Key == key)
                    return entry.Value;
            }
            return null;
        }
    }

    public IEnumerator<KeyValuePair<string, string>> GetEnumerator() =>
        ((IEnumerable<KeyValuePair<string, string>>)_entries).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    public bool Equals(Metadata? other) => other is not null && _entries.AsSpan().SequenceEqual(other._entries);

    public override bool Equals(object? obj) => Equals(obj as Metadata);

    public override int GetHashCode()
    {
        var hash = new HashCode();
        foreach (var entry in _entries)
            hash.Add(entry);
        return hash.ToHashCode();
    }

    public override string ToString() => string.Join(", ", _entries.Select(e => $"{e.Key}={e.Value}"));

    /// <summary>
    /// Compares by UTF-8 bytes, which is by code points. UTF-16 order differs: a surrogate (U+D800…) sorts below
    /// U+E000–U+FFFF, though its code point lies above.
    /// </summary>
    private static int CompareUtf8(string a, string b)
    {
        var length = Math.Min(a.Length, b.Length);
        for (var i = 0; i < length; i++)
        {
            if (a[i] == b[i])
                continue;
            var (surrogateA, surrogateB) = (char.IsSurrogate(a[i]), char.IsSurrogate(b[i]));
            return surrogateA == surrogateB ? a[i].CompareTo(b[i]) : surrogateA ? 1 : -1;
        }
        return a.Length.CompareTo(b.Length);
    }

    /// <summary>The bytes of keys and values together, as limits count them.</summary>
    public int ByteCount() =>
        _entries.Sum(e => Encoding.UTF8.GetByteCount(e.Key) + Encoding.UTF8.GetByteCount(e.Value));
}
