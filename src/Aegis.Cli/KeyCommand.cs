using System.CommandLine;
using Aegis.Evidence;
using LogName = Aegis.Core.LogName;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>The verifier key of a log: what others are given to check what it signs.</summary>
internal static class KeyCommand
{
    public static Command Create() => new("key", "The key with which others check what the log signs.") { Show() };

    private static Command Show()
    {
        var file = Inputs.Text("--file", "PEM", "The signing key's file (AEGIS_SIGNING_KEY): asks no server. Needs --log-id.");
        var logId = Inputs.Text("--log-id", "ID", "The log's name, which a verifier key bears; `aegis info` tells it.");
        return Session.Define("show", "Print the verifier key. From the server it is for display: trust the one from the key's file.",
            async session =>
            {
                var path = session.Get(file);
                var name = session.Get(logId);
                if (path is null != name is null)
                    throw new UsageException("--file and --log-id go together: a verifier key bears the log's name.");
                if (name is not null && LogName.Problem(name) is { } problem)
                    throw new UsageException($"--log-id {problem}.");
                if (path is not null)
                {
                    using var key = Load(path);
                    Tell(session, [key.VerifierKey(name!).ToString()], name!, "file");
                    return ExitCode.Success;
                }
                var info = await session.System.GetServerInfoAsync(new Pb.GetServerInfoRequest(), session.Unary);
                Tell(session, [.. info.VerifierKeys], info.LogId, "server");
                session.Output.Notice("This is what the server says of itself, for display: whoever could alter the log could have altered "
                    + "this too. Compare it with the one from the key's file.");
                return ExitCode.Success;
            }, file, logId);
    }

    private static void Tell(Session session, IReadOnlyList<string> keys, string logId, string source)
    {
        session.Output.Object(new { log_id = logId, verifier_keys = keys, source });
        foreach (var key in keys)
            session.Output.Line(key);
    }

    private static SigningKey Load(string path)
    {
        try
        {
            return SigningKey.Parse(File.ReadAllText(path));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException or ArgumentException)
        {
            throw new UsageException($"{path} cannot be used: {e.Message}");
        }
    }
}
