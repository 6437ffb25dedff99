using System.CommandLine;
using System.Globalization;
using Aegis.Core;
using Aegis.Evidence;
using Grpc.Core;
using Command = System.CommandLine.Command;

namespace Aegis.Cli;

using Pb = Aegis.V1;

/// <summary>The head of the log: to show, and to keep elsewhere.</summary>
internal static class HeadCommand
{
    private static readonly TimeSpan IntervalMax = TimeSpan.FromDays(1);

    public static Command Create()
    {
        var keys = TrustedKeys.Option("--key", "Demand that the head is signed by this key.");
        var command = Session.Define("head", "Show the signed head of the log, or keep it and watch what follows.", async session =>
        {
            var head = await session.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest(), session.Unary);
            var trusted = TrustedKeys.Of(session.Get(keys));
            if (trusted.Count > 0 && LogHead.Verify(head.SignedNote, trusted, Ed25519Signatures.Check) is null)
                throw new HeadAlarmException("SIGNATURE_INVALID", "The head is not signed by a trusted key.", null, head.SignedNote);
            session.Output.Message(head);
            foreach (var line in head.SignedNote.TrimEnd('\n').Split('\n'))
                session.Output.Line(line);
            return ExitCode.Success;
        }, keys);
        command.Add(Watch());
        return command;
    }

    private static Command Watch()
    {
        var state = new Option<string>("--state")
        {
            Description = "The file that keeps the head; made at first use. Keep it out of reach of whoever runs the log.",
            HelpName = "FILE",
            Required = true,
        };
        var keys = TrustedKeys.Option("--key", "The log's key. Without one, that of the first use is trusted.");
        var interval = Inputs.Text("--interval", "TIME", "How often to look: 10s, 5m, 1h; 10s by default.");
        var once = new Option<bool>("--once") { Description = "Look once, as for cron, and do not wait for a server that is away." };
        var accepted = Inputs.Many("--accept-generation", "LOG_ID",
            "Go on with this new log_id, which began when an operator accepted a loss. May be repeated.");
        return Session.Define("watch", "Keep the last head seen, and demand proof that each newer one continues it. Exit code 1, and both "
            + "heads told, when one does not: history was taken back or rewritten. Trouble with the network is retried.",
            async session =>
            {
                var watch = new HeadWatch(session, session.Get(state), TrustedKeys.Of(session.Get(keys)), session.Get(accepted));
                return session.Get(once)
                    ? await watch.LookAsync()
                    : await watch.FollowAsync(IntervalOf(session.Get(interval) ?? "10s"));
            }, state, keys, interval, once, accepted);
    }

    private static TimeSpan IntervalOf(string text)
    {
        var (unit, digits) = text switch
        {
            [.. var d, 'm', 's'] => (TimeSpan.FromMilliseconds(1), d),
            [.. var d, 's'] => (TimeSpan.FromSeconds(1), d),
            [.. var d, 'm'] => (TimeSpan.FromMinutes(1), d),
            [.. var d, 'h'] => (TimeSpan.FromHours(1), d),
            _ => (TimeSpan.FromSeconds(1), text),
        };
        return int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var count)
            && count > 0 && count * unit <= IntervalMax
            ? count * unit
            : throw new UsageException($"--interval {text}: expected a time such as 10s, 5m or 1h, of a day at most.");
    }
}

/// <summary>One run of `aegis head watch`.</summary>
internal sealed class HeadWatch(Session session, string path, List<VerifierKey> keys, string[] accepted)
{
    private readonly HeadFile _file = new(path);

    // Made when the state is read; the keys are those given, else those kept with the head.
    private HeadKeeper? _keeper;
    private List<VerifierKey> _trusted = [];

    /// <summary>Looks once.</summary>
    public async Task<int> LookAsync()
    {
        try
        {
            while (true)
            {
                // Before the server is asked: its head may then be no smaller than what others have kept.
                var stored = await TakeOverAsync();
                var response = await session.Integrity.GetLogHeadAsync(new Pb.GetLogHeadRequest(), session.Unary);
                var before = _keeper?.Kept;
                var step = await StepAsync(response);
                if (await KeepAsync(stored))
                {
                    Tell(step, before, _keeper!.Kept!);
                    return ExitCode.Success;
                }
                // Another process was faster: what that one has kept comes first.
            }
        }
        catch (HeadAlarmException e) when (e.NewNote.Length > 0)
        {
            // Both notes are signed: together they prove what happened, to anybody.
            await OnFileAsync(() => _file.RejectAsync(e.NewNote, CancellationToken.None));
            throw;
        }
    }

    /// <summary>Looks again and again until it is interrupted.</summary>
    public async Task<int> FollowAsync(TimeSpan interval)
    {
        var hasToldTrouble = false;
        try
        {
            while (true)
            {
                try
                {
                    await LookAsync();
                    hasToldTrouble = false;
                }
                catch (RpcException e) when (!IsAlarm(e) && !session.Cancellation.IsCancellationRequested)
                {
                    if (!hasToldTrouble)
                        session.Output.Notice($"{Failure.Of(e)} Looking again every {interval.TotalSeconds:0.###} s.");
                    hasToldTrouble = true;
                }
                await Task.Delay(interval, session.Cancellation);
            }
        }
        catch (Exception e) when (session.Cancellation.IsCancellationRequested
            && e is OperationCanceledException or RpcException { StatusCode: StatusCode.Cancelled })
        {
            return ExitCode.Success;
        }
    }

    /// <summary>Reads the state, and goes on from it: other processes that share the file may have seen more.</summary>
    private async Task<KeptHead?> TakeOverAsync()
    {
        KeptHead? stored = null;
        await OnFileAsync(async () => stored = await _file.ReadAsync(session.Cancellation));
        if (stored is null || stored.SignedNote == _keeper?.KeptNote)
            return stored;
        if (_keeper is not null)
        {
            await ProvenAsync(stored.SignedNote, () => _keeper.TakeOverAsync(stored.SignedNote, session.ConsistencyAsync, session.Cancellation));
            return stored;
        }
        _trusted = keys.Count > 0 ? keys : TrustedKeys.Of([.. stored.VerifierKeys.Where(k => !k.StartsWith('@'))]);
        try
        {
            _keeper = new HeadKeeper(_trusted, stored.SignedNote, accepted);
        }
        catch (FormatException e)
        {
            throw new UsageException($"{path}: {e.Message}");
        }
        return stored;
    }

    private async Task<HeadStep> StepAsync(Pb.GetLogHeadResponse response)
    {
        if (_keeper is null)
        {
            _trusted = keys.Count > 0 ? keys : Introduced(response);
            _keeper = new HeadKeeper(_trusted, null, accepted);
        }
        var step = HeadStep.Same;
        await ProvenAsync(response.SignedNote,
            async () => step = await _keeper.AdvanceAsync(response.SignedNote, session.ConsistencyAsync, session.Cancellation));
        return step;
    }

    /// <summary>Writes the head that is kept now, if it is another than the file holds.</summary>
    /// <returns>Whether the file holds it; not where another process has written meanwhile.</returns>
    private async Task<bool> KeepAsync(KeptHead? stored)
    {
        var kept = new KeptHead(_keeper!.KeptNote!, [.. _trusted.Select(k => k.ToString())]);
        var isKept = kept.SignedNote == stored?.SignedNote;
        if (!isKept)
            await OnFileAsync(async () => isKept = await _file.ReplaceAsync(kept, stored, session.Cancellation));
        return isKept;
    }

    /// <summary>Does what needs a proof of the server, which may say itself that it has none.</summary>
    private async Task ProvenAsync(string note, Func<Task> act)
    {
        try
        {
            await act();
        }
        catch (RpcException e) when (IsAlarm(e))
        {
            throw new HeadAlarmException("LOG_FORKED", $"The server cannot prove that its log continues the kept one: {e.Status.Detail}",
                _keeper?.KeptNote, note);
        }
        catch (RpcException e) when (e.StatusCode == StatusCode.OutOfRange)
        {
            throw new HeadAlarmException("LOG_ROLLED_BACK", $"The log has fewer records than it had: {e.Status.Detail}", _keeper?.KeptNote, note);
        }
    }

    private static async Task OnFileAsync(Func<Task> act)
    {
        try
        {
            await act();
        }
        catch (Exception e) when (e is InvalidDataException or IOException or UnauthorizedAccessException)
        {
            throw new UsageException(e.Message);
        }
    }

    /// <summary>The keys that a server says are its own: trusted once, by whoever gave none.</summary>
    private static List<VerifierKey> Introduced(Pb.GetLogHeadResponse response)
    {
        try
        {
            return [.. response.VerifierKeys.Select(VerifierKey.Parse)];
        }
        catch (FormatException e)
        {
            throw new HeadAlarmException("SIGNATURE_INVALID", $"The server's own verifier key is none: {e.Message}", null,
                response.SignedNote);
        }
    }

    private void Tell(HeadStep step, LogHead? before, LogHead head)
    {
        session.Output.Object(new
        {
            step = Output.Name(step),
            log_id = head.LogId,
            size = head.Size,
            root = head.Root.ToString(),
            previous_size = before?.Size,
        });
        session.Output.Line(step switch
        {
            HeadStep.First => $"kept     {HeadText.Of(head)}",
            HeadStep.Same => $"same     {HeadText.Of(head)}",
            HeadStep.Grown => $"grown    {HeadText.Of(head)}, continues size {before!.Size}",
            _ => $"accepted {HeadText.Of(head)}, which does not hold all that was kept: {HeadText.Of(before!)}",
        });
        if (step == HeadStep.First)
        {
            session.Output.Notice(keys.Count > 0
                ? $"FIRST USE: {path} held nothing. This head is trusted as it is, since the key has signed it; from now on each must continue it."
                : $"FIRST USE: {path} held nothing and no --key was given. This head and its key are trusted as they are: {_trusted[0]}");
        }
    }

    /// <summary>The server says itself that what it stores proves nothing.</summary>
    private static bool IsAlarm(RpcException e) => e.StatusCode == StatusCode.DataLoss;
}
