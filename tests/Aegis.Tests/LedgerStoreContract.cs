using System.Data.Common;
using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Tests;

/// <summary>
/// What every store promises. Each test has a database of its own; no test is left out for one of the stores.
/// </summary>
[FixtureLifeCycle(LifeCycle.InstancePerTestCase)]
[Parallelizable(ParallelScope.All)]
public abstract partial class LedgerStoreContract
{
    private readonly List<ILedgerStore> _opened = [];

    /// <summary>The database of this test, as <see cref="Tampering"/> takes it.</summary>
    protected string Database { get; private set; } = "";

    /// <summary>A store on it, migrated, with an open log.</summary>
    protected ILedgerStore Store { get; private set; } = null!;

    protected abstract Task<string> CreateDatabaseAsync();

    /// <summary>One that may have the tables already.</summary>
    protected virtual Task<string> CreateLedgerDatabaseAsync() => CreateDatabaseAsync();

    protected abstract Task DropDatabaseAsync(string database);

    /// <summary>The store that a further server would use: the same where a database serves only one.</summary>
    protected abstract ILedgerStore OpenAnother();

    protected abstract ILedgerStore Open(string database);

    /// <summary>A connection past the store, open, with all guards in place.</summary>
    protected abstract Task<DbConnection> ConnectAsync();

    [SetUp]
    public async Task CreateStore()
    {
        Database = await CreateLedgerDatabaseAsync();
        Store = Keep(Open(Database));
        await Store.MigrateAsync(default);
        await WriteAsync(Store, new OpenLogCommand(Ask.LogId, Ask.Parts()));
    }

    [TearDown]
    public async Task DropStore()
    {
        foreach (var store in _opened)
            await store.DisposeAsync();
        await DropDatabaseAsync(Database);
    }

    protected ILedgerStore Keep(ILedgerStore store)
    {
        lock (_opened)
        {
            if (!_opened.Contains(store))
                _opened.Add(store);
        }
        return store;
    }

    protected static async Task<IReadOnlyList<Outcome>> WriteAsync(ILedgerStore store, params Command[] commands) =>
        (await WriteBatchAsync(store, commands)).Outcomes;

    /// <summary>Begins, decides and commits, as a server does.</summary>
    protected static async Task<(LedgerBatch Batch, IReadOnlyList<Outcome> Outcomes)> WriteBatchAsync(
        ILedgerStore store, params Command[] commands)
    {
        await using var transaction = await BeginAsync(store, commands);
        var batch = new LedgerBatch(transaction.State);
        Outcome[] outcomes = [.. commands.Select(batch.Decide)];
        if (!batch.IsEmpty)
            await transaction.CommitAsync(batch.Sealed());
        return (batch, outcomes);
    }

    protected static Task<LedgerTransaction> BeginAsync(ILedgerStore store, params Command[] commands) => store.BeginAsync(
        [.. commands.SelectMany(c => c.Workflows).Distinct()],
        [.. commands.Select(c => (c as WriteCommand)?.RequestKey).OfType<Bytes16>().Distinct()], 0, default);

    protected static async Task<StoredRecord> WriteOneAsync(ILedgerStore store, WriteCommand command) =>
        (await WriteAsync(store, command))[0] is Written written
            ? written.Record
            : throw new AssertionException($"Refused: {command}");

    protected Task<StoredRecord> WriteAsync(WriteCommand command) => WriteOneAsync(Store, command);

    protected Task<IReadOnlyList<StoredRecord>> ChainAsync(string id) =>
        Store.ReadChainAsync(Ask.Key(id), 1, descending: false, 1000, default);

    protected Task<IReadOnlyList<StoredRecord>> LogAsync() =>
        Store.ListRecordsAsync(new RecordFilter(), 0, descending: false, 1000, default);

    /// <summary>What verification finds in a workflow as it is stored, page by page.</summary>
    protected async Task<IReadOnlyList<Violation>> VerifyAsync(string id)
    {
        var key = Ask.Key(id);
        var verifier = new ChainVerifier(key);
        for (var next = 1L; ;)
        {
            var page = await Store.ReadChainAsync(key, next, descending: false, 2, default);
            foreach (var stored in page)
            {
                verifier.Add(stored);
                if (stored.Record.Snapshot is { } part)
                {
                    var content = await Store.ReadSnapshotAsync(key, part.Sha256, default);
                    verifier.AddSnapshot(stored, content is null ? null : (Hash.Of(content), content.Length));
                }
            }
            if (page.Count < 2)
                return verifier.Complete(await Store.FindWorkflowAsync(key, default));
            next = page[^1].Record.Sequence + 1;
        }
    }

    /// <summary>The failure of an act that the store must not do.</summary>
    protected static async Task<StoreFailure> FailureAsync(Func<Task> act)
    {
        try
        {
            await act();
        }
        catch (StoreException e)
        {
            return e.Failure;
        }
        throw new AssertionException("Nothing failed.");
    }
}
