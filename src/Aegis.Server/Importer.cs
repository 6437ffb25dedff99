using Aegis.Core;
using Aegis.Evidence;
using Aegis.Storage;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

/// <summary>
/// Takes an export. It is received whole and judged before anything is stored; then each workflow enters the log in slices,
/// closed to callers until its last one. A crash in between leaves it closed, and sending the export again goes on.
/// </summary>
public sealed class Importer(ILedgerStore store, Ledger ledger)
{
    private const int SliceRecords = 200;
    private const int SliceBytes = 2 * 1024 * 1024;
    private const int WorkflowsInFlight = 16;
    private const int PageSize = 500;

    // Each costs a signature check a workflow at most.
    private const int KeysMax = 16;

    public async Task ImportAsync(IAsyncStreamReader<Pb.ImportWorkflowsRequest> requestStream,
        IServerStreamWriter<Pb.ImportWorkflowsResponse> responseStream, CancellationToken cancellationToken)
    {
        using var file = new ExportFile();
        var options = await ReceiveAsync(requestStream, file, cancellationToken);
        var keys = KeysOf(options);
        using var reader = file.Open();
        var report = Judge(reader, keys, options, cancellationToken);
        var origin = new Origin(report);

        // Judged before the first slice is stored: what is refused in the middle would stay closed.
        var latest = (await store.ProbeAsync(cancellationToken)).Clock + Limits.ImportAheadMax;

        // Several at once share a batch; they are answered in the order of the file.
        var inFlight = new Queue<Task<Pb.ImportWorkflowsResponse>>();
        foreach (var workflow in report.Workflows)
        {
            inFlight.Enqueue((RefusalOf(workflow) ?? Unwanted(workflow, options, latest)) is { } refusal
                ? Task.FromResult(Answer(workflow, refusal))
                : await BeginAsync(workflow, reader, origin, cancellationToken));
            if (inFlight.Count == WorkflowsInFlight)
                await responseStream.WriteAsync(await inFlight.Dequeue(), cancellationToken);
        }
        while (inFlight.TryDequeue(out var answer))
            await responseStream.WriteAsync(await answer, cancellationToken);
    }

    private static List<VerifierKey> KeysOf(Pb.ImportOptions options)
    {
        if (options.TrustedKeys.Count == 0 && !options.AllowUnproven)
        {
            throw new RefusalException(Refusal.Invalid("options.allow_unproven",
                "is required without options.trusted_keys: nothing else proves where this export comes from"));
        }
        if (options.TrustedKeys.Count > KeysMax)
            throw new RefusalException(Refusal.Invalid("options.trusted_keys", $"must be at most {KeysMax}"));
        try
        {
            return [.. options.TrustedKeys.Select(VerifierKey.Parse)];
        }
        catch (FormatException e)
        {
            throw new RefusalException(Refusal.Invalid("options.trusted_keys", $"is not a verifier key: {e.Message}"), e);
        }
    }

    private static ExportReport Judge(ExportReader reader, List<VerifierKey> keys, Pb.ImportOptions options,
        CancellationToken cancellationToken)
    {
        ExportReport report;
        try
        {
            report = ExportCheck.Read(reader, keys, cancellationToken);
        }
        catch (FormatException e)
        {
            throw new RefusalException(Refusal.Invalid("chunk", $"is not a whole export: {e.Message}"), e);
        }
        if (report.Damage is [var damage, ..])
            throw new RefusalException(Refusal.Invalid("chunk", $"is not a whole export: {damage.Violation.Message}"));
        if (report.NotSigned is { } unsigned && !options.AllowUnproven)
        {
            throw new RefusalException(Refusal.Invalid("options.trusted_keys",
                $"does not prove the export: {unsigned.Violation.Message}"));
        }
        return report;
    }

    private static Refusal? RefusalOf(ExportedWorkflow workflow) => workflow.Findings is [var first, ..]
        ? new Refusal(first.Reason,
            first.Reason == Reason.ChainBroken
                ? $"It does not verify, at sequence {first.Violation.Sequence}: {first.Violation.Message}"
                : first.Violation.Message,
            Refusal.Of(workflow.Key))
        : null;

    private static async Task<Pb.ImportOptions> ReceiveAsync(IAsyncStreamReader<Pb.ImportWorkflowsRequest> requestStream,
        ExportFile file, CancellationToken cancellationToken)
    {
        Pb.ImportOptions? options = null;
        while (await requestStream.MoveNext(cancellationToken))
        {
            var part = requestStream.Current;
            if ((part.PartCase == Pb.ImportWorkflowsRequest.PartOneofCase.Options) != (options is null))
                throw new RefusalException(Refusal.Invalid("options", "must be the first message, and only that"));
            if (options is null)
                options = part.Options;
            else
                await file.AppendAsync(part.Chunk.Memory, cancellationToken);
        }
        return options ?? throw new RefusalException(Refusal.Invalid("options", "must be the first message"));
    }

    /// <summary>Stores all slices but the last; the task it gives stores the last and answers.</summary>
    private async Task<Task<Pb.ImportWorkflowsResponse>> BeginAsync(ExportedWorkflow workflow, ExportReader file,
        Origin origin, CancellationToken cancellationToken)
    {
        var local = await store.FindWorkflowAsync(workflow.Key, cancellationToken);
        if (local is { Quarantined: true })
        {
            return Task.FromResult(Answer(workflow, Refusal.Conflict(Reason.WorkflowQuarantined,
                $"A violation closed the workflow {workflow.Key} here; release or repair it first.", local)));
        }
        file.Position = workflow.Position;
        var erased = new List<ErasedValues>();
        if (local is not null && await SkipCommonAsync(workflow, local, file, erased, cancellationToken) is { } other)
            return Task.FromResult(Answer(workflow, other));
        if (local is not null && (ulong)local.Sequence >= workflow.Header.Records)
        {
            return Task.FromResult(local.Importing
                ? Answer(workflow, new Refusal(Reason.WorkflowClosed,
                    "An import of more records broke off; send that export again to finish it."))
                : Answer(workflow, Pb.ImportOutcome.Unchanged));
        }
        var outcome = local is null || local.Importing ? Pb.ImportOutcome.Imported : Pb.ImportOutcome.Extended;
        var sent = new HashSet<Hash>();
        while (true)
        {
            var slice = NextSlice(workflow, file, local, erased, sent, origin);
            if (slice.IsLast)
                return FinishAsync(workflow, slice, outcome, cancellationToken);
            if (await ledger.SubmitAsync(slice, cancellationToken) is Refused refused)
                return Task.FromResult(Answer(workflow, refused.Refusal));
        }
    }

    private async Task<Pb.ImportWorkflowsResponse> FinishAsync(ExportedWorkflow workflow, ImportCommand slice,
        Pb.ImportOutcome outcome, CancellationToken cancellationToken) =>
        await ledger.SubmitAsync(slice, cancellationToken) is Refused refused
            ? Answer(workflow, refused.Refusal)
            : Answer(workflow, outcome);

    private static Refusal? Unwanted(ExportedWorkflow workflow, Pb.ImportOptions options, long latest)
    {
        if (Limits.IsReserved(workflow.Key.Namespace))
        {
            return new Refusal(Reason.InvalidField,
                $"The namespace \"{workflow.Key.Namespace}\" is the service's own.", ("field", "namespace"));
        }
        if (workflow.RecordedAt > latest)
        {
            return new Refusal(Reason.InvalidField,
                $"The records of {workflow.Key} are from the future: more than 5 minutes ahead of the database's clock.",
                ("field", "recorded_at"));
        }
        return workflow.Status == WorkflowStatus.Running && !options.TakeOver
            ? new Refusal(Reason.InvalidField,
                "It is RUNNING: stop its workers at the source, and then import it with take_over.",
                ("field", "options.take_over"))
            : null;
    }

    /// <summary>
    /// Passes over the records that are here already, and gathers what later ERASUREs of the export take from them.
    /// Erased here and not there stays erased.
    /// </summary>
    private async Task<Refusal?> SkipCommonAsync(ExportedWorkflow workflow, Workflow local, ExportReader file,
        List<ErasedValues> erased, CancellationToken cancellationToken)
    {
        var erasures = workflow.Erasures.Where(e => e.Sequence > local.Sequence).Select(e => e.Erasure).ToList();
        var here = new Queue<StoredRecord>();
        var common = Math.Min(local.Sequence, (long)workflow.Header.Records);
        for (long sequence = 1; sequence <= common; sequence++)
        {
            if (here.Count == 0)
            {
                foreach (var stored in await store.ReadChainAsync(
                    workflow.Key, sequence, descending: false, PageSize, cancellationToken))
                {
                    here.Enqueue(stored);
                }
            }
            var incoming = NextRecord(file);
            if (!here.TryDequeue(out var record) || record.Hash != incoming.Hash)
            {
                return Refusal.Conflict(Reason.WorkflowAlreadyExists,
                    $"The workflow {workflow.Key} is here with another history, from sequence {sequence} on.", local);
            }
            var values = new ErasedValues(workflow.Key, sequence,
                record.Record.Person is not null && erasures.Exists(e => e.Covers(sequence, "person")),
                record.Record.Content is not null && erasures.Exists(e => e.Covers(sequence, "content")),
                record.Record.Snapshot is not null && erasures.Exists(e => e.Covers(sequence, "snapshot")),
                record.Record.Snapshot is { } part && erasures.Exists(e => e.CoversBytes(sequence))
                    && !workflow.Keeps(part.Sha256) ? part.Sha256 : null);
            if (values is not { Person: false, Content: false, Snapshot: false, Bytes: null })
                erased.Add(values);
        }
        return null;
    }

    private static ImportCommand NextSlice(ExportedWorkflow workflow, ExportReader file, Workflow? local,
        List<ErasedValues> erased, HashSet<Hash> sent, Origin origin)
    {
        var records = new List<StoredRecord>();
        var snapshots = new List<Snapshot>();
        var bytes = 0;
        var hasErasure = false;
        var isLast = false;
        while (!isLast && records.Count < SliceRecords && bytes < SliceBytes)
        {
            var record = NextRecord(file);
            if (record.Record.Snapshot is { } part && workflow.Keeps(part.Sha256)
                && workflow.Snapshots.TryGetValue(part.Sha256, out var position) && sent.Add(part.Sha256))
            {
                // From wherever the file has it: perhaps before a record that is here already, whose bytes were erased.
                var content = SnapshotAt(file, position);
                snapshots.Add(new Snapshot(workflow.Key, part.Sha256, content));
                bytes += content.Length;
            }
            records.Add(record);
            bytes += record.SizeEstimate();
            hasErasure |= record.Record.Kind == RecordKind.Erasure;
            isLast = (ulong)record.Record.Sequence == workflow.Header.Records;
        }
        var fork = workflow.Header.ForkedFrom;
        return new ImportCommand
        {
            Key = workflow.Key,
            Records = records,
            Snapshots = snapshots,
            ForkedFrom = local is null && fork is not null
                ? new ForkPoint(fork.WorkflowId, (long)fork.Sequence, new Hash(fork.Hash.Span))
                : local?.ForkedFrom,
            IsLast = isLast,
            // The database lets go of values only in the transaction that stores the ERASURE.
            Erased = hasErasure ? erased : [],
            LogEntry = StoreMonitor.SystemParts(new Core.Metadata(
            [
                KeyValuePair.Create("namespace", workflow.Key.Namespace),
                KeyValuePair.Create("workflow_id", workflow.Key.WorkflowId),
                KeyValuePair.Create("records", Refusal.Text(records[^1].Record.Sequence)),
                KeyValuePair.Create("head_hash", records[^1].Hash.ToString()),
                KeyValuePair.Create("log_id", workflow.LogId),
                .. origin.Entries,
            ])),
        };
    }

    /// <summary>The next record of a file that was judged before.</summary>
    private static StoredRecord NextRecord(ExportReader file)
    {
        while (true)
        {
            if (file.Read()!.Record is { } next)
                return next.Record.ToStoredRecord();
        }
    }

    /// <summary>A snapshot of a file that was judged before; leaves the position where it is.</summary>
    private static byte[] SnapshotAt(ExportReader file, long position)
    {
        var back = file.Position;
        file.Position = position;
        var assembly = new SnapshotAssembly();
        while (true)
        {
            if (assembly.Add(file.Read()!.Snapshot) is { } whole)
            {
                file.Position = back;
                return whole.Content;
            }
        }
    }

    private static Pb.ImportWorkflowsResponse Answer(ExportedWorkflow workflow, Pb.ImportOutcome outcome) => new()
    {
        Namespace = workflow.Key.Namespace,
        WorkflowId = workflow.Key.WorkflowId,
        Outcome = outcome,
    };

    private static Pb.ImportWorkflowsResponse Answer(ExportedWorkflow workflow, Refusal refusal)
    {
        var answer = Answer(workflow, Pb.ImportOutcome.Refused);
        (answer.Reason, answer.Message) = (refusal.Reason.Name(), refusal.Message);
        return answer;
    }

    /// <summary>What proved the export, for the log's own history: the key that was trusted and the head that it signed.</summary>
    private sealed class Origin(ExportReport report)
    {
        public IEnumerable<KeyValuePair<string, string>> Entries { get; } = report.SignedBy is { } key
            ?
            [
                KeyValuePair.Create("trusted_key", key.ToString()),
                KeyValuePair.Create("log_head", report.Manifest.LogHead),
            ]
            : [];
    }
}
