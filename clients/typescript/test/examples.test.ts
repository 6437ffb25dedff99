import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Server, temporaryDirectory } from "./testbed.js";

/** Runs an example as its users do, each time in a process of its own. */
async function runnerOf(t: TestContext, example: string) {
  const server = await Server.start(t);
  const cwd = await temporaryDirectory(t);
  const env = { ...process.env, AEGIS_ADDRESS: server.address, AEGIS_VERIFIER_KEY: (await server.keys())[0] };
  const path = fileURLToPath(new URL(`../example/${example}.js`, import.meta.url));
  return (...args: string[]) =>
    new Promise<{ output: string; end: number | string | null }>((resolve) => {
      const child = execFile(process.execPath, [path, ...args], { cwd, env }, (_, stdout, stderr) =>
        resolve({ output: stdout + stderr, end: child.signalCode ?? child.exitCode }),
      );
    });
}

test("the permit example crashes, goes on and waits for a human", async (t) => {
  const run = await runnerOf(t, "permit");
  assert.deepEqual(await run("submit", "permit-1", "Garden house, Mill Lane 3"), { output: "", end: 0 });
  const crashed = await run("work", "--die-after", "CONFIRMED");
  assert.deepEqual(crashed, { output: "permit-1: taken up in RECEIVED\npermit-1: CONFIRMED\n", end: "SIGKILL" });
  const resumed = await run("work");
  assert.equal(resumed.output, "permit-1: taken up in CONFIRMED\npermit-1: ASSESSED\npermit-1: AWAITING_DECISION\n");
  assert.deepEqual(await run("work"), { output: "", end: 0 });
  assert.deepEqual(await run("decide", "permit-1", "grant", "M. Osei", "All plans in order"), { output: "", end: 0 });
  assert.equal((await run("decide", "permit-1", "refuse", "Late")).end, 1);
  assert.equal((await run("work")).output, "permit-1: taken up in GRANTED\npermit-1: ISSUED\n");
  const { output, end } = await run("show", "permit-1");
  assert.equal(end, 0);
  assert.match(output, /GRANTED +M\. Osei +All plans in order/);
  assert.match(output, /intact: 6 records/);
});

test("the agent example does no step twice", async (t) => {
  const run = await runnerOf(t, "agent");
  const crashed = await run("ask", "task-1", "order 3 lamps", "--die-after", "1");
  assert.deepEqual(crashed, { output: 'task-1/1: search "order 3 lamps"\n', end: "SIGKILL" });
  assert.equal((await run("resume")).output, 'task-1/2: compare "order 3 lamps"\ntask-1: AWAITING_APPROVAL\n');
  assert.deepEqual(await run("approve", "task-1", "R. Haddad"), { output: "", end: 0 });
  const done = await run("resume");
  assert.equal(done.output, 'task-1/3: purchase "order 3 lamps"\ntask-1/4: report "order 3 lamps"\ntask-1: DONE\n');
});
