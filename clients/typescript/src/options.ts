import type { CallOptions } from "./client.js";
import type { WorkflowStatus } from "./gen/aegis/v1/workflow.js";
import type { AnyWorkflow } from "./leases.js";
import type { Time } from "./time.js";
import type { LogTrust, LogTrustOptions } from "./trust.js";

/** How an engine works. */
export interface EngineOptions {
  /** The namespace of its workflows; "default" by default. */
  readonly namespace?: string;
  /**
   * Who takes the leases; a name of this process's own by default. A name that stays the same over a restart lets `takeOverOwn` take back at
   * once what this process held before: then no two processes may have it at the same time.
   */
  readonly owner?: string;
  /** How long leases last, 1 s to 1 h; 30 s by default. They are renewed at a third of it. */
  readonly leaseDurationMs?: number;
  /** How often a workflow that is worked on is checkpointed, if its object has changed; 5 minutes by default, 0 for not at all. */
  readonly checkpointIntervalMs?: number;
  /** Whether a transition carries the state object; true by default. */
  readonly checkpointOnTransition?: boolean;
  /** Who acts, where a write does not say. */
  readonly actor?: string;
  /** The log's verifier keys, and where the last head is kept. Without it records are recomputed and nothing is proven. */
  readonly trust?: LogTrust | LogTrustOptions;
  /** Told what fails in the background: a renewal, a periodic checkpoint, which are tried again, a release at the end. */
  readonly onBackgroundError?: (error: unknown, workflow: AnyWorkflow | undefined) => void;
}

/** What every write may say. */
export interface WriteOptions extends CallOptions {
  /** Who acts. */
  readonly actor?: string;
  /** Why, for people to read. */
  readonly reason?: string;
  /** Further facts. */
  readonly metadata?: ReadonlyMap<string, string> | { readonly [key: string]: string };
  /** When it happened; unset for not said. */
  readonly occurredAt?: Time;
  /** The idempotency key, up to 128 bytes; one is made where none is given. Give one to repeat a write over a crash of this process. */
  readonly requestId?: string;
}

/** What a start says. */
export interface StartOptions<T> extends WriteOptions {
  /** The state to start in. In a fork it may be left out: the state forked from. */
  readonly state?: string;
  /** RUNNING by default; WAITING for one that nobody should work on yet, which takes no lease. */
  readonly status?: WorkflowStatus.RUNNING | WorkflowStatus.WAITING;
  /** The state object. In a fork undefined means the one forked from. */
  readonly object?: T;
  /** The record to fork from. */
  readonly forkedFrom?: { readonly workflowId: string; readonly sequence: bigint; readonly hash?: Uint8Array };
  /** Whether to take the lease; true by default. */
  readonly lease?: boolean;
}

/** What a transition says. */
export interface TransitionOptions<T> extends WriteOptions {
  /** The status after it; RUNNING by default. A closed one closes the workflow for good and releases its lease. */
  readonly status?: WorkflowStatus;
  /** Replaces the workflow's object. */
  readonly object?: T;
  /** Whether to keep the state object with it; as the engine says by default. */
  readonly checkpoint?: boolean;
}

/** How to resume. */
export interface ResumeOptions extends CallOptions {
  /** Whether to take the lease; true by default. Without it a workflow is resumed to look, and moved on while nobody holds it. */
  readonly lease?: boolean;
  /** Take over at once a lease that the same owner holds from before it crashed. */
  readonly takeOverOwn?: boolean;
}

/** What to resume of all that is pending. */
export interface ResumePendingOptions extends CallOptions {
  /** Only these states; all by default. */
  readonly states?: readonly string[];
  /** RUNNING by default. */
  readonly statuses?: readonly WorkflowStatus[];
  /** Take over at once what the same owner held before it crashed. */
  readonly takeOverOwn?: boolean;
  /** How many at most, in all passes together; all by default. */
  readonly maxWorkflows?: number;
  /**
   * How long to wait after one pass over what is pending before the next; by default there is one pass. While the server is away, or
   * turns calls away, a worker that polls waits for it without end; `timeoutMs` is then that of one pass.
   */
  readonly pollIntervalMs?: number;
}

/** Which point of a history. */
export type CheckpointAt = { readonly sequence: bigint } | { readonly asOf: Time } | undefined;

/** What to export: one workflow, or all that the filter matches. */
export interface ExportFilter {
  readonly workflowId?: string;
  readonly workflowTypes?: readonly string[];
  readonly states?: readonly string[];
  readonly statuses?: readonly WorkflowStatus[];
  readonly metadata?: ReadonlyMap<string, string> | { readonly [key: string]: string };
  readonly updatedBefore?: Time;
  readonly updatedAfter?: Time;
}

/** How to import. */
export interface ImportOptions extends CallOptions {
  /** The verifier keys of the logs whose exports are trusted. */
  readonly trustedKeys?: readonly string[];
  /** Also take workflows that are RUNNING: only once their workers at the source have stopped. */
  readonly takeOver?: boolean;
  /** Take an export whose origin no trusted key proves. */
  readonly allowUnproven?: boolean;
}

/** The entries of a map, however they were given. */
export function mapOf(
  entries: ReadonlyMap<string, string> | { readonly [key: string]: string } | undefined,
): Map<string, string> {
  return entries instanceof Map ? new Map(entries) : new Map(Object.entries(entries ?? {}));
}
