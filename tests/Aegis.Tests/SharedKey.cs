using Aegis.Evidence;

namespace Aegis.Tests;

/// <summary>
/// The signing key of all logs of the tests: servers that share a database share a key, wherever their data directories are.
/// </summary>
[SetUpFixture]
public sealed class SharedKey
{
    private static readonly TemporaryDirectory Directory = new("key");

    private static readonly string File = System.IO.Path.Combine(Directory.Path, "signing-key.pem");

    private static readonly Lazy<SigningKey> Loaded = new(() => SigningKey.LoadOrCreate(File, out _));

    public static string Path
    {
        get
        {
            _ = Key;
            return File;
        }
    }

    public static SigningKey Key => Loaded.Value;

    [OneTimeTearDown]
    public static void Dispose()
    {
        if (Loaded.IsValueCreated)
            Loaded.Value.Dispose();
        Directory.Dispose();
    }
}
