namespace Aegis.Server;

/// <summary>How recent the audit of the log is: what health and metrics tell of it. Thread-safe.</summary>
public sealed class AuditStatus
{
    /// <summary>The oldest that the last look at the newest records may be.</summary>
    private static readonly TimeSpan TailAgeMax = TimeSpan.FromSeconds(60);

    private readonly TimeProvider _time;
    private readonly ServerOptions _options;
    private readonly TaskCompletionSource _firstAudit = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _lock = new();

    // Guarded by _lock.
    private long _auditedAt;
    private long _size;
    private long _rounds;
    private DateTimeOffset? _wholeSince;
    private readonly HashSet<string> _unreadable = [];

    public AuditStatus(LogTail tail, ServerOptions options, Metrics metrics, TimeProvider time)
    {
        (_time, _options) = (time, options);
        metrics.WatchAudit(() => Math.Max(0, tail.Size - Size), () => ScrubAge.TotalSeconds);
    }

    /// <summary>Done once the newest records were looked at for the first time.</summary>
    public Task FirstAudit => _firstAudit.Task;

    /// <summary>How far the log was followed.</summary>
    public long Size
    {
        get
        {
            lock (_lock)
                return _size;
        }
    }

    /// <summary>How often the newest records were looked at.</summary>
    public long Rounds
    {
        get
        {
            lock (_lock)
                return _rounds;
        }
    }

    /// <summary>How long ago the whole history was last verified, or its verification first begun.</summary>
    public TimeSpan ScrubAge
    {
        get
        {
            lock (_lock)
                return _wholeSince is { } since ? _time.GetUtcNow() - since : TimeSpan.Zero;
        }
    }

    /// <summary>
    /// Whether both the newest records and the whole history were looked at within their bounds, and can be read on.
    /// </summary>
    public bool IsCurrent
    {
        get
        {
            lock (_lock)
            {
                return FirstAudit.IsCompleted && _unreadable.Count == 0 && _time.GetElapsedTime(_auditedAt) < TailAgeMax
                    && (_wholeSince is not { } since || _time.GetUtcNow() - since < _options.ScrubPeriod);
            }
        }
    }

    /// <summary>Called when the first audit is done, and when the whole history was verified.</summary>
    public event Action? Changed;

    /// <summary>Tells whether something that is audited can be read, or the database says that its files are damaged there.</summary>
    /// <returns>Whether that was not known.</returns>
    public bool Reads(string what, bool isSo)
    {
        bool isNew;
        lock (_lock)
            isNew = isSo ? _unreadable.Remove(what) : _unreadable.Add(what);
        if (isNew)
            Changed?.Invoke();
        return isNew;
    }

    /// <summary>The newest records were looked at, up to a size of the log.</summary>
    public void Audited(long size)
    {
        lock (_lock)
            (_auditedAt, _size, _rounds) = (_time.GetTimestamp(), size, _rounds + 1);
        if (_firstAudit.TrySetResult())
            Changed?.Invoke();
    }

    /// <summary>The whole history was verified, or its verification begun for the first time.</summary>
    public void Scrubbed(DateTimeOffset at)
    {
        lock (_lock)
            _wholeSince = at;
        Changed?.Invoke();
    }
}
