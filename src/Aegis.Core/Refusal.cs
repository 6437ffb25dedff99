namespace Aegis.Core;

/// <summary>Why a command or a read is refused. One value for each reason of the contract.</summary>
public enum Reason
{
    InvalidField,
    SnapshotTooLarge,
    WorkflowNotFound,
    CheckpointNotFound,
    RecordNotFound,
    WorkflowAlreadyExists,
    RequestIdReused,
    StateMismatch,
    SequenceMismatch,
    HashMismatch,
    WorkflowClosed,
    LeaseHeld,
    LeaseRequired,
    LeaseStale,
    SnapshotErased,
    ChainBroken,
    SnapshotCorrupt,
    LogForked,
    CursorAheadOfLog,
    Overloaded,
    StoreFull,
    StoreUnavailable,
    OutcomeUnknown,
    ShuttingDown,
    WorkflowQuarantined,
    LogRolledBack,
}

/// <summary>
/// A refusal: an ordinary answer, not an exception. Every value in the message is also among the facts, under the
/// names that the contract tells.
/// </summary>
public sealed record Refusal(Reason Reason, string Message, IReadOnlyDictionary<string, string> Facts)
{
    public Refusal(Reason reason, string message, params (string Name, string Value)[] facts)
        : this(reason, message, facts.ToDictionary(f => f.Name, f => f.Value))
    {
    }

    /// <summary>For <see cref="Reason.InvalidField"/>: each field and what is wrong with it.</summary>
    public IReadOnlyList<(string Field, string Problem)> Fields { get; init; } = [];

    public static Refusal Invalid(string field, string problem) => Invalid([(field, problem)]);

    public static Refusal Invalid(IReadOnlyList<(string Field, string Problem)> fields) =>
        new(Reason.InvalidField, string.Join("; ", fields.Select(f => $"{f.Field} {f.Problem}")) + ".",
            ("field", fields[0].Field))
        { Fields = fields };

    public static Refusal NotFound(WorkflowKey key) =>
        new(Reason.WorkflowNotFound,
            $"There is no workflow \"{key.WorkflowId}\" in the namespace \"{key.Namespace}\".", Of(key));

    public static Refusal Conflict(Reason reason, string message, Workflow current) =>
        new(reason, message, [
            .. Of(current.Key),
            ("current_state", current.State),
            ("current_sequence", Text(current.Sequence)),
            ("current_hash", current.HeadHash.ToString())]);

    public static (string Name, string Value)[] Of(WorkflowKey key) =>
        [("namespace", key.Namespace), ("workflow_id", key.WorkflowId)];

    public static string Text(long value) => value.ToString(System.Globalization.CultureInfo.InvariantCulture);
}

/// <summary>Carries a refusal out of code that has no other way to answer; the service's edge catches it.</summary>
public sealed class RefusalException(Refusal refusal, Exception? inner = null) : Exception(refusal.Message, inner)
{
    public Refusal Refusal { get; } = refusal;
}
