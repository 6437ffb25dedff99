import { createPublicKey, verify } from "node:crypto";
import { equalBytes, HASH_BYTES, hex, sha256 } from "./merkle.js";

// Signed notes (C2SP signed-note) and what the log signs in them: its head (C2SP tlog-checkpoint), and what it states of a
// workflow's newest record.

const ED25519 = 0x01;
const KEY_ID_BYTES = 4;
const PUBLIC_KEY_BYTES = 32;
const SIGNATURE_BYTES = 64;
const SIGNATURE_PREFIX = "— ";
const SIGNATURES_MAX = 64;
/** Longer than any note of ours, with room for the signatures of witnesses. */
const NOTE_LENGTH_MAX = 8 * 1024;
const INTEGER_MAX = 2n ** 63n - 1n;

/**
 * A public key as verifiers are given it: `name+id+base64( 0x01 ‖ public key )`, where the id is the first four bytes of
 * SHA-256( name ‖ "\n" ‖ 0x01 ‖ public key ) in hex, and 0x01 is Ed25519. The name is the log_id, so that a new generation of a
 * log has another verifier key with the same bytes.
 */
export class VerifierKey {
  readonly name: string;
  readonly publicKey: Uint8Array;
  readonly id: Uint8Array;

  private constructor(name: string, publicKey: Uint8Array) {
    this.name = name;
    this.publicKey = publicKey;
    this.id = sha256(Buffer.from(`${name}\n`), Uint8Array.of(ED25519), publicKey).subarray(0, KEY_ID_BYTES);
  }

  /** @throws TypeError: the text is not a verifier key; the message says what is wrong. */
  static parse(text: string): VerifierKey {
    // The name may not have a "+", the base64 may.
    const [, name, id, base64] = /^([^+]+)\+([0-9a-fA-F]{8})\+(.+)$/s.exec(text.trim()) ?? [];
    const bytes = base64 === undefined ? undefined : fromBase64(base64);
    if (name === undefined || id === undefined || bytes === undefined)
      throw new TypeError(`A verifier key has the form name+keyid+base64, and "${text}" has not.`);
    if (bytes[0] !== ED25519 || bytes.length !== 1 + PUBLIC_KEY_BYTES)
      throw new TypeError(`The verifier key "${text}" is not one of Ed25519.`);
    const key = new VerifierKey(name, bytes.subarray(1));
    if (hex(key.id) !== id.toLowerCase())
      throw new TypeError(`The id of the verifier key "${text}" is not that of its name and bytes.`);
    return key;
  }

  /** The same key for another generation of the log. */
  named(name: string): VerifierKey {
    return name === this.name ? this : new VerifierKey(name, this.publicKey);
  }

  toString(): string {
    return `${this.name}+${hex(this.id)}+${toBase64(Buffer.concat([Uint8Array.of(ED25519), this.publicKey]))}`;
  }

  verifies(message: Uint8Array, signature: Uint8Array): boolean {
    const key = createPublicKey({
      key: { kty: "OKP", crv: "Ed25519", x: Buffer.from(this.publicKey).toString("base64url") },
      format: "jwk",
    });
    return verify(null, message, key, signature);
  }
}

/** A note, parsed but not yet verified. */
interface ParsedNote {
  /** What was signed, its final newline included. */
  text: string;
  signatures: { name: string; bytes: Uint8Array }[];
}

function parseNote(note: string): ParsedNote | undefined {
  const end = note.lastIndexOf("\n\n");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a note has none but newlines.
  if (note.length > NOTE_LENGTH_MAX || end < 0 || !note.endsWith("\n") || /[\x00-\x09\x0b-\x1f]/.test(note))
    return undefined;
  const lines = note.slice(end + 2, -1).split("\n");
  if (end + 2 >= note.length || lines.length > SIGNATURES_MAX) return undefined;
  const signatures: ParsedNote["signatures"] = [];
  for (const line of lines) {
    const [name, base64, ...rest] = line.startsWith(SIGNATURE_PREFIX)
      ? line.slice(SIGNATURE_PREFIX.length).split(" ")
      : [];
    const bytes = base64 === undefined ? undefined : fromBase64(base64);
    if (!name || bytes === undefined || bytes.length <= KEY_ID_BYTES || rest.length > 0) return undefined;
    signatures.push({ name, bytes });
  }
  return { text: note.slice(0, end + 1), signatures };
}

/**
 * Whether a key of the name on the note's first line has signed: of several trusted logs none speaks for another. Signatures by
 * other keys are passed over; one that claims such a key and is not valid spoils the note, whatever the others say.
 */
function isSignedByItsLog(note: ParsedNote, keys: readonly VerifierKey[]): boolean {
  const [logId] = note.text.split("\n");
  let isSigned = false;
  for (const key of keys.filter(({ name }) => name === logId)) {
    for (const { name, bytes } of note.signatures) {
      if (name !== key.name || !equalBytes(bytes.subarray(0, KEY_ID_BYTES), key.id)) continue;
      const signature = bytes.subarray(KEY_ID_BYTES);
      if (signature.length !== SIGNATURE_BYTES || !key.verifies(Buffer.from(note.text), signature)) return false;
      isSigned = true;
    }
  }
  return isSigned;
}

/** Whether a note has a signature under the name on its first line, of whatever key and valid or not. */
export function isSignedInItsName(note: string): boolean {
  const parsed = parseNote(note);
  const [logId] = parsed?.text.split("\n") ?? [];
  return parsed?.signatures.some(({ name }) => name === logId) ?? false;
}

/** The head of a log: how many records it has, and the root over them. */
export interface LogHead {
  readonly logId: string;
  readonly size: bigint;
  readonly root: Uint8Array;
}

/** The head that a note claims to be signed, whoever signed it; undefined where it claims none. */
export function claimedHead(note: string): LogHead | undefined {
  const lines = parseNote(note)?.text.split("\n") ?? [];
  const [logId, decimal, base64] = lines;
  if (!logId || decimal === undefined || base64 === undefined || lines.length < 4) return undefined;
  const size = fromDecimal(decimal);
  const root = fromBase64(base64);
  return size === undefined || root?.length !== HASH_BYTES ? undefined : { logId, size, root };
}

/** The head that a note says under a signature of that of the keys which bears the log's name; undefined where it says none. */
export function verifyHead(note: string, keys: readonly VerifierKey[]): LogHead | undefined {
  const parsed = parseNote(note);
  const head = claimedHead(note);
  return parsed && head && isSignedByItsLog(parsed, keys) ? head : undefined;
}

/** What the log says of one workflow's newest record at one size of the log. */
export interface WorkflowStatement {
  readonly logId: string;
  readonly logSize: bigint;
  readonly namespace: string;
  readonly workflowId: string;
  readonly sequence: bigint;
  readonly hash: Uint8Array;
}

/**
 * The statement that a note says under a signature of that of the keys which bears the log's name; undefined where it says none.
 * Its text has four lines: log_id, `aegis/workflow-head/v1`, the size in decimal, and base64 of
 * ( opaque16 namespace ‖ opaque16 workflow_id ‖ u64 sequence ‖ hash ).
 */
export function verifyStatement(note: string, keys: readonly VerifierKey[]): WorkflowStatement | undefined {
  const parsed = parseNote(note);
  if (!parsed || !isSignedByItsLog(parsed, keys)) return undefined;
  const [logId, label, decimal, base64, last, ...rest] = parsed.text.split("\n");
  const logSize = fromDecimal(decimal ?? "");
  const bytes = fromBase64(base64 ?? "");
  if (!logId || label !== "aegis/workflow-head/v1" || last !== "" || rest.length > 0) return undefined;
  if (logSize === undefined || bytes === undefined) return undefined;
  try {
    const view = Buffer.from(bytes);
    const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    const namespaceEnd = 2 + view.readUInt16BE(0);
    const workflowEnd = namespaceEnd + 2 + view.readUInt16BE(namespaceEnd);
    if (view.length !== workflowEnd + 8 + HASH_BYTES) return undefined;
    return {
      logId,
      logSize,
      namespace: strict.decode(view.subarray(2, namespaceEnd)),
      workflowId: strict.decode(view.subarray(namespaceEnd + 2, workflowEnd)),
      sequence: view.readBigUInt64BE(workflowEnd),
      hash: bytes.subarray(workflowEnd + 8),
    };
  } catch {
    // It ends within a length, or a name is not UTF-8.
    return undefined;
  }
}

/** The base of a log's name and its generation: 1 for the base itself, n for `base/n`. */
export function splitLogId(logId: string): { base: string; generation: bigint } {
  const [, base, digits] = /^(.+)\/([1-9][0-9]{0,18})$/s.exec(logId) ?? [];
  const generation = BigInt(digits ?? 1);
  return base !== undefined && generation >= 2n && generation <= INTEGER_MAX
    ? { base, generation }
    : { base: logId, generation: 1n };
}

function fromDecimal(text: string): bigint | undefined {
  if (!/^(0|[1-9][0-9]{0,18})$/.test(text)) return undefined;
  const value = BigInt(text);
  return value <= INTEGER_MAX ? value : undefined;
}

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64");
}

/** The bytes of standard base64 as an encoder writes it; undefined for anything else. */
function fromBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, "base64");
  return bytes.toString("base64") === text ? new Uint8Array(bytes) : undefined;
}
