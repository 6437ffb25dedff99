using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>A server takes what a trusted key proves, and nothing else unless it is told to.</summary>
[TestFixture(Database.Sqlite)]
[TestFixture(Database.PostgreSql)]
[Parallelizable(ParallelScope.All)]
public sealed class ProvenImportTests(Database database)
{
    private TestServer _source = null!;
    private TestServer _target = null!;
    private string _key = null!;

    [OneTimeSetUp]
    public async Task Start()
    {
        _source = await TestServer.StartAsync(database);
        _target = await TestServer.StartAsync(database);
        _key = (await _source.System.GetServerInfoAsync(new Pb.GetServerInfoRequest())).VerifierKeys.Single();
    }

    [OneTimeTearDown]
    public async Task Stop()
    {
        await _source.DisposeAsync();
        await _target.DisposeAsync();
    }

    [Test]
    public async Task What_a_trusted_key_proves_is_taken_and_the_proof_is_recorded()
    {
        var (id, export) = await GivenExportAsync();
        using var other = SigningKey.Create();

        var answer = (await Exports.ImportAsync(_target, export, allowUnproven: false,
            trustedKeys: [other.VerifierKey("another").ToString(), _key])).Single();
        var history = await _target.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log", PageSize = 1000 });

        var entry = history.Records.Single(r => r.ToState == "IMPORTED" && r.Metadata["workflow_id"] == id);
        using (Assert.EnterMultipleScope())
        {
            Assert.That(answer.Outcome, Is.EqualTo(Pb.ImportOutcome.Imported), answer.Message);
            Assert.That(entry.Metadata["trusted_key"], Is.EqualTo(_key));
            Assert.That(LogHead.Verify(entry.Metadata["log_head"], [VerifierKey.Parse(_key)], Ed25519Signatures.Check), Is.Not.Null);
        }
    }

    [Test]
    public async Task What_no_trusted_key_proves_is_taken_only_when_allowed()
    {
        var (id, export) = await GivenExportAsync();
        using var other = SigningKey.Create();
        var wrong = other.VerifierKey(VerifierKey.Parse(_key).Name).ToString();

        var refused = await ErrorAssert.InvalidFieldsAsync(
            () => Exports.ImportAsync(_target, export, allowUnproven: false, trustedKeys: [wrong]));
        var taken = (await Exports.ImportAsync(_target, export, allowUnproven: true, trustedKeys: [wrong])).Single();
        var history = await _target.Workflows.ListRecordsAsync(
            new Pb.ListRecordsRequest { Namespace = "aegis.system", WorkflowId = "log", PageSize = 1000 });

        using (Assert.EnterMultipleScope())
        {
            Assert.That(refused, Is.EqualTo(new[] { "options.trusted_keys" }));
            Assert.That(taken.Outcome, Is.EqualTo(Pb.ImportOutcome.Imported));
            Assert.That(history.Records.Single(r => r.ToState == "IMPORTED" && r.Metadata["workflow_id"] == id).Metadata.Keys,
                Has.No.Member("trusted_key"));
        }
    }

    [TestCase("no key")]
    [TestCase("key+00000000+AAAA")]
    public async Task A_key_that_is_none_is_named(string key)
    {
        var (_, export) = await GivenExportAsync();

        var fields = await ErrorAssert.InvalidFieldsAsync(() => Exports.ImportAsync(_target, export, trustedKeys: [key]));

        Assert.That(fields, Is.EqualTo(new[] { "options.trusted_keys" }));
    }

    [TestCase(true)]
    [TestCase(false)]
    public async Task A_proof_that_is_wrong_is_refused_even_where_none_is_needed(bool isTrusted)
    {
        var (id, export) = await GivenExportAsync();
        var messages = Exports.Parse(export);
        var path = messages.First(m => m.Record is not null).Record.InclusionPath;
        path[0] = ByteString.CopyFrom(new byte[32]);

        var answer = (await Exports.ImportAsync(_target, Exports.Write(messages), trustedKeys: isTrusted ? [_key] : [])).Single();

        Assert.That((answer.WorkflowId, answer.Outcome, answer.Reason), Is.EqualTo((id, Pb.ImportOutcome.Refused, "CHAIN_BROKEN")));
    }

    [Test]
    public async Task Beside_one_that_is_not_proven_the_others_are_taken()
    {
        var @namespace = $"n{Guid.NewGuid():N}";
        foreach (var id in new[] { "a", "b", "c" })
            await WaitingAsync(id, @namespace);
        var messages = Exports.Parse(await Exports.ReadAsync(_source, new Pb.ExportWorkflowsRequest { Namespace = @namespace }));
        messages.First(m => m.Workflow?.WorkflowId == "b").Workflow.Statement = "";

        var outcomes = await Exports.ImportAsync(_target, Exports.Write(messages), allowUnproven: false, trustedKeys: [_key]);

        Assert.That(outcomes.Select(o => o.Outcome), Is.EqualTo(new[]
        {
            Pb.ImportOutcome.Imported, Pb.ImportOutcome.Refused, Pb.ImportOutcome.Imported,
        }));
    }

    [Test]
    public async Task An_export_without_proofs_is_refused_under_a_key()
    {
        var export = Foreign.Export("foreign", Foreign.Started("foreign"));

        var fields = await ErrorAssert.InvalidFieldsAsync(
            () => Exports.ImportAsync(_target, export, allowUnproven: false, trustedKeys: [_key]));

        Assert.That(fields, Is.EqualTo(new[] { "options.trusted_keys" }));
    }

    private async Task<(string Id, byte[] Export)> GivenExportAsync()
    {
        var id = await WaitingAsync($"w-{Guid.NewGuid():N}", "");
        return (id, await Exports.ReadAsync(_source, new Pb.ExportWorkflowsRequest { WorkflowId = id }));
    }

    private async Task<string> WaitingAsync(string id, string @namespace)
    {
        await _source.Workflows.StartWorkflowAsync(new Pb.StartWorkflowRequest(Given.Start(id))
        {
            Namespace = @namespace,
            Status = Pb.WorkflowStatus.Waiting,
        });
        return id;
    }
}
