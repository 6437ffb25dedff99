using System.Numerics;

namespace Aegis.Core;

/// <summary>
/// The Merkle tree of RFC 6962, section 2.1, over the hashes of the log's records. A record's hash is its leaf hash already,
/// SHA-256( 0x00 ‖ record ); node = SHA-256( 0x01 ‖ left ‖ right ); the root of the empty tree is SHA-256( "" ).
/// </summary>
public static class MerkleTree
{
    public static readonly Hash EmptyRoot = Hash.Of([]);

    /// <summary>The byte with which what is hashed for a node begins.</summary>
    internal const byte NodePrefix = 0x01;

    public static Hash Node(Hash left, Hash right)
    {
        Span<byte> bytes = stackalloc byte[1 + (2 * Hash.Size)];
        bytes[0] = NodePrefix;
        left.CopyTo(bytes[1..]);
        right.CopyTo(bytes[(1 + Hash.Size)..]);
        return Hash.Of(bytes);
    }

    public static Hash Root(ReadOnlySpan<Hash> leaves)
    {
        var frontier = new MerkleFrontier();
        foreach (var leaf in leaves)
            frontier.Append(leaf);
        return frontier.Root;
    }

    /// <summary>Whether a path proves that the leaf at an index is in the tree with this size and root (RFC 6962, 2.1.1).</summary>
    public static bool VerifyInclusion(ulong index, ulong size, Hash leaf, IReadOnlyList<Hash> path, Hash root)
    {
        if (index >= size)
            return false;
        // Up to where the way from the leaf meets the way from the last leaf, both kinds of siblings occur; above, only left ones.
        var inner = BitLength(index ^ (size - 1));
        var border = BitOperations.PopCount(index >> inner);
        if (path.Count != inner + border)
            return false;
        var hash = leaf;
        for (var level = 0; level < inner; level++)
            hash = (index >> level & 1) == 0 ? Node(hash, path[level]) : Node(path[level], hash);
        for (var level = inner; level < path.Count; level++)
            hash = Node(path[level], hash);
        return hash == root;
    }

    /// <summary>
    /// Whether a path proves that the tree of the first size is the beginning of that of the second (RFC 6962, 2.1.2). From the
    /// empty tree nothing can be proven: whoever has seen nothing has nothing to compare.
    /// </summary>
    public static bool VerifyConsistency(ulong first, ulong second, Hash firstRoot, Hash secondRoot, IReadOnlyList<Hash> path)
    {
        if (first == 0 || first > second)
            return false;
        if (first == second)
            return path.Count == 0 && firstRoot == secondRoot;
        // The largest subtree that ends at the first size is complete in both trees: the proof begins with its hash, or with
        // the first root itself where that subtree is the whole first tree.
        var shift = BitOperations.TrailingZeroCount(first);
        var index = (first - 1) >> shift;
        var inner = BitLength(index ^ ((second - 1) >> shift));
        var border = BitOperations.PopCount(index >> inner);
        var isWhole = first == 1UL << shift;
        var start = isWhole ? 0 : 1;
        if (path.Count != start + inner + border)
            return false;
        var old = isWhole ? firstRoot : path[0];
        var @new = old;
        for (var level = 0; level < inner; level++)
        {
            var sibling = path[start + level];
            if ((index >> level & 1) == 0)
            {
                @new = Node(@new, sibling);
            }
            else
            {
                old = Node(sibling, old);
                @new = Node(sibling, @new);
            }
        }
        foreach (var sibling in path.Skip(start + inner))
        {
            old = Node(sibling, old);
            @new = Node(sibling, @new);
        }
        return old == firstRoot && @new == secondRoot;
    }

    /// <summary>
    /// The ranges of leaves whose subtrees' hashes are the inclusion path of a leaf, from the leaf upwards.
    /// </summary>
    public static IReadOnlyList<LeafRange> InclusionPath(long index, long size)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, size);
        var path = new List<LeafRange>();
        var (from, to) = (0L, size);
        while (to - from > 1)
        {
            var middle = from + Split(to - from);
            if (index < middle)
            {
                path.Add(new LeafRange(middle, to));
                to = middle;
            }
            else
            {
                path.Add(new LeafRange(from, middle));
                from = middle;
            }
        }
        path.Reverse();
        return path;
    }

    /// <summary>The ranges of leaves whose subtrees' hashes are the consistency path between two sizes.</summary>
    public static IReadOnlyList<LeafRange> ConsistencyPath(long first, long second)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(first);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(first, second);
        var path = new List<LeafRange>();
        if (first == second)
            return path;
        var (from, to) = (0L, second);
        while (to != first)
        {
            var middle = from + Split(to - from);
            if (first <= middle)
            {
                path.Add(new LeafRange(middle, to));
                to = middle;
            }
            else
            {
                path.Add(new LeafRange(from, middle));
                from = middle;
            }
        }
        if (from > 0)
            path.Add(new LeafRange(from, to));
        path.Reverse();
        return path;
    }

    /// <summary>The hash of a range that is a subtree of some tree, from the complete subtrees that it consists of.</summary>
    public static Hash HashOf(LeafRange range, Func<Subtree, Hash> hashOf)
    {
        Hash? hash = null;
        foreach (var subtree in range.Subtrees().Reverse())
            hash = hash is { } right ? Node(hashOf(subtree), right) : hashOf(subtree);
        return hash ?? EmptyRoot;
    }

    /// <summary>The largest power of two below a size: where RFC 6962 splits a tree.</summary>
    private static long Split(long size) => 1L << (BitLength((ulong)size - 1) - 1);

    private static int BitLength(ulong value) => 64 - BitOperations.LeadingZeroCount(value);
}

/// <summary>A complete subtree: 2^level leaves, the index-th of this level from the left.</summary>
public readonly record struct Subtree(int Level, long Index)
{
    public long From => Index << Level;
    public long To => (Index + 1) << Level;
}

/// <summary>Leaves from one index (inclusive) to another (exclusive).</summary>
public readonly record struct LeafRange(long From, long To)
{
    /// <summary>The complete subtrees it consists of, from left to right; it begins where the largest of them may begin.</summary>
    public IReadOnlyList<Subtree> Subtrees()
    {
        var subtrees = new List<Subtree>();
        for (var from = From; from < To; from = subtrees[^1].To)
        {
            var level = BitOperations.Log2((ulong)(To - from));
            subtrees.Add(new Subtree(level, from >> level));
        }
        return subtrees;
    }
}

/// <summary>
/// A Merkle tree that grows at its end: of all that is complete it keeps only the hashes that later roots need, one for each
/// bit of the size that is set, the largest subtree first. Not thread-safe.
/// </summary>
public sealed class MerkleFrontier
{
    private readonly List<Hash> _peaks;

    public MerkleFrontier() => _peaks = [];

    /// <exception cref="ArgumentException">There are not as many peaks as the size has bits that are set.</exception>
    public MerkleFrontier(long size, IEnumerable<Hash> peaks)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(size);
        _peaks = [.. peaks];
        if (_peaks.Count != BitOperations.PopCount((ulong)size))
            throw new ArgumentException($"A tree of {size} leaves has not {_peaks.Count} peaks.", nameof(peaks));
        Size = size;
    }

    public long Size { get; private set; }

    /// <summary>The hashes of the complete subtrees, the largest first.</summary>
    public IReadOnlyList<Hash> Peaks => _peaks;

    public Hash Root
    {
        get
        {
            if (_peaks.Count == 0)
                return MerkleTree.EmptyRoot;
            var root = _peaks[^1];
            for (var i = _peaks.Count - 2; i >= 0; i--)
                root = MerkleTree.Node(_peaks[i], root);
            return root;
        }
    }

    /// <summary>Appends a leaf. Each complete subtree that it finishes is told, the smaller first; the leaf itself is not.</summary>
    public void Append(Hash leaf, Action<Subtree, Hash>? completed = null) => Append(0, leaf, completed);

    /// <summary>
    /// Appends a complete subtree, which has to begin where the tree ends. Each that it finishes is told, the smaller first; itself is
    /// not.
    /// </summary>
    public void Append(int level, Hash hash, Action<Subtree, Hash>? completed)
    {
        var size = Size + (1L << level);
        for (; (Size >> level & 1) == 1; level++)
        {
            hash = MerkleTree.Node(_peaks[^1], hash);
            _peaks.RemoveAt(_peaks.Count - 1);
            completed?.Invoke(new Subtree(level + 1, Size >> (level + 1)), hash);
        }
        _peaks.Add(hash);
        Size = size;
    }

    public MerkleFrontier Clone() => new(Size, _peaks);

    /// <summary>The peaks with their places, the largest first.</summary>
    public IEnumerable<(Subtree Subtree, Hash Hash)> Subtrees() => new LeafRange(0, Size).Subtrees().Zip(_peaks);

    /// <summary>The peaks' bytes one after the other, as a store keeps them.</summary>
    public byte[] ToArray()
    {
        var bytes = new byte[_peaks.Count * Hash.Size];
        for (var i = 0; i < _peaks.Count; i++)
            _peaks[i].CopyTo(bytes.AsSpan(i * Hash.Size));
        return bytes;
    }

    /// <summary>What <see cref="ToArray"/> wrote; null where the bytes cannot be a frontier of that size.</summary>
    public static MerkleFrontier? TryRead(long size, ReadOnlySpan<byte> bytes)
    {
        if (size < 0 || bytes.Length != BitOperations.PopCount((ulong)size) * Hash.Size)
            return null;
        var peaks = new Hash[bytes.Length / Hash.Size];
        for (var i = 0; i < peaks.Length; i++)
            peaks[i] = new Hash(bytes.Slice(i * Hash.Size, Hash.Size));
        return new MerkleFrontier(size, peaks);
    }
}

/// <summary>
/// A tree and the leaves that were appended to it, of which the old ones are known by the frontier alone: enough for every
/// inclusion path of a new leaf. Thread-safe: each caller of a batch takes its own path.
/// </summary>
public sealed class GrownTree
{
    private readonly Lock _lock = new();

    // Guarded by _lock; what was computed for one path serves the others.
    private readonly Dictionary<Subtree, Hash> _known;
    private readonly long _before;
    private readonly IReadOnlyList<Hash> _leaves;

    public GrownTree(MerkleFrontier before, IReadOnlyList<Hash> leaves)
    {
        _known = before.Subtrees().ToDictionary(s => s.Subtree, s => s.Hash);
        (_before, _leaves) = (before.Size, leaves);
    }

    public long Size => _before + _leaves.Count;

    /// <summary>The inclusion path of a new leaf at this size.</summary>
    public IReadOnlyList<Hash> InclusionPath(long index)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(index, _before);
        lock (_lock)
            return [.. MerkleTree.InclusionPath(index, Size).Select(range => MerkleTree.HashOf(range, HashOf))];
    }

    /// <summary>
    /// A subtree that lies beside the way of a new leaf. One among the old leaves is a peak of the frontier, since the subtree
    /// above it holds a new leaf.
    /// </summary>
    private Hash HashOf(Subtree subtree)
    {
        if (_known.TryGetValue(subtree, out var hash))
            return hash;
        hash = subtree.Level == 0
            ? _leaves[(int)(subtree.Index - _before)]
            : MerkleTree.Node(HashOf(new Subtree(subtree.Level - 1, subtree.Index * 2)),
                HashOf(new Subtree(subtree.Level - 1, (subtree.Index * 2) + 1)));
        _known[subtree] = hash;
        return hash;
    }
}

/// <summary>
/// 256 neighbouring hashes of one level of the tree, kept together once they are all there: of level 0 the hashes of records,
/// of the levels above the roots of the tiles below (C2SP tlog-tiles).
/// </summary>
public sealed record Tile(int Level, long Index, Hash Root)
{
    /// <summary>How many levels of the tree a tile covers.</summary>
    public const int Levels = 8;

    /// <summary>How many hashes it holds.</summary>
    public const int Width = 256;

    /// <summary>Appends a leaf to a tree, and to a list the tiles that it completes, the lower before the higher.</summary>
    public static void Append(MerkleFrontier frontier, Hash leaf, ICollection<Tile> completed) =>
        frontier.Append(leaf, (subtree, hash) =>
        {
            if (subtree.Level % Levels == 0)
                completed.Add(new Tile((subtree.Level / Levels) - 1, subtree.Index, hash));
        });
}
