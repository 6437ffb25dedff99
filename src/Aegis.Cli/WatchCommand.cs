using System.CommandLine;
using Grpc.Core;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>Follows the log until it is interrupted, across restarts of the server.</summary>
internal static class WatchCommand
{
    private static readonly TimeSpan ReconnectDelay = TimeSpan.FromMilliseconds(500);

    public static Command Create()
    {
        var from = new Option<ulong?>("--from") { Description = "The log index to begin at; from now on without it." };
        var all = new Option<bool>("--all-namespaces") { Description = "All namespaces, the service's own too." };
        var workflow = new Option<string?>("--workflow") { Description = "Only this workflow." };
        var type = new Option<string?>("--type") { Description = "Only workflows of this type." };
        return Session.Define("watch", "Print records as they are recorded, until interrupted.", async session =>
        {
            var request = new Pb.WatchRecordsRequest
            {
                Namespace = session.Get(all) ? "" : session.Namespace,
                AllNamespaces = session.Get(all),
                WorkflowId = session.Get(workflow) ?? "",
                WorkflowType = session.Get(type) ?? "",
            };
            if (session.Get(from) is { } index)
                request.FromLogIndex = index;
            while (true)
            {
                try
                {
                    await FollowAsync(session, request);
                }
                catch (RpcException e) when (e.StatusCode == StatusCode.Unavailable && request.HasFromLogIndex)
                {
                    // The cursor stands where the stream broke: nothing is missed or told twice.
                    await Task.Delay(ReconnectDelay, session.Cancellation);
                }
            }
        }, from, all, workflow, type);
    }

    private static async Task FollowAsync(Session session, Pb.WatchRecordsRequest request)
    {
        using var call = session.Workflows.WatchRecords(request, session.Streaming);
        await foreach (var message in call.ResponseStream.ReadAllAsync(session.Cancellation))
        {
            if (message.Record is not { } record)
            {
                request.FromLogIndex = message.Progress.NextLogIndex;
                continue;
            }
            session.Output.Message(record);
            session.Output.Line($"{record.LogIndex}  {Output.Time(record.RecordedAt)}  {record.Namespace}/{record.WorkflowId} "
                + $"#{record.Sequence}  {ReadCommands.Move(record)}{(record.Actor.Length > 0 ? $"  by {record.Actor}" : "")}");
            request.FromLogIndex = record.LogIndex + 1;
        }
    }
}
