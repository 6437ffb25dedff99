import { randomBytes, randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { Budget } from "./budget.js";
import { isClosed } from "./chain.js";
import type { AegisClient, CallOptions } from "./client.js";
import { type Codec, json } from "./codec.js";
import { AegisError, IntegrityError, LeaseHeld, LeaseLost, WorkflowConflict, WorkflowNotFound } from "./errors.js";
import { type Expected, verifyWritten } from "./evidence.js";
import type { ExportReport } from "./export.js";
import type { ImportWorkflowsResponse, ResumeWorkflowResponse } from "./gen/aegis/v1/recovery_service.js";
import {
  type ForkPoint,
  type Lease,
  type Receipt,
  type Record,
  RecordKind,
  type Snapshot,
  WorkflowStatus,
} from "./gen/aegis/v1/workflow.js";
import { LogGuard } from "./guard.js";
import { type AnyWorkflow, LeaseKeeper, RELEASE_MS } from "./leases.js";
import { HASH_BYTES, sha256 } from "./merkle.js";
import {
  type CheckpointAt,
  type EngineOptions,
  type ExportFilter,
  type ImportOptions,
  mapOf,
  type ResumeOptions,
  type ResumePendingOptions,
  type StartOptions,
  type TransitionOptions,
  type WriteOptions,
} from "./options.js";
import { PendingWorkflows } from "./pending.js";
import { type IntegrityReport, type LoadedCheckpoint, Reader } from "./reading.js";
import { toTimestamp } from "./time.js";
import { exportToFile, importFrom } from "./transfer.js";
import { LogTrust } from "./trust.js";
import { Workflow, type WorkflowType, type WriteResult } from "./workflow.js";

const LEASE_DURATION_MS = 30_000;
const CHECKPOINT_INTERVAL_MS = 5 * 60_000;
const _PAGE_SIZE = 1_000;

/**
 * What a service uses: it keeps the state of workflows durably, takes them up again after a crash, and verifies all that it reads and
 * writes. An engine is for one process; many processes may work on one namespace.
 */
export class DurableWorkflowEngine implements AsyncDisposable {
  readonly client: AegisClient;
  readonly namespace: string;
  readonly owner: string;
  // biome-ignore lint/suspicious/noExplicitAny: each type has an object type of its own.
  readonly #types = new Map<string, WorkflowType<any>>();
  readonly #guard: LogGuard;
  readonly #reader: Reader;
  readonly #leases: LeaseKeeper;
  readonly #checkpoints = new Map<AnyWorkflow, NodeJS.Timeout>();
  // What reads pending workflows now.
  readonly #pending = new Set<{ return(): Promise<unknown> }>();
  readonly #checkpointIntervalMs: number;
  readonly #checkpointOnTransition: boolean;
  readonly #actor: string;
  readonly #onBackgroundError: (error: unknown, workflow: AnyWorkflow | undefined) => void;

  constructor(client: AegisClient, options: EngineOptions = {}) {
    this.client = client;
    this.namespace = options.namespace || "default";
    this.owner = options.owner ?? `${hostname()}/${process.pid}/${randomBytes(4).toString("hex")}`.slice(-255);
    const { trust } = options;
    this.#guard = new LogGuard(client, trust instanceof LogTrust || !trust ? trust : new LogTrust(trust));
    this.#reader = new Reader(client, this.#guard, this.namespace);
    this.#checkpointIntervalMs = options.checkpointIntervalMs ?? CHECKPOINT_INTERVAL_MS;
    this.#checkpointOnTransition = options.checkpointOnTransition ?? true;
    this.#actor = options.actor ?? "";
    this.#onBackgroundError = options.onBackgroundError ?? (() => undefined);
    this.#leases = new LeaseKeeper(client, this.namespace, this.owner, options.leaseDurationMs ?? LEASE_DURATION_MS, {
      failed: (error) => this.#onBackgroundError(error, undefined),
      dropped: (workflow) => {
        clearInterval(this.#checkpoints.get(workflow));
        this.#checkpoints.delete(workflow);
      },
    });
  }

  /** What is trusted; undefined where no keys were given. */
  get trust(): LogTrust | undefined {
    return this.#guard.trust;
  }

  /**
   * Registers a type of workflow with the codec of its state object; JSON by default.
   *
   * @param options - `checkpointIntervalMs`: how often workflows of this type are checkpointed, if not as the engine says.
   * @throws Error: the type is registered already.
   */
  register<T>(
    name: string,
    codec: Codec<T> = json<T>(),
    options: { readonly checkpointIntervalMs?: number } = {},
  ): WorkflowType<T> {
    if (this.#types.has(name)) throw new Error(`The workflow type "${name}" is registered already.`);
    const type = { name, codec, checkpointIntervalMs: options.checkpointIntervalMs ?? this.#checkpointIntervalMs };
    this.#types.set(name, type);
    return type;
  }

  /**
   * Starts a workflow. One that was started before with the same request id is given as it stands now, with the lease only if that
   * start still has it.
   *
   * @throws WorkflowAlreadyExists: another request started it.
   */
  async start<T>(type: WorkflowType<T>, workflowId: string, options: StartOptions<T>): Promise<Workflow<T>> {
    const budget = this.#budget(options);
    const said = this.#said(options, workflowId, type.name, options.state ?? "");
    const status = options.status ?? WorkflowStatus.RUNNING;
    const takesLease = (options.lease ?? true) && status === WorkflowStatus.RUNNING;
    const snapshot = await this.#snapshotOf(type, options.object);
    const fork = options.forkedFrom;
    const { response, record } = await this.#write(
      budget,
      said.requestId,
      (proof) =>
        this.client.workflows.startWorkflow(
          {
            ...said,
            ...proof,
            namespace: this.namespace,
            workflowId,
            workflowType: type.name,
            initialState: options.state ?? "",
            status,
            snapshot,
            forkedFrom: fork && { hash: new Uint8Array(), ...fork },
            owner: takesLease ? this.owner : "",
            leaseDuration: takesLease ? this.#leases.duration : undefined,
          },
          budget.call,
        ),
      ({ lease }) => ({
        ...said,
        workflowId,
        workflowType: type.name,
        kind: RecordKind.STARTED,
        fromState: "",
        toState: options.state || (fork ? undefined : ""),
        status,
        leaseEpoch: lease?.epoch ?? (takesLease ? undefined : 0n),
        snapshot: snapshot ?? (fork ? undefined : null),
        sequence: 1n,
        previousHash: fork ? fork.hash : new Uint8Array(HASH_BYTES),
      }),
    );
    const { workflow: told, lease, replayed } = response;
    // Somebody went on with it since: what it is now is read. So is a fork's object.
    if (told?.sequence !== 1n || (fork && !snapshot)) return this.#readStarted(type, workflowId, lease, budget);
    const position = {
      state: record.toState,
      status,
      sequence: 1n,
      headHash: record.hash,
      checkpointSequence: snapshot ? 1n : 0n,
    };
    const workflow = this.#workflow(
      type,
      { namespace: this.namespace, workflowId, forkedFrom: told.forkedFrom, ...position },
      lease,
      options.object as T,
      [],
    );
    workflow.written({ record, receipt: response.receipt, replayed }, snapshot);
    return workflow;
  }

  /**
   * Moves a workflow to another state, from exactly the point where this object has it.
   *
   * @throws WorkflowConflict: somebody else moved it first. LeaseLost: the lease is another's by now. LeaseRequired: another works on it.
   */
  async transition<T>(
    workflow: Workflow<T>,
    toState: string,
    options: TransitionOptions<T> = {},
  ): Promise<WriteResult> {
    const budget = this.#budget(options);
    const said = this.#said(options, toState);
    const status = options.status ?? WorkflowStatus.RUNNING;
    return this.#writing(workflow, budget, said.requestId, async () => {
      if (options.object !== undefined) workflow.object = options.object;
      const isKept = options.checkpoint ?? this.#checkpointOnTransition;
      const snapshot = isKept ? await this.#snapshotOf(workflow.type, workflow.object) : undefined;
      const leaseEpoch = workflow.lease?.epoch ?? 0n;
      // What is expected is the record itself: another may stand at its place once a log was rolled back.
      const { id: workflowId, state: fromState, sequence, headHash: previousHash } = workflow;
      const { response, record } = await this.#write(
        budget,
        said.requestId,
        (proof) =>
          this.client.workflows.transitionWorkflow(
            {
              ...said,
              ...proof,
              namespace: this.namespace,
              workflowId,
              fromState,
              toState,
              status,
              expected: { $case: "expectedHash", value: previousHash },
              leaseEpoch,
              snapshot,
            },
            budget.call,
          ),
        () => ({
          ...said,
          workflowId,
          workflowType: workflow.type.name,
          kind: RecordKind.TRANSITION,
          fromState,
          toState,
          status,
          leaseEpoch,
          snapshot: snapshot ?? null,
          sequence: sequence + 1n,
          previousHash,
        }),
      );
      const result = { record, receipt: response.receipt, replayed: response.replayed };
      workflow.written(result, snapshot);
      if (isClosed(workflow.status)) this.#leases.drop(workflow);
      return result;
    });
  }

  /** Keeps the state object without moving the workflow. Throws as {@link transition} does. */
  async checkpoint<T>(
    workflow: Workflow<T>,
    options: WriteOptions & { readonly object?: T } = {},
  ): Promise<WriteResult> {
    const budget = this.#budget(options);
    const said = this.#said(options);
    return this.#writing(workflow, budget, said.requestId, async () => {
      if (options.object !== undefined) workflow.object = options.object;
      const snapshot = await this.#snapshotOf(workflow.type, workflow.object);
      if (snapshot === undefined) throw new TypeError(`The workflow "${workflow.id}" has no object to keep.`);
      return this.#checkpoint(workflow, snapshot, said, budget);
    });
  }

  /**
   * Moves a workflow to a state with status WAITING and releases its lease: for a human, a date, another system. Whoever it waits for
   * resumes it without a lease and moves it on; once its status is RUNNING again it is pending.
   */
  async wait<T>(
    workflow: Workflow<T>,
    toState: string,
    options: Omit<TransitionOptions<T>, "status"> = {},
  ): Promise<WriteResult> {
    const result = await this.transition(workflow, toState, { ...options, status: WorkflowStatus.WAITING });
    // It waits: a lease that cannot be released now ends by itself.
    await this.#leases
      .release([workflow], this.#budget(options).call)
      .catch((e) => this.#onBackgroundError(e, workflow));
    return result;
  }

  /** Gives the lease of a workflow up, so that another may go on with it. */
  async release(workflow: AnyWorkflow): Promise<void> {
    if (workflow.lease) await this.#leases.release([workflow]);
  }

  /**
   * Takes one workflow up where it stands: its object from the newest checkpoint, and the records since.
   *
   * @throws LeaseHeld: another works on it. WorkflowClosed: a closed one can be resumed only without a lease.
   */
  async resume<T>(type: WorkflowType<T>, workflowId: string, options: ResumeOptions = {}): Promise<Workflow<T>> {
    const budget = this.#budget(options);
    const takesLease = options.lease ?? true;
    const ask = (takeOverOwn: boolean) =>
      this.client.recovery.resumeWorkflow(
        {
          namespace: this.namespace,
          workflowId,
          owner: takesLease ? this.owner : "",
          leaseDuration: takesLease ? this.#leases.duration : undefined,
          takeOverOwn,
          allowQuarantined: false,
        },
        { ...budget.call, onRetry },
      );
    let isRetried = false;
    const onRetry = (e: AegisError) => {
      isRetried = true;
      options.onRetry?.(e);
    };
    const response = await this.#guard.during(budget, async () => {
      try {
        return await ask(options.takeOverOwn ?? false);
      } catch (e) {
        // A reply that was lost has left the lease with this owner, and nothing here works with it.
        const isOurs = e instanceof LeaseHeld && e.owner === this.owner && !this.#leases.holds(workflowId);
        if (!isOurs || !isRetried) throw e;
        return ask(true);
      }
    });
    if (response.workflow && response.workflow.workflowId !== workflowId)
      throw new IntegrityError(
        "workflow_id",
        `The workflow "${response.workflow.workflowId}" came for "${workflowId}".`,
      );
    try {
      return await this.#resumed(type, response, budget);
    } catch (e) {
      await this.#giveBack(workflowId, response.lease);
      throw e;
    }
  }

  /**
   * Takes up all that is pending: open workflows that nobody holds. Of many workers at once each workflow goes to exactly one. Each is
   * verified; one that does not verify, or that its codec cannot read, is told in {@link PendingWorkflows.failures} and holds up none of
   * the others. With `pollIntervalMs` it goes on with what becomes pending later.
   *
   * @param types - Only these types; all registered ones by default.
   */
  resumeAllPending<T = unknown>(
    types?: WorkflowType<T> | readonly WorkflowType<T>[],
    options: ResumePendingOptions = {},
  ): PendingWorkflows<T> {
    const names = types === undefined ? [...this.#types.keys()] : [types].flat().map((type) => type.name);
    if (names.length === 0)
      throw new Error("No workflow type is registered: register those that this process can go on with.");
    const pending: PendingWorkflows<T> = new PendingWorkflows<T>(
      this.client,
      {
        namespace: this.namespace,
        workflowTypes: names,
        states: [...(options.states ?? [])],
        statuses: [...(options.statuses ?? [])],
        owner: this.owner,
        takeOverOwn: options.takeOverOwn ?? false,
      },
      options,
      this.#leases,
      {
        begin: () => {
          this.#pending.add(pending);
          return this.#guard.during(this.#budget(options), async () => undefined);
        },
        take: (response, signal) => {
          const name = response.workflow?.workflowType ?? "";
          const type = names.includes(name) ? this.#types.get(name) : undefined;
          if (type === undefined)
            throw new IntegrityError("workflow_type", `A workflow of the type "${name}" was not asked for.`);
          return this.#resumed<T>(type, response, this.#budget({ signal }));
        },
        giveBack: ({ workflow, lease }) => this.#giveBack(workflow?.workflowId, lease),
        failed: (error) => this.#onBackgroundError(error, undefined),
        ended: () => this.#pending.delete(pending),
      },
    );
    return pending;
  }

  /**
   * Reads a whole workflow and proves it without believing the server: every record, the chain, every snapshot, the place of each
   * record in the log, and that the log continues what was seen of it before.
   *
   * @throws HeadRejected: the log does not continue what was seen. Error: no keys are trusted.
   */
  async verifyIntegrity(workflowId: string, options: CallOptions = {}): Promise<IntegrityReport> {
    return this.#reader.verify(workflowId, this.#budget(options));
  }

  /**
   * Travels in time: loads the newest checkpoint not after a sequence or a time (of `recorded_at`), or the newest of all.
   *
   * @throws CheckpointNotFound: there is none that early.
   */
  async loadCheckpoint<T>(
    type: WorkflowType<T>,
    workflowId: string,
    at?: CheckpointAt,
    options: CallOptions = {},
  ): Promise<LoadedCheckpoint<T>> {
    return this.#reader.load(type, workflowId, at, this.#budget(options));
  }

  /**
   * The history of a workflow, oldest first; each record is recomputed, and follows from the one before.
   *
   * @throws IntegrityError: one is not what was recorded.
   */
  records(workflowId: string, options: CallOptions = {}): AsyncIterableIterator<Record> {
    return this.#reader.records(workflowId, () => this.#budget(options));
  }

  /**
   * Exports workflows into a file. With trust, what comes is verified on the way, and the file is there only if all of it is as it was
   * recorded.
   *
   * @returns What it holds; undefined without trust.
   * @throws IntegrityError: it is not.
   */
  async export(path: string, filter: ExportFilter = {}, options: CallOptions = {}): Promise<ExportReport | undefined> {
    return exportToFile(this.client, this.#guard, this.namespace, path, filter, options);
  }

  /**
   * Imports an export. Every hash stays as it is; what was here already is unchanged. One that breaks off is sent again from its beginning.
   *
   * @param source - The path of a file, or a function that gives its bytes each time it is called.
   * @returns What became of each workflow. One that was refused is not an error of the call: look at the outcomes.
   */
  async import(
    source: string | (() => AsyncIterable<Uint8Array> | Iterable<Uint8Array>),
    options: ImportOptions = {},
  ): Promise<ImportWorkflowsResponse[]> {
    return importFrom(this.client, this.#guard, source, options);
  }

  /**
   * Ends what runs in the background and releases all leases, so that others can go on at once. Where the server is away it gives that
   * up after 3 s, and the leases end by themselves. The client stays open: it is the caller's.
   */
  async close(options: CallOptions = {}): Promise<void> {
    for (const pending of this.#pending) await pending.return();
    await this.#leases.releaseQuietly(this.#leases.workflows, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #budget(options: CallOptions): Budget {
    return new Budget(options, this.client.timeoutMs);
  }

  /** What a write says for people, with a request id. */
  #said(options: WriteOptions, ...names: string[]): Said {
    const said = {
      namespace: this.namespace,
      actor: options.actor ?? this.#actor,
      reason: options.reason ?? "",
      metadata: mapOf(options.metadata),
      occurredAt: options.occurredAt === undefined ? undefined : toTimestamp(options.occurredAt),
      requestId: options.requestId || randomUUID(),
    };
    const texts = [
      ...names,
      said.actor,
      said.reason,
      said.requestId,
      ...said.metadata.keys(),
      ...said.metadata.values(),
    ];
    // gRPC would send another character in its place.
    if (!texts.every((text) => text.isWellFormed()))
      throw new TypeError("A text has half of a surrogate pair: it has no UTF-8.");
    return said;
  }

  async #snapshotOf<T>(type: WorkflowType<T>, object: T | undefined): Promise<Snapshot | undefined> {
    if (object === undefined) return undefined;
    const content = await type.codec.encode(object);
    return { contentType: type.codec.contentType, content, sha256: sha256(content) };
  }

  async #checkpoint<T>(workflow: Workflow<T>, snapshot: Snapshot, said: Said, budget: Budget): Promise<WriteResult> {
    const leaseEpoch = workflow.lease?.epoch ?? 0n;
    const { id: workflowId, state, status, sequence, headHash: previousHash } = workflow;
    const { response, record } = await this.#write(
      budget,
      said.requestId,
      (proof) =>
        this.client.workflows.checkpointWorkflow(
          {
            ...said,
            ...proof,
            workflowId,
            snapshot,
            expected: { $case: "expectedHash", value: previousHash },
            leaseEpoch,
          },
          budget.call,
        ),
      () => ({
        ...said,
        workflowId,
        workflowType: workflow.type.name,
        kind: RecordKind.CHECKPOINT,
        fromState: state,
        toState: state,
        status,
        leaseEpoch,
        snapshot,
        sequence: sequence + 1n,
        previousHash,
      }),
    );
    const result = { record, receipt: response.receipt, replayed: response.replayed };
    workflow.written(result, snapshot);
    return result;
  }

  /** Runs a write of a workflow after those before it; where it tells that the lease is lost, the workflow is told too. */
  async #writing<T, R>(workflow: Workflow<T>, budget: Budget, requestId: string, act: () => Promise<R>): Promise<R> {
    const turn = budget.within(
      workflow.exclusively(async () => {
        budget.signal?.throwIfAborted();
        workflow.throwIfLost();
        try {
          return await act();
        } catch (e) {
          if (e instanceof LeaseLost) this.#leases.lose(workflow, e);
          // A workflow that stands behind where it was proven to stand was taken back, and the log with it.
          const isBehind =
            e instanceof WorkflowNotFound || (e instanceof WorkflowConflict && e.currentSequence < workflow.sequence);
          if (isBehind) await this.#guard.lookAtHead(budget);
          throw e;
        }
      }),
    );
    return identified(requestId, turn);
  }

  /** Sends a write, and verifies what came of it: the record, what proves it, and that the log continues what was seen. */
  async #write<Response extends { record?: Record | undefined; receipt?: Receipt | undefined; replayed: boolean }>(
    budget: Budget,
    requestId: string,
    send: (proof: { knownLogSize: bigint; includeProof: boolean }) => Promise<Response>,
    expect: (response: Response) => Omit<Expected, "namespace">,
  ): Promise<{ response: Response; record: Record }> {
    const written = this.#guard.during(budget, async (knownLogSize) => {
      const response = await send({ knownLogSize, includeProof: this.trust !== undefined });
      const expected = { namespace: this.namespace, ...expect(response) };
      const record = verifyWritten(response.record, response.replayed, expected);
      await this.#guard.verifyReceipt(record, response.receipt, knownLogSize, budget);
      return { response, record };
    });
    return identified(requestId, written);
  }

  /** A workflow as it stands, with the lease that its start was granted; undefined for none. */
  async #readStarted<T>(
    type: WorkflowType<T>,
    workflowId: string,
    lease: Lease | undefined,
    budget: Budget,
  ): Promise<Workflow<T>> {
    const request = {
      namespace: this.namespace,
      workflowId,
      owner: "",
      leaseDuration: undefined,
      takeOverOwn: false,
      allowQuarantined: false,
    };
    try {
      const response = await this.#guard.during(budget, () =>
        this.client.recovery.resumeWorkflow(request, budget.call),
      );
      if (response.workflow?.workflowId !== workflowId)
        throw new IntegrityError("workflow_id", `Another workflow came for "${workflowId}".`);
      return await this.#resumed(type, { ...response, lease }, budget);
    } catch (e) {
      await this.#giveBack(workflowId, lease);
      throw e;
    }
  }

  /** A workflow as it was resumed, verified. */
  async #resumed<T>(type: WorkflowType<T>, response: ResumeWorkflowResponse, budget: Budget): Promise<Workflow<T>> {
    const { workflow: told, snapshot, since } = await this.#reader.resumed(response, budget);
    if (told.workflowType !== type.name)
      throw new TypeError(
        `The workflow "${told.workflowId}" is of the type "${told.workflowType}", not "${type.name}".`,
      );
    const object = snapshot && (await type.codec.decode(snapshot.content, snapshot.contentType));
    const workflow = this.#workflow(type, told, response.lease, object as T, since);
    if (snapshot) workflow.kept(snapshot);
    return workflow;
  }

  #workflow<T>(
    type: WorkflowType<T>,
    of: {
      namespace: string;
      workflowId: string;
      forkedFrom?: ForkPoint | undefined;
      state: string;
      status: WorkflowStatus;
      sequence: bigint;
      headHash: Uint8Array;
      checkpointSequence: bigint;
    },
    lease: Lease | undefined,
    object: T,
    since: readonly Record[],
  ): Workflow<T> {
    const workflow = new Workflow<T>(type, of, lease, object, since, (released) => this.release(released));
    if (lease) {
      this.#leases.hold(workflow);
      if (type.checkpointIntervalMs > 0) {
        const timer = setInterval(() => void this.#checkpointIfChanged(workflow), type.checkpointIntervalMs).unref();
        this.#checkpoints.set(workflow, timer);
      }
    }
    return workflow;
  }

  async #checkpointIfChanged<T>(workflow: Workflow<T>): Promise<void> {
    const budget = this.#budget({});
    const said = this.#said({});
    try {
      await this.#writing(workflow, budget, said.requestId, async () => {
        const snapshot = workflow.lease && (await this.#snapshotOf(workflow.type, workflow.object));
        if (snapshot && workflow.lease && !workflow.isKept(snapshot))
          await this.#checkpoint(workflow, snapshot, said, budget);
      });
    } catch (e) {
      // What is not to be trusted is not worked on.
      if (e instanceof IntegrityError) this.#leases.lose(workflow, e);
      this.#onBackgroundError(e, workflow);
    }
  }

  /** Releases a lease that came with what could not be taken. */
  async #giveBack(workflowId: string | undefined, lease: Lease | undefined): Promise<void> {
    if (workflowId && lease && !this.#leases.holds(workflowId)) {
      const leases = [{ workflowId, epoch: lease.epoch }];
      const released = this.#leases.releaseAll(leases, { timeoutMs: RELEASE_MS });
      await released.catch((e) => this.#onBackgroundError(e, undefined));
    }
  }
}

/** Gives an error of a write the request id under which it may be repeated, also one that was made here. */
async function identified<R>(requestId: string, write: Promise<R>): Promise<R> {
  try {
    return await write;
  } catch (e) {
    if ((e instanceof AegisError || e instanceof IntegrityError) && e.requestId === "") e.requestId = requestId;
    throw e;
  }
}

interface Said {
  namespace: string;
  actor: string;
  reason: string;
  metadata: Map<string, string>;
  occurredAt: { seconds: bigint; nanos: number } | undefined;
  requestId: string;
}
