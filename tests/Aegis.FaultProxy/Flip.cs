using System.Buffers.Binary;
using System.Collections;
using System.Globalization;
using System.IO.Compression;
using System.Text;
using Google.Protobuf;
using Google.Protobuf.Reflection;

namespace Aegis.FaultProxy;

/// <summary>Flips one bit of one field.</summary>
/// <remarks>
/// In bytes and texts it is the lowest bit of the byte or character at <c>AT</c>, counted in bytes from 0, or of the one in
/// the middle. In a number it is the lowest, a bool is turned around. A field, an element or an entry that is absent, and
/// a text or bytes that are empty or end before AT, stay as they are.
/// </remarks>
internal sealed class Flip
{
    private const int HeaderBytes = 5;

    private readonly string[] _path;
    private readonly int? _at;

    private Flip(string[] path, int? at) => (_path, _at) = (path, at);

    /// <exception cref="FormatException">The message has no such field, or it has no bits of its own.</exception>
    public static Flip Parse(MessageDescriptor message, string path, string? at)
    {
        if (at is not null && !int.TryParse(at, NumberStyles.None, CultureInfo.InvariantCulture, out _))
            throw new FormatException($"{at} is not the number of a byte");
        var names = path.Split('.');
        Check(message, names);
        return new Flip(names, at is null ? null : int.Parse(at, CultureInfo.InvariantCulture));
    }

    /// <summary>The frame with all flips done; the same one when none found its field.</summary>
    public static byte[] InFrame(IReadOnlyList<Flip> flips, MessageDescriptor type, byte[] frame, string? encoding)
    {
        var message = type.Parser.ParseFrom(frame[0] == 0 ? frame.AsSpan(HeaderBytes) : Decompressed(frame, encoding));
        var isFlipped = false;
        foreach (var flip in flips)
            isFlipped |= flip.In(message, flip._path);
        if (!isFlipped)
            return frame;
        var size = message.CalculateSize();
        var result = new byte[HeaderBytes + size];
        BinaryPrimitives.WriteInt32BigEndian(result.AsSpan(1), size);
        message.WriteTo(result.AsSpan(HeaderBytes));
        return result;
    }

    private static byte[] Decompressed(byte[] frame, string? encoding)
    {
        var content = new MemoryStream(frame, HeaderBytes, frame.Length - HeaderBytes);
        using Stream inflated = encoding switch
        {
            "gzip" => new GZipStream(content, CompressionMode.Decompress),
            "deflate" => new ZLibStream(content, CompressionMode.Decompress),
            _ => throw new InvalidDataException($"grpc-encoding {encoding} is not known here."),
        };
        using var result = new MemoryStream();
        inflated.CopyTo(result);
        return result.ToArray();
    }

    private static void Check(MessageDescriptor message, ReadOnlySpan<string> path)
    {
        var field = Field(message, path[0]);
        path = path[1..];
        if (field.IsRepeated || field.IsMap)
        {
            if (path.Length == 0)
                throw new FormatException($"{field.Name} is repeated: say which, by its index or key");
            if (!field.IsMap && !int.TryParse(path[0], NumberStyles.None, CultureInfo.InvariantCulture, out _))
                throw new FormatException($"{path[0]} is not an index of {field.Name}");
            path = path[1..];
        }
        var isMessage = field.FieldType == FieldType.Message && !field.IsMap;
        if (isMessage && path.Length == 0)
            throw new FormatException($"{field.Name} is a message: say which of its fields");
        if (!isMessage && path.Length > 0)
            throw new FormatException($"{field.Name} has no fields");
        if (isMessage)
            Check(field.MessageType, path);
    }

    private static FieldDescriptor Field(MessageDescriptor message, string name) => message.FindFieldByName(name)
        ?? throw new FormatException($"{message.Name} has no field {name}");

    private bool In(IMessage message, ReadOnlySpan<string> path)
    {
        var field = Field(message.Descriptor, path[0]);
        var accessor = field.Accessor;
        switch (accessor.GetValue(message))
        {
            case IDictionary map:
                var key = path[1];
                return map.Contains(key) && Flipped(map[key]!, path[2..], value => map[key] = value);
            case IList list:
                var index = int.Parse(path[1], CultureInfo.InvariantCulture);
                return index < list.Count && Flipped(list[index]!, path[2..], value => list[index] = value);
            case null:
                return false;
            case var value:
                return (!field.HasPresence || accessor.HasValue(message))
                    && Flipped(value, path[1..], flipped => accessor.SetValue(message, flipped));
        }
    }

    private bool Flipped(object value, ReadOnlySpan<string> rest, Action<object> set)
    {
        if (value is IMessage message)
            return In(message, rest);
        object? flipped = value switch
        {
            ByteString bytes => FlippedBytes(bytes.ToByteArray()) is { } result ? ByteString.CopyFrom(result) : null,
            string text => FlippedText(Encoding.UTF8.GetBytes(text)),
            bool b => !b,
            uint n => n ^ 1,
            ulong n => n ^ 1,
            int n => n ^ 1,
            long n => n ^ 1,
            Enum e => Enum.ToObject(e.GetType(), Convert.ToInt32(e, CultureInfo.InvariantCulture) ^ 1),
            _ => throw new NotSupportedException($"A {value.GetType().Name} has no bit to flip here."),
        };
        if (flipped is not null)
            set(flipped);
        return flipped is not null;
    }

    private byte[]? FlippedBytes(byte[] bytes)
    {
        var at = _at ?? bytes.Length / 2;
        if (at >= bytes.Length)
            return null;
        bytes[at] ^= 1;
        return bytes;
    }

    /// <summary>
    /// The lowest bit of a character's last byte is always free in UTF-8: every boundary between what is allowed and what is
    /// not is even.
    /// </summary>
    private string? FlippedText(byte[] utf8)
    {
        var at = _at ?? utf8.Length / 2;
        if (at >= utf8.Length)
            return null;
        while (at + 1 < utf8.Length && (utf8[at + 1] & 0xC0) == 0x80)
            at++;
        utf8[at] ^= 1;
        return Encoding.UTF8.GetString(utf8);
    }
}
