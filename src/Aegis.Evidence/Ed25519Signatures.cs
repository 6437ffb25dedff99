using Aegis.Core;
using NSec.Cryptography;

namespace Aegis.Evidence;

/// <summary>Ed25519 (RFC 8032) for Core, which knows no cryptography but SHA-256.</summary>
public static class Ed25519Signatures
{
    /// <summary>The check that Core's verifiers are given.</summary>
    public static readonly SignatureCheck Check = (publicKey, message, signature) =>
        PublicKey.TryImport(SignatureAlgorithm.Ed25519, publicKey, KeyBlobFormat.RawPublicKey, out var key)
        && SignatureAlgorithm.Ed25519.Verify(key!, message, signature);
}
