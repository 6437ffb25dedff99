// A building permit, from the application to the decision: a worker does what machines can do, a clerk decides when it suits them,
// and nothing is lost when the worker dies in between.
//
//   node build/example/permit.js submit permit-1 "Garden house, Mill Lane 3"
//   node build/example/permit.js work                takes all pending permits as far as they go, then ends
//   node build/example/permit.js decide permit-1 grant "M. Osei" "All plans in order"
//   node build/example/permit.js show   permit-1     the history; with the log's key, verified
//
// `work --die-after ASSESSED` kills the process, without a goodbye, right after that step was recorded. The next `work` goes on from
// there at once, since it has the same owner; under another name it would have to wait until the lease has run out.
//
// AEGIS_ADDRESS names the server, 127.0.0.1:50051 by default. With AEGIS_VERIFIER_KEY, the key of its log, everything is proven, and
// the last head of the log is kept in permit-head.json.
import { parseArgs } from "node:util";
import {
  AegisClient,
  DurableWorkflowEngine,
  FileHeadStore,
  toDate,
  type Workflow,
  WorkflowConflict,
  WorkflowStatus,
} from "aegis-client";

interface Permit {
  subject: string;
  fee?: number;
  letters: string[];
}

const { positionals, values } = parseArgs({ allowPositionals: true, options: { "die-after": { type: "string" } } });
const [command, permitId = "", ...rest] = positionals;
const keys = process.env.AEGIS_VERIFIER_KEY;

const client = new AegisClient(process.env.AEGIS_ADDRESS ?? "127.0.0.1:50051");
const engine = new DurableWorkflowEngine(client, {
  owner: "permit-worker-1",
  actor: "permit worker",
  ...(keys && { trust: { keys, headStore: new FileHeadStore("permit-head.json") } }),
});
const permits = engine.register<Permit>("building-permit");

/** What a worker does in each state, and the state it leads to. A state that is not here is a clerk's, or the end. */
const steps: { [state: string]: (permit: Workflow<Permit>) => Promise<unknown> } = {
  RECEIVED: async (permit) => {
    permit.object.letters.push("confirmation of receipt");
    await engine.transition(permit, "CONFIRMED", { reason: "confirmation of receipt sent" });
  },
  CONFIRMED: async (permit) => {
    permit.object.fee = 40 + permit.object.subject.length;
    await engine.transition(permit, "ASSESSED", { reason: "complete, and no stop advice is needed" });
  },
  ASSESSED: (permit) => engine.wait(permit, "AWAITING_DECISION", { reason: "a clerk decides" }),
  GRANTED: async (permit) => {
    permit.object.letters.push(`permit, fee ${permit.object.fee}`);
    await engine.transition(permit, "ISSUED", { status: WorkflowStatus.COMPLETED, reason: "permit sent" });
  },
  REFUSED: async (permit) => {
    permit.object.letters.push("refusal");
    await engine.transition(permit, "CLOSED", { status: WorkflowStatus.COMPLETED, reason: "refusal sent" });
  },
};

async function work(): Promise<void> {
  await using pending = engine.resumeAllPending(permits, { takeOverOwn: true });
  for await (const permit of pending) {
    console.log(`${permit.id}: taken up in ${permit.state}`);
    // A lease that is lost makes the next step fail; long steps would listen to permit.signal.
    for (let step = steps[permit.state]; step; step = steps[permit.state]) {
      await step(permit);
      console.log(`${permit.id}: ${permit.state}`);
      if (permit.state === values["die-after"]) process.kill(process.pid, "SIGKILL");
      if (permit.status !== WorkflowStatus.RUNNING) break;
    }
  }
  for (const { workflowId, message } of pending.failures) console.error(`${workflowId}: not taken up: ${message}`);
}

async function decide(verdict = "", clerk = "", reason = ""): Promise<void> {
  if (!["grant", "refuse"].includes(verdict) || clerk === "") throw new Error("Say grant or refuse, and who decides.");
  // A clerk needs no lease: whoever is first decides.
  const permit = await engine.resume(permits, permitId, { lease: false });
  if (permit.state !== "AWAITING_DECISION")
    throw new Error(`${permitId} is in ${permit.state}: there is nothing to decide.`);
  try {
    await engine.transition(permit, verdict === "grant" ? "GRANTED" : "REFUSED", { actor: clerk, reason });
  } catch (e) {
    if (!(e instanceof WorkflowConflict)) throw e;
    throw new Error(`Somebody else was faster: ${permitId} is in ${e.currentState} now.`, { cause: e });
  }
}

async function show(): Promise<void> {
  for await (const record of engine.records(permitId)) {
    const when = record.recordedAt ? toDate(record.recordedAt).toISOString() : "";
    console.log(
      `${record.sequence}  ${when}  ${record.toState.padEnd(18)} ${record.actor.padEnd(14)} ${record.reason}`,
    );
  }
  if (!engine.trust) return;
  const { isIntact, findings, recordsVerified } = await engine.verifyIntegrity(permitId);
  console.log(isIntact ? `intact: ${recordsVerified} records, proven under the log's key` : "NOT INTACT");
  for (const { sequence, message } of findings) console.log(`record ${sequence}: ${message}`);
  if (!isIntact) process.exitCode = 1;
}

try {
  if (command === "submit") {
    const object = { subject: rest[0] ?? "a house", letters: [] };
    await engine.start(permits, permitId, {
      state: "RECEIVED",
      object,
      actor: "portal",
      lease: false,
      requestId: permitId,
    });
  } else if (command === "work") {
    await work();
  } else if (command === "decide") {
    await decide(...rest);
  } else if (command === "show") {
    await show();
  } else {
    throw new Error("Say submit, work, decide or show, and which permit.");
  }
} catch (e) {
  console.error(e instanceof Error ? e.message : e);
  process.exitCode = 1;
} finally {
  await engine.close();
  client.close();
}
