import type { Codec } from "./codec.js";
import { LeaseLost } from "./errors.js";
import type { ForkPoint, Lease, Receipt, Record, Snapshot, WorkflowStatus } from "./gen/aegis/v1/workflow.js";
import { isCheckpoint } from "./record-format.js";

/** A type of workflow, and how its state object is kept. Made by {@link DurableWorkflowEngine.register}. */
export interface WorkflowType<T> {
  /** The workflow_type. */
  readonly name: string;
  readonly codec: Codec<T>;
  /** How often a workflow that is worked on is checkpointed, in milliseconds; 0 for not at all. */
  readonly checkpointIntervalMs: number;
}

/** What a write left. */
export interface WriteResult {
  /** The record, verified. */
  readonly record: Record;
  /** What proves it. */
  readonly receipt: Receipt | undefined;
  /** Whether an earlier request with the same request id had made the record already. */
  readonly replayed: boolean;
}

/** Where a workflow stands. */
interface Position {
  readonly state: string;
  readonly status: WorkflowStatus;
  readonly sequence: bigint;
  readonly headHash: Uint8Array;
  readonly checkpointSequence: bigint;
}

/**
 * One workflow that the engine handed out: its state object, where it stands, and its lease. Work with it through the engine:
 * change {@link object} as the work goes on, and let `transition` and `checkpoint` keep it. Calls on one workflow run one after the
 * other.
 */
export class Workflow<T> implements AsyncDisposable {
  readonly type: WorkflowType<T>;
  readonly namespace: string;
  readonly id: string;
  /** Where it was forked from; undefined where it is no fork. */
  readonly forkedFrom: ForkPoint | undefined;
  /** The records since the checkpoint that {@link object} was read from, oldest first. Empty for one that was just started. */
  readonly recordsSince: readonly Record[];
  /** The state object, the caller's own. Undefined where none was ever kept. */
  object: T;

  #position: Position;
  #lease: Lease | undefined;
  #lastWrite: WriteResult | undefined;
  readonly #lost = new AbortController();
  readonly #release: (workflow: Workflow<T>) => Promise<void>;
  #queue: Promise<unknown> = Promise.resolve();
  #keptSnapshot: { contentType: string; sha256: Uint8Array } | undefined;

  /** @internal */
  constructor(
    type: WorkflowType<T>,
    of: { namespace: string; workflowId: string; forkedFrom?: ForkPoint | undefined } & Position,
    lease: Lease | undefined,
    object: T,
    recordsSince: readonly Record[],
    release: (workflow: Workflow<T>) => Promise<void>,
  ) {
    this.type = type;
    this.namespace = of.namespace;
    this.id = of.workflowId;
    this.forkedFrom = of.forkedFrom;
    this.recordsSince = recordsSince;
    this.object = object;
    this.#position = of;
    this.#lease = lease;
    this.#release = release;
  }

  /** Its current state, as far as this client knows. */
  get state(): string {
    return this.#position.state;
  }

  /** Its current status. */
  get status(): WorkflowStatus {
    return this.#position.status;
  }

  /** The sequence of its newest record, which is also the number of its records. */
  get sequence(): bigint {
    return this.#position.sequence;
  }

  /** The hash of its newest record, 32 bytes. */
  get headHash(): Uint8Array {
    return this.#position.headHash;
  }

  /** The sequence of its newest checkpoint; 0 for none. */
  get checkpointSequence(): bigint {
    return this.#position.checkpointSequence;
  }

  /** The lease held; undefined where none is: it was resumed to look, waits, is closed, or was released or lost. */
  get lease(): Lease | undefined {
    return this.#lease;
  }

  /**
   * Aborted when the lease is lost, with {@link LeaseLost} or what else took it as reason: stop the work. Not aborted by a release or
   * by the end of the workflow.
   */
  get signal(): AbortSignal {
    return this.#lost.signal;
  }

  /** The last write made through this object; undefined before the first. */
  get lastWrite(): WriteResult | undefined {
    return this.#lastWrite;
  }

  /** Gives the lease up, so that another may go on. Nothing happens where none is held. */
  async release(): Promise<void> {
    await this.#release(this);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }

  /** @internal Runs once what was begun before is done. */
  exclusively<R>(act: () => Promise<R>): Promise<R> {
    const turn = this.#queue.then(act);
    this.#queue = turn.catch(() => undefined);
    return turn;
  }

  /** @internal */
  throwIfLost(): void {
    if (!this.#lost.signal.aborted) return;
    const { reason } = this.#lost.signal;
    throw reason instanceof LeaseLost ? reason : new Error("The workflow is written no more.", { cause: reason });
  }

  /** @internal Takes over what a write left. One that repeats an earlier write does not lead back. */
  written(result: WriteResult, snapshot: Snapshot | undefined): void {
    const { record } = result;
    this.#lastWrite = result;
    if (record.sequence < this.sequence) return;
    this.#position = {
      state: record.toState,
      status: record.status,
      sequence: record.sequence,
      headHash: record.hash,
      checkpointSequence: isCheckpoint(record) ? record.sequence : this.checkpointSequence,
    };
    if (snapshot) this.kept(snapshot);
  }

  /** @internal The snapshot that was kept last, to tell whether there is anything new to keep. */
  kept({ contentType, sha256 }: Snapshot): void {
    this.#keptSnapshot = { contentType, sha256 };
  }

  /** @internal */
  isKept({ contentType, sha256 }: Snapshot): boolean {
    const kept = this.#keptSnapshot;
    return kept !== undefined && kept.contentType === contentType && Buffer.compare(kept.sha256, sha256) === 0;
  }

  /** @internal */
  setLease(lease: Lease | undefined): void {
    this.#lease = lease;
  }

  /** @internal */
  lose(reason: unknown): void {
    this.#lease = undefined;
    this.#lost.abort(reason);
  }
}
