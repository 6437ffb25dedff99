using Aegis.Core;

namespace Aegis.Tests;

/// <summary>Many messages hashed at once have the hashes that the system gives each.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class HashLanesTests
{
    // Beyond the longest that is taken at once.
    private const int BytesMax = 600;

    [Test]
    public void Messages_of_any_length_have_the_hashes_that_the_system_gives()
    {
        var random = new Random(1);
        var lanes = new HashLanes();
        for (var length = 0; length <= BytesMax; length++)
        {
            for (var i = 0; i < length % 20; i++)
            {
                var message = Bytes(random, length);
                lanes.Expect(message, Hash.Of(message));
            }
        }
        lanes.Complete();

        Assert.That(lanes.AreAsExpected, Is.True);
    }

    [Test]
    public void One_wrong_hash_among_many_is_noticed()
    {
        var random = new Random(2);
        for (var wrong = 0; wrong < 40; wrong++)
        {
            var length = random.Next(BytesMax);
            var lanes = new HashLanes();
            for (var i = 0; i < 40; i++)
            {
                var message = Bytes(random, length);
                var hash = Hash.Of(message);
                if (i == wrong)
                    message = [.. message, 0];
                lanes.Expect(message, hash);
            }
            lanes.Complete();

            Assert.That(lanes.AreAsExpected, Is.False, $"message {wrong} of {length} bytes");
        }
    }

    [Test]
    public void A_hash_that_begins_otherwise_is_noticed_among_whole_ones()
    {
        for (var wrong = -1; wrong < 40; wrong++)
        {
            var lanes = new HashLanes();
            for (var i = 0; i < 40; i++)
            {
                byte[] message = [(byte)i];
                var half = Hash.Of(message).ToArray()[..Bytes16.Size];
                if (i == wrong)
                    half[^1] ^= 1;
                lanes.ExpectBeginning(message, new Bytes16(half));
                lanes.Expect(message, Hash.Of(message));
            }
            lanes.Complete();

            Assert.That(lanes.AreAsExpected, Is.EqualTo(wrong < 0), $"message {wrong}");
        }
    }

    [Test]
    public void Nodes_are_those_of_the_tree()
    {
        var children = Enumerable.Range(0, 75).Select(i => Hash.Of([(byte)i])).ToArray();

        for (var count = 0; count <= children.Length; count++)
        {
            var parents = new Hash[count / 2];
            new HashLanes().Parents(children.AsSpan(0, count), parents);
            Assert.That(parents, Is.EqualTo(children[..(count / 2 * 2)].Chunk(2).Select(c => MerkleTree.Node(c[0], c[1]))));
        }
    }

    private static byte[] Bytes(Random random, int length)
    {
        var bytes = new byte[length];
        random.NextBytes(bytes);
        return bytes;
    }
}
