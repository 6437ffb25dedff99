using System.Diagnostics;
using Aegis.Core;
using Aegis.Evidence;
using Aegis.Server;
using Aegis.Storage;

namespace Aegis.Benchmarks;

/// <summary>A log of many records, written by the store itself in large batches, as fast as it takes them.</summary>
internal static class FilledLog
{
    private const int BatchRecords = 2000;
    private const int RecordsPerWorkflow = 10;

    public static async Task WriteAsync(ILedgerStore store, SigningKey key, long records)
    {
        await store.MigrateAsync(default);
        var watch = Stopwatch.StartNew();
        var content = new byte[64];
        var written = 0L;
        while (written < records)
        {
            var commands = new List<Command>();
            if (written == 0)
                commands.Add(new OpenLogCommand("aegis.example/benchmark", StoreMonitor.SystemParts(Metadata.Empty)));
            for (var workflow = 0; workflow < BatchRecords / RecordsPerWorkflow; workflow++)
            {
                var workflowKey = new WorkflowKey("default", $"case-{written}-{workflow}");
                commands.Add(Start(workflowKey));
                for (var move = 1; move < RecordsPerWorkflow; move++)
                    commands.Add(Move(workflowKey, move, content));
            }
            var keys = commands.SelectMany(c => c.Workflows).ToHashSet();
            await using var transaction = await store.BeginAsync(keys, [], long.MaxValue, default);
            var batch = new LedgerBatch(transaction.State);
            foreach (var command in commands)
            {
                if (batch.Decide(command) is Refused refused)
                    throw new InvalidOperationException(refused.Refusal.Message);
            }
            batch.Seal(key.Sign);
            await transaction.CommitAsync(batch);
            written = batch.LogSize;
        }
        Console.WriteLine($"filled with {written} records in {watch.Elapsed.TotalSeconds:0} s");
    }

    private static StartCommand Start(WorkflowKey key) => new()
    {
        Key = key,
        RequestId = "start",
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = PartsOf("caller", "because", null),
        WorkflowType = "order",
        InitialState = "S0",
        Status = WorkflowStatus.Running,
    };

    private static TransitionCommand Move(WorkflowKey key, int move, byte[] content) => new()
    {
        Key = key,
        RequestId = $"{move}",
        OccurredAt = 0,
        KnownLogSize = 0,
        Parts = PartsOf("caller", "because", content),
        FromState = $"S{move - 1}",
        ToState = $"S{move}",
        Status = WorkflowStatus.Running,
    };

    private static Parts PartsOf(string actor, string reason, byte[]? content) => new(
        new Person(NewSalt(), actor, ""),
        new Content(NewSalt(), reason, Metadata.Empty),
        content is null ? null : new SnapshotPart(NewSalt(), "application/json", content.Length, Hash.Of(content)),
        content ?? []);

    private static Bytes16 NewSalt()
    {
        Span<byte> salt = stackalloc byte[Bytes16.Size];
        System.Security.Cryptography.RandomNumberGenerator.Fill(salt);
        return new Bytes16(salt);
    }
}
