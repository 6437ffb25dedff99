using System.CommandLine;

namespace Aegis.Cli;

/// <summary>The options that every command takes.</summary>
internal static class GlobalOptions
{
    public static readonly Option<string> Server = new("--server")
    {
        Description = "The server's URL. Also AEGIS_SERVER.",
        HelpName = "URL",
        DefaultValueFactory = _ => FromEnvironment("AEGIS_SERVER") ?? "http://127.0.0.1:50051",
        Recursive = true,
    };

    public static readonly Option<string> Namespace = new("--namespace", "-n")
    {
        Description = "The namespace. Also AEGIS_NAMESPACE.",
        HelpName = "NAME",
        DefaultValueFactory = _ => FromEnvironment("AEGIS_NAMESPACE") ?? "default",
        Recursive = true,
    };

    public static readonly Option<bool> Json = new("--json")
    {
        Description = "Print JSON for scripts: one object, or one a line of what streams. Fields are named as in the contract, "
            + "64-bit numbers are strings, bytes are in base64.",
        Recursive = true,
    };

    public static readonly Option<double?> Timeout = new("--timeout")
    {
        Description = "The deadline of a call, retries of a write included: 30 by default. What streams (watch, export, import, "
            + "resume of all) has none by default.",
        HelpName = "SECONDS",
        Recursive = true,
    };

    /// <summary>A variable that is set and not empty, or null.</summary>
    public static string? FromEnvironment(string name) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
}
