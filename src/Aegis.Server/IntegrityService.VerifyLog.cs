using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// The log as a whole.
public sealed partial class IntegrityService
{
    private const long ProgressRecords = 50_000;
    private static readonly TimeSpan ProgressInterval = TimeSpan.FromMilliseconds(400);

    public override Task VerifyLog(Pb.VerifyLogRequest request, IServerStreamWriter<Pb.VerifyLogResponse> responseStream,
        ServerCallContext context) => drain.StreamAsync(context, ending => VerifyLogAsync(request, responseStream, ending));

    private async Task VerifyLogAsync(Pb.VerifyLogRequest request, IServerStreamWriter<Pb.VerifyLogResponse> responseStream,
        CancellationToken cancellationToken)
    {
        var fields = new Fields();
        var from = fields.Integer("from_log_index", request.FromLogIndex);
        var to = fields.Integer("to_log_index", request.ToLogIndex);
        if (to > 0 && from > to)
            fields.Wrong("from_log_index", "must not be larger than to_log_index");
        fields.Check();

        var place = await reads.CurrentAsync(0, cancellationToken);
        // A newest head that nobody signed is a finding, and no reason to look no further.
        var head = await place.HeadAsync(cancellationToken) ?? throw new RefusalException(StatusMapping.StoreUnavailable);
        to = SizeWithin(to, head.Size, "to_log_index");
        if (from > to)
            SizeWithin(from, to, "from_log_index");
        var verification = new LogVerification(from, to, head.Size);
        await RunAsync(verification, place, responseStream, cancellationToken);
        await responseStream.WriteAsync(new Pb.VerifyLogResponse { Summary = verification.Summary() }, cancellationToken);
    }

    /// <summary>All cores read pages and hash their records, while one follows chains and tree and answers.</summary>
    private async Task RunAsync(LogVerification verification, ReadPlace place, IServerStreamWriter<Pb.VerifyLogResponse> stream,
        CancellationToken cancellationToken)
    {
        var start = await Auditor.TrustedStartAsync(place.Store, signer, verification.From, cancellationToken);
        var run = LogRun.OnAllCores(place.Store, new LogVerifier(start, row => signer.Verify(row.SignedNote)));
        reads.SendTo(place, run);
        verification.Run = run;
        var toldAt = time.GetTimestamp();
        await foreach (var page in run.PagesAsync(verification.End, cancellationToken))
        {
            var step = await run.JudgeAsync(page, cancellationToken);
            await TellAsync(step.Violations);
            await TellAsync(await run.CheckSnapshotsAsync(step.Carried, cancellationToken));
            var isEnd = run.Size >= verification.To;
            if (isEnd || run.Size - verification.ToldSize >= ProgressRecords || time.GetElapsedTime(toldAt) >= ProgressInterval)
            {
                // What is told as verified is verified with its heads: a broken stream goes on from there.
                await TellAsync(await run.CheckHeadsAsync(isEnd, verification.Broken, cancellationToken));
                await stream.WriteAsync(new Pb.VerifyLogResponse { Progress = verification.Progress() }, cancellationToken);
                toldAt = time.GetTimestamp();
            }
            if (isEnd)
                break;
        }
        if (verification.To == verification.End)
            await TellAsync(await run.CheckStraysAsync(verification.End, all: true, cancellationToken));

        async Task TellAsync(IReadOnlyList<Violation> violations)
        {
            var told = verification.Take(violations);
            findings.Report(told);
            foreach (var violation in await findings.AsKeptAsync(told, cancellationToken))
                await stream.WriteAsync(new Pb.VerifyLogResponse { Violation = violation.ToPb() }, cancellationToken);
        }
    }

    /// <summary>
    /// Compares the hashes of a workflow's records with those that the log's tiles have in their places. Where they differ, the
    /// log is verified there: it tells which of the two is right, and what was recorded.
    /// </summary>
    private async Task<IReadOnlyList<Violation>> CheckPlacesAsync(WorkflowKey key, ReadPlace place,
        List<(long LogIndex, Hash Hash)> places, IReadOnlyList<Violation> known, CancellationToken cancellationToken)
    {
        var violations = new List<Violation>();
        var verified = 0L;
        foreach (var (index, hash) in places.OrderBy(p => p.LogIndex))
        {
            if (index < verified || index < 0 || await place.Proofs.HashAsync(new Subtree(0, index), cancellationToken) == hash
                || await place.HeadAsync(cancellationToken) is not { } head || index >= head.Size)
            {
                continue;
            }
            place.Proofs.Forget();
            var start = await Auditor.TrustedStartAsync(place.Store, signer, index, cancellationToken);
            var run = new LogRun(place.Store, new LogVerifier(start, row => signer.Verify(row.SignedNote)));
            reads.SendTo(place, run);
            await foreach (var page in run.PagesAsync(head.Size, cancellationToken))
            {
                violations.AddRange((await run.JudgeAsync(page, cancellationToken)).Violations);
                break;
            }
            verified = run.Size;
        }
        // What else the page had is the auditor's to tell; what the chain told already needs not be told again.
        return [.. violations.Where(v => v.Key == key && !known.Any(k => k.Class == v.Class && k.Sequence == v.Sequence))];
    }

    /// <summary>What one call has found so far.</summary>
    private sealed class LogVerification(long from, long to, long end)
    {
        private long _violations;

        public long From => from;
        public long To => to;

        /// <summary>The size of the log when the call began.</summary>
        public long End => end;
        public long ToldSize { get; private set; }
        public LogRun? Run { get; set; }
        public HashSet<WorkflowKey> Broken { get; } = [];

        /// <summary>Those of the range; what had to be read around it is not asked for.</summary>
        public IReadOnlyList<Violation> Take(IReadOnlyList<Violation> violations)
        {
            if (violations.Count == 0)
                return violations;
            List<Violation> taken = [.. violations.Where(v => v.LogIndex is not { } index || (index >= from && index < to)
                || (v.Key == WorkflowKey.None && index == to) || (to == end && index >= end) || (from == 0 && index < 0))];
            _violations += taken.Count;
            Broken.UnionWith(taken.Select(v => v.Key));
            return taken;
        }

        public Pb.VerifyLogProgress Progress()
        {
            ToldSize = Run!.Size;
            return new Pb.VerifyLogProgress { Verified = (ulong)Verified, Total = (ulong)(to - from) };
        }

        public Pb.VerifyLogSummary Summary() => new()
        {
            Intact = _violations == 0,
            RecordsVerified = (ulong)Verified,
            SnapshotsVerified = (ulong)Run!.SnapshotsVerified,
            Violations = (ulong)_violations,
            LogHead = Run.Head?.SignedNote ?? "",
        };

        private long Verified => Math.Clamp(Run!.Size - from, 0, to - from);
    }
}
