using Aegis.Core;
using Google.Protobuf;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>
/// Exports that no service of ours writes: whole by their trailer, sound at first sight, and made to leave something behind.
/// Each is refused alone, with a reason, and leaves nothing.
/// </summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class CraftedExportTests(Database database)
{
    private TestServer _server = null!;

    [OneTimeSetUp]
    public async Task Start() => _server = await TestServer.StartAsync(database);

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public async Task A_key_of_metadata_that_has_no_encoding_is_refused()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var messages = Exports.Parse(Foreign.Export(id, Foreign.Started(id)));
        messages.Single(m => m.Record is not null).Record.Record.Metadata.Add(new string('k', 70_000), "v");

        await RefusedAsync(id, messages, "INVALID_FIELD");
    }

    [Test]
    public async Task A_snapshot_under_the_hash_of_another_is_refused()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var messages = Exports.Parse(Foreign.Export(id, Foreign.Started(id)));
        messages.Insert(2, Part(sha256: 7, offset: 0, size: 4, "fake"));

        await RefusedAsync(id, messages, "SNAPSHOT_CORRUPT");
    }

    [Test]
    public async Task A_snapshot_in_pieces_around_a_record_is_refused()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var started = Foreign.Started(id);
        var messages = Exports.Parse(Foreign.Export(id, started, Foreign.Erasure(started, "1", "content")));
        var record = messages.FindIndex(m => m.Record is not null);
        messages.Insert(record + 1, Part(sha256: 7, offset: 2, size: 4, "ke"));
        messages.Insert(record, Part(sha256: 7, offset: 0, size: 4, "fa"));

        await RefusedAsync(id, messages, "SNAPSHOT_CORRUPT");
    }

    [Test]
    public async Task Snapshots_that_no_record_carries_are_not_stored()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var messages = Exports.Parse(Foreign.Export(id, Foreign.Started(id)));
        var stray = "stray"u8.ToArray();
        messages.Insert(2, new Pb.ExportChunk
        {
            Snapshot = new Pb.ExportSnapshotPart
            {
                Sha256 = ByteString.CopyFrom(Hash.Of(stray).ToArray()),
                Size = 5,
                Data = ByteString.CopyFrom(stray),
            },
        });

        var answer = (await Exports.ImportAsync(_server, Exports.Write(messages))).Single();

        Assert.That(answer.Outcome, Is.EqualTo(Pb.ImportOutcome.Imported), answer.Message);
        Assert.That(await CountAsync("SELECT count(*) FROM snapshot WHERE workflow_id = @id", id), Is.EqualTo(1));
    }

    [TestCase("another hash")]
    [TestCase("no origin")]
    [TestCase("sequence 0")]
    [TestCase("sequence 2^63")]
    [TestCase("no workflow")]
    [TestCase("U+0000")]
    public async Task An_origin_that_is_not_that_of_the_first_record_is_refused(string origin)
    {
        var id = $"w-{Guid.NewGuid():N}";
        var source = Foreign.Started("source");
        var fork = StoredRecord.Seal(Foreign.Started(id).Record with { PreviousHash = source.Hash }, 0);
        var messages = Exports.Parse(Foreign.Export(id, fork));
        messages.Single(m => m.Workflow is not null).Workflow.ForkedFrom = origin == "no origin" ? null : new Pb.ForkPoint
        {
            WorkflowId = origin switch { "no workflow" => "", "U+0000" => "a\0b", _ => "source" },
            Sequence = origin switch { "sequence 0" => 0, "sequence 2^63" => 1UL << 63, _ => 1 },
            Hash = ByteString.CopyFrom((origin == "another hash" ? fork.Hash : source.Hash).ToArray()),
        };

        await RefusedAsync(id, messages, null);
    }

    [Test]
    public async Task A_chain_that_uses_a_request_id_twice_is_refused()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var first = StoredRecord.Seal(Foreign.Started(id).Record with { RequestId = "once" }, 0);

        await RefusedAsync(id, Exports.Parse(Foreign.Export(id, first, Next(first, requestId: "once"))), "INVALID_FIELD");
    }

    [Test]
    public async Task A_lease_epoch_that_could_not_grow_any_more_is_refused()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var first = StoredRecord.Seal(Foreign.Started(id).Record with { LeaseEpoch = long.MaxValue }, 0);

        await RefusedAsync(id, Exports.Parse(Foreign.Export(id, first)), "INVALID_FIELD");
    }

    [Test]
    public async Task A_long_chain_that_ends_in_the_future_leaves_nothing_behind()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var chain = new List<StoredRecord> { Foreign.Started(id) };
        while (chain.Count < 450)
            chain.Add(Next(chain[^1]));
        chain.Add(Next(chain[^1], recordedAt: Foreign.Now + 600_000_000));

        await RefusedAsync(id, Exports.Parse(Foreign.Export(id, [.. chain])), "INVALID_FIELD");
    }

    [TestCase(2)]
    [TestCase(1)]
    public async Task A_snapshot_that_was_erased_and_came_again_is_here_after_an_extension(int known)
    {
        var id = $"w-{Guid.NewGuid():N}";
        var started = Foreign.Started(id);
        var erasure = Foreign.Erasure(started, "1", "snapshot-bytes");
        await Exports.ImportAsync(_server, known == 1
            ? Foreign.Export(id, started)
            : Foreign.Export(id, started, erasure, snapshots: false));

        var extended = (await Exports.ImportAsync(_server, SentOnce(id, started, erasure, Again(erasure, started)))).Single();
        var checkpoint = await _server.Workflows.GetCheckpointAsync(new Pb.GetCheckpointRequest { WorkflowId = id });
        var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(extended.Outcome, Is.EqualTo(Pb.ImportOutcome.Extended), extended.Message);
            Assert.That(checkpoint.Snapshot.Content.ToStringUtf8(), Is.EqualTo("state"));
            Assert.That(verified.Intact, Is.True, verified.ToString());
        }
    }

    [Test]
    public async Task Bytes_go_when_the_last_record_that_carries_them_is_erased()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var started = Foreign.Started(id);
        var erasure = Foreign.Erasure(started, "1", "snapshot-bytes");
        var again = Again(erasure, started);
        await Exports.ImportAsync(_server, SentOnce(id, started, erasure, again));
        var before = await CountAsync("SELECT count(*) FROM snapshot WHERE workflow_id = @id", id);

        await Exports.ImportAsync(_server, SentOnce(id, started, erasure, again, Foreign.Erasure(again, "3", "snapshot-bytes")));
        var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(before, Is.EqualTo(1));
            Assert.That(await CountAsync("SELECT count(*) FROM snapshot WHERE workflow_id = @id", id), Is.Zero);
            Assert.That(verified.Intact, Is.True, verified.ToString());
        }
    }

    [TestCase("a chunk first")]
    [TestCase("options twice")]
    [TestCase("nothing")]
    public async Task An_import_begins_with_its_options_and_has_them_once(string order)
    {
        using var call = _server.Recovery.ImportWorkflows();
        var options = new Pb.ImportWorkflowsRequest { Options = new Pb.ImportOptions { AllowUnproven = true } };
        if (order == "a chunk first")
            await call.RequestStream.WriteAsync(new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFromUtf8("x") });
        for (var i = 0; i < 2 && order == "options twice"; i++)
            await call.RequestStream.WriteAsync(options);
        if (order == "nothing")
            await call.RequestStream.CompleteAsync();

        Assert.That(await ErrorAssert.InvalidFieldsAsync(() => call.ResponseStream.MoveNext(CancellationToken.None)),
            Is.EqualTo(new[] { "options" }));
    }

    [Test]
    public async Task A_workflow_that_comes_twice_in_one_export_is_taken_once()
    {
        var id = $"w-{Guid.NewGuid():N}";
        var messages = Exports.Parse(Foreign.Export(id, Foreign.Started(id)));
        messages.InsertRange(messages.Count - 1, messages.Skip(1).Take(messages.Count - 2).ToList());

        var outcomes = await Exports.ImportAsync(_server, Exports.Write(messages));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(outcomes, Has.Count.EqualTo(2));
            Assert.That(outcomes.Count(o => o.Outcome == Pb.ImportOutcome.Imported), Is.EqualTo(1));
            Assert.That((await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id })).Intact, Is.True);
        }
    }

    private async Task RefusedAsync(string id, List<Pb.ExportChunk> messages, string? reason)
    {
        var answer = (await Exports.ImportAsync(_server, Exports.Write(messages))).Single();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Outcome, Is.EqualTo(Pb.ImportOutcome.Refused));
            Assert.That(answer.Reason, reason is null ? Is.Not.Empty : Is.EqualTo(reason), answer.Message);
            Assert.That(await CountAsync("SELECT count(*) FROM record WHERE workflow_id = @id", id), Is.Zero);
            Assert.That(await CountAsync("SELECT count(*) FROM snapshot WHERE workflow_id = @id", id), Is.Zero);
        }
    }

    private Task<long> CountAsync(string sql, string id) => Tampering.CountAsync(_server, sql, new { id });

    private static Pb.ExportChunk Part(byte sha256, ulong offset, ulong size, string data) => new()
    {
        Snapshot = new Pb.ExportSnapshotPart
        {
            Sha256 = ByteString.CopyFrom([.. Enumerable.Repeat(sha256, 32)]),
            Offset = offset,
            Size = size,
            Data = ByteString.CopyFromUtf8(data),
        },
    };

    /// <summary>An export in which a snapshot comes once, before the first record that carries it.</summary>
    private static byte[] SentOnce(string id, params StoredRecord[] chain)
    {
        var messages = Exports.Parse(Foreign.Export(id, chain));
        var first = messages.FindIndex(m => m.Snapshot is not null);
        return Exports.Write(messages.Where((m, i) => m.Snapshot is null || i == first));
    }

    /// <summary>A checkpoint with the snapshot that the first record carried.</summary>
    private static StoredRecord Again(StoredRecord previous, StoredRecord started) => StoredRecord.Seal(
        Next(previous).Record with
        {
            Kind = RecordKind.Checkpoint,
            ToState = previous.Record.ToState,
            Snapshot = started.Record.Snapshot,
            SnapshotDigest = started.Record.SnapshotDigest,
        },
        0);

    /// <summary>The workflow moves on, without reason or snapshot.</summary>
    private static StoredRecord Next(StoredRecord previous, string requestId = "", long recordedAt = 0) => StoredRecord.Seal(
        previous.Record with
        {
            Sequence = previous.Record.Sequence + 1,
            Kind = RecordKind.Transition,
            FromState = previous.Record.ToState,
            ToState = $"S{previous.Record.Sequence}",
            RequestId = requestId,
            RecordedAt = recordedAt == 0 ? previous.Record.RecordedAt : recordedAt,
            PreviousHash = previous.Hash,
            ContentDigest = default,
            SnapshotDigest = default,
            Content = null,
            Snapshot = null,
        },
        0);
}
