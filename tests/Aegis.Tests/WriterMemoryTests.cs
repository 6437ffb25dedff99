using Aegis.Core;
using Aegis.Storage;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// A server that wrote last goes on from what it remembers, in one round trip, and never from what is no longer so.
/// </summary>
[Parallelizable(ParallelScope.All)]
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
public sealed class WriterMemoryTests
{
    private string _database = "";
    private CuttingProxy _proxy = null!;
    private PostgresLedgerStore _store = null!;
    private PostgresLedgerStore _other = null!;
    private PostgresLedgerStore _fresh = null!;

    [SetUp]
    public async Task SetUp()
    {
        _database = await PostgresCluster.CreateLedgerDatabaseAsync();
        var settings = new NpgsqlConnectionStringBuilder(_database);
        _proxy = new CuttingProxy(settings.Host!, settings.Port);
        (settings.Host, settings.Port) = ("127.0.0.1", _proxy.Port);
        _store = PostgresLedgerStore.Open(settings.ConnectionString);
        _other = PostgresLedgerStore.Open(_database);
        _fresh = PostgresLedgerStore.Open(_database);
        await _store.MigrateAsync(default);
        await WriteAsync(_store, Look.AtOnce, new OpenLogCommand(Ask.LogId, Ask.Parts()));
        await WriteAsync(_store, Look.AtOnce, Ask.Start("w"));
    }

    [TearDown]
    public async Task TearDown()
    {
        await _store.DisposeAsync();
        await _other.DisposeAsync();
        await _fresh.DisposeAsync();
        await _proxy.DisposeAsync();
        await PostgresCluster.DropDatabaseAsync(_database);
    }

    [Test]
    public async Task What_the_batch_before_wrote_is_written_on_in_one_round_trip()
    {
        for (var i = 0; i < 4; i++)
            await WriteAsync(_store, Look.Remembered, Move(i));
        var head = await _store.ReadHeadAsync(default);
        var start = _proxy.RoundTrips;

        await using var transaction = await _store.BeginAsync(
            () => new BatchKeys([Ask.Key("w")], []), Look.Remembered, head!.Size, default);
        var written = (Written)await CommitAsync(transaction, Move(4));
        await transaction.DisposeAsync();

        Assert.That(_proxy.RoundTrips - start, Is.EqualTo(1));
        var stored = await _other.FindWorkflowAsync(Ask.Key("w"), default);
        Assert.That((stored, stored!.Sequence), Is.EqualTo((written.Workflow, 6)));
    }

    [Test]
    public async Task A_workflow_that_is_not_remembered_is_looked_up_and_those_that_are_stay_remembered()
    {
        await WriteAsync(_other, Look.AtOnce, Ask.Start("x"));
        await WriteAsync(_store, Look.AtOnce, Move(0));

        await using (var unknown = await BeginAsync(_store, Look.Remembered, Ask.Move("x", "NEW", "PAID")))
            Assert.That((unknown.IsRemembered, unknown.State.Workflows.Single().State), Is.EqualTo((false, "NEW")));

        await using var known = await BeginRememberedAsync(_store, Move(1), Ask.Move("x", "NEW", "PAID"));
        Assert.That(known.State.Workflows, Has.Count.EqualTo(2));
    }

    [Test]
    public async Task A_workflow_that_is_started_need_not_be_looked_for()
    {
        await WriteAsync(_store, Look.Remembered, Ask.Start("x") with { Owner = "worker" });
        await using (var transaction = await BeginRememberedAsync(_store, Ask.Start("y")))
            await CommitAsync(transaction, Ask.Start("y"));

        await using var next = await BeginRememberedAsync(_store, Ask.Move("x", "NEW", "PAID"), Ask.Move("y", "NEW", "PAID"));
        Assert.That(next.State.Workflows, Is.EqualTo(new[]
        {
            await _other.FindWorkflowAsync(Ask.Key("x"), default), await _other.FindWorkflowAsync(Ask.Key("y"), default),
        }));
    }

    [Test]
    public async Task A_start_of_one_that_is_there_already_is_met_and_nothing_is_stored()
    {
        var known = await _other.FindWorkflowAsync(Ask.Key("w"), default);
        var size = (await _other.ReadHeadAsync(default))!.Size;
        await using var transaction = await BeginAbsentAsync(Ask.Start("w"));

        var failure = await Assert.ThrowsAsync<StoreException>(() => CommitAsync(transaction, Ask.Start("w")));
        await transaction.DisposeAsync();

        Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Outdated));
        Assert.That((await _other.ReadHeadAsync(default))!.Size, Is.EqualTo(transaction.State.LogSize).And.GreaterThan(size));
        Assert.That(await _other.FindWorkflowAsync(Ask.Key("w"), default), Is.EqualTo(known));
        var (outcome, _) = await WriteAsServerAsync(_fresh, Ask.Start("w"));
        Assert.That(((Refused)outcome).Refusal.Reason, Is.EqualTo(Reason.WorkflowAlreadyExists));
    }

    [Test]
    public async Task A_start_and_a_move_of_one_that_is_there_already_are_met_together()
    {
        var known = await _other.FindWorkflowAsync(Ask.Key("w"), default);
        await using var transaction = await BeginAbsentAsync(Ask.Start("w"), Ask.Move("w", "NEW", "PAID"));
        var batch = new LedgerBatch(transaction.State);
        var outcomes = new[] { batch.Decide(Ask.Start("w")), batch.Decide(Ask.Move("w", "NEW", "PAID")) };

        var failure = await Assert.ThrowsAsync<StoreException>(() => transaction.CommitAsync(batch.Sealed()));

        Assert.That(outcomes, Is.All.InstanceOf<Written>());
        Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Outdated));
        Assert.That(await _other.FindWorkflowAsync(Ask.Key("w"), default), Is.EqualTo(known));
    }

    [Test]
    public async Task A_request_that_comes_twice_in_one_batch_is_done_once()
    {
        var command = Move(0) with { RequestId = "once" };
        await using var transaction = await BeginRememberedAsync(_store, command);
        var batch = new LedgerBatch(transaction.State);
        var (first, second) = ((Written)batch.Decide(command), (Written)batch.Decide(command));
        await transaction.CommitAsync(batch.Sealed());

        Assert.That((second.Replayed, second.Record.Hash), Is.EqualTo((true, first.Record.Hash)));
        Assert.That((await _other.FindWorkflowAsync(Ask.Key("w"), default))!.Sequence, Is.EqualTo(2));
    }

    /// <summary>Behind the service's back: whoever looked would refuse it too. Alone, and as the last of many.</summary>
    [Test]
    public async Task A_start_of_one_whose_records_are_gone_is_met_and_nothing_is_stored(
        [Values("UPDATE record SET sequence = 99 WHERE workflow_id = 'x'", "DELETE FROM record WHERE workflow_id = 'x'", "")] string act,
        [Values(0, 1, 65)] int others)
    {
        // Of the workflow a head without its record is left.
        var reason = act.Length > 0 ? Reason.ChainBroken : Reason.WorkflowQuarantined;
        Command[] starts = [.. Enumerable.Range(0, others).Select(n => Ask.Start($"other-{n}")), Ask.Start("x")];
        if (act.Length > 0)
        {
            await WriteAsync(_store, Look.AtOnce, Ask.Start("x"));
            await ExecuteAsync("SET session_replication_role = replica; " + act);
        }
        else
        {
            await _store.AddViolationsAsync([Found("x")], default);
        }
        var before = await _other.FindWorkflowAsync(Ask.Key("x"), default);
        await using var transaction = await BeginAbsentAsync(starts);
        var batch = new LedgerBatch(transaction.State);
        Assert.That(starts.Select(batch.Decide).ToList(), Is.All.InstanceOf<Written>());

        var failure = await Assert.ThrowsAsync<StoreException>(() => transaction.CommitAsync(batch.Sealed()));
        await transaction.DisposeAsync();

        Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Outdated));
        Assert.That(await _other.FindWorkflowAsync(Ask.Key("x"), default), Is.EqualTo(before));
        var (outcome, _) = await WriteAsServerAsync(_fresh, Ask.Start("x"));
        Assert.That(((Refused)outcome).Refusal.Reason, Is.EqualTo(reason));
    }

    [Test]
    public async Task A_lease_is_no_shorter_than_asked_for_however_old_the_clock_that_is_remembered()
    {
        var command = Ask.Acquire("worker", "w");
        await using var transaction = await BeginRememberedAsync(_store, command);

        var lease = ((LeasesDecided)await CommitAsync(transaction, command)).Answers[0].Workflow!.Lease!;

        Assert.That(transaction.State.ClockDoubt, Is.Positive);
        Assert.That(lease.ExpiresAt, Is.EqualTo(transaction.State.Now + transaction.State.ClockDoubt + command.Duration));
    }

    [Test]
    public async Task Leases_are_prolonged_given_up_and_taken_by_what_is_remembered()
    {
        var first = await RememberedAsync(Ask.Acquire("worker", "w"));
        var epoch = Leased(first).Epoch;
        var kept = await RememberedAsync(Ask.Renew("worker", "w", epoch));
        var (held, _) = await WriteAsServerAsync(_store, Ask.Acquire("another", "w"));
        var released = await RememberedAsync(Ask.Release("worker", "w", epoch));
        var taken = await RememberedAsync(Ask.Acquire("another", "w"));

        Assert.That(((LeasesDecided)held).Answers[0].Refusal!.Reason, Is.EqualTo(Reason.LeaseHeld));
        Assert.That((Leased(kept).Epoch, Leased(kept).IsVoid), Is.EqualTo((epoch, false)));
        Assert.That(Leased(released).IsVoid, Is.True);
        Assert.That(Leased(taken).Epoch, Is.GreaterThan(epoch));
        Assert.That((await _other.FindWorkflowAsync(Ask.Key("w"), default))!.Lease, Is.EqualTo(Leased(taken)));

        async Task<Outcome> RememberedAsync(Command command)
        {
            await using var transaction = await BeginRememberedAsync(_store, command);
            return await CommitAsync(transaction, command);
        }

        static Lease Leased(Outcome outcome) => ((LeasesDecided)outcome).Answers[0].Workflow!.Lease!;
    }

    [TestCase("record")]
    [TestCase("lease")]
    [TestCase("violation")]
    [TestCase("by hand")]
    [TestCase("by hand, guards off")]
    [TestCase("head")]
    public async Task What_another_has_changed_since_is_met_and_nothing_is_stored(string what)
    {
        await WriteAsync(_store, Look.Remembered, Move(0));
        await using var transaction = await BeginRememberedAsync(_store, Move(1));
        await ChangeAsync(what);
        var size = (await _other.ReadHeadAsync(default))!.Size;

        var failure = await Assert.ThrowsAsync<StoreException>(() => CommitAsync(transaction, Move(1)));
        await transaction.DisposeAsync();

        Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Outdated));
        Assert.That((await _other.ReadHeadAsync(default))!.Size, Is.EqualTo(size));
        await using var next = await BeginAsync(_store, Look.AtOnce, Move(1));
        Assert.That((next.IsRemembered, next.OthersCame), Is.EqualTo((false, what != "head")));
    }

    [Test]
    public async Task A_request_that_is_known_is_met()
    {
        var first = await WriteAsync(_store, Look.Remembered, Move(0) with { RequestId = "once" });
        await using var transaction = await BeginRememberedAsync(_store, Move(1) with { RequestId = "once" });

        var failure = await Assert.ThrowsAsync<StoreException>(() => CommitAsync(transaction, Move(1) with { RequestId = "once" }));
        await transaction.DisposeAsync();

        Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Outdated));
        var replayed = await WriteAsync(_store, Look.AtOnce, Move(0) with { RequestId = "once" });
        Assert.That((replayed.Record.Hash, replayed.Replayed), Is.EqualTo((first.Record.Hash, true)));
    }

    /// <summary>What only the end of the transaction finds comes after the answers to all statements.</summary>
    [Test]
    public async Task An_error_of_the_commit_itself_is_met_and_nothing_is_stored()
    {
        await ExecuteAsync(
            """
            CREATE FUNCTION refuse_paid() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END';
            CREATE CONSTRAINT TRIGGER paid_is_refused AFTER INSERT ON record DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW WHEN (NEW.to_state = 'PAID') EXECUTE FUNCTION refuse_paid()
            """);
        await WriteAsync(_store, Look.Remembered, Move(0));
        var size = (await _other.ReadHeadAsync(default))!.Size;
        await using var transaction = await BeginRememberedAsync(_store, Ask.Move("w", "S0", "PAID"));

        var failure = await Assert.ThrowsAsync<StoreException>(() => CommitAsync(transaction, Ask.Move("w", "S0", "PAID")));
        await transaction.DisposeAsync();

        Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.Outdated));
        Assert.That(failure.Message, Does.Contain("not now"));
        Assert.That((await _other.ReadHeadAsync(default))!.Size, Is.EqualTo(size));
        await WriteAsync(_store, Look.AtOnce, Move(1));
    }

    /// <summary>What was sent before the connection broke may reach the database only after it was looked for.</summary>
    [Test]
    public async Task A_batch_that_arrives_after_its_outcome_was_made_sure_of_is_not_stored()
    {
        var last = await WriteAsync(_store, Look.Remembered, Move(0));
        await using var transaction = await BeginRememberedAsync(_store, Move(1));

        var isStored = await _other.ConfirmAsync(last.Record.LogIndex + 1, Hash.Zero, default);
        var failure = await Assert.ThrowsAsync<StoreException>(() => CommitAsync(transaction, Move(1)));

        Assert.That((isStored, failure!.Failure), Is.EqualTo((false, StoreFailure.Outdated)));
    }

    [Test]
    public async Task A_connection_that_breaks_takes_the_memory_with_it()
    {
        await WriteAsync(_store, Look.Remembered, Move(0));
        await using (var transaction = await BeginAsync(_store, Look.Remembered, Move(1)))
        {
            _proxy.CutNow();
            _proxy.Restore();
            var failure = await Assert.ThrowsAsync<StoreException>(() => CommitAsync(transaction, Move(1)));
            Assert.That(failure!.Failure, Is.EqualTo(StoreFailure.OutcomeUnknown));
        }

        await using var next = await BeginAsync(_store, Look.Remembered, Move(1));
        Assert.That(next.IsRemembered, Is.False);
    }

    [Test]
    public async Task One_that_is_quarantined_is_not_remembered()
    {
        await _store.AddViolationsAsync([Found("w")], default);
        for (var i = 0; i < 3; i++)
        {
            await using var transaction = await BeginAsync(_store, i == 0 ? Look.AtOnce : Look.Remembered, Move(0));
            Assert.That((transaction.IsRemembered, transaction.State.Quarantines.Count), Is.EqualTo((false, 1)));
        }
    }

    [Test]
    public async Task After_a_pause_it_is_looked_again()
    {
        await WriteAsync(_store, Look.Remembered, Move(0));
        await Task.Delay(300);
        await using var transaction = await BeginAsync(_store, Look.Remembered, Move(1));
        Assert.That(transaction.IsRemembered, Is.False);
    }

    /// <summary>Two servers, whose every write either is by what is there or is done again: what is stored says who was right.</summary>
    [Test]
    public async Task Two_servers_that_remember_never_write_on_what_the_other_has_changed([Values(1, 2, 3)] int seed)
    {
        var random = new Random(seed);
        string[] ids = ["w", "x", "y"];
        foreach (var id in ids.Skip(1))
            await WriteAsync(_store, Look.AtOnce, Ask.Start(id));
        var heads = ids.ToDictionary(id => id, id => (State: "NEW", Sequence: 1L, Lease: (Lease?)null));
        var remembered = 0;
        for (var i = 0; i < 400; i++)
        {
            var store = random.Next(5) == 0 ? _other : _store;
            var id = ids[random.Next(ids.Length)];
            var (state, sequence, lease) = heads[id];
            Command command = random.Next(8) switch
            {
                0 => Ask.Start(id),
                1 or 2 => Ask.Acquire($"worker {i}", id),
                3 when lease is not null => Ask.Renew(lease.Owner, id, lease.Epoch),
                _ => Ask.Move(id, state, $"S{i}") with { LeaseEpoch = lease?.Epoch ?? 0 },
            };

            var (outcome, wasRemembered) = await WriteAsServerAsync(store, command);

            remembered += wasRemembered ? 1 : 0;
            heads[id] = outcome switch
            {
                Written written => (written.Workflow.State, written.Workflow.Sequence, lease),
                Refused { Refusal.Reason: Reason.WorkflowAlreadyExists } when command is StartCommand => heads[id],
                LeasesDecided { Answers: [{ Workflow: { } taken }] } when lease is null || command is KeepLeasesCommand =>
                    (state, sequence, taken.Lease),
                LeasesDecided { Answers: [{ Refusal.Reason: Reason.LeaseHeld }] } when lease is not null => (state, sequence, lease),
                _ => throw new AssertionException($"{command} on {state}, {lease}: {outcome}"),
            };
            if (outcome is Written { Workflow.Sequence: var next })
                Assert.That(next, Is.EqualTo(sequence + 1));
        }

        Assert.That(remembered, Is.GreaterThan(100));
        foreach (var id in ids)
        {
            var workflow = (await _other.FindWorkflowAsync(Ask.Key(id), default))!;
            Assert.That((workflow.State, workflow.Sequence, workflow.Lease), Is.EqualTo(heads[id]));
        }
    }

    [Test]
    public async Task A_server_starts_workflows_keeps_their_leases_and_closes_them_in_one_round_trip_each()
    {
        await using var setup = await ProxiedServer.StartAsync();
        await Given.WorkflowAsync(setup.Server);
        var start = setup.Proxy.RoundTrips;
        for (var i = 0; i < 50; i++)
        {
            var id = $"short-{i}";
            var started = await setup.Server.Workflows.StartWorkflowAsync(Given.Start(id, owner: "worker"));
            await setup.Server.Recovery.RenewLeasesAsync(new Pb.RenewLeasesRequest
            {
                Owner = "worker",
                Leases = { new Pb.LeaseReference { WorkflowId = id, Epoch = started.Lease.Epoch } },
            });
            var close = Given.Move(id, "NEW", "DONE");
            (close.LeaseEpoch, close.Status) = (started.Lease.Epoch, Pb.WorkflowStatus.Completed);
            await setup.Server.Workflows.TransitionWorkflowAsync(close);
        }
        var roundTrips = setup.Proxy.RoundTrips - start;

        // Besides those of what goes on in the background; a look for each would make 300.
        Assert.That(roundTrips, Is.LessThan(250));
        await ErrorAssert.RefusedAsync(async () => await setup.Server.Workflows.StartWorkflowAsync(Given.Start("short-7")),
            "WORKFLOW_ALREADY_EXISTS", Grpc.Core.StatusCode.AlreadyExists);
        var verified = await setup.Direct.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = "short-49" });
        Assert.That((verified.Intact, verified.RecordsVerified), Is.EqualTo((true, 2UL)));
    }

    [Test]
    public async Task A_server_writes_on_in_one_round_trip_and_refuses_and_repeats_by_what_it_has_read()
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        var start = setup.Proxy.RoundTrips;
        for (var i = 0; i < 200; i++)
            await setup.Server.Workflows.TransitionWorkflowAsync(Given.Move(id, i == 0 ? "NEW" : $"S{i - 1}", $"S{i}"));
        var roundTrips = setup.Proxy.RoundTrips - start;

        var paid = Given.Move(id, "S199", "PAID");
        paid.RequestId = "pay";
        var first = await setup.Server.Workflows.TransitionWorkflowAsync(paid);
        var again = await setup.Server.Workflows.TransitionWorkflowAsync(paid);
        await ErrorAssert.RefusedAsync(async () => await setup.Server.Workflows.TransitionWorkflowAsync(Given.Move(id, "S199", "LATE")),
            "STATE_MISMATCH", Grpc.Core.StatusCode.Aborted);
        // The other server knows nothing of what this one remembers.
        await setup.Direct.Workflows.TransitionWorkflowAsync(Given.Move(id, "PAID", "SENT"));
        var last = await setup.Server.Workflows.TransitionWorkflowAsync(Given.Move(id, "SENT", "ARRIVED"));

        // Besides those of what goes on in the background; a look for each would make 400.
        Assert.That(roundTrips, Is.LessThan(300));
        Assert.That((again.Replayed, again.Record.Hash), Is.EqualTo((true, first.Record.Hash)));
        Assert.That(last.Record.Sequence, Is.EqualTo(204));
    }

    /// <summary>Else who repeats a request again and again would make every other batch fail first.</summary>
    [Test]
    public async Task After_a_repeated_request_a_server_looks_for_a_while()
    {
        await using var setup = await ProxiedServer.StartAsync();
        var id = await Given.WorkflowAsync(setup.Server);
        var paid = Given.Move(id, "NEW", "S0");
        paid.RequestId = "pay";
        await setup.Server.Workflows.TransitionWorkflowAsync(paid);
        var again = await setup.Server.Workflows.TransitionWorkflowAsync(paid);
        var start = setup.Proxy.RoundTrips;
        for (var i = 0; i < 3; i++)
            await setup.Server.Workflows.TransitionWorkflowAsync(Given.Move(id, $"S{i}", $"S{i + 1}"));

        Assert.That(again.Replayed, Is.True);
        Assert.That(setup.Proxy.RoundTrips - start, Is.GreaterThanOrEqualTo(6));
    }

    private static TransitionCommand Move(int step) => Ask.Move("w", step == 0 ? "NEW" : $"S{step - 1}", $"S{step}");

    private static FoundViolation Found(string id) => new(
        new Violation(ViolationClass.FieldModified, Ask.Key(id), 1, "altered"), foundAt: 1);

    private async Task ChangeAsync(string what)
    {
        switch (what)
        {
            case "record":
                await WriteAsync(_other, Look.AtOnce, Ask.Start("another"));
                break;
            case "lease":
                await WriteAsServerAsync(_other, Ask.Acquire("worker", "w"));
                break;
            case "violation":
                await _other.AddViolationsAsync([Found("w")], default);
                break;
            case "by hand":
                await ExecuteAsync("UPDATE workflow SET state = 'STOLEN'");
                break;
            case "by hand, guards off":
                await ExecuteAsync("SET session_replication_role = replica; DELETE FROM workflow");
                break;
            default:
                await ExecuteAsync("SET session_replication_role = replica; UPDATE log_head SET signed_note = 'forged' "
                    + "WHERE size = (SELECT max(size) FROM log_head)");
                break;
        }
    }

    private async Task ExecuteAsync(string statement)
    {
        await using var connection = new NpgsqlConnection(_database);
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(statement, connection);
        await command.ExecuteNonQueryAsync();
    }

    private static async Task<LedgerTransaction> BeginAsync(PostgresLedgerStore store, Look look, params Command[] commands)
    {
        var size = (await store.ReadHeadAsync(default))?.Size ?? 0;
        return await store.BeginAsync(() => new BatchKeys(
            [.. commands.SelectMany(c => c.Workflows).Distinct()],
            [.. commands.Select(c => (c as WriteCommand)?.RequestKey).OfType<Bytes16>().Distinct()])
        {
            Started = commands.OfType<StartCommand>().Select(c => c.Key).ToHashSet(),
        }, look, size, default);
    }

    /// <summary>Looked at first where too long a time has passed since the last batch.</summary>
    private static async Task<LedgerTransaction> BeginRememberedAsync(PostgresLedgerStore store, params Command[] commands)
    {
        for (var attempt = 0; attempt < 20; attempt++)
        {
            var transaction = await BeginAsync(store, Look.Remembered, commands);
            if (transaction.IsRemembered)
                return transaction;
            await transaction.DisposeAsync();
        }
        throw new AssertionException("It is never remembered.");
    }

    /// <summary>
    /// By a store that has seen nothing but a workflow of its own: what is started is taken for absent. One that looked would know it
    /// from then on, and another is taken.
    /// </summary>
    private async Task<LedgerTransaction> BeginAbsentAsync(params Command[] commands)
    {
        for (var attempt = 0; attempt < 20; attempt++)
        {
            await _fresh.DisposeAsync();
            _fresh = PostgresLedgerStore.Open(_database);
            await WriteAsync(_fresh, Look.AtOnce, Ask.Start($"seen-{attempt}"));
            var transaction = await BeginAsync(_fresh, Look.Remembered, commands);
            if (transaction.IsRemembered)
                return transaction;
            await transaction.DisposeAsync();
        }
        throw new AssertionException("It is never remembered.");
    }

    private static async Task<Outcome> CommitAsync(LedgerTransaction transaction, Command command)
    {
        var batch = new LedgerBatch(transaction.State);
        var outcome = batch.Decide(command);
        if (!batch.IsEmpty)
            await transaction.CommitAsync(batch.Sealed());
        return outcome;
    }

    private static async Task<Written> WriteAsync(PostgresLedgerStore store, Look look, WriteCommand command)
    {
        await using var transaction = await BeginAsync(store, look, command);
        return await CommitAsync(transaction, command) as Written ?? throw new AssertionException($"Refused: {command}");
    }

    private static async Task WriteAsync(PostgresLedgerStore store, Look look, OpenLogCommand command)
    {
        await using var transaction = await BeginAsync(store, look, command);
        await CommitAsync(transaction, command);
    }

    /// <summary>As the writer of a server does it: nobody is refused, and nothing stored, by what is only remembered.</summary>
    private static async Task<(Outcome Outcome, bool WasRemembered)> WriteAsServerAsync(PostgresLedgerStore store, Command command)
    {
        try
        {
            await using var transaction = await BeginAsync(store, Look.Remembered, command);
            var outcome = new LedgerBatch(transaction.State).Decide(command);
            if (!transaction.IsRemembered || outcome is Written || outcome is LeasesDecided { Answers: [{ Refusal: null }] })
                return (await CommitAsync(transaction, command), transaction.IsRemembered);
        }
        catch (StoreException e) when (e.Failure == StoreFailure.Outdated)
        {
            // Done again below.
        }
        await using var looked = await BeginAsync(store, Look.AtOnce, command);
        return (await CommitAsync(looked, command), false);
    }
}
