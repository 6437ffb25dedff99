using System.Runtime.InteropServices;

namespace Aegis.Evidence;

/// <summary>What .NET cannot do with a file's name: make it survive the loss of power, and take it for one alone.</summary>
public static class FileName
{
    /// <summary>Makes the names in a directory durable: a file's bytes are synced with the file, its name with the directory.</summary>
    /// <exception cref="IOException">The directory cannot be synced.</exception>
    public static void Sync(string directory)
    {
        // Where there is no such call the file system keeps names by itself.
        if (OperatingSystem.IsWindows())
            return;
        var descriptor = Open(directory, 0);
        if (descriptor < 0)
            throw new IOException($"{directory} cannot be opened: error {Marshal.GetLastPInvokeError()}.");
        try
        {
            if (Fsync(descriptor) != 0)
                throw new IOException($"{directory} cannot be synced: error {Marshal.GetLastPInvokeError()}.");
        }
        finally
        {
            _ = Close(descriptor);
        }
    }

    /// <summary>
    /// Gives a finished draft its name, durably, unless there is a file of that name: of several who try at once, one does. The
    /// draft is the caller's to delete, whether it did or not. File.Move looks first and then renames over what is there since.
    /// </summary>
    /// <returns>Whether it did.</returns>
    /// <exception cref="IOException">The name cannot be given.</exception>
    /// <exception cref="UnauthorizedAccessException">The name cannot be given.</exception>
    public static bool TryTake(string draft, string path)
    {
        var isNew = OperatingSystem.IsWindows() || Link(draft, path) != 0 ? TryMove(draft, path) : true;
        if (isNew)
            Sync(Path.GetDirectoryName(Path.GetFullPath(path))!);
        return isNew;
    }

    /// <summary>Where the name is taken already, where files cannot have two names, and to tell what else is wrong.</summary>
    private static bool TryMove(string draft, string path)
    {
        try
        {
            File.Move(draft, path, overwrite: false);
            return true;
        }
        catch (IOException) when (File.Exists(path))
        {
            return false;
        }
    }

    [DllImport("libc", EntryPoint = "open", SetLastError = true, CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Open([MarshalAs(UnmanagedType.LPUTF8Str)] string path, int flags);

    [DllImport("libc", EntryPoint = "link", SetLastError = true, CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Link([MarshalAs(UnmanagedType.LPUTF8Str)] string draft, [MarshalAs(UnmanagedType.LPUTF8Str)] string path);

    [DllImport("libc", EntryPoint = "fsync", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Fsync(int descriptor);

    [DllImport("libc", EntryPoint = "close", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Close(int descriptor);
}
