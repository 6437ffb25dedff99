import assert from "node:assert/strict";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import {
  type DurableWorkflowEngine,
  FileHeadStore,
  HeadRejected,
  type HeadStore,
  IntegrityError,
  type KeptHead,
  LogTrust,
  VerifierKey,
  verifyHead,
  type Workflow,
  WorkflowConflict,
  type WorkflowType,
} from "aegis-client";
import { command, connect, engineOf, FaultProxy, Server, temporaryDirectory, until } from "./testbed.js";

interface Case {
  n: number;
}

const rejectedFor = (reason: HeadRejected["reason"]) => (e: unknown) =>
  e instanceof HeadRejected && e.reason === reason;
const refusedFor = (what: string) => (e: unknown) => e instanceof IntegrityError && e.what === what;

/** A server behind a proxy, and an engine that trusts its key and has a workflow under way. */
async function underWay(t: TestContext): Promise<{
  server: Server;
  proxy: FaultProxy;
  engine: DurableWorkflowEngine;
  trust: LogTrust;
  cases: WorkflowType<Case>;
  workflow: Workflow<Case>;
}> {
  const server = await Server.start(t);
  const proxy = await FaultProxy.start(t, server.address);
  const trust = new LogTrust({ keys: await server.keys() });
  const engine = engineOf(t, proxy.address, { trust });
  const cases = engine.register<Case>("case");
  const workflow = await engine.start(cases, "case-1", {
    state: "OPEN",
    object: { n: 1 },
    actor: "Ada",
    reason: "begins",
  });
  return { server, proxy, engine, trust, cases, workflow };
}

/** A head file in which something happens between what is loaded and what is saved, once. */
class OvertakenStore implements HeadStore {
  readonly #file: FileHeadStore;
  meanwhile: () => Promise<unknown> = async () => undefined;

  constructor(path: string) {
    this.#file = new FileHeadStore(path);
  }

  load = () => this.#file.load();
  saveRejected = (note: string) => this.#file.saveRejected(note);

  async save(head: KeptHead, replaced: KeptHead | undefined): Promise<boolean> {
    const { meanwhile } = this;
    this.meanwhile = async () => undefined;
    await meanwhile();
    return this.#file.save(head, replaced);
  }
}

async function headOf(path: string, keys: readonly string[]): Promise<bigint | undefined> {
  const { signed_note, verifier_keys } = JSON.parse(await readFile(path, "utf8"));
  assert.deepEqual(verifier_keys, keys);
  return verifyHead(signed_note, keys.map(VerifierKey.parse))?.size;
}

test("trust-kept", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const path = join(await temporaryDirectory(t), "head.json");
  const engine = engineOf(t, server.address, { trust: { keys, headStore: new FileHeadStore(path) } });
  const cases = engine.register<Case>("case");
  const workflow = await engine.start(cases, "case-1", { state: "OPEN", object: { n: 1 } });
  const first = await headOf(path, keys);
  await engine.transition(workflow, "NEXT");
  const second = await headOf(path, keys);
  assert.ok(first !== undefined && second !== undefined && second > first);
  assert.deepEqual((await engine.loadCheckpoint(cases, "case-1")).object, { n: 1 });
  await workflow.release();

  // A new client goes on from the file; two that share it go on from one another, and so does one with many calls at once.
  const again = [1, 2].map(() => engineOf(t, server.address, { trust: { keys, headStore: new FileHeadStore(path) } }));
  const work = again.flatMap((each, i) => {
    const type = each.register<Case>("case");
    return Array.from({ length: 10 }, async (_, j) => {
      const one = await each.start(type, `case-${i}-${j}`, { state: "OPEN", object: { n: j } });
      await each.transition(one, "NEXT");
    });
  });
  await Promise.all(work);
  assert.equal(await headOf(path, keys), second + 40n);
  for (const each of again) assert.equal((await each.verifyIntegrity("case-1-1")).isIntact, true);

  // What is no head is never written over.
  await writeFile(path, "{}");
  const careful = engineOf(t, server.address, { trust: { keys, headStore: new FileHeadStore(path) } });
  await assert.rejects(careful.loadCheckpoint(careful.register("case"), "case-1"), /does not hold a head/);
  assert.equal(await readFile(path, "utf8"), "{}");
  // Nor is one of a key that is not trusted.
  const other = engineOf(t, server.address, { trust: { keys: await (await Server.start(t)).keys() } });
  await assert.rejects(other.start(other.register("case"), "never", { state: "OPEN" }), rejectedFor("LOG_ID_CHANGED"));
});

test("the head file is that of the command", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const path = join(await temporaryDirectory(t), "head.json");
  const watch = () => command(server.address, "head", "watch", "--once", "--state", path, "--key", keys[0] ?? "");

  await watch();
  const first = await headOf(path, keys);
  const engine = engineOf(t, server.address, { trust: { keys, headStore: new FileHeadStore(path) } });
  await engine.start(engine.register("case"), "case-1", { state: "OPEN", lease: false });
  const second = await headOf(path, keys);
  assert.ok(first !== undefined && second !== undefined && second > first);
  const other = engineOf(t, server.address);
  await other.start(other.register("case"), "case-2", { state: "OPEN", lease: false });
  await watch();
  assert.equal(await headOf(path, keys), second + 1n);
});

test("trust-kept, overtaken", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const directory = await temporaryDirectory(t);
  const path = join(directory, "head.json");
  const headStore = new OvertakenStore(path);
  const slow = engineOf(t, server.address, { trust: { keys, headStore } });
  const fast = engineOf(t, server.address, { trust: { keys, headStore: new FileHeadStore(path) } });
  const [cases, others] = [slow.register<Case>("case"), fast.register<Case>("case")];

  // The other one is faster: with the first head of all, with which a client begins, and with a later one.
  for (const [n, act] of [
    () => slow.loadCheckpoint(cases, "fast-0-0"),
    () => slow.start(cases, "slow", { state: "OPEN", lease: false }),
  ].entries()) {
    headStore.meanwhile = async () => {
      for (const m of [0, 1])
        await fast.start(others, `fast-${n}-${m}`, { state: "OPEN", object: { n: m }, lease: false });
    };
    await act();
    assert.equal(await headOf(path, keys), fast.trust?.keptHead?.size);
    assert.deepEqual(slow.trust?.keptHead, fast.trust?.keptHead);
  }

  // An older one is linked too, and does not stay.
  const older = await headStore.load();
  assert.ok(older);
  await slow.start(cases, "slow-3", { state: "OPEN", lease: false });
  headStore.meanwhile = async () => assert.ok(await headStore.save(older, await headStore.load()));
  await slow.start(cases, "slow-4", { state: "OPEN", lease: false });
  assert.equal(await headOf(path, keys), slow.trust?.keptHead?.size);
  assert.deepEqual(await readdir(directory), ["head.json"]);

  // One of another history is an alarm, whoever kept it.
  const stranger = await Server.start(t);
  const [strange = ""] = await stranger.keys();
  const elsewhere = engineOf(t, stranger.address, { trust: { keys: strange } });
  await elsewhere.start(elsewhere.register("case"), "case-1", { state: "OPEN" });
  const signedNote = elsewhere.trust?.keptNote ?? "";
  const both = engineOf(t, server.address, { trust: { keys: [...keys, strange], headStore } });
  headStore.meanwhile = async () =>
    assert.ok(await headStore.save({ signedNote, verifierKeys: [strange] }, await headStore.load()));
  await assert.rejects(both.start(both.register("case"), "both", { state: "OPEN" }), rejectedFor("LOG_ID_CHANGED"));
});

test("a head file has one writer at a time", async (t) => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, "head.json");
  const head = (signedNote: string): KeptHead => ({ signedNote, verifierKeys: ["key"] });
  const store = new FileHeadStore(path);

  assert.equal(await store.save(head("1"), head("0")), false);
  assert.equal(await store.load(), undefined);
  assert.equal(await store.save(head("1"), undefined), true);
  assert.equal(await store.save(head("2"), undefined), false);
  assert.equal(await store.save(head("2"), head("0")), false);
  assert.deepEqual(await store.load(), head("1"));
  assert.equal(await store.save(head("2"), head("1")), true);
  assert.equal(await readFile(path, "utf8"), '{\n  "signed_note": "2",\n  "verifier_keys": [\n    "key"\n  ]\n}\n');

  // Of many that count at once none counts for another.
  let saved = 2;
  const count = async () => {
    for (let i = 0; i < 20; i++) {
      const [kept, mine] = [await store.load(), new FileHeadStore(path)];
      if (await mine.save(head(`${Number(kept?.signedNote) + 1}`), kept)) saved++;
    }
  };
  await Promise.all(Array.from({ length: 8 }, count));
  assert.deepEqual(await store.load(), head(`${saved}`));
  assert.deepEqual(await readdir(directory), ["head.json"]);

  // A process that ended while it held the lock has left it.
  await mkdir(`${path}.lock`);
  await writeFile(join(`${path}.lock`, "crashed"), "half of a h");
  assert.equal(await store.save(head("last"), await store.load()), true);
  assert.deepEqual(await store.load(), head("last"));
  assert.deepEqual(await readdir(directory), ["head.json"]);
  await mkdir(`${path}.lock`);
  assert.equal(await store.save(head("after"), head("last")), true);
  assert.deepEqual(await readdir(directory), ["head.json"]);
});

test("history-taken-back", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const directory = await temporaryDirectory(t);
  const path = join(directory, "head.json");
  const headStore = new FileHeadStore(path);
  const engine = engineOf(t, server.address, { trust: { keys, headStore } });
  const cases = engine.register<Case>("case");
  const workflow = await engine.start(cases, "case-1", { state: "OPEN", object: { n: 1 }, lease: false });
  await server.kill();
  await cp(server.directory, join(directory, "backup"), { recursive: true });
  await server.launch();
  await engine.transition(workflow, "NEXT");
  const kept = await readFile(path, "utf8");
  const takeBack = async () => {
    await server.kill();
    await rm(server.directory, { recursive: true });
    await cp(join(directory, "backup"), server.directory, { recursive: true });
    for (const name of await readdir(server.directory))
      if (name.startsWith("memory-")) await rm(join(server.directory, name));
    await server.launch();
  };

  await takeBack();
  await assert.rejects(engine.transition(workflow, "LATER"), rejectedFor("LOG_ROLLED_BACK"));
  // It stays stopped, whatever is asked, and so does a new client.
  await assert.rejects(engine.loadCheckpoint(cases, "case-1"), rejectedFor("LOG_ROLLED_BACK"));
  const again = engineOf(t, server.address, { trust: { keys, headStore } });
  await assert.rejects(again.loadCheckpoint(again.register("case"), "case-1"), rejectedFor("LOG_ROLLED_BACK"));
  assert.equal(await readFile(path, "utf8"), kept);
  assert.ok(verifyHead(await readFile(`${path}.rejected`, "utf8"), keys.map(VerifierKey.parse)));

  // The log has grown past what was seen, with another history.
  const other = engineOf(t, server.address);
  const type = other.register<Case>("case");
  for (let i = 0; i < 5; i++) await other.start(type, `other-${i}`, { state: "OPEN", object: { n: i } });
  const late = engineOf(t, server.address, { trust: { keys, headStore } });
  await assert.rejects(late.start(late.register("case"), "late", { state: "OPEN" }), rejectedFor("LOG_FORKED"));
});

test("a write supposes the record it saw, and not one at its place", async (t) => {
  const server = await Server.start(t);
  // Without trust: with it the client would have noticed before.
  const engine = engineOf(t, server.address);
  const cases = engine.register<Case>("case");
  const begin = async (reason: string) => {
    const workflow = await engine.start(cases, "case-1", { state: "OPEN", object: { n: 1 }, lease: false });
    await engine.transition(workflow, "NEXT", { reason });
    return workflow;
  };
  const workflow = await begin("seen");
  await server.kill();
  for (const name of await readdir(server.directory)) await rm(join(server.directory, name), { recursive: true });
  await server.launch();
  await begin("written instead");

  const conflict = (e: unknown) => e instanceof WorkflowConflict && e.reason === "HASH_MISMATCH";
  await assert.rejects(engine.transition(workflow, "LATER"), conflict);
  await assert.rejects(engine.checkpoint(workflow), conflict);
  assert.equal((await engine.resume(cases, "case-1", { lease: false })).sequence, 2n);
});

test("new-log-id", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const directory = await temporaryDirectory(t);
  const headStore = new FileHeadStore(join(directory, "head.json"));
  const engine = engineOf(t, server.address, { trust: { keys, headStore } });
  const cases = engine.register<Case>("case");
  const workflow = await engine.start(cases, "case-1", { state: "OPEN", object: { n: 1 }, lease: false });
  await server.kill();
  await cp(server.directory, join(directory, "backup"), { recursive: true });
  await server.launch();
  await engine.transition(workflow, "NEXT");

  // A generation begins, since an operator accepted that records are lost: the server remembers them.
  const memory = (await readdir(server.directory)).find((name) => name.startsWith("memory-")) ?? "";
  const remembered = JSON.stringify(engine.trust?.keptNote).slice(0, -1).split("\\n")[1] ?? "none";
  await until("the server remembers", async () =>
    (await readFile(join(server.directory, memory), "utf8")).includes(`\\n${remembered}\\n`),
  );
  await server.kill();
  for (const name of await readdir(server.directory)) {
    if (!name.startsWith("memory-")) await rm(join(server.directory, name), { recursive: true });
  }
  await cp(join(directory, "backup"), server.directory, {
    recursive: true,
    filter: (source) => !source.includes("memory-"),
  });
  await server.launch();
  const operator = connect(t, server.address);
  const { logId } = await operator.integrity.acceptRollback({ actor: "operator", reason: "disk lost", dryRun: false });
  assert.match(logId, /\/2$/);
  await assert.rejects(engine.transition(workflow, "LATER"), rejectedFor("LOG_ID_CHANGED"));
  await assert.rejects(engine.transition(workflow, "LATER"), rejectedFor("LOG_ID_CHANGED"));

  const accepting = engineOf(t, server.address, { trust: { keys, headStore, acceptedLogIds: [logId] } });
  const same = accepting.register<Case>("case");
  const survivor = await accepting.resume(same, "case-1");
  assert.equal(survivor.state, "OPEN");
  await accepting.transition(survivor, "NEXT");
  assert.equal(accepting.trust?.keptHead?.logId, logId);
  assert.equal((await accepting.verifyIntegrity("case-1")).isIntact, true);
  // One that was stopped goes on without a restart, and looks at the log before it reads.
  engine.trust?.acceptLogId(logId);
  assert.deepEqual((await engine.loadCheckpoint(cases, "case-1")).object, { n: 1 });
  assert.equal(engine.trust?.keptHead?.logId, logId);
  const going = engineOf(t, server.address, { trust: { keys, headStore } });
  assert.deepEqual((await going.loadCheckpoint(going.register<Case>("case"), "case-1")).object, { n: 1 });

  // Another log behind the same address.
  await server.kill();
  await rm(server.directory, { recursive: true });
  await cp(join(directory, "backup"), server.directory, {
    recursive: true,
    filter: (source) => !/aegis\.db|memory-|\.pem/.test(source),
  });
  await server.launch();
  await assert.rejects(
    going.start(going.register("order"), "order-1", { state: "OPEN" }),
    rejectedFor("LOG_ID_CHANGED"),
  );
  const newKeys = await server.keys();
  const acceptedLogIds = newKeys.map((key) => VerifierKey.parse(key).name);
  const convinced = engineOf(t, server.address, { trust: { keys: [...keys, ...newKeys], headStore, acceptedLogIds } });
  await convinced.start(convinced.register("order"), "order-1", { state: "OPEN" });
  // The one before is no longer it.
  assert.deepEqual(convinced.trust?.keptHead?.logId, acceptedLogIds[0]);
});

test("tampered-record", async (t) => {
  const { proxy, engine, cases, workflow } = await underWay(t);
  const forged = async (method: string, field: string, what: string, call: () => Promise<unknown>) => {
    await proxy.flip(method, field);
    await assert.rejects(call, refusedFor(what), `${method} ${field}`);
    await proxy.forget();
  };
  const history = async () => {
    for await (const record of engine.records("case-1")) assert.ok(record);
  };
  const look = () => engine.resume(cases, "case-1", { lease: false });

  await forged("TransitionWorkflow", "record.reason", "content", () =>
    engine.transition(workflow, "NEXT", { reason: "next", requestId: "n" }),
  );
  await engine.transition(workflow, "NEXT", { reason: "next", requestId: "n" });
  for (const [field, what] of [
    ["reason", "content"],
    ["actor", "person"],
    ["snapshot_size", "snapshot"],
    ["to_state", "hash"],
    ["status", "hash"],
    ["previous_hash", "hash"],
    ["recorded_at.seconds", "hash"],
    ["hash", "hash"],
  ] as const) {
    await forged("ListRecords", `records.0.${field}`, what, history);
  }
  await forged("GetCheckpoint", "record.sequence", "hash", () => engine.loadCheckpoint(cases, "case-1"));
  await forged("ResumeWorkflow", "checkpoint.record.workflow_type", "hash", look);
  await forged("ResumeWorkflow", "workflow.state", "state", look);
  await forged("ResumeWorkflow", "workflow.head_hash", "head_hash", look);
  await forged("StartWorkflow", "receipt.record_hash", "record_hash", () =>
    engine.start(cases, "case-2", { state: "OPEN" }),
  );
  await history();
  await look();
});

test("tampered-proof", async (t) => {
  const { proxy, engine, trust, workflow } = await underWay(t);

  await proxy.flip("TransitionWorkflow", "receipt.inclusion_path.0");
  await assert.rejects(engine.transition(workflow, "NEXT", { requestId: "next" }), refusedFor("inclusion_path"));
  await proxy.forget();
  await engine.transition(workflow, "NEXT", { requestId: "next" });
  const kept = trust.keptNote;

  await proxy.flip("TransitionWorkflow", "receipt.consistency_path.0");
  await assert.rejects(engine.transition(workflow, "LATER"), rejectedFor("LOG_FORKED"));
  assert.equal(trust.keptNote, kept);
});

test("tampered-proof, asked for", async (t) => {
  const { server, proxy, engine, trust, cases, workflow } = await underWay(t);
  const other = engineOf(t, server.address);
  await other.start(other.register<Case>("case"), "case-2", { state: "OPEN" });

  // A head of another call comes between: what links the two is asked for.
  await proxy.hold("TransitionWorkflow");
  const moving = engine.transition(workflow, "NEXT");
  await engine.start(cases, "case-3", { state: "OPEN" });
  await other.start(other.register<Case>("another"), "case-4", { state: "OPEN" });
  await engine.start(cases, "case-5", { state: "OPEN" });
  await proxy.forget();
  await proxy.flip("GetConsistencyProof", "path.0");
  await assert.rejects(moving, rejectedFor("LOG_FORKED"));
  assert.ok(trust.stopped);
});

test("tampered-head", async (t) => {
  const { proxy, engine, trust, workflow } = await underWay(t);
  const kept = trust.keptNote ?? "";
  const [logId = "", size = ""] = kept.split("\n");
  // In the log_id, in the size, in the root, and in the signature.
  const places = [
    0,
    Buffer.byteLength(logId) + 1 + size.length - 1,
    Buffer.byteLength(logId) + size.length + 12,
    Buffer.byteLength(kept) - 12,
  ];
  for (const at of places) {
    await proxy.flip("TransitionWorkflow", "receipt.log_head", at);
    await assert.rejects(
      engine.transition(workflow, "NEXT", { requestId: "next" }),
      (e) => e instanceof IntegrityError,
      `${at}`,
    );
    assert.equal(trust.keptNote, kept);
    await proxy.forget();
  }
  await engine.transition(workflow, "NEXT", { requestId: "next" });
  assert.notEqual(trust.keptNote, kept);

  await proxy.flip("GetLogHead", "signed_note");
  const another = engineOf(t, proxy.address, { trust: { keys: trust.currentKeys.map(String) } });
  await assert.rejects(another.start(another.register("case"), "case-2", { state: "OPEN" }), IntegrityError);
});

test("tampered-snapshot", async (t) => {
  const { proxy, engine, cases, workflow } = await underWay(t);
  await workflow.release();

  await proxy.flip("GetCheckpoint", "snapshot.content");
  await assert.rejects(engine.loadCheckpoint(cases, "case-1"), refusedFor("snapshot"));
  await proxy.forget();
  await proxy.flip("ResumeWorkflow", "checkpoint.snapshot.content");
  await assert.rejects(engine.resume(cases, "case-1"), refusedFor("snapshot"));
  await proxy.forget();
  await proxy.flip("ResumePendingWorkflows", "resumed.checkpoint.snapshot.content");
  const pending = engine.resumeAllPending(cases);
  assert.equal((await pending.next()).done, true);
  assert.deepEqual(
    pending.failures.map(({ workflowId, reason }) => [workflowId, reason]),
    [["case-1", "INTEGRITY"]],
  );
  await proxy.forget();
  // None of them has kept the lease.
  assert.deepEqual((await engine.resume(cases, "case-1")).object, { n: 1 });
});

test("verify-integrity", async (t) => {
  const { proxy, engine, workflow } = await underWay(t);
  for (let n = 2; n < 6; n++) await engine.transition(workflow, "NEXT", { object: { n }, reason: "on" });

  const report = await engine.verifyIntegrity("case-1");
  assert.deepEqual([report.isIntact, report.recordsVerified, report.snapshotsVerified], [true, 5n, 5n]);
  assert.deepEqual(report.findings, []);
  assert.deepEqual(report.headHash, workflow.headHash);
  assert.notEqual(report.statement, "");

  for (const at of [3, 40, 700, 1500, undefined]) {
    await proxy.flip("ExportWorkflows", "chunk", at);
    const forged = await engine.verifyIntegrity("case-1").catch((e) => {
      assert.ok(e instanceof IntegrityError);
      return { isIntact: false, findings: [e] };
    });
    assert.equal(forged.isIntact, false, `byte ${at}`);
    assert.notEqual(forged.findings.length, 0);
    await proxy.forget();
  }
  assert.equal((await engine.verifyIntegrity("case-1")).isIntact, true);
  const blind = engineOf(t, proxy.address);
  await assert.rejects(blind.verifyIntegrity("case-1"), /verifier key/);
});
