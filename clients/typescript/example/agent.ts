// An agent that keeps what it did: each step is checkpointed before the next begins, so that after a crash no step is done twice, and
// the history tells who asked for what, which tool was used, and who let it act.
//
//   node build/example/agent.js ask     task-1 "order 3 lamps"     begins, and works until it may not go on by itself
//   node build/example/agent.js resume                             goes on with all tasks that are pending
//   node build/example/agent.js approve task-1 "R. Haddad"         lets it do what costs money
//
// `ask --die-after 2` kills the process right after the second step was checkpointed. AEGIS_ADDRESS and AEGIS_VERIFIER_KEY as for the
// permits.
import { parseArgs } from "node:util";
import { AegisClient, DurableWorkflowEngine, type Workflow, WorkflowStatus } from "aegis-client";

interface Step {
  tool: string;
  input: string;
  output?: string;
}

interface Task {
  goal: string;
  plan: Step[];
}

const { positionals, values } = parseArgs({ allowPositionals: true, options: { "die-after": { type: "string" } } });
const [command, taskId = "", text = ""] = positionals;
const keys = process.env.AEGIS_VERIFIER_KEY;

const client = new AegisClient(process.env.AEGIS_ADDRESS ?? "127.0.0.1:50051");
const engine = new DurableWorkflowEngine(client, {
  owner: "agent-1",
  actor: "agent-1",
  ...(keys && { trust: { keys } }),
});
const tasks = engine.register<Task>("agent-task");

/** Stands in for a language model: the same goal gives the same plan. */
function planFor(goal: string): Step[] {
  return [
    { tool: "search", input: goal },
    { tool: "compare", input: goal },
    { tool: "purchase", input: goal },
    { tool: "report", input: goal },
  ];
}

/** Stands in for the tools. Whoever has tools with effects gives them a key such as this one, so that they too do nothing twice. */
async function use({ tool, input }: Step, idempotencyKey: string): Promise<string> {
  console.log(`${idempotencyKey}: ${tool} "${input}"`);
  return `${tool} done`;
}

async function run(task: Workflow<Task>): Promise<void> {
  if (task.state === "PLANNING") {
    task.object.plan = planFor(task.object.goal);
    await engine.transition(task, "ACTING", { reason: `a plan of ${task.object.plan.length} steps` });
  }
  for (const [i, step] of task.object.plan.entries()) {
    if (step.output !== undefined) continue;
    if (step.tool === "purchase" && task.state !== "APPROVED") {
      // It costs money: a human decides, in an hour or in a week. Nothing is held meanwhile.
      await engine.wait(task, "AWAITING_APPROVAL", { reason: `step ${i + 1} is a ${step.tool}` });
      return;
    }
    // Somebody may have taken the task away: then the effects are theirs to have.
    task.signal.throwIfAborted();
    step.output = await use(step, `${task.id}/${i + 1}`);
    await engine.checkpoint(task, {
      reason: `step ${i + 1}: ${step.tool}`,
      metadata: { tool: step.tool, step: `${i + 1}` },
    });
    if (`${i + 1}` === values["die-after"]) process.kill(process.pid, "SIGKILL");
  }
  await engine.transition(task, "DONE", { status: WorkflowStatus.COMPLETED });
}

try {
  if (command === "ask") {
    // The same question asked again is the same task.
    const object = { goal: text, plan: [] };
    const task = await engine.start(tasks, taskId, { state: "PLANNING", object, reason: text, requestId: "ask" });
    await run(task);
    console.log(`${taskId}: ${task.state}`);
  } else if (command === "resume") {
    for await (const task of engine.resumeAllPending(tasks, { takeOverOwn: true })) {
      await run(task);
      console.log(`${task.id}: ${task.state}`);
    }
  } else if (command === "approve") {
    const task = await engine.resume(tasks, taskId, { lease: false });
    await engine.transition(task, "APPROVED", { actor: text, reason: "the price is right" });
  } else {
    throw new Error("Say ask, resume or approve, and which task.");
  }
} catch (e) {
  console.error(e instanceof Error ? e.message : e);
  process.exitCode = 1;
} finally {
  await engine.close();
  client.close();
}
