using System.Numerics;
using Aegis.Core;

namespace Aegis.Server;

/// <summary>
/// The inclusion paths of many leaves at one size of the log: what lies at the tree's right edge is computed once. Used by one
/// task.
/// </summary>
public sealed class InclusionPaths(LogProofs proofs, SealedHead head)
{
    // The hashes at the tree's right edge, whose subtrees are not complete: one for each level at most.
    private readonly Dictionary<LeafRange, Hash> _edges = [];

    /// <summary>The path of a record, and whether it leads to the head.</summary>
    public async ValueTask<(IReadOnlyList<Hash> Path, bool IsProof)> OfAsync(
        StoredRecord record, CancellationToken cancellationToken)
    {
        if (record.LogIndex < 0 || record.LogIndex >= head.Head.Size)
            return ([], false);
        var ranges = MerkleTree.InclusionPath(record.LogIndex, head.Head.Size);
        var path = new Hash[ranges.Count];
        for (var i = 0; i < path.Length; i++)
            path[i] = await HashAsync(ranges[i], cancellationToken);
        var isProof = MerkleTree.VerifyInclusion(
            (ulong)record.LogIndex, (ulong)head.Head.Size, record.Hash, path, head.Head.Root);
        if (!isProof)
        {
            // A tile may have been altered, or repaired since it was read.
            proofs.Forget();
            _edges.Clear();
        }
        return (path, isProof);
    }

    private async ValueTask<Hash> HashAsync(LeafRange range, CancellationToken cancellationToken)
    {
        var size = range.To - range.From;
        if (BitOperations.IsPow2(size))
        {
            var level = BitOperations.Log2((ulong)size);
            return await proofs.HashAsync(new Subtree(level, range.From >> level), cancellationToken);
        }
        if (_edges.TryGetValue(range, out var known))
            return known;
        Hash? hash = null;
        foreach (var subtree in range.Subtrees().Reverse())
        {
            var left = await proofs.HashAsync(subtree, cancellationToken);
            hash = hash is { } right ? MerkleTree.Node(left, right) : left;
        }
        return _edges[range] = hash!.Value;
    }
}
