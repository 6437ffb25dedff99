using System.Buffers;
using System.CommandLine;
using System.Globalization;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Google.Protobuf;
using Google.Protobuf.Collections;
using Google.Protobuf.WellKnownTypes;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Options that several commands share, and their values as the contract wants them.</summary>
internal static partial class Inputs
{
    // Beyond what any request can hold; the server tells its own, smaller limit.
    private const int SnapshotBytesMax = 15 * 1024 * 1024;
    private const int HashBytes = 32;

    public static Argument<string> Id() => new("ID") { Description = "The workflow's id." };

    public static Argument<string?> OptionalId(string description) =>
        new("ID") { Description = description, Arity = ArgumentArity.ZeroOrOne };

    public static Argument<string> File(string description) =>
        new("FILE") { Description = description + " Or - for standard input." };

    public static Option<string?> Text(string name, string helpName, string description) =>
        new(name) { Description = description, HelpName = helpName };

    public static Option<string[]> Metadata(string description) =>
        Many("--metadata", "KEY=VALUE", description + " May be repeated.");

    public static Option<string?> Owner() => Text("--owner", "NAME", "Who takes the lease.");

    public static Option<double?> LeaseDuration() => new("--lease-duration")
    {
        Description = "How long the lease lasts: 1 to 3600, 30 by default.",
        HelpName = "SECONDS",
    };

    public static Option<string[]> Many(string name, string helpName, string description) => new(name)
    {
        Description = description,
        HelpName = helpName,
        DefaultValueFactory = _ => [],
    };

    public static void Add(MapField<string, string> map, IEnumerable<string> entries)
    {
        foreach (var entry in entries)
        {
            var split = entry.IndexOf('=', StringComparison.Ordinal);
            if (split < 1)
                throw new UsageException($"--metadata {entry}: expected KEY=VALUE.");
            if (!map.TryAdd(entry[..split], entry[(split + 1)..]))
                throw new UsageException($"--metadata {entry}: the key was given before.");
        }
    }

    public static Pb.WorkflowStatus Status(string? text)
    {
        if (text is null)
            return Pb.WorkflowStatus.Unspecified;
        foreach (var status in global::System.Enum.GetValues<Pb.WorkflowStatus>())
        {
            if (status != Pb.WorkflowStatus.Unspecified && status.ToString().Equals(text, StringComparison.OrdinalIgnoreCase))
                return status;
        }
        throw new UsageException($"\"{text}\" is not a status: RUNNING, WAITING, COMPLETED, FAILED or CANCELLED.");
    }

    public static Timestamp? Time(string? text) => text is null
        ? null
        : TryTime(text, out var time)
            ? Timestamp.FromDateTimeOffset(time)
            : throw new UsageException($"\"{text}\" is not a time such as 2026-01-31T12:00:00Z.");

    /// <summary>
    /// ISO 8601, with a T or a space before the time, and with an offset; without one it is UTC. Nothing looser: 02/03/2026 is
    /// read differently in different places, and what is recorded stays.
    /// </summary>
    public static bool TryTime(string text, out DateTimeOffset time)
    {
        time = default;
        var match = Iso8601().Match(text);
        if (!match.Success)
            return false;
        var fraction = match.Groups["fraction"].Value;
        var offset = match.Groups["offset"].Value;
        // .NET knows seven digits of a fraction; what is recorded are six.
        return DateTimeOffset.TryParse(
            match.Groups["date"].Value + "T" + (match.Groups["time"] is { Success: true } t ? t.Value : "00:00")
            + fraction[..Math.Min(fraction.Length, 7)] + (offset is "" ? "Z" : offset),
            CultureInfo.InvariantCulture, DateTimeStyles.None, out time);
    }

    public static Duration? LeaseDurationOf(double? seconds) => seconds is { } value
        ? value is >= 1 and <= 3600
            ? Duration.FromTimeSpan(TimeSpan.FromSeconds(value))
            : throw new UsageException("--lease-duration must be from 1 to 3600 seconds.")
        : null;

    public static TimeSpan? TimeoutOf(double? seconds) => seconds is { } value
        ? value is > 0 and <= 1e6
            ? TimeSpan.FromSeconds(value)
            : throw new UsageException("--timeout must be more than 0 seconds and at most 1000000.")
        : null;

    public static Uri ServerOf(string text) =>
        Uri.TryCreate(text.Contains("://", StringComparison.Ordinal) ? text : "http://" + text, UriKind.Absolute, out var uri)
            && uri.Scheme is "http" or "https"
            ? uri
            : throw new UsageException($"\"{text}\" is not the URL of a server, such as http://127.0.0.1:50051.");

    /// <summary>A hash in hex as people see it, or in base64 as --json tells it.</summary>
    public static ByteString Hash(string text)
    {
        var bytes = new byte[HashBytes];
        var isHash = text.Length == HashBytes * 2
            ? Convert.FromHexString(text, bytes, out _, out var written) == OperationStatus.Done
            : Convert.TryFromBase64String(text, bytes, out written);
        return isHash && written == HashBytes
            ? ByteString.CopyFrom(bytes)
            : throw new UsageException($"\"{text}\" is not a hash: {HashBytes} bytes in hex or base64.");
    }

    /// <summary>Opens a file to read, or standard input for "-".</summary>
    /// <exception cref="UsageException">It cannot be opened.</exception>
    public static Stream Open(string path)
    {
        try
        {
            return path == "-" ? Console.OpenStandardInput() : global::System.IO.File.OpenRead(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new UsageException(e.Message);
        }
    }

    /// <summary>A snapshot from a file, or from standard input for "-".</summary>
    public static async Task<Pb.Snapshot?> SnapshotAsync(string? path, string? contentType, CancellationToken cancellationToken)
    {
        if (path is null)
            return contentType is null ? null : throw new UsageException("--content-type needs a --snapshot.");
        await using var stream = Open(path);
        var bytes = new byte[SnapshotBytesMax + 1];
        int size;
        try
        {
            size = await stream.ReadAtLeastAsync(bytes, bytes.Length, throwOnEndOfStream: false, cancellationToken);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UsageException(e.Message);
        }
        if (size > SnapshotBytesMax)
            throw new UsageException($"{path} is larger than {SnapshotBytesMax} bytes: no snapshot can be.");
        return new Pb.Snapshot
        {
            ContentType = contentType ?? "",
            Content = ByteString.CopyFrom(bytes, 0, size),
            // The server compares it, so that what it records is what was read here.
            Sha256 = ByteString.CopyFrom(SHA256.HashData(bytes.AsSpan(0, size))),
        };
    }

    [GeneratedRegex("""
        ^(?<date>\d{4}-\d\d-\d\d)([Tt ](?<time>\d\d:\d\d(:\d\d)?)(?<fraction>(?<=:\d\d:\d\d)\.\d+)? ?(?<offset>[Zz]|[+-]\d\d(:?\d\d)?)?)?\z
        """, RegexOptions.ExplicitCapture | RegexOptions.CultureInvariant)]
    private static partial Regex Iso8601();
}
