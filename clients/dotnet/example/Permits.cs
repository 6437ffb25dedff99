using Aegis.Core;

namespace Aegis.Client.Example;

/// <summary>The state object of a building permit: all that a worker needs to go on where another stopped.</summary>
internal sealed record Permit(string Applicant, string Plot)
{
    public IReadOnlyList<string> Findings { get; init; } = [];
    public string Decision { get; init; } = "";
}

/// <summary>The state machine of a building permit, from the application to the letter.</summary>
internal static class Permits
{
    public const string Type = "building-permit";
    public const string Received = "RECEIVED";
    public const string InAssessment = "IN_ASSESSMENT";
    public const string AwaitingDecision = "AWAITING_DECISION";
    public const string Decided = "DECIDED";
    public const string Answered = "ANSWERED";

    /// <summary>What is assessed; each takes a while, and is not to be done twice.</summary>
    public static readonly IReadOnlyList<string> Assessments = ["zoning plan", "structure", "fire safety", "monuments", "neighbours"];

    public static DurableWorkflowEngine Engine(AegisClient client, string owner, TimeSpan lease)
    {
        var engine = new DurableWorkflowEngine(client, new EngineOptions { Owner = owner, LeaseDuration = lease });
        engine.Register<Permit>(Type);
        return engine;
    }

    /// <summary>Does what the state asks for. A crash at any line loses at most the assessment at hand.</summary>
    public static async Task StepAsync(DurableWorkflowEngine engine, Workflow<Permit> permit, Action<string> say, CancellationToken cancellationToken)
    {
        switch (permit.State)
        {
            case Received:
                await engine.TransitionAsync(permit, InAssessment, cancellationToken: cancellationToken);
                say($"{permit.WorkflowId} is complete and goes into assessment");
                break;
            case InAssessment:
                foreach (var assessment in Assessments.Skip(permit.Data!.Findings.Count))
                {
                    await Task.Delay(300, cancellationToken);
                    permit.Data = permit.Data with { Findings = [.. permit.Data.Findings, $"{assessment}: no objection"] };
                    await engine.CheckpointAsync(permit, new WriteDetails { Reason = $"assessed: {assessment}" }, cancellationToken);
                    say($"{permit.WorkflowId} assessed: {assessment}");
                }
                // For days, if need be: no process and no lease waits.
                await engine.WaitAsync(permit, AwaitingDecision, cancellationToken: cancellationToken);
                say($"{permit.WorkflowId} waits for the alderman");
                break;
            case Decided:
                await engine.TransitionAsync(permit, Answered, WorkflowStatus.Completed,
                    new TransitionDetails { Reason = $"letter sent to {permit.Data!.Applicant}" }, cancellationToken);
                say($"{permit.WorkflowId} is answered: {permit.Data.Decision}");
                break;
            default:
                throw new InvalidOperationException($"{permit.WorkflowId} is in the state {permit.State}, in which there is nothing to do.");
        }
    }
}

/// <summary>A worker, as many of them run somewhere: takes what is pending and moves it. May be killed at any moment.</summary>
internal static class PermitWorker
{
    public static async Task RunAsync(string address, string @namespace)
    {
        var name = $"worker-{Environment.ProcessId}";
        await using var client = new AegisClient(new AegisClientOptions { Addresses = [address], Namespace = @namespace });
        await using var engine = Permits.Engine(client, name, lease: TimeSpan.FromSeconds(2));
        await foreach (var permit in engine.ResumeAllPendingAsync<Permit>(new ResumeOptions { Poll = TimeSpan.FromMilliseconds(100) }))
        {
            Server.Say(name, $"takes up {permit.WorkflowId} in {permit.State} with {permit.Data!.Findings.Count} findings");
            try
            {
                while (permit.Status == WorkflowStatus.Running)
                    await Permits.StepAsync(engine, permit, what => Server.Say(name, what), permit.LeaseLost);
            }
            catch (Exception e) when (e is LeaseLostException or OperationCanceledException)
            {
                Server.Say(name, $"stops: another has {permit.WorkflowId}");
            }
        }
    }
}

/// <summary>A permit from the desk to the letter, with a worker killed on the way and a decision that takes days.</summary>
internal static class PermitStory
{
    public static async Task TellAsync(string address)
    {
        var @namespace = $"permits-{Guid.NewGuid():N}";
        const string id = "permit-2026-0417";
        // In earnest the key comes by another way than the server's own word: aegis key show --file.
        await using var asking = new AegisClient(address);
        var key = (await asking.System.GetServerInfoAsync(new V1.GetServerInfoRequest())).VerifierKeys[0];
        await using var client = new AegisClient(new AegisClientOptions { Addresses = [address], Namespace = @namespace, TrustedKeys = [key] });
        await using var desk = Permits.Engine(client, "desk", lease: TimeSpan.FromSeconds(30));

        await desk.StartAsync(Permits.Type, id, Permits.Received, new Permit("J. Jansen", "Hoofdstraat 12"),
            new StartDetails { TakeLease = false, Actor = "desk", Metadata = new Dictionary<string, string> { ["plot"] = "Hoofdstraat 12" } });
        Server.Say("desk", $"took in {id}");

        using (var first = Server.Start("permit-worker", address, @namespace))
        {
            await UntilAsync(desk, id, permit => permit.Data!.Findings.Count >= 2);
            first.Kill();
            await first.WaitForExitAsync();
            Server.Say("story", "the worker was killed in the middle of its work");
        }
        using (var second = Server.Start("permit-worker", address, @namespace))
        {
            await UntilAsync(desk, id, permit => permit.Status == WorkflowStatus.Waiting);
            second.Kill();
            await second.WaitForExitAsync();
        }
        Server.Say("story", "no worker runs; days go by; then the alderman decides");

        var waiting = await desk.ReadAsync<Permit>(id);
        waiting.Data = waiting.Data! with { Decision = "granted" };
        await DecideAsync(desk, waiting);
        Server.Say("alderman", "granted it");

        using (var third = Server.Start("permit-worker", address, @namespace))
        {
            await UntilAsync(desk, id, permit => permit.Status == WorkflowStatus.Completed);
            third.Kill();
            await third.WaitForExitAsync();
        }
        await ShowAsync(desk, id);
    }

    /// <summary>A worker that was killed before it gave its lease back keeps it for as long as it lasts: seconds here, days before a decision.</summary>
    private static async Task DecideAsync(DurableWorkflowEngine desk, Workflow<Permit> waiting)
    {
        while (true)
        {
            try
            {
                await desk.TransitionAsync(waiting, Permits.Decided, details: new TransitionDetails { Actor = "alderman", Reason = "no objections" });
                return;
            }
            catch (LeaseRequiredException)
            {
                await Task.Delay(200);
            }
        }
    }

    public static async Task ShowAsync(DurableWorkflowEngine engine, string id)
    {
        await foreach (var entry in engine.ListRecordsAsync(id))
        {
            var record = entry.Record;
            Console.WriteLine($"  {record.Sequence,2}  {record.Kind,-10} {record.ToState,-18} {record.Person!.Actor,-14} {record.Content?.Reason}");
        }
        var report = await engine.VerifyIntegrityAsync(id);
        Console.WriteLine($"  proven: {report.IsProven}, {report.Records} records and {report.Snapshots} snapshots "
            + $"under the signed head of {report.Head!.Size} records");
        if (!report.IsProven)
            throw new InvalidOperationException($"The history of {id} is not proven.");
    }

    private static async Task UntilAsync(DurableWorkflowEngine engine, string id, Func<Workflow<Permit>, bool> condition)
    {
        while (!condition(await engine.ReadAsync<Permit>(id)))
            await Task.Delay(50);
    }
}
