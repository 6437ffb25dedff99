using System.CommandLine;

namespace Aegis.Cli;

/// <summary>The options that every command takes.</summary>
internal static class GlobalOptions
{
    public static readonly Option<string> Server = new("--server")
    {
        Description = "The server's URL. Also AEGIS_SERVER.",
        DefaultValueFactory = _ => FromEnvironment("AEGIS_SERVER") ?? "http://127.0.0.1:50051",
        Recursive = true,
    };

    public static readonly Option<string> Namespace = new("--namespace", "-n")
    {
        Description = "The namespace. Also AEGIS_NAMESPACE.",
        DefaultValueFactory = _ => FromEnvironment("AEGIS_NAMESPACE") ?? "default",
        Recursive = true,
    };

    public static readonly Option<bool> Json = new("--json")
    {
        Description = "Print JSON for scripts, one object a line, fields as in the contract; bytes are in base64.",
        Recursive = true,
    };

    public static readonly Option<double?> Timeout = new("--timeout")
    {
        Description = "The deadline of a call in seconds. 30 by default; none by default for what streams.",
        Recursive = true,
    };

    private static string? FromEnvironment(string name) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
}
