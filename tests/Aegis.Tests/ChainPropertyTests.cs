using Aegis.Core;
using CsCheck;
using Hash = Aegis.Core.Hash;

namespace Aegis.Tests;

/// <summary>
/// What must hold of every chain. Each run takes a new seed; a failure prints it, and CsCheck_Seed in the environment
/// repeats it.
/// </summary>
[Parallelizable(ParallelScope.All)]
public sealed class ChainPropertyTests
{
    private const int Chains = 200;

    [Test]
    public void An_unaltered_chain_never_reports() => RandomChains.Logs.Sample(log =>
        Nothing("an unaltered chain", log.Verify("w")), iter: Chains);

    [Test]
    public void A_record_is_the_same_after_encoding_and_decoding() => RandomChains.Logs.Sample(log =>
    {
        foreach (var stored in log.Records)
        {
            var decoded = RecordFormat.Decode(stored.Encoded.Span);
            Assert.That(decoded, Is.EqualTo(stored.Record with { Person = null, Content = null, Snapshot = null }));
            Assert.That(stored.IsConsistent(), Is.True);
        }
    }, iter: Chains);

    [Test]
    public void Any_single_changed_field_is_found_in_its_record() =>
        Gen.Select(RandomChains.Logs, Gen.Int[0, 99]).Sample((log, pick) =>
        {
            var chain = log.Chain("w");
            var at = pick % chain.Count;
            foreach (var (name, altered) in Alterations.Of(chain[at]))
            {
                var stored = chain.Select((record, i) => i == at ? altered : record);
                Names($"{name} of record {at + 1}", at + 1, log.Verify(stored, log.Head("w"), Ask.Key("w")));
                Assert.That(altered.IsConsistent(), Is.EqualTo(name.EndsWith("gone", StringComparison.Ordinal)), name);
            }
        }, iter: Chains / 4);

    [Test]
    public void Two_exchanged_records_are_found() =>
        Gen.Select(RandomChains.Logs, Gen.Int[0, 99], Gen.Int[0, 99]).Sample((log, a, b) =>
        {
            var chain = log.Chain("w").ToArray();
            (a, b) = (a % chain.Length, b % chain.Length);
            if (a == b)
                return;
            var sequences = (chain[a].Record.Sequence, chain[b].Record.Sequence);
            (chain[a], chain[b]) = (At(chain[a], sequences.Item2), At(chain[b], sequences.Item1));
            Names($"records {a + 1} and {b + 1} exchanged", Math.Min(a, b) + 1, log.Verify(chain, log.Head("w"), Ask.Key("w")));
        }, iter: Chains);

    [Test]
    public void A_record_in_the_place_of_another_is_found() =>
        Gen.Select(RandomChains.Logs, Gen.Int[0, 99], Gen.Int[0, 99], Gen.Bool).Sample((log, from, to, sealedAnew) =>
        {
            var chain = log.Chain("w").ToArray();
            (from, to) = (from % chain.Length, to % chain.Length);
            if (from == to)
                return;
            var copy = At(chain[from], to + 1);
            chain[to] = sealedAnew ? StoredRecord.Seal(copy.Record, copy.LogIndex) : copy;
            Found($"record {from + 1} in the place of {to + 1}", log.Verify(chain, log.Head("w"), Ask.Key("w")));
        }, iter: Chains);

    [Test]
    public void A_record_twice_in_its_place_is_found() => Gen.Select(RandomChains.Logs, Gen.Int[0, 99]).Sample((log, pick) =>
    {
        var chain = log.Chain("w").ToList();
        chain.Insert(pick % chain.Count, chain[pick % chain.Count]);
        Found("a record stored twice", log.Verify(chain, log.Head("w")));
    }, iter: Chains);

    [Test]
    public void A_record_taken_out_of_the_middle_is_named() => Gen.Select(RandomChains.Logs, Gen.Int[0, 99]).Sample((log, pick) =>
    {
        var chain = log.Chain("w").ToList();
        if (chain.Count < 2)
            return;
        var at = pick % (chain.Count - 1);
        chain.RemoveAt(at);
        Names($"record {at + 1} dropped", at + 1, log.Verify(chain, log.Head("w"), Ask.Key("w")));
    }, iter: Chains);

    [Test]
    public void A_record_put_in_and_the_rest_renumbered_is_found() => Gen.Select(RandomChains.Logs, Gen.Int[0, 99]).Sample((log, pick) =>
    {
        var chain = log.Chain("w").ToList();
        var at = pick % chain.Count;
        var forged = StoredRecord.Seal(chain[at].Record with { ToState = "FORGED", PreviousHash = chain[at].Hash }, 0);
        var tampered = chain.Take(at + 1).Append(forged).Concat(chain.Skip(at + 1)).Select((record, i) => At(record, i + 1));
        Found("a record put in", log.Verify(tampered, log.Head("w"), Ask.Key("w")));
    }, iter: Chains);

    [Test]
    public void A_record_rewritten_with_its_hash_is_found_by_the_next_or_by_the_head() =>
        Gen.Select(RandomChains.Logs, Gen.Int[0, 99]).Sample((log, pick) =>
        {
            var chain = log.Chain("w").ToArray();
            var at = pick % chain.Length;
            chain[at] = StoredRecord.Seal(chain[at].Record with { OccurredAt = 12_345 }, chain[at].LogIndex);
            Found($"record {at + 1} of {chain.Length} rewritten", log.Verify(chain, log.Head("w")));
        }, iter: Chains);

    /// <summary>
    /// A chain cut short is a sound chain: only something that remembers how long it was can tell. Within the store that
    /// is the workflow's head; who changes both is found by the log, and by clients that keep its head.
    /// </summary>
    [Test]
    public void A_cut_tail_is_found_only_against_the_head() => Gen.Select(RandomChains.Logs, Gen.Int[1, 99]).Sample((log, pick) =>
    {
        var chain = log.Chain("w");
        var cut = chain.Take(1 + pick % chain.Count).ToList();
        if (cut.Count == chain.Count)
            return;
        Nothing("a cut chain alone", log.Verify(cut, head: null).Where(v => v.Class != ViolationClass.ErasedWithoutRecord));
        var found = log.Verify(cut, log.Head("w"));
        Assert.That(found.Select(v => (v.Class, v.Sequence)), Is.EqualTo(new[] { (ViolationClass.TailTruncated, cut.Count + 1L) }));
    }, iter: Chains);

    [Test]
    public void Any_changed_field_of_the_head_is_found() => RandomChains.Logs.Sample(log =>
    {
        var head = log.Head("w");
        (string Name, Workflow Altered)[] altered =
        [
            ("workflow_type", head with { WorkflowType = "other" }),
            ("state", head with { State = head.State + "x" }),
            ("status", head with { Status = head.Status == WorkflowStatus.Failed ? WorkflowStatus.Running : WorkflowStatus.Failed }),
            ("sequence", head with { Sequence = head.Sequence - 1 }),
            ("sequence beyond the chain", head with { Sequence = head.Sequence + 1 }),
            ("head_hash", head with { HeadHash = Hash.Of("x"u8) }),
            ("checkpoint_sequence", head with { CheckpointSequence = head.CheckpointSequence + 1 }),
            ("metadata", head with { Metadata = new Metadata([.. head.Metadata, new("new", "entry")]) }),
            ("forked_from", head with { ForkedFrom = new ForkPoint("x", 1, Hash.Of("x"u8)) }),
            ("created_log_index", head with { CreatedLogIndex = head.CreatedLogIndex + 1 }),
            ("created_at", head with { CreatedAt = head.CreatedAt + 1 }),
            ("updated_at", head with { UpdatedAt = head.UpdatedAt + 1 }),
        ];
        foreach (var (name, changed) in altered)
            Found(name, log.Verify(log.Chain("w"), changed));
    }, iter: Chains);

    [Test]
    public void Metadata_is_ordered_by_the_bytes_of_its_keys() =>
        Gen.Dictionary(Gen.String[Gen.OneOf(Gen.Char['a', 'c'], Gen.Char['\ue000', '\uffff'], Gen.Char['\u00e0', '\u07ff']), 0, 3], Gen.Const(""))[0, 8]
            .Sample(entries =>
            {
                // Beyond U+FFFF, where UTF-16 sorts otherwise.
                var keys = entries.Keys.SelectMany(k => new[] { k, k + "😀", "𐀀" + k }).Distinct().ToList();

                var ordered = new Metadata(keys.Select(k => KeyValuePair.Create(k, ""))).Select(e => e.Key).ToList();

                var byBytes = keys.OrderBy(k => Convert.ToHexString(System.Text.Encoding.UTF8.GetBytes(k)), StringComparer.Ordinal);
                Assert.That(ordered, Is.EqualTo(byBytes));
            }, iter: Chains);

    private static StoredRecord At(StoredRecord stored, long sequence) =>
        stored with { Record = stored.Record with { Sequence = sequence } };

    private static void Nothing(string what, IEnumerable<Violation> violations) =>
        Assert.That(violations, Is.Empty, what);

    private static void Found(string what, IReadOnlyList<Violation> violations) =>
        Assert.That(violations, Is.Not.Empty, what);

    private static void Names(string what, long sequence, IReadOnlyList<Violation> violations) =>
        Assert.That(violations.Select(v => v.Sequence).FirstOrDefault(), Is.EqualTo(sequence),
            $"{what}: {string.Join(Environment.NewLine, violations)}");
}
