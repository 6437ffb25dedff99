using Aegis.Core;
using Aegis.Storage;

namespace Aegis.Tests;

/// <summary>A file system of its own that a test can fill.</summary>
internal sealed class TinyDisk : IAsyncDisposable
{
    private readonly TemporaryDirectory _directory = new("disk");

    private TinyDisk()
    {
    }

    public string Path => _directory.Path;

    private string Filling => System.IO.Path.Combine(Path, "filling");

    /// <summary>Mounts it; who may not mount has the test skipped, but on CI it fails.</summary>
    /// <param name="size">As mount takes it.</param>
    /// <param name="owner">`uid:gid` of who is to use it, when it is not the test itself.</param>
    public static async Task<TinyDisk> MountAsync(string size, string? owner = null)
    {
        var disk = new TinyDisk();
        var options = owner?.Split(':') is [var user, var group] ? $"size={size},mode=700,uid={user},gid={group}" : $"size={size}";
        try
        {
            await ChildProcess.RunAsync("mount", "-t", "tmpfs", "-o", options, "tmpfs", disk.Path);
        }
        catch (Exception e) when (e is InvalidOperationException or System.ComponentModel.Win32Exception)
        {
            disk._directory.Dispose();
            if (Environment.GetEnvironmentVariable("CI") is { Length: > 0 })
                Assert.Fail($"A disk to fill cannot be mounted: {e.Message}");
            Assert.Ignore($"Only root can mount a disk to fill: {e.Message}");
        }
        return disk;
    }

    /// <summary>Takes all room that is left.</summary>
    public void Fill()
    {
        using var file = new FileStream(Filling, FileMode.Append, FileAccess.Write, FileShare.None, bufferSize: 0);
        foreach (var size in new[] { 64 * 1024, 4096, 1 })
        {
            try
            {
                while (true)
                {
                    file.Write(new byte[size]);
                    file.Flush(flushToDisk: true);
                }
            }
            catch (IOException)
            {
                // Full, to this size.
            }
        }
    }

    public void Free() => File.Delete(Filling);

    public async ValueTask DisposeAsync()
    {
        await ChildProcess.RunAsync("umount", "--lazy", Path);
        _directory.Dispose();
    }
}

/// <summary>What every store does when its disk is full.</summary>
internal static class FullDisk
{
    public static async Task MeetAsync(ILedgerStore store, int bytes, Action fill, Action free)
    {
        var snapshot = new byte[bytes];
        new Random(2).NextBytes(snapshot);
        var command = Ask.Start("large", parts: Ask.Parts(snapshot: snapshot));
        await WriteAsync(store, Ask.Start("before"));
        fill();

        var failure = (await Assert.ThrowsAsync<StoreException>(() => WriteAsync(store, command)))!.Failure;

        Assert.That(failure, Is.EqualTo(StoreFailure.Full));
        Assert.That(await store.FindWorkflowAsync(Ask.Key("large"), default), Is.Null);
        Assert.That(await store.FindWorkflowAsync(Ask.Key("before"), default), Is.Not.Null, "Reads go on.");
        free();
        await WriteAsync(store, command);
        Assert.That((await store.ReadChainAsync(Ask.Key("large"), 1, descending: false, 10, default)).Single().LogIndex, Is.EqualTo(2));
        Assert.That(await store.ReadSnapshotAsync(Ask.Key("large"), Hash.Of(snapshot), default), Is.EqualTo(snapshot));
    }

    private static async Task WriteAsync(ILedgerStore store, WriteCommand command)
    {
        await using var transaction = await store.BeginAsync([command.Key], [], 0, default);
        var batch = new LedgerBatch(transaction.State);
        batch.Decide(command);
        await transaction.CommitAsync(batch.Sealed());
    }
}
