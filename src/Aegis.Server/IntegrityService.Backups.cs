using Aegis.Core;
using Aegis.Storage;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace Aegis.Server;

using Pb = Aegis.V1;

// Backups that were proven good elsewhere.
public sealed partial class IntegrityService
{
    private const int LocationBytesMax = 1024;

    public override async Task<Pb.RecordBackupResponse> RecordBackup(Pb.RecordBackupRequest request, ServerCallContext context)
    {
        var fields = new Fields();
        var (actor, reason) = OperatorOf(fields, request.Actor, request.Reason);
        var kind = fields.Required("kind", request.Kind);
        var location = fields.Text("location", request.Location, LocationBytesMax);
        var said = signer.Verify(request.SignedHead);
        if (request.SignedHead.Length == 0)
            fields.Wrong("signed_head", "is required");
        else if (said is null || said.Size == 0)
            fields.Wrong("signed_head", "is not a head that this log's key has signed");
        fields.Check();

        await DemandContinuedAsync(said!, context.CancellationToken);
        var now = Mapping.ToMicroseconds(Timestamp.FromDateTimeOffset(time.GetUtcNow()));
        var missing = await store.ListRecordsAsync(new RecordFilter(), said!.Size, descending: false, 1, context.CancellationToken);
        var backup = new ProvenBackup(said, kind, location, missing is [var first, ..] ? first.Record.RecordedAt : now);
        var record = await ActAsync(
            new LogActCommand(LogActCommand.BackupProven, OperatorParts(actor, reason, backup.ToMetadata())), context);
        backups.Note(record);
        return new Pb.RecordBackupResponse { Record = record.ToPb(), CoveredUntil = Mapping.ToTimestamp(backup.CoveredUntil) };
    }

    /// <exception cref="RefusalException">The head is not one that this log has had.</exception>
    private async Task DemandContinuedAsync(LogHead said, CancellationToken cancellationToken)
    {
        var newest = await NewestHeadAsync(cancellationToken);
        if (LogName.Split(said.LogId).Base != LogName.Split(newest.Head.LogId).Base)
        {
            throw new RefusalException(Refusal.Invalid("signed_head",
                $"is of the log \"{said.LogId}\", and this one is \"{newest.Head.LogId}\""));
        }
        SizeWithin(said.Size, newest.Head.Size, "signed_head");
        if (await RootAsync(said.Size, newest, cancellationToken) == said.Root)
            return;
        // A tile that is kept in memory may have been repaired since.
        proofs.Forget();
        if (await RootAsync(said.Size, newest, cancellationToken) != said.Root)
        {
            throw new RefusalException(new Refusal(Reason.LogForked,
                $"This log does not continue the head of {said.Size} records that the backup has: one of the two was rewritten, or was "
                + "taken back and grew again.",
                ("log_id", newest.Head.LogId), ("size", Refusal.Text(said.Size)), ("root", said.Root.ToString())));
        }
    }
}
