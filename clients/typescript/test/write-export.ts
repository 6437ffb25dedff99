import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { bytes, verifyExport, WorkflowStatus } from "aegis-client";
import { engineOf, Server } from "./testbed.js";

// Writes the export of this language that all languages verify and import, and the key of its log beside it.
test("write-export", async (t) => {
  const folder = fileURLToPath(new URL("../../../exports/", import.meta.url));
  await mkdir(folder, { recursive: true });
  const server = await Server.start(t);
  const keys = await server.keys();
  const engine = engineOf(t, server.address, { namespace: "Beispiele", trust: { keys } });
  const cases = engine.register<{ note: string; step: number }>("Vorgang");
  const files = engine.register("файл", bytes());

  const permit = await engine.start(cases, "許可-😀", {
    state: "受付",
    object: { note: "naïve café — \u202eعربى\u202c, e\u0301", step: 1 },
    actor: "Zoë Åström",
    reason: "申請を受け付けた",
    metadata: { "1": "", straße: "Bäckerweg 3", "😀": "beyond", "\uffee": "basic", __proto: "x" },
    occurredAt: new Date("2026-02-28T23:59:59.999Z"),
  });
  await engine.transition(permit, "prüfen", { actor: "Ольга", object: { note: "次", step: 2 } });
  await engine.transition(permit, "genehmigt ✓", {
    status: WorkflowStatus.COMPLETED,
    reason: "fertig",
    requestId: "last-one",
  });

  // Larger than one part of an export, and none at all.
  const line = Buffer.from("a large state is kept whole, in parts of at most a mebibyte each\n");
  const large = await engine.start(files, "large", { state: "OPEN", object: Buffer.alloc(1_300_000, line) });
  await engine.checkpoint(large, { object: new Uint8Array(), reason: "emptied" });
  await engine.wait(large, "WAITING");

  const fork = await engine.start(cases, "fork", {
    forkedFrom: { workflowId: "許可-😀", sequence: 2n },
    actor: "Zoë Åström",
    reason: "what if",
  });
  await engine.wait(fork, "anders");

  const path = join(folder, "typescript.aegis");
  await engine.export(path);
  await writeFile(join(folder, "typescript.key"), `${keys.join("\n")}\n`);
  assert.equal((await verifyExport(path, keys)).isIntact, true);
});
