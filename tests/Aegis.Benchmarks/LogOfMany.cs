using System.Diagnostics;
using System.Globalization;
using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;
using Aegis.Tests;

namespace Aegis.Benchmarks;

/// <summary>
/// Proofs and verification over a large log: how long a path takes, and how many records a second VerifyLog checks beside hashing
/// records of the same size alone.
/// </summary>
internal static class LogOfMany
{
    private const int Proofs = 2000;

    public static async Task RunAsync(long records, int rounds)
    {
        using var directory = new TemporaryDirectory("log");
        var keyFile = Path.Combine(directory.Path, "key.pem");
        try
        {
            var database = await PostgresCluster.CreateDatabaseAsync();
            using (var key = SigningKey.LoadOrCreate(keyFile, out _))
            {
                await using var store = PostgresLedgerStore.Open(database);
                await FilledLog.WriteAsync(store, key, records);
            }
            await using var server = await ServerUnderTest.StartOnAsync(await ServerUnderTest.ReleasedAsync(), database,
                ("AEGIS_SIGNING_KEY", keyFile));
            var integrity = new V1.IntegrityService.IntegrityServiceClient(server.Channel);
            await ProofsAsync(integrity, records);
            await VerifyAsync(integrity, rounds);
        }
        finally
        {
            await PostgresCluster.EndRunAsync();
        }
    }

    private static async Task ProofsAsync(V1.IntegrityService.IntegrityServiceClient integrity, long records)
    {
        var random = new Random(1);
        var (inclusion, consistency) = (new List<double>(), new List<double>());
        for (var i = 0; i < Proofs; i++)
        {
            var batch = random.NextInt64(records / 2000);
            var id = $"case-{(batch == 0 ? 0 : (batch * 2000) + 1)}-{random.Next(200)}";
            var watch = Stopwatch.StartNew();
            await integrity.GetInclusionProofAsync(new V1.GetInclusionProofRequest { WorkflowId = id, Sequence = 5 });
            inclusion.Add(watch.Elapsed.TotalMilliseconds);
            watch.Restart();
            await integrity.GetConsistencyProofAsync(
                new V1.GetConsistencyProofRequest { FirstSize = (ulong)random.NextInt64(1, records) });
            consistency.Add(watch.Elapsed.TotalMilliseconds);
        }
        Write($"GetInclusionProof {Summary(inclusion)}, over the wire");
        Write($"GetConsistencyProof {Summary(consistency)}, over the wire");
    }

    private static async Task VerifyAsync(V1.IntegrityService.IntegrityServiceClient integrity, int rounds)
    {
        var ratios = new List<double>();
        for (var round = 1; round <= rounds; round++)
        {
            var (verified, summary) = await VerifyAsync(integrity);
            var hashed = HashingRate();
            ratios.Add(verified / hashed);
            Write($"round {round}: VerifyLog {verified:0} records a second (intact: {summary.Intact}), hashing alone {hashed:0} on all cores, ratio {verified / hashed:0.00}");
        }
        ratios.Sort();
        Write($"ratio to hashing alone: median {ratios[ratios.Count / 2]:0.00} (min {ratios[0]:0.00}, max {ratios[^1]:0.00})");
    }

    /// <summary>Verifies the whole log once: records a second, and what was said of it.</summary>
    public static async Task<(double Rate, V1.VerifyLogSummary Summary)> VerifyAsync(V1.IntegrityService.IntegrityServiceClient integrity)
    {
        var watch = Stopwatch.StartNew();
        using var call = integrity.VerifyLog(new V1.VerifyLogRequest());
        V1.VerifyLogSummary? summary = null;
        while (await call.ResponseStream.MoveNext(CancellationToken.None))
            summary = call.ResponseStream.Current.Summary ?? summary;
        return (summary!.RecordsVerified / watch.Elapsed.TotalSeconds, summary);
    }

    /// <summary>SHA-256 over records of the usual size, on all cores, from memory.</summary>
    private static double HashingRate()
    {
        const int perCore = 1_000_000;
        var record = new byte[330];
        var watch = Stopwatch.StartNew();
        Parallel.For(0, Environment.ProcessorCount, _ =>
        {
            for (var i = 0; i < perCore; i++)
                RecordFormat.HashOf(record);
        });
        return perCore * Environment.ProcessorCount / watch.Elapsed.TotalSeconds;
    }

    private static string Summary(List<double> milliseconds)
    {
        milliseconds.Sort();
        return string.Create(CultureInfo.InvariantCulture,
            $"median {milliseconds[milliseconds.Count / 2]:0.00} ms, 99 of 100 below {milliseconds[milliseconds.Count * 99 / 100]:0.00} ms");
    }

    private static void Write(FormattableString line) => Console.WriteLine(line.ToString(CultureInfo.InvariantCulture));
}
