import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { InterceptingCall, type Interceptor, Metadata, status } from "@grpc/grpc-js";
import {
  AegisError,
  DurableWorkflowEngine,
  json,
  LeaseLost,
  Overloaded,
  RecordKind,
  Workflow,
  WorkflowStatus,
} from "aegis-client";
import type { RenewLeasesRequest } from "aegis-client/stubs";
import { atEnd, connect, engineOf, historyOf, Server, until } from "./testbed.js";

interface Job {
  step: number;
}

test("shared-pending", async (t) => {
  const server = await Server.start(t);
  const trust = { keys: await server.keys() };
  const starter = engineOf(t, server.address);
  const jobs = starter.register<Job>("job");
  const ids = Array.from({ length: 40 }, (_, i) => `job-${i}`);
  for (const id of ids) await starter.start(jobs, id, { state: "NEW", object: { step: 0 }, lease: false });
  const workers = [engineOf(t, server.address, { trust }), engineOf(t, server.address, { trust })];

  const handed = await Promise.all(
    workers.map(async (worker) => {
      const type = worker.register<Job>("job");
      const got: string[] = [];
      await using pending = worker.resumeAllPending(type);
      for await (const workflow of pending) {
        workflow.object.step++;
        await worker.transition(workflow, "DONE", { status: WorkflowStatus.COMPLETED });
        got.push(workflow.id);
      }
      assert.deepEqual(pending.failures, []);
      return got;
    }),
  );

  assert.deepEqual(handed.flat().sort(), ids.sort());
  for (const id of ids) assert.equal((await historyOf(starter, id)).length, 2);
});

test("killed-worker", async (t) => {
  const leaseDurationMs = 2_000;
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { leaseDurationMs, trust: { keys: await server.keys() } });
  const jobs = engine.register<Job>("job");
  await engine.start(jobs, "job-1", { state: "NEW", object: { step: 7 }, lease: false });
  const worker = spawn(
    process.execPath,
    [fileURLToPath(new URL("./worker.js", import.meta.url)), server.address, `${leaseDurationMs}`],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  atEnd(t, () => worker.kill("SIGKILL"));
  const [line] = await once(createInterface({ input: worker.stdout }), "line");
  const { id, epoch, owner } = JSON.parse(line);
  assert.equal(id, "job-1");
  // While it lives it renews: after more than its lease it still holds it.
  await new Promise((resolve) => setTimeout(resolve, leaseDurationMs + 1_000));
  const inVain = engine.resumeAllPending(jobs);
  assert.equal((await inVain.next()).done, true);
  assert.equal(inVain.summary?.heldByOthers, 1n);

  const gone = once(worker, "exit");
  worker.kill("SIGKILL");
  await gone;
  const since = Date.now();
  let taken: Workflow<Job> | undefined;
  await until("the workflow is taken over", async () => {
    for await (const workflow of engine.resumeAllPending(jobs)) taken = workflow;
    return taken !== undefined;
  });
  assert.ok(Date.now() - since <= leaseDurationMs + 1_500, `taken over after ${Date.now() - since} ms`);
  assert.deepEqual(taken?.object, { step: 7 });

  const late = engine.client.recovery.renewLeases({
    namespace: "",
    owner,
    leases: [{ workflowId: id, epoch: BigInt(epoch) }],
    leaseDuration: undefined,
  });
  assert.equal((await late).results[0]?.outcome?.$case, "lost");
  await assert.rejects(
    engine.client.workflows.checkpointWorkflow({
      namespace: "",
      workflowId: id,
      snapshot: { contentType: "", content: new Uint8Array(), sha256: new Uint8Array() },
      expected: undefined,
      leaseEpoch: BigInt(epoch),
      actor: "",
      reason: "",
      metadata: new Map(),
      occurredAt: undefined,
      requestId: "late",
      knownLogSize: 0n,
      includeProof: false,
    }),
    LeaseLost,
  );
});

test("lost-lease", async (t) => {
  const server = await Server.start(t);
  const renewed: string[] = [];
  const listening: Interceptor = (options, next) =>
    new InterceptingCall(next(options), {
      sendMessage: (message, send) => {
        if (options.method_definition.path.endsWith("/RenewLeases"))
          renewed.push(...(message as RenewLeasesRequest).leases.map((lease) => lease.workflowId));
        send(message);
      },
    });
  const client = connect(t, { addresses: server.address, interceptors: [listening] });
  const engine = new DurableWorkflowEngine(client, { leaseDurationMs: 3_000 });
  atEnd(t, () => engine.close());
  const jobs = engine.register<Job>("job");
  for (const id of ["one", "two", "three"])
    await engine.start(jobs, id, { state: "NEW", object: { step: 0 }, lease: false });
  const takeAway = async (workflowId: string, owner: string) => {
    const thief = engineOf(t, server.address, { owner });
    await thief.resume(thief.register<Job>("job"), workflowId, { takeOverOwn: true });
  };

  await engine.start(jobs, "hold", { state: "NEW", object: { step: 0 } });
  await using pending = engine.resumeAllPending(jobs);
  const first = (await pending.next()).value;
  assert.ok(first instanceof Workflow);
  const epoch = first.lease?.epoch;
  let told: unknown;
  first.signal.addEventListener("abort", () => {
    told = first.signal.reason;
  });
  await takeAway(first.id, engine.owner);
  await until("the work is told", () => told !== undefined);
  assert.ok(told instanceof LeaseLost);
  assert.equal(first.lease, undefined);
  await assert.rejects(engine.transition(first, "DONE"), LeaseLost);

  renewed.length = 0;
  await until("the others are renewed twice", () => renewed.filter((id) => id === "hold").length >= 2);
  assert.ok(!renewed.includes(first.id));

  // One that is lost while it waits to be handed out is passed over, and not renewed again.
  await takeAway(first.id === "two" ? "three" : "two", engine.owner);
  const rest: string[] = [];
  for await (const workflow of pending) rest.push(workflow.id);
  assert.equal(rest.length, 1);
  const { workflow } = await engine.client.workflows.getWorkflow({
    namespace: "",
    workflowId: first.id,
    minLogSize: 0n,
    allowQuarantined: false,
  });
  assert.ok(workflow?.lease && epoch !== undefined && workflow.lease.epoch > epoch);
});

/** Ends the first pass over what is pending, after its last message, with OVERLOADED. */
function turnedAway(): { readonly interceptor: Interceptor; readonly passes: number } {
  let passes = 0;
  const text = (field: number, value: string) => new BinaryWriter().tag(field, WireType.LengthDelimited).string(value);
  const inner = (field: number, value: Uint8Array) =>
    new BinaryWriter().tag(field, WireType.LengthDelimited).bytes(value).finish();
  const info = Buffer.concat([text(1, "OVERLOADED").finish(), text(2, "aegis.v1").finish()]);
  const any = Buffer.concat([text(1, "type.googleapis.com/google.rpc.ErrorInfo").finish(), inner(2, info)]);
  return {
    interceptor: (options, next) => {
      if (!options.method_definition.path.endsWith("/ResumePendingWorkflows") || ++passes > 1)
        return new InterceptingCall(next(options));
      return new InterceptingCall(next(options), {
        start: (metadata, _listener, begin) =>
          begin(metadata, {
            onReceiveStatus: (_, pass) => {
              const trailer = new Metadata();
              trailer.set("grpc-status-details-bin", Buffer.from(inner(3, any)));
              pass({ code: status.RESOURCE_EXHAUSTED, details: "too much", metadata: trailer });
            },
          }),
      });
    },
    get passes() {
      return passes;
    },
  };
}

test("a worker that polls goes on whatever happens to the server, until it is closed", async (t) => {
  const server = await Server.start(t);
  const away = turnedAway();
  const client = connect(t, { addresses: server.address, interceptors: [away.interceptor], timeoutMs: 1_000 });
  const told: unknown[] = [];
  const engine = new DurableWorkflowEngine(client, {
    trust: { keys: await server.keys() },
    onBackgroundError: (error) => told.push(error),
  });
  const jobs = engine.register<Job>("job");
  const starter = engineOf(t, server.address);
  const same = starter.register<Job>("job");
  const start = (id: string) => starter.start(same, id, { state: "NEW", object: { step: 0 }, lease: false });

  await start("job-1");
  const pending = engine.resumeAllPending(jobs, { pollIntervalMs: 50 });
  const next = async () => (await pending.next()).value?.id;
  assert.equal(await next(), "job-1");
  const second = next();
  await until("it was turned away and came again", () => away.passes > 1);
  assert.ok(told.some((error) => error instanceof Overloaded));
  await start("job-2");
  assert.equal(await second, "job-2");
  const third = next();
  // Longer than a call may take.
  await server.kill();
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await server.launch();
  await start("job-3");
  assert.equal(await third, "job-3");

  const last = pending.next();
  await engine.close();
  assert.equal((await last).done, true);
  const other = engineOf(t, server.address);
  const free: string[] = [];
  for await (const { id } of other.resumeAllPending(other.register<Job>("job"))) free.push(id);
  assert.deepEqual(free.sort(), ["job-1", "job-2", "job-3"]);
});

test("one pass goes on after it was turned away, and ends", async (t) => {
  const server = await Server.start(t);
  const away = turnedAway();
  const client = connect(t, { addresses: server.address, interceptors: [away.interceptor] });
  const engine = new DurableWorkflowEngine(client);
  atEnd(t, () => engine.close());
  const jobs = engine.register<Job>("job");
  await engine.start(jobs, "job-1", { state: "NEW", object: { step: 0 }, lease: false });
  const got: string[] = [];
  for await (const { id } of engine.resumeAllPending(jobs)) got.push(id);
  assert.deepEqual([got, away.passes], [["job-1"], 2]);
});

test("a worker that polls ends with its client", async (t) => {
  const server = await Server.start(t);
  const client = connect(t, server.address);
  const engine = new DurableWorkflowEngine(client);
  const next = engine.resumeAllPending(engine.register<Job>("job"), { pollIntervalMs: 20 }).next();
  setTimeout(() => client.close(), 200);
  await assert.rejects(next);
});

test("a workflow that its codec cannot read fails alone, whatever the codec throws", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address);
  const plain = json<Job>();
  const decode = (content: Uint8Array, contentType: string): Job | Promise<Job> => {
    const job = plain.decode(content, contentType);
    // As zlib and ciphers do.
    if ((job as Job).step === 13) throw new Error("incorrect header check");
    if ((job as Job).step === 14) throw "no error at all";
    return job;
  };
  const jobs = engine.register<Job>("job", { ...plain, decode });
  for (const step of [12, 13, 14, 15])
    await engine.start(jobs, `job-${step}`, { state: "NEW", object: { step }, lease: false });

  const pending = engine.resumeAllPending(jobs, { pollIntervalMs: 20, maxWorkflows: 3 });
  const got: string[] = [];
  // The last one becomes pending once the broken ones have come again and again.
  const late = setTimeout(
    () => void engine.start(jobs, "late", { state: "NEW", object: { step: 1 }, lease: false }),
    500,
  );
  t.after(() => clearTimeout(late));
  for await (const { id } of pending) got.push(id);
  assert.deepEqual(got.sort(), ["job-12", "job-15", "late"]);
  assert.deepEqual(pending.failures.map(({ workflowId, reason }) => [workflowId, reason]).sort(), [
    ["job-13", "CODEC"],
    ["job-14", "CODEC"],
  ]);
  // They hold no lease.
  const other = engineOf(t, server.address);
  const raw = other.register<Job>("job");
  assert.equal((await other.resume(raw, "job-13")).object.step, 13);
});

test("releases what it holds", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address);
  const other = engineOf(t, server.address);
  const jobs = engine.register<Job>("job");
  const same = other.register<Job>("job");
  for (const id of ["one", "two"]) await engine.start(jobs, id, { state: "NEW", object: { step: 0 }, lease: false });

  {
    await using pending = engine.resumeAllPending(jobs, { maxWorkflows: 1 });
    const got: Workflow<Job>[] = [];
    for await (const workflow of pending) got.push(workflow);
    assert.equal(got.length, 1);
    assert.notEqual(got[0]?.lease, undefined);
  }
  const free: string[] = [];
  for await (const workflow of other.resumeAllPending(same)) free.push(workflow.id);
  assert.deepEqual(free.sort(), ["one", "two"]);
  await other.close();
  {
    await using workflow = await engine.resume(jobs, "two");
    assert.notEqual(workflow.lease, undefined);
  }
  await other.resume(same, "two");
});

test("closing does not wait for a server that is away", async (t) => {
  const server = await Server.start(t);
  const told: unknown[] = [];
  const engine = engineOf(t, server.address, { onBackgroundError: (error) => told.push(error) });
  const jobs = engine.register<Job>("job");
  const held = await engine.start(jobs, "one", { state: "NEW", object: { step: 0 } });
  await engine.start(jobs, "two", { state: "NEW", object: { step: 0 }, lease: false });
  const pending = engine.resumeAllPending(jobs);
  assert.equal((await pending.next()).value?.id, "two");
  await server.kill();

  const since = Date.now();
  await pending.close();
  await engine.close();
  assert.ok(Date.now() - since < 8_000);
  assert.equal(held.lease, undefined);
  assert.equal(told.filter((error) => error instanceof AegisError).length, 2);
});

test("a history since the checkpoint that is longer than an answer", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const jobs = engine.register<Job>("job");
  const job = await engine.start(jobs, "long", { state: "NEW", object: { step: 1 } });
  const metadata = Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`fact-${i}`, "x".repeat(3_000)]));
  for (let i = 0; i < 300; i++) await engine.transition(job, "STEP", { checkpoint: false, metadata });
  await job.release();
  const { moreRecords } = await engine.client.recovery.resumeWorkflow({
    namespace: "",
    workflowId: "long",
    owner: "",
    leaseDuration: undefined,
    takeOverOwn: false,
    allowQuarantined: false,
  });
  assert.ok(moreRecords);

  const resumed = await engine.resume(jobs, "long");
  assert.deepEqual(resumed.object, { step: 1 });
  assert.deepEqual(
    resumed.recordsSince.map((record) => record.sequence),
    Array.from({ length: 300 }, (_, i) => BigInt(i + 2)),
  );
});

test("periodic-checkpoint", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { checkpointIntervalMs: 100, trust: { keys: await server.keys() } });
  const jobs = engine.register<Job>("job");
  const job = await engine.start(jobs, "long", { state: "COUNTING", object: { step: 0 } });
  const count = async () => (await historyOf(engine, "long")).filter((r) => r.kind === RecordKind.CHECKPOINT).length;

  job.object.step = 1;
  await until("the first checkpoint", async () => (await count()) === 1);
  // Nothing new is nothing to keep.
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(await count(), 1);
  job.object.step = 2;
  await until("the second checkpoint", async () => (await count()) === 2);
  assert.deepEqual((await engine.loadCheckpoint(jobs, "long")).object, { step: 2 });
  await engine.transition(job, "DONE", { status: WorkflowStatus.COMPLETED });
  const before = (await historyOf(engine, "long")).length;
  job.object.step = 3;
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal((await historyOf(engine, "long")).length, before);
});

test("waiting-for-a-human", async (t) => {
  const server = await Server.start(t);
  const trust = { keys: await server.keys() };
  const worker = engineOf(t, server.address, { actor: "worker", trust });
  const approver = engineOf(t, server.address, { actor: "Ms. Osei", trust });
  const permits = worker.register<{ approved?: boolean }>("permit");
  const same = approver.register<{ approved?: boolean }>("permit");
  const pendingIds = async () => {
    const found: string[] = [];
    await using pending = worker.resumeAllPending(permits);
    for await (const workflow of pending) found.push(workflow.id);
    return found;
  };

  const permit = await worker.start(permits, "permit-1", { state: "RECEIVED", object: {} });
  await worker.wait(permit, "REVIEW", { reason: "needs a decision" });
  assert.equal(permit.status, WorkflowStatus.WAITING);
  assert.equal(permit.lease, undefined);
  assert.deepEqual(await pendingIds(), []);

  const seen = await approver.resume(same, "permit-1", { lease: false });
  assert.equal(seen.state, "REVIEW");
  await approver.transition(seen, "APPROVED", { object: { approved: true }, reason: "all plans in order" });

  await using pending = worker.resumeAllPending(permits);
  const again = (await pending.next()).value;
  assert.ok(again instanceof Workflow);
  assert.deepEqual([again.state, again.object], ["APPROVED", { approved: true }]);
  await worker.transition(again, "ISSUED", { status: WorkflowStatus.COMPLETED });
  assert.deepEqual(
    (await historyOf(worker, "permit-1")).map((r) => [r.actor, r.toState, r.status]),
    [
      ["worker", "RECEIVED", WorkflowStatus.RUNNING],
      ["worker", "REVIEW", WorkflowStatus.WAITING],
      ["Ms. Osei", "APPROVED", WorkflowStatus.RUNNING],
      ["worker", "ISSUED", WorkflowStatus.COMPLETED],
    ],
  );
});

test("server-restart", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const jobs = engine.register<Job>("job");
  const acknowledged = new Map<string, bigint>();
  let isOver = false;
  const load = Array.from({ length: 8 }, async (_, i) => {
    const job = await engine.start(jobs, `job-${i}`, { state: "STEP", object: { step: 0 } });
    while (!isOver) {
      job.object.step++;
      const { record } = await engine.transition(job, "STEP");
      acknowledged.set(job.id, record.sequence);
    }
  });
  const ends = Promise.all(load);
  await until("there is load", () => acknowledged.size === load.length);

  for (let i = 0; i < 2; i++) {
    await server.kill();
    await server.launch();
    const before = new Map(acknowledged);
    await until("all go on", () => [...acknowledged].every(([id, sequence]) => sequence > (before.get(id) ?? 0n)));
  }
  isOver = true;
  await ends;

  for (const [id, sequence] of acknowledged) {
    const records = await historyOf(engine, id);
    assert.equal(BigInt(records.length), sequence);
    assert.equal((await engine.loadCheckpoint(jobs, id)).object.step, Number(sequence) - 1);
  }
});
