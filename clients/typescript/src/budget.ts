import { type CallOptions, pause } from "./client.js";
import { deadlineExceeded } from "./errors.js";

/** The time and the signal of an operation that consists of several calls. */
export class Budget {
  readonly #options: CallOptions;
  readonly #deadline: number;

  constructor(options: CallOptions, timeoutMsDefault: number) {
    this.#options = options;
    this.#deadline = Date.now() + (options.timeoutMs ?? timeoutMsDefault);
  }

  /** The options of the next call: what is left. */
  get call(): CallOptions {
    const { signal, callMetadata, callCredentials, onRetry } = this.#options;
    return {
      timeoutMs: this.leftMs,
      ...(signal && { signal }),
      ...(callMetadata && { callMetadata }),
      ...(callCredentials && { callCredentials }),
      ...(onRetry && { onRetry }),
    };
  }

  /** What is left, in milliseconds. */
  get leftMs(): number {
    return Math.max(0, this.#deadline - Date.now());
  }

  get signal(): AbortSignal | undefined {
    return this.#options.signal;
  }

  /** Waits for what others are doing, and no longer than there is time. */
  async within<T>(work: Promise<T>): Promise<T> {
    const end = new AbortController();
    const signal = this.signal ? AbortSignal.any([this.signal, end.signal]) : end.signal;
    const isUp = Symbol("time is up");
    try {
      const result = await Promise.race([work, pause(this.leftMs, signal).then(() => isUp as typeof isUp)]);
      if (result === isUp) throw deadlineExceeded("The time was up while another call on the same thing was not done.");
      return result as T;
    } finally {
      end.abort();
    }
  }
}
