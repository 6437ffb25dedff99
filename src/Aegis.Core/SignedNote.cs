using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Aegis.Core;

/// <summary>Whether an Ed25519 signature over a message is valid under a public key of 32 bytes.</summary>
public delegate bool SignatureCheck(ReadOnlySpan<byte> publicKey, ReadOnlySpan<byte> message, ReadOnlySpan<byte> signature);

/// <summary>
/// A signed note (C2SP signed-note): a text that ends with a newline, an empty line, and signature lines
/// <c>— &lt;key name&gt; &lt;base64( key id ‖ signature )&gt;</c>. Signatures of keys that are not known are passed over.
/// </summary>
public sealed class SignedNote
{
    private const string SignaturePrefix = "— ";
    private const int SignaturesMax = 64;
    private const int KeyIdBytes = 4;

    private static readonly UTF8Encoding Utf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private readonly List<(string Name, byte[] IdAndSignature)> _signatures;

    private SignedNote(string text, List<(string, byte[])> signatures) => (Text, _signatures) = (text, signatures);

    /// <summary>What was signed, its final newline included.</summary>
    public string Text { get; }

    /// <summary>A text with one signature, as it travels and is kept.</summary>
    public static string Write(string text, VerifierKey key, ReadOnlySpan<byte> signature)
    {
        var line = new byte[KeyIdBytes + signature.Length];
        key.Id.CopyTo(line, 0);
        signature.CopyTo(line.AsSpan(KeyIdBytes));
        return $"{text}\n{SignaturePrefix}{key.Name} {Convert.ToBase64String(line)}\n";
    }

    /// <summary>The note, or null where the text is none.</summary>
    public static SignedNote? TryParse(string note)
    {
        var end = note.LastIndexOf("\n\n", StringComparison.Ordinal);
        if (end < 0 || !note.EndsWith('\n') || note.Any(c => c < ' ' && c != '\n'))
            return null;
        var lines = note[(end + 2)..^1].Split('\n');
        if (end + 2 >= note.Length || lines.Length > SignaturesMax)
            return null;
        var signatures = new List<(string, byte[])>();
        foreach (var line in lines)
        {
            var parts = line.StartsWith(SignaturePrefix, StringComparison.Ordinal)
                ? line[SignaturePrefix.Length..].Split(' ')
                : [];
            if (parts is not [{ Length: > 0 } name, var base64] || !TryBase64(base64, out var bytes) || bytes.Length <= KeyIdBytes)
                return null;
            signatures.Add((name, bytes));
        }
        return new SignedNote(note[..(end + 1)], signatures);
    }

    /// <summary>
    /// Whether one of the keys has signed. A signature that claims one of the keys and is not valid spoils the note, whatever the
    /// others say.
    /// </summary>
    /// <param name="keys">The keys that are known.</param>
    /// <param name="check">Checks a signature.</param>
    /// <param name="name">
    /// The name of the log that the text speaks for: only keys of that name can sign for it, and what others have signed along
    /// with them, or instead of them, proves nothing. Null where the keys are those of one log anyway.
    /// </param>
    public bool IsSignedBy(IEnumerable<VerifierKey> keys, SignatureCheck check, string? name = null)
    {
        var isSigned = false;
        foreach (var key in keys)
        {
            foreach (var (signer, bytes) in _signatures)
            {
                if (signer != key.Name || !bytes.AsSpan(0, KeyIdBytes).SequenceEqual(key.Id))
                    continue;
                if (bytes.Length != KeyIdBytes + 64 || !check(key.PublicKey, Utf8.GetBytes(Text), bytes.AsSpan(KeyIdBytes)))
                    return false;
                isSigned |= name is null || name == key.Name;
            }
        }
        return isSigned;
    }

    /// <summary>Whether the note has a signature that claims this key, valid or not.</summary>
    public bool Names(VerifierKey key) =>
        _signatures.Exists(s => s.Name == key.Name && s.IdAndSignature.AsSpan(0, KeyIdBytes).SequenceEqual(key.Id));

    internal static bool TryBase64(string text, [NotNullWhen(true)] out byte[]? bytes)
    {
        bytes = new byte[text.Length];
        if (!Convert.TryFromBase64String(text, bytes, out var length) || Convert.ToBase64String(bytes, 0, length) != text)
            bytes = null;
        else
            bytes = bytes[..length];
        return bytes is not null;
    }
}

/// <summary>
/// A public key as verifiers are given it (C2SP signed-note): <c>name+id+base64( 0x01 ‖ public key )</c>, where the id is the
/// first four bytes of SHA-256( name ‖ "\n" ‖ 0x01 ‖ public key ) in hex. 0x01 is Ed25519. The name is the log_id, so that a new
/// generation of a log has another verifier key with the same bytes.
/// </summary>
public sealed class VerifierKey
{
    private const byte Ed25519 = 0x01;
    private const int PublicKeyBytes = 32;

    private readonly byte[] _publicKey;

    /// <exception cref="ArgumentException">The key does not have 32 bytes.</exception>
    public VerifierKey(string name, ReadOnlySpan<byte> publicKey)
    {
        if (publicKey.Length != PublicKeyBytes)
            throw new ArgumentException($"An Ed25519 key has {PublicKeyBytes} bytes, not {publicKey.Length}.", nameof(publicKey));
        Name = name;
        _publicKey = publicKey.ToArray();
        Id = SHA256.HashData([.. Encoding.UTF8.GetBytes(name + "\n"), Ed25519, .. publicKey])[..4];
    }

    public string Name { get; }

    public ReadOnlySpan<byte> PublicKey => _publicKey;

    /// <summary>Four bytes.</summary>
    internal byte[] Id { get; }

    /// <summary>The same key for another generation of the log.</summary>
    public VerifierKey Named(string name) => name == Name ? this : new VerifierKey(name, _publicKey);

    /// <exception cref="FormatException">The text is not a verifier key; the message says what is wrong.</exception>
    public static VerifierKey Parse(string text)
    {
        // The name may not have a "+", the base64 may.
        var parts = text.Trim().Split('+', 3);
        if (parts is not [{ Length: > 0 } name, { Length: 8 } id, var base64] || !SignedNote.TryBase64(base64, out var bytes))
            throw new FormatException("A verifier key has the form name+keyid+base64.");
        if (bytes is not [Ed25519, ..] || bytes.Length != 1 + PublicKeyBytes)
            throw new FormatException("The verifier key is not one of Ed25519.");
        var key = new VerifierKey(name, bytes.AsSpan(1));
        return string.Equals(Convert.ToHexStringLower(key.Id), id, StringComparison.OrdinalIgnoreCase)
            ? key
            : throw new FormatException("The verifier key's id is not that of its name and bytes.");
    }

    public override string ToString() =>
        $"{Name}+{Convert.ToHexStringLower(Id)}+{Convert.ToBase64String([Ed25519, .. _publicKey])}";
}

/// <summary>
/// The head of a log: how many records it has, and the root over them. What is signed is a C2SP tlog-checkpoint: three lines,
/// log_id, size in decimal and root in base64.
/// </summary>
public sealed record LogHead(string LogId, long Size, Hash Root)
{
    public string Text =>
        $"{LogId}\n{Size.ToString(CultureInfo.InvariantCulture)}\n{Convert.ToBase64String(Root.ToArray())}\n";

    /// <summary>The head that a note's text says, or null where it says none.</summary>
    public static LogHead? TryParse(string text)
    {
        if (text.Split('\n') is not [{ Length: > 0 } logId, var size, var root, .., ""]
            || !long.TryParse(size, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            || number.ToString(CultureInfo.InvariantCulture) != size
            || !SignedNote.TryBase64(root, out var bytes) || bytes.Length != Hash.Size)
        {
            return null;
        }
        return new LogHead(logId, number, new Hash(bytes));
    }

    /// <summary>The head that a note says under a signature of one of the keys, of the log that it names; else null.</summary>
    public static LogHead? Verify(string note, IReadOnlyCollection<VerifierKey> keys, SignatureCheck check) =>
        SignedNote.TryParse(note) is { } signed && TryParse(signed.Text) is { } head && signed.IsSignedBy(keys, check, head.LogId)
            ? head
            : null;
}

/// <summary>A head with the tree it stands for, from which the writer goes on, and its signed note.</summary>
public sealed record SealedHead(LogHead Head, MerkleFrontier Frontier, string SignedNote);

/// <summary>
/// What the log says of one workflow's newest record at one size of the log, signed like a head: showing a shorter history later
/// contradicts it. Four lines: log_id, <c>aegis/workflow-head/v1</c>, the size in decimal, and base64 of
/// ( opaque16 namespace ‖ opaque16 workflow_id ‖ u64 sequence ‖ hash ).
/// </summary>
public sealed record WorkflowStatement(string LogId, long LogSize, WorkflowKey Key, long Sequence, Hash Hash)
{
    private const string Label = "aegis/workflow-head/v1";

    public string Text =>
        $"{LogId}\n{Label}\n{LogSize.ToString(CultureInfo.InvariantCulture)}\n"
        + $"{Convert.ToBase64String(RecordFormat.EncodeStatement(Key, Sequence, Hash))}\n";

    /// <summary>The statement that a note's text says, or null where it says none.</summary>
    public static WorkflowStatement? TryParse(string text) =>
        text.Split('\n') is [{ Length: > 0 } logId, Label, var size, var base64, ""]
            && long.TryParse(size, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            && number.ToString(CultureInfo.InvariantCulture) == size
            && SignedNote.TryBase64(base64, out var bytes)
            && RecordFormat.TryDecodeStatement(bytes) is { } said
            ? new WorkflowStatement(logId, number, said.Key, said.Sequence, said.Hash)
            : null;

    /// <summary>What a note says under a signature of one of the keys, of the log that it names; else null.</summary>
    public static WorkflowStatement? Verify(string note, IReadOnlyCollection<VerifierKey> keys, SignatureCheck check) =>
        SignedNote.TryParse(note) is { } signed && TryParse(signed.Text) is { } said && signed.IsSignedBy(keys, check, said.LogId)
            ? said
            : null;
}

/// <summary>The names of a log: its base, and for each accepted rollback a further generation, base/2, base/3 and so on.</summary>
public static class LogName
{
    /// <summary>What is wrong with a name of a log, or null: a signed note could not carry it.</summary>
    public static string? Problem(string logId) =>
        logId.Length == 0 || logId.Any(c => char.IsWhiteSpace(c) || char.IsControl(c) || c == '+')
            || Limits.Problem(logId, Limits.NameBytesMax) is not null
            ? "must have 1 to 255 bytes without white space, control characters or \"+\""
            : null;

    /// <summary>The base and the generation, 1 for the base itself.</summary>
    public static (string Base, long Generation) Split(string logId)
    {
        var slash = logId.LastIndexOf('/');
        return slash > 0 && long.TryParse(logId.AsSpan(slash + 1), NumberStyles.None, CultureInfo.InvariantCulture, out var n)
            && n >= 2 && !logId[slash + 1].Equals('0')
            ? (logId[..slash], n)
            : (logId, 1);
    }

    public static string Next(string logId)
    {
        var (@base, generation) = Split(logId);
        return $"{@base}/{(generation + 1).ToString(CultureInfo.InvariantCulture)}";
    }
}
