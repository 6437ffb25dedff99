using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Aegis.Cli;

/// <summary>
/// Standard output whose failures are told apart from those of other files. The console's own stream says nothing when the
/// reader of a pipe has gone, so `aegis watch | head` would never end.
/// </summary>
internal sealed class StandardOutput(Stream stream) : Stream
{
    public override bool CanRead => false;
    public override bool CanSeek => false;
    public override bool CanWrite => true;
    public override long Length => throw new NotSupportedException();
    public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

    /// <summary>For bytes.</summary>
    public static Stream Open() => new StandardOutput(Underlying());

    /// <summary>For text: from now on the console notices a closed pipe.</summary>
    public static void NoticeWhenClosed()
    {
        if (Console.IsOutputRedirected)
            Console.SetOut(new StreamWriter(Open(), new UTF8Encoding(false)) { AutoFlush = true });
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        try
        {
            stream.Write(buffer);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new OutputException(e);
        }
    }

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Flush()
    {
    }

    public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();
    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
    public override void SetLength(long value) => throw new NotSupportedException();

    private static Stream Underlying()
    {
        if (OperatingSystem.IsWindows())
            return Console.OpenStandardOutput();
        var file = new FileStream(new SafeFileHandle(1, ownsHandle: false), FileAccess.Write, bufferSize: 0);
        // A FileStream writes to a file at positions of its own and would not move the one that the shell shares.
        return file.CanSeek ? Console.OpenStandardOutput() : file;
    }
}

/// <summary>Standard output cannot be written.</summary>
internal sealed class OutputException(Exception cause) : Exception($"Standard output cannot be written: {cause.Message}", cause)
{
    private const int BrokenPipe = 32;

    /// <summary>Whether its reader has gone, which is no failure of ours.</summary>
    public bool IsClosed => (InnerException!.HResult & 0xffff) == BrokenPipe;
}
