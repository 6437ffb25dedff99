using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

// Once more at the places of findings that were read before a repair and told after it: what is still so is kept, what the
// repair mended is not.
public sealed partial class Auditor
{
    private async Task<TimeSpan> LookAgainAsync(CancellationToken cancellationToken)
    {
        var overtaken = await findings.OvertakenAsync(cancellationToken);
        try
        {
            foreach (var told in overtaken.Select(o => o.Violation))
            {
                var size = (await store.ReadHeadAsync(cancellationToken))?.Size ?? 0;
                var found = await FindAgainAsync(told, size, cancellationToken);
                findings.Report([.. found.Select(v => v with { LastGoodLogSize = told.LastGoodLogSize })], size);
            }
        }
        catch
        {
            // They are overtaken still, and come back.
            foreach (var one in overtaken)
                findings.Report([one.Violation], one.ReadAt);
            throw;
        }
        return Patience;
    }

    /// <summary>What is wrong now with the workflow, and at the place in the log, that a finding tells of.</summary>
    internal async Task<IReadOnlyList<Violation>> FindAgainAsync(Violation told, long size, CancellationToken cancellationToken)
    {
        var found = new List<Violation>();
        if (told.Class is ViolationClass.LogRolledBack)
            return found;
        if (!told.IsOfLog)
            found.AddRange(await repairer.VerifyAsync(told.Key, new Repair { Key = told.Key }, cancellationToken));
        var index = told.LogIndex ?? -1;
        var run = new LogRun(store, new LogVerifier(
            await TrustedStartAsync(store, signer, Math.Clamp(index, 0, size), cancellationToken), row => signer.Verify(row.SignedNote)));
        if (index >= 0)
        {
            await foreach (var page in run.PagesAsync(size, cancellationToken))
            {
                var step = await run.JudgeAsync(page, cancellationToken);
                found.AddRange(step.Violations);
                found.AddRange(await run.CheckSnapshotsAsync(step.Carried.Where(s => s.Key == told.Key), cancellationToken));
                // Missing heads make a page end early.
                if (run.Size > index)
                    break;
            }
        }
        if (!told.IsOfLog)
            found.AddRange(await run.CheckHeadsOfAsync([told.Key], cancellationToken));
        found.AddRange(await run.CheckStraysAsync(
            size, all: told.Class is ViolationClass.TileModified or ViolationClass.WorkflowHeadModified, cancellationToken));
        if (told.Class == ViolationClass.TileModified && await IsHighTileWrongAsync(index, size, cancellationToken))
            found.Add(told);
        // What else there is is found where it is. A record that is gone may have no name any more but the one that it was told by.
        return [.. found.Where(v => v.LogIndex == told.LogIndex && (told.IsOfLog || v.IsOfLog) || v.Key == told.Key)
            .Select(v => v.IsOfLog && !told.IsOfLog ? told : v)
            .GroupBy(v => (v.Class, v.Key, v.Sequence, v.LogIndex)).Select(g => g.First())];
    }

    /// <summary>Whether a tile above the lowest level that begins at a place is not made of those below it.</summary>
    private async Task<bool> IsHighTileWrongAsync(long index, long size, CancellationToken cancellationToken)
    {
        for (var level = 1; ; level++)
        {
            var shift = Tile.Levels * (level + 1);
            var place = index >> shift;
            if (index < 0 || place << shift != index || size >> shift <= place)
                return false;
            var below = await store.ReadTilesAsync(level - 1, place * Tile.Width, (place + 1) * Tile.Width, cancellationToken);
            var roots = below.Select(t => t.Root).ToList();
            if (await store.FindTileAsync(level, place, cancellationToken) is not { } tile
                || !tile.Hashes.SequenceEqual(roots) || tile.Tile.Root != MerkleTree.Root([.. roots]))
            {
                return true;
            }
        }
    }
}
