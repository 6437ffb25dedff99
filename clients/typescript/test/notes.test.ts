import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import { verifyExport, verifyHead, verifyStatement } from "aegis-client";
import { ExportChunk } from "aegis-client/stubs";
import { Signer } from "./signer.js";

const ours = new Signer("log.example");
const other = new Signer("other.example");
const both = [ours.key, other.key];

const headOf = (logId: string) => `${logId}\n7\n${Buffer.alloc(32, 1).toString("base64")}\n`;

function statementOf(logId: string): string {
  const name = (text: string) => Buffer.concat([Uint8Array.of(0, text.length), Buffer.from(text)]);
  const content = Buffer.concat([name("default"), name("w"), Buffer.alloc(7), Uint8Array.of(3), Buffer.alloc(32, 2)]);
  return `${logId}\naegis/workflow-head/v1\n7\n${content.toString("base64")}\n`;
}

test("only a key of the log's own name signs for it", () => {
  for (const [textOf, verify] of [
    [headOf, verifyHead],
    [statementOf, verifyStatement],
  ] as const) {
    const text = textOf("log.example");
    assert.equal(verify(`${text}\n${ours.line(text)}`, both)?.logId, "log.example");
    assert.equal(verify(`${text}\n${other.line(text)}`, both), undefined);
    assert.equal(verify(`${text}\n${other.line(text)}`, [ours.key]), undefined);
    // A witness beside the log's own signature changes nothing.
    assert.equal(verify(`${text}\n${other.line(text)}${ours.line(text)}`, both)?.logId, "log.example");

    // A generation has a name, and so a key, of its own.
    const later = textOf("log.example/2");
    const named = ours.key.named("log.example/2");
    assert.equal(verify(`${later}\n${ours.line(later, "log.example/2")}`, [ours.key, named])?.logId, "log.example/2");
    assert.equal(verify(`${later}\n${ours.line(later)}`, [ours.key, named]), undefined);
    assert.equal(verify(`${later}\n${ours.line(later)}`, both), undefined);
  }
});

test("an export of one log that another log's key has signed is not intact", async () => {
  const read = (name: string) => readFileSync(new URL(`../../../exports/${name}`, import.meta.url));
  const key = read("typescript.key").toString().trim();
  const whole = read("typescript.aegis");
  const keys = [key, other.key.toString()];
  assert.equal((await verifyExport([whole], keys)).isIntact, true);

  const signedAnew = (note: string) => {
    const text = note.slice(0, note.lastIndexOf("\n\n") + 1);
    return `${text}\n${other.line(text)}`;
  };
  const reader = new BinaryReader(whole);
  const forged: Buffer[] = [];
  while (reader.pos < reader.len) {
    const chunk = ExportChunk.decode(reader.bytes());
    if (chunk.part?.$case === "manifest") chunk.part.value.logHead = signedAnew(chunk.part.value.logHead);
    if (chunk.part?.$case === "workflow") chunk.part.value.statement = signedAnew(chunk.part.value.statement);
    if (chunk.part?.$case === "trailer")
      chunk.part.value.sha256 = createHash("sha256").update(Buffer.concat(forged)).digest();
    forged.push(Buffer.from(new BinaryWriter().bytes(ExportChunk.encode(chunk).finish()).finish()));
  }
  const report = await verifyExport(forged, keys);
  assert.equal(report.logHead, undefined);
  assert.deepEqual([...new Set(report.findings.map((finding) => finding.what))].sort(), ["log_head", "statement"]);
});
