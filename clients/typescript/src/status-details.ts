import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import type { FieldViolation } from "./errors.js";

/** The domain of the reasons that are ours. */
const DOMAIN = "aegis.v1";

const TYPE_PREFIX = "type.googleapis.com/google.rpc.";

/** What the details of a google.rpc.Status say. */
export interface StatusDetails {
  reason: string;
  metadata: Map<string, string>;
  fieldViolations: FieldViolation[];
  retryDelayMs: number | undefined;
}

/**
 * Reads the trailer grpc-status-details-bin, a google.rpc.Status: its third field are details, each an Any of type url and bytes,
 * of which ErrorInfo, BadRequest and RetryInfo are understood. Undefined where the bytes are none.
 */
export function readDetails(encoded: Uint8Array): StatusDetails | undefined {
  const details: StatusDetails = { reason: "", metadata: new Map(), fieldViolations: [], retryDelayMs: undefined };
  try {
    for (const any of messages(encoded, 3)) {
      const type = text(any, 1);
      const value = messages(any, 2)[0] ?? new Uint8Array();
      if (type === `${TYPE_PREFIX}ErrorInfo` && text(value, 2) === DOMAIN) {
        details.reason = text(value, 1);
        for (const entry of messages(value, 3)) details.metadata.set(text(entry, 1), text(entry, 2));
      } else if (type === `${TYPE_PREFIX}BadRequest`) {
        for (const violation of messages(value, 1)) {
          details.fieldViolations.push({ field: text(violation, 1), description: text(violation, 2) });
        }
      } else if (type === `${TYPE_PREFIX}RetryInfo`) {
        const delay = messages(value, 1)[0] ?? new Uint8Array();
        details.retryDelayMs = Number(varint(delay, 1)) * 1000 + Math.ceil(Number(varint(delay, 2)) / 1_000_000);
      }
    }
  } catch {
    // Whatever stands there, the status itself is told.
    return undefined;
  }
  return details;
}

/** The values of a length-delimited field, in order. */
function messages(encoded: Uint8Array, field: number): Uint8Array[] {
  const values: Uint8Array[] = [];
  const reader = new BinaryReader(encoded);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (number === field && wire === WireType.LengthDelimited) values.push(reader.bytes());
    else reader.skip(wire, number);
  }
  return values;
}

function text(encoded: Uint8Array, field: number): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(messages(encoded, field).at(-1));
}

function varint(encoded: Uint8Array, field: number): bigint {
  const reader = new BinaryReader(encoded);
  let value = 0n;
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (number === field && wire === WireType.Varint) value = BigInt(reader.int64());
    else reader.skip(wire, number);
  }
  return value;
}
