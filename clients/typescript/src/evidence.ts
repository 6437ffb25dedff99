import { ChainVerifier, type Finding } from "./chain.js";
import { IntegrityError } from "./errors.js";
import type {
  Checkpoint,
  Record,
  RecordKind,
  Snapshot,
  Workflow as WorkflowMessage,
  WorkflowStatus,
} from "./gen/aegis/v1/workflow.js";
import type { Timestamp } from "./gen/google/protobuf/timestamp.js";
import { equalBytes, HASH_BYTES, hex, isZero, sha256 } from "./merkle.js";
import { checkRecord, isCheckpoint, PARTS, statedDigest } from "./record-format.js";
import { toMicroseconds } from "./time.js";

// Holds what a server answered against what was asked, and against itself.

/** What a record has to say after a write; what is undefined is not known beforehand. */
export interface Expected {
  readonly namespace: string;
  readonly workflowId: string;
  readonly workflowType: string;
  readonly kind: RecordKind;
  readonly fromState: string;
  readonly toState: string | undefined;
  readonly status: WorkflowStatus;
  readonly requestId: string;
  readonly leaseEpoch: bigint | undefined;
  readonly occurredAt: Timestamp | undefined;
  readonly actor: string;
  readonly reason: string;
  readonly metadata: ReadonlyMap<string, string>;
  /** Null for none; undefined where the server chooses. */
  readonly snapshot: Snapshot | null | undefined;
  readonly sequence: bigint;
  readonly previousHash: Uint8Array | undefined;
}

/**
 * The record of a write, once it is known to be what was asked for and to give its own hash. Of one that was replayed the place in
 * the chain may be an earlier one, and parts may have been erased since.
 *
 * @throws IntegrityError: it is not.
 */
export function verifyWritten(record: Record | undefined, replayed: boolean, expected: Expected): Record {
  if (record === undefined) throw new IntegrityError("record", "The server gave no record for the write.");
  verifyRecord(record);
  const { snapshot } = expected;
  const isKept = (part: (typeof PARTS)[number]) => !replayed || !isErased(record, part);
  const fields: [string, unknown, unknown][] = [
    ["namespace", expected.namespace, record.namespace],
    ["workflow_id", expected.workflowId, record.workflowId],
    ["workflow_type", expected.workflowType, record.workflowType],
    ["kind", expected.kind, record.kind],
    ["from_state", expected.fromState, record.fromState],
    ["to_state", expected.toState ?? record.toState, record.toState],
    ["status", expected.status, record.status],
    ["request_id", expected.requestId, record.requestId],
    ["occurred_at", micros(expected.occurredAt), micros(record.occurredAt)],
  ];
  if (!replayed) {
    fields.push(
      ["sequence", expected.sequence, record.sequence],
      ["lease_epoch", expected.leaseEpoch ?? record.leaseEpoch, record.leaseEpoch],
      ["previous_hash", hex(expected.previousHash ?? record.previousHash), hex(record.previousHash)],
    );
  }
  if (isKept("person")) fields.push(["actor", expected.actor, record.actor]);
  if (isKept("content"))
    fields.push(
      ["reason", expected.reason, record.reason],
      ["metadata", entries(expected.metadata), entries(record.metadata)],
    );
  if (snapshot !== undefined) fields.push(["snapshot", snapshot !== null, isCheckpoint(record)]);
  if (snapshot && isKept("snapshot")) {
    fields.push(
      ["snapshot_content_type", snapshot.contentType, record.snapshotContentType],
      ["snapshot_size", BigInt(snapshot.content.length), record.snapshotSize],
      ["snapshot_sha256", hex(snapshot.sha256), hex(record.snapshotSha256)],
    );
  }
  for (const [name, sent, found] of fields) {
    if (sent !== found)
      throw new IntegrityError(
        name,
        `The record that the server wrote has another ${name} than was sent: ${found}, not ${sent}.`,
      );
  }
  // Values that are gone are so in no record that was written just now.
  if (!replayed) {
    for (const part of PARTS) {
      if (isErased(record, part))
        throw new IntegrityError(part, `The record comes without the values of its part "${part}".`);
    }
  }
  return record;
}

/**
 * Recomputes a record that was read.
 *
 * @throws IntegrityError: its values do not give its digests, or its fields not its hash.
 */
export function verifyRecord(record: Record): void {
  const [problem] = checkRecord(record).problems;
  if (problem === undefined) return;
  const { namespace, workflowId, sequence } = record;
  throw new IntegrityError(problem.what, `Record ${sequence} of ${namespace}/${workflowId}: ${problem.message}`);
}

/**
 * The content of a checkpoint, once record and bytes are verified.
 *
 * @throws IntegrityError: they are not what was recorded, or of another workflow.
 */
export function verifyCheckpoint(
  namespace: string,
  workflowId: string,
  { record, snapshot }: Checkpoint,
): { record: Record; snapshot: Snapshot } {
  if (record === undefined || snapshot === undefined)
    throw new IntegrityError("checkpoint", `The server gave no whole checkpoint of ${namespace}/${workflowId}.`);
  verifyRecord(record);
  if (record.namespace !== namespace || record.workflowId !== workflowId) {
    const message = `A checkpoint of ${record.namespace}/${record.workflowId} came for ${namespace}/${workflowId}.`;
    throw new IntegrityError("workflow_id", message);
  }
  const actual = sha256(snapshot.content);
  const isRecorded =
    record.snapshotSalt.length > 0 &&
    record.snapshotContentType === snapshot.contentType &&
    record.snapshotSize === BigInt(snapshot.content.length) &&
    equalBytes(record.snapshotSha256, actual);
  if (!isRecorded) {
    const message = `The snapshot of record ${record.sequence} of ${namespace}/${workflowId} is not the one that was recorded.`;
    throw new IntegrityError("snapshot", message);
  }
  return { record, snapshot: { ...snapshot, sha256: actual } };
}

/**
 * Verifies that a checkpoint and the records after it are one chain that ends in the workflow as the server tells it.
 *
 * @param since - The records after the checkpoint, or from the first where there is none.
 * @returns The chain, not yet completed: what was erased while it was read is told by records after its end.
 * @throws IntegrityError: they are not.
 */
export function verifyHistory(
  workflow: WorkflowMessage,
  checkpoint: Record | undefined,
  since: readonly Record[],
): ChainVerifier {
  const { namespace, workflowId } = workflow;
  const chain = new ChainVerifier(namespace, workflowId, checkpoint?.sequence ?? 1n);
  const records = checkpoint ? [checkpoint, ...since] : since;
  for (const record of records) chain.add(record);
  throwFinding(chain.findings[0]);
  const [first, last] = [records[0], records.at(-1)];
  const origin = workflow.forkedFrom?.hash ?? new Uint8Array(HASH_BYTES);
  if (first?.sequence === 1n && !equalBytes(first.previousHash, origin))
    throw new IntegrityError(
      "forked_from",
      `The first record of ${namespace}/${workflowId} does not follow from what it was forked from.`,
    );
  const newest = records.findLast(isCheckpoint)?.sequence ?? 0n;
  const fields: [string, unknown, unknown][] = [
    ["sequence", last?.sequence, workflow.sequence],
    ["head_hash", hex(last?.hash ?? new Uint8Array()), hex(workflow.headHash)],
    ["workflow_type", last?.workflowType, workflow.workflowType],
    ["state", last?.toState, workflow.state],
    ["status", last?.status, workflow.status],
    ["checkpoint_sequence", newest, workflow.checkpointSequence],
  ];
  for (const [name, recorded, told] of fields) {
    if (recorded !== told) {
      const message = `The ${name} of ${namespace}/${workflowId} is told as ${told}, and its records give ${recorded}.`;
      throw new IntegrityError(name, message);
    }
  }
  return chain;
}

/** Throws what was found; nothing where nothing was. */
export function throwFinding(finding: Finding | undefined): void {
  if (finding === undefined) return;
  const { namespace, workflowId, sequence, what, message } = finding;
  const where = workflowId === "" ? "" : `${namespace}/${workflowId}${sequence > 0n ? `, record ${sequence}` : ""}: `;
  throw new IntegrityError(what, `${where}${message}`);
}

function isErased(record: Record, part: (typeof PARTS)[number]): boolean {
  const salt = { person: record.personSalt, content: record.contentSalt, snapshot: record.snapshotSalt }[part];
  return salt.length === 0 && !isZero(statedDigest(record, part));
}

function micros(time: Timestamp | undefined): bigint {
  return time === undefined ? 0n : toMicroseconds(time);
}

function entries(metadata: ReadonlyMap<string, string>): string {
  return JSON.stringify([...metadata].sort(([a], [b]) => (a < b ? -1 : 1)));
}
