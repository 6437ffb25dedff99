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

    /// <param name="records">How many, beside the first of the log.</param>
    /// <param name="perWorkflow">How many of them a workflow has; it stays open.</param>
    /// <param name="snapshotBytes">The size of the snapshot that each but its first carries, always the same.</param>
    public static async Task WriteAsync(ILedgerStore store, SigningKey key, long records, int perWorkflow = 10, int snapshotBytes = 64)
    {
        await store.MigrateAsync(default);
        var watch = Stopwatch.StartNew();
        var content = new byte[snapshotBytes];
        var (written, failures) = (0L, 0);
        while (written < records)
        {
            var commands = new List<Command>();
            if (written == 0)
                commands.Add(new OpenLogCommand("aegis.example/benchmark", StoreMonitor.SystemParts(Metadata.Empty)));
            for (var workflow = 0; workflow < Math.Min(BatchRecords, records - written + perWorkflow - 1) / perWorkflow; workflow++)
            {
                var workflowKey = new WorkflowKey("default", $"case-{written}-{workflow}");
                commands.Add(Start(workflowKey));
                for (var move = 1; move < perWorkflow; move++)
                    commands.Add(Move(workflowKey, move, content));
            }
            try
            {
                written = await AppendAsync(store, key, written, commands);
            }
            catch (StoreException) when (failures++ < 10)
            {
                // One of us stood still for a while. What became of the batch is seen by the next.
                await Task.Delay(TimeSpan.FromSeconds(1));
            }
        }
        Console.Error.WriteLine($"filled with {written} records in {watch.Elapsed.TotalSeconds:0} s");
    }

    /// <returns>The size of the log, which is another than expected where a batch was written whose end nobody saw.</returns>
    private static async Task<long> AppendAsync(ILedgerStore store, SigningKey key, long expected, List<Command> commands)
    {
        await using var transaction = await store.BeginAsync(
            commands.SelectMany(c => c.Workflows).ToHashSet(), [], long.MaxValue, default);
        if (transaction.State.LogSize != expected)
            return transaction.State.LogSize;
        var batch = new LedgerBatch(transaction.State);
        foreach (var command in commands)
        {
            if (batch.Decide(command) is Refused refused)
                throw new InvalidOperationException(refused.Refusal.Message);
        }
        batch.Seal(key.Sign);
        await transaction.CommitAsync(batch);
        return batch.LogSize;
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
