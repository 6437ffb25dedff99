using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// What the writer does when the store fails it.
public sealed partial class Ledger
{
    /// <summary>How long it is tried to make sure of an unknown outcome before the callers are told so.</summary>
    private static readonly TimeSpan ConfirmPatience = TimeSpan.FromSeconds(20);

    /// <summary>Short, since all callers wait: it is most of what a restart of the database costs them.</summary>
    private static readonly TimeSpan ConfirmDelayMax = TimeSpan.FromMilliseconds(250);

    private async Task RecoverAsync(List<Pending> commands, LedgerBatch? batch, Outcome[] outcomes,
        StoreException e, bool isSecondTry)
    {
        switch (e.Failure)
        {
            case StoreFailure.Rejected or StoreFailure.Damaged when commands.Count > 1:
                logger.LogWarning(e, "The store refused something in a batch of {Commands}; looking for it", commands.Count);
                await SplitAsync(commands);
                break;
            case StoreFailure.OutcomeUnknown:
                StoreFailed?.Invoke(e.Failure);
                logger.LogWarning(e, "The outcome of a batch of {Commands} is unknown; making sure", commands.Count);
                await MakeSureAsync(commands, batch!, outcomes, isSecondTry);
                break;
            default:
                StoreFailed?.Invoke(e.Failure);
                // The monitor tells of it once; each batch would be a flood.
                logger.LogDebug(e, "A batch of {Commands} was not written: {Failure}", commands.Count, e.Failure);
                Fail(commands, e);
                break;
        }
    }

    /// <summary>Finds the command that spoils a batch by halving, so that it fails alone.</summary>
    private async Task SplitAsync(IReadOnlyList<Pending> commands)
    {
        var half = commands.Count / 2;
        foreach (var part in new[] { commands.Take(half).ToList(), commands.Skip(half).ToList() })
        {
            try
            {
                await WriteAsync(part);
            }
            catch (Exception e)
            {
                logger.LogError(e, "A command failed");
                FailAll(part, e);
            }
        }
    }

    /// <summary>
    /// Finds out whether a batch of unknown outcome was stored, and then answers as if nothing had been. Nobody hears of
    /// success before one more commit has covered it. What was not stored is simply written again, once.
    /// </summary>
    private async Task MakeSureAsync(List<Pending> commands, LedgerBatch batch, Outcome[] outcomes,
        bool isSecondTry)
    {
        var until = DateTime.UtcNow + ConfirmPatience;
        for (var delay = TimeSpan.FromMilliseconds(50); ; delay = Min(delay * 2, ConfirmDelayMax))
        {
            try
            {
                if (await WasStoredAsync(batch))
                    Answer(commands, batch, outcomes, TimeSpan.Zero);
                else if (isSecondTry)
                    Fail(commands, new StoreException(StoreFailure.Unavailable, "The commit failed twice."));
                else
                    await WriteAsync(commands, isSecondTry: true);
                return;
            }
            catch (StoreException e) when (DateTime.UtcNow + delay < until)
            {
                logger.LogDebug(e, "Cannot make sure yet");
                await Task.Delay(delay);
            }
            catch (StoreException e)
            {
                logger.LogError(e, "The outcome of a batch of {Commands} stays unknown", commands.Count);
                Fail(commands, new StoreException(StoreFailure.OutcomeUnknown, e.Message, e));
                return;
            }
        }
    }

    private async Task<bool> WasStoredAsync(LedgerBatch batch)
    {
        if (batch.Records.Count > 0)
        {
            var first = batch.Records[0];
            return await store.ConfirmAsync(first.LogIndex, first.Hash, CancellationToken.None);
        }
        // Leases alone leave no record: compare them, after the confirming write.
        await store.ConfirmAsync(0, Hash.Zero, CancellationToken.None);
        var leases = batch.Leases.ToList();
        await using var look = await store.BeginAsync([.. leases.Select(l => l.Key)], [], memory.Size, CancellationToken.None);
        var stored = look.State.Workflows.ToDictionary(w => w.Key, w => w.Lease);
        return leases.TrueForAll(l => stored.GetValueOrDefault(l.Key) == l.Lease);
    }

    private static void Fail(IReadOnlyList<Pending> commands, StoreException e)
    {
        foreach (var pending in commands)
        {
            if (StatusMapping.ToRefusal(e) is not { } refusal)
            {
                pending.Completion.TrySetException(e);
                continue;
            }
            // With a request_id the caller can simply ask again.
            if (pending.Command is WriteCommand { RequestId.Length: > 0 } write)
                refusal = refusal with { Facts = new Dictionary<string, string> { ["request_id"] = write.RequestId } };
            pending.Completion.TrySetException(new RefusalException(refusal, e));
        }
    }

    private static TimeSpan Min(TimeSpan a, TimeSpan b) => a < b ? a : b;
}
