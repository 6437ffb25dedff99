using System.CommandLine;
using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Follows the log until it is interrupted, across restarts of the server.</summary>
internal static class WatchCommand
{
    private static readonly TimeSpan ReconnectDelay = TimeSpan.FromMilliseconds(250);

    public static Command Create()
    {
        var from = new Option<ulong?>("--from")
        {
            Description = "The log index to begin at, inclusive; without it, from now on.",
            HelpName = "INDEX",
        };
        var all = new Option<bool>("--all-namespaces") { Description = "All namespaces, the service's own too." };
        var workflow = Inputs.Text("--workflow", "ID", "Only this workflow.");
        var type = Inputs.Text("--type", "TYPE", "Only workflows of this type.");
        return Session.Define("watch", "Print records as they are recorded, until interrupted; with --json one Record a line.",
            session => FollowAsync(session, new Pb.WatchRecordsRequest
            {
                Namespace = session.Get(all) ? "" : session.Namespace,
                AllNamespaces = session.Get(all),
                WorkflowId = session.Get(workflow) ?? "",
                WorkflowType = session.Get(type) ?? "",
            }, session.Get(from)), from, all, workflow, type);
    }

    private static async Task<int> FollowAsync(Session session, Pb.WatchRecordsRequest request, ulong? from)
    {
        if (from is { } index)
            request.FromLogIndex = index;
        // Of a server that was never there the address is more likely wrong: that ends the command.
        bool wasConnected = false, isConnected = false;
        // One deadline over all connections, should there be one.
        var options = session.Streaming;
        while (true)
        {
            try
            {
                using var call = session.Workflows.WatchRecords(request, options);
                await foreach (var message in call.ResponseStream.ReadAllAsync(session.Cancellation))
                {
                    wasConnected = isConnected = true;
                    Take(session, request, message);
                }
            }
            catch (RpcException e) when (e.StatusCode == StatusCode.Unavailable && wasConnected)
            {
                // The cursor stands where the stream broke: nothing is missed or told twice.
                if (isConnected)
                    session.Output.Notice($"{Failure.Of(e)} Following on from {request.FromLogIndex} once it is back.");
                isConnected = false;
            }
            await Task.Delay(ReconnectDelay, session.Cancellation);
        }
    }

    private static void Take(Session session, Pb.WatchRecordsRequest request, Pb.WatchRecordsResponse message)
    {
        if (message.Record is not { } record)
        {
            // The record before the cursor is one that the filter left out, so that its hash is unknown.
            if (request.FromLogIndex != message.Progress.NextLogIndex)
                request.AfterHash = ByteString.Empty;
            request.FromLogIndex = message.Progress.NextLogIndex;
            return;
        }
        session.Output.Message(record);
        session.Output.Line($"{record.LogIndex}  {Output.Time(record.RecordedAt)}  {record.Namespace}/{record.WorkflowId} "
            + $"#{record.Sequence}  {ShowCommand.Move(record)}{(record.Actor.Length > 0 ? $"  by {record.Actor}" : "")}");
        request.FromLogIndex = record.LogIndex + 1;
        // Should the server come back with another history, it says so instead of going on with it.
        request.AfterHash = record.Hash;
    }
}
