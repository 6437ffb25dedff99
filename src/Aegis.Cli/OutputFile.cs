namespace Aegis.Cli;

/// <summary>
/// A file under its final name is whole: it is written beside it, synced, and renamed at the end. Whatever stood there before
/// stays until then.
/// </summary>
internal static class OutputFile
{
    public const string StandardOutputPath = "-";

    public static async Task WriteAsync(string path, Func<Stream, Task> write)
    {
        if (path == StandardOutputPath)
        {
            await using var stdout = StandardOutput.Open();
            await write(stdout);
            return;
        }
        var temporary = $"{path}.{Guid.NewGuid():N}.part";
        await using (var stream = Create(temporary))
        {
            try
            {
                await write(stream);
                stream.Flush(flushToDisk: true);
            }
            catch
            {
                File.Delete(temporary);
                throw;
            }
        }
        try
        {
            File.Move(temporary, path, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            File.Delete(temporary);
            throw new UsageException($"{path} cannot be written: {e.Message}");
        }
    }

    private static FileStream Create(string path)
    {
        try
        {
            return new FileStream(path, FileMode.CreateNew);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new UsageException(e.Message);
        }
    }
}
