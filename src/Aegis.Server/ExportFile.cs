using System.Security.Cryptography;
using Aegis.Core;
using Google.Protobuf;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>
/// An export that was received whole, kept in a file that is gone with it. Read twice: once to see that all of it is sound,
/// and once to take it.
/// </summary>
internal sealed class ExportFile : IDisposable
{
    /// <summary>No message of an export is larger; a length above it is garbage.</summary>
    private const int MessageBytesMax = 4 * 1024 * 1024;

    private readonly FileStream _file = Create();

    public long Position
    {
        get => _file.Position;
        set => _file.Position = value;
    }

    public ValueTask AppendAsync(ReadOnlyMemory<byte> bytes, CancellationToken cancellationToken) =>
        _file.WriteAsync(bytes, cancellationToken);

    /// <summary>The next message, or null at the end.</summary>
    /// <exception cref="FormatException">What follows is not one.</exception>
    public Pb.ExportChunk? Read()
    {
        var begin = _file.Position;
        var length = 0L;
        for (var shift = 0; ; shift += 7)
        {
            var next = _file.ReadByte();
            if (next < 0 && shift == 0)
                return null;
            if (next < 0)
                throw new FormatException("the export ends early");
            length |= (long)(next & 0x7f) << shift;
            if ((next & 0x80) == 0)
                break;
            if (shift > 28)
                throw new FormatException($"there is no message at byte {begin}");
        }
        if (length > MessageBytesMax)
            throw new FormatException($"there is no message at byte {begin}");
        var bytes = new byte[length];
        if (_file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false) < bytes.Length)
            throw new FormatException("the export ends early");
        try
        {
            return Pb.ExportChunk.Parser.ParseFrom(bytes);
        }
        catch (InvalidProtocolBufferException e)
        {
            throw new FormatException($"there is no message at byte {begin}", e);
        }
    }

    /// <summary>The SHA-256 of the first bytes; leaves the position where it is.</summary>
    public Hash HashOf(long length)
    {
        var position = _file.Position;
        _file.Position = 0;
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var buffer = new byte[128 * 1024];
        while (length > 0)
        {
            var read = _file.Read(buffer, 0, (int)Math.Min(buffer.Length, length));
            if (read == 0)
                break;
            hash.AppendData(buffer, 0, read);
            length -= read;
        }
        _file.Position = position;
        return new Hash(hash.GetHashAndReset());
    }

    public void Dispose() => _file.Dispose();

    /// <summary>
    /// For the eyes of this user alone, and without a name from the beginning where the system can do that, so that a server
    /// that is killed leaves nothing behind: it holds what callers entrusted to the service.
    /// </summary>
    private static FileStream Create()
    {
        var options = new FileStreamOptions
        {
            Mode = FileMode.CreateNew,
            Access = FileAccess.ReadWrite,
        };
        var path = Path.Combine(Path.GetTempPath(), $"aegis-import-{Guid.NewGuid():N}");
        if (OperatingSystem.IsWindows())
        {
            options.Options = FileOptions.DeleteOnClose;
            return new FileStream(path, options);
        }
        options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        var file = new FileStream(path, options);
        File.Delete(path);
        return file;
    }
}
