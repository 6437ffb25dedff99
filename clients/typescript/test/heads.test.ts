import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type AegisError,
  errorOf,
  HeadRejected,
  IntegrityError,
  LogTrust,
  MemoryHeadStore,
  merkleRoot,
} from "aegis-client";
import { Signer } from "./signer.js";

// How heads are linked and refused, without a server: heads are signed here, and what a server would answer is made up.

const rejectedFor = (reason: HeadRejected["reason"]) => (e: unknown) =>
  e instanceof HeadRejected && e.reason === reason;

const leaves = Array.from({ length: 8 }, (_, i) => new Uint8Array(32).fill(i + 1));

/** The head of a log of some size; another history under another `first`. */
function noteOf(signer: Signer, size: number, logId = signer.key.name, first = 0): string {
  const root = Buffer.from(merkleRoot(leaves.slice(first, first + size))).toString("base64");
  const text = `${logId}\n${size}\n${root}\n`;
  return `${text}\n${signer.line(text, logId)}`;
}

const unable = (reason: string) => (): Promise<never> => Promise.reject(errorOf(reason, "It cannot be proven."));
const unasked = unable("NEVER_ASKED");
const arrival = (note: string, source: () => Promise<never> = unasked) => ({ note, knownSize: 0n, source });

test("a server that cannot prove that its log goes on is an alarm", async () => {
  for (const [reason, alarm] of [
    ["CURSOR_AHEAD_OF_LOG", "LOG_ROLLED_BACK"],
    ["CHAIN_BROKEN", "LOG_FORKED"],
    ["SNAPSHOT_CORRUPT", "LOG_FORKED"],
    ["LOG_FORKED", "LOG_FORKED"],
  ] as const) {
    const signer = new Signer("log");
    const headStore = new MemoryHeadStore();
    const trust = new LogTrust({ keys: signer.key.toString(), headStore });
    await trust.advance(arrival(noteOf(signer, 3)));
    const later = noteOf(signer, 5);
    await assert.rejects(trust.advance(arrival(later, unable(reason))), rejectedFor(alarm), reason);
    assert.equal(trust.stopped?.newNote, later);
    await assert.rejects(trust.knownSize(), rejectedFor(alarm));
    assert.equal(trust.keptHead?.size, 3n);
  }

  // A server that cannot be reached has said nothing about the log.
  const signer = new Signer("log");
  const trust = new LogTrust({ keys: signer.key.toString() });
  await trust.advance(arrival(noteOf(signer, 3)));
  const away = trust.advance(arrival(noteOf(signer, 5), unable("STORE_UNAVAILABLE")));
  await assert.rejects(away, (e: AegisError) => e.reason === "STORE_UNAVAILABLE");
  assert.equal(trust.stopped, undefined);
});

test("another log is gone on with once it was accepted", async () => {
  const [ours, other] = [new Signer("log"), new Signer("other")];
  const trust = new LogTrust({ keys: [ours.key, other.key].map(String) });
  await trust.advance(arrival(noteOf(ours, 3)));
  await assert.rejects(trust.advance(arrival(noteOf(ours, 2, "log/2"))), rejectedFor("LOG_ID_CHANGED"));
  await assert.rejects(trust.advance(arrival(noteOf(ours, 3))), rejectedFor("LOG_ID_CHANGED"));
  trust.acceptLogId("log/3");
  await assert.rejects(trust.advance(arrival(noteOf(ours, 2, "log/2"))), rejectedFor("LOG_ID_CHANGED"));

  trust.acceptLogId("log/2");
  assert.equal((await trust.advance(arrival(noteOf(ours, 2, "log/2")))).logId, "log/2");
  // The way back is not open, nor is another log's key good for it.
  await assert.rejects(trust.advance(arrival(noteOf(ours, 3))), rejectedFor("LOG_ID_CHANGED"));
  trust.acceptLogId("log");
  await assert.rejects(trust.advance(arrival(noteOf(ours, 3))), rejectedFor("LOG_ID_CHANGED"));
  trust.acceptLogId("other");
  await assert.rejects(trust.advance(arrival(noteOf(ours, 4, "other"))), rejectedFor("SIGNATURE_INVALID"));
  assert.equal((await trust.advance(arrival(noteOf(other, 4)))).logId, "other");
});

test("a head under another name that nobody signed in that name stops nothing", async () => {
  const signer = new Signer("log");
  for (const [name, keys] of [
    ["loh", [signer.key]],
    ["log/2", [signer.key]],
    ["other", [signer.key, new Signer("other").key]],
  ] as const) {
    const trust = new LogTrust({ keys: keys.map(String) });
    await trust.advance(arrival(noteOf(signer, 3)));
    const altered = noteOf(signer, 3).replace("log\n", `${name}\n`);
    await assert.rejects(trust.advance(arrival(altered)), rejectedFor("SIGNATURE_INVALID"), name);
    assert.equal(trust.stopped, undefined);
    await trust.advance(arrival(noteOf(signer, 3)));
  }
});

test("what was rolled back or forked is not gone on with by accepting a log_id", async () => {
  const signer = new Signer("log");
  for (const [note, knownSize, reason] of [
    [noteOf(signer, 2), 3n, "LOG_ROLLED_BACK"],
    [noteOf(signer, 3, "log", 1), 0n, "LOG_FORKED"],
  ] as const) {
    const trust = new LogTrust({ keys: signer.key.toString() });
    await trust.advance(arrival(noteOf(signer, 3)));
    await assert.rejects(trust.advance({ ...arrival(note), knownSize }), rejectedFor(reason));
    trust.acceptLogId("log");
    trust.acceptLogId("log/2");
    await assert.rejects(trust.advance(arrival(noteOf(signer, 3))), rejectedFor(reason));
    await assert.rejects(trust.knownSize(), IntegrityError);
  }
});
