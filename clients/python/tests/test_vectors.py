"""The vectors that every implementation has to meet."""

import base64
import hashlib
import json
import unittest
from pathlib import Path
from typing import Any

from aegis.v1.workflow_pb2 import Record
from aegis_client import merkle, record_format
from aegis_client.chain import ChainVerifier, Finding
from aegis_client.record_format import ZERO
from aegis_client.signed_note import LogHead, VerifierKey

VECTORS = Path(__file__).resolve().parents[3] / "tests" / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def record_of(entry: Any) -> Record:
    fields = entry["record"]
    record = Record(
        log_id=fields["log_id"],
        namespace=fields["namespace"],
        workflow_id=fields["workflow_id"],
        sequence=int(fields["sequence"]),
        kind=fields["kind"],
        workflow_type=fields["workflow_type"],
        from_state=fields["from_state"],
        to_state=fields["to_state"],
        status=fields["status"],
        request_id=fields["request_id"],
        lease_epoch=int(fields["lease_epoch"]),
        person_digest=bytes.fromhex(fields["person_digest"]),
        content_digest=bytes.fromhex(fields["content_digest"]),
        snapshot_digest=bytes.fromhex(fields["snapshot_digest"]),
        previous_hash=bytes.fromhex(fields["previous_hash"]),
        hash=bytes.fromhex(entry["hash"]),
        log_index=int(entry.get("log_index", 0)),
    )
    for name in ("occurred_at", "recorded_at"):
        if micros := int(fields[name]):
            getattr(record, name).FromMicroseconds(micros)
    if person := entry["person"]:
        record.person_salt = bytes.fromhex(person["salt"])
        record.actor, record.principal = person["actor"], person["principal"]
    if content := entry["content"]:
        record.content_salt = bytes.fromhex(content["salt"])
        record.reason = content["reason"]
        record.metadata.update(content["metadata"])
    if snapshot := entry["snapshot"]:
        record.snapshot_salt = bytes.fromhex(snapshot["salt"])
        record.snapshot_content_type = snapshot["content_type"]
        record.snapshot_size = int(snapshot["size"])
        record.snapshot_sha256 = bytes.fromhex(snapshot["sha256"])
    return record


def body_of(entry: Any) -> tuple[bytes, int] | None:
    body = entry["snapshot"] and entry["snapshot"].get("body")
    if body is None:
        return None
    content = bytes.fromhex(body)
    return hashlib.sha256(content).digest(), len(content)


def verify(entries: list[Any], with_snapshots: bool = True) -> tuple[list[Finding], bytes]:
    first = record_of(entries[0])
    verifier = ChainVerifier(first.namespace, first.workflow_id)
    for entry in entries:
        record = record_of(entry)
        verifier.add(record)
        if with_snapshots:
            verifier.add_snapshot(record, body_of(entry))
    return verifier.complete(), verifier.head_hash


class TestRecords(unittest.TestCase):
    """vectors-records"""

    vectors = load("records.json")

    def entries(self) -> list[Any]:
        return [entry for chain in self.vectors["chains"] for entry in chain["records"]]

    def test_vectors_records(self) -> None:
        """Every encoding, digest and hash is as told."""
        entries = self.entries()
        self.assertEqual(50, len(entries))
        for entry in entries:
            record = record_of(entry)
            with self.subTest(workflow_id=record.workflow_id, sequence=record.sequence):
                encoded = record_format.encode_record(record)
                self.assertEqual(entry["encoded_record"], encoded.hex())
                self.assertEqual(entry["hash"], record_format.hash_of(encoded).hex())
                if entry["person"]:
                    part = record_format.encode_person(record.person_salt, record.actor, record.principal)
                    self.assertEqual(entry["encoded_person"], part.hex())
                if entry["content"]:
                    part = record_format.encode_content(record.content_salt, record.reason, record.metadata)
                    self.assertEqual(entry["encoded_content"], part.hex())
                if entry["snapshot"]:
                    part = record_format.encode_snapshot(
                        record.snapshot_salt,
                        record.snapshot_content_type,
                        record.snapshot_size,
                        record.snapshot_sha256,
                    )
                    self.assertEqual(entry["encoded_snapshot"], part.hex())
                for expected, actual in record_format.part_digests(record).values():
                    self.assertIn(actual, (None, expected))
                self.assertIsNone(record_format.record_problem(record))

    def test_chains_verify_with_their_snapshots(self) -> None:
        for chain in self.vectors["chains"]:
            with self.subTest(chain["name"]):
                findings, head_hash = verify(chain["records"])
                self.assertEqual([], findings)
                self.assertEqual(chain["records"][-1]["hash"], head_hash.hex())

    def test_every_wrong_chain_is_refused_where_it_is_wrong(self) -> None:
        self.assertEqual(14, len(self.vectors["wrong"]))
        for chain in self.vectors["wrong"]:
            with self.subTest(chain["why"]):
                findings, _ = verify(chain["records"], with_snapshots=False)
                self.assertTrue(findings)
                self.assertEqual(chain["first_wrong_sequence"], findings[0].sequence, findings)

    def test_every_refused_chain_is_refused_where_it_is_wrong(self) -> None:
        chains = load("refused.json")["chains"]
        self.assertEqual(46, len(chains))
        for chain in chains:
            with self.subTest(chain["why"]):
                findings, _ = verify(chain["records"])
                self.assertTrue(findings)
                self.assertEqual(chain["first_wrong_sequence"], findings[0].sequence, findings)

    def test_roots_proofs_and_head(self) -> None:
        leaves = [bytes.fromhex(entry["hash"]) for entry in self.entries()]
        roots = [bytes.fromhex(root) for root in self.vectors["roots"]]
        self.assertEqual(51, len(roots))
        for size, root in enumerate(roots):
            self.assertEqual(root, merkle.root(leaves[:size]))
        for entry in self.entries():
            self.assertEqual(entry["root_after"], roots[entry["log_index"] + 1].hex())
        for proof in self.vectors["inclusion"]:
            path = [bytes.fromhex(p) for p in proof["path"]]
            index, size = proof["log_index"], proof["size"]
            self.assertTrue(merkle.verify_inclusion(index, size, leaves[index], path, roots[size]))
            self.assertFalse(merkle.verify_inclusion(index, size, ZERO, path, roots[size]))
        for proof in self.vectors["consistency"]:
            path = [bytes.fromhex(p) for p in proof["path"]]
            first, second = proof["first"], proof["second"]
            self.assertTrue(merkle.verify_consistency(first, second, roots[first], roots[second], path))
            self.assertFalse(merkle.verify_consistency(first, second, ZERO, roots[second], path))
        head = self.vectors["head"]
        key = VerifierKey.parse(head["verifier_key"])
        self.assertEqual(head["verifier_key"], str(key))
        self.assertEqual(LogHead(key.name, head["size"], roots[50]), LogHead.verify(head["signed_note"], [key]))

    def test_a_note_that_is_not_signed_so_is_refused(self) -> None:
        head = self.vectors["head"]
        note, key = head["signed_note"], VerifierKey.parse(head["verifier_key"])
        other = VerifierKey(key.name, bytes(reversed(key.public_key)))
        self.assertIsNone(LogHead.verify(note, [other]))
        self.assertIsNone(LogHead.verify(note, [key.named("another")]))
        self.assertIsNone(LogHead.verify(note.replace("\n50\n", "\n51\n"), [key]))
        for at in range(len(note)):
            changed = note[:at] + ("A" if note[at] != "A" else "B") + note[at + 1 :]
            self.assertIsNone(LogHead.verify(changed, [key]), f"character {at}")
        # A signature of a key that is not known is passed over.
        extra = note + "\u2014 witness " + base64.b64encode(bytes(68)).decode() + "\n"
        self.assertIsNotNone(LogHead.verify(extra, [key]))


class TestMerkleProofs(unittest.TestCase):
    """vectors-merkle-proofs"""

    def test_vectors_merkle_proofs(self) -> None:
        """Each proof decides as told."""
        vectors = load("merkle-proofs.json")
        self.assertEqual((98, 98), (len(vectors["inclusion"]), len(vectors["consistency"])))

        def path_of(entry: Any) -> list[bytes]:
            return [base64.b64decode(p) for p in entry["proof"] or []]

        for entry in vectors["inclusion"]:
            with self.subTest(entry["name"]):
                leaf, root = (base64.b64decode(entry[name] or "") for name in ("leafHash", "root"))
                holds = merkle.verify_inclusion(entry["leafIdx"], entry["treeSize"], leaf, path_of(entry), root)
                self.assertEqual(not entry["wantErr"], holds)
        for entry in vectors["consistency"]:
            with self.subTest(entry["name"]):
                first, second = (base64.b64decode(entry[name] or "") for name in ("root1", "root2"))
                holds = merkle.verify_consistency(entry["size1"], entry["size2"], first, second, path_of(entry))
                self.assertEqual(not entry["wantErr"], holds)


if __name__ == "__main__":
    unittest.main()
