using Aegis.Core;

namespace Aegis.Server;

// What the log says of a workflow, signed.
public sealed partial class IntegrityService
{
    // A workflow does not move on further between two reads.
    private const int StatementPageSize = 100;

    /// <summary>
    /// The signed statement of a workflow that verified, of its newest record at the newest head; empty where the log does not
    /// prove that record, since what is signed is believed.
    /// </summary>
    private async Task<string> StatementAsync(Workflow verified, ReadPlace place, CancellationToken cancellationToken)
    {
        SealedHead head;
        try
        {
            head = signer.Demand(await place.HeadAsync(cancellationToken));
        }
        catch (RefusalException)
        {
            return "";
        }
        // Read after the head, so that no record below it is missed. The workflow may have moved on since it was verified.
        var page = await place.Store.ReadChainAsync(verified.Key, long.MaxValue, descending: true, StatementPageSize, cancellationToken);
        if (page.FirstOrDefault(r => r.LogIndex < head.Head.Size) is not { } last || last.Record.Sequence < verified.Sequence)
            return "";
        var (_, isProof) = await new InclusionPaths(place.Proofs, head).OfAsync(last, cancellationToken);
        return isProof ? signer.Sign(head, verified.Key, last) : "";
    }
}
