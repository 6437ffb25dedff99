using System.Runtime.InteropServices;

namespace Aegis.Evidence;

/// <summary>What .NET cannot do with a file's name: make it survive the loss of power, and take it for one alone.</summary>
public static class FileName
{
    // Of Linux: from where a relative path goes, and that nothing is replaced.
    private const int FromHere = -100;
    private const uint ReplaceNothing = 1;

    // Of a directory that may be entered and not read, and of file systems that have no such thing or are not written to.
    private const int NotPermitted = 13;
    private const int NotSupported = 22;
    private const int ReadOnly = 30;

    /// <summary>
    /// Makes the names in a directory durable: a file's bytes are synced with the file, its name with the directory. Where that is not
    /// to be had the file system keeps names by itself, or loses them.
    /// </summary>
    /// <exception cref="IOException">The directory cannot be synced.</exception>
    public static void Sync(string directory)
    {
        if (OperatingSystem.IsWindows())
            return;
        var descriptor = Open(directory, 0);
        if (descriptor < 0)
        {
            if (Marshal.GetLastPInvokeError() == NotPermitted)
                return;
            throw new IOException($"{directory} cannot be opened: error {Marshal.GetLastPInvokeError()}.");
        }
        try
        {
            if (Fsync(descriptor) != 0 && Marshal.GetLastPInvokeError() is not (NotSupported or ReadOnly))
                throw new IOException($"{directory} cannot be synced: error {Marshal.GetLastPInvokeError()}.");
        }
        finally
        {
            _ = Close(descriptor);
        }
    }

    /// <summary>
    /// Gives a finished draft its name unless there is a file of that name: of several who try at once, one does. The draft is the
    /// caller's to delete, whether it did or not. File.Move looks first and then renames over what may be there since, and does only
    /// where the system knows nothing better.
    /// </summary>
    /// <returns>Whether it did.</returns>
    /// <exception cref="IOException">The name cannot be given.</exception>
    /// <exception cref="UnauthorizedAccessException">The name cannot be given.</exception>
    public static bool TryTake(string draft, string path)
    {
        if (TryRename(draft, path))
            return true;
        // Network file systems know no such rename. A crash before the draft is deleted leaves the file two names.
        if (!OperatingSystem.IsWindows() && Link(draft, path) == 0)
            return true;
        try
        {
            // Tells also what is wrong with a name that cannot be given.
            File.Move(draft, path, overwrite: false);
            return true;
        }
        catch (IOException) when (File.Exists(path))
        {
            return false;
        }
    }

    private static bool TryRename(string draft, string path)
    {
        try
        {
            return OperatingSystem.IsLinux() && Rename(FromHere, draft, FromHere, path, ReplaceNothing) == 0;
        }
        catch (EntryPointNotFoundException)
        {
            // An old or a small C library.
            return false;
        }
    }

    [DllImport("libc", EntryPoint = "open", SetLastError = true, CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Open([MarshalAs(UnmanagedType.LPUTF8Str)] string path, int flags);

    [DllImport("libc", EntryPoint = "renameat2", SetLastError = true, CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Rename(int fromDirectory, [MarshalAs(UnmanagedType.LPUTF8Str)] string draft, int toDirectory,
        [MarshalAs(UnmanagedType.LPUTF8Str)] string path, uint flags);

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
