using Aegis.Evidence;

namespace Aegis.Client;

/// <summary>
/// Keeps the last head of the log that was verified, out of reach of whoever runs the log. Called by one task at a time. Several
/// processes may share one: each links what the others have seen, and together they notice more than each of them alone. What
/// one of them has kept is never replaced by another that has not seen it.
/// </summary>
public interface IHeadStore
{
    /// <summary>The head that was kept; null where there is none yet. Fails where it cannot be told: nothing is written then.</summary>
    ValueTask<KeptHead?> LoadAsync(CancellationToken cancellationToken);

    /// <summary>Keeps a newer head, durably, as a whole or not at all, if what is kept still is what was loaded.</summary>
    /// <param name="head">The newer head.</param>
    /// <param name="replaced">What was loaded, told apart by its signed note; null for nothing.</param>
    /// <param name="cancellationToken">Ends the waiting; nothing is kept then.</param>
    /// <returns>
    /// Whether it did. False changes nothing: another was kept meanwhile, and is to be loaded before anything is saved.
    /// </returns>
    ValueTask<bool> SaveAsync(KeptHead head, KeptHead? replaced, CancellationToken cancellationToken);

    /// <summary>Keeps a head that contradicts the kept one beside it: both signed notes together are evidence.</summary>
    ValueTask RejectAsync(string signedNote, CancellationToken cancellationToken);
}

/// <summary>
/// Keeps the head in a small file, the same that <c>aegis head watch --state</c> keeps. A head that was rejected lies beside it,
/// as <c>FILE.rejected</c>.
/// </summary>
/// <param name="path">The file, made at first use in a directory that is there.</param>
public sealed class FileHeadStore(string path) : IHeadStore
{
    private readonly HeadFile _file = new(path);

    /// <inheritdoc/>
    /// <exception cref="InvalidDataException">The file holds something else. It may be all that is left to compare with.</exception>
    public async ValueTask<KeptHead?> LoadAsync(CancellationToken cancellationToken) => await _file.ReadAsync(cancellationToken);

    /// <inheritdoc/>
    /// <exception cref="InvalidDataException">The file holds something else.</exception>
    /// <exception cref="IOException">It cannot be written, or others held its lock for half a minute.</exception>
    public async ValueTask<bool> SaveAsync(KeptHead head, KeptHead? replaced, CancellationToken cancellationToken) =>
        await _file.ReplaceAsync(head, replaced, cancellationToken);

    /// <inheritdoc/>
    public async ValueTask RejectAsync(string signedNote, CancellationToken cancellationToken) =>
        await _file.RejectAsync(signedNote, cancellationToken);
}

/// <summary>Keeps the head while the process lives.</summary>
internal sealed class MemoryHeadStore : IHeadStore
{
    private KeptHead? _head;

    public ValueTask<KeptHead?> LoadAsync(CancellationToken cancellationToken) => new(_head);

    public ValueTask<bool> SaveAsync(KeptHead head, KeptHead? replaced, CancellationToken cancellationToken)
    {
        if (_head?.SignedNote != replaced?.SignedNote)
            return new(false);
        _head = head;
        return new(true);
    }

    public ValueTask RejectAsync(string signedNote, CancellationToken cancellationToken) => default;
}
