import type { ResumeFailure, ResumeSummary } from "./gen/aegis/v1/recovery_service.js";
import type { AnyWorkflow } from "./leases.js";
import type { Workflow } from "./workflow.js";

/** How the iterator gets at what is pending. */
export interface PendingSource<T> {
  /** The next workflow, leased and verified, or undefined at the end. */
  next(): Promise<Workflow<T> | undefined>;
  /** Ends the stream, and gives up what was leased and not handed out. */
  stop(): Promise<void>;
  release(workflows: readonly AnyWorkflow[]): Promise<void>;
}

/**
 * Workflows that were pending, each leased to this owner and to nobody else. Their leases are renewed in the background from the moment
 * they are handed out until they are closed, wait, or are released.
 *
 * Leaving a `for await` loop ends the stream, and what was handed out stays with the caller. {@link close}, which `await using` calls,
 * also releases all that was handed out and is still held.
 */
export class PendingWorkflows<T> implements AsyncIterableIterator<Workflow<T>>, AsyncDisposable {
  readonly #source: PendingSource<T>;
  readonly #handedOut: Workflow<T>[] = [];
  /** Workflows that could not be resumed, by now. They hold no lease; the others are not held up by them. */
  readonly failures: ResumeFailure[] = [];
  /** How the stream ended, by the server's count; undefined until it has. */
  summary: ResumeSummary | undefined;
  #isDone = false;

  /** @internal */
  constructor(source: (pending: PendingWorkflows<T>) => PendingSource<T>) {
    this.#source = source(this);
  }

  /** The next pending workflow. One whose lease was lost before it could be handed out is passed over. */
  async next(): Promise<IteratorResult<Workflow<T>, undefined>> {
    if (this.#isDone) return { done: true, value: undefined };
    const workflow = await this.#source.next();
    if (workflow === undefined) {
      this.#isDone = true;
      return { done: true, value: undefined };
    }
    this.#handedOut.push(workflow);
    return { done: false, value: workflow };
  }

  /** Ends the stream. */
  async return(): Promise<IteratorResult<Workflow<T>, undefined>> {
    if (!this.#isDone) {
      this.#isDone = true;
      await this.#source.stop();
    }
    return { done: true, value: undefined };
  }

  /** Ends the stream, and releases the leases of all that was handed out and is still held. */
  async close(): Promise<void> {
    await this.return();
    await this.#source.release(this.#handedOut.filter((workflow) => workflow.lease !== undefined));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
