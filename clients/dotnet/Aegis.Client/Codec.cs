using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Aegis.Client;

/// <summary>A state object as the server keeps it.</summary>
/// <param name="ContentType">The media type, up to 255 bytes; a version of one's own schema travels as a parameter.</param>
/// <param name="Content">The bytes; none at all is valid.</param>
public readonly record struct EncodedState(string ContentType, ReadOnlyMemory<byte> Content);

/// <summary>
/// Turns state objects into bytes and back, inside the process: what a codec encrypts or compresses leaves it only so.
/// Thread-safe. The same object should give the same bytes, so that what has not changed is not stored again; where it cannot,
/// as with encryption, only more is stored.
/// </summary>
/// <typeparam name="T">The type of the state object.</typeparam>
public interface ICodec<T>
{
    /// <summary>The bytes of a state object.</summary>
    EncodedState Encode(T value);

    /// <summary>The state object of bytes that <see cref="Encode"/> gave, perhaps long ago: look at the content type.</summary>
    T Decode(EncodedState state);
}

/// <summary>JSON, <c>application/json</c>: what types use that are registered without a codec.</summary>
/// <typeparam name="T">The type of the state object.</typeparam>
public sealed class JsonCodec<T> : ICodec<T>
{
    private const string ContentType = "application/json";

    private readonly JsonTypeInfo<T> _type;

    /// <param name="options">How to serialize; the defaults of System.Text.Json for the web when null.</param>
    public JsonCodec(JsonSerializerOptions? options = null)
        : this((JsonTypeInfo<T>)(options ?? JsonSerializerOptions.Web).GetTypeInfo(typeof(T)))
    {
    }

    /// <param name="type">From a source-generated context, for programs that are trimmed or compiled ahead of time.</param>
    public JsonCodec(JsonTypeInfo<T> type) => _type = type;

    /// <inheritdoc/>
    public EncodedState Encode(T value) => new(ContentType, JsonSerializer.SerializeToUtf8Bytes(value, _type));

    /// <inheritdoc/>
    /// <exception cref="FormatException">The content is of another type.</exception>
    /// <exception cref="JsonException">It is not the JSON of such an object.</exception>
    public T Decode(EncodedState state) => state.ContentType.Split(';')[0] == ContentType
        ? JsonSerializer.Deserialize(state.Content.Span, _type)!
        : throw new FormatException($"The snapshot is \"{state.ContentType}\", not {ContentType}: register the type with the codec that wrote it.");
}
