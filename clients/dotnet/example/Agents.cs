using System.Diagnostics;
using Aegis.Core;

namespace Aegis.Client.Example;

/// <summary>The state object of an agent's run: what it was asked, what it has done, what it knows.</summary>
internal sealed record AgentRun(string Task)
{
    public IReadOnlyList<string> Done { get; init; } = [];
    public string Notes { get; init; } = "";
}

/// <summary>
/// An agent that does its steps in one state and checkpoints each: a step that was paid for is never paid for twice, and whoever
/// asks later can see what it did, and why.
/// </summary>
internal static class AgentWorker
{
    public const string Type = "agent-run";
    public const string Working = "WORKING";

    /// <summary>The tools, which here answer at once and always the same.</summary>
    public static readonly IReadOnlyList<(string Tool, Func<string, string> Call)> Plan =
    [
        ("search", task => $"3 sources on {task}"),
        ("read", notes => $"{notes}, all read"),
        ("compare", notes => $"{notes}, two agree"),
        ("draft", notes => $"{notes}, answer drafted"),
        ("review", notes => $"{notes}, and reviewed"),
    ];

    public static async Task RunAsync(string address, string @namespace, int crashAfter)
    {
        await using var client = new AegisClient(new AegisClientOptions { Addresses = [address], Namespace = @namespace });
        // A name that stays the same across restarts: what was held before the crash is taken back at once.
        await using var engine = new DurableWorkflowEngine(client, new EngineOptions { Owner = "agent-1" });
        engine.Register<AgentRun>(Type);
        await foreach (var run in engine.ResumeAllPendingAsync<AgentRun>(new ResumeOptions { TakeOverOwn = true }))
        {
            Server.Say("agent-1", $"goes on after {run.Data!.Done.Count} steps");
            foreach (var (tool, call) in Plan.Skip(run.Data.Done.Count))
            {
                var result = call(run.Data.Notes.Length > 0 ? run.Data.Notes : run.Data.Task);
                run.Data = run.Data with { Done = [.. run.Data.Done, tool], Notes = result };
                await engine.CheckpointAsync(run, new WriteDetails
                {
                    Reason = $"{tool}: {result}",
                    Metadata = new Dictionary<string, string> { ["tool"] = tool },
                }, run.LeaseLost);
                Server.Say("agent-1", $"{tool}: {result}");
                if (run.Data.Done.Count == crashAfter)
                    Process.GetCurrentProcess().Kill();
            }
            await engine.TransitionAsync(run, "FINISHED", WorkflowStatus.Completed);
            Server.Say("agent-1", $"has finished: {run.Data.Notes}");
        }
    }
}

/// <summary>A run of an agent that crashes in its middle and goes on where it was.</summary>
internal static class AgentStory
{
    public static async Task TellAsync(string address)
    {
        var @namespace = $"agents-{Guid.NewGuid():N}";
        await using var asking = new AegisClient(address);
        var key = (await asking.System.GetServerInfoAsync(new V1.GetServerInfoRequest())).VerifierKeys[0];
        await using var client = new AegisClient(new AegisClientOptions { Addresses = [address], Namespace = @namespace, TrustedKeys = [key] });
        await using var engine = new DurableWorkflowEngine(client);
        engine.Register<AgentRun>(AgentWorker.Type);
        await engine.StartAsync(AgentWorker.Type, "run-1", AgentWorker.Working, new AgentRun("tides at Vlissingen"),
            new StartDetails { TakeLease = false, Actor = "user" });

        await RunAsync(address, @namespace, crashAfter: 2);
        Server.Say("story", "the agent has crashed after two steps, and is started again");
        await RunAsync(address, @namespace, crashAfter: 0);

        var run = await engine.ReadAsync<AgentRun>("run-1");
        if (run.Status != WorkflowStatus.Completed)
            throw new InvalidOperationException($"The run has not finished: it is {run.State}.");
        await PermitStory.ShowAsync(engine, "run-1");
    }

    private static async Task RunAsync(string address, string @namespace, int crashAfter)
    {
        using var agent = Server.Start("agent-worker", address, @namespace, $"{crashAfter}");
        await agent.WaitForExitAsync();
    }
}
