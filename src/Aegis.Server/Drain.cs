using Aegis.Core;
using Grpc.Core;

namespace Aegis.Server;

/// <summary>
/// The way down. First every health name but liveness is told not to serve, and calls are served on for the drain window, so
/// that whoever polls health has seen it. Then no more calls are taken, streams are ended, and those running finish.
/// </summary>
public sealed class Drain(StoreMonitor monitor, ServerOptions options, ILogger<Drain> logger)
    : IHostedLifecycleService, IDisposable
{
    /// <summary>How long a message that is on its way may take to reach a caller that reads slowly.</summary>
    private static readonly TimeSpan DeliveryPatience = TimeSpan.FromSeconds(5);

    private readonly CancellationTokenSource _closing = new();
    private readonly CancellationTokenSource _cutting = new();

    // One that could not listen was called by nobody.
    private bool _isServing;

    /// <summary>Cancelled when the window is over: streams end, and new calls are refused.</summary>
    public CancellationToken Closing => _closing.Token;

    /// <summary>
    /// Cancelled a while after <see cref="Closing"/>. A message that is being written can only be taken back by resetting the
    /// stream, and the caller would not hear why it ended: so it is delivered, unless the caller does not read at all.
    /// </summary>
    public CancellationToken Cutting => _cutting.Token;

    /// <summary>Runs a stream that goes on until its caller has had enough, or the drain window is over.</summary>
    /// <exception cref="RefusalException">SHUTTING_DOWN when the window was over first.</exception>
    public async Task StreamAsync(ServerCallContext context, Func<CancellationToken, Task> stream)
    {
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, Closing);
        try
        {
            await stream(ending.Token);
        }
        catch (OperationCanceledException) when (Closing.IsCancellationRequested)
        {
            throw new RefusalException(Ledger.ShuttingDown);
        }
    }

    /// <summary>Called before any service of the host is stopped, Kestrel among them.</summary>
    public async Task StoppingAsync(CancellationToken cancellationToken)
    {
        monitor.Drain();
        if (_isServing && options.Drain > TimeSpan.Zero)
        {
            logger.LogInformation("Draining for {Seconds} s", options.Drain.TotalSeconds);
            try
            {
                await Task.Delay(options.Drain, cancellationToken);
            }
            catch (OperationCanceledException)
            {
                // Told to hurry.
            }
        }
        await _closing.CancelAsync();
        _cutting.CancelAfter(DeliveryPatience);
    }

    public Task StartingAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StartedAsync(CancellationToken cancellationToken)
    {
        _isServing = true;
        return Task.CompletedTask;
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StoppedAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public void Dispose()
    {
        _closing.Dispose();
        _cutting.Dispose();
    }
}
