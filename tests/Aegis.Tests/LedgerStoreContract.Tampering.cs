using Aegis.Core;

namespace Aegis.Tests;

// What the owner of the database changes past all guards is found, and named.
public abstract partial class LedgerStoreContract
{
    /// <summary>Lets rows break the constraints of the table record.</summary>
    protected abstract Task DropConstraintsAsync();

    private async Task ChainToTamperAsync()
    {
        await WriteAsync(Store,
            Ask.Start("w", "start", Ask.Parts("alice", "why", Ask.Metadata(("k", "v")))),
            Ask.Move("w", "NEW", "PAID", "pay", Ask.Parts("bob", snapshot: "state"u8.ToArray())),
            Ask.Move("w", "PAID", "SENT"), Ask.Move("w", "SENT", "SEEN"));
    }

    private async Task<Violation> TamperAsync(string sql, object? parameters = null)
    {
        await ChainToTamperAsync();
        Assert.That(await VerifyAsync("w"), Is.Empty);
        await Tampering.RunAsync(Database, sql, parameters);
        var violations = await VerifyAsync("w");
        Assert.That(violations, Has.Count.EqualTo(1), string.Join(Environment.NewLine, violations));
        return violations[0];
    }

    [TestCase("state = 'PAID'")]
    [TestCase("status = 3")]
    [TestCase("sequence = 3")]
    [TestCase("workflow_type = 'gift'")]
    [TestCase("updated_at = 253402300799000000")]
    [TestCase("head_hash = (SELECT hash FROM record WHERE log_index = 1)")]
    public async Task Nothing_is_written_upon_a_head_that_was_altered(string change)
    {
        await ChainToTamperAsync();
        await Tampering.RunAsync(Database, $"UPDATE workflow SET {change} WHERE workflow_id = 'w'");
        var other = Keep(OpenAnother());

        var outcomes = await WriteAsync(other,
            Ask.Move("w", "SEEN", "DONE"),
            Ask.Start("w", "start", Ask.Parts("alice", "why", Ask.Metadata(("k", "v")))),
            Ask.Start("w"));

        Assert.That(outcomes.Select(o => (o as Refused)?.Refusal.Reason), Is.All.EqualTo(Reason.ChainBroken));
    }

    [Test]
    public async Task One_altered_number_does_not_date_the_whole_log()
    {
        const long farAway = 253402300799000000;
        await ChainToTamperAsync();
        await Tampering.RunAsync(Database, "UPDATE log_head SET last_recorded_at = @farAway", new { farAway });
        var other = Keep(OpenAnother());

        var record = await WriteOneAsync(other, Ask.Move("w", "SEEN", "DONE"));

        Assert.That(record.Record.RecordedAt, Is.LessThan(farAway));
        Assert.That(await VerifyAsync("w"), Is.Empty);
    }

    [TestCase("to_state", "SENT", "STOLEN")]
    [TestCase("from_state", "PAID", "STOLEN")]
    [TestCase("workflow_type", "order", "gift")]
    [TestCase("log_id", Ask.LogId, "another")]
    public async Task An_edited_column_is_named_with_what_it_was(string column, string original, string found)
    {
        var violation = await TamperAsync($"UPDATE record SET {column} = @found WHERE workflow_id = 'w' AND sequence = 3", new { found });

        using (Assert.EnterMultipleScope())
        {
            Assert.That((violation.Class, violation.Sequence, violation.LogIndex), Is.EqualTo((ViolationClass.FieldModified, 3L, (long?)3L)));
            Assert.That(violation.Differences, Is.EqualTo(new[] { new Difference(column, original, found) }));
        }
    }

    [TestCase("hash = request_key", TestName = "An_edited_hash_is_named", ExpectedResult = "hash")]
    [TestCase("recorded_at = recorded_at - 1", TestName = "An_edited_time_is_named", ExpectedResult = "recorded_at")]
    [TestCase("actor = 'mallory'", TestName = "An_edited_actor_names_its_part", ExpectedResult = "person")]
    [TestCase("snapshot_size = 7", TestName = "An_edited_size_names_its_part", ExpectedResult = "snapshot")]
    [TestCase("person_salt = snapshot_salt", TestName = "An_edited_salt_names_its_part", ExpectedResult = "person")]
    [TestCase("person_salt = encoded", TestName = "A_salt_of_another_length_names_its_part", ExpectedResult = "person")]
    public async Task<string> An_edited_value_is_named(string change)
    {
        await DropConstraintsAsync();

        var violation = await TamperAsync($"UPDATE record SET {change} WHERE workflow_id = 'w' AND sequence = 2");

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((ViolationClass.FieldModified, 2L)));
        return violation.Differences.Single().Field;
    }

    [TestCase("kind = 258")]
    [TestCase("status = 257")]
    [TestCase("status = 0")]
    [TestCase("kind = -1")]
    public async Task A_number_that_no_byte_holds_is_found(string change)
    {
        await DropConstraintsAsync();

        var violation = await TamperAsync($"UPDATE record SET {change} WHERE workflow_id = 'w' AND sequence = 2");

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((ViolationClass.FieldModified, 2L)));
    }

    [Test]
    public async Task A_text_beyond_what_can_be_encoded_is_found()
    {
        var violation = await TamperAsync("UPDATE record SET to_state = @text WHERE workflow_id = 'w' AND sequence = 2",
            new { text = new string('x', 70_000) });

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((ViolationClass.FieldModified, 2L)));
        Assert.That(violation.Differences.Single().Original, Is.EqualTo("PAID"));
    }

    [TestCase("""{"k": null}""")]
    [TestCase("""{"k": 1}""")]
    [TestCase("""["k"]""")]
    [TestCase("""{"k": {"a": "b"}}""")]
    [TestCase("null")]
    public async Task Metadata_that_is_no_map_of_texts_is_found(string json)
    {
        await ChainToTamperAsync();
        foreach (var table in new[] { "record", "workflow" })
            await Tampering.RunAsync(Database, SetMetadata(table), new { json });

        var violations = await VerifyAsync("w");

        Assert.That(violations.Select(v => (v.Class, v.Sequence)), Is.EqualTo(new[] { (ViolationClass.FieldModified, 1L) }));
    }

    /// <summary>Sets the metadata of the workflow's record 1, or of its head, to JSON.</summary>
    protected abstract string SetMetadata(string table);

    [Test]
    public async Task Edited_metadata_of_the_first_record_do_not_blame_the_head()
    {
        await ChainToTamperAsync();
        await Tampering.RunAsync(Database, SetMetadata("record"), new { json = """{"k": "other"}""" });

        var violations = await VerifyAsync("w");

        Assert.That(violations.Select(v => (v.Class, v.Sequence)), Is.EqualTo(new[] { (ViolationClass.FieldModified, 1L) }));
    }

    [Test]
    public async Task A_deleted_record_is_named()
    {
        var violation = await TamperAsync("DELETE FROM record WHERE workflow_id = 'w' AND sequence = 2");

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((ViolationClass.RecordMissing, 2L)));
    }

    [Test]
    public async Task A_deleted_tail_is_named()
    {
        var violation = await TamperAsync("DELETE FROM record WHERE workflow_id = 'w' AND sequence >= 3");

        Assert.That((violation.Class, violation.Sequence), Is.EqualTo((ViolationClass.TailTruncated, 3L)));
    }

    [Test]
    public async Task Exchanged_records_are_named()
    {
        await ChainToTamperAsync();
        await Tampering.RunAsync(Database,
            """
            UPDATE record SET sequence = 99 WHERE workflow_id = 'w' AND sequence = 2;
            UPDATE record SET sequence = 2 WHERE workflow_id = 'w' AND sequence = 3;
            UPDATE record SET sequence = 3 WHERE workflow_id = 'w' AND sequence = 99;
            """);

        var violations = await VerifyAsync("w");

        Assert.That(violations.Select(v => (v.Class, v.Sequence)),
            Is.EqualTo(new[] { (ViolationClass.RecordsReordered, 2L), (ViolationClass.RecordsReordered, 3L) }));
    }

    [Test]
    public async Task A_record_that_was_put_in_is_named()
    {
        await ChainToTamperAsync();
        var forged = StoredRecord.Seal((await ChainAsync("w"))[1].Record with { ToState = "FORGED", RequestId = "" }, 0);
        // In the place of record 2, with everything of its own in order.
        await Tampering.RunAsync(Database,
            """
            UPDATE record SET to_state = 'FORGED', request_id = '', request_key = NULL, hash = @hash, encoded = @encoded
            WHERE workflow_id = 'w' AND sequence = 2
            """, new { hash = forged.Hash.ToArray(), encoded = forged.Encoded.ToArray() });

        var violations = await VerifyAsync("w");

        Assert.That(violations[0].Sequence, Is.EqualTo(3), "The next record does not follow from it.");
        Assert.That(violations[0].ExpectedHash, Is.EqualTo(forged.Hash));
    }

    [TestCase("request_id = 'another'")]
    [TestCase("to_state = 'STOLEN'")]
    [TestCase("actor = 'mallory'")]
    public async Task A_record_that_was_altered_answers_no_request(string change)
    {
        await TamperAsync($"UPDATE record SET {change} WHERE workflow_id = 'w' AND sequence = 2");

        var outcome = (await WriteAsync(Store, Ask.Move("w", "NEW", "PAID", "pay", Ask.Parts("bob", snapshot: "state"u8.ToArray()))))[0];

        Assert.That((outcome as Refused)?.Refusal.Reason, Is.EqualTo(Reason.ChainBroken), "Neither replayed nor done again.");
    }

    [Test]
    public async Task Snapshots_that_were_changed_or_deleted_are_named()
    {
        var changed = await TamperAsync("UPDATE snapshot SET content = @other", new { other = "other"u8.ToArray() });
        await Tampering.RunAsync(Database, "DELETE FROM snapshot");
        var deleted = await VerifyAsync("w");

        Assert.That((changed.Class, changed.Sequence, changed.ActualHash),
            Is.EqualTo((ViolationClass.SnapshotModified, 2L, (Hash?)Hash.Of("other"u8))));
        Assert.That(deleted.Select(v => (v.Class, v.Sequence)), Is.EqualTo(new[] { (ViolationClass.SnapshotMissing, 2L) }));
    }

    [TestCase("state = 'STOLEN'", "state")]
    [TestCase("status = 3", "status")]
    [TestCase("head_hash = '\\x00'", "head_hash")]
    [TestCase("checkpoint_sequence = 0", "checkpoint_sequence")]
    [TestCase("created_at = 1", "created_at")]
    [TestCase("created_log_index = 99", "created_log_index")]
    public async Task An_edited_head_is_named(string change, string field)
    {
        var violation = await TamperAsync(
            $"UPDATE workflow SET {change.Replace("'\\x00'", "@bytes", StringComparison.Ordinal)} WHERE workflow_id = 'w'", new { bytes = new byte[1] });

        Assert.That(violation.Class, Is.EqualTo(ViolationClass.WorkflowHeadModified));
        Assert.That(violation.Differences.Select(d => d.Field), Is.EqualTo(new[] { field }));
    }
}
