using Aegis.Core;
using CsCheck;

namespace Aegis.Tests;

/// <summary>Chains as a log makes them: random commands, of which those that are refused change nothing.</summary>
internal static class RandomChains
{
    // Empty, plain, beyond ASCII, beyond U+FFFF, and what sorts otherwise in UTF-16.
    private static readonly Gen<string> Text =
        Gen.OneOf("", "a", "b", "zwölf", "～key", "😀key", "tab\tnew\nline", "\"quoted\\\"", "{\"x\":1}", "e\u0301");

    private static readonly Gen<string> Name = Text.Select(t => "n" + t);

    private static readonly Gen<Metadata?> Metadata = Gen.OneOf(
        Gen.Const((Metadata?)null),
        Gen.Dictionary(Text, Text)[0, 4].Select(d => (Metadata?)new Metadata(d)));

    private static readonly Gen<byte[]?> Snapshot = Gen.OneOf(Gen.Const((byte[]?)null), Gen.Byte.Array[0, 40].Select(b => (byte[]?)b));

    private static readonly Gen<Parts> Parts = Gen.Select(Text, Text, Text, Metadata, Snapshot,
        (actor, principal, reason, metadata, snapshot) => Ask.Parts(actor, reason, metadata, snapshot, "text/plain", principal));

    /// <summary>What one step does, told by numbers so that a failing case can be made smaller.</summary>
    private static readonly Gen<Action<MemoryLog>> Step = Gen.Select(Gen.Int[0, 5], Name, Parts, Gen.Int[0, 40_000_000], Gen.Bool,
        (act, state, parts, time, waits) => new Action<MemoryLog>(log =>
        {
            log.Now += time - 5_000_000;
            var head = log.Head("w");
            var epoch = head.Lease is { IsVoid: false } lease ? lease.Epoch : 0;
            log.Decide(act switch
            {
                0 => Ask.Acquire("worker", "w") with { TakeOverOwn = true },
                1 => Ask.Release("worker", "w", epoch),
                2 => Ask.Checkpoint("w", state, head.Sequence) with { LeaseEpoch = epoch },
                _ => Ask.Move("w", head.State, state, act == 3 ? $"request {log.Records.Count}" : "", parts) with
                {
                    LeaseEpoch = epoch,
                    OccurredAt = time,
                    Status = waits ? WorkflowStatus.Waiting : WorkflowStatus.Running,
                },
            });
        }));

    /// <summary>A log with the chain of the workflow "w".</summary>
    public static readonly Gen<MemoryLog> Logs = Gen.Select(Parts, Step.Array[2, 12], Gen.Int[0, 9], (first, steps, end) =>
    {
        var log = new MemoryLog();
        log.Write(Ask.Start("w", "start", first));
        foreach (var step in steps)
            step(log);
        if (end == 0)
            Close(log);
        return log;
    });

    private static void Close(MemoryLog log)
    {
        var head = log.Head("w");
        log.Decide(Ask.Move("w", head.State, "END") with
        {
            Status = WorkflowStatus.Completed,
            LeaseEpoch = head.Lease is { IsVoid: false } lease ? lease.Epoch : 0,
        });
    }
}
