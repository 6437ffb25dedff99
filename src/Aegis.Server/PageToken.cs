using System.Buffers;
using System.Buffers.Binary;
using System.Buffers.Text;
using System.Security.Cryptography;
using Aegis.Core;
using Google.Protobuf;

namespace Aegis.Server;

/// <summary>
/// Where a listing goes on: u8 version ‖ first 8 bytes of SHA-256(query) ‖ u64 cursor, and in version 2 ‖ u64 size, in base64url.
/// Opaque to callers; the query is in it so that a token of another query is refused and not misread, the size of the log where
/// the page was read so that the next one is not read where there is less of it. Without replicas the size is not needed, and the
/// version before reads the token too.
/// </summary>
internal static class PageToken
{
    private const byte Version = 1;
    private const byte VersionWithSize = 2;
    private const int Length = 17;
    private const int LengthWithSize = 25;

    /// <param name="query">The request without its paging, made canonical.</param>
    /// <param name="cursor">The position of the last entry that was given.</param>
    /// <param name="size">How far the log was where the page was read; null where it is always read at one place.</param>
    public static string Write(IMessage query, long cursor, long? size = null)
    {
        Span<byte> token = stackalloc byte[size is null ? Length : LengthWithSize];
        token[0] = size is null ? Version : VersionWithSize;
        Fingerprint(query, token[1..9]);
        BinaryPrimitives.WriteInt64BigEndian(token[9..], cursor);
        if (size is { } known)
            BinaryPrimitives.WriteInt64BigEndian(token[Length..], known);
        return Base64Url.EncodeToString(token);
    }

    /// <summary>The cursor, or null for the first page.</summary>
    public static long? Read(IMessage query, string token, Fields fields) => Read(query, token, fields, out _);

    /// <param name="query">As it was written.</param>
    /// <param name="token">The token.</param>
    /// <param name="fields">Takes what is wrong.</param>
    /// <param name="size">How far the log was where the page before was read: 0 for the first page, long.MaxValue where it does not say.</param>
    public static long? Read(IMessage query, string token, Fields fields, out long size)
    {
        size = 0;
        if (token.Length == 0)
            return null;
        Span<byte> bytes = stackalloc byte[LengthWithSize];
        Span<byte> fingerprint = stackalloc byte[8];
        if (Base64Url.DecodeFromChars(token, bytes, out _, out var written) != OperationStatus.Done
            || (bytes[0], written) is not ((Version, Length) or (VersionWithSize, LengthWithSize))
            || BinaryPrimitives.ReadInt64BigEndian(bytes[9..]) < 0 || BinaryPrimitives.ReadInt64BigEndian(bytes[Length..]) < 0)
        {
            fields.Wrong("page_token", "is not a token that this service gave");
            return null;
        }
        Fingerprint(query, fingerprint);
        if (!fingerprint.SequenceEqual(bytes[1..9]))
            fields.Wrong("page_token", "is of another query: keep the filters and the order, or begin without a token");
        size = written == Length ? long.MaxValue : BinaryPrimitives.ReadInt64BigEndian(bytes[Length..]);
        return BinaryPrimitives.ReadInt64BigEndian(bytes[9..]);
    }

    private static void Fingerprint(IMessage query, Span<byte> destination)
    {
        Span<byte> hash = stackalloc byte[Hash.Size];
        SHA256.HashData([.. System.Text.Encoding.UTF8.GetBytes(query.Descriptor.FullName), .. query.ToByteArray()], hash);
        hash[..destination.Length].CopyTo(destination);
    }
}
