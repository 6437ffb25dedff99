import { type AegisClient, BACKOFF_MS_MAX, BACKOFF_MS_MIN, type CallOptions, pause } from "./client.js";
import { AegisError, DeadlineExceeded, IntegrityError, Overloaded, Unavailable } from "./errors.js";
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
  /** Told of what could not be taken, and of what is tried again. */
  failed(error: unknown): void;
  /** Told that nothing more comes. */
  ended(): void;
}

/** How it is read. */
export interface PendingOptions extends CallOptions {
  readonly maxWorkflows?: number;
  readonly pollIntervalMs?: number;
}

/**
 * Workflows that were pending, each leased to this owner and to nobody else. Their leases are renewed in the background from the moment
 * they are handed out until they are closed, wait, or are released.
 *
 * Where the stream breaks it is begun again. With `pollIntervalMs` it is also begun again when it has ended, for what has become pending
 * since, until it is left or closed.
 *
 * Leaving a `for await` loop ends the stream, and what was handed out stays with the caller. {@link close}, which `await using` calls,
 * also releases all that was handed out and is still held.
 */
export class PendingWorkflows<T> implements AsyncIterableIterator<Workflow<T>>, AsyncDisposable {
  /** How the last stream ended, by the server's count; undefined until the first has. */
  summary: ResumeSummary | undefined;

  readonly #client: AegisClient;
  readonly #filter: Omit<ResumePendingWorkflowsRequest, "leaseDuration" | "maxWorkflows" | "omitSnapshots">;
  readonly #options: PendingOptions;
  readonly #leases: LeaseKeeper;
  readonly #work: PendingWork<T>;
  readonly #failures = new Map<string, ResumeFailure>();
  #handedOut: Workflow<T>[] = [];
  #handedOutCount = 0;
  readonly #end = new AbortController();
  readonly #signal: AbortSignal;
  #stream: AsyncIterator<ResumePendingWorkflowsResponse> | undefined;
  #openedAt = 0;
  #backoffMs = BACKOFF_MS_MIN;
  #isBegun = false;
  // Begun again, it must not take over from ourselves what was handed out before.
  #mayTakeOver = true;
  #isDone = false;

  /** @internal */
  constructor(
    client: AegisClient,
    filter: Omit<ResumePendingWorkflowsRequest, "leaseDuration" | "maxWorkflows" | "omitSnapshots">,
    options: PendingOptions,
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

  /** Workflows that could not be resumed, by now, each once. They hold no lease; the others are not held up by them. */
  get failures(): readonly ResumeFailure[] {
    return [...this.#failures.values()];
  }

  /** The next pending workflow. One whose lease was lost before it could be handed out is passed over. */
  async next(): Promise<IteratorResult<Workflow<T>, undefined>> {
    while (!this.#isDone && this.#handedOutCount < (this.#options.maxWorkflows ?? Number.POSITIVE_INFINITY)) {
      const workflow = await this.#nextOfStream();
      if (workflow === undefined) continue;
      // Who polls is handed out ever more: what was given up since is forgotten.
      this.#handedOut = this.#handedOut.filter(({ lease }) => lease !== undefined);
      this.#handedOut.push(workflow);
      this.#handedOutCount++;
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
    this.#work.ended();
    return { done: true, value: undefined };
  }

  /**
   * Ends the stream, and releases the leases of all that was handed out and is still held. Where the server is away they end by
   * themselves.
   */
  async close(): Promise<void> {
    await this.return();
    await this.#leases.releaseQuietly(this.#handedOut.filter((workflow) => workflow.lease !== undefined));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** What the next message brings: a workflow, or nothing to hand out. */
  async #nextOfStream(): Promise<Workflow<T> | undefined> {
    try {
      if (!this.#isBegun) await this.#work.begin();
      this.#isBegun = true;
      this.#stream ??= this.#open();
      const { done, value } = await this.#stream.next();
      this.#backoffMs = BACKOFF_MS_MIN;
      this.#mayTakeOver = false;
      if (done) {
        await this.#endPass();
        return undefined;
      }
      const { result } = value as ResumePendingWorkflowsResponse;
      if (result?.$case === "resumed") return await this.#take(result.value);
      if (result?.$case === "summary") this.summary = result.value;
      if (result?.$case === "failed") this.#fail(result.value);
      return undefined;
    } catch (e) {
      // It was left or closed meanwhile.
      if (this.#end.signal.aborted) return undefined;
      if (this.#signal.aborted || !this.#isRepeatable(e)) throw e;
      // Nothing is stranded: what was not delivered can be claimed again when its lease has run out.
      await this.#pauseAfter(e);
      return undefined;
    }
  }

  /** All that was pending has come: with polling, the next stream is begun after a while. */
  async #endPass(): Promise<void> {
    this.#stream = undefined;
    if (this.#options.pollIntervalMs === undefined) this.#isDone = true;
    else await pause(this.#options.pollIntervalMs, this.#signal);
  }

  /** Whether what failed is the connection or the server, for now. Who polls waits for it however long it takes. */
  #isRepeatable(error: unknown): error is AegisError {
    const isPolling = this.#options.pollIntervalMs !== undefined;
    return isOfServer(error) && (isPolling || !(error instanceof DeadlineExceeded));
  }

  async #pauseAfter(error: AegisError): Promise<void> {
    this.#stream = undefined;
    this.#work.failed(error);
    const delay = (error.retryDelayMs ?? 0) + this.#backoffMs * (0.5 + Math.random() / 2);
    this.#backoffMs = Math.min(this.#backoffMs * 2, BACKOFF_MS_MAX);
    // What ends the pause ends the reading, which the next turn finds out.
    await pause(delay, this.#signal).catch(() => undefined);
    if (!this.#end.signal.aborted) this.#signal.throwIfAborted();
  }

  #open(): AsyncIterator<ResumePendingWorkflowsResponse> {
    const max = this.#options.maxWorkflows;
    this.#openedAt = Date.now();
    const request = {
      ...this.#filter,
      takeOverOwn: this.#filter.takeOverOwn && this.#mayTakeOver,
      leaseDuration: this.#leases.duration,
      // Those that failed are free and come again: they must not keep all others away.
      maxWorkflows: max === undefined ? 0n : BigInt(max - this.#handedOutCount + this.#failures.size),
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
      if (isOfServer(e)) throw e;
      // One that does not verify, or that its codec cannot read, fails alone, whatever the codec throws.
      const message = e instanceof Error ? e.message : String(e);
      const isNews = this.#fail({ workflowId: response.workflow?.workflowId ?? "", reason: reasonOf(e), message });
      if (isNews) this.#work.failed(e);
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

  /** Whether it was not known: who polls meets the same failure again and again. */
  #fail(failure: ResumeFailure): boolean {
    const isNews = this.#failures.get(failure.workflowId)?.reason !== failure.reason;
    this.#failures.set(failure.workflowId, failure);
    return isNews;
  }
}

/** Whether a failure is of the server or the way to it, and not of one workflow. */
function isOfServer(error: unknown): error is AegisError {
  return error instanceof Unavailable || error instanceof Overloaded || error instanceof DeadlineExceeded;
}

/** INTEGRITY, CODEC, or what the server says of the workflow. */
function reasonOf(error: unknown): string {
  if (error instanceof IntegrityError) return "INTEGRITY";
  return error instanceof AegisError ? error.reason || "CALL" : "CODEC";
}
