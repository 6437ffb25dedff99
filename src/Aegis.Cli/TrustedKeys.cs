using System.CommandLine;
using Aegis.Core;

namespace Aegis.Cli;

/// <summary>The verifier keys that an operator trusts, given as text or as a file that holds them.</summary>
internal static class TrustedKeys
{
    private const int FileBytesMax = 64 * 1024;

    public static Option<string[]> Option(string name, string description) =>
        Inputs.Many(name, "KEY|@FILE", description + " A verifier key name+keyid+base64, or @ and a file that holds one or several. "
            + "May be repeated.");

    /// <exception cref="UsageException">One of them is no verifier key, or a file cannot be read.</exception>
    public static List<VerifierKey> Of(string[] values) =>
        [.. values.SelectMany(value => value.StartsWith('@') ? Lines(value[1..]) : [value]).Select(Parse)];

    private static IEnumerable<string> Lines(string path)
    {
        string text;
        using (var stream = Inputs.Open(path))
        {
            var bytes = new byte[FileBytesMax];
            try
            {
                text = global::System.Text.Encoding.UTF8.GetString(bytes, 0, stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new UsageException(e.Message);
            }
        }
        var lines = text.Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
        return lines.Length > 0 ? lines : throw new UsageException($"{path} holds no verifier key.");
    }

    private static VerifierKey Parse(string text)
    {
        try
        {
            return VerifierKey.Parse(text);
        }
        catch (FormatException e)
        {
            throw new UsageException($"\"{text}\" is not a verifier key: {e.Message}");
        }
    }
}
