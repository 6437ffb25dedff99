using System.CommandLine;
using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Takes what an export holds.</summary>
internal static class ImportCommand
{
    private const int ChunkBytes = 256 * 1024;

    public static Command Create()
    {
        var file = Inputs.File("A file that `aegis export` wrote.");
        var takeOver = new Option<bool>("--take-over")
        {
            Description = "Also take workflows that are RUNNING: only once their workers at the source have stopped.",
        };
        var unproven = new Option<bool>("--allow-unproven")
        {
            Description = "Take an export whose origin no signature proves. Its chains are verified all the same.",
        };
        var trusted = TrustedKeys.Option("--trust", "Take what this key's log proves: its head must be signed by it, and every record proven.");
        return Session.Define("import", "Take an export; every hash stays. Exit code 4 when a workflow is refused.", async session =>
        {
            var options = new Pb.ImportOptions
            {
                TakeOver = session.Get(takeOver),
                AllowUnproven = session.Get(unproven),
                TrustedKeys = { TrustedKeys.Of(session.Get(trusted)).Select(k => k.ToString()) },
            };
            await using var stream = Inputs.Open(session.Get(file));
            var answers = new List<Pb.ImportWorkflowsResponse>();
            try
            {
                await session.Output.ProgressAsync("Importing", stream.CanSeek ? stream.Length : 0,
                    advance => ImportAsync(session, stream, options, advance, answers));
            }
            finally
            {
                // Also of an import that broke off: what was taken stays.
                Tell(session.Output, answers);
            }
            return answers.Any(a => a.Outcome == Pb.ImportOutcome.Refused) ? ExitCode.Conflict : ExitCode.Success;
        }, file, takeOver, unproven, trusted);
    }

    private static void Tell(Output output, List<Pb.ImportWorkflowsResponse> answers)
    {
        foreach (var refused in answers.Where(a => a.Outcome == Pb.ImportOutcome.Refused))
            output.Line($"{refused.Namespace}/{refused.WorkflowId} refused: {refused.Reason}: {refused.Message}");
        var counts = answers.CountBy(a => a.Outcome).OrderBy(c => c.Key).Select(c => $"{c.Value} {Output.Name(c.Key)}").ToList();
        output.Line(counts.Count == 0 ? "No workflows came in." : string.Join(", ", counts));
    }

    private static async Task ImportAsync(Session session, Stream stream, Pb.ImportOptions options, Action<double> advance,
        List<Pb.ImportWorkflowsResponse> answers)
    {
        using var call = session.Recovery.ImportWorkflows(session.Streaming);
        UsageException? unreadable = null;
        var sending = SendAsync();
        try
        {
            await foreach (var answer in call.ResponseStream.ReadAllAsync(session.Cancellation))
            {
                session.Output.Message(answer);
                answers.Add(answer);
            }
        }
        catch (RpcException) when (unreadable is not null)
        {
            throw unreadable;
        }
        await sending;

        async Task SendAsync()
        {
            try
            {
                await call.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest { Options = options }, session.Cancellation);
                var buffer = new byte[ChunkBytes];
                for (int read; (read = await stream.ReadAtLeastAsync(buffer, buffer.Length, false, session.Cancellation)) > 0;)
                {
                    await call.RequestStream.WriteAsync(
                        new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFrom(buffer, 0, read) }, session.Cancellation);
                    advance(read);
                }
                await call.RequestStream.CompleteAsync();
            }
            catch (Exception e) when (e is RpcException or InvalidOperationException)
            {
                // The server has ended the call; reading its answer tells why.
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // The server waits for the rest of the file, and the loop above for the server.
                unreadable = new UsageException(e.Message);
                call.Dispose();
            }
        }
    }
}
