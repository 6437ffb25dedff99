using System.CommandLine;
using System.Globalization;
using Google.Protobuf;
using Google.Protobuf.Collections;
using Google.Protobuf.WellKnownTypes;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Options that several commands share, and their values as the contract wants them.</summary>
internal static class Inputs
{
    public static Argument<string> Id() => new("id") { Description = "The workflow's id." };

    public static Argument<string?> OptionalId(string description) =>
        new("id") { Description = description, Arity = ArgumentArity.ZeroOrOne };

    public static Option<string[]> Metadata(string description) => new("--metadata")
    {
        Description = description + " As key=value; may be repeated.",
        DefaultValueFactory = _ => [],
    };

    public static Option<string[]> Types() => Many("--type", "Only this type; may be repeated.");

    public static Option<string[]> States() => Many("--state", "Only this state; may be repeated.");

    public static Option<string[]> Statuses() =>
        Many("--status", "Only this status: RUNNING, WAITING, COMPLETED, FAILED, CANCELLED; may be repeated.");

    public static Option<string?> Owner() => new("--owner") { Description = "Who takes the lease." };

    public static Option<double?> LeaseDuration() =>
        new("--lease-duration") { Description = "How long the lease lasts, in seconds: 1 to 3600, 30 by default." };

    public static void Add(MapField<string, string> map, IEnumerable<string> entries)
    {
        foreach (var entry in entries)
        {
            var split = entry.IndexOf('=', StringComparison.Ordinal);
            if (split < 1)
                throw new UsageException($"--metadata {entry}: expected key=value.");
            if (!map.TryAdd(entry[..split], entry[(split + 1)..]))
                throw new UsageException($"--metadata {entry}: the key was given before.");
        }
    }

    public static Pb.WorkflowStatus Status(string? text) => text is null
        ? Pb.WorkflowStatus.Unspecified
        : global::System.Enum.TryParse<Pb.WorkflowStatus>(text, ignoreCase: true, out var status)
            && !text.Any(char.IsDigit) && status != Pb.WorkflowStatus.Unspecified
            ? status
            : throw new UsageException($"\"{text}\" is not a status: RUNNING, WAITING, COMPLETED, FAILED or CANCELLED.");

    public static Timestamp? Time(string? text) => text is null
        ? null
        : TryTime(text, out var time)
            ? time
            : throw new UsageException($"\"{text}\" is not a time such as 2026-01-31T12:00:00Z.");

    /// <summary>ISO 8601, with an offset; without one it is UTC.</summary>
    public static bool TryTime(string text, out Timestamp time)
    {
        var isTime = DateTimeOffset.TryParse(text, CultureInfo.InvariantCulture,
            DateTimeStyles.AssumeUniversal | DateTimeStyles.AllowWhiteSpaces, out var parsed);
        time = isTime ? Timestamp.FromDateTimeOffset(parsed) : new Timestamp();
        return isTime;
    }

    public static Duration? Seconds(double? seconds) => seconds is { } value
        ? Duration.FromTimeSpan(TimeSpan.FromSeconds(Math.Clamp(value, -1e6, 1e6)))
        : null;

    /// <summary>A snapshot from a file, or from standard input for "-".</summary>
    public static async Task<Pb.Snapshot?> SnapshotAsync(string? path, string? contentType, CancellationToken cancellationToken)
    {
        if (path is null)
            return contentType is null ? null : throw new UsageException("--content-type needs a --snapshot.");
        await using var stream = path == "-" ? Console.OpenStandardInput() : File.OpenRead(path);
        return new Pb.Snapshot
        {
            ContentType = contentType ?? "",
            Content = await ByteString.FromStreamAsync(stream, cancellationToken),
        };
    }

    public static ByteString Hash(string hex)
    {
        try
        {
            return ByteString.CopyFrom(Convert.FromHexString(hex));
        }
        catch (FormatException)
        {
            throw new UsageException($"\"{hex}\" is not a hash in hex.");
        }
    }

    private static Option<string[]> Many(string name, string description) => new(name)
    {
        Description = description,
        DefaultValueFactory = _ => [],
    };
}
