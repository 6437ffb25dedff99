namespace Aegis.Tests;

/// <summary>The repository the tests were built from, for those that read its files.</summary>
internal static class Repository
{
    // Not ours, or made by a build.
    private static readonly HashSet<string> Skipped =
        ["bin", "obj", ".git", ".vs", ".idea", ".aegis", "node_modules", "artifacts", "TestResults"];

    /// <summary>The directory that holds the solution, found upwards from the test assembly.</summary>
    public static string Root { get; } = FindRoot();

    public static string PathOf(string relative) => Path.Combine(Root, relative);

    /// <summary>All files under a directory of the repository, by their paths from its root; none when it is absent.</summary>
    public static IEnumerable<string> Files(string under, string pattern)
    {
        var directory = new DirectoryInfo(PathOf(under));
        if (!directory.Exists)
        {
            return [];
        }

        var own = directory.EnumerateFiles(pattern).Select(file => Path.GetRelativePath(Root, file.FullName));
        var below = directory.EnumerateDirectories().Where(child => !Skipped.Contains(child.Name))
            .SelectMany(child => Files(Path.GetRelativePath(Root, child.FullName), pattern));
        return own.Concat(below).Order(StringComparer.Ordinal);
    }

    private static string FindRoot()
    {
        var directory = new DirectoryInfo(AppContext.BaseDirectory);
        while (!File.Exists(Path.Combine(directory.FullName, "Aegis.Grpc.sln")))
        {
            directory = directory.Parent
                ?? throw new InvalidOperationException($"No Aegis.Grpc.sln above {AppContext.BaseDirectory}.");
        }

        return directory.FullName;
    }
}
