import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { compressionAlgorithms, credentials, InterceptingCall, type Interceptor, Metadata } from "@grpc/grpc-js";
import {
  AegisError,
  bytes,
  CheckpointNotFound,
  type Codec,
  DeadlineExceeded,
  DurableWorkflowEngine,
  InvalidField,
  json,
  LeaseHeld,
  LeaseLost,
  LeaseRequired,
  RequestIdReused,
  SnapshotTooLarge,
  toMicroseconds,
  WorkflowAlreadyExists,
  WorkflowClosed,
  WorkflowConflict,
  WorkflowNotFound,
  WorkflowStatus,
} from "aegis-client";
import {
  connect,
  countingOf,
  engineOf,
  FaultProxy,
  freePort,
  historyOf,
  Server,
  temporaryDirectory,
} from "./testbed.js";

interface Order {
  item: string;
  paid?: boolean;
}

test("first-use", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const orders = engine.register<Order>("order");

  const order = await engine.start(orders, "order-1", { state: "RECEIVED", object: { item: "lamp" } });
  order.object.paid = true;
  await engine.transition(order, "PAID", { actor: "till", reason: "card", metadata: { amount: "12" } });
  order.object.item = "two lamps";
  await engine.checkpoint(order);
  await order.release();

  const again = await engine.resume(orders, "order-1");
  assert.equal(again.state, "PAID");
  assert.equal(again.status, WorkflowStatus.RUNNING);
  assert.equal(again.sequence, 3n);
  assert.deepEqual(again.object, { item: "two lamps", paid: true });
  assert.deepEqual(again.headHash, order.headHash);
  const [started, paid] = await historyOf(engine, "order-1");
  assert.equal(started?.toState, "RECEIVED");
  assert.deepEqual([paid?.actor, paid?.reason, paid?.metadata.get("amount")], ["till", "card", "12"]);
});

test("codec", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const key = randomBytes(32);
  const plain = json<Order>();
  const encrypted: Codec<Order> = {
    contentType: "application/vnd.example.encrypted",
    async encode(object) {
      const iv = randomBytes(12);
      const cipher = createCipheriv("aes-256-gcm", key, iv);
      const body = Buffer.concat([cipher.update(await plain.encode(object)), cipher.final()]);
      return Buffer.concat([iv, cipher.getAuthTag(), body]);
    },
    decode(content) {
      const decipher = createDecipheriv("aes-256-gcm", key, content.subarray(0, 12));
      decipher.setAuthTag(content.subarray(12, 28));
      return plain.decode(Buffer.concat([decipher.update(content.subarray(28)), decipher.final()]), "application/json");
    },
  };
  const orders = engine.register("order", encrypted);

  const order = await engine.start(orders, "secret", { state: "RECEIVED", object: { item: "unmistakable" } });
  await order.release();

  const { snapshot } = await engine.client.workflows.getCheckpoint({
    namespace: "",
    workflowId: "secret",
    at: undefined,
    minLogSize: 0n,
    allowQuarantined: false,
  });
  assert.equal(snapshot?.contentType, encrypted.contentType);
  assert.deepEqual(await encrypted.decode(snapshot?.content ?? new Uint8Array(), ""), { item: "unmistakable" });
  await server.kill();
  const stored = readdirSync(server.directory).filter((name) => name.startsWith("aegis.db"));
  assert.ok(stored.length > 0);
  for (const name of stored) assert.ok(!readFileSync(join(server.directory, name)).includes("unmistakable"), name);
  await server.launch();
  assert.deepEqual((await engine.resume(orders, "secret")).object, { item: "unmistakable" });
});

test("conflict", async (t) => {
  const server = await Server.start(t);
  const counting = countingOf("TransitionWorkflow");
  const client = connect(t, { addresses: server.address, interceptors: [counting.interceptor] });
  const engine = new DurableWorkflowEngine(client, { trust: { keys: await server.keys() } });
  const orders = engine.register<Order>("order");
  await engine.start(orders, "order-1", { state: "RECEIVED", object: { item: "lamp" }, lease: false });
  const one = await engine.resume(orders, "order-1", { lease: false });
  const two = await engine.resume(orders, "order-1", { lease: false });

  const results = await Promise.allSettled([engine.transition(one, "PAID"), engine.transition(two, "CANCELLED")]);

  const lost = results.find((result) => result.status === "rejected");
  const won = results.find((result) => result.status === "fulfilled");
  assert.ok(won && lost);
  const error = lost.reason;
  assert.ok(error instanceof WorkflowConflict);
  assert.equal(error.currentState, won.value.record.toState);
  assert.equal(error.currentSequence, 2n);
  assert.equal(error.currentHash, Buffer.from(won.value.record.hash).toString("hex"));
  assert.equal(counting.sent, 2);
});

test("dropped-reply", async (t) => {
  const server = await Server.start(t);
  const proxy = await FaultProxy.start(t, server.address);
  const engine = engineOf(t, proxy.address, { trust: { keys: await server.keys() } });
  const orders = engine.register<Order>("order");

  await proxy.cutReply("StartWorkflow");
  const order = await engine.start(orders, "order-1", { state: "RECEIVED", object: { item: "lamp" } });
  assert.equal(order.lastWrite?.replayed, true);
  assert.notEqual(order.lease, undefined);
  await proxy.cutReply("TransitionWorkflow");
  const moved = await engine.transition(order, "PAID");
  assert.equal(moved.replayed, true);
  await proxy.cutReply("CheckpointWorkflow");
  const kept = await engine.checkpoint(order);
  assert.equal(kept.replayed, true);
  await order.release();
  await proxy.cutReply("ResumeWorkflow");
  const resumed = await engine.resume(orders, "order-1");

  assert.equal(resumed.sequence, 3n);
  assert.equal((await historyOf(engine, "order-1")).length, 3);
  await engine.transition(resumed, "SHIPPED");
});

test("overloaded", async (t) => {
  const writes = 32;
  const server = await Server.start(t, undefined, { AEGIS_QUEUE_COMMANDS_MAX: "1" });
  const counting = countingOf("StartWorkflow");
  const client = connect(t, { addresses: server.address, interceptors: [counting.interceptor] });
  const engine = new DurableWorkflowEngine(client, { trust: { keys: await server.keys() } });
  const orders = engine.register<Order>("order");

  const started = await Promise.all(
    Array.from({ length: writes }, (_, i) =>
      engine.start(orders, `order-${i}`, { state: "RECEIVED", object: { item: "lamp" }, lease: false }),
    ),
  );

  assert.ok(counting.sent > writes, "none was turned away");
  for (const order of started) {
    assert.equal(order.sequence, 1n);
    assert.equal((await historyOf(engine, order.id)).length, 1);
  }
});

test("typed-errors", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const other = engineOf(t, server.address);
  const orders = engine.register<Order>("order");
  const same = other.register<Order>("order");
  const object = { item: "lamp" };
  const order = await engine.start(orders, "order-1", { state: "RECEIVED", object, requestId: "first" });

  await assert.rejects(
    engine.resume(orders, "none"),
    (e) => e instanceof WorkflowNotFound && e.reason === "WORKFLOW_NOT_FOUND",
  );
  await assert.rejects(engine.start(orders, "order-1", { state: "RECEIVED", object }), WorkflowAlreadyExists);
  await assert.rejects(
    engine.start(orders, "order-1", { state: "ANOTHER", object, requestId: "first" }),
    (e) => e instanceof RequestIdReused && e.field !== "",
  );
  await assert.rejects(
    other.resume(same, "order-1"),
    (e) => e instanceof LeaseHeld && e.owner === engine.owner && !Number.isNaN(Date.parse(e.expiresAt)),
  );
  const looking = await other.resume(same, "order-1", { lease: false });
  await assert.rejects(other.transition(looking, "PAID"), LeaseRequired);
  await assert.rejects(
    engine.transition(order, "PAID", { actor: "x".repeat(256) }),
    (e) => e instanceof InvalidField && e.fieldViolations.some((v) => v.field === "actor" && v.description !== ""),
  );
  await assert.rejects(engine.transition(order, "\ud800"), TypeError);
  await assert.rejects(engine.transition(order, "PAID", { reason: "\ud800" }), TypeError);

  const lease = order.lease;
  assert.ok(lease);
  await engine.client.recovery.releaseLeases({
    namespace: "",
    owner: engine.owner,
    leases: [{ workflowId: "order-1", epoch: lease.epoch }],
  });
  await assert.rejects(engine.transition(order, "PAID"), LeaseLost);
  assert.ok(order.signal.aborted && order.signal.reason instanceof LeaseLost);

  const last = await engine.resume(orders, "order-1");
  await engine.transition(last, "DONE", { status: WorkflowStatus.COMPLETED });
  assert.equal(last.lease, undefined);
  await assert.rejects(engine.transition(last, "AGAIN"), WorkflowClosed);
  await engine.start(orders, "empty", { state: "RECEIVED" });
  await assert.rejects(engine.loadCheckpoint(orders, "empty"), CheckpointNotFound);
});

test("a start that is repeated gives the workflow as it stands, and takes no lease for it", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const other = engineOf(t, server.address);
  const orders = engine.register<Order>("order");
  const same = other.register<Order>("order");
  const object: Order = { item: "lamp" };
  const options = { state: "RECEIVED", object, requestId: "first" };

  const order = await engine.start(orders, "order-1", options);
  const epoch = order.lease?.epoch;
  assert.ok(epoch);
  const early = await other.start(same, "order-1", options);
  assert.deepEqual([early.state, early.lease], ["RECEIVED", undefined]);
  await engine.transition(order, "PAID", { object: { item: "lamp", paid: true } });
  const moved = await other.start(same, "order-1", options);
  assert.deepEqual([moved.state, moved.object.paid, moved.lease], ["PAID", true, undefined]);
  // Who holds it goes on with it, and has the lease that it was granted when it asks again.
  await engine.transition(order, "PACKED");
  const again = await engine.start(orders, "order-1", options);
  assert.deepEqual([again.state, again.lease?.epoch], ["PACKED", epoch]);
  await again.release();
  const free = await other.start(same, "order-1", options);
  assert.deepEqual([free.state, free.lease], ["PACKED", undefined]);
  await engine.transition(again, "DONE", { status: WorkflowStatus.COMPLETED });
  const closed = await other.start(same, "order-1", options);
  assert.deepEqual([closed.status, closed.lease], [WorkflowStatus.COMPLETED, undefined]);
});

test("snapshot-sizes", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const blobs = engine.register("blob", bytes());
  const { limits } = await engine.client.system.getServerInfo({});
  const max = limits?.snapshotBytesMax ?? 0;
  assert.ok(max > 0);
  const largest = new Uint8Array(randomBytes(max));

  const blob = await engine.start(blobs, "blob", { state: "OPEN", object: new Uint8Array() });
  assert.deepEqual(new Uint8Array((await engine.loadCheckpoint(blobs, "blob")).object), new Uint8Array());
  await engine.checkpoint(blob, { object: largest });
  const loaded = await engine.loadCheckpoint(blobs, "blob");
  assert.equal(Buffer.compare(loaded.object, largest), 0);
  await assert.rejects(
    engine.checkpoint(blob, { object: new Uint8Array(max + 1) }),
    (e) => e instanceof SnapshotTooLarge && e.snapshotBytesMax === BigInt(max),
  );
  assert.equal((await historyOf(engine, "blob")).length, 2);
  assert.equal(Buffer.compare((await engine.resume(blobs, "blob", { lease: false })).object, largest), 0);
});

test("non-ascii", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { namespace: "Übung", trust: { keys: await server.keys() } });
  const type = engine.register<{ text: string }>("процесс");
  // The order of strings here is another than that of their UTF-8 beyond U+FFFF; a mark at the beginning is text.
  const metadata = new Map([
    ["\uffee", "halfwidth"],
    ["😀", "beyond the basic plane"],
    ["__proto__", "no object's"],
    ["1", "digit"],
    ["", "empty"],
  ]);
  const text = "\ufeffआवेदन 申請 🛡️ \u202eعرض e\u0301";

  const workflow = await engine.start(type, "申請-😀", { state: "受付", object: { text }, actor: "Zoë", reason: text });
  await engine.transition(workflow, "\ufeffgeprüft ✓", { actor: "田中", reason: text, metadata });

  const [first, second] = await historyOf(engine, "申請-😀");
  assert.deepEqual([first?.toState, first?.actor, first?.reason], ["受付", "Zoë", text]);
  assert.deepEqual([second?.toState, second?.actor, second?.reason], ["\ufeffgeprüft ✓", "田中", text]);
  assert.deepEqual(second?.metadata, metadata);
  assert.deepEqual((await engine.loadCheckpoint(type, "申請-😀")).object, { text });
  assert.equal((await engine.verifyIntegrity("申請-😀")).isIntact, true);
});

test("empty-messages-gzip", async (t) => {
  const server = await Server.start(t);
  const client = connect(t, {
    addresses: server.address,
    channelOptions: { "grpc.default_compression_algorithm": compressionAlgorithms.gzip },
  });
  const engine = new DurableWorkflowEngine(client, { trust: { keys: await server.keys() } });
  const orders = engine.register<Order>("order");

  assert.notEqual((await client.system.getServerInfo({})).version, "");
  await client.integrity.getLogHead({});
  const order = await engine.start(orders, "order-1", { state: "RECEIVED", object: { item: "l".repeat(10_000) } });
  // The answer is an empty message.
  await order.release();
  const again = await engine.resume(orders, "order-1");
  assert.equal(again.object.item.length, 10_000);
});

test("deadline", async (t) => {
  const server = await Server.start(t);
  const proxy = await FaultProxy.start(t, server.address);
  const engine = engineOf(t, proxy.address, { trust: { keys: await server.keys() } });
  const orders = engine.register<Order>("order");
  const order = await engine.start(orders, "order-1", { state: "RECEIVED", object: { item: "lamp" } });

  await proxy.hold("TransitionWorkflow");
  const since = Date.now();
  const requestId = "pay-once";
  await assert.rejects(engine.transition(order, "PAID", { timeoutMs: 600, requestId }), DeadlineExceeded);
  const took = Date.now() - since;
  assert.ok(took >= 550 && took < 2_500, `${took} ms`);

  // What became of it the same request tells.
  await proxy.forget();
  assert.equal((await engine.transition(order, "PAID", { requestId })).replayed, true);
  assert.equal((await historyOf(engine, "order-1")).length, 2);

  // Where the layer made the id, the error tells it.
  for (const [method, write, records] of [
    ["TransitionWorkflow", (options: object) => engine.transition(order, "PACKED", options), 3],
    ["CheckpointWorkflow", (options: object) => engine.checkpoint(order, options), 4],
  ] as const) {
    await proxy.hold(method);
    const error = await write({ timeoutMs: 600 }).catch((e) => e);
    assert.ok(error instanceof DeadlineExceeded && error.requestId !== "");
    await proxy.forget();
    assert.equal((await write({ requestId: error.requestId })).replayed, true);
    assert.equal((await historyOf(engine, "order-1")).length, records);
  }
  await proxy.hold("StartWorkflow");
  const start = (options: object) =>
    engine.start(orders, "order-2", { state: "RECEIVED", object: { item: "lamp" }, ...options });
  const error = await start({ timeoutMs: 600 }).catch((e) => e);
  assert.ok(error instanceof DeadlineExceeded && error.requestId !== "");
  await proxy.forget();
  assert.equal((await start({ requestId: error.requestId })).lastWrite?.replayed, true);

  // Nobody is there: the time is up all the same, and what failed is told.
  const lonely = connect(t, `127.0.0.1:${await freePort()}`);
  const before = Date.now();
  await assert.rejects(
    lonely.system.getServerInfo({}, { timeoutMs: 500 }),
    (e) => e instanceof DeadlineExceeded && e.cause instanceof AegisError,
  );
  assert.ok(Date.now() - before < 2_500);
});

test("cancellation", async (t) => {
  const server = await Server.start(t);
  const proxy = await FaultProxy.start(t, server.address);
  const engine = engineOf(t, proxy.address, { trust: { keys: await server.keys() } });
  const orders = engine.register<Order>("order");
  const order = await engine.start(orders, "order-1", { state: "RECEIVED", object: { item: "lamp" } });

  await proxy.hold("TransitionWorkflow");
  await proxy.hold("GetCheckpoint");
  const giveUp = new AbortController();
  const since = Date.now();
  const calls = [
    engine.transition(order, "PAID", { signal: giveUp.signal, requestId: "pay" }),
    engine.loadCheckpoint(orders, "order-1", undefined, { signal: giveUp.signal }),
  ];
  setTimeout(() => giveUp.abort(new Error("changed my mind")), 200);
  for (const call of calls) await assert.rejects(call, /changed my mind/);
  assert.ok(Date.now() - since < 2_000);
  await assert.rejects(
    engine.transition(order, "PAID", { signal: AbortSignal.abort(new Error("never begun")) }),
    /never begun/,
  );

  await proxy.forget();
  await engine.transition(order, "PAID", { requestId: "pay" });
  assert.deepEqual((await engine.loadCheckpoint(orders, "order-1")).record.toState, "PAID");
});

test("time-travel", async (t) => {
  const server = await Server.start(t);
  const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });
  const orders = engine.register<{ n: number }>("order");
  const order = await engine.start(orders, "order-1", { state: "S1", object: { n: 1 } });
  for (const n of [2, 3, 4]) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    await engine.transition(order, `S${n}`, { object: { n }, checkpoint: n !== 3 });
  }
  const [, second, third] = await historyOf(engine, "order-1");
  assert.ok(second?.recordedAt && third?.recordedAt);

  assert.deepEqual((await engine.loadCheckpoint(orders, "order-1")).object, { n: 4 });
  assert.deepEqual((await engine.loadCheckpoint(orders, "order-1", { sequence: 1n })).object, { n: 1 });
  const atThird = await engine.loadCheckpoint(orders, "order-1", { sequence: 3n });
  assert.deepEqual([atThird.object, atThird.record.sequence, atThird.record.toState], [{ n: 2 }, 2n, "S2"]);
  const asOf = toMicroseconds(second.recordedAt);
  assert.deepEqual((await engine.loadCheckpoint(orders, "order-1", { asOf })).object, { n: 2 });
  assert.deepEqual((await engine.loadCheckpoint(orders, "order-1", { asOf: asOf - 1n })).object, { n: 1 });
  assert.deepEqual((await engine.loadCheckpoint(orders, "order-1", { asOf: new Date() })).object, { n: 4 });
  await assert.rejects(engine.loadCheckpoint(orders, "order-1", { asOf: new Date(0) }), AegisError);

  // A fork goes on from then, and leaves the old one as it is.
  const fork = await engine.start(orders, "order-1b", {
    forkedFrom: { workflowId: "order-1", sequence: 2n, hash: second.hash },
  });
  assert.deepEqual([fork.object, fork.state, fork.forkedFrom?.sequence], [{ n: 2 }, "S2", 2n]);
  await engine.transition(fork, "ELSEWHERE");
  assert.equal((await engine.verifyIntegrity("order-1b")).isIntact, true);
});

test("several-addresses", async (t) => {
  const server = await Server.start(t);
  const dead = `localhost:${await freePort()}`;
  for (const addresses of [
    [dead, server.address],
    [server.address, dead],
  ]) {
    const client = connect(t, { addresses });
    for (let i = 0; i < 10; i++) await client.system.getServerInfo({}, { timeoutMs: 5_000 });
  }

  // One that comes up later takes its share, and one that goes leaves the other.
  const second = await Server.start(t);
  const client = connect(t, { addresses: [server.address, second.address], callMetadata: new Metadata() });
  const logs = new Set<string>();
  for (let i = 0; i < 200 && logs.size < 2; i++) logs.add((await client.system.getServerInfo({})).logId);
  assert.equal(logs.size, 2);
  await second.kill();
  const [left] = [(await connect(t, server.address).system.getServerInfo({})).logId];
  for (let i = 0; i < 10; i++) assert.equal((await client.system.getServerInfo({})).logId, left);
});

test("TLS, call credentials and interceptors pass through", async (t) => {
  const directory = await temporaryDirectory(t);
  const [certificate, key] = [join(directory, "certificate.pem"), join(directory, "key.pem")];
  const names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
  const args = `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=aegis -addext ${names}`;
  const made = spawnSync("openssl", [...args.split(" "), "-keyout", key, "-out", certificate]);
  if (made.error) return t.skip("there is no openssl to make a certificate with");
  assert.equal(made.status, 0, `${made.stderr}`);
  const server = await Server.start(t, { certificate, key });
  const seen: string[] = [];
  const interceptor: Interceptor = (options, next) => {
    seen.push(options.method_definition.path);
    return new InterceptingCall(next(options));
  };
  const tokens: string[] = [];
  const callCredentials = credentials.createFromMetadataGenerator(({ service_url }, give) => {
    tokens.push(service_url);
    const metadata = new Metadata();
    metadata.set("authorization", "Bearer of-this-call");
    give(null, metadata);
  });
  const trusting = credentials.createSsl(await readFile(certificate));

  const addresses = [`localhost:${server.port}`, server.address];
  const client = connect(t, { addresses, credentials: trusting, interceptors: [interceptor] });
  await client.system.getServerInfo({}, { callCredentials });
  assert.deepEqual(seen, ["/aegis.v1.SystemService/GetServerInfo"]);
  assert.equal(tokens.length, 1);
  const engine = new DurableWorkflowEngine(client);
  const order = await engine.start(engine.register<Order>("order"), "order-1", { state: "RECEIVED" });
  await order.release();

  const doubting = connect(t, { addresses: server.address, credentials: credentials.createSsl() });
  await assert.rejects(doubting.system.getServerInfo({}, { timeoutMs: 500 }), DeadlineExceeded);
  assert.throws(() => connect(t, `https://${server.address}`), /host:port/);
});
