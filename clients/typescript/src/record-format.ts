import type { Record } from "./gen/aegis/v1/workflow.js";
import { equalBytes, HASH_BYTES, isZero, sha256 } from "./merkle.js";
import { toMicroseconds } from "./time.js";

// Record format v1: what is hashed, byte for byte. Integers are unsigned and big-endian, at most 2^63 − 1; opaqueN is an N-bit
// length in bytes followed by the bytes; strings are UTF-8 as received.
//
//   record = opaque8 "aegis/record/v1" ‖ opaque16 log_id ‖ opaque16 namespace ‖ opaque16 workflow_id
//          ‖ u64 sequence ‖ u8 kind ‖ opaque16 workflow_type ‖ opaque16 from_state ‖ opaque16 to_state
//          ‖ u8 status ‖ opaque16 request_id ‖ u64 lease_epoch ‖ u64 occurred_at ‖ u64 recorded_at
//          ‖ person_digest ‖ content_digest ‖ snapshot_digest ‖ previous_hash
//   hash   = SHA-256( 0x00 ‖ record )
//   person_digest   = SHA-256( opaque8 "aegis/person/v1" ‖ salt ‖ opaque16 actor ‖ opaque16 principal )
//   content_digest  = SHA-256( opaque8 "aegis/content/v1" ‖ salt ‖ opaque32 reason
//                              ‖ u16 n ‖ n × ( opaque16 key ‖ opaque32 value ) )
//   snapshot_digest = SHA-256( opaque8 "aegis/snapshot/v1" ‖ salt ‖ opaque16 content_type ‖ u64 size ‖ sha256 )
//
// The leading 0x00 makes the hash the RFC 6962 leaf hash of the record.

const SALT_BYTES = 16;
const INTEGER_MAX = 2n ** 63n - 1n;

/** The erasable parts of a record. */
export type Part = "person" | "content" | "snapshot";

/** The bytes of a record that are hashed. Kind and status are written as they are, known or not. */
export function encodeRecord(record: Record): Uint8Array {
  return new Writer()
    .label("aegis/record/v1")
    .opaque16(record.logId)
    .opaque16(record.namespace)
    .opaque16(record.workflowId)
    .u64(record.sequence)
    .u8(record.kind)
    .opaque16(record.workflowType)
    .opaque16(record.fromState)
    .opaque16(record.toState)
    .u8(record.status)
    .opaque16(record.requestId)
    .u64(record.leaseEpoch)
    .u64(record.occurredAt === undefined ? 0n : toMicroseconds(record.occurredAt))
    .u64(record.recordedAt === undefined ? 0n : toMicroseconds(record.recordedAt))
    .fixed(record.personDigest, HASH_BYTES)
    .fixed(record.contentDigest, HASH_BYTES)
    .fixed(record.snapshotDigest, HASH_BYTES)
    .fixed(record.previousHash, HASH_BYTES)
    .finish();
}

const LEAF = Uint8Array.of(0x00);

/** The hash of a record, recomputed from its fields: leaf of the log and link of the chain. */
export function hashRecord(record: Record): Uint8Array {
  return sha256(LEAF, encodeRecord(record));
}

/** The bytes of the part that can name a person. */
export function encodePerson(salt: Uint8Array, actor: string, principal: string): Uint8Array {
  return new Writer().label("aegis/person/v1").fixed(salt, SALT_BYTES).opaque16(actor).opaque16(principal).finish();
}

/** The bytes of the part that carries content. Entries are sorted by the UTF-8 bytes of their keys. */
export function encodeContent(
  salt: Uint8Array,
  reason: string,
  metadata: Iterable<readonly [string, string]>,
): Uint8Array {
  // UTF-16, the order of strings here, is another beyond U+FFFF.
  const entries = Array.from(metadata, ([key, value]) => ({ key: utf8(key), name: key, value }));
  entries.sort((a, b) => Buffer.compare(a.key, b.key));
  const writer = new Writer().label("aegis/content/v1").fixed(salt, SALT_BYTES).opaque32(reason).u16(entries.length);
  entries.forEach(({ key, name, value }, i) => {
    const before = entries[i - 1];
    if (before && equalBytes(before.key, key)) throw new RangeError(`The key "${name}" occurs twice in the metadata.`);
    writer.opaque16(name).opaque32(value);
  });
  return writer.finish();
}

/** The bytes of the part that describes a snapshot. */
export function encodeSnapshot(salt: Uint8Array, contentType: string, size: bigint, digest: Uint8Array): Uint8Array {
  return new Writer()
    .label("aegis/snapshot/v1")
    .fixed(salt, SALT_BYTES)
    .opaque16(contentType)
    .u64(size)
    .fixed(digest, HASH_BYTES)
    .finish();
}

/**
 * The digest of a part as its values give it; undefined where the values are not there: erased, or the record never had any.
 *
 * @throws RangeError: they cannot be encoded.
 */
export function digestOf(record: Record, part: Part): Uint8Array | undefined {
  switch (part) {
    case "person":
      if (record.personSalt.length === 0) return undefined;
      return sha256(encodePerson(record.personSalt, record.actor, record.principal));
    case "content":
      if (record.contentSalt.length === 0) return undefined;
      return sha256(encodeContent(record.contentSalt, record.reason, record.metadata));
    case "snapshot":
      if (record.snapshotSalt.length === 0) return undefined;
      return sha256(
        encodeSnapshot(record.snapshotSalt, record.snapshotContentType, record.snapshotSize, record.snapshotSha256),
      );
  }
}

/** The digest of a part as the record states it; all zero for a part that it never had. */
export function statedDigest(record: Record, part: Part): Uint8Array {
  if (part === "person") return record.personDigest;
  return part === "content" ? record.contentDigest : record.snapshotDigest;
}

/** The parts that a record can have. */
export const PARTS: readonly Part[] = ["person", "content", "snapshot"];

/** What is wrong with a record taken by itself. */
export interface RecordProblem {
  /** `record` where it is malformed, a part whose values do not give its digest, or `hash` where the fields do not give it. */
  readonly what: "record" | Part | "hash";
  readonly message: string;
  readonly expected?: Uint8Array;
  readonly actual?: Uint8Array;
}

/**
 * What is wrong with a record taken by itself, and its hash as recomputed (undefined where it is malformed). Parts whose values
 * are gone are not judged: only the rest of the chain can tell whether they were erased.
 */
export function checkRecord(record: Record): { problems: RecordProblem[]; hash: Uint8Array | undefined } {
  const problems: RecordProblem[] = [];
  try {
    const malformed = malformation(record);
    if (malformed !== undefined) return { problems: [{ what: "record", message: malformed }], hash: undefined };
    for (const part of PARTS) {
      const actual = digestOf(record, part);
      const expected = statedDigest(record, part);
      if (actual !== undefined && !equalBytes(actual, expected)) {
        problems.push({
          what: part,
          message: `The values of the part "${part}" are not those that were recorded.`,
          expected,
          actual,
        });
      }
    }
    const hash = hashRecord(record);
    if (!equalBytes(hash, record.hash))
      problems.push({
        what: "hash",
        message: "The fields of the record do not give its hash.",
        expected: record.hash,
        actual: hash,
      });
    return { problems, hash };
  } catch (e) {
    if (!(e instanceof RangeError)) throw e;
    return { problems: [{ what: "record", message: e.message }], hash: undefined };
  }
}

/** What a reader of the message would see and the hash does not cover, such as values without their salt. */
function malformation(record: Record): string | undefined {
  const withoutSalt = [
    record.personSalt.length === 0 && record.actor + record.principal !== "" && "person",
    record.contentSalt.length === 0 && (record.reason !== "" || record.metadata.size > 0) && "content",
    record.snapshotSalt.length === 0 &&
      (record.snapshotContentType !== "" || record.snapshotSize > 0n || record.snapshotSha256.length > 0) &&
      "snapshot",
  ].find((part) => part !== false);
  if (withoutSalt !== undefined) return `The values of the part "${withoutSalt}" come without their salt.`;
  if (record.hash.length !== HASH_BYTES) return `A hash has ${HASH_BYTES} bytes, not ${record.hash.length}.`;
  const { occurredAt, recordedAt } = record;
  const isExact = [occurredAt, recordedAt].every(
    (t) => t === undefined || (t.nanos % 1000 === 0 && t.nanos >= 0 && t.nanos < 1e9),
  );
  if (!isExact || (occurredAt && toMicroseconds(occurredAt) === 0n))
    return "A time is not one of whole microseconds after 1970.";
  return undefined;
}

/** Whether a record carries a snapshot, be its description erased or not. */
export function isCheckpoint(record: Record): boolean {
  return !isZero(record.snapshotDigest);
}

function utf8(text: string): Uint8Array {
  if (!text.isWellFormed()) throw new RangeError("A text has half of a surrogate pair: it has no UTF-8.");
  return Buffer.from(text, "utf8");
}

class Writer {
  readonly #pieces: Uint8Array[] = [];

  u8(value: number): this {
    return this.#integer(BigInt(value), 1, 0xffn);
  }

  u16(value: number): this {
    return this.#integer(BigInt(value), 2, 0xffffn);
  }

  u64(value: bigint): this {
    return this.#integer(value, 8, INTEGER_MAX);
  }

  fixed(bytes: Uint8Array, length: number): this {
    if (bytes.length !== length) throw new RangeError(`${length} bytes were expected, not ${bytes.length}.`);
    this.#pieces.push(bytes);
    return this;
  }

  label(text: string): this {
    return this.u8(text.length).#bytes(utf8(text));
  }

  opaque16(text: string): this {
    const bytes = utf8(text);
    return this.u16(bytes.length).#bytes(bytes);
  }

  opaque32(text: string): this {
    const bytes = utf8(text);
    return this.#integer(BigInt(bytes.length), 4, 0xffff_ffffn).#bytes(bytes);
  }

  finish(): Uint8Array {
    return new Uint8Array(Buffer.concat(this.#pieces));
  }

  #bytes(bytes: Uint8Array): this {
    this.#pieces.push(bytes);
    return this;
  }

  #integer(value: bigint, bytes: number, max: bigint): this {
    if (value < 0n || value > max) throw new RangeError(`The integer ${value} is out of range.`);
    const piece = Buffer.alloc(8);
    piece.writeBigUInt64BE(value);
    return this.#bytes(piece.subarray(8 - bytes));
  }
}
