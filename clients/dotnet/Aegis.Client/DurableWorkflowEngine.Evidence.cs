using Aegis.Core;
using Aegis.Evidence;
using Google.Protobuf;
using Grpc.Core;

namespace Aegis.Client;

using Pb = Aegis.V1;

/// <summary>Which workflows to export; all that every filter given matches.</summary>
public sealed record ExportFilter
{
    /// <summary>One workflow; empty for all that the filters below match. Not with any of them.</summary>
    public string WorkflowId { get; init; } = "";

    /// <summary>Only these types; empty for all.</summary>
    public IReadOnlyList<string> WorkflowTypes { get; init; } = [];

    /// <summary>Only these states; empty for all.</summary>
    public IReadOnlyList<string> States { get; init; } = [];

    /// <summary>Only these statuses; empty for all.</summary>
    public IReadOnlyList<WorkflowStatus> Statuses { get; init; } = [];

    /// <summary>Only workflows whose metadata has all of these entries.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; init; } = new Dictionary<string, string>();
}

/// <summary>How to import.</summary>
public sealed record ImportDetails
{
    /// <summary>The verifier keys of the logs whose exports are trusted.</summary>
    public IReadOnlyList<string> TrustedKeys { get; init; } = [];

    /// <summary>Take an export whose origin no signature proves. Its chains are verified all the same.</summary>
    public bool AllowUnproven { get; init; }

    /// <summary>Also take workflows that are RUNNING: only once their workers at the source have stopped.</summary>
    public bool TakeOver { get; init; }
}

/// <summary>What became of one workflow of an import.</summary>
/// <param name="Key">The workflow.</param>
/// <param name="Outcome">What became of it.</param>
/// <param name="Reason">Why it was refused, one of ErrorReason without its prefix; empty otherwise.</param>
/// <param name="Message">Why it was refused, for people to read; empty otherwise.</param>
public sealed record ImportedWorkflow(WorkflowKey Key, Pb.ImportOutcome Outcome, string Reason, string Message);

public sealed partial class DurableWorkflowEngine
{
    private const int ChunkBytes = 256 * 1024;

    /// <summary>How long moving files and whole histories may take.</summary>
    private static readonly TimeSpan TransferTimeout = TimeSpan.FromMinutes(10);

    /// <summary>
    /// Reads a workflow whole, with its proofs, and judges it without believing the server: every record, its place in the log,
    /// every snapshot, and by the log's signed statement that nothing is cut off its end. What is stored is judged as it is,
    /// altered or not. With trusted keys the head it rests on is linked with the kept one.
    /// </summary>
    /// <param name="workflowId">The workflow.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <returns>
    /// What is found: <see cref="ExportReport.IsProven"/> where a trusted key proves it; without trusted keys at best
    /// <see cref="ExportReport.IsIntact"/>, which says that it agrees with itself.
    /// </returns>
    /// <exception cref="IntegrityException">
    /// What came is not even a whole answer, is not of this workflow alone, or contradicts the kept head.
    /// </exception>
    public async Task<ExportReport> VerifyIntegrityAsync(string workflowId, CancellationToken cancellationToken = default)
    {
        var request = new Pb.ExportWorkflowsRequest { Namespace = _client.Namespace, WorkflowId = workflowId, AllowQuarantined = true };
        var temporary = new FileStreamOptions
        {
            Mode = FileMode.CreateNew,
            Access = FileAccess.ReadWrite,
            Options = FileOptions.DeleteOnClose,
        };
        if (!OperatingSystem.IsWindows())
            temporary.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        try
        {
            return await FetchAsync(request, () => new FileStream(Path.Combine(Path.GetTempPath(), $"aegis-{Guid.NewGuid():N}"), temporary),
                cancellationToken);
        }
        catch (FormatException e)
        {
            throw new IntegrityException("ANSWER", $"What came of {workflowId} cannot be read: {e.Message}.");
        }
    }

    /// <summary>
    /// Exports workflows into a file, which is verified before it gets its name: whole, intact, and with trusted keys proven.
    /// </summary>
    /// <param name="path">The file; one that is there is replaced once the new one is good.</param>
    /// <param name="filter">Which workflows; all by default.</param>
    /// <param name="cancellationToken">Gives up; nothing is left then.</param>
    /// <returns>What it holds.</returns>
    /// <exception cref="IntegrityException">What came is not intact, not proven, or not what was asked for.</exception>
    public async Task<ExportReport> ExportAsync(string path, ExportFilter? filter = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        filter ??= new ExportFilter();
        var request = new Pb.ExportWorkflowsRequest
        {
            Namespace = _client.Namespace,
            WorkflowId = filter.WorkflowId,
            WorkflowTypes = { filter.WorkflowTypes },
            States = { filter.States },
            Statuses = { filter.Statuses.Select(s => (Pb.WorkflowStatus)s) },
        };
        request.Metadata.Add(filter.Metadata.ToDictionary());
        var draft = $"{path}.{Guid.NewGuid():N}.part";
        try
        {
            var report = await FetchAsync(request, () => new FileStream(draft, FileMode.Create, FileAccess.ReadWrite), cancellationToken);
            if (!report.IsIntact)
            {
                var findings = report.Findings.Select(f => f.Violation).ToList();
                throw new IntegrityException("RECORD", $"The export is not intact: {findings[0].Key}: {findings[0].Message}", findings);
            }
            File.Move(draft, path, overwrite: true);
            return report;
        }
        catch (FormatException e)
        {
            throw new IntegrityException("ANSWER", $"What came cannot be read as an export: {e.Message}.");
        }
        finally
        {
            File.Delete(draft);
        }
    }

    /// <summary>Verifies an exported file, without any server.</summary>
    /// <param name="path">The file.</param>
    /// <param name="trustedKeys">
    /// The verifier keys of the log it came from. Without any it can only be found to agree with itself: see
    /// <see cref="ExportReport.IsProven"/>.
    /// </param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="FormatException">It is not a whole export, or a key is no verifier key.</exception>
    public static ExportReport VerifyExport(string path, IEnumerable<string> trustedKeys, CancellationToken cancellationToken = default)
    {
        var keys = trustedKeys.Select(VerifierKey.Parse).ToList();
        using var file = File.OpenRead(path);
        using var reader = new ExportReader(file);
        return ExportCheck.Read(reader, keys, cancellationToken);
    }

    /// <summary>Takes workflows from an exported file, with every hash as it was. An import that broke off is finished by calling again.</summary>
    /// <param name="path">The file.</param>
    /// <param name="details">Whom to trust, and what to take.</param>
    /// <param name="cancellationToken">Gives up; what was taken stays.</param>
    /// <returns>What became of each workflow, in the file's order.</returns>
    /// <exception cref="AegisException">The file is no export, or nothing that is trusted proves it.</exception>
    public async Task<IReadOnlyList<ImportedWorkflow>> ImportAsync(string path, ImportDetails? details = null, CancellationToken cancellationToken = default)
    {
        details ??= new ImportDetails();
        var import = new Pb.ImportOptions
        {
            TakeOver = details.TakeOver,
            AllowUnproven = details.AllowUnproven,
            TrustedKeys = { details.TrustedKeys },
        };
        var results = new OrderedDictionary<WorkflowKey, ImportedWorkflow>();
        return await _client.RetryAsync(async options =>
        {
            await using var file = File.OpenRead(path);
            using var call = _client.Recovery.ImportWorkflows(options);
            var sending = SendAsync(call.RequestStream, import, file, options.CancellationToken);
            await foreach (var answer in call.ResponseStream.ReadAllAsync(cancellationToken))
            {
                var key = new WorkflowKey(answer.Namespace, answer.WorkflowId);
                // A second attempt finds what the first has taken.
                if (answer.Outcome != Pb.ImportOutcome.Unchanged || !results.ContainsKey(key))
                    results[key] = new ImportedWorkflow(key, answer.Outcome, answer.Reason, answer.Message);
            }
            await sending;
            return (IReadOnlyList<ImportedWorkflow>)[.. results.Values];
        }, TransferTimeout, cancellationToken);
    }

    private static async Task SendAsync(IClientStreamWriter<Pb.ImportWorkflowsRequest> requests, Pb.ImportOptions options, FileStream file,
        CancellationToken cancellationToken)
    {
        try
        {
            await requests.WriteAsync(new Pb.ImportWorkflowsRequest { Options = options }, cancellationToken);
            var buffer = new byte[ChunkBytes];
            for (int read; (read = await file.ReadAsync(buffer, cancellationToken)) > 0;)
                await requests.WriteAsync(new Pb.ImportWorkflowsRequest { Chunk = ByteString.CopyFrom(buffer, 0, read) }, cancellationToken);
            await requests.CompleteAsync();
        }
        catch (Exception e) when (e is RpcException or InvalidOperationException)
        {
            // The server has ended the call; reading its answer tells why.
        }
    }

    /// <summary>Brings an export into a file, judges it under the trusted keys, and links its head with the kept one.</summary>
    /// <exception cref="FormatException">It is not a whole export.</exception>
    /// <exception cref="IntegrityException">It is sound perhaps, and of something else than was asked for.</exception>
    private async Task<ExportReport> FetchAsync(Pb.ExportWorkflowsRequest request, Func<FileStream> create, CancellationToken cancellationToken)
    {
        var trust = _client.Trust;
        var known = trust is null ? null : await trust.KnownAsync(cancellationToken);
        return await _client.RetryAsync(async options =>
        {
            await using var file = create();
            using (var call = _client.Recovery.ExportWorkflows(request, options))
            {
                await foreach (var piece in call.ResponseStream.ReadAllAsync(cancellationToken))
                    await file.WriteAsync(piece.Chunk.Memory, cancellationToken);
            }
            file.Flush(flushToDisk: true);
            file.Position = 0;
            using var reader = new ExportReader(file);
            var report = ExportCheck.Read(reader, trust?.Keys ?? [], cancellationToken);
            if (trust is not null)
                await trust.LinkAsync(report.Manifest.LogHead, known, null, cancellationToken);
            CheckAsked(request, report);
            return report;
        }, TransferTimeout, cancellationToken);
    }

    /// <summary>
    /// An export proves what it holds: that it holds the workflow that was asked for, and nothing of another namespace, is looked
    /// at here. An empty one would prove anything otherwise.
    /// </summary>
    private static void CheckAsked(Pb.ExportWorkflowsRequest request, ExportReport report)
    {
        var keys = report.Workflows.Select(w => w.Key).ToList();
        var asked = new WorkflowKey(request.Namespace, request.WorkflowId);
        if (asked.WorkflowId.Length > 0 && (keys.Count != 1 || keys[0] != asked))
        {
            throw new IntegrityException("ANSWER", keys.Count == 1
                ? $"The export of {asked} that came is one of {keys[0]}."
                : $"The export of {asked} that came has {keys.Count} workflows.");
        }
        if (keys.Any(k => k.Namespace != request.Namespace))
            throw new IntegrityException("ANSWER", $"The export of the namespace \"{request.Namespace}\" has a workflow of another.");
    }
}
