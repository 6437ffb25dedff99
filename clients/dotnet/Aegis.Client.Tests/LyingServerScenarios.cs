using Aegis.Tests;
using Google.Protobuf;

namespace Aegis.Client.Tests;

using Pb = Aegis.V1;

/// <summary>A server that answers with what is sound and signed, and is not what was asked for.</summary>
public sealed class LyingServerScenarios
{
    [TestCase("another workflow")]
    [TestCase("nothing")]
    [TestCase("more than was asked for")]
    public async Task An_export_of_something_else_proves_nothing(string lie)
    {
        var engine = await LiedToAsync(message =>
        {
            if (message is not Pb.ExportWorkflowsRequest request)
                return;
            request.WorkflowId = lie == "another workflow" ? "w-2" : "";
            if (lie == "nothing")
                request.States.Add("NOWHERE");
        });
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/export.aegis";

        var verified = (await Assert.ThrowsAsync<IntegrityException>(() => engine.VerifyIntegrityAsync("w-1")))!;
        var exported = (await Assert.ThrowsAsync<IntegrityException>(
            () => engine.ExportAsync(file, new ExportFilter { WorkflowId = "w-1" })))!;

        Assert.That((verified.Reason, exported.Reason), Is.EqualTo(("ANSWER", "ANSWER")));
        Assert.That(verified.Message, Does.Contain("w-1"));
        Assert.That(Directory.EnumerateFileSystemEntries(directory.Path), Is.Empty);
        await engine.CloseAsync();
    }

    [Test]
    public async Task An_export_of_another_namespace_is_not_kept()
    {
        var other = await Kit.EngineAsync();
        await other.StartAsync("w-1");
        var engine = await LiedToAsync(message =>
        {
            if (message is Pb.ExportWorkflowsRequest request)
                request.Namespace = other.Client.Namespace;
        });
        using var directory = new TemporaryDirectory();

        var refused = (await Assert.ThrowsAsync<IntegrityException>(() => engine.ExportAsync($"{directory.Path}/export.aegis")))!;

        Assert.That(refused.Reason, Is.EqualTo("ANSWER"));
        await engine.CloseAsync();
        await other.CloseAsync();
    }

    [TestCase(true)]
    [TestCase(false)]
    public async Task Another_workflow_is_not_given_out_for_the_one_that_was_asked_for(bool isOtherNamespace)
    {
        var other = await Kit.EngineAsync();
        await other.StartAsync("w-1");
        var engine = await LiedToAsync(message =>
        {
            if (message is not Pb.ResumeWorkflowRequest request)
                return;
            if (isOtherNamespace)
                request.Namespace = other.Client.Namespace;
            else
                request.WorkflowId = "w-2";
        });

        var read = (await Assert.ThrowsAsync<IntegrityException>(() => engine.ReadAsync<Permit>("w-1")))!;
        var resumed = (await Assert.ThrowsAsync<IntegrityException>(() => engine.ResumeAsync<Permit>("w-1")))!;

        Assert.That((read.Reason, resumed.Reason), Is.EqualTo(("ANSWER", "ANSWER")));
        await engine.CloseAsync();
        await other.CloseAsync();
    }

    [TestCase(true)]
    [TestCase(false)]
    public async Task What_is_pending_elsewhere_is_not_given_out(bool isOtherNamespace)
    {
        var other = await Kit.EngineAsync();
        other.Register<Permit>("plan");
        await other.StartAsync("plan", "w-1", "RECEIVED", new Permit("Anna"), new StartDetails { TakeLease = false });
        var engine = await LiedToAsync(message =>
        {
            if (message is not Pb.ResumePendingWorkflowsRequest request)
                return;
            // The lie is the namespace where that is another, else the type.
            request.WorkflowTypes.Clear();
            request.Namespace = other.Client.Namespace;
        }, isOtherNamespace ? null : other.Client.Namespace);
        if (isOtherNamespace)
            engine.Register<Permit>("plan");

        var refused = (await Assert.CatchAsync<IntegrityException>(async () =>
        {
            await foreach (var _ in engine.ResumeAllPendingAsync<Permit>())
            {
            }
        }))!;

        Assert.That(refused.Reason, Is.EqualTo("ANSWER"));
        await engine.CloseAsync();
        await other.CloseAsync();
    }

    /// <summary>An engine to which the server lies. A namespace of its own has the permits w-1 and w-2.</summary>
    private static async Task<DurableWorkflowEngine> LiedToAsync(Action<IMessage> lie, string? @namespace = null)
    {
        var honest = await Kit.EngineAsync(@namespace);
        if (@namespace is null)
        {
            await honest.StartAsync("w-1");
            await honest.StartAsync("w-2");
        }
        await honest.CloseAsync();
        return await Kit.EngineAsync(honest.Client.Namespace, configure: options => options.Interceptors.Add(new LyingInterceptor(lie)));
    }
}
