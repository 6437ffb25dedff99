using System.Buffers.Binary;
using Aegis.Core;

namespace Aegis.Tests;

/// <summary>
/// A log as a store would hold it, made in memory: records of several workflows in batches, with forks, imported chains and
/// erased values, its heads, which say of themselves that they are signed, and its tiles.
/// </summary>
internal sealed class MadeLog
{
    private const string Signature = "signed";

    private readonly List<StoredRecord> _records = [];
    private readonly List<LogHeadRow> _heads = [];
    private readonly List<LogTileRow> _tiles = [];
    private readonly Dictionary<WorkflowKey, Record> _last = [];
    private readonly MerkleFrontier _frontier = new();

    public IReadOnlyList<StoredRecord> Records => _records;
    public IReadOnlyList<LogHeadRow> Heads => _heads;
    public IReadOnlyList<LogTileRow> Tiles => _tiles;

    /// <summary>How many pages were found to be in order by their outlines alone, in the last verification.</summary>
    public int PagesInOrder { get; private set; }

    /// <summary>What a signature check would say.</summary>
    public static LogHead? Check(LogHeadRow row) =>
        row.SignedNote.EndsWith(Signature, StringComparison.Ordinal) ? LogHead.TryParse(row.SignedNote[..^Signature.Length]) : null;

    /// <param name="batches">How many records each batch has.</param>
    /// <param name="choices">Decides what they are.</param>
    public static MadeLog Of(IReadOnlyList<int> batches, int choices)
    {
        var log = new MadeLog();
        var random = new Random(choices);
        foreach (var count in batches)
        {
            for (var i = 0; i < count; i++)
                log.Add(random);
            log.Seal();
        }
        return log;
    }

    /// <summary>The values that a store would have after the erasures of the log.</summary>
    public IReadOnlyList<StoredRecord> Stored()
    {
        var erasures = _records.Select(r => (r.Record.Key, Erasure: Erasure.Of(r.Record))).Where(e => e.Erasure is not null).ToList();
        return [.. _records.Select(r => erasures.Exists(e => e.Key == r.Record.Key && e.Erasure!.Covers(r.Record.Sequence, "person"))
            ? r with { Record = r.Record with { Person = null } }
            : r)];
    }

    /// <summary>Whether an erasure covers values that are gone.</summary>
    public bool Covers(StoredRecord record, string part) => _records.Exists(r =>
        r.Record.Key == record.Record.Key && Erasure.Of(r.Record) is { } e && e.Covers(record.Record.Sequence, part));

    /// <summary>Verifies rows under the heads and tiles given, in pages of so many heads.</summary>
    public List<Violation> Verify(IReadOnlyList<StoredRecord> rows, IReadOnlyList<LogHeadRow>? heads = null,
        IReadOnlyList<LogTileRow>? tiles = null, int headsPerPage = 3, Func<long, ReadOnlyMemory<byte>?>? remembered = null)
    {
        heads ??= _heads;
        tiles ??= _tiles;
        var verifier = new LogVerifier(new MerkleFrontier(), Check, remembered);
        var violations = new List<Violation>();
        PagesInOrder = 0;
        foreach (var part in heads.Chunk(headsPerPage))
        {
            var (from, to) = (verifier.Size, part[^1].Size);
            var isLast = to == heads[^1].Size;
            var votes = rows.Where(r => (r.LogIndex >= from || from == 0) && (r.LogIndex < to || isLast))
                .OrderBy(r => r.LogIndex).Select(RecordVote.Of).ToList();
            var before = verifier.Wanted(votes).ToHashSet();
            var page = new LogPage
            {
                To = to,
                Records = votes,
                Heads = part,
                Tiles = [.. tiles.Where(t => t.Level == 0 ? t.From < to && t.To > from : t.To > from && t.To <= to)],
                Before = rows.Where(r => before.Contains((r.Record.Key, r.Record.Sequence)))
                    .ToDictionary(r => r.Record.Key, r => ChainPoint.Of(r.Record, r.Hash)),
            };
            var findings = verifier.Verify(page);
            CompareWithOutline(verifier, page, findings, isRemembering: remembered is not null);
            violations.AddRange(findings.Violations);
            violations.AddRange(findings.Gone.Where(g => !Covers(g.Record, g.Part)).Select(g => new Violation(
                ViolationClass.ErasedWithoutRecord, g.Record.Record.Key, g.Record.Record.Sequence, g.Part)));
            verifier.Advance(findings);
        }
        return violations;
    }

    /// <summary>What an outline says of a page is what its records say, or nothing; and it keeps them where they are remembered.</summary>
    private void CompareWithOutline(LogVerifier verifier, LogPage page, LogFindings findings, bool isRemembering)
    {
        var outline = verifier.Outline(verifier.Size, page.To, page.Heads, page.Tiles);
        foreach (var vote in page.Records)
            RawRecordTests.Read(vote.Stored, null, outline.Add);
        outline.Complete();
        if (verifier.Verify(outline, page.Before) is not { } found)
            return;
        Assert.That(findings.Violations, Is.Empty);
        Assert.That(findings.Gone, Is.Empty);
        Assert.That(found.Head, Is.EqualTo(findings.Head));
        Assert.That(Chains(found), Is.EquivalentTo(Chains(findings)));
        Assert.That(outline.Encoded.Select(e => RecordFormat.HashOf(e.Span)),
            Is.EqualTo(isRemembering ? page.Records.Select(r => r.Hash) : []));
        PagesInOrder++;

        IEnumerable<(WorkflowKey, ChainPoint?)> Chains(LogFindings of) => page.Records.Select(r => r.Record.Key).Distinct()
            .Select(key => (key, of.ChainOf(key)));
    }

    private void Add(Random random)
    {
        var choice = random.Next(12);
        var key = Ask.Key($"w{random.Next(6)}");
        var time = MemoryLog.Start + (_records.Count / 3);
        if (choice == 0 && _last.Count > 0)
        {
            // A fork goes on from the hash of another chain's record.
            var source = _records[random.Next(_records.Count)];
            Append(Next(Ask.Key($"fork{_records.Count}"), time) with { PreviousHash = source.Hash });
        }
        else if (choice == 1)
        {
            // A chain that was written to another log long before.
            Append(Next(Ask.Key($"import{_records.Count}"), time - 1_000_000) with { LogId = "another" });
        }
        else if (choice == 2 && _last.TryGetValue(key, out var last))
        {
            var before = new StoredRecord(last, default, _records.Last(r => r.Record.Key == key).Hash, 0);
            var erasure = Ask.Erasure(before, $"1-{last.Sequence}", "person").Record;
            _records.Add(StoredRecord.Seal(erasure with { RecordedAt = time }, _records.Count));
            _last[key] = _records[^1].Record;
        }
        else
        {
            Append(Next(key, time));
        }
    }

    private Record Next(WorkflowKey key, long time)
    {
        var parts = Ask.Parts("actor", _records.Count % 2 == 0 ? "why" : "", snapshot: _records.Count % 5 == 0 ? [1, 2, 3] : null);
        var previous = _last.GetValueOrDefault(key);
        return new Record
        {
            LogId = Ask.LogId,
            Namespace = key.Namespace,
            WorkflowId = key.WorkflowId,
            Sequence = (previous?.Sequence ?? 0) + 1,
            Kind = previous is null ? RecordKind.Started : RecordKind.Transition,
            WorkflowType = "order",
            FromState = previous?.ToState ?? "",
            ToState = $"S{_records.Count}",
            Status = WorkflowStatus.Running,
            RequestId = "",
            LeaseEpoch = 0,
            OccurredAt = 0,
            RecordedAt = Math.Max(time, previous?.RecordedAt ?? 0),
            PersonDigest = parts.PersonDigest,
            ContentDigest = parts.ContentDigest,
            SnapshotDigest = parts.SnapshotDigest,
            PreviousHash = previous is null ? default : _records.Last(r => r.Record.Key == key).Hash,
            Person = parts.Person,
            Content = parts.Content,
            Snapshot = parts.Snapshot,
        };
    }

    private void Append(Record record)
    {
        _records.Add(StoredRecord.Seal(record, _records.Count));
        _last[record.Key] = record;
    }

    private void Seal()
    {
        var completed = new List<Tile>();
        while (_frontier.Size < _records.Count)
            Tile.Append(_frontier, _records[(int)_frontier.Size].Hash, completed);
        foreach (var tile in completed)
        {
            var leaves = _records.Skip((int)tile.Index * Tile.Width).Take(Tile.Width).ToList();
            _tiles.Add(new LogTileRow(tile.Level, tile.Index, tile.Root, leaves.SelectMany(r => r.Hash.ToArray()).ToArray(),
                leaves.SelectMany(Entry).ToArray()));
        }
        var head = new LogHead(Ask.LogId, _frontier.Size, _frontier.Root);
        _heads.Add(new LogHeadRow(head.Size, head.LogId, head.Root, _frontier.Clone(), head.Text + Signature,
            _records[^1].Record.RecordedAt));

        static byte[] Entry(StoredRecord record)
        {
            var bytes = new byte[4 + record.Encoded.Length];
            BinaryPrimitives.WriteInt32BigEndian(bytes, record.Encoded.Length);
            record.Encoded.CopyTo(bytes.AsMemory(4));
            return bytes;
        }
    }
}
