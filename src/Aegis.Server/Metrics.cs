using System.Diagnostics.Metrics;
using Aegis.Core;

namespace Aegis.Server;

/// <summary>What the server measures of itself, under the meter "Aegis". Exported over OTLP when an endpoint is set.</summary>
public sealed class Metrics : IDisposable
{
    public const string MeterName = "Aegis";

    private readonly Meter _meter = new(MeterName);
    private readonly Histogram<int> _batchSize;
    private readonly Histogram<double> _queueWait;
    private readonly Histogram<double> _commitTime;
    private readonly Counter<long> _records;
    private readonly Counter<long> _refusals;
    private readonly Counter<long> _verified;
    private readonly Counter<long> _reads;

    public Metrics()
    {
        _batchSize = _meter.CreateHistogram<int>("aegis.batch.size", "{command}", "Commands in one batch.");
        _queueWait = _meter.CreateHistogram<double>("aegis.queue.wait", "s", "From a command's arrival to its batch.");
        _commitTime = _meter.CreateHistogram<double>("aegis.commit.time", "s", "From a batch's begin to its commit.");
        _records = _meter.CreateCounter<long>("aegis.records", "{record}", "Records stored by this server.");
        _refusals = _meter.CreateCounter<long>("aegis.refusals", "{refusal}", "Requests refused, by reason.");
        _verified = _meter.CreateCounter<long>("aegis.audit.verified", "{record}", "Records that the auditor verified.");
        _reads = _meter.CreateCounter<long>("aegis.reads", "{read}",
            "Lists, counts, exports, verifications and steps of the scrub, by the place that serves them.");
    }

    public void Watch(Func<int> queueLength, Func<double> clockSkewSeconds, Func<long> logSize)
    {
        _meter.CreateObservableGauge("aegis.queue.length", queueLength, "{command}", "Commands that wait.");
        _meter.CreateObservableGauge("aegis.clock.skew", clockSkewSeconds, "s", "This server's clock less the store's.");
        _meter.CreateObservableGauge("aegis.log.size", logSize, "{record}", "Records in the log, as last seen.");
    }

    public void WatchAudit(Func<long> tailLag, Func<double> scrubAgeSeconds)
    {
        _meter.CreateObservableGauge("aegis.audit.tail.lag", tailLag, "{record}", "Records in the log that the auditor has not seen.");
        _meter.CreateObservableGauge("aegis.audit.scrub.age", scrubAgeSeconds, "s", "Since the whole history was last verified.");
    }

    /// <param name="age">Null while no backup was ever proven: then there is nothing to measure.</param>
    public void WatchBackups(Func<TimeSpan?> age) => _meter.CreateObservableGauge("aegis.backup.age",
        () => age() is { } value ? [new Measurement<double>(value.TotalSeconds)] : Array.Empty<Measurement<double>>(), "s",
        "Since when there are records that the newest proven backup does not hold.");

    public void WatchViolations(Func<long> open) =>
        _meter.CreateObservableGauge("aegis.violations.open", open, "{violation}", "Violations that nobody has released, as last read.");

    public void WatchReplication(Func<bool> waitsForStandby) => _meter.CreateObservableGauge("aegis.replication.synchronous",
        () => waitsForStandby() ? 1 : 0, description: "1 while every commit waits for a synchronous standby, 0 while none does.");

    /// <summary>Whether an instrument is one of this server's, where several share a process.</summary>
    public bool Owns(Instrument instrument) => instrument.Meter == _meter;

    public void WatchReplicas(Func<IEnumerable<(string Replica, double LagSeconds)>> lags) =>
        _meter.CreateObservableGauge("aegis.replica.lag",
            () => lags().Select(l => new Measurement<double>(l.LagSeconds, new KeyValuePair<string, object?>("replica", l.Replica))),
            "s", "By how much a replica is behind the primary at most.");

    /// <param name="place">"primary", or where the replica is.</param>
    public void Read(string place) => _reads.Add(1, new KeyValuePair<string, object?>("place", place));

    public void Verified(long records) => _verified.Add(records);

    public void Taken(TimeSpan wait) => _queueWait.Record(wait.TotalSeconds);

    public void Committed(int commands, int records, TimeSpan time)
    {
        _batchSize.Record(commands);
        _commitTime.Record(time.TotalSeconds);
        _records.Add(records);
    }

    public void Refused(Reason reason) =>
        _refusals.Add(1, new KeyValuePair<string, object?>("reason", reason.Name()));

    public void Dispose() => _meter.Dispose();
}
