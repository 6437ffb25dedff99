using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// Repair: worked out and verified first, then stored in one transaction with the record that tells of it, and with the
// release of the violations that are no longer so.
public sealed partial class IntegrityService
{
    // Each time because something new was found: of one workflow that comes to an end.
    private const int RepairTriesMax = 10;

    public override async Task<Pb.RepairRecordResponse> RepairRecord(Pb.RepairRecordRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var key = fields.Key(request.Namespace, request.WorkflowId);
        var sequence = fields.Integer("sequence", request.Sequence);
        var (actor, reason) = OperatorOf(fields, request.Actor, request.Reason);
        var brought = BroughtRecord(fields, request, key);
        if (sequence == 0 && request.Snapshot is not null)
            fields.Wrong("snapshot", "belongs to a record: sequence 0 is the head of the workflow");
        fields.Check();
        for (var tries = 1; ; tries++)
        {
            try
            {
                return await RepairAsync(key, sequence, brought, request.Snapshot?.Content.Memory, (actor, reason), context);
            }
            catch (RefusalException e) when (e.Refusal.Reason == Reason.SequenceMismatch && tries < RepairTriesMax)
            {
                // Something was found while it was worked out, which it may mend too.
            }
        }
    }

    private async Task<Pb.RepairRecordResponse> RepairAsync(WorkflowKey key, long sequence, StoredRecord? brought,
        ReadOnlyMemory<byte>? snapshot, (string Actor, string Reason) by, ServerCallContext context)
    {
        var cancellation = context.CancellationToken;
        // What is wrong is kept before it is repaired.
        var readAt = (await store.ReadHeadAsync(cancellation))?.Size ?? 0;
        findings.Report(await repairer.VerifyAsync(key, new Repair { Key = key }, cancellation), readAt);
        await findings.SettleAsync(cancellation);

        var isWhole = true;
        Repair repair;
        if (sequence > 0)
            repair = await repairer.RecordAsync(key, sequence, brought, snapshot, cancellation);
        else if (key == WorkflowKey.Log)
            (repair, isWhole) = await repairer.LogAsync(cancellation);
        else
            repair = await repairer.HeadAsync(key, cancellation);
        var (removed, keys) = await repairer.ConcernedAsync(repair, cancellation);
        List<Violation> before = [], left = [];
        foreach (var concerned in keys)
        {
            before.AddRange(await repairer.VerifyAsync(concerned, new Repair { Key = concerned }, cancellation));
            left.AddRange(await repairer.VerifyAsync(concerned, repair, cancellation));
        }
        var (healed, seen) = await HealedAsync(repair, (key, sequence), keys, removed, before, left, isWhole, cancellation);
        await DemandUseAsync(repair, (key, sequence), removed, left, healed.Count, cancellation);

        var command = new LogActCommand(LogActCommand.Repaired,
            OperatorParts(by.Actor, by.Reason, TellOf(repair, key, sequence, keys.Count - 1)))
        {
            Repair = repair,
            Violations = new ViolationChange(ViolationFate.Repaired,
                [.. keys.Concat(healed.Select(v => v.Violation.Key)).Distinct()], [.. healed.Select(v => v.Id)], long.MaxValue)
            {
                Seen = seen,
            },
        };
        var record = await ActAsync(command, context);
        proofs.Forget();
        findings.Forget();
        // What was told before is as the repair left it.
        findings.Report(left, record.LogIndex + 1);
        await findings.SettleAsync(CancellationToken.None);
        return new Pb.RepairRecordResponse { Record = record.ToPb(), Released = (ulong)healed.Count };
    }

    private static StoredRecord? BroughtRecord(Fields fields, Pb.RepairRecordRequest request, WorkflowKey key)
    {
        if (request.Record is not { } message)
            return null;
        try
        {
            var record = message.ToStoredRecord();
            if (record.Record.Key != key || (ulong)record.Record.Sequence != request.Sequence)
                fields.Wrong("record", "is not the record of that workflow and sequence");
            return record;
        }
        catch (Exception e) when (e is FormatException or ArgumentException or OverflowException)
        {
            fields.Wrong("record", $"cannot be a record: {e.Message}");
            return null;
        }
    }

    /// <summary>
    /// The open violations that the repair closes: those of the places that it restores, and those that verification finds now,
    /// of whichever places, if it will not find them any more. An edit elsewhere that was undone stays open.
    /// </summary>
    /// <returns>Those, and what was open of all workflows concerned and of the log when it was looked for.</returns>
    private async Task<(IReadOnlyList<FoundViolation> Healed, IReadOnlyList<OpenOf> Seen)> HealedAsync(Repair repair, (WorkflowKey Key, long Sequence) place,
        IReadOnlyList<WorkflowKey> keys, IReadOnlyList<StoredRecord> removed, List<Violation> before, List<Violation> left,
        bool isWhole, CancellationToken cancellationToken)
    {
        var places = repair.Records.Concat(removed).Select(r => (r.Record.Key, r.Record.Sequence)).Append(place).ToHashSet();
        var indexes = repair.Records.Select(r => r.LogIndex).Concat(repair.Removed).ToHashSet();
        var open = new List<FoundViolation>();
        var seen = new List<OpenOf>();
        foreach (var key in keys)
        {
            var all = await OpenAsync(
                new ViolationFilter { Namespace = key.Namespace, WorkflowId = key.WorkflowId }, cancellationToken);
            seen.Add(OpenOf.Of(key, all));
            open.AddRange(all.Where(v => places.Contains((v.Violation.Key, v.Violation.Sequence))
                || (v.Violation.LogIndex is { } index && indexes.Contains(index))
                || IsAmong(before, v)));
        }
        // Of a record of which nothing was left it could not be told whose it was; only its place in the log is named.
        var areTilesWhole = place == (WorkflowKey.Log, 0) && isWhole;
        var ofLog = await OpenAsync(new ViolationFilter { Namespace = "", WorkflowId = "" }, cancellationToken);
        seen.Add(OpenOf.Of(WorkflowKey.None, ofLog));
        open.AddRange(ofLog.Where(v => v.Violation.Class == ViolationClass.TileModified
            ? areTilesWhole
            : v.Violation.Class == ViolationClass.RecordMissing && v.Violation.LogIndex is { } index && indexes.Contains(index)));
        return ([.. open.Where(v => !IsAmong(left, v))], seen);
    }

    private static bool IsAmong(List<Violation> violations, FoundViolation found) => violations.Exists(v =>
        (v.Key, v.Sequence, v.Class) == (found.Violation.Key, found.Violation.Sequence, found.Violation.Class));

    /// <summary>An act that would restore nothing is refused, and told what it lacks.</summary>
    private async Task DemandUseAsync(Repair repair, (WorkflowKey Key, long Sequence) place, IReadOnlyList<StoredRecord> removed,
        List<Violation> left, int healed, CancellationToken cancellationToken)
    {
        if (healed > 0 || repair.Tiles.Count > 0 || repair.Snapshot is not null || repair.RemovesHead)
            return;
        if (repair.Head is not null && !Repairer.IsSame(repair.Head, await store.FindWorkflowAsync(place.Key, cancellationToken)))
            return;
        var before = removed.ToDictionary(r => r.LogIndex);
        var areSame = repair.Records.Count == repair.Removed.Count
            && repair.Records.All(r => before.TryGetValue(r.LogIndex, out var row) && row.Record == r.Record && row.Hash == r.Hash
                && row.Encoded.Span.SequenceEqual(r.Encoded.Span));
        if (!areSame)
            return;
        throw new RefusalException(left.Find(v => v.Key == place.Key && v.Sequence == place.Sequence) is { } still
            ? Refusal.Invalid(still.IsOfSnapshot ? "snapshot" : "record",
                $"is required: what is stored cannot mend it. {still.Message.TrimEnd('.')}")
            : Refusal.Invalid("sequence", "is as it was recorded: there is nothing to repair"));
    }

    /// <summary>What the REPAIRED record says; the guards of the tables look for the places in it.</summary>
    private static Core.Metadata TellOf(Repair repair, WorkflowKey key, long sequence, int otherWorkflows)
    {
        var what = new List<string>();
        if (repair.Records.Count > 0)
            what.Add("record");
        if (repair.Removed.Except(repair.Records.Select(r => r.LogIndex)).Any())
            what.Add("removed");
        if (repair.Snapshot is not null)
            what.Add("snapshot");
        if (repair.Head is not null || repair.RemovesHead)
            what.Add("head");
        if (repair.Tiles.Count > 0)
            what.Add("tiles");
        var metadata = new Dictionary<string, string>
        {
            ["namespace"] = key.Namespace,
            ["workflow_id"] = key.WorkflowId,
            ["sequence"] = Refusal.Text(sequence),
            ["what"] = string.Join(',', what),
        };
        var indexes = repair.Removed.Union(repair.Records.Select(r => r.LogIndex)).Order().Select(Refusal.Text).ToList();
        if (indexes.Count > 0)
            metadata["log_indexes"] = string.Join(',', indexes);
        if (otherWorkflows > 0)
            metadata[Overtaken.OtherWorkflows] = Refusal.Text(otherWorkflows);
        return new Core.Metadata(metadata);
    }
}
