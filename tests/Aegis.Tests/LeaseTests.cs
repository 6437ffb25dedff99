using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>Leases: who may move a workflow, and how a late write of one who may no longer is refused.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class LeaseTests(Database database)
{
    private static readonly Duration Second = Duration.FromTimeSpan(TimeSpan.FromSeconds(1));

    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task A_live_lease_keeps_out_whoever_does_not_hold_it()
    {
        var id = await Given.WorkflowAsync(_server);
        var lease = (await ResumeAsync(id, "worker")).Lease;

        await ErrorAssert.RefusedAsync(
            async () => await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID")),
            "LEASE_REQUIRED", StatusCode.FailedPrecondition);
        var held = await ErrorAssert.RefusedAsync(
            () => ResumeAsync(id, "other"), "LEASE_HELD", StatusCode.FailedPrecondition);
        await ErrorAssert.RefusedAsync(() => ResumeAsync(id, "worker"), "LEASE_HELD", StatusCode.FailedPrecondition);
        var moved = await MoveAsync(id, "NEW", "PAID", lease.Epoch);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(held.Metadata["owner"], Is.EqualTo("worker"));
            Assert.That(held.Metadata, Contains.Key("expires_at"));
            Assert.That(moved.Record.LeaseEpoch, Is.EqualTo(lease.Epoch));
        }
    }

    [Test]
    public async Task A_superseded_epoch_and_a_higher_one_are_stale()
    {
        var id = await Given.WorkflowAsync(_server);
        var old = (await ResumeAsync(id, "worker")).Lease;
        var taken = (await ResumeAsync(id, "worker", takeOverOwn: true)).Lease;

        await ErrorAssert.RefusedAsync(
            () => MoveAsync(id, "NEW", "PAID", old.Epoch), "LEASE_STALE", StatusCode.FailedPrecondition);
        await ErrorAssert.RefusedAsync(
            () => MoveAsync(id, "NEW", "PAID", taken.Epoch + 1), "LEASE_STALE", StatusCode.FailedPrecondition);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(taken.Epoch, Is.GreaterThan(old.Epoch));
            Assert.That((await MoveAsync(id, "NEW", "PAID", taken.Epoch)).Record.Sequence, Is.EqualTo(2));
        }
    }

    [Test]
    public async Task An_expired_lease_that_nobody_took_is_still_good()
    {
        var id = await Given.WorkflowAsync(_server);
        var lease = (await ResumeAsync(id, "worker", Second)).Lease;
        await Task.Delay(1200);

        var moved = await MoveAsync(id, "NEW", "PAID", lease.Epoch);
        var renewed = await RenewAsync("worker", (id, lease.Epoch));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(moved.Record.Sequence, Is.EqualTo(2));
            Assert.That(renewed.Results[0].Renewed.Epoch, Is.EqualTo(lease.Epoch));
            Assert.That(renewed.Results[0].Renewed.ExpiresAt, Is.GreaterThan(lease.ExpiresAt));
        }
    }

    [Test]
    public async Task A_write_without_a_lease_ends_one_that_has_expired()
    {
        var id = await Given.WorkflowAsync(_server);
        var lease = (await ResumeAsync(id, "worker", Second)).Lease;
        await Task.Delay(1200);
        await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"));

        await ErrorAssert.RefusedAsync(
            () => MoveAsync(id, "PAID", "SHIPPED", lease.Epoch), "LEASE_STALE", StatusCode.FailedPrecondition);

        Assert.That((await RenewAsync("worker", (id, lease.Epoch))).Results[0].Lost.Reason, Is.EqualTo("LEASE_STALE"));
    }

    [Test]
    public async Task An_expired_lease_goes_to_the_next_who_asks_and_the_late_write_is_refused()
    {
        var id = await Given.WorkflowAsync(_server);
        var dead = (await ResumeAsync(id, "dead", Second)).Lease;
        await Task.Delay(1200);
        var alive = (await ResumeAsync(id, "alive")).Lease;

        await ErrorAssert.RefusedAsync(
            () => MoveAsync(id, "NEW", "LATE", dead.Epoch), "LEASE_STALE", StatusCode.FailedPrecondition);

        Assert.That((await MoveAsync(id, "NEW", "PAID", alive.Epoch)).Record.ToState, Is.EqualTo("PAID"));
    }

    [Test]
    public async Task Closing_releases_the_lease()
    {
        var id = await Given.WorkflowAsync(_server);
        var lease = (await ResumeAsync(id, "worker")).Lease;
        await MoveAsync(id, "NEW", "END", lease.Epoch, Pb.WorkflowStatus.Completed);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((await Given.ReadAsync(_server, id)).Lease, Is.Null);
            Assert.That((await RenewAsync("worker", (id, lease.Epoch))).Results[0].Lost.Reason, Is.EqualTo("WORKFLOW_CLOSED"));
        }
    }

    [Test]
    public async Task A_worker_that_waits_for_a_human_lets_go_and_the_approver_writes_without_a_lease()
    {
        var id = await Given.WorkflowAsync(_server);
        var lease = (await ResumeAsync(id, "worker")).Lease;
        await MoveAsync(id, "NEW", "ASKED", lease.Epoch, Pb.WorkflowStatus.Waiting);
        await _server.Recovery.ReleaseLeasesAsync(new Pb.ReleaseLeasesRequest
        {
            Owner = "worker",
            Leases = { new Pb.LeaseReference { WorkflowId = id, Epoch = lease.Epoch } },
        });

        var approved = await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "ASKED", "APPROVED"));
        var next = (await ResumeAsync(id, "worker")).Lease;

        using (Assert.EnterMultipleScope())
        {
            Assert.That(approved.Record.LeaseEpoch, Is.Zero);
            Assert.That(approved.Record.Status, Is.EqualTo(Pb.WorkflowStatus.Running));
            Assert.That(next.Epoch, Is.GreaterThan(lease.Epoch));
        }
    }

    [Test]
    public async Task Renewals_are_answered_one_by_one_and_in_order()
    {
        var (a, b) = (await Given.WorkflowAsync(_server), await Given.WorkflowAsync(_server));
        var (leaseA, leaseB) = ((await ResumeAsync(a, "worker")).Lease, (await ResumeAsync(b, "worker")).Lease);

        var renewed = await RenewAsync("worker", (a, leaseA.Epoch), ("nobody", 1), (b, leaseB.Epoch));
        var foreign = await RenewAsync("other", (a, leaseA.Epoch));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(renewed.Results.Select(r => r.WorkflowId), Is.EqualTo(new[] { a, "nobody", b }));
            Assert.That(renewed.Results[0].Renewed, Is.Not.Null);
            Assert.That(renewed.Results[1].Lost.Reason, Is.EqualTo("WORKFLOW_NOT_FOUND"));
            Assert.That(renewed.Results[2].Renewed, Is.Not.Null);
            Assert.That(foreign.Results[0].Lost.Reason, Is.EqualTo("LEASE_STALE"));
        }
    }

    [TestCase(0)]
    [TestCase(1001)]
    public async Task Leases_are_renewed_one_to_a_thousand_at_a_time(int count)
    {
        var request = new Pb.RenewLeasesRequest { Owner = "worker" };
        request.Leases.AddRange(Enumerable.Range(0, count).Select(i => new Pb.LeaseReference { WorkflowId = $"{i}", Epoch = 1 }));

        Assert.That(await ErrorAssert.InvalidFieldsAsync(async () => await _server.Recovery.RenewLeasesAsync(request)),
            Is.EqualTo(new[] { "leases" }));
    }

    [Test]
    public async Task A_checkpoint_is_taken_under_a_lease_without_expectation()
    {
        var id = await Given.WorkflowAsync(_server);
        var lease = (await ResumeAsync(id, "worker")).Lease;

        var stored = await _server.Workflows.CheckpointWorkflowAsync(new Pb.CheckpointWorkflowRequest
        {
            WorkflowId = id,
            LeaseEpoch = lease.Epoch,
            Snapshot = Given.Snapshot("state"),
        });

        Assert.That(stored.Record.Kind, Is.EqualTo(Pb.RecordKind.Checkpoint));
    }

    private async Task<Pb.ResumeWorkflowResponse> ResumeAsync(
        string id, string owner, Duration? duration = null, bool takeOverOwn = false) =>
        await _server.Recovery.ResumeWorkflowAsync(new Pb.ResumeWorkflowRequest
        {
            WorkflowId = id,
            Owner = owner,
            LeaseDuration = duration,
            TakeOverOwn = takeOverOwn,
        });

    private async Task<Pb.TransitionWorkflowResponse> MoveAsync(
        string id, string from, string to, ulong epoch, Pb.WorkflowStatus status = Pb.WorkflowStatus.Unspecified)
    {
        var move = Given.Move(id, from, to);
        (move.LeaseEpoch, move.Status) = (epoch, status);
        return await _server.Workflows.TransitionWorkflowAsync(move);
    }

    private async Task<Pb.RenewLeasesResponse> RenewAsync(string owner, params (string Id, ulong Epoch)[] leases)
    {
        var request = new Pb.RenewLeasesRequest { Owner = owner };
        request.Leases.AddRange(leases.Select(l => new Pb.LeaseReference { WorkflowId = l.Id, Epoch = l.Epoch }));
        return await _server.Recovery.RenewLeasesAsync(request);
    }
}
