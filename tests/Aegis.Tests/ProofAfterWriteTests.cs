using Grpc.Core;
using Npgsql;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>A proof is read once the record is durable: whoever does not get it must not hear that nothing was written.</summary>
[Parallelizable(ParallelScope.All)]
public sealed class ProofAfterWriteTests
{
    [TestCase("request", StatusCode.Unavailable)]
    [TestCase("", StatusCode.Unknown)]
    public async Task A_write_whose_proof_cannot_be_read_is_not_told_as_unwritten(string requestId, StatusCode code)
    {
        await using var server = await TestServer.StartAsync(Database.PostgreSql);
        await server.Workflows.StartWorkflowAsync(Given.Start("w"));
        var move = Given.Move("w", "NEW", "PAID");
        (move.RequestId, move.IncludeProof, move.KnownLogSize) = (requestId, true, 1);

        string sequence;
        await using (var connection = new NpgsqlConnection(server.Connection))
        {
            await connection.OpenAsync();
            await using var transaction = await connection.BeginTransactionAsync();
            // Proofs are made of tiles, which a batch as small as this one does not touch.
            await using (var command = new NpgsqlCommand("LOCK TABLE log_tile IN ACCESS EXCLUSIVE MODE", connection, transaction))
                await command.ExecuteNonQueryAsync();
            var info = await ErrorAssert.RefusedAsync(
                async () => await server.Workflows.TransitionWorkflowAsync(move), "OUTCOME_UNKNOWN", code);
            sequence = info.Metadata["sequence"];
        }

        using (Assert.EnterMultipleScope())
        {
            Assert.That((await Given.ReadAsync(server, "w")).Sequence, Is.EqualTo(2));
            Assert.That(sequence, Is.EqualTo("2"));
        }
        if (requestId.Length > 0)
            Assert.That((await server.Workflows.TransitionWorkflowAsync(move)).Replayed, Is.True);
    }
}
