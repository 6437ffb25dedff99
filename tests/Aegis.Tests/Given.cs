using Google.Protobuf;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>The requests that most tests begin with.</summary>
internal static class Given
{
    public static Pb.StartWorkflowRequest Start(string id, string state = "NEW", string owner = "") => new()
    {
        WorkflowId = id,
        WorkflowType = "order",
        InitialState = state,
        Owner = owner,
    };

    public static Pb.TransitionWorkflowRequest Move(string id, string from, string to) => new()
    {
        WorkflowId = id,
        FromState = from,
        ToState = to,
    };

    public static Pb.Snapshot Snapshot(string content) => new() { Content = ByteString.CopyFromUtf8(content) };

    /// <summary>A workflow that was started; its id is its own, so that tests can share a server.</summary>
    public static async Task<string> WorkflowAsync(TestServer server, string state = "NEW", string owner = "")
    {
        var id = $"w-{Guid.NewGuid():N}";
        await server.Workflows.StartWorkflowAsync(Start(id, state, owner));
        return id;
    }

    /// <summary>Many of them, a few at a time: what is asked for all at once may wait too long where little runs at once.</summary>
    public static async Task<IReadOnlyList<string>> WorkflowsAsync(TestServer server, int count) =>
        await EachAsync([.. Enumerable.Range(0, count)], _ => WorkflowAsync(server));

    /// <summary>What something gives for each, a few at a time.</summary>
    public static async Task<T[]> EachAsync<TOf, T>(IReadOnlyList<TOf> all, Func<TOf, Task<T>> ask)
    {
        var answers = new T[all.Count];
        await Parallel.ForAsync(0, all.Count, new ParallelOptions { MaxDegreeOfParallelism = 16 },
            async (i, _) => answers[i] = await ask(all[i]));
        return answers;
    }

    public static async Task<Pb.Workflow> ReadAsync(TestServer server, string id) =>
        (await server.Workflows.GetWorkflowAsync(new Pb.GetWorkflowRequest { WorkflowId = id })).Workflow;

    public static async Task<IReadOnlyList<Pb.Record>> RecordsAsync(TestServer server, string id) =>
        (await server.Workflows.ListRecordsAsync(new Pb.ListRecordsRequest { WorkflowId = id })).Records;
}
