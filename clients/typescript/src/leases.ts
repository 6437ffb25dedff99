import type { AegisClient, CallOptions } from "./client.js";
import { errorOf } from "./errors.js";
import type { Workflow } from "./workflow.js";

/** The most leases in one call. */
const LEASES_MAX = 1_000;

/** A server that is away is not waited for longer to give leases up. */
export const RELEASE_MS = 3_000;

// biome-ignore lint/suspicious/noExplicitAny: leases are the same for every type of state object.
export type AnyWorkflow = Workflow<any>;

/** What a keeper tells. */
export interface LeaseEvents {
  /** A renewal failed, which is tried again, or a release at the end, whose leases end by themselves. */
  failed(error: unknown): void;
  /** A lease is in care no more. */
  dropped(workflow: AnyWorkflow): void;
}

/**
 * The leases of one owner: renews them at a third of their duration, and tells the workflows whose lease is lost. A server that
 * cannot be reached loses none: a lease that has merely run out is renewed when it answers again, unless another has taken it.
 */
export class LeaseKeeper {
  readonly #client: AegisClient;
  readonly #namespace: string;
  readonly #owner: string;
  /** How long a lease lasts. */
  readonly durationMs: number;
  readonly #events: LeaseEvents;
  readonly #held = new Map<string, AnyWorkflow>();
  #timer: NodeJS.Timeout | undefined;
  #isRenewing = false;

  constructor(client: AegisClient, namespace: string, owner: string, durationMs: number, events: LeaseEvents) {
    this.#client = client;
    this.#namespace = namespace;
    this.#owner = owner;
    this.durationMs = durationMs;
    this.#events = events;
  }

  /** What is held. */
  get workflows(): readonly AnyWorkflow[] {
    return [...this.#held.values()];
  }

  /** Whether the lease of this workflow is held here. */
  holds(workflowId: string): boolean {
    return this.#held.has(workflowId);
  }

  /** Takes a workflow with its lease into care. One that was held before under the same id has lost its own by that. */
  hold(workflow: AnyWorkflow): void {
    const before = this.#held.get(workflow.id);
    if (before && before !== workflow)
      this.#lose(before, errorOf("LEASE_STALE", "The workflow was resumed again by the same owner."));
    this.#held.set(workflow.id, workflow);
    this.#timer ??= setInterval(() => void this.#renewAll(), this.durationMs / 3).unref();
  }

  /** Takes a workflow out of care, with whatever became of its lease. */
  drop(workflow: AnyWorkflow): void {
    workflow.setLease(undefined);
    this.#events.dropped(workflow);
    if (this.#held.get(workflow.id) === workflow) this.#held.delete(workflow.id);
    if (this.#held.size > 0 || this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** The lease is no longer ours. */
  lose(workflow: AnyWorkflow, reason: unknown): void {
    if (this.#held.get(workflow.id) === workflow) this.#lose(workflow, reason);
  }

  /** Gives leases up. They are out of care whether or not the server could be told: then they end by themselves. */
  async release(workflows: readonly AnyWorkflow[], options?: CallOptions): Promise<void> {
    const leases = workflows.flatMap((workflow) => {
      const { lease } = workflow;
      this.drop(workflow);
      return lease ? [{ workflowId: workflow.id, epoch: lease.epoch }] : [];
    });
    await this.releaseAll(leases, options);
  }

  /** As {@link release}, at the end of work: a server that is away is not waited for for long, and is no error. */
  async releaseQuietly(workflows: readonly AnyWorkflow[], options?: CallOptions): Promise<void> {
    await this.release(workflows, { timeoutMs: RELEASE_MS, ...options }).catch((e) => this.#events.failed(e));
  }

  /** Gives up leases that no workflow was made of. */
  async releaseAll(leases: readonly { workflowId: string; epoch: bigint }[], options?: CallOptions): Promise<void> {
    for (let i = 0; i < leases.length; i += LEASES_MAX) {
      const some = leases.slice(i, i + LEASES_MAX);
      await this.#client.recovery.releaseLeases(
        { namespace: this.#namespace, owner: this.#owner, leases: some },
        options,
      );
    }
  }

  /** Renews leases now. Afterwards a workflow whose lease is lost knows it. */
  async renew(workflows: readonly AnyWorkflow[], options?: CallOptions): Promise<void> {
    const asked = workflows.flatMap((workflow) => (workflow.lease ? [{ workflow, epoch: workflow.lease.epoch }] : []));
    for (let i = 0; i < asked.length; i += LEASES_MAX) {
      const some = asked.slice(i, i + LEASES_MAX);
      const { results } = await this.#client.recovery.renewLeases(
        {
          namespace: this.#namespace,
          owner: this.#owner,
          leases: some.map(({ workflow, epoch }) => ({ workflowId: workflow.id, epoch })),
          leaseDuration: this.duration,
        },
        options,
      );
      some.forEach(({ workflow, epoch }, at) => {
        const outcome = results[at]?.outcome;
        // Closed, released or resumed anew meanwhile: the answer is about a lease that matters no more.
        if (workflow.lease?.epoch !== epoch) return;
        if (outcome?.$case === "renewed") workflow.setLease(outcome.value);
        else if (outcome?.$case === "lost") this.lose(workflow, errorOf(outcome.value.reason, outcome.value.message));
      });
    }
  }

  /** How long a lease lasts, as the contract writes it. */
  get duration(): { seconds: bigint; nanos: number } {
    const seconds = Math.floor(this.durationMs / 1000);
    return { seconds: BigInt(seconds), nanos: Math.round((this.durationMs - seconds * 1000) * 1_000_000) };
  }

  #lose(workflow: AnyWorkflow, reason: unknown): void {
    this.drop(workflow);
    workflow.lose(reason);
  }

  async #renewAll(): Promise<void> {
    // One that takes long is not overtaken by the next.
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    try {
      await this.renew(this.workflows, { timeoutMs: this.durationMs / 3 });
    } catch (e) {
      this.#events.failed(e);
    } finally {
      this.#isRenewing = false;
    }
  }
}
