using System.Globalization;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>What a server is told by its environment. Everything has a default.</summary>
public sealed record ServerOptions
{
    /// <summary>AEGIS_DATABASE: sqlite:PATH, or an Npgsql connection string.</summary>
    public string Database { get; init; } = "sqlite:aegis.db";

    /// <summary>AEGIS_READ_DATABASE: an Npgsql connection string, each host of which is a standby to read at; null for none.</summary>
    public string? ReadDatabase { get; init; }

    /// <summary>AEGIS_READ_LAG_MAX: how far behind a standby may be that is read at.</summary>
    public TimeSpan ReadLagMax { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>AEGIS_DATA_DIR: where relative database paths begin.</summary>
    public string DataDirectory { get; init; } = ".aegis";

    /// <summary>AEGIS_LOG_ID: the name of the log; null lets a new database make its own.</summary>
    public string? LogId { get; init; }

    /// <summary>AEGIS_SIGNING_KEY: the file of the log's key, PKCS#8 in PEM; made when a new log begins and it is absent.</summary>
    public string? SigningKeyFile { get; init; }

    /// <summary>AEGIS_MEMORY_FILE: where this server remembers the last head it has seen or signed.</summary>
    public string? MemoryFile { get; init; }

    /// <summary>AEGIS_MEMORY=required: whether a log that is not empty is refused when there is no memory of it.</summary>
    public bool IsMemoryRequired { get; init; }

    /// <summary>
    /// AEGIS_KNOWN_HEADS: files in which clients and <c>aegis head watch</c> have kept heads, and directories of such files (*.json).
    /// </summary>
    public IReadOnlyList<string> KnownHeads { get; init; } = [];

    /// <summary>AEGIS_DRAIN_SECONDS: how long to serve on after a request to stop.</summary>
    public TimeSpan Drain { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>AEGIS_ALLOW_INSECURE: whether plaintext may be served beyond this machine.</summary>
    public bool AllowInsecure { get; init; }

    /// <summary>AEGIS_SNAPSHOT_BYTES_MAX: the largest snapshot taken, never above that of the contract.</summary>
    public int SnapshotBytesMax { get; init; } = Limits.SnapshotBytesMax;

    /// <summary>AEGIS_QUEUE_COMMANDS_MAX: how many commands may wait for the writer.</summary>
    public int QueueCommandsMax { get; init; } = 8192;

    /// <summary>AEGIS_QUEUE_BYTES_MAX: how many bytes of commands may wait for the writer.</summary>
    public long QueueBytesMax { get; init; } = 128L * 1024 * 1024;

    /// <summary>AEGIS_LOG_FORMAT: text for people, or json, one object a line.</summary>
    public string LogFormat { get; init; } = "text";

    /// <summary>AEGIS_SCRUB_PERIOD: within what time the whole history is verified again, such as 7d, 12h, 30m, 45s or 7.00:00:00.</summary>
    public TimeSpan ScrubPeriod { get; init; } = TimeSpan.FromDays(7);

    /// <summary>AEGIS_SCRUB_BYTES_PER_SECOND: how much of the database's reading that may take.</summary>
    public long ScrubBytesPerSecond { get; init; } = 8L * 1024 * 1024;

    /// <summary>AEGIS_BACKUP_MAX_AGE: how old the newest proven backup may be, written as AEGIS_SCRUB_PERIOD.</summary>
    public TimeSpan BackupAgeMax { get; init; } = TimeSpan.FromHours(26);

    /// <exception cref="ConfigurationException">A value cannot be used.</exception>
    public static ServerOptions From(IConfiguration configuration)
    {
        var defaults = new ServerOptions();
        var options = new ServerOptions
        {
            Database = NonEmpty(configuration["AEGIS_DATABASE"]) ?? defaults.Database,
            ReadDatabase = NonEmpty(configuration["AEGIS_READ_DATABASE"]),
            ReadLagMax = Period(configuration, "AEGIS_READ_LAG_MAX", defaults.ReadLagMax, TimeSpan.FromHours(1), "1 hour, such as 5s or 1m"),
            DataDirectory = NonEmpty(configuration["AEGIS_DATA_DIR"]) ?? defaults.DataDirectory,
            LogId = LogIdOf(NonEmpty(configuration["AEGIS_LOG_ID"])),
            SigningKeyFile = NonEmpty(configuration["AEGIS_SIGNING_KEY"]),
            MemoryFile = NonEmpty(configuration["AEGIS_MEMORY_FILE"]),
            IsMemoryRequired = NonEmpty(configuration["AEGIS_MEMORY"]) switch
            {
                null or "optional" => false,
                "required" => true,
                var other => throw new ConfigurationException($"AEGIS_MEMORY must be required or optional, not \"{other}\"."),
            },
            KnownHeads = (configuration["AEGIS_KNOWN_HEADS"] ?? "")
                .Split(';', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries),
            Drain = TimeSpan.FromSeconds(Number(configuration, "AEGIS_DRAIN_SECONDS", 5, 0, 3600)),
            LogFormat = NonEmpty(configuration["AEGIS_LOG_FORMAT"]) switch
            {
                null or "text" => "text",
                "json" => "json",
                var other => throw new ConfigurationException($"AEGIS_LOG_FORMAT must be text or json, not \"{other}\"."),
            },
            AllowInsecure = Flag(configuration, "AEGIS_ALLOW_INSECURE"),
            SnapshotBytesMax = (int)Number(configuration, "AEGIS_SNAPSHOT_BYTES_MAX",
                defaults.SnapshotBytesMax, 1, Limits.SnapshotBytesMax),
            QueueCommandsMax = (int)Number(configuration, "AEGIS_QUEUE_COMMANDS_MAX",
                defaults.QueueCommandsMax, 1, 1_000_000),
            QueueBytesMax = Number(configuration, "AEGIS_QUEUE_BYTES_MAX",
                defaults.QueueBytesMax, Limits.RequestBytesMax, 1L << 40),
            ScrubPeriod = Period(configuration, "AEGIS_SCRUB_PERIOD", defaults.ScrubPeriod, TimeSpan.FromDays(365),
                "365 days, such as 7d, 12h, 30m, 45s or 7.00:00:00"),
            ScrubBytesPerSecond = Number(configuration, "AEGIS_SCRUB_BYTES_PER_SECOND",
                defaults.ScrubBytesPerSecond, 64 * 1024, 1L << 40),
            BackupAgeMax = Period(configuration, "AEGIS_BACKUP_MAX_AGE", defaults.BackupAgeMax, TimeSpan.FromDays(365),
                "365 days, such as 26h or 7d"),
        };
        return options is { IsSqlite: true, ReadDatabase: not null }
            ? throw new ConfigurationException("AEGIS_READ_DATABASE needs AEGIS_DATABASE to be PostgreSQL: SQLite has no standbys to read at.")
            : options;
    }

    /// <exception cref="StoreException">It cannot be used.</exception>
    public ILedgerStore OpenStore(TimeProvider time)
    {
        if (!IsSqlite)
            return PostgresLedgerStore.Open(Database);
        var path = Database[Sqlite.Length..];
        if (path.Length == 0)
            throw new ConfigurationException("AEGIS_DATABASE names no file after \"sqlite:\".");
        return SqliteLedgerStore.Open(path == ":memory:" ? null : Path.Combine(DataDirectory, path), time);
    }

    /// <summary>Where the log is read besides; empty for none.</summary>
    /// <exception cref="StoreException">It cannot be used.</exception>
    public IReadOnlyList<PostgresReplica> OpenReplicas() => ReadDatabase is null ? [] : PostgresReplica.Open(ReadDatabase);

    /// <summary>
    /// The file of the key: the one named, else one in the data directory that all logs of this server share; null for a
    /// temporary log, whose key is gone with it.
    /// </summary>
    public string? SigningKeyPath => SigningKeyFile ?? (IsTemporary ? null : Path.Combine(DataDirectory, "signing-key.pem"));

    /// <summary>
    /// The file of the memory: the one named, else one in the data directory for each database, so that another log in the same
    /// place is noticed and one in another place is not mistaken for it; null for a temporary log.
    /// </summary>
    /// <param name="location">Where the store says its data is.</param>
    public string? MemoryPath(string location)
    {
        if (MemoryFile is not null || IsTemporary)
            return MemoryFile;
        var relative = Path.IsPathRooted(location) ? Path.GetRelativePath(DataDirectory, location) : location;
        var name = string.Concat(relative.Select(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' ? c : '_'));
        return Path.Combine(DataDirectory, $"memory-{name}.json");
    }

    private const string Sqlite = "sqlite:";

    private bool IsSqlite => Database.StartsWith(Sqlite, StringComparison.OrdinalIgnoreCase);

    /// <summary>Whether the data is gone when the server stops.</summary>
    public bool IsTemporary => string.Equals(Database, "sqlite::memory:", StringComparison.OrdinalIgnoreCase);

    private static string? NonEmpty(string? text) => string.IsNullOrWhiteSpace(text) ? null : text;

    private static string? LogIdOf(string? text)
    {
        if (text is null)
            return null;
        if (LogName.Problem(text) is { } problem)
            throw new ConfigurationException($"AEGIS_LOG_ID {problem}.");
        var lastPart = text[(text.LastIndexOf('/') + 1)..];
        if (lastPart.Length < text.Length && lastPart.Length > 0 && lastPart.All(char.IsAsciiDigit))
            throw new ConfigurationException("AEGIS_LOG_ID must not end in \"/\" and digits: such names count generations.");
        return text;
    }

    private static long Number(IConfiguration configuration, string name, long otherwise, long min, long max)
    {
        if (NonEmpty(configuration[name]) is not { } text)
            return otherwise;
        return long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var value)
            && value >= min && value <= max
            ? value
            : throw new ConfigurationException($"{name} must be a whole number from {min} to {max}, not \"{text}\".");
    }

    private static TimeSpan Period(IConfiguration configuration, string name, TimeSpan otherwise, TimeSpan max, string maxText)
    {
        if (NonEmpty(configuration[name])?.Trim() is not { } text)
            return otherwise;
        var unit = text[^1] switch
        {
            'd' => TimeSpan.FromDays(1),
            'h' => TimeSpan.FromHours(1),
            'm' => TimeSpan.FromMinutes(1),
            's' => TimeSpan.FromSeconds(1),
            _ => TimeSpan.Zero,
        };
        var isCounted = long.TryParse(text[..^1], NumberStyles.None, CultureInfo.InvariantCulture, out var count) && count <= 86_400 * 365;
        var period = unit > TimeSpan.Zero && isCounted ? count * unit
            : text.Contains(':', StringComparison.Ordinal) && TimeSpan.TryParse(text, CultureInfo.InvariantCulture, out var exact) ? exact
            : TimeSpan.Zero;
        return period >= TimeSpan.FromSeconds(1) && period <= max
            ? period
            : throw new ConfigurationException(
                $"{name} must be a time from 1 second to {maxText}, not \"{text}\".");
    }

    private static bool Flag(IConfiguration configuration, string name) => NonEmpty(configuration[name]) switch
    {
        null => false,
        var text when bool.TryParse(text, out var value) => value,
        var text => throw new ConfigurationException($"{name} must be true or false, not \"{text}\"."),
    };
}

/// <summary>The configuration cannot be used; the message says what to do.</summary>
public sealed class ConfigurationException(string message) : Exception(message);
