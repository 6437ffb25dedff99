using Aegis.Core;
using Aegis.Evidence;
using Aegis.Tests;

namespace Aegis.Client.Tests;

using Pb = Aegis.V1;

/// <summary>Exports: of this client, and of the others.</summary>
public sealed class ExportScenarios
{
    /// <summary>Names the directory in which <c>check --write-export</c> wants this client's export.</summary>
    private const string WriteTo = "AEGIS_WRITE_EXPORT";

    private const int LargeBytes = 1_200_000;

    [Test]
    public async Task Export_import()
    {
        using var directory = new TemporaryDirectory();
        var file = $"{directory.Path}/all.aegis";
        await using var source = await ServerProcess.StartAsync($"sqlite:{directory.Path}/source.db", ("AEGIS_LOG_ID", "aegis/client/dotnet"));
        await using var target = await ServerProcess.StartAsync($"sqlite:{directory.Path}/target.db");
        var key = await Kit.KeyOfAsync(source);
        var engine = Kit.Engine(new AegisClientOptions { Addresses = [source.Address], TrustedKeys = [key] });
        engine.Register("bytes", new BytesCodec());
        await FillAsync(engine);
        var other = Kit.Engine(new AegisClientOptions { Addresses = [target.Address] });
        other.Register("bytes", new BytesCodec());

        var exported = await engine.ExportAsync(file);
        var offline = DurableWorkflowEngine.VerifyExport(file, [key]);
        var untrusted = DurableWorkflowEngine.VerifyExport(file, []);
        await Assert.ThrowsAsync<InvalidFieldException>(() => other.ImportAsync(file));
        var refused = await other.ImportAsync(file, new ImportDetails { TrustedKeys = [key] });
        var imported = await other.ImportAsync(file, new ImportDetails { TrustedKeys = [key], TakeOver = true });

        using (Assert.EnterMultipleScope())
        {
            Assert.That((exported.IsProven, offline.IsProven, untrusted.IsProven, untrusted.IsIntact), Is.EqualTo((true, true, false, true)));
            Assert.That(refused.Select(r => r.Outcome), Has.Some.EqualTo(Pb.ImportOutcome.Refused), "what is RUNNING is not taken over unasked");
            Assert.That(imported.Select(r => r.Outcome), Has.All.AnyOf(Pb.ImportOutcome.Imported, Pb.ImportOutcome.Unchanged));
            foreach (var workflow in imported)
            {
                Assert.That((await other.HistoryAsync(workflow.Key.WorkflowId)).Select(r => r.Hash),
                    Is.EqualTo((await engine.HistoryAsync(workflow.Key.WorkflowId)).Select(r => r.Hash)), workflow.Key.ToString());
            }
            Assert.That((await other.LoadCheckpointAsync<byte[]>("große/文書")).Data, Has.Length.EqualTo(LargeBytes));
        }
        await engine.CloseAsync();
        await other.CloseAsync();
        if (Environment.GetEnvironmentVariable(WriteTo) is { Length: > 0 } to)
        {
            File.Copy(file, Path.Combine(to, "dotnet.aegis"), overwrite: true);
            await File.WriteAllTextAsync(Path.Combine(to, "dotnet.key"), key + "\n");
        }
    }

    private static IEnumerable<string> Exports() => Repository.Files("clients/exports", "*.aegis");

    [Test]
    public void Exports_of_all_are_there() => Assert.That(Exports(), Does.Contain("clients/exports/dotnet.aegis"));

    [TestCaseSource(nameof(Exports))]
    public async Task Exports_of_all(string export)
    {
        using var directory = new TemporaryDirectory();
        var file = Repository.PathOf(export);
        var key = (await File.ReadAllTextAsync(Path.ChangeExtension(file, ".key"))).Trim();
        await using var server = await ServerProcess.StartAsync($"sqlite:{directory.Path}/target.db");
        var engine = Kit.Engine(new AegisClientOptions { Addresses = [server.Address] });
        var details = new ImportDetails { TrustedKeys = [key], TakeOver = true };

        var honest = DurableWorkflowEngine.VerifyExport(file, [key]);
        var imported = await engine.ImportAsync(file, details);

        Assert.That(honest.IsProven, string.Join('\n', honest.Findings.Take(3)));
        Assert.That(honest.Workflows, Is.Not.Empty);
        Assert.That(imported.Select(r => r.Outcome), Has.All.EqualTo(Pb.ImportOutcome.Imported));
        var bytes = await File.ReadAllBytesAsync(file);
        var altered = $"{directory.Path}/altered.aegis";
        // The beginning and the end, where all kinds of messages are, and places between.
        foreach (var at in Enumerable.Range(0, 40).Select(i => i * 61).Concat(Enumerable.Range(1, 40).Select(i => bytes.Length - (i * 53)))
            .Concat(Enumerable.Range(1, 20).Select(i => (int)((long)bytes.Length * i / 21))))
        {
            bytes[at] ^= 1;
            await File.WriteAllBytesAsync(altered, bytes);
            Assert.That(IsProven(altered, key), Is.False, $"byte {at}");
            bytes[at] ^= 1;
        }
        bytes[bytes.Length / 2] ^= 1;
        await File.WriteAllBytesAsync(altered, bytes);
        try
        {
            var results = await engine.ImportAsync(altered, details);
            Assert.That(results.Select(r => r.Outcome), Has.Some.EqualTo(Pb.ImportOutcome.Refused));
        }
        catch (AegisException e)
        {
            Assert.That(e.Message, Is.Not.Empty, "refused as a whole");
        }
        await engine.CloseAsync();
    }

    private static bool IsProven(string file, string key)
    {
        try
        {
            return DurableWorkflowEngine.VerifyExport(file, [key]).IsProven;
        }
        catch (FormatException)
        {
            return false;
        }
    }

    /// <summary>What every language's export has: many scripts, a large and an empty snapshot, a fork, and a closed workflow.</summary>
    private static async Task FillAsync(DurableWorkflowEngine engine)
    {
        var details = new StartDetails { TakeLease = false, Actor = "Ólafía 𐍈", Reason = "请求 🜁", Metadata = new Dictionary<string, string> { ["Größe"] = "大 🌍" } };
        var first = await engine.StartAsync("permit", "Bescheid/ß-1", "NEU·新", new Permit("नमस्ते", 1), details);
        first.Data = first.Data! with { Step = 2, Note = "👩‍👩‍👧" };
        await engine.TransitionAsync(first, "GEPRÜFT", details: new TransitionDetails { OccurredAt = DateTimeOffset.UnixEpoch.AddYears(50) });
        await engine.TransitionAsync(first, "FERTIG", WorkflowStatus.Completed, new TransitionDetails { Actor = "アンナ" });
        // In two parts.
        byte[] large = [.. Enumerable.Range(0, LargeBytes).Select(i => (byte)(i % 251))];
        await engine.StartAsync("bytes", "große/文書", "NEW", large, details);
        await engine.StartAsync("bytes", "empty", "NEW", Array.Empty<byte>(), details with { Status = WorkflowStatus.Waiting });
        await engine.ForkAsync<Permit>("permit", "fork", "Bescheid/ß-1", sequence: 2, details: details with { RequestId = "fork-1" });
    }

    private sealed class BytesCodec : ICodec<byte[]>
    {
        public EncodedState Encode(byte[] value) => new("application/octet-stream", value);

        public byte[] Decode(EncodedState state) => state.Content.ToArray();
    }
}
