using Microsoft.Extensions.Logging;

namespace Aegis.Client;

/// <summary>Everything that is pending, as an iteration that holds leases.</summary>
internal sealed class PendingWorkflows<T>(
    DurableWorkflowEngine engine, string[] types, ResumeOptions options, CancellationToken cancellationToken) : IAsyncEnumerable<Workflow<T>>
{
    /// <summary>A server that fails at once is not asked all the time.</summary>
    private static readonly TimeSpan AwayDelayMin = TimeSpan.FromMilliseconds(200);

    public IAsyncEnumerator<Workflow<T>> GetAsyncEnumerator(CancellationToken token = default) =>
        new Enumerator(engine, types, options, CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, token));

    /// <summary>
    /// One round goes over everything once: what was handed out and released in it, yet is still pending, is leased again and
    /// withheld until the next, or a caller that cannot move a workflow would get no other. So is what cannot be read.
    /// </summary>
    /// <remarks>
    /// That nothing follows does not release what was handed out: callers that work side by side are still at work, and close
    /// the iteration when they are done.
    /// </remarks>
    private sealed class Enumerator(
        DurableWorkflowEngine engine, string[] types, ResumeOptions options, CancellationTokenSource cancellation) : IAsyncEnumerator<Workflow<T>>
    {
        private readonly ILogger _logger = engine.Client.LoggerFactory.CreateLogger<DurableWorkflowEngine>();
        private readonly Queue<Workflow<T>> _ready = new();
        private readonly HashSet<string> _seen = [];
        private readonly List<Workflow<T>> _withheld = [];
        private List<Workflow<T>> _handedOut = [];
        private bool _isFirst = true;
        private bool _isRoundOver;
        private bool _hasBroken;

        public Workflow<T> Current { get; private set; } = null!;

        public async ValueTask<bool> MoveNextAsync()
        {
            while (true)
            {
                while (_ready.TryDequeue(out var next))
                {
                    // Lost while it waited here: another has it.
                    if (!next.IsLeased)
                        continue;
                    _handedOut.Add(Current = next);
                    return true;
                }
                if (!_isRoundOver)
                {
                    await FillAsync();
                    continue;
                }
                await engine.ReleaseAsync(_withheld);
                _withheld.Clear();
                if (options.Poll is not { } poll)
                    return false;
                _seen.Clear();
                _handedOut = [.. _handedOut.Where(w => w.IsLeased)];
                await Task.Delay(poll, engine.Client.Time, cancellation.Token);
                _isRoundOver = false;
            }
        }

        public async ValueTask DisposeAsync()
        {
            await engine.ReleaseAsync([.. _handedOut, .. _ready, .. _withheld], isAtWork: true);
            cancellation.Dispose();
        }

        private async Task FillAsync()
        {
            var takeOverOwn = options.TakeOverOwn && _isFirst;
            int count;
            bool hasBroken;
            try
            {
                (count, hasBroken) = await engine.LeasePendingAsync<T>(types, options, takeOverOwn, Take, Fail, cancellation.Token);
            }
            catch (AegisException e) when (options.Poll is not null && e is ServiceUnavailableException or CallTimeoutException)
            {
                // Who goes on for ever outlasts any outage. To take over once more would take from what came of this call.
                _isFirst &= _seen.Count == 0;
                _logger.LogWarning("What is pending cannot be resumed, and is looked for again: {Reason}", e.Message);
                if (_ready.Count == 0)
                    await Task.Delay(options.Poll.Value > AwayDelayMin ? options.Poll.Value : AwayDelayMin, engine.Client.Time, cancellation.Token);
                return;
            }
            _isFirst = false;
            _hasBroken |= hasBroken;
            // A call that takes over asks for everything.
            _isRoundOver = count == 0 || (takeOverOwn && !hasBroken);
            // Who polls comes back to what a broken stream has stranded.
            if (!_isRoundOver || !_hasBroken || options.Poll is not null)
                return;
            // What was on its way when a stream broke is held under our name by nobody, until its lease runs out.
            await Task.Delay(engine.LeaseDuration, engine.Client.Time, cancellation.Token);
            (_isRoundOver, _hasBroken) = (false, false);
        }

        private void Take(Workflow<T> workflow)
        {
            if (_seen.Add(workflow.WorkflowId))
                _ready.Enqueue(workflow);
            else
                _withheld.Add(workflow);
        }

        private void Fail(ResumeFailure failure, Workflow<T>? unread)
        {
            if (unread is not null)
                _withheld.Add(unread);
            // Each call of a round tells it again.
            if (!_seen.Add(failure.WorkflowId))
                return;
            _logger.LogError("{WorkflowId} cannot be resumed: {Reason}: {Message}", failure.WorkflowId, failure.Reason, failure.Message);
            options.OnFailed?.Invoke(failure);
        }
    }
}
