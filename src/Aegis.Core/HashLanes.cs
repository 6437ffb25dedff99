using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Aegis.Core;

/// <summary>
/// SHA-256 (FIPS 180-4) of sixteen messages at once, one in each lane of a vector. Verification hashes short messages by the million,
/// and to call the system's SHA-256 takes several times longer than the hashing itself. This one decides nothing alone: where
/// what is expected is not met, the system's has the last word, and a mistake here cannot give a hash that was expected. Used by one
/// task at a time.
/// </summary>
public sealed class HashLanes
{
    public const int Lanes = 16;

    private const int BlockBytes = 64;
    private const int WordsPerBlock = BlockBytes / sizeof(uint);
    private const int LastWord = WordsPerBlock - 1;
    private const int BlocksMax = 8;

    // After a message come a bit, and its length in bits as eight bytes.
    private const int PaddingBytes = 1 + sizeof(ulong);

    private static readonly uint[] RoundConstants =
    [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ];

    private static readonly uint[] InitialState =
        [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

    private readonly Waiting?[] _waiting = new Waiting?[BlocksMax + 1];
    private readonly Waiting _nodes = new(2);

    /// <summary>Whether every message that was waited for had its hash.</summary>
    public bool AreAsExpected { get; private set; } = true;

    /// <summary>A message that should have a hash: told once enough of them are together, or by <see cref="Complete"/>.</summary>
    public void Expect(ReadOnlySpan<byte> message, Hash hash) => Expect(message, new Expected(hash, default));

    /// <summary>A message whose hash should begin so.</summary>
    public void ExpectBeginning(ReadOnlySpan<byte> message, Bytes16 half) => Expect(message, new Expected(default, half));

    private void Expect(ReadOnlySpan<byte> message, in Expected expected)
    {
        var blocks = (message.Length + PaddingBytes + BlockBytes - 1) / BlockBytes;
        if (blocks > BlocksMax)
        {
            AreAsExpected &= expected.IsMet(Hash.Of(message));
            return;
        }
        var waiting = _waiting[blocks] ??= new Waiting(blocks);
        waiting.Put(message, expected);
        if (waiting.Count == Lanes)
            AreAsExpected &= waiting.Compare();
    }

    /// <summary>Looks at what is still waited for.</summary>
    public void Complete()
    {
        foreach (var waiting in _waiting)
            AreAsExpected &= waiting is null || waiting.Count == 0 || waiting.Compare();
    }

    /// <summary>The nodes over neighbouring hashes of a level of a tree: half as many.</summary>
    public void Parents(ReadOnlySpan<Hash> children, Span<Hash> parents)
    {
        Span<byte> node = stackalloc byte[1 + (2 * Hash.Size)];
        node[0] = MerkleTree.NodePrefix;
        for (var i = 0; i < children.Length / 2; i++)
        {
            children[2 * i].CopyTo(node[1..]);
            children[(2 * i) + 1].CopyTo(node[(1 + Hash.Size)..]);
            _nodes.Put(node, default);
            if (_nodes.Count < Lanes && i + 1 < children.Length / 2)
                continue;
            var hashes = _nodes.Hashes();
            hashes.CopyTo(parents[(i + 1 - hashes.Length)..]);
        }
    }

    /// <summary>What a hash should be, or how it should begin.</summary>
    private readonly record struct Expected(Hash Whole, Bytes16? Beginning)
    {
        public bool IsMet(Hash hash) => Beginning is { } half ? hash.BeginsWith(half) : hash == Whole;
    }

    /// <summary>Up to sixteen messages of as many blocks.</summary>
    private sealed class Waiting(int blocks)
    {
        // Word by word, of each word that of the first message first.
        private readonly Vector512<uint>[] _words = new Vector512<uint>[blocks * WordsPerBlock];
        private readonly Expected[] _expected = new Expected[Lanes];
        private readonly Hash[] _hashes = new Hash[Lanes];

        public int Count { get; private set; }

        public void Put(ReadOnlySpan<byte> message, in Expected expected)
        {
            _expected[Count] = expected;
            var words = MemoryMarshal.Cast<Vector512<uint>, uint>(_words.AsSpan());
            var rest = message;
            var place = Count;
            for (; rest.Length >= sizeof(uint); rest = rest[sizeof(uint)..], place += Lanes)
                words[place] = BinaryPrimitives.ReadUInt32BigEndian(rest);
            var last = 0x8000_0000u >> (8 * rest.Length);
            for (var i = 0; i < rest.Length; i++)
                last |= (uint)rest[i] << (24 - (8 * i));
            words[place] = last;
            for (place += Lanes; place < words.Length - Lanes; place += Lanes)
                words[place] = 0;
            words[words.Length - Lanes + Count] = (uint)message.Length * 8;
            Count++;
        }

        /// <summary>Whether all of them have the hashes that are expected. Then it waits for other messages.</summary>
        public bool Compare()
        {
            var hashes = Hashes();
            var areAsExpected = true;
            for (var i = 0; i < hashes.Length; i++)
                areAsExpected &= _expected[i].IsMet(hashes[i]);
            return areAsExpected;
        }

        /// <summary>Their hashes, until the next are taken. Then it waits for other messages.</summary>
        public ReadOnlySpan<Hash> Hashes()
        {
            Span<Vector512<uint>> state = stackalloc Vector512<uint>[InitialState.Length];
            for (var i = 0; i < state.Length; i++)
                state[i] = Vector512.Create(InitialState[i]);
            for (var block = 0; block < blocks; block++)
                Compress(_words.AsSpan(block * WordsPerBlock, WordsPerBlock), state);
            Span<byte> bytes = stackalloc byte[Hash.Size];
            for (var lane = 0; lane < Count; lane++)
            {
                for (var i = 0; i < state.Length; i++)
                    BinaryPrimitives.WriteUInt32BigEndian(bytes[(i * sizeof(uint))..], state[i][lane]);
                _hashes[lane] = new Hash(bytes);
            }
            var hashes = _hashes.AsSpan(0, Count);
            Count = 0;
            return hashes;
        }
    }

    private static void Compress(ReadOnlySpan<Vector512<uint>> block, Span<Vector512<uint>> state)
    {
        Span<Vector512<uint>> words = stackalloc Vector512<uint>[WordsPerBlock];
        block.CopyTo(words);
        var (a, b, c, d, e, f, g, h) = (state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]);
        for (var round = 0; round < RoundConstants.Length; round++)
        {
            ref var word = ref words[round & LastWord];
            if (round >= WordsPerBlock)
            {
                var (near, far) = (words[(round + 14) & LastWord], words[(round + 1) & LastWord]);
                word += (Rotate(near, 17) ^ Rotate(near, 19) ^ (near >>> 10)) + words[(round + 9) & LastWord]
                    + (Rotate(far, 7) ^ Rotate(far, 18) ^ (far >>> 3));
            }
            var first = h + (Rotate(e, 6) ^ Rotate(e, 11) ^ Rotate(e, 25)) + Vector512.ConditionalSelect(e, f, g)
                + Vector512.Create(RoundConstants[round]) + word;
            var second = (Rotate(a, 2) ^ Rotate(a, 13) ^ Rotate(a, 22)) + Vector512.ConditionalSelect(a ^ b, c, a);
            (h, g, f, e, d, c, b, a) = (g, f, e, d + first, c, b, a, first + second);
        }
        state[0] += a;
        state[1] += b;
        state[2] += c;
        state[3] += d;
        state[4] += e;
        state[5] += f;
        state[6] += g;
        state[7] += h;
    }

    private static Vector512<uint> Rotate(Vector512<uint> value, [System.Diagnostics.CodeAnalysis.ConstantExpected] byte bits) =>
        Avx512F.IsSupported ? Avx512F.RotateRight(value, bits) : (value >>> bits) | (value << (32 - bits));
}
