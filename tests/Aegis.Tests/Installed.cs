namespace Aegis.Tests;

/// <summary>Programs that tests need and that are not part of the repository.</summary>
internal static class Installed
{
    /// <summary>Where a program is, on PATH or in one of these directories; null when it is in none.</summary>
    public static string? Find(string program, params IEnumerable<string> directories)
        => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Concat(directories)
            .Select(directory => Path.Combine(directory, program)).FirstOrDefault(File.Exists);

    /// <summary>Ends the test, for something that is not installed: ignored, and on CI failed, where it would hide what is missing.</summary>
    public static void Missing(string reason)
    {
        if (Environment.GetEnvironmentVariable("CI") is { Length: > 0 } and not "false" and not "0")
        {
            Assert.Fail(reason);
        }

        Assert.Ignore(reason);
    }
}
