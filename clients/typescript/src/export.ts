import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { ChainVerifier, type Finding, type FoundSnapshot } from "./chain.js";
import {
  ExportChunk,
  type ExportManifest,
  type ExportRecord,
  type ExportSnapshotPart,
  type ExportTrailer,
  type ExportWorkflow,
} from "./gen/aegis/v1/recovery_service.js";
import type { Record, WorkflowStatus } from "./gen/aegis/v1/workflow.js";
import { equalBytes, HASH_BYTES, hex, isZero, verifyInclusion } from "./merkle.js";
import { claimedHead, type LogHead, VerifierKey, verifyHead, verifyStatement } from "./signed-note.js";

/** The version of the format. */
const FORMAT = "aegis/export/v1";

/** No message of an export is larger; a length above it is garbage. */
const MESSAGE_BYTES_MAX = 4n * 1024n * 1024n;
const LENGTH_BYTES_MAX = 5;

/** The largest snapshot that there can be. */
const SNAPSHOT_BYTES_MAX = 3n * 1024n * 1024n;

/** A tree of all the leaves that there can be is not higher. */
const PATH_LENGTH_MAX = 64;

/** What an export holds and what is wrong with it. */
export interface ExportReport {
  /** Whether it is whole, its head is signed by a trusted key, and everything in it is as it was recorded. */
  readonly isIntact: boolean;
  /** The head of the log that everything in it is proven to be under; undefined where no trusted key has signed it. */
  readonly logHead: LogHead | undefined;
  /** That head as a signed note. */
  readonly signedNote: string;
  readonly workflows: readonly ExportedWorkflow[];
  /** How many records were recomputed. */
  readonly recordsVerified: bigint;
  /** How many snapshots were recomputed. */
  readonly snapshotsVerified: bigint;
  /** What is not as it was recorded, of the export as a whole first. Empty if and only if it is intact. */
  readonly findings: readonly Finding[];
}

/** A workflow in an export. */
export interface ExportedWorkflow {
  readonly namespace: string;
  readonly workflowId: string;
  readonly records: bigint;
  readonly status: WorkflowStatus | undefined;
  /** The hash of its last record, 32 bytes; empty where it has none. */
  readonly headHash: Uint8Array;
  /** What the log stated of its last record: a signed note worth keeping, since it contradicts a shorter history shown later. */
  readonly statement: string;
}

/**
 * Verifies an export offline: every record, chain, snapshot, inclusion path and statement in it, under the keys that are given and
 * nothing else. What is wrong is told in the report's findings; whatever the bytes are, nothing is thrown for them.
 *
 * @param source - The path of a file, or its bytes.
 * @param keys - The verifier keys (`name+keyid+base64`) of the logs that are trusted, at least one.
 * @throws TypeError: a key is malformed, or there is none. An error of the file system: the file cannot be read.
 */
export async function verifyExport(
  source: string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  keys: string | readonly string[],
): Promise<ExportReport> {
  const verifier = new ExportVerifier([keys].flat().map((key) => VerifierKey.parse(key)));
  for await (const piece of typeof source === "string"
    ? (createReadStream(source) as AsyncIterable<Uint8Array>)
    : source) {
    verifier.push(piece);
  }
  return verifier.complete();
}

/**
 * Verifies an export as its bytes come, in pieces of any size. No length that it reads makes it take more memory than one message may
 * have.
 */
export class ExportVerifier {
  readonly #keys: readonly VerifierKey[];
  readonly #hash: Hash = createHash("sha256");
  readonly #findings: Finding[] = [];
  readonly #workflows: WorkflowVerifier[] = [];
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #neededBytes = 1;
  #position = 0;
  #manifest: ExportManifest | undefined;
  #head: LogHead | undefined;
  #isSigned = false;
  #isComplete = false;
  #isUnreadable = false;
  #records = 0n;

  constructor(keys: readonly VerifierKey[]) {
    if (keys.length === 0)
      throw new TypeError("An export is verified under the key of its log: give at least one verifier key.");
    this.#keys = keys;
  }

  /** Takes the next bytes. */
  push(piece: Uint8Array): void {
    if (this.#isUnreadable) return;
    this.#pending.push(piece);
    this.#pendingBytes += piece.length;
    // Joined only once a message is there: one that comes in many pieces costs no more than its bytes.
    if (this.#pendingBytes < this.#neededBytes) return;
    const bytes = Buffer.concat(this.#pending);
    let offset = 0;
    try {
      for (;;) {
        const length = lengthAt(bytes, offset);
        if (length === undefined) {
          this.#neededBytes = bytes.length - offset + 1;
          break;
        }
        const end = offset + length.bytes + length.value;
        if (end > bytes.length) {
          this.#neededBytes = end - offset;
          break;
        }
        this.#take(bytes.subarray(offset + length.bytes, end), bytes.subarray(offset, end));
        this.#position += end - offset;
        offset = end;
      }
    } catch (e) {
      if (!(e instanceof UnreadableExport)) throw e;
      this.#unreadable(e.message);
    }
    this.#pending = [bytes.subarray(offset)];
    this.#pendingBytes = bytes.length - offset;
  }

  /** Judges the whole. */
  complete(): ExportReport {
    if (!this.#isUnreadable) {
      if (this.#pendingBytes > 0) this.#unreadable("it ends early");
      else if (this.#manifest === undefined) this.#unreadable("it is empty");
      else if (!this.#isComplete) this.#unreadable("it ends early: it has no trailer");
    }
    const findings = [...this.#findings, ...this.#workflows.flatMap((workflow) => workflow.complete())];
    return {
      isIntact: findings.length === 0,
      logHead: this.#isSigned ? this.#head : undefined,
      signedNote: this.#manifest?.logHead ?? "",
      workflows: this.#workflows.map((workflow) => workflow.summary()),
      recordsVerified: this.#records,
      snapshotsVerified: this.#workflows.reduce((sum, workflow) => sum + workflow.snapshotsVerified, 0n),
      findings,
    };
  }

  #take(message: Uint8Array, withLength: Uint8Array): void {
    if (this.#isComplete) throw new UnreadableExport("something follows the trailer");
    const part = this.#decode(message);
    if (this.#manifest === undefined) {
      if (part?.$case !== "manifest") throw new UnreadableExport("it does not begin with a manifest");
      this.#begin(part.value);
    } else if (part?.$case === "trailer") {
      this.#end(part.value);
      return;
    } else if (part?.$case === "workflow") {
      this.#workflows.at(-1)?.complete();
      this.#workflows.push(new WorkflowVerifier(part.value, this.#head, this.#keys));
    } else {
      const workflow = this.#workflows.at(-1);
      if (workflow !== undefined && part?.$case === "snapshot") {
        workflow.addSnapshotPart(part.value);
      } else if (workflow !== undefined && part?.$case === "record" && part.value.record !== undefined) {
        workflow.addRecord(part.value, part.value.record);
        this.#records++;
      } else {
        throw new UnreadableExport(`the message at byte ${this.#position} does not belong there`);
      }
    }
    this.#hash.update(withLength);
  }

  #decode(message: Uint8Array): ExportChunk["part"] {
    try {
      return ExportChunk.decode(message).part;
    } catch {
      throw new UnreadableExport(`there is no message at byte ${this.#position}`);
    }
  }

  #begin(manifest: ExportManifest): void {
    if (manifest.format !== FORMAT) throw new UnreadableExport(`its format is "${manifest.format}", not "${FORMAT}"`);
    this.#manifest = manifest;
    this.#head = claimedHead(manifest.logHead);
    this.#isSigned = verifyHead(manifest.logHead, this.#keys) !== undefined;
    if (!this.#isSigned)
      this.#report("SIGNATURE_INVALID", "log_head", "None of the trusted keys has signed the head of the export.");
    else if (this.#head?.logId !== manifest.logId || this.#head.size !== manifest.logSize)
      this.#report("FIELD_MODIFIED", "log_head", "The manifest tells another log or size than its head.");
  }

  #end(trailer: ExportTrailer): void {
    this.#isComplete = true;
    const actual = new Uint8Array(this.#hash.digest());
    if (!equalBytes(actual, trailer.sha256)) {
      const message = "The SHA-256 of the export is not that of its trailer: it was altered, or damaged on the way.";
      this.#report("FIELD_MODIFIED", "sha256", message, hex(trailer.sha256), hex(actual));
    }
    const counts: [string, bigint, bigint][] = [
      ["workflows", trailer.workflows, BigInt(this.#workflows.length)],
      ["records", trailer.records, this.#records],
      ["snapshots", trailer.snapshots, this.#workflows.reduce((sum, workflow) => sum + workflow.snapshots, 0n)],
    ];
    for (const [what, said, found] of counts) {
      if (said !== found)
        this.#report(
          "FIELD_MODIFIED",
          what,
          `The export does not hold as many ${what} as its trailer says.`,
          `${said}`,
          `${found}`,
        );
    }
  }

  #unreadable(why: string): void {
    this.#isUnreadable = true;
    this.#report("FIELD_MODIFIED", "export", `It is no whole export: ${why}.`);
  }

  #report(kind: Finding["class"], what: string, message: string, expected?: string, actual?: string): void {
    this.#findings.push({
      class: kind,
      namespace: "",
      workflowId: "",
      sequence: 0n,
      what,
      message,
      ...(expected !== undefined && { expected }),
      ...(actual !== undefined && { actual }),
    });
  }
}

/** Judges one workflow of an export, message by message. */
class WorkflowVerifier {
  readonly #header: ExportWorkflow;
  readonly #head: LogHead | undefined;
  readonly #keys: readonly VerifierKey[];
  readonly #chain: ChainVerifier;
  readonly #found = new Map<string, FoundSnapshot>();
  readonly #requestIds = new Set<string>();
  readonly #findings: Finding[] = [];
  #assembly: { sha256: Uint8Array; size: bigint; length: bigint; hash: Hash } | undefined;
  #first: Record | undefined;
  #last: Record | undefined;
  #completed: Finding[] | undefined;

  constructor(header: ExportWorkflow, head: LogHead | undefined, keys: readonly VerifierKey[]) {
    this.#header = header;
    this.#head = head;
    this.#keys = keys;
    this.#chain = new ChainVerifier(header.namespace, header.workflowId);
  }

  get snapshots(): bigint {
    return BigInt(this.#found.size);
  }

  get snapshotsVerified(): bigint {
    return this.#chain.snapshotsVerified;
  }

  summary(): ExportedWorkflow {
    return {
      namespace: this.#header.namespace,
      workflowId: this.#header.workflowId,
      records: this.#last?.sequence ?? 0n,
      status: this.#last?.status,
      headHash: this.#last?.hash ?? new Uint8Array(),
      statement: this.#header.statement,
    };
  }

  addSnapshotPart(part: ExportSnapshotPart): void {
    if (part.sha256.length !== HASH_BYTES || part.size > SNAPSHOT_BYTES_MAX)
      throw new UnreadableExport("a part of a snapshot is malformed");
    this.#assembly ??= { sha256: part.sha256, size: part.size, length: 0n, hash: createHash("sha256") };
    const open = this.#assembly;
    const length = open.length + BigInt(part.data.length);
    if (
      !equalBytes(part.sha256, open.sha256) ||
      part.offset !== open.length ||
      part.size !== open.size ||
      length > open.size
    )
      throw new UnreadableExport("the parts of a snapshot are out of order");
    open.hash.update(part.data);
    open.length = length;
    if (length < open.size) return;
    this.#assembly = undefined;
    const actual = new Uint8Array(open.hash.digest());
    if (!equalBytes(actual, open.sha256)) {
      const message = "The bytes of a snapshot have another SHA-256 than the one they come under.";
      this.#report("SNAPSHOT_MODIFIED", 0n, "snapshot", message, hex(open.sha256), hex(actual));
    }
    this.#found.set(hex(open.sha256), { sha256: actual, size: open.size });
  }

  addRecord(message: ExportRecord, record: Record): void {
    this.#checkAssembly();
    if (record.requestId !== "") {
      if (this.#requestIds.has(record.requestId)) {
        this.#report("RECORD_INSERTED", record.sequence, "request_id", "Its request_id was used by a record before.");
      }
      this.#requestIds.add(record.requestId);
    }
    const path = message.inclusionPath;
    const head = this.#head;
    const isProven =
      head !== undefined &&
      path.length <= PATH_LENGTH_MAX &&
      verifyInclusion(record.logIndex, head.size, record.hash, path, head.root);
    if (!isProven) {
      const where = head
        ? `the head: the log of ${head.size} records has another record at ${record.logIndex}`
        : "a head";
      this.#report(
        "RECORD_INSERTED",
        record.sequence,
        "inclusion_path",
        `Its inclusion path does not lead to ${where}, or was altered.`,
      );
    }
    this.#chain.add(record);
    this.#chain.addSnapshot(record, this.#found.get(hex(record.snapshotSha256)));
    this.#first ??= record;
    this.#last = record;
  }

  /** What is wrong; the first call judges, later ones repeat it. */
  complete(): Finding[] {
    if (this.#completed) return this.#completed;
    this.#checkAssembly();
    this.#checkHeader();
    this.#checkStatement();
    this.#checkOrigin();
    this.#completed = [...this.#chain.complete(), ...this.#findings];
    return this.#completed;
  }

  #checkAssembly(): void {
    if (this.#assembly === undefined) return;
    this.#assembly = undefined;
    this.#report("SNAPSHOT_MODIFIED", 0n, "snapshot", "A snapshot is not whole.");
  }

  #checkHeader(): void {
    const { records, headHash } = this.#header;
    const found = this.#last?.sequence ?? 0n;
    if (records > found || this.#last === undefined) {
      const message = `Its header tells of ${records} records, and the last that follows is ${found}.`;
      this.#report("TAIL_TRUNCATED", found + 1n, "records", message, `${records}`, `${found}`);
      return;
    }
    if (records !== found)
      this.#report(
        "WORKFLOW_HEAD_MODIFIED",
        0n,
        "records",
        "It has more records than its header says.",
        `${records}`,
        `${found}`,
      );
    if (!equalBytes(headHash, this.#last.hash)) {
      const message = "Its last record is not the one that its header says.";
      this.#report("WORKFLOW_HEAD_MODIFIED", 0n, "head_hash", message, hex(headHash), hex(this.#last.hash));
    }
  }

  #checkStatement(): void {
    const said = verifyStatement(this.#header.statement, this.#keys);
    const [sequence, hash] = [this.#last?.sequence ?? 0n, this.#last?.hash ?? new Uint8Array()];
    if (said === undefined) {
      const message = "There is no statement of its last record that the log's key has signed.";
      this.#report("SIGNATURE_INVALID", 0n, "statement", message);
      return;
    }
    const { namespace, workflowId } = this.#header;
    const isOfThis = said.namespace === namespace && said.workflowId === workflowId;
    if (!isOfThis || said.logId !== this.#head?.logId || said.logSize !== this.#head.size) {
      const message = `Its statement is of ${said.namespace}/${said.workflowId} at size ${said.logSize} of ${said.logId}.`;
      this.#report("WORKFLOW_HEAD_MODIFIED", 0n, "statement", message);
    } else if (said.sequence > sequence) {
      const message = `The log's statement names record ${said.sequence} as its last, and the export ends with ${sequence}.`;
      this.#report("TAIL_TRUNCATED", sequence + 1n, "statement", message, hex(said.hash), hex(hash));
    } else if (said.sequence !== sequence || !equalBytes(said.hash, hash)) {
      const message = "Its last record is not the one that the log's statement names.";
      this.#report("WORKFLOW_HEAD_MODIFIED", sequence, "statement", message, hex(said.hash), hex(hash));
    }
  }

  /** Of a fork's origin only the hash is in the chain: the first record follows from it. */
  #checkOrigin(): void {
    const fork = this.#header.forkedFrom;
    const origin = fork?.hash ?? new Uint8Array(HASH_BYTES);
    const isWellFormed = fork === undefined || (fork.sequence > 0n && fork.workflowId !== "" && !isZero(fork.hash));
    if (!isWellFormed || (this.#first && !equalBytes(this.#first.previousHash, origin))) {
      const message = "Its first record does not follow from what forked_from names.";
      const expected = hex(this.#first?.previousHash ?? new Uint8Array());
      this.#report("WORKFLOW_HEAD_MODIFIED", 0n, "forked_from", message, expected, hex(origin));
    }
  }

  #report(
    kind: Finding["class"],
    sequence: bigint,
    what: string,
    message: string,
    expected?: string,
    actual?: string,
  ): void {
    const { namespace, workflowId } = this.#header;
    this.#findings.push({
      class: kind,
      namespace,
      workflowId,
      sequence,
      what,
      message,
      ...(expected !== undefined && { expected }),
      ...(actual !== undefined && { actual }),
    });
  }
}

/** The bytes cannot be read as an export; the message says why and is told as a finding. */
class UnreadableExport extends Error {}

/** The varint at a place: its value and how many bytes it takes; undefined where it ends early. */
function lengthAt(bytes: Uint8Array, offset: number): { value: number; bytes: number } | undefined {
  let value = 0n;
  for (let i = 0; i < LENGTH_BYTES_MAX; i++) {
    const byte = bytes[offset + i];
    if (byte === undefined) return undefined;
    value |= BigInt(byte & 0x7f) << BigInt(7 * i);
    if (byte < 0x80) {
      if (value > MESSAGE_BYTES_MAX) break;
      return { value: Number(value), bytes: i + 1 };
    }
  }
  throw new UnreadableExport("the length of a message is none");
}
