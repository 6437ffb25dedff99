using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>SQLite on a disk that really is full: a file system of a few MiB, mounted for the test.</summary>
[Parallelizable]
public sealed class DiskFullTests
{
    [Test]
    public async Task A_full_disk_refuses_writes_keeps_what_was_and_recovers_with_room()
    {
        await using var disk = await TinyDisk.MountAsync("4m");
        await using var server = await TestServer.StartAsync($"sqlite:{Path.Combine(disk.Path, "aegis.db")}");
        var written = await Given.WorkflowAsync(server);
        var record = (await Given.RecordsAsync(server, written)).Single();
        disk.Fill();
        var large = Given.Start("large");
        large.Snapshot = Given.Snapshot(new string('x', 500_000));

        await ErrorAssert.RefusedAsync(async () => await server.Workflows.StartWorkflowAsync(large),
            "STORE_FULL", StatusCode.ResourceExhausted);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
        await Until.HealthAsync(server.Health, "", serving: true);
        disk.Free();
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
        var after = await server.Workflows.StartWorkflowAsync(large);

        using (Assert.EnterMultipleScope())
        {
            Assert.That(after.Record.LogIndex, Is.EqualTo(record.LogIndex + 1), "What was refused left nothing.");
            Assert.That((await Given.RecordsAsync(server, written)).Single(), Is.EqualTo(record));
            Assert.That((await server.Integrity.VerifyWorkflowAsync(new Pb.VerifyWorkflowRequest { WorkflowId = "large" })).Intact, Is.True);
        }
    }
}
