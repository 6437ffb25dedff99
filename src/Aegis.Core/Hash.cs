using System.Buffers.Binary;
using System.Security.Cryptography;

namespace Aegis.Core;

/// <summary>A SHA-256 hash: 32 bytes, compared by content. The default value is 32 zero bytes, "absent".</summary>
public readonly record struct Hash
{
    public const int Size = 32;

    // An instance spares a third of what SHA256.HashData takes for short inputs, which is mostly the call.
    [ThreadStatic]
    private static SHA256? _sha256;

    private readonly UInt128 _high;
    private readonly UInt128 _low;

    /// <exception cref="ArgumentException">The span is not 32 bytes long.</exception>
    public Hash(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length != Size)
            throw new ArgumentException($"A hash has {Size} bytes, not {bytes.Length}.", nameof(bytes));
        _high = BinaryPrimitives.ReadUInt128BigEndian(bytes);
        _low = BinaryPrimitives.ReadUInt128BigEndian(bytes[16..]);
    }

    public static Hash Zero => default;

    public bool IsZero => this == default;

    /// <summary>The SHA-256 of the bytes, without any prefix.</summary>
    public static Hash Of(ReadOnlySpan<byte> bytes)
    {
        Span<byte> digest = stackalloc byte[Size];
        (_sha256 ??= SHA256.Create()).TryComputeHash(bytes, digest, out _);
        return new Hash(digest);
    }

    public void CopyTo(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt128BigEndian(destination, _high);
        BinaryPrimitives.WriteUInt128BigEndian(destination[16..], _low);
    }

    /// <summary>Whether its first half is this.</summary>
    internal bool BeginsWith(Bytes16 half) => half == new Bytes16(_high);

    public byte[] ToArray()
    {
        var bytes = new byte[Size];
        CopyTo(bytes);
        return bytes;
    }

    // Any of its bits are as good as a hash of them.
    public override int GetHashCode() => _low.GetHashCode();

    /// <summary>Lower-case hex, as in messages and error details.</summary>
    public override string ToString() => Convert.ToHexStringLower(ToArray());
}

/// <summary>
/// Sixteen bytes that are compared by content: a salt, or the key under which a request_id is looked up.
/// </summary>
public readonly record struct Bytes16
{
    public const int Size = 16;

    private readonly UInt128 _value;

    /// <exception cref="ArgumentException">The span is not 16 bytes long.</exception>
    public Bytes16(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length != Size)
            throw new ArgumentException($"Expected {Size} bytes, not {bytes.Length}.", nameof(bytes));
        _value = BinaryPrimitives.ReadUInt128BigEndian(bytes);
    }

    internal Bytes16(UInt128 value) => _value = value;

    public void CopyTo(Span<byte> destination) => BinaryPrimitives.WriteUInt128BigEndian(destination, _value);

    public byte[] ToArray()
    {
        var bytes = new byte[Size];
        CopyTo(bytes);
        return bytes;
    }
}
