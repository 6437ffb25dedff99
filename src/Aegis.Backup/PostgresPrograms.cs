using System.Globalization;
using System.Text.RegularExpressions;

namespace Aegis.Backup;

/// <summary>A directory of PostgreSQL's programs, of one version.</summary>
internal sealed partial record PostgresPrograms(string Directory, int Version)
{
    private const string DebianDirectory = "/usr/lib/postgresql";

    // Debian's chooser among clusters, which decides by itself what version it runs.
    private const string DebianWrapper = "pg_wrapper";

    public string this[string program] => Path.Combine(Directory, program);

    /// <summary>
    /// The directory that has all of these programs, of a database's version or else of the next later one: none of them works with a
    /// database that is newer than itself.
    /// </summary>
    /// <param name="given">Where to look, as the operator says; null for PATH and where Debian installs.</param>
    /// <param name="version">The least version.</param>
    /// <param name="package">What to install where they are missing.</param>
    /// <param name="programs">Their names.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="BackupException">There is none, or only older ones.</exception>
    public static async Task<PostgresPrograms> FindAsync(string? given, int version, string package, IReadOnlyList<string> programs,
        CancellationToken cancellationToken)
    {
        var found = new List<PostgresPrograms>();
        foreach (var directory in given is null ? Installed() : [given])
        {
            if (programs.All(p => File.Exists(Path.Combine(directory, p))) && !IsWrapped(Path.Combine(directory, programs[0])))
                found.Add(new PostgresPrograms(directory, await VersionOfAsync(Path.Combine(directory, programs[0]), cancellationToken)));
        }
        if (found.Where(f => f.Version >= version).MinBy(f => f.Version) is { } fitting)
            return fitting;
        var names = string.Join(", ", programs);
        throw new BackupException(BackupProblem.Usage, found.MaxBy(f => f.Version) is { } older
            ? $"{programs[0]} in {older.Directory} is of version {older.Version}, and the database is of {version}: install "
                + $"{package}-{version} or later, or name its directory with --pg-bin."
            : given is not null ? $"{given} does not have {names}."
            : $"{names} cannot be found on PATH or in {DebianDirectory}/*/bin: install {package}"
                + $"{(version > 0 ? $"-{version.ToString(CultureInfo.InvariantCulture)}" : "")}, or name the directory with --pg-bin.");
    }

    private static IEnumerable<string> Installed() =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries).Concat(
            System.IO.Directory.Exists(DebianDirectory)
                ? System.IO.Directory.GetDirectories(DebianDirectory).Select(d => Path.Combine(d, "bin"))
                : []);

    private static bool IsWrapped(string program) =>
        File.ResolveLinkTarget(program, returnFinalTarget: true) is { Name: DebianWrapper };

    private static async Task<int> VersionOfAsync(string program, CancellationToken cancellationToken)
    {
        var text = await Child.OutputOfAsync(program, ["--version"], cancellationToken);
        return PostgreSqlVersion().Match(text) is { Success: true } match
            ? int.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture)
            : throw new BackupException(BackupProblem.Usage, $"{program} does not tell its version: {text.Trim()}");
    }

    [GeneratedRegex(@"\(PostgreSQL\) (\d{1,4})", RegexOptions.CultureInvariant)]
    private static partial Regex PostgreSqlVersion();
}
