using System.Security.Cryptography;
using Aegis.Core;
using Google.Protobuf;

namespace Aegis.Evidence;

using Pb = Aegis.V1;

/// <summary>
/// Reads the messages of an export, each with its length as a varint before it, and hashes them on the way. What it reads may
/// be anything: no length makes it take more memory than one message may have. Used by one thread.
/// </summary>
public sealed class ExportReader(Stream stream) : IDisposable
{
    /// <summary>The version of the format.</summary>
    public const string Format = "aegis/export/v1";

    /// <summary>No message of an export is larger; a length above it is garbage.</summary>
    private const int MessageBytesMax = 4 * 1024 * 1024;

    private const int LengthBytesMax = 5;

    private readonly BufferedStream _stream = new(stream, 128 * 1024);
    private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

    // The message last read with its length, which is hashed when the next is read.
    private byte[] _message = new byte[4096];
    private int _length;
    private long _position;

    /// <summary>Where the next message begins. Setting it needs a stream that can seek, and ends the hashing.</summary>
    public long Position
    {
        get => _position;
        set => _position = _stream.Position = value;
    }

    /// <summary>The SHA-256 of all messages before the one last read.</summary>
    public Hash HashBefore => new(_hash.GetCurrentHash());

    /// <summary>The next message, or null at the end.</summary>
    /// <exception cref="FormatException">What follows is not one.</exception>
    public Pb.ExportChunk? Read()
    {
        _hash.AppendData(_message, 0, _length);
        _length = 0;
        var begin = _position;
        var bodyLength = 0L;
        for (var shift = 0; ; shift += 7)
        {
            var next = _stream.ReadByte();
            if (next < 0 && shift == 0)
                return null;
            if (next < 0)
                throw new FormatException("it ends early");
            _message[_length++] = (byte)next;
            bodyLength |= (long)(next & 0x7f) << shift;
            if ((next & 0x80) == 0)
                break;
            if (_length == LengthBytesMax)
                throw NoMessageAt(begin);
        }
        if (bodyLength > MessageBytesMax)
            throw NoMessageAt(begin);
        var (start, count) = (_length, (int)bodyLength);
        if (_message.Length < start + count)
            Array.Resize(ref _message, Math.Max(start + count, Math.Min(_message.Length * 2, MessageBytesMax + LengthBytesMax)));
        if (_stream.ReadAtLeast(_message.AsSpan(start, count), count, throwOnEndOfStream: false) < count)
            throw new FormatException("it ends early");
        _length = start + count;
        _position = begin + _length;
        try
        {
            return Pb.ExportChunk.Parser.ParseFrom(_message, start, count);
        }
        catch (InvalidProtocolBufferException e)
        {
            throw NoMessageAt(begin, e);
        }
    }

    /// <summary>Leaves the stream open: it is the caller's.</summary>
    public void Dispose() => _hash.Dispose();

    private static FormatException NoMessageAt(long position, Exception? cause = null) =>
        new($"there is no message at byte {position}", cause);
}
