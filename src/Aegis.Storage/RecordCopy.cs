using System.Buffers.Binary;
using Aegis.Core;

namespace Aegis.Storage;

/// <summary>Takes the records of a copy, one after the other; what they point to is gone afterwards.</summary>
internal delegate void RawRecordHandler(in RawRecord record);

/// <summary>
/// Reads records out of PostgreSQL's COPY in binary: a header, then per row the number of columns (2 bytes) and each column's
/// length (4 bytes, -1 for NULL) and bytes, then -1 as a number of columns. Integers are big-endian. The columns are those of
/// <see cref="RecordRow.Read"/>, in that order.
/// </summary>
internal sealed class RecordCopy(RawRecordHandler take)
{
    private const int Columns = 27;
    private const int FlagsBytes = 4;
    private static readonly byte[] Signature = [.. "PGCOPY\n"u8, 0xff, .. "\r\n"u8, 0];

    private byte[] _buffer = new byte[64 * 1024];
    private int _start;
    private int _end;

    /// <summary>Gives all rows to the handler.</summary>
    public static async Task ReadAsync(Stream copy, RawRecordHandler take, CancellationToken cancellationToken)
    {
        var reading = new RecordCopy(take);
        while (!reading.TakeHeader())
            await reading.FillAsync(copy, cancellationToken);
        while (true)
        {
            switch (reading.TakeRow())
            {
                case Taken.Part:
                    await reading.FillAsync(copy, cancellationToken);
                    break;
                case Taken.End:
                    // To its very end: a copy that is closed before is cancelled.
                    while (await copy.ReadAsync(reading._buffer, cancellationToken) > 0)
                    {
                    }
                    return;
            }
        }
    }

    private enum Taken
    {
        Row,
        Part,
        End,
    }

    private async ValueTask FillAsync(Stream copy, CancellationToken cancellationToken)
    {
        if (_start > 0)
        {
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            (_start, _end) = (0, _end - _start);
        }
        if (_end == _buffer.Length)
            Array.Resize(ref _buffer, 2 * _buffer.Length);
        var read = await copy.ReadAsync(_buffer.AsMemory(_end), cancellationToken);
        _end += read > 0 ? read : throw new InvalidDataException("The copy of the records ended early.");
    }

    private bool TakeHeader()
    {
        var bytes = _buffer.AsSpan(_start, _end - _start);
        var fixedBytes = Signature.Length + FlagsBytes + sizeof(int);
        if (bytes.Length < fixedBytes)
            return false;
        if (!bytes.StartsWith(Signature))
            throw new InvalidDataException("This is no copy in binary.");
        var length = fixedBytes + BinaryPrimitives.ReadInt32BigEndian(bytes[(Signature.Length + FlagsBytes)..]);
        if (bytes.Length < length)
            return false;
        _start += length;
        return true;
    }

    private Taken TakeRow()
    {
        var bytes = _buffer.AsSpan(_start, _end - _start);
        if (bytes.Length < sizeof(short))
            return Taken.Part;
        var columns = BinaryPrimitives.ReadInt16BigEndian(bytes);
        if (columns < 0)
            return Taken.End;
        if (columns != Columns)
            throw new InvalidDataException($"A copied row has {columns} columns, not {Columns}.");
        Span<Range> ranges = stackalloc Range[Columns];
        var at = sizeof(short);
        for (var column = 0; column < Columns; column++)
        {
            if (bytes.Length - at < sizeof(int))
                return Taken.Part;
            var length = Math.Max(0, BinaryPrimitives.ReadInt32BigEndian(bytes[at..]));
            at += sizeof(int);
            if (bytes.Length - at < length)
                return Taken.Part;
            ranges[column] = at..(at + length);
            at += length;
        }
        take(RawRow.ToRecord(new Row(bytes, ranges)));
        _start += at;
        return Taken.Row;
    }

    private readonly ref struct Row(ReadOnlySpan<byte> bytes, ReadOnlySpan<Range> columns) : IRawRow
    {
        private readonly ReadOnlySpan<byte> _bytes = bytes;
        private readonly ReadOnlySpan<Range> _columns = columns;

        public ReadOnlySpan<byte> this[int column] => _bytes[_columns[column]];

        /// <summary>A smallint or a bigint; 0 for NULL.</summary>
        public long Integer(int column) => this[column] is var bytes && bytes.Length == sizeof(long)
            ? BinaryPrimitives.ReadInt64BigEndian(bytes)
            : bytes.Length == sizeof(short) ? BinaryPrimitives.ReadInt16BigEndian(bytes) : 0;

        /// <summary>A jsonb: the version of its form, which is 1, and the text.</summary>
        public ReadOnlySpan<byte> Json(int column) => this[column] is { IsEmpty: false } bytes ? bytes[1..] : default;

        /// <summary>The length before a NULL is -1.</summary>
        public bool IsNull(int column) =>
            BinaryPrimitives.ReadInt32BigEndian(_bytes[(_columns[column].Start.Value - sizeof(int))..]) < 0;
    }
}
