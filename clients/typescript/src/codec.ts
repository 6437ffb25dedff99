/** Turns a caller's state object into the bytes that are kept, and back. Both ways may be asynchronous: to encrypt, to compress. */
export interface Codec<T> {
  /**
   * The media type of what {@link encode} gives, up to 255 bytes; a version of the caller's schema travels as a parameter:
   * `application/json;version=3`.
   */
  readonly contentType: string;
  /** The bytes to keep. The server stores and hashes them and never parses them. */
  encode(object: T): Uint8Array | Promise<Uint8Array>;
  /**
   * The object that was kept.
   *
   * @param contentType - What was stored with the bytes: it may be of an earlier version.
   */
  decode(content: Uint8Array, contentType: string): T | Promise<T>;
}

/** JSON in UTF-8, of what `JSON.stringify` can tell; anything else in the object is lost as it is with that function. */
export function json<T>(contentType = "application/json"): Codec<T> {
  return {
    contentType,
    encode(object) {
      const text = JSON.stringify(object);
      if (text === undefined)
        throw new TypeError("The object has no JSON. Give a codec of your own, or another object.");
      return Buffer.from(text, "utf8");
    },
    decode(content, found) {
      const type = found.split(";")[0]?.trim();
      if (type !== "application/json" && type !== contentType.split(";")[0]?.trim())
        throw new TypeError(
          `The snapshot is "${found}" and not JSON: register the workflow type with the codec that wrote it.`,
        );
      return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content)) as T;
    },
  };
}

/** Bytes as they are. */
export function bytes(contentType = "application/octet-stream"): Codec<Uint8Array> {
  return { contentType, encode: (object) => object, decode: (content) => content };
}
