import {
  type CallCredentials,
  type ChannelCredentials,
  type ChannelOptions,
  Client,
  type ClientReadableStream,
  connectivityState,
  type CallOptions as GrpcCallOptions,
  credentials as grpcCredentials,
  type Interceptor,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { AegisError, DeadlineExceeded, deadlineExceeded, fromServiceError, Overloaded } from "./errors.js";
import { IntegrityServiceService } from "./gen/aegis/v1/integrity_service.js";
import { RecoveryServiceService } from "./gen/aegis/v1/recovery_service.js";
import { SystemServiceService } from "./gen/aegis/v1/system_service.js";
import { WorkflowServiceService } from "./gen/aegis/v1/workflow_service.js";

/** How long a call may take when it does not say, retries included. */
const TIMEOUT_MS = 30_000;

export const BACKOFF_MS_MIN = 100;
export const BACKOFF_MS_MAX = 2_000;

/** How often channels are looked at while none of several is ready. */
const CONNECTING_POLL_MS = 10;

/** The connection's settings, each of which `channelOptions` can replace. */
const CHANNEL_OPTIONS: ChannelOptions = {
  // Without the wait of a second, which would be most of a short recovery.
  "grpc.initial_reconnect_backoff_ms": BACKOFF_MS_MIN,
  "grpc.max_reconnect_backoff_ms": BACKOFF_MS_MAX,
  // A connection that died without a word is noticed within half a minute, also while nothing is called.
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.keepalive_permit_without_calls": 1,
  // Retries are made here, where deadlines and request ids are known; made twice they would multiply.
  "grpc.enable_retries": 0,
};

/** How to reach Aegis. */
export interface AegisClientOptions {
  /**
   * One address or several, each `host:port` (or another gRPC target). With several, calls go to those that are connected, in turn,
   * and from one that fails to the next.
   */
  readonly addresses: string | readonly string[];
  /** TLS and what goes with it, such as `credentials.createSsl()` of @grpc/grpc-js; plaintext by default. */
  readonly credentials?: ChannelCredentials;
  /** gRPC metadata sent with every call. */
  readonly callMetadata?: Metadata;
  /** Wrapped around every attempt of every call. */
  readonly interceptors?: readonly Interceptor[];
  /** How long a call may take when it does not say, retries included: 30 s by default. */
  readonly timeoutMs?: number;
  /** Settings of the channels beyond those made here, such as compression. */
  readonly channelOptions?: ChannelOptions;
}

/** What one call may say. */
export interface CallOptions {
  /** How long the call may take from now, retries included. A stream has no limit but this one, and none by default. */
  readonly timeoutMs?: number;
  /** Gives the call up: it is rejected with the signal's reason. A write may have happened all the same. */
  readonly signal?: AbortSignal;
  /** gRPC metadata sent with the call, beside the client's own. */
  readonly callMetadata?: Metadata;
  /** Who calls, such as a token, where each call has its own. Needs TLS. */
  readonly callCredentials?: CallCredentials;
  /** Told of each attempt that failed and is made again. */
  readonly onRetry?: (error: AegisError) => void;
}

/** A method as the stubs describe it. */
export interface Method<Request, Response> {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestSerialize: (value: Request) => Buffer;
  readonly responseDeserialize: (value: Buffer) => Response;
}

/** A service's methods as functions: those that answer once give a promise, those that stream an async iterable. */
export type Calls<Service> = {
  readonly [Name in keyof Service as Service[Name] extends { requestStream: false }
    ? Name
    : never]: Service[Name] extends {
    requestSerialize: (value: infer Request) => Buffer;
    responseDeserialize: (value: Buffer) => infer Response;
    responseStream: infer IsStream;
  }
    ? (
        request: Request,
        options?: CallOptions,
      ) => IsStream extends true ? AsyncIterableIterator<Response> : Promise<Response>
    : never;
};

/** Acts of an operator that have no request_id: a repetition could be a second act. */
const NOT_REPEATABLE: ReadonlySet<string> = new Set([
  IntegrityServiceService.releaseQuarantine.path,
  IntegrityServiceService.repairRecord.path,
  IntegrityServiceService.acceptRollback.path,
]);

/**
 * The connection to Aegis. It retries calls that are safe to repeat on UNAVAILABLE and OVERLOADED, with backoff inside their time,
 * turns failures into {@link AegisError}s, and has the generated stubs behind it: {@link workflows}, {@link recovery}, {@link integrity} and
 * {@link system}. Those answer what the server says; a {@link DurableWorkflowEngine} verifies it.
 */
export class AegisClient {
  /** Records workflows and reads what was recorded. */
  readonly workflows: Calls<typeof WorkflowServiceService>;
  /** Gives workflows back after a crash, keeps leases, and exports. Imports go through {@link DurableWorkflowEngine.import}. */
  readonly recovery: Calls<typeof RecoveryServiceService>;
  /** Proves what was recorded. */
  readonly integrity: Calls<typeof IntegrityServiceService>;
  /** Tells about the server. */
  readonly system: Calls<typeof SystemServiceService>;

  readonly #clients: readonly Client[];
  readonly #metadata: Metadata;
  readonly #timeoutMs: number;
  #turn = 0;
  #isClosed = false;

  constructor(options: AegisClientOptions | string) {
    const { addresses, credentials, callMetadata, interceptors, timeoutMs, channelOptions } =
      typeof options === "string" ? ({ addresses: options } as AegisClientOptions) : options;
    const targets = [addresses].flat();
    if (targets.length === 0) throw new TypeError("Give at least one address.");
    for (const target of targets) {
      if (/^https?:/.test(target))
        throw new TypeError(`The address "${target}" is a URL: give host:port, and for TLS credentials.`);
    }
    // A channel for each address: so each is connected to, verified by TLS under its own name, and chosen while it is ready,
    // be it a name or a number.
    this.#clients = targets.map(
      (target) =>
        new Client(target, credentials ?? grpcCredentials.createInsecure(), {
          ...CHANNEL_OPTIONS,
          ...channelOptions,
          interceptors: [...(interceptors ?? [])],
        }),
    );
    this.#metadata = callMetadata ?? new Metadata();
    this.#timeoutMs = timeoutMs ?? TIMEOUT_MS;
    this.workflows = this.#callsOf(WorkflowServiceService);
    this.recovery = this.#callsOf(RecoveryServiceService);
    this.integrity = this.#callsOf(IntegrityServiceService);
    this.system = this.#callsOf(SystemServiceService);
  }

  /** How long a call may take when it does not say. */
  get timeoutMs(): number {
    return this.#timeoutMs;
  }

  /** Closes the connections. Calls that run are ended. */
  close(): void {
    this.#isClosed = true;
    for (const client of this.#clients) client.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Calls a method that answers once.
   *
   * @throws AegisError, of the class of its reason. The signal's reason, where the caller gave the call up.
   */
  async unary<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    options: CallOptions = {},
  ): Promise<Response> {
    const deadline = Date.now() + (options.timeoutMs ?? this.#timeoutMs);
    return this.#retrying(method, request, deadline, options, (client) =>
      this.#attempt(client, method, request, deadline, options),
    );
  }

  /**
   * Calls a method that answers with a stream. Reading slowly slows the server down; leaving the loop ends the call. A stream that
   * breaks before its first message is begun again; after that it is the caller who knows where to go on.
   */
  async *stream<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    options: CallOptions = {},
  ): AsyncIterableIterator<Response> {
    const deadline = options.timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + options.timeoutMs;
    const untilBegun = Math.min(deadline, Date.now() + this.#timeoutMs);
    const { stream, first } = await this.#retrying(method, request, untilBegun, options, async (client) => {
      const call = this.#open(client, method, request, deadline, options);
      try {
        return { stream: call, first: await call.next() };
      } catch (e) {
        call.cancel();
        throw e;
      }
    });
    try {
      for (let next = first; !next.done; next = await stream.next()) yield next.value;
    } finally {
      stream.cancel();
    }
  }

  /**
   * Calls a method that takes a stream and answers with one. It is not retried: the caller knows whether the messages can be had
   * again.
   */
  async *duplex<Request, Response>(
    method: Method<Request, Response>,
    requests: Iterable<Request> | AsyncIterable<Request>,
    options: CallOptions = {},
  ): AsyncIterableIterator<Response> {
    const deadline = options.timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + options.timeoutMs;
    const client = await this.#pick(deadline, options.signal);
    const { requestSerialize, responseDeserialize } = method;
    const call = client.makeBidiStreamRequest(
      method.path,
      requestSerialize,
      responseDeserialize,
      this.#metadataOf(options),
      grpcOptions(deadline, options),
    );
    const replies = new Replies<Response>(call, options.signal);
    let sending: unknown;
    const sent = (async () => {
      for await (const request of requests) {
        if (call.destroyed || replies.isEnded) return;
        if (!call.write(request))
          await new Promise<void>((resolve) => onceAny(call, ["drain", "close", "error", "end"], resolve));
      }
      call.end();
    })().catch((e: unknown) => {
      sending = e;
      call.cancel();
    });
    try {
      for (let next = await replies.next(); !next.done; next = await replies.next()) yield next.value;
    } catch (e) {
      throw sending ?? e;
    } finally {
      replies.cancel();
      await sent;
    }
  }

  #callsOf<Service extends object>(service: Service): Calls<Service> {
    const calls: Record<string, unknown> = {};
    for (const [name, method] of Object.entries(service) as [string, Method<unknown, unknown>][]) {
      if (method.requestStream) continue;
      calls[name] = method.responseStream
        ? (request: unknown, options?: CallOptions) => this.stream(method, request, options)
        : (request: unknown, options?: CallOptions) => this.unary(method, request, options);
    }
    return calls as Calls<Service>;
  }

  async #retrying<Request, Response, Result>(
    method: Method<Request, Response>,
    request: Request,
    deadline: number,
    { signal, onRetry }: CallOptions,
    attempt: (client: Client) => Promise<Result>,
  ): Promise<Result> {
    let last: AegisError | undefined;
    for (let backoff = BACKOFF_MS_MIN; ; backoff = Math.min(backoff * 2, BACKOFF_MS_MAX)) {
      try {
        const client = await this.#pick(deadline, signal);
        return await attempt(client);
      } catch (e) {
        if (!(e instanceof AegisError)) throw e;
        // What the last attempt before it failed with says more than that the time was up.
        if (e instanceof DeadlineExceeded && last !== undefined) throw outOfTime(method.path, last);
        if (!isRetryable(method, request, e) || this.#isClosed) throw e;
        last = e;
        const leftMs = deadline - Date.now();
        if (leftMs <= 0) throw outOfTime(method.path, e);
        // Many callers that were turned away together must not come back together. Towards the end of the time the pauses get
        // shorter: the last attempts are made while there is any.
        const wanted = (e.retryDelayMs ?? 0) + backoff * (0.5 + Math.random() / 2);
        const delay = Math.min(wanted, Math.max(leftMs / 2, 10));
        onRetry?.(e);
        await pause(delay, signal);
      }
    }
  }

  /** The channel for the next attempt: of several one that is ready, in turn. */
  async #pick(deadline: number, signal: AbortSignal | undefined): Promise<Client> {
    signal?.throwIfAborted();
    const only = this.#clients[0] as Client;
    if (this.#clients.length === 1 || this.#isClosed) return only;
    for (;;) {
      const states = this.#clients.map((client) => client.getChannel().getConnectivityState(true));
      const ready = this.#clients.filter((_, i) => states[i] === connectivityState.READY);
      const isHopeless = states.every((state) => state === connectivityState.TRANSIENT_FAILURE);
      if (ready.length > 0 || isHopeless || Date.now() >= deadline) {
        const candidates = ready.length > 0 ? ready : this.#clients;
        return candidates[this.#turn++ % candidates.length] as Client;
      }
      await pause(Math.min(CONNECTING_POLL_MS, deadline - Date.now()), signal);
    }
  }

  #attempt<Request, Response>(
    client: Client,
    method: Method<Request, Response>,
    request: Request,
    deadline: number,
    options: CallOptions,
  ): Promise<Response> {
    const { signal } = options;
    return new Promise<Response>((resolve, reject) => {
      const call = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        this.#metadataOf(options),
        grpcOptions(deadline, options),
        (error, response) => {
          signal?.removeEventListener("abort", abort);
          if (signal?.aborted) reject(signal.reason);
          else if (error) reject(fromServiceError(error));
          else resolve(response as Response);
        },
      );
      const abort = () => call.cancel();
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  #open<Request, Response>(
    client: Client,
    method: Method<Request, Response>,
    request: Request,
    deadline: number,
    options: CallOptions,
  ): Replies<Response> {
    const call = client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      this.#metadataOf(options),
      grpcOptions(deadline, options),
    );
    return new Replies<Response>(call, options.signal);
  }

  #metadataOf({ callMetadata }: CallOptions): Metadata {
    const merged = this.#metadata.clone();
    if (callMetadata) merged.merge(callMetadata);
    return merged;
  }
}

/** The messages of a stream, one after the other; read ahead no further than the stream itself does. */
class Replies<Response> {
  readonly #call: Pick<ClientReadableStream<Response>, "cancel">;
  readonly #iterator: AsyncIterator<Response>;
  readonly #signal: AbortSignal | undefined;
  readonly #abort = () => this.#call.cancel();
  isEnded = false;

  constructor(call: ClientReadableStream<Response>, signal: AbortSignal | undefined) {
    this.#call = call;
    this.#signal = signal;
    // An error that comes while nobody reads is told to the next who does.
    call.on("error", () => {
      this.isEnded = true;
    });
    this.#iterator = call[Symbol.asyncIterator]() as AsyncIterator<Response>;
    signal?.addEventListener("abort", this.#abort, { once: true });
  }

  async next(): Promise<IteratorResult<Response>> {
    try {
      const result = await this.#iterator.next();
      if (result.done) this.#end();
      return result;
    } catch (e) {
      this.#end();
      if (this.#signal?.aborted) throw this.#signal.reason;
      throw isServiceError(e) ? fromServiceError(e) : e;
    }
  }

  cancel(): void {
    this.#end();
    this.#call.cancel();
  }

  #end(): void {
    this.isEnded = true;
    this.#signal?.removeEventListener("abort", this.#abort);
  }
}

function isServiceError(e: unknown): e is ServiceError {
  return e instanceof Error && typeof (e as Partial<ServiceError>).code === "number" && "details" in e;
}

function isRetryable(method: { path: string }, request: unknown, error: AegisError): boolean {
  if (error instanceof Overloaded) return true;
  if (error.code !== status.UNAVAILABLE) return false;
  // Nothing was written: anything may be repeated.
  if (error.reason === "STORE_UNAVAILABLE" || error.reason === "SHUTTING_DOWN") return true;
  if (NOT_REPEATABLE.has(method.path)) return false;
  const requestId = (request as { requestId?: string }).requestId;
  return requestId === undefined || requestId !== "";
}

function outOfTime(path: string, last: AegisError): DeadlineExceeded {
  const name = path.slice(path.lastIndexOf("/") + 1);
  return deadlineExceeded(`The time for ${name} was up; the last attempt failed: ${last.message}`, last);
}

function grpcOptions(deadline: number, { callCredentials }: CallOptions): GrpcCallOptions {
  return {
    ...(Number.isFinite(deadline) && { deadline }),
    ...(callCredentials && { credentials: callCredentials }),
  };
}

/** Waits, and no longer than until the signal is aborted. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(
      () => {
        signal?.removeEventListener("abort", abort);
        resolve();
      },
      Math.max(0, milliseconds),
    );
    signal?.addEventListener("abort", abort, { once: true });
  });
}

function onceAny(emitter: NodeJS.EventEmitter, events: readonly string[], resolve: () => void): void {
  const done = () => {
    for (const event of events) emitter.removeListener(event, done);
    resolve();
  };
  for (const event of events) emitter.once(event, done);
}
