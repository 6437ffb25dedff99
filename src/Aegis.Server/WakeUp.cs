namespace Aegis.Server;

/// <summary>Lets a loop rest until its next round is due, or until somebody wakes it. Several calls wake it once. Thread-safe.</summary>
internal sealed class WakeUp : IDisposable
{
    private readonly SemaphoreSlim _signal = new(0, 1);

    public void Wake()
    {
        try
        {
            if (_signal.CurrentCount == 0)
                _signal.Release();
        }
        catch (SemaphoreFullException)
        {
            // Woken already.
        }
    }

    /// <summary>Waits for that time at most.</summary>
    public Task RestAsync(TimeSpan time, CancellationToken cancellationToken) => _signal.WaitAsync(time, cancellationToken);

    public void Dispose() => _signal.Dispose();
}
