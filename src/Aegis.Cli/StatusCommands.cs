using System.CommandLine;
using Grpc.Core;
using Grpc.Health.V1;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>How the server is, and what it is.</summary>
internal static class StatusCommands
{
    private static readonly string[] HealthNames =
    [
        "liveness", "", "aegis.v1.WorkflowService", "aegis.v1.RecoveryService", "aegis.v1.IntegrityService",
        "aegis.v1.SystemService", "aegis.writes", "aegis.integrity",
    ];

    public static Command Health() => Session.Define("health", "Ask for every health name; succeeds only if all serve.",
        async session =>
        {
            var answers = await Task.WhenAll(HealthNames.Select(async name => (Name: name, Status: await AskAsync(session, name))));
            foreach (var (name, status) in answers)
                session.Output.Object(new { service = name, status });
            session.Output.Table([new("service", Wraps: true), "status"], answers.Select(a => new[] { a.Name.Length == 0 ? "(all)" : a.Name, a.Status }));
            if (answers.All(a => a.Status == "SERVING"))
                return ExitCode.Success;
            return answers.All(a => a.Status == "UNREACHABLE") ? ExitCode.Unavailable : ExitCode.Violation;
        });

    public static Command Info() => Session.Define("info", "Tell the server's version, log and limits.", async session =>
    {
        var info = await session.System.GetServerInfoAsync(new Pb.GetServerInfoRequest(), session.Unary);
        session.Output.Message(info);
        session.Output.Line($"version {info.Version}, store {info.Store}, log {info.LogId}");
        session.Output.Table(["limit", "value"], Pb.Limits.Descriptor.Fields.InDeclarationOrder()
            .Select(f => new[] { f.Name, f.Accessor.GetValue(info.Limits).ToString()! }));
        return ExitCode.Success;
    });

    private static async Task<string> AskAsync(Session session, string name)
    {
        try
        {
            var options = session.Unary;
            // A probe that takes longer is no probe.
            var soon = DateTime.UtcNow.AddSeconds(3);
            var answer = await session.Health.CheckAsync(new HealthCheckRequest { Service = name },
                options.Deadline < soon ? options : options.WithDeadline(soon));
            return answer.Status == HealthCheckResponse.Types.ServingStatus.Serving ? "SERVING" : "NOT_SERVING";
        }
        catch (RpcException e) when (e.StatusCode == StatusCode.NotFound)
        {
            return "UNKNOWN";
        }
        catch (RpcException e) when (e.StatusCode is StatusCode.Unavailable or StatusCode.DeadlineExceeded)
        {
            return "UNREACHABLE";
        }
    }
}
