using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Leases by the thousand, released by whom, and forgotten by no restart.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class LeaseBoundsTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task A_thousand_leases_are_renewed_and_released_at_once()
    {
        var leases = await Task.WhenAll(Enumerable.Range(0, 1000).Select(async i =>
        {
            var started = await _server.Workflows.StartWorkflowAsync(
                new Pb.StartWorkflowRequest(Given.Start($"{i}", owner: "w")) { Namespace = "thousand" });
            return new Pb.LeaseReference { WorkflowId = $"{i}", Epoch = started.Lease.Epoch };
        }));
        var renew = new Pb.RenewLeasesRequest { Namespace = "thousand", Owner = "w" };
        renew.Leases.AddRange(leases);
        var release = new Pb.ReleaseLeasesRequest { Namespace = "thousand", Owner = "w" };
        release.Leases.AddRange(leases);

        var renewed = await _server.Recovery.RenewLeasesAsync(renew);
        await _server.Recovery.ReleaseLeasesAsync(release);
        await _server.Recovery.ReleaseLeasesAsync(release);
        var lost = await _server.Recovery.RenewLeasesAsync(renew);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(renewed.Results.Select(r => r.WorkflowId), Is.EqualTo(leases.Select(l => l.WorkflowId)));
            Assert.That(renewed.Results.Select(r => r.Renewed?.Epoch), Is.EqualTo(leases.Select(l => (ulong?)l.Epoch)));
            Assert.That(lost.Results.Select(r => r.Lost?.Reason), Is.All.EqualTo("LEASE_STALE"));
        }
    }

    [Test]
    public async Task Nobody_releases_the_lease_of_another()
    {
        var id = await Given.WorkflowAsync(_server, owner: "holder");
        var lease = (await Given.ReadAsync(_server, id)).Lease;
        foreach (var (owner, epoch) in new[] { ("other", lease.Epoch), ("holder", lease.Epoch - 1), ("holder", lease.Epoch + 1) })
        {
            await _server.Recovery.ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest
            {
                Owner = owner,
                Leases = { new Pb.LeaseReference { WorkflowId = id, Epoch = epoch } },
            });
        }

        Assert.That((await Given.ReadAsync(_server, id)).Lease, Is.EqualTo(lease));
    }

    [Test]
    public async Task A_lease_that_is_renewed_and_released_in_one_request_is_gone_after_it()
    {
        var id = await Given.WorkflowAsync(_server, owner: "w");
        var reference = new Pb.LeaseReference { WorkflowId = id, Epoch = (await Given.ReadAsync(_server, id)).Lease.Epoch };

        await _server.Recovery.ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest { Owner = "w", Leases = { reference, reference } });
        var renewed = await _server.Recovery.RenewLeasesAsync(new Pb.RenewLeasesRequest { Owner = "w", Leases = { reference, reference } });

        Assert.That(renewed.Results.Select(r => r.Lost?.Reason), Is.EqualTo(new[] { "LEASE_STALE", "LEASE_STALE" }));
    }

    [Test]
    public async Task A_move_is_replayed_after_its_lease_ran_out_and_went_to_another()
    {
        var start = Given.Start($"w-{Guid.NewGuid():N}", owner: "first");
        start.LeaseDuration = Duration.FromTimeSpan(TimeSpan.FromSeconds(1));
        var lease = (await _server.Workflows.StartWorkflowAsync(start)).Lease;
        var move = new Pb.TransitionWorkflowRequest(Given.Move(start.WorkflowId, "NEW", "PAID")) { RequestId = "pay", LeaseEpoch = lease.Epoch };
        var moved = await _server.Workflows.TransitionWorkflowAsync(move);
        await Task.Delay(1200);
        await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = start.WorkflowId, Owner = "second" });

        var again = await _server.Workflows.TransitionWorkflowAsync(move);
        move.LeaseEpoch = 0;
        var without = await _server.Workflows.TransitionWorkflowAsync(move);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(again.Replayed, Is.True);
            Assert.That((again.Record, without.Record), Is.EqualTo((moved.Record, moved.Record)));
        }
    }

    [Test]
    public async Task To_look_takes_no_lease_and_breaks_none()
    {
        var id = await Given.WorkflowAsync(_server, owner: "holder");
        var lease = (await Given.ReadAsync(_server, id)).Lease;

        var looked = await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id });
        var wrong = await ErrorAssert.InvalidFieldsAsync(async () => await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest
        {
            WorkflowId = id,
            TakeOverOwn = true,
            LeaseDuration = Duration.FromTimeSpan(TimeSpan.FromSeconds(5)),
        }));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(looked.Lease, Is.Null);
            Assert.That(looked.Workflow.Lease, Is.EqualTo(lease));
            Assert.That(wrong, Is.EquivalentTo(new[] { "lease_duration", "take_over_own" }));
        }
    }

    [Test]
    public async Task A_closed_workflow_is_looked_at_and_leased_to_nobody()
    {
        var id = await Given.WorkflowAsync(_server);
        await _server.Workflows.TransitionWorkflowAsync(
            new Pb.TransitionWorkflowRequest(Given.Move(id, "NEW", "END")) { Status = Pb.WorkflowStatus.Cancelled });

        await ErrorAssert.RefusedAsync(async () => await _server.Recovery.ResumeWorkflowAsync(
            new Pb.ResumeWorkflowRequest { WorkflowId = id, Owner = "w" }), "WORKFLOW_CLOSED", StatusCode.FailedPrecondition);

        Assert.That((await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest { WorkflowId = id })).RecordsSince,
            Has.Count.EqualTo(2));
    }
}
