using System.Data.Common;
using System.Runtime.ExceptionServices;
using DbUp.Builder;
using DbUp.Engine.Output;

namespace Aegis.Storage;

/// <summary>
/// Runs the numbered scripts of one dialect by DbUp. The caller holds a lock around it: upgrades that start at once
/// must take turns, or all but one fail on the journal's key.
/// </summary>
internal static class Migrator
{
    /// <summary>
    /// Whether the scripts that a database's journal names are exactly those of this version, as nearly every start finds them: then
    /// there is nothing to run, and nothing to lock.
    /// </summary>
    public static bool IsDone(IEnumerable<string> journal, string dialect) =>
        typeof(Migrator).Assembly.GetManifestResourceNames().Where(name => IsScript(name, dialect)).ToHashSet().SetEquals(journal);

    /// <exception cref="StoreException">A script failed, or the database is of a later version.</exception>
    public static void Run(UpgradeEngineBuilder builder, string dialect)
    {
        var engine = builder
            .WithScriptsEmbeddedInAssembly(typeof(Migrator).Assembly, name => IsScript(name, dialect))
            .WithVariablesDisabled()
            .WithTransactionPerScript()
            .LogTo(new NoOpUpgradeLog())
            .Build();
        var known = engine.GetDiscoveredScripts().Select(s => s.Name).ToHashSet();
        if (engine.GetExecutedScripts().FirstOrDefault(s => !known.Contains(s)) is { } later)
        {
            throw new StoreException(StoreFailure.Unusable,
                $"The database was migrated by a later version of Aegis (it has {later}); start that version.");
        }
        var result = engine.PerformUpgrade();
        if (!result.Successful)
        {
            // A connection that breaks is no fault of the script: the store's own classification tells what it is.
            if (result.Error is DbException { IsTransient: true })
                ExceptionDispatchInfo.Throw(result.Error);
            throw new StoreException(StoreFailure.Unusable,
                $"The migration {result.ErrorScript?.Name ?? "journal"} failed: {result.Error.Message}", result.Error);
        }
    }

    private static bool IsScript(string resource, string dialect) =>
        resource.StartsWith("Aegis.Storage.Migrations." + dialect + ".", StringComparison.Ordinal);
}
