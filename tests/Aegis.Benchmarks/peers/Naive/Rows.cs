namespace Aegis.Benchmarks.Naive;

/// <summary>Where a workflow stands.</summary>
internal sealed class Head
{
    public string WorkflowType { get; init; } = "";

    public string State { get; init; } = "";

    public int Status { get; init; }

    public long Sequence { get; init; }

    public bool IsClosed => Status > (int)V1.WorkflowStatus.Waiting;
}

/// <summary>A row of the history.</summary>
internal sealed class Row
{
    public string WorkflowId { get; init; } = "";

    public long LogIndex { get; set; }

    public long Sequence { get; init; }

    public string FromState { get; init; } = "";

    public string ToState { get; init; } = "";

    public int Status { get; init; }

    public string Actor { get; init; } = "";

    public string Reason { get; init; } = "";

    public string? RequestId { get; init; }

    public DateTime RecordedAt { get; init; }
}

/// <summary>The state a caller gave along.</summary>
internal sealed record Kept(string ContentType, byte[] Content);

/// <summary>The database, in which each call is one transaction.</summary>
internal interface IStore
{
    /// <summary>Makes the tables if they are not there.</summary>
    Task PrepareAsync();

    /// <exception cref="Refused">The id is taken.</exception>
    Task<Row> StartAsync(string workflowType, Row first, Kept? snapshot, CancellationToken cancellation);

    /// <returns>The row, and whether an earlier request made it.</returns>
    /// <exception cref="Refused">The workflow cannot be moved so.</exception>
    Task<(Row Row, bool IsReplay)> MoveAsync(Row wanted, Kept? snapshot, CancellationToken cancellation);
}
