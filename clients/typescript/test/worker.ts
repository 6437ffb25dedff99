import { AegisClient, DurableWorkflowEngine } from "aegis-client";

// A worker for the test that kills one: takes what is pending, tells it, and works on it without end.
const [address = "", leaseDurationMs] = process.argv.slice(2);
const engine = new DurableWorkflowEngine(new AegisClient(address), { leaseDurationMs: Number(leaseDurationMs) });
engine.register("job");
for await (const workflow of engine.resumeAllPending()) {
  process.stdout.write(
    `${JSON.stringify({ id: workflow.id, epoch: `${workflow.lease?.epoch}`, owner: engine.owner })}\n`,
  );
}
setInterval(() => undefined, 1_000);
