using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>An export is proven or found altered by whoever holds it, with nothing but the log's key.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class EvidenceTests(Database database)
{
    private const string Namespace = "cases";

    private TestServer _server = null!;
    private VerifierKey _key = null!;
    private byte[] _export = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _server = await TestServer.StartAsync(database);
        // Past a tile, so that paths lead through complete and unfinished ones.
        await Task.WhenAll(Enumerable.Range(0, 300).Select(i => _server.Workflows.StartWorkflowAsync(Given.Start($"other {i}")).ResponseAsync));
        foreach (var id in new[] { "a", "b", "c" })
            await GivenCaseAsync(id);
        _export = await Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { Namespace = Namespace });
        _key = SharedKey.Key.VerifierKey(Exports.Parse(_export)[0].Manifest.LogId);
    }

    [OneTimeTearDown]
    public async Task Stop() => await _server.DisposeAsync();

    [Test]
    public void An_untouched_export_is_intact_and_proven()
    {
        var report = Exports.Check(_export, _key);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((report.IsIntact, report.IsProven, report.SignedBy), Is.EqualTo((true, true, _key)));
            Assert.That((report.Workflows.Count, report.Records, report.Snapshots), Is.EqualTo((3, 12L, 6L)));
            Assert.That(report.Manifest.VerifierKeys, Is.EqualTo(new[] { _key.ToString() }));
        }
    }

    [Test]
    public void A_head_that_another_trusted_log_has_signed_is_a_finding()
    {
        using var other = SigningKey.Create();
        var messages = Exports.Parse(_export);
        var head = SignedNote.TryParse(messages[0].Manifest.LogHead)!.Text;
        messages[0].Manifest.LogHead = other.Sign("another/log", head);

        var report = Exports.Check(Exports.Write(messages), other.VerifierKey("another/log"), _key);

        Assert.That(report.SignedBy, Is.Null);
        Assert.That(Found(report), Is.EqualTo(new[] { (ViolationClass.SignatureInvalid, "", 0L) }));
    }

    [TestCase("kind", 257)]
    [TestCase("kind", 0)]
    [TestCase("kind", 5)]
    [TestCase("kind", -255)]
    [TestCase("status", 257)]
    [TestCase("status", 6)]
    public void A_number_that_is_no_kind_and_no_status_is_named(string field, int number)
    {
        var messages = Exports.Parse(_export);
        var record = messages.First(m => m.Record is { Record: { WorkflowId: "b", Sequence: 1 } }).Record.Record;
        if (field == "kind")
            record.Kind = (Pb.RecordKind)number;
        else
            record.Status = (Pb.WorkflowStatus)number;

        var report = Exports.Check(Exports.Write(messages), _key);

        Assert.That(report.IsIntact, Is.False);
        var first = report.Findings.First(f => f.Violation.Sequence == 1).Violation;
        Assert.That((first.Class, first.Key.WorkflowId), Is.EqualTo((ViolationClass.FieldModified, "b")));
        Assert.That(first.Message, Does.Contain($"{field} {number}"));
    }

    [Test]
    public void Of_several_keys_one_has_to_fit()
    {
        using var other = SigningKey.Create();
        var wrong = other.VerifierKey(_key.Name);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(Exports.Check(_export, wrong, _key).SignedBy, Is.EqualTo(_key));
            Assert.That(Exports.Check(_export, _key, wrong).IsProven, Is.True);
            Assert.That(Found(Exports.Check(_export, wrong)), Is.EqualTo(new[] { (ViolationClass.SignatureInvalid, "", 0L) }));
            Assert.That(Exports.Check(_export, _key.Named("another/log")).IsIntact, Is.False, "The same bytes, for another log.");
        }
    }

    [Test]
    public void Without_a_key_an_export_agrees_with_itself_and_is_not_proven()
    {
        var report = Exports.Check(_export);

        Assert.That((report.IsIntact, report.IsProven), Is.EqualTo((true, false)));
    }

    // Each with a trailer that fits: whoever alters a file can compute that too.
    [TestCase("to_state", ViolationClass.FieldModified, 2, "to_state")]
    [TestCase("request_id", ViolationClass.FieldModified, 2, "request_id")]
    [TestCase("workflow_type", ViolationClass.FieldModified, 2, "workflow_type")]
    [TestCase("recorded_at", ViolationClass.FieldModified, 2, null)]
    [TestCase("actor", ViolationClass.FieldModified, 2, "person")]
    [TestCase("reason", ViolationClass.FieldModified, 2, "content")]
    [TestCase("metadata", ViolationClass.FieldModified, 2, "content")]
    [TestCase("content type", ViolationClass.FieldModified, 2, "snapshot")]
    [TestCase("hash", ViolationClass.FieldModified, 2, "hash")]
    [TestCase("values without salt", ViolationClass.FieldModified, 4, null)]
    [TestCase("salt and values gone", ViolationClass.ErasedWithoutRecord, 2, "person")]
    [TestCase("log index", ViolationClass.RecordInserted, 2, "inclusion_path")]
    [TestCase("path", ViolationClass.RecordInserted, 2, "inclusion_path")]
    [TestCase("no path", ViolationClass.RecordInserted, 2, "inclusion_path")]
    [TestCase("chain forged", ViolationClass.RecordInserted, 2, "inclusion_path")]
    [TestCase("snapshot", ViolationClass.SnapshotModified, 2, null)]
    [TestCase("snapshot missing", ViolationClass.SnapshotMissing, 2, null)]
    [TestCase("record missing", ViolationClass.RecordMissing, 3, null)]
    [TestCase("records swapped", ViolationClass.RecordsReordered, 4, null)]
    [TestCase("tail cut", ViolationClass.TailTruncated, 4, null)]
    [TestCase("header", ViolationClass.WorkflowHeadModified, 0, "head_hash")]
    [TestCase("statement", ViolationClass.SignatureInvalid, 0, "statement")]
    [TestCase("statement of another", ViolationClass.WorkflowHeadModified, 0, "statement")]
    [TestCase("no statement", ViolationClass.SignatureInvalid, 0, "statement")]
    public void Whatever_is_altered_in_a_workflow_is_named(string what, ViolationClass @class, long sequence, string? field)
    {
        var messages = Exports.Parse(_export);
        Alter(what, messages);

        var report = Exports.Check(Exports.Write(messages), _key);
        var found = report.Findings.Select(f => f.Violation).ToList();

        using (Assert.EnterMultipleScope())
        {
            Assert.That(report.IsProven, Is.False);
            Assert.That(found.Select(v => v.Key), Is.All.EqualTo(new WorkflowKey(Namespace, "b")));
            Assert.That(found.Select(v => (v.Class, v.Sequence)), Does.Contain((@class, sequence)), string.Join('\n', found));
            Assert.That(field is null || found.Exists(v => v.Class == @class && v.Differences.Any(d => d.Field == field)), Is.True,
                string.Join('\n', found.SelectMany(v => v.Differences)));
        }
    }

    [TestCase("to_state", "PAID")]
    [TestCase("request_id", "")]
    [TestCase("workflow_type", "order")]
    public void What_the_chain_tells_twice_is_told_with_its_original(string field, string original)
    {
        var messages = Exports.Parse(_export);
        Alter(field, messages);

        var violation = Exports.Check(Exports.Write(messages), _key).Findings.Single().Violation;

        Assert.That(violation.Differences.Single(), Is.EqualTo(new Difference(field, original, "STOLEN")));
    }

    [TestCase("log head")]
    [TestCase("no head")]
    [TestCase("size")]
    [TestCase("log id")]
    [TestCase("counts")]
    [TestCase("trailer")]
    public void Whatever_is_altered_around_the_workflows_is_found(string what)
    {
        var messages = Exports.Parse(_export);
        var manifest = messages[0].Manifest;
        switch (what)
        {
            case "log head": manifest.LogHead = manifest.LogHead.Replace($"\n{manifest.LogSize}\n", $"\n{manifest.LogSize + 1}\n", StringComparison.Ordinal); break;
            case "no head": manifest.LogHead = ""; break;
            case "size": manifest.LogSize++; break;
            case "log id": manifest.LogId = "another"; break;
        }
        var export = Exports.Write(messages);
        if (what is "counts" or "trailer")
        {
            var trailer = Exports.Parse(export)[^1];
            if (what == "counts")
                trailer.Trailer.Workflows--;
            else
                trailer.Trailer.Sha256 = ByteString.CopyFrom(new byte[32]);
            export = [.. export[..^(trailer.CalculateSize() + 1)], .. Delimited(trailer)];
        }

        var report = Exports.Check(export, _key);

        Assert.That((report.IsIntact, report.IsProven), Is.EqualTo((false, false)));
        Assert.That(report.Findings.First().Violation.Key, Is.EqualTo(ExportReport.Whole));
    }

    [Test]
    public void A_file_that_ends_early_or_is_no_export_cannot_be_read()
    {
        using (Assert.EnterMultipleScope())
        {
            foreach (var length in new[] { 0, 1, 100, _export.Length / 2, _export.Length - 40, _export.Length - 1 })
                Assert.That(() => Exports.Check(_export[..length], _key), Throws.TypeOf<FormatException>(), $"{length}");
            Assert.That(() => Exports.Check([.. _export, 0], _key), Throws.TypeOf<FormatException>());
            Assert.That(() => Exports.Check("no export at all"u8.ToArray(), _key), Throws.TypeOf<FormatException>());
        }
    }

    [Test]
    public void No_single_byte_can_be_changed_unseen()
    {
        var seed = Environment.TickCount;
        TestContext.Out.WriteLine($"seed {seed}");
        var random = new Random(seed);
        int unreadable = 0, violations = 0;
        for (var i = 0; i < 3000; i++)
        {
            var altered = (byte[])_export.Clone();
            var at = random.Next(altered.Length);
            altered[at] ^= (byte)random.Next(1, 256);
            try
            {
                var report = Exports.Check(altered, _key);
                Assert.That(report.IsProven || report.IsIntact, Is.False, $"byte {at}, seed {seed}");
                violations++;
            }
            catch (FormatException)
            {
                unreadable++;
            }
        }
        TestContext.Out.WriteLine($"{violations} told as violations, {unreadable} could not be read");
        Assert.That(violations, Is.GreaterThan(unreadable), "Most of it is named.");
    }

    [Test]
    public async Task A_workflow_that_came_from_another_log_is_proven_under_this_one()
    {
        var id = $"w-{Guid.NewGuid():N}";
        await Exports.ImportAsync(_server, Foreign.Export(id, Foreign.Started(id)));

        var export = await Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { WorkflowId = id });
        var report = Exports.Check(export, _key);

        Assert.That((report.IsProven, report.Workflows.Single().LogId), Is.EqualTo((true, "elsewhere")));
    }

    [Test]
    public async Task While_writers_go_on_an_export_is_the_log_as_it_was_at_its_head()
    {
        const int workflows = 40;
        foreach (var i in Enumerable.Range(0, workflows))
            await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest(Given.Start($"m{i}", "S0")) { Namespace = "moving" });
        using var stop = new CancellationTokenSource();
        var writers = Enumerable.Range(0, 8).Select(async w =>
        {
            for (var n = 0; !stop.IsCancellationRequested; n++)
            {
                for (var i = w; i < workflows; i += 8)
                {
                    await _server.Workflows.TransitionWorkflowAsync(
                        new Pb.TransitionWorkflowRequest(Given.Move($"m{i}", $"S{n}", $"S{n + 1}")) { Namespace = "moving" });
                }
            }
        }).ToList();

        for (var i = 0; i < 10; i++)
        {
            var export = await Exports.ReadAsync(_server, new Pb.ExportWorkflowsRequest { Namespace = "moving" });
            var report = Exports.Check(export, _key);
            Assert.That(report.IsProven, Is.True, string.Join('\n', report.Findings));
            Assert.That(report.Workflows, Has.Count.EqualTo(workflows));
        }
        await stop.CancelAsync();
        await Task.WhenAll(writers);
    }

    [TestCase("UPDATE record SET to_state = 'STOLEN' WHERE workflow_id = 'w' AND sequence = 2", ViolationClass.FieldModified)]
    [TestCase("DELETE FROM snapshot WHERE workflow_id = 'w'", ViolationClass.SnapshotMissing)]
    public async Task What_was_altered_in_the_database_is_named_by_whoever_reads_an_export_of_it(string sql, ViolationClass @class)
    {
        await using var server = await TestServer.StartAsync(database);
        await server.Workflows.StartWorkflowAsync(Given.Start("w"));
        await server.Workflows.TransitionWorkflowAsync(
            new Pb.TransitionWorkflowRequest(Given.Move("w", "NEW", "PAID")) { Snapshot = Given.Snapshot("state") });
        await Tampering.RunAsync(server, sql);

        var export = await Exports.ReadAsync(server, new Pb.ExportWorkflowsRequest { WorkflowId = "w", AllowQuarantined = true });
        var report = Exports.Check(export, SharedKey.Key.VerifierKey(Exports.Parse(export)[0].Manifest.LogId));

        Assert.That(report.Findings.Select(f => (f.Violation.Class, f.Violation.Sequence)), Does.Contain((@class, 2L)));
    }

    [Test]
    public async Task Verification_states_the_newest_record_of_an_intact_workflow()
    {
        var id = await Given.WorkflowAsync(_server);
        await _server.Workflows.TransitionWorkflowAsync(Given.Move(id, "NEW", "PAID"));

        var verified = await _server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = id });
        var said = WorkflowStatement.Verify(verified.Statement, [_key], Ed25519Signatures.Check);

        using (Assert.EnterMultipleScope())
        {
            Assert.That((said?.Key, said?.Sequence), Is.EqualTo((new WorkflowKey("default", id), 2L)));
            Assert.That(said?.Hash, Is.EqualTo(new Hash(verified.HeadHash.Span)));
            Assert.That(said?.LogSize, Is.GreaterThanOrEqualTo((long)verified.LogSize));
        }
    }

    [TestCase("", "x", 1)]
    [TestCase("default", "a workflow", 1)]
    [TestCase("アリス", "日本\n語", long.MaxValue)]
    public void A_statement_comes_back_as_it_was_signed(string @namespace, string id, long sequence)
    {
        using var key = SigningKey.Create();
        var statement = new WorkflowStatement("log", 12345, new WorkflowKey(@namespace, id), sequence, Hash.Of("x"u8));
        var note = key.Sign("log", statement.Text);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(WorkflowStatement.Verify(note, [key.VerifierKey("log")], Ed25519Signatures.Check), Is.EqualTo(statement));
            Assert.That(WorkflowStatement.Verify(note, [_key], Ed25519Signatures.Check), Is.Null);
            Assert.That(WorkflowStatement.Verify(note.Replace("12345", "12346", StringComparison.Ordinal), [key.VerifierKey("log")],
                Ed25519Signatures.Check), Is.Null);
            Assert.That(LogHead.Verify(note, [key.VerifierKey("log")], Ed25519Signatures.Check), Is.Null, "No statement is a head.");
        }
    }

    /// <summary>NEW, PAID with a snapshot, PACKED with another, SENT.</summary>
    private async Task GivenCaseAsync(string id)
    {
        await _server.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest(Given.Start(id))
        {
            Namespace = Namespace,
            Actor = "alice",
            Metadata = { ["customer"] = "17" },
        });
        string[] states = ["NEW", "PAID", "PACKED", "SENT"];
        for (var i = 1; i < states.Length; i++)
        {
            await _server.Workflows.TransitionWorkflowAsync(new Pb.TransitionWorkflowRequest(Given.Move(id, states[i - 1], states[i]))
            {
                Namespace = Namespace,
                Actor = "bob",
                Reason = $"because {i}",
                Metadata = { ["step"] = $"{i}" },
                Snapshot = i == 3 ? null : Given.Snapshot($"{id} {states[i]}"),
            });
        }
    }

    private static (ViolationClass, string, long)[] Found(ExportReport report) =>
        [.. report.Findings.Select(f => (f.Violation.Class, f.Violation.Key.WorkflowId, f.Violation.Sequence))];

    private static byte[] Delimited(Pb.ExportChunk message)
    {
        using var stream = new MemoryStream();
        message.WriteDelimitedTo(stream);
        return stream.ToArray();
    }

    /// <summary>Alters the workflow b, mostly its record 2, in one way.</summary>
    private static void Alter(string what, List<Pb.ExportChunk> messages)
    {
        var header = messages.FindIndex(m => m.Workflow?.WorkflowId == "b");
        int At(ulong sequence) => messages.FindIndex(header, m => m.Record?.Record.Sequence == sequence);
        int snapshot = messages.FindIndex(header, m => m.Snapshot is not null), second = At(2);
        var (export, record) = (messages[second].Record, messages[second].Record.Record);
        var workflow = messages[header].Workflow;
        Action alter = what switch
        {
            "to_state" => () => record.ToState = "STOLEN",
            "request_id" => () => record.RequestId = "STOLEN",
            "workflow_type" => () => record.WorkflowType = "STOLEN",
            "recorded_at" => () => record.RecordedAt.Nanos ^= 1000 << 10,
            "actor" => () => record.Actor = "mallory",
            "reason" => () => record.Reason += ".",
            "metadata" => () => record.Metadata["step"] = "9",
            "content type" => () => record.SnapshotContentType = "text/html",
            "hash" => () => record.Hash = Flipped(record.Hash),
            "values without salt" => () => messages[At(4)].Record.Record.SnapshotContentType = "text/html",
            "salt and values gone" => () => (record.PersonSalt, record.Actor) = (ByteString.Empty, ""),
            "log index" => () => record.LogIndex++,
            "path" => () => export.InclusionPath[3] = Flipped(export.InclusionPath[3]),
            "no path" => export.InclusionPath.Clear,
            "chain forged" => () => Forge(messages, header),
            "snapshot" => () => messages[snapshot].Snapshot.Data = Flipped(messages[snapshot].Snapshot.Data),
            "snapshot missing" => () => messages.RemoveAt(snapshot),
            "record missing" => () => messages.RemoveAt(At(3)),
            "records swapped" => () => (messages[second], messages[At(3)]) = (messages[At(3)], messages[second]),
            "tail cut" => () => CutTail(messages, header, At(4)),
            "header" => () => workflow.HeadHash = Flipped(workflow.HeadHash),
            "statement" => () => workflow.Statement = workflow.Statement[..^6] + "AAA=\n",
            "statement of another" => () => workflow.Statement = messages.First(m => m.Workflow?.WorkflowId == "a").Workflow.Statement,
            _ => () => workflow.Statement = "",
        };
        alter();
    }

    private static ByteString Flipped(ByteString bytes) => ByteString.CopyFrom([(byte)(bytes[0] ^ 1), .. bytes.Span[1..]]);

    private static void CutTail(List<Pb.ExportChunk> messages, int header, int last)
    {
        messages.RemoveAt(last);
        messages[header].Workflow.Records--;
        messages[header].Workflow.HeadHash = messages[last - 1].Record.Record.Hash;
    }

    /// <summary>Another reason in record 2, and the whole chain computed anew: a chain alone has nothing to say against it.</summary>
    private static void Forge(List<Pb.ExportChunk> messages, int header)
    {
        Hash? previous = null;
        foreach (var message in messages.Skip(header + 1).TakeWhile(m => m.Workflow is null && m.Trailer is null).Where(m => m.Record is not null))
        {
            var record = message.Record.Record.ToStoredRecord().Record;
            if (record.Sequence == 2)
                record = record with { Content = record.Content! with { Reason = "nothing to see" } };
            record = record with { ContentDigest = RecordFormat.DigestOf(record.Content), PreviousHash = previous ?? default };
            var forged = StoredRecord.Seal(record, (long)message.Record.Record.LogIndex);
            message.Record.Record = Server.Mapping.ToPb(forged);
            previous = forged.Hash;
        }
        messages[header].Workflow.HeadHash = ByteString.CopyFrom(previous!.Value.ToArray());
    }
}
