import { createReadStream } from "node:fs";
import { Budget } from "./budget.js";
import { type AegisClient, type CallOptions, pause } from "./client.js";
import { Unavailable } from "./errors.js";
import { throwFinding } from "./evidence.js";
import { type ExportReport, ExportVerifier } from "./export.js";
import {
  type ExportWorkflowsRequest,
  ImportOutcome,
  type ImportWorkflowsRequest,
  type ImportWorkflowsResponse,
  RecoveryServiceService,
} from "./gen/aegis/v1/recovery_service.js";
import type { LogGuard } from "./guard.js";
import { replaceFile } from "./head-store.js";
import { type ExportFilter, type ImportOptions, mapOf } from "./options.js";
import { toTimestamp } from "./time.js";

// Moves workflows between a server and files: what `DurableWorkflowEngine.export` and `import` do.

const PIECE_BYTES = 256 * 1024;
const RETRY_MS = 250;

/** See `DurableWorkflowEngine.export`. */
export async function exportToFile(
  client: AegisClient,
  guard: LogGuard,
  namespace: string,
  path: string,
  filter: ExportFilter,
  options: CallOptions,
): Promise<ExportReport | undefined> {
  const request: ExportWorkflowsRequest = {
    namespace,
    workflowId: filter.workflowId ?? "",
    workflowTypes: [...(filter.workflowTypes ?? [])],
    states: [...(filter.states ?? [])],
    statuses: [...(filter.statuses ?? [])],
    metadata: mapOf(filter.metadata),
    updatedBefore: filter.updatedBefore === undefined ? undefined : toTimestamp(filter.updatedBefore),
    updatedAfter: filter.updatedAfter === undefined ? undefined : toTimestamp(filter.updatedAfter),
    allowQuarantined: false,
  };
  const knownSize = await guard.during(new Budget(options, client.timeoutMs), async (size) => size);
  const verifier = guard.trust && new ExportVerifier(guard.trust.currentKeys);
  let report: ExportReport | undefined;
  async function* pieces(): AsyncGenerator<Uint8Array> {
    // As long as it takes: a whole namespace may be large.
    for await (const { chunk } of client.recovery.exportWorkflows(request, options)) {
      verifier?.push(chunk);
      yield chunk;
    }
    if (verifier === undefined) return;
    report = await guard.linked(verifier.complete(), knownSize, new Budget(options, client.timeoutMs));
    throwFinding(report.findings[0]);
  }
  await replaceFile(path, pieces());
  return report;
}

/** See `DurableWorkflowEngine.import`. */
export async function importFrom(
  client: AegisClient,
  guard: LogGuard,
  source: string | (() => AsyncIterable<Uint8Array> | Iterable<Uint8Array>),
  options: ImportOptions,
): Promise<ImportWorkflowsResponse[]> {
  const { trustedKeys = [], takeOver = false, allowUnproven = false } = options;
  const outcomes = new Map<string, ImportWorkflowsResponse>();
  async function* messages(): AsyncGenerator<ImportWorkflowsRequest> {
    yield { part: { $case: "options", value: { trustedKeys: [...trustedKeys], takeOver, allowUnproven } } };
    const pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array> =
      typeof source === "string" ? createReadStream(source, { highWaterMark: PIECE_BYTES }) : source();
    for await (const chunk of pieces) yield { part: { $case: "chunk", value: chunk } };
  }
  await guard.during(new Budget(options, client.timeoutMs), async () => undefined);
  for (let progress = Date.now(); ; ) {
    try {
      for await (const outcome of client.duplex(RecoveryServiceService.importWorkflows, messages(), options)) {
        progress = Date.now();
        const key = JSON.stringify([outcome.namespace, outcome.workflowId]);
        // Sent again, what the first sending has brought is there already.
        if (outcome.outcome !== ImportOutcome.UNCHANGED || !outcomes.has(key)) outcomes.set(key, outcome);
      }
      return [...outcomes.values()];
    } catch (e) {
      if (!(e instanceof Unavailable) || Date.now() - progress > client.timeoutMs) throw e;
      await pause(RETRY_MS, options.signal);
    }
  }
}
