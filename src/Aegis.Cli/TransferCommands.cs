using System.CommandLine;
using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Moves workflows out and in.</summary>
internal static class TransferCommands
{
    private const int ChunkBytes = 256 * 1024;

    public static Command Export()
    {
        var id = Inputs.OptionalId("The workflow to export; without one, all that the filters leave.");
        var file = new Option<string>("--out") { Description = "The file to write, - for standard output.", Required = true };
        var types = Inputs.Types();
        var states = Inputs.States();
        var statuses = Inputs.Statuses();
        var metadata = Inputs.Metadata("Only workflows that were started with this entry.");
        return Session.Define("export", "Write workflows to a file that verifies anywhere.", async session =>
        {
            var request = new Pb.ExportWorkflowsRequest
            {
                Namespace = session.Namespace,
                WorkflowId = session.Get(id) ?? "",
                WorkflowTypes = { session.Get(types) },
                States = { session.Get(states) },
                Statuses = { session.Get(statuses).Select(s => Inputs.Status(s)) },
            };
            Inputs.Add(request.Metadata, session.Get(metadata));
            var path = session.Get(file);
            if (path == "-")
            {
                await using var stdout = Console.OpenStandardOutput();
                await ReceiveAsync(session, request, stdout);
                return ExitCode.Success;
            }
            // A file under the final name is whole: it is written beside it, synced, and renamed at the end.
            var temporary = $"{path}.{Guid.NewGuid():N}.part";
            try
            {
                long bytes;
                await using (var stream = new FileStream(temporary, FileMode.CreateNew))
                {
                    bytes = await ReceiveAsync(session, request, stream);
                    stream.Flush(flushToDisk: true);
                }
                File.Move(temporary, path, overwrite: true);
                session.Output.Object(new { file = path, bytes });
                session.Output.Line($"{bytes} bytes written to {path}");
                return ExitCode.Success;
            }
            finally
            {
                File.Delete(temporary);
            }
        }, id, file, types, states, statuses, metadata);
    }

    public static Command Import()
    {
        var file = new Argument<string>("file") { Description = "A file that `aegis export` wrote, - for standard input." };
        var takeOver = new Option<bool>("--take-over")
        {
            Description = "Also take workflows that are RUNNING: only once their workers at the source have stopped.",
        };
        var unproven = new Option<bool>("--allow-unproven")
        {
            Description = "Take an export whose origin no signature proves. Its chains are verified all the same.",
        };
        return Session.Define("import", "Take an export; every hash stays. Exit code 4 when a workflow is refused.", async session =>
        {
            var path = session.Get(file);
            await using var stream = path == "-" ? Console.OpenStandardInput() : File.OpenRead(path);
            using var call = session.Recovery.ImportWorkflows(session.Streaming);
            var sending = SendAsync(session, call.RequestStream, stream, new Pb.ImportOptions
            {
                TakeOver = session.Get(takeOver),
                AllowUnproven = session.Get(unproven),
            });
            var counts = new SortedDictionary<Pb.ImportOutcome, int>();
            await foreach (var answer in call.ResponseStream.ReadAllAsync(session.Cancellation))
            {
                counts[answer.Outcome] = counts.GetValueOrDefault(answer.Outcome) + 1;
                session.Output.Message(answer);
                if (answer.Outcome == Pb.ImportOutcome.Refused)
                    session.Output.Line($"{answer.WorkflowId}: {answer.Reason}: {answer.Message}");
            }
            await sending;
            session.Output.Line(string.Join(", ", counts.Select(c => $"{c.Value} {Output.Name(c.Key)}")));
            return counts.ContainsKey(Pb.ImportOutcome.Refused) ? ExitCode.Conflict : ExitCode.Success;
        }, file, takeOver, unproven);
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

    private static async Task SendAsync(Session session, IClientStreamWriter<Pb.ImportWorkflowsRequest> requests, Stream stream,
        Pb.ImportOptions options)
    {
        try
        {
            await requests.WriteAsync(new Pb.ImportWorkflowsRequest { Options = options }, session.Cancellation);
            var buffer = new byte[ChunkBytes];
            for (int read; (read = await stream.ReadAtLeastAsync(buffer, buffer.Length, false, session.Cancellation)) > 0;)
            {
                await requests.WriteAsync(
                    new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFrom(buffer, 0, read) }, session.Cancellation);
            }
            await requests.CompleteAsync();
        }
        catch (Exception e) when (e is RpcException or InvalidOperationException)
        {
            // The server has ended the call; reading its answer tells why.
        }
    }
}
