using System.CommandLine;
using Grpc.Core;
using Grpc.Health.V1;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>How the server is, and what it is.</summary>
internal static class StatusCommands
{
    private const string Serving = "SERVING";
    private const string Unreachable = "UNREACHABLE";

    private static readonly string[] HealthNames =
    [
        "liveness", "", "aegis.v1.WorkflowService", "aegis.v1.RecoveryService", "aegis.v1.IntegrityService",
        "aegis.v1.SystemService", "aegis.writes", "aegis.integrity",
    ];

    /// <summary>How well the history is protected against what has not happened yet: without it the service does its work.</summary>
    private static readonly string[] ProtectionNames = ["aegis.replication", "aegis.backup"];

    // A probe that takes longer is no probe.
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(3);

    public static Command Health()
    {
        var isProtected = new Option<bool>("--protected")
        {
            Description = $"Demand also that the history is protected: {string.Join(" and ", ProtectionNames)}.",
        };
        return Session.Define("health", "Ask for every health name, of which (all) is the empty one. Succeeds only if all serve; those that "
            + "tell how the history is protected are shown, and count with --protected alone.", async session =>
        {
            var answers = await Task.WhenAll(HealthNames.Concat(ProtectionNames).Select(name => AskAsync(session, name)));
            foreach (var (service, status, _) in answers)
                session.Output.Object(new { service, status });
            session.Output.Table([new("service", Wraps: true), "status"],
                answers.Select(a => new[] { a.Name.Length == 0 ? "(all)" : a.Name, a.Status }));
            if (answers.Take(session.Get(isProtected) ? answers.Length : HealthNames.Length).All(a => a.Status == Serving))
                return ExitCode.Success;
            return answers.All(a => a.Status == Unreachable) ? throw answers[0].Cause! : ExitCode.Violation;
        }, isProtected);
    }

    public static Command Info() => Session.Define("info", "Tell the server's version, log and limits.", async session =>
    {
        var info = await session.System.GetServerInfoAsync(new Pb.GetServerInfoRequest(), session.Unary);
        session.Output.Message(info);
        session.Output.Line($"version {info.Version}, store {info.Store}, log {info.LogId}");
        if (info.Features.Count > 0)
            session.Output.Line($"features {string.Join(", ", info.Features)}");
        session.Output.Table(["limit", "value"], Pb.Limits.Descriptor.Fields.InDeclarationOrder()
            .Select(f => new[] { f.Name, f.Accessor.GetValue(info.Limits).ToString()! }));
        return ExitCode.Success;
    });

    private static async Task<(string Name, string Status, RpcException? Cause)> AskAsync(Session session, string name)
    {
        try
        {
            var options = session.Unary;
            var soon = DateTime.UtcNow + Patience;
            var answer = await session.Health.CheckAsync(new HealthCheckRequest { Service = name },
                options.Deadline < soon ? options : options.WithDeadline(soon));
            return (name, Output.Name(answer.Status), null);
        }
        catch (RpcException e) when (e.StatusCode == StatusCode.NotFound)
        {
            return (name, "UNKNOWN", e);
        }
        catch (RpcException e) when (e.StatusCode is StatusCode.Unavailable or StatusCode.DeadlineExceeded)
        {
            return (name, Unreachable, e);
        }
    }
}
