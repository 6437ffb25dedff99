import type { AegisClient, CallOptions } from "./client.js";
import { IntegrityError, Unavailable } from "./errors.js";
import type {
  ResumeFailure,
  ResumePendingWorkflowsRequest,
  ResumePendingWorkflowsResponse,
  ResumeSummary,
  ResumeWorkflowResponse,
} from "./gen/aegis/v1/recovery_service.js";
import type { LeaseKeeper } from "./leases.js";
import type { Workflow } from "./workflow.js";

/** What the engine does for the iterator. */
export interface PendingWork<T> {
  /** Makes sure that the log continues what was seen of it. */
  begin(): Promise<void>;
  /** Verifies what came, and makes a workflow of it whose lease is kept. */
  take(response: ResumeWorkflowResponse, signal: AbortSignal): Promise<Workflow<T>>;
  /** Releases the lease of what could not be taken. */
  giveBack(response: ResumeWorkflowResponse): Promise<void>;
  /** Told of what could not be taken. */
  failed(error: unknown): void;
}

/**
 * Workflows that were pending, each leased to this owner and to nobody else. Their leases are renewed in the background from the moment
 * they are handed out until they are closed, wait, or are released.
 *
 * Leaving a `for await` loop ends the stream, and what was handed out stays with the caller. {@link close}, which `await using` calls,
 * also releases all that was handed out and is still held.
 */
export class PendingWorkflows<T> implements AsyncIterableIterator<Workflow<T>>, AsyncDisposable {
  /** Workflows that could not be resumed, by now. They hold no lease; the others are not held up by them. */
  readonly failures: ResumeFailure[] = [];
  /** How the stream ended, by the server's count; undefined until it has. */
  summary: ResumeSummary | undefined;

  readonly #client: AegisClient;
  readonly #filter: Omit<ResumePendingWorkflowsRequest, "leaseDuration" | "maxWorkflows" | "omitSnapshots">;
  readonly #options: CallOptions & { readonly maxWorkflows?: number };
  readonly #leases: LeaseKeeper;
  readonly #work: PendingWork<T>;
  readonly #handedOut: Workflow<T>[] = [];
  readonly #end = new AbortController();
  readonly #signal: AbortSignal;
  #stream: AsyncIterator<ResumePendingWorkflowsResponse> | undefined;
  #openedAt = 0;
  #isBegun = false;
  #isDone = false;

  /** @internal */
  constructor(
    client: AegisClient,
    filter: Omit<ResumePendingWorkflowsRequest, "leaseDuration" | "maxWorkflows" | "omitSnapshots">,
    options: CallOptions & { readonly maxWorkflows?: number },
    leases: LeaseKeeper,
    work: PendingWork<T>,
  ) {
    this.#client = client;
    this.#filter = filter;
    this.#options = options;
    this.#leases = leases;
    this.#work = work;
    this.#signal = options.signal ? AbortSignal.any([options.signal, this.#end.signal]) : this.#end.signal;
  }

  /** The next pending workflow. One whose lease was lost before it could be handed out is passed over. */
  async next(): Promise<IteratorResult<Workflow<T>, undefined>> {
    if (!this.#isBegun) await this.#work.begin();
    this.#isBegun = true;
    while (!this.#isDone && this.#handedOut.length < (this.#options.maxWorkflows ?? Number.POSITIVE_INFINITY)) {
      const workflow = await this.#nextOfStream();
      if (workflow === undefined) continue;
      this.#handedOut.push(workflow);
      return { done: false, value: workflow };
    }
    await this.return();
    return { done: true, value: undefined };
  }

  /** Ends the stream. What was sent and not handed out is free again at the latest when its lease runs out. */
  async return(): Promise<IteratorResult<Workflow<T>, undefined>> {
    if (!this.#isDone) {
      this.#isDone = true;
      this.#end.abort();
      await this.#stream?.return?.().catch(() => undefined);
    }
    return { done: true, value: undefined };
  }

  /** Ends the stream, and releases the leases of all that was handed out and is still held. */
  async close(): Promise<void> {
    await this.return();
    await this.#leases.release(this.#handedOut.filter((workflow) => workflow.lease !== undefined));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** What the next message brings: a workflow, or nothing to hand out. */
  async #nextOfStream(): Promise<Workflow<T> | undefined> {
    this.#stream ??= this.#open();
    try {
      const { done, value } = await this.#stream.next();
      if (done) {
        this.#isDone = true;
        return undefined;
      }
      const { result } = value as ResumePendingWorkflowsResponse;
      if (result?.$case === "resumed") return await this.#take(result.value);
      if (result?.$case === "summary") this.summary = result.value;
      if (result?.$case === "failed") this.#fail(result.value);
      return undefined;
    } catch (e) {
      if (!(e instanceof Unavailable) || this.#signal.aborted) throw e;
      // Nothing is stranded: what was not delivered can be claimed again when its lease has run out.
      this.#stream = undefined;
      return undefined;
    }
  }

  #open(): AsyncIterator<ResumePendingWorkflowsResponse> {
    // Begun again, it must not take over from ourselves what was handed out before.
    const isFirst = this.#openedAt === 0;
    this.#openedAt = Date.now();
    const request = {
      ...this.#filter,
      takeOverOwn: this.#filter.takeOverOwn && isFirst,
      leaseDuration: this.#leases.duration,
      maxWorkflows: BigInt(
        this.#options.maxWorkflows === undefined ? 0 : this.#options.maxWorkflows - this.#handedOut.length,
      ),
      omitSnapshots: false,
    };
    return this.#client.recovery.resumePendingWorkflows(request, { ...this.#options, signal: this.#signal });
  }

  async #take(response: ResumeWorkflowResponse): Promise<Workflow<T> | undefined> {
    let workflow: Workflow<T>;
    try {
      workflow = await this.#work.take(response, this.#signal);
    } catch (e) {
      this.#signal.throwIfAborted();
      await this.#work.giveBack(response);
      // One that does not verify, or that its codec cannot read, fails alone.
      if (!(e instanceof IntegrityError || e instanceof TypeError || e instanceof SyntaxError)) throw e;
      const reason = e instanceof IntegrityError ? "INTEGRITY" : "CODEC";
      this.#fail({ workflowId: response.workflow?.workflowId ?? "", reason, message: e.message });
      this.#work.failed(e);
      return undefined;
    }
    // It may have waited here longer than its lease lasts: whether it is still ours only the server knows.
    if (Date.now() - this.#openedAt > this.#leases.durationMs / 3) {
      try {
        await this.#leases.renew([workflow], { signal: this.#signal });
      } catch (e) {
        this.#leases.drop(workflow);
        throw e;
      }
    }
    return workflow.lease ? workflow : undefined;
  }

  #fail(failure: ResumeFailure): void {
    if (!this.failures.some(({ workflowId }) => workflowId === failure.workflowId)) this.failures.push(failure);
  }
}
