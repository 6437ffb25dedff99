using Grpc.Core;

namespace Aegis.Tests;

using Pb = Aegis.V1;

/// <summary>SQLite on a disk that really is full: a file system of a few MiB, mounted for the test.</summary>
public sealed class DiskFullTests
{
    [Test]
    public async Task A_full_disk_refuses_writes_keeps_what_was_and_recovers_with_room()
    {
        using var directory = new TemporaryDirectory("disk");
        try
        {
            await ChildProcess.RunAsync("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory.Path);
        }
        catch (InvalidOperationException e)
        {
            if (Environment.GetEnvironmentVariable("CI") is { Length: > 0 })
                Assert.Fail($"A file system cannot be mounted: {e.Message}");
            Assert.Ignore("Mounting a small file system needs root.");
        }
        try
        {
            await FillAsync(directory.Path);
        }
        finally
        {
            await ChildProcess.RunAsync("umount", "--lazy", directory.Path);
        }
    }

    private static async Task FillAsync(string path)
    {
        await using var server = await TestServer.StartAsync($"sqlite:{Path.Combine(path, "aegis.db")}");
        var ballast = Path.Combine(path, "ballast");
        await File.WriteAllBytesAsync(ballast, new byte[2 * 1024 * 1024]);
        var written = new List<(string Id, Pb.Record Record)>();

        var info = await ErrorAssert.RefusedAsync(async () =>
        {
            for (var i = 0; i < 200; i++)
            {
                var start = Given.Start($"w{i}");
                start.Snapshot = Given.Snapshot($"{i}" + new string('x', 100_000));
                written.Add((start.WorkflowId, (await server.Workflows.StartWorkflowAsync(start)).Record));
            }
        }, "STORE_FULL", StatusCode.ResourceExhausted);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: false);
        await Until.HealthAsync(server.Health, "", serving: true);
        File.Delete(ballast);
        await Until.HealthAsync(server.Health, "aegis.writes", serving: true);
        var after = await server.Workflows.StartWorkflowAsync(Given.Start("after"));

        using (Assert.EnterMultipleScope())
        {
            Assert.That(info.Reason, Is.EqualTo("STORE_FULL"));
            Assert.That(written, Is.Not.Empty);
            Assert.That((int)after.Record.LogIndex, Is.EqualTo(written.Count + 1), "What was refused left nothing.");
        }
        foreach (var (id, record) in written)
            Assert.That((await Given.RecordsAsync(server, id)).Single(), Is.EqualTo(record));
    }
}
