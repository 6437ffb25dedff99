using Aegis.Core;

namespace Aegis.Evidence;

using Pb = Aegis.V1;

/// <summary>Puts the parts of one snapshot after the other together.</summary>
public sealed class SnapshotAssembly
{
    private byte[]? _content;
    private Hash _sha256;
    private int _length;

    public bool IsOpen => _content is not null;

    /// <summary>The snapshot, once its last part has come.</summary>
    /// <exception cref="FormatException">The part does not follow from the one before.</exception>
    public (Hash Sha256, byte[] Content)? Add(Pb.ExportSnapshotPart part)
    {
        if (part.Sha256.Length != Hash.Size || part.Size > Limits.SnapshotBytesMax)
            throw new FormatException("a part of a snapshot is malformed");
        var sha256 = new Hash(part.Sha256.Span);
        if (_content is null)
            (_content, _sha256, _length) = (new byte[part.Size], sha256, 0);
        if (sha256 != _sha256 || part.Offset != (ulong)_length || part.Size != (ulong)_content.Length
            || part.Data.Length > _content.Length - _length)
        {
            throw new FormatException("the parts of a snapshot are out of order");
        }
        part.Data.Span.CopyTo(_content.AsSpan(_length));
        _length += part.Data.Length;
        if (_length < _content.Length)
            return null;
        var whole = (_sha256, _content);
        _content = null;
        return whole;
    }
}
