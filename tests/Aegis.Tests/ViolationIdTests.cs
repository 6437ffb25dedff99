using Aegis.Core;

namespace Aegis.Tests;

/// <summary>The id of a violation names class, place and what was found there, and gives no value of an erasable part away.</summary>
public sealed class ViolationIdTests
{
    private static readonly Violation Found = new(ViolationClass.FieldModified, new WorkflowKey("default", "w"), 2, "Altered.")
    {
        LogIndex = 5,
        ExpectedHash = Hash.Of([1]),
        ActualHash = Hash.Of([2]),
    };

    [Test]
    public void It_is_32_hex_digits_and_the_same_every_time()
    {
        Assert.That(Found.Id(), Does.Match("^[0-9a-f]{32}$"));
        Assert.That((Found with { Message = "Other words.", ExpectedHash = null, LastGoodLogSize = 3 }).Id(), Is.EqualTo(Found.Id()));
    }

    [Test]
    public void It_differs_with_class_place_and_what_was_found()
    {
        string[] ids =
        [
            Found.Id(),
            (Found with { Class = ViolationClass.RecordInserted }).Id(),
            (Found with { Key = new WorkflowKey("defaultw", "") }).Id(),
            (Found with { Sequence = 3 }).Id(),
            (Found with { LogIndex = null }).Id(),
            (Found with { LogIndex = 0 }).Id(),
            (Found with { ActualHash = Hash.Of([3]) }).Id(),
            (Found with { ActualHash = null }).Id(),
        ];

        Assert.That(ids, Is.Unique);
    }

    [Test]
    public void Of_a_head_and_of_what_is_gone_the_fields_tell()
    {
        var head = Found with { Class = ViolationClass.WorkflowHeadModified };
        var gone = Found with { Class = ViolationClass.ErasedWithoutRecord, ActualHash = null };

        Assert.That(
            new[]
            {
                (head with { Differences = [new Difference("state", "A", "B")] }).Id(),
                (head with { Differences = [new Difference("state", "A", "C")] }).Id(),
                (gone with { Differences = [new Difference("person", null, null)] }).Id(),
                (gone with { Differences = [new Difference("content", null, null)] }).Id(),
            },
            Is.Unique);
    }

    [Test]
    public void Values_of_erasable_parts_are_neither_in_it_nor_kept()
    {
        var head = Found with { Class = ViolationClass.WorkflowHeadModified };
        var (one, other) = (
            head with { Differences = [new Difference("metadata", "a=alice", "a=bob"), new Difference("state", "A", "B")] },
            head with { Differences = [new Difference("metadata", "a=alice", "a=eve"), new Difference("state", "A", "B")] });

        Assert.That(other.Id(), Is.EqualTo(one.Id()));
        Assert.That(one.WithoutErasable().Differences,
            Is.EqualTo(new[] { new Difference("metadata", null, null), new Difference("state", "A", "B") }));
    }
}
