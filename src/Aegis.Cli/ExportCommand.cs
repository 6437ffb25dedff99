using System.CommandLine;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Writes workflows to a file that another deployment takes.</summary>
internal static class ExportCommand
{
    public static Command Create()
    {
        var id = Inputs.OptionalId("The workflow to export; without one, all that the filters leave.");
        var file = new Option<string>("--out")
        {
            Description = "The file to write, or - for standard output. It appears when it is whole.",
            HelpName = "FILE",
            Required = true,
        };
        var allow = new Option<bool>("--allow-quarantined")
        {
            Description = "Write workflows too that a violation has quarantined, as they are stored: `aegis verify` names them, and an import refuses "
                + "them alone. Without it one ends the export.",
        };
        var filter = new WorkflowFilter();
        return Session.Define("export", "Write workflows to a file that verifies anywhere.", async session =>
        {
            var path = session.Get(file);
            var request = filter.ToExport(session, session.Get(id) ?? "");
            request.AllowQuarantined = session.Get(allow);
            var bytes = 0L;
            await OutputFile.WriteAsync(path, async stream => bytes = await ReceiveAsync(session, request, stream));
            if (path == OutputFile.StandardOutputPath)
                return ExitCode.Success;
            session.Output.Object(new { file = path, bytes });
            session.Output.Line($"{bytes} bytes written to {path}");
            return ExitCode.Success;
        }, [id, file, allow, .. filter.All]);
    }

    private static async Task<long> ReceiveAsync(Session session, Pb.ExportWorkflowsRequest request, Stream stream)
    {
        using var call = session.Recovery.ExportWorkflows(request, session.Streaming);
        var bytes = 0L;
        await foreach (var response in call.ResponseStream.ReadAllAsync(session.Cancellation))
        {
            await stream.WriteAsync(response.Chunk.Memory, session.Cancellation);
            bytes += response.Chunk.Length;
        }
        return bytes;
    }
}
