using Aegis.Backup;
using Aegis.Core;
using Aegis.Evidence;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>One run of `aegis backup create` or `aegis backup prove`.</summary>
internal sealed class BackupRun(Session session, List<VerifierKey> keys, bool isOffline, RestoreOptions restore, string actor, string reason)
{
    /// <summary>Takes a backup and proves it. A crash or an interruption leaves it unproven, or nothing.</summary>
    public async Task<int> CreateAsync(BackupSource source, string to, string? name)
    {
        // Whatever can be known to fail fails before anything is written.
        await source.PrepareAsync(session.Cancellation);
        await RestoredCopy.PrepareAsync(source.Form, restore, session.Cancellation);
        var before = isOffline ? null : (await ServerHeadAsync()).Head;
        using var directory = BackupDirectory.Open(to, create: true);
        var takenAt = DateTimeOffset.UtcNow;
        var path = directory.PathOf(name, source.Suffix, takenAt);
        var note = await BackupDirectory.TakeAsync(source, path, takenAt, session.Cancellation);
        session.Output.Line($"taken    {path}, {note.Bytes} bytes");
        return await ProveAsync(path, note, before?.Size ?? 0, LocationOf(path));
    }

    /// <summary>Proves a backup that is there.</summary>
    public async Task<int> ProveAsync(string path, string? location)
    {
        path = Path.GetFullPath(path);
        if (Path.EndsInDirectorySeparator(path))
            path = Path.TrimEndingDirectorySeparator(path);
        var note = BackupNote.Read(path + BackupNote.Suffix);
        // Before the long work: a server that is away, or of another key, is better told of now.
        if (!isOffline)
            await ServerHeadAsync();
        try
        {
            if (note is not null)
                await BackupDirectory.DemandUnchangedAsync(path, note, session.Cancellation);
            return await ProveAsync(path, note, 0, location ?? LocationOf(path));
        }
        catch (BackupException e) when (e.Problem == BackupProblem.Damaged && note?.Proof is not null)
        {
            // What was proven once is no longer: it must not be kept in the place of one that is.
            Keep(path, note with { Proof = null });
            throw;
        }
    }

    private async Task<int> ProveAsync(string path, BackupNote? note, long sizeMin, string location)
    {
        var form = RestoredCopy.FormOf(path);
        var proof = await VerifyAsync(path);
        session.Output.Line($"proven   {proof.Records} records, {proof.Snapshots} snapshots: {HeadText.Of(proof.Head)}");
        if (proof.Head.Size < sizeMin)
        {
            throw new BackupException(BackupProblem.Failed,
                $"The backup holds {proof.Head.Size} records, and the server had {sizeMin} when it was begun: the database that was copied is not "
                + "the one that the server writes to, or a standby of it that is behind.");
        }
        var answer = isOffline ? null : await CountAsync(form, proof, location);
        if (note is not null)
            Keep(path, note with { Proof = Proven(proof, (long?)answer?.Record.LogIndex ?? note.Proof?.RecordedAs) });
        session.Output.Object(new
        {
            file = path,
            kind = KindOf(form),
            log_id = proof.Head.LogId,
            size = proof.Head.Size,
            root = proof.Head.Root.ToString(),
            records = proof.Records,
            snapshots = proof.Snapshots,
            recorded_as = answer?.Record.LogIndex,
            covered_until = answer?.CoveredUntil.ToDateTimeOffset(),
        });
        session.Output.Line(answer is null
            ? "not counted: no server was asked, so that it is not known whether its log continues this backup"
            : $"counted  as record {answer.Record.LogIndex} of the log; it holds all that was recorded until {Output.Time(answer.CoveredUntil)}");
        return ExitCode.Success;
    }

    private async Task<BackupProof> VerifyAsync(string path)
    {
        BackupProof? proof = null;
        await session.Output.ProgressAsync("Proving", 1, async advance =>
        {
            var done = 0.0;
            await using var copy = await RestoredCopy.RestoreAsync(path, restore, session.Cancellation);
            proof = await BackupProof.OfAsync(copy.Store, keys, (verified, total) =>
            {
                advance(((double)verified / total) - done);
                done = (double)verified / total;
            }, session.Cancellation);
        });
        return proof!;
    }

    /// <summary>Has the server count a backup, once it was found that the server's log continues it.</summary>
    private async Task<Pb.RecordBackupResponse> CountAsync(BackupForm form, BackupProof proof, string location)
    {
        await DemandContinuedAsync(proof);
        var request = new Pb.RecordBackupRequest
        {
            SignedHead = proof.SignedHead,
            Kind = KindOf(form),
            Location = location,
            Actor = actor,
            Reason = reason,
        };
        // Without a request_id and still safe to repeat: at worst the log tells of the same backup twice.
        return await session.WriteAsync("", options => session.Integrity.RecordBackupAsync(request, options));
    }

    /// <exception cref="HeadAlarmException">The server's log does not continue the backup.</exception>
    private async Task DemandContinuedAsync(BackupProof proof)
    {
        var (server, note) = await ServerHeadAsync();
        var backup = proof.Head;
        if (LogName.Split(server.LogId).Base != LogName.Split(backup.LogId).Base)
            throw Alarm("LOG_ID_CHANGED", "The backup is of another log than the server's.");
        if (backup.Size > server.Size)
        {
            throw Alarm("LOG_ROLLED_BACK", $"The backup holds {backup.Size} records and the server's log has {server.Size}: the server's database was "
                + "taken back behind it. Keep this backup, which holds what is lost there.");
        }
        if (!await HeadKeeper.IsContinuationAsync(backup, server, session.ConsistencyAsync, session.Cancellation))
        {
            throw Alarm("LOG_FORKED", "The server's log does not continue the backup: one of the two was rewritten, or the log was taken back and "
                + "grew again. Keep this backup.");
        }

        HeadAlarmException Alarm(string why, string message) => new(why, message, proof.SignedHead, note);
    }

    private async Task<(LogHead Head, string Note)> ServerHeadAsync()
    {
        var answer = await session.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest(), session.Unary);
        return (TrustedHead.Verify(answer.SignedNote, keys) ?? throw new HeadAlarmException("SIGNATURE_INVALID",
            "The server's head is not signed by a key that was given with --key.", null, answer.SignedNote), answer.SignedNote);
    }

    private void Keep(string path, BackupNote note)
    {
        try
        {
            note.Write(path + BackupNote.Suffix);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            session.Output.Notice($"What is known of the backup cannot be noted beside it: {e.Message}");
        }
    }

    private static BackupNoteProof Proven(BackupProof proof, long? recordedAs) => new()
    {
        ProvenAt = DateTimeOffset.UtcNow,
        SignedHead = proof.SignedHead,
        LogId = proof.Head.LogId,
        Size = proof.Head.Size,
        Root = proof.Head.Root.ToString(),
        Records = proof.Records,
        Snapshots = proof.Snapshots,
        RecordedAs = recordedAs,
    };

    private static string KindOf(BackupForm form) => form switch
    {
        BackupForm.Sqlite => "sqlite",
        BackupForm.PgDump => "pg_dump",
        _ => "data_directory",
    };

    private static string LocationOf(string path) => $"{Environment.MachineName}:{path}";
}
