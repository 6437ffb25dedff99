using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Server;

/// <summary>A replica as this server sees it: how far it is, and whether calls are sent to it. Thread-safe.</summary>
public sealed class Replica(PostgresReplica replica, ILedgerStore primary, TimeProvider time, ILogger logger)
{
    /// <summary>How long one is left out that gave what the primary does not confirm.</summary>
    private static readonly TimeSpan DistrustTime = TimeSpan.FromMinutes(1);

    private readonly Lock _lock = new();

    // Guarded by _lock.
    private StoredHead? _head;
    private string? _leftOutFor = "";
    private long? _distrustedAt;
    private Task? _look;

    private double _lagSeconds;

    public string Location => replica.Location;

    public PostgresReplica Source => replica;

    /// <summary>The tiles that were read there, apart from the primary's: what a damaged replica gives must not spoil a receipt.</summary>
    public LogProofs Proofs { get; } = new(primary);

    /// <summary>The newest of its heads that the primary is known to have; null while calls are not sent to it.</summary>
    public StoredHead? Head
    {
        get
        {
            lock (_lock)
                return _leftOutFor is null ? _head : null;
        }
    }

    /// <summary>How far it was when it was last seen. Owned by the loop that looks.</summary>
    public long LogSize { get; set; }

    /// <summary>By how much it is behind at most, as last seen.</summary>
    public double LagSeconds
    {
        get => Volatile.Read(ref _lagSeconds);
        set => Volatile.Write(ref _lagSeconds, value);
    }

    /// <summary>Whether it is left out for what it gave.</summary>
    public bool IsDistrusted
    {
        get
        {
            lock (_lock)
                return _distrustedAt is { } at && time.GetElapsedTime(at) < DistrustTime;
        }
    }

    /// <summary>Done when a look at how far it is is done: one at a time, for all who want to know.</summary>
    public Task LookedAtAsync(Func<Replica, Task> look)
    {
        lock (_lock)
            return _look is { IsCompleted: false } ? _look : _look = look(this);
    }

    /// <summary>It is in order, as far as this head, which the primary has too.</summary>
    public void TakeIn(StoredHead head)
    {
        bool isNew;
        lock (_lock)
        {
            isNew = _leftOutFor is not null;
            (_head, _leftOutFor) = (head, null);
        }
        if (isNew)
            logger.LogInformation("The replica {Replica} is read at: it has {Size} records", Location, head.Size);
    }

    /// <summary>It is further than it was, while it is in order.</summary>
    public void Advance(StoredHead head)
    {
        lock (_lock)
        {
            if (_leftOutFor is null && head.Size > _head!.Size)
                _head = head;
        }
    }

    /// <summary>No more calls are sent to it until it is taken in.</summary>
    /// <param name="reason">Why; told once as long as it stays the same.</param>
    /// <param name="isWrong">Whether somebody has to look, since it will not mend by itself.</param>
    public void LeaveOut(string reason, bool isWrong = false)
    {
        lock (_lock)
        {
            if (_leftOutFor == reason)
                return;
            _leftOutFor = reason;
        }
        logger.Log(isWrong ? LogLevel.Error : LogLevel.Warning, "The replica {Replica} is left out: {Reason}", Location, reason);
    }

    /// <summary>The primary did not confirm what was found there.</summary>
    public void Distrust(IReadOnlyList<Violation> found)
    {
        lock (_lock)
            _distrustedAt = time.GetTimestamp();
        var what = found.Count == 0 ? "" : $" ({found[0].Class.Name()} at sequence {found[0].Sequence} of {found[0].Key})";
        LeaveOut($"what it gave does not verify{what}, and the primary's does: look at its disk, or clone it anew", isWrong: true);
    }
}
