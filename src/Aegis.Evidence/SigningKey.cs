using System.Security.Cryptography;
using System.Text;
using Aegis.Core;
using NSec.Cryptography;

namespace Aegis.Evidence;

/// <summary>The private key of a log, kept in a file as PKCS#8 in PEM. Thread-safe.</summary>
public sealed class SigningKey : IDisposable
{
    private readonly Key _key;
    private readonly byte[] _publicKey;

    private SigningKey(Key key)
    {
        _key = key;
        _publicKey = key.PublicKey.Export(KeyBlobFormat.RawPublicKey);
    }

    /// <summary>The public half under the name of a log.</summary>
    public VerifierKey VerifierKey(string logId) => new(logId, _publicKey);

    /// <summary>Signs a note's text with the key under the name of a log.</summary>
    public string Sign(string logId, string text) =>
        SignedNote.Write(text, VerifierKey(logId), SignatureAlgorithm.Ed25519.Sign(_key, Encoding.UTF8.GetBytes(text)));

    /// <summary>The head as a signed note.</summary>
    public string Sign(LogHead head) => Sign(head.LogId, head.Text);

    /// <summary>A new key that is kept nowhere.</summary>
    public static SigningKey Create() => Parse(Generate());

    /// <exception cref="FormatException">The text is not an Ed25519 private key in PKCS#8.</exception>
    public static SigningKey Parse(string pem)
    {
        // NSec takes its own PEM alone, which has no line breaks within; every other tool writes them.
        byte[] der;
        try
        {
            var fields = PemEncoding.Find(pem);
            if (pem[fields.Label] != "PRIVATE KEY")
                throw new FormatException("The signing key is not a PRIVATE KEY in PKCS#8.");
            der = Convert.FromBase64String(pem[fields.Base64Data]);
        }
        catch (ArgumentException e)
        {
            throw new FormatException("The signing key is not PEM.", e);
        }
        return Key.TryImport(SignatureAlgorithm.Ed25519, der, KeyBlobFormat.PkixPrivateKey, out var key)
            ? new SigningKey(key!)
            : throw new FormatException("The signing key is not an Ed25519 key in PKCS#8.");
    }

    /// <summary>
    /// The key in a file, which is made with mode 0600 if it is absent. Servers that start at once agree on one: the file
    /// appears whole under its name, and who comes second reads what is there.
    /// </summary>
    /// <exception cref="FormatException">The file is no such key.</exception>
    /// <exception cref="IOException">It cannot be read or made.</exception>
    /// <exception cref="UnauthorizedAccessException">It cannot be read or made.</exception>
    public static SigningKey LoadOrCreate(string path, out bool isNew)
    {
        isNew = false;
        var directory = Path.GetDirectoryName(Path.GetFullPath(path))!;
        if (!File.Exists(path))
        {
            Directory.CreateDirectory(directory);
            var draft = Path.Combine(directory, $".{Path.GetFileName(path)}.{Guid.NewGuid():N}");
            try
            {
                WriteNew(draft, Generate());
                // A crash before this leaves a draft and no half key.
                isNew = FileName.TryTake(draft, path);
            }
            finally
            {
                File.Delete(draft);
            }
        }
        // Before anything is signed, whoever made it, just now or before a crash: a key that is lost with the power takes the log with it.
        FileName.Sync(directory);
        return Parse(File.ReadAllText(path));
    }

    public void Dispose() => _key.Dispose();

    private static string Generate()
    {
        using var key = Key.Create(SignatureAlgorithm.Ed25519,
            new KeyCreationParameters { ExportPolicy = KeyExportPolicies.AllowPlaintextExport });
        return PemEncoding.WriteString("PRIVATE KEY", key.Export(KeyBlobFormat.PkixPrivateKey)) + "\n";
    }

    private static void WriteNew(string path, string text)
    {
        var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows())
            options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        using var file = new FileStream(path, options);
        file.Write(Encoding.ASCII.GetBytes(text));
        file.Flush(flushToDisk: true);
    }
}
