using Aegis.Evidence;

namespace Aegis.Server;

/// <summary>
/// An export that was received whole, kept in a file that is gone with it. Read twice: once to see that all of it is sound,
/// and once to take it.
/// </summary>
internal sealed class ExportFile : IDisposable
{
    private readonly FileStream _file = Create();

    public ValueTask AppendAsync(ReadOnlyMemory<byte> bytes, CancellationToken cancellationToken) =>
        _file.WriteAsync(bytes, cancellationToken);

    /// <summary>Reads it from the beginning.</summary>
    public ExportReader Open()
    {
        _file.Position = 0;
        return new ExportReader(_file);
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
