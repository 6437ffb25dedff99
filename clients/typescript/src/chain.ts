import { type Record, RecordKind, WorkflowStatus } from "./gen/aegis/v1/workflow.js";
import { equalBytes, hex, isZero } from "./merkle.js";
import { checkRecord, isCheckpoint, PARTS, type Part, statedDigest } from "./record-format.js";
import { toMicroseconds } from "./time.js";

/** The kind of a finding, by the names of the contract's `ViolationClass`. */
export type FindingClass =
  | "FIELD_MODIFIED"
  | "RECORD_MISSING"
  | "RECORD_INSERTED"
  | "RECORDS_REORDERED"
  | "TAIL_TRUNCATED"
  | "SNAPSHOT_MODIFIED"
  | "SNAPSHOT_MISSING"
  | "ERASED_WITHOUT_RECORD"
  | "WORKFLOW_HEAD_MODIFIED"
  | "CLOCK_REGRESSION"
  | "SIGNATURE_INVALID";

/** One thing that is not as it was recorded. */
export interface Finding {
  readonly class: FindingClass;
  readonly namespace: string;
  readonly workflowId: string;
  /** The record; 0 where it concerns the workflow, or the whole, rather than one record. */
  readonly sequence: bigint;
  /** What does not fit: a part of a record, a field, or a part of the proof; empty where the message says it all. */
  readonly what: string;
  /** What is wrong, for people to read. */
  readonly message: string;
  /** What should be, in lower-case hex or as text; undefined where there is nothing to name. */
  readonly expected?: string;
  /** What is. */
  readonly actual?: string;
}

/** The bytes found stored for a snapshot: their SHA-256 and size. */
export interface FoundSnapshot {
  readonly sha256: Uint8Array;
  readonly size: bigint;
}

/** Findings beyond these are not kept. */
const FINDINGS_MAX = 1000;

/**
 * Recomputes a chain from its records' fields, one after the other, so that a chain of any length can stream through. It trusts no
 * stored hash. Give the records in the order in which they come, each with its snapshot's bytes, then complete.
 */
export class ChainVerifier {
  readonly #namespace: string;
  readonly #workflowId: string;
  readonly #findings: Finding[] = [];
  readonly #missing: { sequence: bigint; kind: RecordKind; part: Part | "snapshot-bytes" }[] = [];
  readonly #erasures: Erasure[] = [];
  #next: bigint;
  #previous: Record | undefined;
  // The hashes that the next record may name: that which the record claims, and that which its fields give. Where they differ
  // only the next record can tell which of the two was altered. Undefined where a gap makes them unknown.
  #links: Uint8Array[] | undefined;
  #leaseEpoch = 0n;
  #headHash: Uint8Array = new Uint8Array();
  #recordsVerified = 0n;
  #snapshotsVerified = 0n;

  /** @param first - Where the reading begins; above 1 the link of the first record is not checked. */
  constructor(namespace: string, workflowId: string, first = 1n) {
    this.#namespace = namespace;
    this.#workflowId = workflowId;
    this.#next = first;
  }

  /** How many records were recomputed. */
  get recordsVerified(): bigint {
    return this.#recordsVerified;
  }

  /** How many snapshots were recomputed. */
  get snapshotsVerified(): bigint {
    return this.#snapshotsVerified;
  }

  /** The hash of the last record; empty for none. */
  get headHash(): Uint8Array {
    return this.#headHash;
  }

  /** Checks the next record. A snapshot that it carries is checked by {@link addSnapshot}. */
  add(record: Record): void {
    this.#recordsVerified++;
    const { problems, hash } = checkRecord(record);
    for (const { what, message, expected, actual } of problems) {
      this.#report("FIELD_MODIFIED", record.sequence, what, message, expected && hex(expected), actual && hex(actual));
    }
    if (record.sequence < this.#next) {
      this.#report("RECORDS_REORDERED", this.#next, "sequence", `Record ${this.#next} was expected here.`);
      this.#forget();
      return;
    }
    if (record.sequence > this.#next) {
      const last = record.sequence - 1n;
      const gone = this.#next === last ? `Record ${last} is gone.` : `The records ${this.#next} to ${last} are gone.`;
      this.#report("RECORD_MISSING", this.#next, "", gone);
      this.#forget();
    }
    if (hash !== undefined && equalBytes(hash, record.hash)) this.#checkRules(record);
    for (const part of PARTS) {
      if (saltOf(record, part).length === 0 && !isZero(statedDigest(record, part)))
        this.#missing.push({ sequence: record.sequence, kind: record.kind, part });
    }
    const erasure = Erasure.of(record);
    if (erasure) this.#erasures.push(erasure);
    if (record.leaseEpoch > this.#leaseEpoch) this.#leaseEpoch = record.leaseEpoch;
    this.#previous = record;
    this.#links = hash === undefined ? [record.hash] : [record.hash, hash];
    this.#headHash = record.hash;
    this.#next = record.sequence + 1n;
  }

  /**
   * Checks the bytes of the snapshot that a record carries; undefined where there are none. Those that are gone are judged at the
   * end, since a later ERASURE may cover them.
   */
  addSnapshot(record: Record, found: FoundSnapshot | undefined): void {
    if (record.snapshotSalt.length === 0) return;
    if (found === undefined) {
      this.#missing.push({ sequence: record.sequence, kind: record.kind, part: "snapshot-bytes" });
      return;
    }
    this.#snapshotsVerified++;
    if (!equalBytes(found.sha256, record.snapshotSha256) || found.size !== record.snapshotSize) {
      this.#report(
        "SNAPSHOT_MODIFIED",
        record.sequence,
        "snapshot",
        "The bytes of the snapshot are not those that were recorded.",
        hex(record.snapshotSha256),
        hex(found.sha256),
      );
    }
  }

  /** What was found so far. */
  get findings(): readonly Finding[] {
    return this.#findings;
  }

  /** Whether values are gone that no ERASURE record so far covers. */
  get isMissingValues(): boolean {
    return this.#uncovered().length > 0;
  }

  /** Judges what only the end of the chain can tell, and gives all findings, by sequence; those about the whole come last. */
  complete(): Finding[] {
    for (const { sequence, part } of this.#uncovered()) {
      if (part === "snapshot-bytes") {
        this.#report(
          "SNAPSHOT_MISSING",
          sequence,
          "snapshot",
          "The bytes of the snapshot are gone and no ERASURE record covers them.",
        );
      } else {
        const message = `The values of the part "${part}" are gone and no ERASURE record covers them.`;
        this.#report("ERASED_WITHOUT_RECORD", sequence, part, message);
      }
    }
    const place = (finding: Finding) => (finding.sequence === 0n ? 2n ** 64n : finding.sequence);
    return this.#findings.sort((a, b) => (place(a) < place(b) ? -1 : place(a) > place(b) ? 1 : 0));
  }

  #uncovered(): { sequence: bigint; part: Part | "snapshot-bytes" }[] {
    return this.#missing.filter(({ sequence, kind, part }) => {
      // What an ERASURE says can never be erased itself.
      const mayBeErased = kind !== RecordKind.ERASURE || part !== "content";
      return !mayBeErased || !this.#erasures.some((e) => e.covers(sequence, part));
    });
  }

  #checkRules(record: Record): void {
    const sequence = record.sequence;
    if (!isKnown(record)) {
      this.#report("FIELD_MODIFIED", sequence, "kind", "Its kind or status is unknown.");
    } else if (record.namespace !== this.#namespace || record.workflowId !== this.#workflowId) {
      const message = `It is a record of the workflow ${record.namespace}/${record.workflowId}.`;
      this.#report("RECORD_INSERTED", sequence, "workflow_id", message);
    } else if (this.#links && !this.#links.some((link) => equalBytes(link, record.previousHash))) {
      this.#report(
        "RECORD_INSERTED",
        sequence,
        "previous_hash",
        "It does not follow from the record before: its previous_hash is another.",
        hex(this.#links[0] as Uint8Array),
        hex(record.previousHash),
      );
    } else {
      const problem = ruleProblem(record, this.#previous);
      if (problem !== undefined) this.#report("RECORD_INSERTED", sequence, "", problem);
      if (this.#previous && recordedAt(record) < recordedAt(this.#previous))
        this.#report(
          "CLOCK_REGRESSION",
          sequence,
          "recorded_at",
          "Its recorded_at is before that of the record before.",
        );
      if (record.leaseEpoch !== 0n && record.leaseEpoch < this.#leaseEpoch)
        this.#report("CLOCK_REGRESSION", sequence, "lease_epoch", "Its lease_epoch is lower than one before.");
    }
  }

  #forget(): void {
    this.#previous = undefined;
    this.#links = undefined;
  }

  #report(
    kind: FindingClass,
    sequence: bigint,
    what: string,
    message: string,
    expected?: string | undefined,
    actual?: string | undefined,
  ): void {
    if (this.#findings.length >= FINDINGS_MAX) return;
    this.#findings.push({
      class: kind,
      namespace: this.#namespace,
      workflowId: this.#workflowId,
      sequence,
      what,
      message,
      ...(expected !== undefined && { expected }),
      ...(actual !== undefined && { actual }),
    });
  }
}

/** Whether a status closes a workflow. */
export function isClosed(status: WorkflowStatus): boolean {
  return status >= WorkflowStatus.COMPLETED;
}

function isKnown(record: Record): boolean {
  return (
    record.kind >= RecordKind.STARTED &&
    record.kind <= RecordKind.ERASURE &&
    record.status >= WorkflowStatus.RUNNING &&
    record.status <= WorkflowStatus.CANCELLED
  );
}

/** What is wrong with a record after another (undefined when that is unknown); undefined for nothing. */
function ruleProblem(record: Record, previous: Record | undefined): string | undefined {
  const { kind } = record;
  if ((record.sequence === 1n) !== (kind === RecordKind.STARTED))
    return "A chain has exactly one STARTED record, its first.";
  if (kind === RecordKind.STARTED) return record.fromState === "" ? undefined : "A STARTED record has no from_state.";
  if (record.fromState === "") return "Only a STARTED record has no from_state.";
  if (kind === RecordKind.ERASURE && record.namespace === "aegis.system" && record.workflowId === "log")
    return "Nothing of the log's own history is ever erased.";
  if (kind !== RecordKind.TRANSITION && record.fromState !== record.toState)
    return "A record of this kind cannot change the state.";
  if (kind === RecordKind.CHECKPOINT && !isCheckpoint(record))
    return "A CHECKPOINT carries a snapshot, and this one has none.";
  if (previous === undefined) return undefined;
  if (record.workflowType !== previous.workflowType) return "The workflow_type is not that of the record before.";
  if (record.fromState !== previous.toState) return "The from_state is not the state that the record before left.";
  if (kind !== RecordKind.TRANSITION && record.status !== previous.status)
    return "A record of this kind cannot change the status.";
  if (isClosed(previous.status) && kind !== RecordKind.ERASURE) return "The workflow was closed by the record before.";
  return undefined;
}

function recordedAt(record: Record): bigint {
  return record.recordedAt === undefined ? 0n : toMicroseconds(record.recordedAt);
}

function saltOf(record: Record, part: Part): Uint8Array {
  if (part === "person") return record.personSalt;
  return part === "content" ? record.contentSalt : record.snapshotSalt;
}

/**
 * What an ERASURE record says was erased from its own chain: `aegis.erased` holds ranges of sequences ("3-7,9"), `aegis.parts` any
 * of person, content, snapshot, or snapshot-bytes when only the bytes go and what describes them stays.
 */
class Erasure {
  readonly #ranges: { from: bigint; to: bigint }[];
  readonly #parts: ReadonlySet<string>;

  private constructor(ranges: { from: bigint; to: bigint }[], parts: ReadonlySet<string>) {
    this.#ranges = ranges;
    this.#parts = parts;
  }

  static of(record: Record): Erasure | undefined {
    const erased = record.metadata.get("aegis.erased");
    const parts = record.metadata.get("aegis.parts");
    if (record.kind !== RecordKind.ERASURE || erased === undefined || parts === undefined) return undefined;
    const ranges: { from: bigint; to: bigint }[] = [];
    for (const range of erased.split(",")) {
      const [, first, last] = /^([0-9]{1,19})(?:-([0-9]{1,19}))?$/.exec(range) ?? [];
      if (first === undefined) return undefined;
      const [from, to] = [BigInt(first), BigInt(last ?? first)];
      if (to < from) return undefined;
      // Only what came before can be erased: an erasure cannot excuse its own values or later ones.
      ranges.push({ from, to: to < record.sequence ? to : record.sequence - 1n });
    }
    return new Erasure(ranges, new Set(parts.split(",")));
  }

  covers(sequence: bigint, part: Part | "snapshot-bytes"): boolean {
    const isNamed = this.#parts.has(part) || (part === "snapshot-bytes" && this.#parts.has("snapshot"));
    return isNamed && this.#ranges.some(({ from, to }) => from <= sequence && sequence <= to);
  }
}
