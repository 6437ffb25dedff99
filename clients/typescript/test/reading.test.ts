import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { type TestContext, test } from "node:test";
import { InterceptingCall, type Interceptor } from "@grpc/grpc-js";
import {
  AegisClient,
  DurableWorkflowEngine,
  encodeContent,
  hashRecord,
  IntegrityError,
  RecordKind,
  type WorkflowRecord,
  type WorkflowType,
} from "aegis-client";
import type { ListRecordsResponse, ResumeWorkflowResponse } from "aegis-client/stubs";
import { atEnd, engineOf, historyOf, Server } from "./testbed.js";

interface Case {
  n: number;
}

type Part = "person" | "content" | "snapshot";

/** Without the values of a part, as one is left that was erased; its digest and hash are as they were. */
function without(record: WorkflowRecord, part: Part): WorkflowRecord {
  const empty = new Uint8Array();
  if (part === "person") return { ...record, personSalt: empty, actor: "", principal: "" };
  if (part === "content") return { ...record, contentSalt: empty, reason: "", metadata: new Map() };
  return { ...record, snapshotSalt: empty, snapshotContentType: "", snapshotSize: 0n, snapshotSha256: empty };
}

/** The ERASURE record that follows from one and says that a part of record 2 is gone. */
function erasureAfter(last: WorkflowRecord, part: string): WorkflowRecord {
  const metadata = new Map([
    ["aegis.erased", "2"],
    ["aegis.parts", part],
  ]);
  const contentSalt = new Uint8Array(16).fill(9);
  const erasure = {
    ...without(last, "snapshot"),
    snapshotDigest: new Uint8Array(32),
    kind: RecordKind.ERASURE,
    fromState: last.toState,
    sequence: last.sequence + 1n,
    previousHash: last.hash,
    reason: "asked for",
    metadata,
    contentSalt,
    contentDigest: createHash("sha256")
      .update(encodeContent(contentSalt, "asked for", metadata))
      .digest(),
  };
  return { ...erasure, hash: hashRecord(erasure) };
}

/** What a server has stored and answers: changed by a test. */
class Answers {
  listed: (records: WorkflowRecord[], isDescending: boolean) => WorkflowRecord[] = (records) => records;
  resumed: (response: ResumeWorkflowResponse) => void = () => undefined;

  readonly interceptor: Interceptor = (options, next) => {
    let isDescending = false;
    return new InterceptingCall(next(options), {
      sendMessage: (message, send) => {
        isDescending = (message as { descending?: boolean }).descending ?? false;
        send(message);
      },
      start: (metadata, _listener, begin) =>
        begin(metadata, {
          onReceiveMessage: (message, pass) => {
            const name = options.method_definition.path.split("/").at(-1);
            if (name === "ListRecords") {
              const page = message as ListRecordsResponse;
              pass({ ...page, records: this.listed(page.records, isDescending) });
            } else {
              if (name === "ResumeWorkflow") this.resumed(message as ResumeWorkflowResponse);
              pass(message);
            }
          },
        }),
    });
  };
}

/** A workflow of four records, of which a checkpoint is the first, and an engine whose answers are changed. */
async function altered(t: TestContext): Promise<{
  answers: Answers;
  engine: DurableWorkflowEngine;
  cases: WorkflowType<Case>;
  records: WorkflowRecord[];
}> {
  const server = await Server.start(t);
  const writer = engineOf(t, server.address);
  const type = writer.register<Case>("case");
  const workflow = await writer.start(type, "case-1", { state: "S1", object: { n: 1 }, lease: false });
  const options = { checkpoint: false, actor: "Ada", reason: "because" };
  for (const state of ["S2", "S3", "S4"]) await writer.transition(workflow, state, options);
  const answers = new Answers();
  const client = new AegisClient({ addresses: server.address, interceptors: [answers.interceptor] });
  atEnd(t, () => client.close());
  const engine = new DurableWorkflowEngine(client);
  return { answers, engine, cases: engine.register<Case>("case"), records: await historyOf(writer, "case-1") };
}

const refusedFor = (what: string) => (e: unknown) => e instanceof IntegrityError && e.what === what;

test("values may be gone only where an ERASURE record covers them", async (t) => {
  const { answers, engine, cases, records } = await altered(t);
  const history = () => historyOf(engine, "case-1");
  const look = () => engine.resume(cases, "case-1", { lease: false });
  const last = records.at(-1);
  assert.ok(last);

  for (const part of ["person", "content"] as const) {
    const strip = (of: WorkflowRecord[]) => of.map((r) => (r.sequence === 2n ? without(r, part) : r));
    const resumeWith = (...more: WorkflowRecord[]) => {
      answers.resumed = (response) => {
        response.recordsSince = [...strip(response.recordsSince), ...more];
        const newest = response.recordsSince.at(-1);
        assert.ok(newest && response.workflow);
        response.workflow.sequence = newest.sequence;
        response.workflow.headHash = newest.hash;
      };
    };
    answers.listed = strip;
    resumeWith();
    await assert.rejects(history, refusedFor(part));
    await assert.rejects(look, refusedFor(part));

    // One that names something else covers nothing.
    const another = erasureAfter(last, part === "person" ? "content" : "person");
    answers.listed = (of) => [...strip(of), another];
    resumeWith(another);
    await assert.rejects(history, refusedFor(part));
    await assert.rejects(look, refusedFor(part));

    const erasure = erasureAfter(last, part);
    answers.listed = (of, isDescending) => (isDescending ? [erasure, ...strip(of)] : [...strip(of), erasure]);
    resumeWith(erasure);
    assert.equal((await history()).length, 5);
    assert.equal((await look()).sequence, 5n);
    // Erased while it was read: what tells it came after the records that were read.
    resumeWith();
    assert.equal((await look()).sequence, 4n);
    // A history that comes in several answers is judged as one.
    answers.resumed = (response) => {
      response.recordsSince = strip(response.recordsSince).slice(0, 1);
      response.moreRecords = true;
    };
    assert.equal((await look()).recordsSince.length, 3);
  }

  answers.listed = (of) => of.map((r) => (r.sequence === 1n ? without(r, "snapshot") : r));
  await assert.rejects(history, refusedFor("snapshot"));
});
