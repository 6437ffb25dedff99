import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  ChainVerifier,
  checkRecord,
  encodeContent,
  encodePerson,
  encodeRecord,
  encodeSnapshot,
  hashRecord,
  merkleRoot,
  VerifierKey,
  verifyConsistency,
  verifyHead,
  verifyInclusion,
} from "aegis-client";
import { Record as LogRecord, type Timestamp } from "aegis-client/stubs";

// biome-ignore lint/suspicious/noExplicitAny: vectors are read as they are.
type Json = any;

const fromHex = (text: string) => new Uint8Array(Buffer.from(text, "hex"));
const fromBase64 = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
const toHex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

function vectors(name: string): Json {
  const text = readFileSync(new URL(`../../../../tests/vectors/${name}`, import.meta.url), "utf8");
  // Indexes go up to 2^64 − 1, which a number here would round.
  return JSON.parse(text.replace(/("(?:leafIdx|treeSize|size1|size2)":\s*)(\d+)/g, '$1"$2"'));
}

/** A vector's record as the contract's message. */
function messageOf({ record, person, content, snapshot, hash, log_index }: Json): LogRecord {
  const time = (text: string): Timestamp | undefined => {
    const micros = BigInt(text);
    if (micros === 0n) return undefined;
    return { seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1000 };
  };
  return LogRecord.fromPartial({
    logId: record.log_id,
    namespace: record.namespace,
    workflowId: record.workflow_id,
    sequence: BigInt(record.sequence),
    kind: record.kind,
    workflowType: record.workflow_type,
    fromState: record.from_state,
    toState: record.to_state,
    status: record.status,
    requestId: record.request_id,
    leaseEpoch: BigInt(record.lease_epoch),
    occurredAt: time(record.occurred_at),
    recordedAt: time(record.recorded_at),
    personDigest: fromHex(record.person_digest),
    contentDigest: fromHex(record.content_digest),
    snapshotDigest: fromHex(record.snapshot_digest),
    previousHash: fromHex(record.previous_hash),
    ...(person && { personSalt: fromHex(person.salt), actor: person.actor, principal: person.principal }),
    ...(content && {
      contentSalt: fromHex(content.salt),
      reason: content.reason,
      metadata: new Map<string, string>(Object.entries(content.metadata)),
    }),
    ...(snapshot && {
      snapshotSalt: fromHex(snapshot.salt),
      snapshotContentType: snapshot.content_type,
      snapshotSize: BigInt(snapshot.size),
      snapshotSha256: fromHex(snapshot.sha256),
    }),
    hash: hash === undefined ? new Uint8Array() : fromHex(hash),
    logIndex: BigInt(log_index ?? 0),
  });
}

/** The first record of a chain in which verification finds something wrong; undefined for none. */
function firstWrong(records: Json[]): bigint | undefined {
  const first = records[0].record;
  const chain = new ChainVerifier(first.namespace, first.workflow_id);
  for (const vector of records) {
    const message = messageOf(vector);
    if (message.hash.length === 0) message.hash = hashRecord(message);
    chain.add(message);
    if (vector.snapshot) {
      const body = vector.snapshot.body === null ? undefined : fromHex(vector.snapshot.body);
      const digest = body && new Uint8Array(createHash("sha256").update(body).digest());
      chain.addSnapshot(message, body && digest && { sha256: digest, size: BigInt(body.length) });
    }
  }
  return chain.complete()[0]?.sequence;
}

test("vectors-records", async (t) => {
  const { chains, wrong, roots, inclusion, consistency, head } = vectors("records.json");

  await t.test("every encoding, digest and hash", () => {
    const leaves: Uint8Array[] = [];
    for (const chain of chains) {
      for (const vector of chain.records) {
        const message = messageOf(vector);
        const { person, content, snapshot } = vector;
        if (person) {
          assert.equal(
            toHex(encodePerson(fromHex(person.salt), person.actor, person.principal)),
            vector.encoded_person,
          );
        }
        if (content) {
          assert.equal(
            toHex(encodeContent(fromHex(content.salt), content.reason, Object.entries(content.metadata))),
            vector.encoded_content,
          );
        }
        if (snapshot) {
          const size = BigInt(snapshot.size);
          assert.equal(
            toHex(encodeSnapshot(fromHex(snapshot.salt), snapshot.content_type, size, fromHex(snapshot.sha256))),
            vector.encoded_snapshot,
          );
        }
        assert.equal(toHex(encodeRecord(message)), vector.encoded_record);
        assert.equal(toHex(hashRecord(message)), vector.hash);
        assert.deepEqual(checkRecord(message).problems, []);
        assert.equal(vector.log_index, leaves.length);
        leaves.push(fromHex(vector.hash));
        assert.equal(toHex(merkleRoot(leaves)), vector.root_after);
      }
      assert.equal(firstWrong(chain.records), undefined, chain.name);
    }
    assert.equal(leaves.length, roots.length - 1);
    roots.forEach((root: string, size: number) => {
      assert.equal(toHex(merkleRoot(leaves.slice(0, size))), root);
    });
  });

  await t.test("every wrong chain", () => {
    assert.ok(wrong.length > 0);
    for (const { why, first_wrong_sequence, records } of wrong)
      assert.equal(firstWrong(records), BigInt(first_wrong_sequence), why);
  });

  await t.test("proofs, and the signed head", () => {
    const hashes: string[] = chains.flatMap((chain: Json) => chain.records.map((r: Json) => r.hash));
    for (const { log_index, size, path } of inclusion) {
      const at = [BigInt(log_index), BigInt(size)] as const;
      const leaf = fromHex(hashes[log_index] as string);
      assert.ok(verifyInclusion(...at, leaf, path.map(fromHex), fromHex(roots[size])));
      assert.ok(!verifyInclusion(...at, fromHex(roots[0]), path.map(fromHex), fromHex(roots[size])));
    }
    for (const { first, second, path } of consistency) {
      const sizes = [BigInt(first), BigInt(second)] as const;
      assert.ok(verifyConsistency(...sizes, fromHex(roots[first]), fromHex(roots[second]), path.map(fromHex)));
      assert.ok(!verifyConsistency(...sizes, fromHex(roots[0]), fromHex(roots[second]), path.map(fromHex)));
    }
    const key = VerifierKey.parse(head.verifier_key);
    assert.equal(key.toString(), head.verifier_key);
    const verified = verifyHead(head.signed_note, [key]);
    assert.equal(verified?.size, BigInt(head.size));
    assert.equal(toHex(verified?.root ?? new Uint8Array()), roots[head.size]);
    assert.equal(verifyHead(head.signed_note.replace("\n50\n", "\n51\n"), [key]), undefined);
    assert.equal(verifyHead(head.signed_note, [key.named("another")]), undefined);
  });
});

test("vectors-merkle-proofs", () => {
  const { inclusion, consistency } = vectors("merkle-proofs.json");
  assert.ok(inclusion.length > 0 && consistency.length > 0);
  for (const { leafIdx, treeSize, root, leafHash, proof, wantErr, name } of inclusion) {
    const path = (proof ?? []).map(fromBase64);
    const sizes = [BigInt(leafIdx), BigInt(treeSize)] as const;
    assert.equal(verifyInclusion(...sizes, fromBase64(leafHash), path, fromBase64(root ?? "")), !wantErr, name);
  }
  for (const { size1, size2, root1, root2, proof, wantErr, name } of consistency) {
    const path = (proof ?? []).map(fromBase64);
    const sizes = [BigInt(size1), BigInt(size2)] as const;
    assert.equal(verifyConsistency(...sizes, fromBase64(root1 ?? ""), fromBase64(root2 ?? ""), path), !wantErr, name);
  }
});

test("chains that only the rules can refuse", () => {
  const { chains, metadata } = vectors("refused.json");
  assert.ok(chains.length > 0 && metadata.length > 0);
  for (const { why, first_wrong_sequence, records } of chains)
    assert.equal(firstWrong(records), BigInt(first_wrong_sequence), why);
  for (const { why, entries } of metadata)
    assert.throws(() => encodeContent(new Uint8Array(16), "", entries), RangeError, why);
});
