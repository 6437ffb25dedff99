import { type ServiceError, status } from "@grpc/grpc-js";
import { readDetails } from "./status-details.js";

/** What a failed call tells: the canonical code, Aegis's reason with its facts, and when to try again. */
export interface Failure {
  /** The gRPC status code. */
  readonly code: status;
  /** The name of an `ErrorReason` without its prefix; empty when it was not Aegis that failed the call. */
  readonly reason: string;
  /** What is wrong, for people to read. */
  readonly message: string;
  /** The facts of the message by name, such as `current_state`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** The fields of the request that cannot be taken. */
  readonly fieldViolations: readonly FieldViolation[];
  /** How long the server asks to wait before the call is tried again; undefined when it does not say. */
  readonly retryDelayMs: number | undefined;
  /** What caused it. */
  readonly cause?: unknown;
}

/** A field of a request, and what is wrong with it. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** A call that failed. Each reason that a caller may want to tell from the others has a class of its own. */
export class AegisError extends Error {
  /** The gRPC status code. */
  readonly code: status;
  /** The name of an `ErrorReason` without its prefix; empty when it was not Aegis that failed the call. */
  readonly reason: string;
  /** The facts of the message by name, such as `current_state`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** The fields of the request that cannot be taken. */
  readonly fieldViolations: readonly FieldViolation[];
  /** How long the server asks to wait before the call is tried again; undefined when it does not say. */
  readonly retryDelayMs: number | undefined;
  /** Of a write that failed: who repeats it with this request id never doubles a record. Empty for other calls. */
  requestId = "";

  constructor(failure: Failure) {
    super(failure.message, failure.cause === undefined ? undefined : { cause: failure.cause });
    this.name = new.target.name;
    this.code = failure.code;
    this.reason = failure.reason;
    this.metadata = failure.metadata;
    this.fieldViolations = failure.fieldViolations;
    this.retryDelayMs = failure.retryDelayMs;
  }
}

/** A field is missing, malformed, too long or contradicts another: see {@link AegisError.fieldViolations}. */
export class InvalidField extends AegisError {}

/** The snapshot is larger than the limit: keep large content elsewhere, and its reference and digest here. */
export class SnapshotTooLarge extends AegisError {
  /** The most bytes that a snapshot may have. */
  get snapshotBytesMax(): bigint {
    return integer(this, "snapshot_bytes_max");
  }
}

/** No workflow has this id. */
export class WorkflowNotFound extends AegisError {}

/** The workflow has no checkpoint, or none that early. */
export class CheckpointNotFound extends AegisError {}

/** The workflow has no record with this sequence. */
export class RecordNotFound extends AegisError {}

/** A workflow with this id was started before: read it. */
export class WorkflowAlreadyExists extends AegisError {}

/** The request id was used on this workflow for another request. */
export class RequestIdReused extends AegisError {
  /** The field of the request that differs. */
  get field(): string {
    return this.metadata.get("field") ?? "";
  }
}

/** Somebody else moved the workflow first: it is not in the state, or not at the point, that the caller supposed. Decide again. */
export class WorkflowConflict extends AegisError {
  /** The state it is in. */
  get currentState(): string {
    return this.metadata.get("current_state") ?? "";
  }

  /** The sequence of its newest record. */
  get currentSequence(): bigint {
    return integer(this, "current_sequence");
  }

  /** The hash of its newest record, 32 bytes in lower-case hex. */
  get currentHash(): string {
    return this.metadata.get("current_hash") ?? "";
  }
}

/** The workflow is closed, or is being imported. A closed case is not reopened: fork it. */
export class WorkflowClosed extends AegisError {}

/** Another holds the lease. */
export class LeaseHeld extends AegisError {
  /** Who holds it. */
  get owner(): string {
    return this.metadata.get("owner") ?? "";
  }

  /** When it ends unless renewed, by the database's clock, as the server writes times. */
  get expiresAt(): string {
    return this.metadata.get("expires_at") ?? "";
  }
}

/** The workflow is leased, and the write came without the lease: resume it, or wait until the lease ends. */
export class LeaseRequired extends AegisError {}

/** The lease is no longer, or never was, the workflow's: stop working on it. */
export class LeaseLost extends AegisError {}

/** The bytes of the snapshot were erased on purpose. */
export class SnapshotErased extends AegisError {}

/** The stored history of the workflow was altered: tell the operator. */
export class ChainBroken extends AegisError {}

/** The stored snapshot was altered or is gone: tell the operator. */
export class SnapshotCorrupt extends AegisError {}

/** The server says that the log is not the one the caller followed. */
export class LogForked extends AegisError {}

/** The log is shorter than the request supposes. */
export class CursorAheadOfLog extends AegisError {
  /** How many records the server says that the log has. */
  get logSize(): bigint {
    return integer(this, "log_size");
  }
}

/** More commands wait than the server takes on; nothing was written. Repeated by itself while there is time. */
export class Overloaded extends AegisError {}

/** The store has no room; nothing was written. */
export class StoreFull extends AegisError {}

/** No server could be reached, or none that could do the call, before the time was up. */
export class Unavailable extends AegisError {}

/** The store cannot be reached; nothing was written. */
export class StoreUnavailable extends Unavailable {}

/** The server is shutting down; nothing was written. */
export class ShuttingDown extends Unavailable {}

/** The write may or may not have happened: repeat it with the same request id, {@link AegisError.requestId}. */
export class OutcomeUnknown extends Unavailable {}

/** A violation closed the workflow to writes: tell the operator. */
export class WorkflowQuarantined extends AegisError {}

/** The server takes no writes, since its own memory has a head that the log no longer reaches: tell the operator. */
export class LogRolledBack extends AegisError {}

/** The time was up. A write may have happened: repeat it with the same request id, {@link AegisError.requestId}. */
export class DeadlineExceeded extends AegisError {}

/**
 * What came from the server does not fit what was proven, or what was asked. It is never retried, and nothing of the answer
 * is handed out.
 */
export class IntegrityError extends Error {
  /** What does not fit: the part of a record (`person`, `content`, `snapshot`), a field, or a part of the proof. */
  readonly what: string;
  /** Of a write: the request id under which it was sent. Empty for other calls. */
  requestId = "";

  constructor(what: string, message: string) {
    super(message);
    this.name = new.target.name;
    this.what = what;
  }
}

/**
 * A head of the log that does not continue the one that was kept. Two signed notes that contradict each other are evidence: keep
 * both, and tell somebody.
 */
export class HeadRejected extends IntegrityError {
  /** `LOG_ROLLED_BACK`, `LOG_FORKED`, `LOG_ID_CHANGED` or `SIGNATURE_INVALID`. */
  readonly reason: HeadRejectedReason;
  /** The head that was kept, a signed note; undefined for none. */
  readonly keptNote: string | undefined;
  /** What came instead of a continuation. */
  readonly newNote: string;

  constructor(reason: HeadRejectedReason, message: string, keptNote: string | undefined, newNote: string) {
    super("log_head", message);
    this.reason = reason;
    this.keptNote = keptNote;
    this.newNote = newNote;
  }
}

/** Why a head is rejected. */
export type HeadRejectedReason = "LOG_ROLLED_BACK" | "LOG_FORKED" | "LOG_ID_CHANGED" | "SIGNATURE_INVALID";

const classes: Readonly<Record<string, new (failure: Failure) => AegisError>> = {
  INVALID_FIELD: InvalidField,
  SNAPSHOT_TOO_LARGE: SnapshotTooLarge,
  WORKFLOW_NOT_FOUND: WorkflowNotFound,
  CHECKPOINT_NOT_FOUND: CheckpointNotFound,
  RECORD_NOT_FOUND: RecordNotFound,
  WORKFLOW_ALREADY_EXISTS: WorkflowAlreadyExists,
  REQUEST_ID_REUSED: RequestIdReused,
  STATE_MISMATCH: WorkflowConflict,
  SEQUENCE_MISMATCH: WorkflowConflict,
  HASH_MISMATCH: WorkflowConflict,
  WORKFLOW_CLOSED: WorkflowClosed,
  LEASE_HELD: LeaseHeld,
  LEASE_REQUIRED: LeaseRequired,
  LEASE_STALE: LeaseLost,
  SNAPSHOT_ERASED: SnapshotErased,
  CHAIN_BROKEN: ChainBroken,
  SNAPSHOT_CORRUPT: SnapshotCorrupt,
  LOG_FORKED: LogForked,
  CURSOR_AHEAD_OF_LOG: CursorAheadOfLog,
  OVERLOADED: Overloaded,
  STORE_FULL: StoreFull,
  STORE_UNAVAILABLE: StoreUnavailable,
  OUTCOME_UNKNOWN: OutcomeUnknown,
  SHUTTING_DOWN: ShuttingDown,
  WORKFLOW_QUARANTINED: WorkflowQuarantined,
  LOG_ROLLED_BACK: LogRolledBack,
};

/** The error of a reason, as a server's stream tells it without a status. */
export function errorOf(
  reason: string,
  message: string,
  metadata: ReadonlyMap<string, string> = new Map(),
): AegisError {
  const failure = {
    code: status.FAILED_PRECONDITION,
    reason,
    message,
    metadata,
    fieldViolations: [],
    retryDelayMs: undefined,
  };
  return new (classes[reason] ?? AegisError)(failure);
}

/** The error of a call whose time was up before the last attempt could succeed. */
export function deadlineExceeded(message: string, cause?: AegisError): DeadlineExceeded {
  return new DeadlineExceeded({
    code: status.DEADLINE_EXCEEDED,
    reason: "",
    message,
    metadata: cause?.metadata ?? new Map(),
    fieldViolations: [],
    retryDelayMs: undefined,
    cause,
  });
}

/** The error that gRPC gave, as one of ours. */
export function fromServiceError(error: ServiceError): AegisError {
  const [encoded] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = encoded instanceof Uint8Array ? readDetails(encoded) : undefined;
  const failure = {
    code: error.code,
    reason: details?.reason ?? "",
    message: error.details || error.message,
    metadata: details?.metadata ?? new Map<string, string>(),
    fieldViolations: details?.fieldViolations ?? [],
    retryDelayMs: details?.retryDelayMs,
    cause: error,
  };
  const ofReason = classes[failure.reason];
  if (ofReason) return new ofReason(failure);
  if (error.code === status.UNAVAILABLE) return new Unavailable(failure);
  return error.code === status.DEADLINE_EXCEEDED ? new DeadlineExceeded(failure) : new AegisError(failure);
}

function integer(error: AegisError, name: string): bigint {
  const text = error.metadata.get(name) ?? "";
  return /^[0-9]+$/.test(text) ? BigInt(text) : 0n;
}
