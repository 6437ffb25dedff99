using System.Buffers.Binary;
using System.Buffers.Text;
using System.Security.Cryptography;
using Aegis.Core;
using Google.Protobuf;

namespace Aegis.Server;

/// <summary>
/// Where a listing goes on: u8 version ‖ first 8 bytes of SHA-256(query) ‖ u64 cursor, in base64url. Opaque to callers; the
/// query is in it so that a token of another query is refused and not misread.
/// </summary>
internal static class PageToken
{
    private const byte Version = 1;
    private const int Size = 17;

    /// <param name="query">The request without its paging, made canonical.</param>
    /// <param name="cursor">The position of the last entry that was given.</param>
    public static string Write(IMessage query, long cursor)
    {
        Span<byte> token = stackalloc byte[Size];
        token[0] = Version;
        Fingerprint(query, token[1..9]);
        BinaryPrimitives.WriteInt64BigEndian(token[9..], cursor);
        return Base64Url.EncodeToString(token);
    }

    /// <summary>The cursor, or null for the first page.</summary>
    public static long? Read(IMessage query, string token, Fields fields)
    {
        if (token.Length == 0)
            return null;
        Span<byte> bytes = stackalloc byte[Size];
        Span<byte> fingerprint = stackalloc byte[8];
        if (token.Length != Base64Url.GetEncodedLength(Size)
            || !Base64Url.TryDecodeFromChars(token, bytes, out var written) || written != Size || bytes[0] != Version
            || BinaryPrimitives.ReadInt64BigEndian(bytes[9..]) < 0)
        {
            fields.Wrong("page_token", "is not a token that this service gave");
            return null;
        }
        Fingerprint(query, fingerprint);
        if (!fingerprint.SequenceEqual(bytes[1..9]))
            fields.Wrong("page_token", "is of another query: keep the filters and the order, or begin without a token");
        return BinaryPrimitives.ReadInt64BigEndian(bytes[9..]);
    }

    private static void Fingerprint(IMessage query, Span<byte> destination)
    {
        Span<byte> hash = stackalloc byte[Hash.Size];
        SHA256.HashData([.. System.Text.Encoding.UTF8.GetBytes(query.Descriptor.FullName), .. query.ToByteArray()], hash);
        hash[..destination.Length].CopyTo(destination);
    }
}
