import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import {
  bytes,
  type DurableWorkflowEngine,
  type ExportReport,
  encodePerson,
  hashRecord,
  ImportOutcome,
  IntegrityError,
  verifyExport,
  WorkflowStatus,
} from "aegis-client";
import { ExportChunk, type ExportRecord } from "aegis-client/stubs";
import { engineOf, FaultProxy, Server, temporaryDirectory } from "./testbed.js";

const hex = (hash: Uint8Array) => Buffer.from(hash).toString("hex");

async function hashesOf(engine: DurableWorkflowEngine, workflowId: string): Promise<string[]> {
  const hashes: string[] = [];
  for await (const record of engine.records(workflowId)) hashes.push(hex(record.hash));
  return hashes;
}

test("export-import", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const path = join(await temporaryDirectory(t), "all.aegis");
  const engine = engineOf(t, server.address, { trust: { keys } });
  const blobs = engine.register("blob", bytes());
  for (const id of ["one", "two"]) {
    const blob = await engine.start(blobs, id, { state: "OPEN", object: new Uint8Array(1_200_000).fill(7) });
    await engine.transition(blob, "DONE", {
      status: WorkflowStatus.COMPLETED,
      reason: "finished",
      object: new Uint8Array(),
    });
  }
  const waiting = await engine.start(blobs, "three", { state: "OPEN", object: new Uint8Array([1]) });
  await engine.wait(waiting, "WAITS");

  const report = await engine.export(path);
  assert.deepEqual([report?.isIntact, report?.recordsVerified, report?.workflows.length], [true, 6n, 3]);
  const offline = await verifyExport(path, keys);
  assert.deepEqual(offline, report);

  const second = await Server.start(t);
  const into = engineOf(t, second.address, { trust: { keys: await second.keys() } });
  const outcomes = await into.import(path, { trustedKeys: keys });
  assert.deepEqual(
    outcomes.map(({ workflowId, outcome }) => [workflowId, outcome]),
    ["one", "two", "three"].map((id) => [id, ImportOutcome.IMPORTED]),
  );
  for (const id of ["one", "two", "three"]) {
    assert.deepEqual(await hashesOf(into, id), await hashesOf(engine, id));
    assert.equal((await into.verifyIntegrity(id)).isIntact, true);
  }
  const again = await into.import(() => [readFileSync(path)], { trustedKeys: keys });
  assert.ok(again.every(({ outcome }) => outcome === ImportOutcome.UNCHANGED));
  // It goes on where it was.
  const same = into.register("blob", bytes());
  const goingOn = await into.resume(same, "three");
  await into.transition(goingOn, "DONE", { status: WorkflowStatus.COMPLETED });

  // Without the key nothing is proven, and what comes forged is no file.
  const others = await verifyExport(path, await second.keys());
  assert.deepEqual([others.isIntact, others.logHead], [false, undefined]);
  await assert.rejects(verifyExport(path, []), TypeError);
  const proxy = await FaultProxy.start(t, server.address);
  await proxy.flip("ExportWorkflows", "chunk");
  const misled = engineOf(t, proxy.address, { trust: { keys } });
  const forged = `${path}.forged`;
  await assert.rejects(misled.export(forged), IntegrityError);
  assert.equal(existsSync(forged), false);
  assert.deepEqual(readdirSync(join(forged, "..")), ["all.aegis"]);
});

test("what is no export is told and not thrown", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const path = join(await temporaryDirectory(t), "one.aegis");
  const engine = engineOf(t, server.address, { trust: { keys } });
  const type = engine.register<{ n: number }>("case");
  const workflow = await engine.start(type, "one", { state: "OPEN", object: { n: 1 }, reason: "begins" });
  await engine.transition(workflow, "DONE", { status: WorkflowStatus.COMPLETED, object: { n: 2 } });
  await engine.export(path, { workflowId: "one" });
  const whole = await readFile(path);
  const findings = async (content: Uint8Array): Promise<ExportReport["findings"]> => {
    const report = await verifyExport([content], keys);
    assert.equal(report.isIntact, report.findings.length === 0);
    return report.findings;
  };

  assert.deepEqual(await findings(whole), []);
  const inPieces = Array.from(whole, (byte) => Uint8Array.of(byte));
  assert.equal((await verifyExport(inPieces, keys)).isIntact, true);
  for (let length = 0; length < whole.length; length++)
    assert.notEqual((await findings(whole.subarray(0, length))).length, 0, `${length}`);
  assert.notEqual((await findings(Buffer.concat([whole, whole]))).length, 0);
  assert.notEqual((await findings(new Uint8Array(64).fill(0xff))).length, 0);
  for (let at = 0; at < whole.length; at++) {
    for (const bit of [0x01, 0x80]) {
      const changed = Buffer.from(whole);
      changed[at] = (changed[at] as number) ^ bit;
      assert.notEqual((await findings(changed)).length, 0, `byte ${at}`);
    }
  }
});

test("an export that was forged and closed again names what does not fit", async (t) => {
  const server = await Server.start(t);
  const keys = await server.keys();
  const path = join(await temporaryDirectory(t), "one.aegis");
  const engine = engineOf(t, server.address, { trust: { keys } });
  const type = engine.register<{ n: number }>("case");
  for (const id of ["one", "two"]) {
    const workflow = await engine.start(type, id, { state: "OPEN", object: { n: 1 }, actor: "Ada", reason: "begins" });
    await engine.transition(workflow, "NEXT", { object: { n: 2 } });
    await engine.transition(workflow, "DONE", { status: WorkflowStatus.COMPLETED, object: { n: 3 } });
  }
  await engine.export(path);
  const whole = await readFile(path);
  type Part = NonNullable<ExportChunk["part"]>;
  const partsOf = (): Part[] => {
    const reader = new BinaryReader(Buffer.from(whole));
    const parts: Part[] = [];
    while (reader.pos < reader.len) parts.push(ExportChunk.decode(reader.bytes()).part as Part);
    return parts;
  };
  // The trailer counts and hashes whatever is there: a forger has no less.
  const close = (parts: readonly Part[]): Uint8Array => {
    const of = (name: Part["$case"]) => BigInt(parts.filter((part) => part.$case === name).length);
    const framed = (part: Part) => new BinaryWriter().bytes(ExportChunk.encode({ part }).finish()).finish();
    const body = Buffer.concat(parts.filter((part) => part.$case !== "trailer").map(framed));
    const sha256 = createHash("sha256").update(body).digest();
    const value = { workflows: of("workflow"), records: of("record"), snapshots: of("snapshot"), sha256 };
    return Buffer.concat([body, framed({ $case: "trailer", value })]);
  };
  const records = (parts: readonly Part[]) =>
    parts.flatMap((part) =>
      part.$case === "record" && part.value.record ? [part.value as Required<ExportRecord>] : [],
    );
  const forge = async (change: (parts: Part[]) => Part[] | undefined) => {
    const parts = partsOf();
    const report = await verifyExport([close(change(parts) ?? parts)], keys);
    assert.equal(report.isIntact, report.findings.length === 0);
    return [...new Set(report.findings.map((finding) => finding.what))].sort();
  };
  const record = (parts: readonly Part[], at: number) => {
    const found = records(parts)[at]?.record;
    assert.ok(found);
    return found;
  };

  assert.deepEqual(await forge(() => undefined), []);
  assert.deepEqual(
    await forge((parts) => {
      record(parts, 0).reason = "never said";
      return undefined;
    }),
    ["content"],
  );
  // With digest and hash made anew: the path and the next record contradict it.
  assert.deepEqual(
    await forge((parts) => {
      const first = record(parts, 0);
      first.actor = "Eve";
      first.personDigest = createHash("sha256")
        .update(encodePerson(first.personSalt, "Eve", ""))
        .digest();
      first.hash = hashRecord(first);
      return undefined;
    }),
    ["inclusion_path", "previous_hash"],
  );
  // The newest record left out, and the header with it: the log's own statement contradicts it.
  assert.deepEqual(
    await forge((parts) => {
      const [one] = parts.filter((part) => part.$case === "workflow");
      assert.ok(one);
      one.value.records = 2n;
      one.value.headHash = record(parts, 1).hash;
      const last = records(parts)[2];
      return parts.filter((part) => part.value !== last);
    }),
    ["statement"],
  );
  assert.deepEqual(
    await forge((parts) => {
      for (const part of parts.slice(0, 4)) {
        if (part.$case === "snapshot") part.value.data[0] = 0x20;
      }
      return undefined;
    }),
    ["snapshot"],
  );
  assert.deepEqual(
    await forge((parts) => {
      const last = records(parts)[5];
      assert.ok(last?.inclusionPath[0]);
      last.inclusionPath[0] = new Uint8Array(32);
      return undefined;
    }),
    ["inclusion_path"],
  );
  assert.deepEqual(
    await forge((parts) => {
      const [manifest] = parts;
      assert.ok(manifest?.$case === "manifest");
      const [name = "", size = "", ...rest] = manifest.value.logHead.split("\n");
      manifest.value.logHead = [name, `${Number(size) - 1}`, ...rest].join("\n");
      manifest.value.logSize -= 1n;
      return undefined;
    }),
    ["inclusion_path", "log_head", "statement"],
  );
});

test("exports-of-all", async (t) => {
  const folder = fileURLToPath(new URL("../../../exports/", import.meta.url));
  const files = readdirSync(folder).filter((name) => name.endsWith(".aegis"));
  assert.ok(files.includes("typescript.aegis"), "our own is there: ./check --write-export makes it");
  for (const name of files) {
    await t.test(basename(name, ".aegis"), async (t) => {
      const path = join(folder, name);
      const keys = [(await readFile(path.replace(/\.aegis$/, ".key"), "utf8")).trim()];
      const whole = await readFile(path);
      const report = await verifyExport(path, keys);
      assert.deepEqual(report.findings, []);
      assert.ok(report.isIntact && report.workflows.length > 0);
      const server = await Server.start(t);
      const engine = engineOf(t, server.address, { trust: { keys: await server.keys() } });

      const changedAt = (at: number) => {
        const changed = Buffer.from(whole);
        changed[at] = (changed[at] as number) ^ 0x01;
        return changed;
      };
      for (let i = 0; i < 60; i++) {
        const at = i < 30 ? i * 7 : Math.floor(((i - 30) / 30) * (whole.length - 1));
        assert.equal((await verifyExport([changedAt(at)], keys)).isIntact, false, `byte ${at}`);
      }
      for (const at of [40, Math.floor(whole.length / 2), whole.length - 10]) {
        const outcomes = await engine
          .import(() => [changedAt(at)], { trustedKeys: keys, takeOver: true })
          .catch(() => []);
        assert.ok(
          outcomes.every(({ outcome }) => outcome === ImportOutcome.REFUSED),
          `byte ${at}`,
        );
      }

      const outcomes = await engine.import(path, { trustedKeys: keys, takeOver: true });
      assert.equal(outcomes.length, report.workflows.length);
      for (const { workflowId, namespace, outcome, message } of outcomes) {
        assert.equal(outcome, ImportOutcome.IMPORTED, message);
        const exported = report.workflows.find((w) => w.workflowId === workflowId && w.namespace === namespace);
        const here = engineOf(t, server.address, { namespace, trust: { keys: await server.keys() } });
        assert.equal((await hashesOf(here, workflowId)).at(-1), hex(exported?.headHash ?? new Uint8Array()));
      }
    });
  }
});
