import type { Budget } from "./budget.js";
import { ChainVerifier, type Finding } from "./chain.js";
import type { AegisClient } from "./client.js";
import { IntegrityError } from "./errors.js";
import { throwFinding, verifyCheckpoint, verifyHistory } from "./evidence.js";
import { ExportVerifier } from "./export.js";
import { ExportWorkflowsRequest, type ResumeWorkflowResponse } from "./gen/aegis/v1/recovery_service.js";
import type { Record, Snapshot, Workflow as WorkflowMessage } from "./gen/aegis/v1/workflow.js";
import type { GetCheckpointRequest, ListRecordsResponse } from "./gen/aegis/v1/workflow_service.js";
import type { LogGuard } from "./guard.js";
import type { CheckpointAt } from "./options.js";
import { toMicroseconds, toTimestamp } from "./time.js";
import type { WorkflowType } from "./workflow.js";

const PAGE_SIZE = 1_000;

/** A checkpoint that was loaded. */
export interface LoadedCheckpoint<T> {
  /** The state object of then. */
  readonly object: T;
  /** The record that carries it: state, status, sequence and time of then. */
  readonly record: Record;
}

/** What verification of a workflow found. */
export interface IntegrityReport {
  /** Whether every record, snapshot and proof is as it was recorded, under the log's signed head. */
  readonly isIntact: boolean;
  /** How many records were recomputed. */
  readonly recordsVerified: bigint;
  /** How many snapshots were recomputed. */
  readonly snapshotsVerified: bigint;
  /** The hash of the newest record, 32 bytes. */
  readonly headHash: Uint8Array;
  /** What the log states of it: a signed note worth keeping, since it contradicts a shorter history shown later. */
  readonly statement: string;
  /** What is not as it was recorded. Empty if and only if it is intact. */
  readonly findings: readonly Finding[];
}

/** A workflow as it was resumed, verified. */
export interface Resumed {
  readonly workflow: WorkflowMessage;
  /** Its newest checkpoint's; undefined for none. */
  readonly snapshot: Snapshot | undefined;
  /** The records after that checkpoint, or all where there is none, oldest first. */
  readonly since: readonly Record[];
}

/** Reads what was recorded of a namespace's workflows, and hands out nothing that does not verify. */
export class Reader {
  readonly #client: AegisClient;
  readonly #guard: LogGuard;
  readonly #namespace: string;

  constructor(client: AegisClient, guard: LogGuard, namespace: string) {
    this.#client = client;
    this.#guard = guard;
    this.#namespace = namespace;
  }

  /** See `DurableWorkflowEngine.records`. Each page has a budget of its own. */
  async *records(workflowId: string, budgetOf: () => Budget): AsyncIterableIterator<Record> {
    const chain = new ChainVerifier(this.#namespace, workflowId);
    for (let pageToken = "", isFirst = true; isFirst || pageToken !== ""; isFirst = false) {
      const budget = budgetOf();
      const page = await this.#guard.during(budget, () => this.#page(workflowId, pageToken, false, budget));
      for (const record of page.records) {
        chain.add(record);
        throwFinding(chain.findings[0]);
        yield record;
      }
      pageToken = page.nextPageToken;
    }
    // Only the end of the chain tells whether values that are gone were erased.
    throwFinding(chain.complete()[0]);
  }

  /** See `DurableWorkflowEngine.loadCheckpoint`. */
  async load<T>(
    type: WorkflowType<T>,
    workflowId: string,
    at: CheckpointAt,
    budget: Budget,
  ): Promise<LoadedCheckpoint<T>> {
    const point = pointOf(at);
    const response = await this.#guard.during(budget, () =>
      this.#client.workflows.getCheckpoint(
        { namespace: this.#namespace, workflowId, at: point, minLogSize: 0n, allowQuarantined: false },
        budget.call,
      ),
    );
    const { record, snapshot } = verifyCheckpoint(this.#namespace, workflowId, response);
    if (record.workflowType !== type.name)
      throw new TypeError(`The workflow "${workflowId}" is of the type "${record.workflowType}", not "${type.name}".`);
    const recordedAt = record.recordedAt ? toMicroseconds(record.recordedAt) : 0n;
    const isTooLate =
      (point?.$case === "sequence" && record.sequence > point.value) ||
      (point?.$case === "asOf" && recordedAt > toMicroseconds(point.value));
    if (isTooLate)
      throw new IntegrityError("sequence", `The checkpoint of "${workflowId}" that came is later than was asked for.`);
    return { object: await type.codec.decode(snapshot.content, snapshot.contentType), record };
  }

  /** See `DurableWorkflowEngine.verifyIntegrity`. */
  async verify(workflowId: string, budget: Budget): Promise<IntegrityReport> {
    const { trust } = this.#guard;
    if (trust === undefined)
      throw new Error("Nothing can be proven without the log's verifier key: give the engine `trust`.");
    const report = await this.#guard.during(budget, async (knownSize) => {
      const verifier = new ExportVerifier(trust.currentKeys);
      const request = ExportWorkflowsRequest.fromPartial({
        namespace: this.#namespace,
        workflowId,
        allowQuarantined: true,
      });
      for await (const { chunk } of this.#client.recovery.exportWorkflows(request, budget.call)) verifier.push(chunk);
      return this.#guard.linked(verifier.complete(), knownSize, budget);
    });
    const [workflow] = report.workflows;
    const isAsked =
      report.workflows.length === 1 && workflow?.workflowId === workflowId && workflow.namespace === this.#namespace;
    if (report.isIntact && !isAsked)
      throw new IntegrityError("workflow_id", `What came to verify "${workflowId}" is another workflow.`);
    return {
      isIntact: report.isIntact,
      recordsVerified: report.recordsVerified,
      snapshotsVerified: report.snapshotsVerified,
      headHash: workflow?.headHash ?? new Uint8Array(),
      statement: workflow?.statement ?? "",
      findings: report.findings,
    };
  }

  /** Verifies what a resume brought: the checkpoint, and the chain from it to where the workflow stands. */
  async resumed(response: ResumeWorkflowResponse, budget: Budget): Promise<Resumed> {
    const { workflow, checkpoint } = response;
    if (workflow === undefined || workflow.namespace !== this.#namespace)
      throw new IntegrityError("workflow", "The server resumed no workflow, or one of another namespace.");
    const kept = checkpoint && verifyCheckpoint(this.#namespace, workflow.workflowId, checkpoint);
    const since = [...response.recordsSince];
    if (response.moreRecords) {
      const last = since.at(-1) ?? kept?.record;
      since.push(...(await this.#between(workflow.workflowId, last?.sequence ?? 0n, workflow.sequence, budget)));
    }
    const chain = verifyHistory(workflow, kept?.record, since);
    if (chain.isMissingValues) {
      // What was erased while the records were read is told after the newest of them.
      for (const record of await this.#between(workflow.workflowId, workflow.sequence, 2n ** 63n, budget))
        chain.add(record);
    }
    throwFinding(chain.complete()[0]);
    return { workflow, snapshot: kept?.snapshot, since };
  }

  /** The records after one sequence and up to another, oldest first: read backwards, since they are the newest. */
  async #between(workflowId: string, after: bigint, upTo: bigint, budget: Budget): Promise<Record[]> {
    const records: Record[] = [];
    for (let pageToken = "", isFirst = true; isFirst || pageToken !== ""; isFirst = false) {
      const page = await this.#page(workflowId, pageToken, true, budget);
      for (const record of page.records) {
        if (record.sequence <= after) return records.reverse();
        if (record.sequence <= upTo) records.push(record);
      }
      pageToken = page.nextPageToken;
    }
    return records.reverse();
  }

  #page(workflowId: string, pageToken: string, descending: boolean, budget: Budget): Promise<ListRecordsResponse> {
    return this.#client.workflows.listRecords(
      {
        namespace: this.#namespace,
        workflowId,
        actor: "",
        principal: "",
        recordedAfter: undefined,
        recordedBefore: undefined,
        descending,
        pageSize: PAGE_SIZE,
        pageToken,
        minLogSize: 0n,
        allowQuarantined: false,
      },
      budget.call,
    );
  }
}

function pointOf(at: CheckpointAt): GetCheckpointRequest["at"] {
  if (at === undefined) return undefined;
  return "sequence" in at ? { $case: "sequence", value: at.sequence } : { $case: "asOf", value: toTimestamp(at.asOf) };
}
