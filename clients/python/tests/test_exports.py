"""An export whose trailer was made to fit is judged by what it holds."""

from __future__ import annotations

import base64
import hashlib
import io
import unittest
from collections.abc import Callable
from pathlib import Path

from aegis.v1.recovery_service_pb2 import ExportChunk
from aegis_client import ExportReport, FormatError, LogHead, VerifierKey, WorkflowStatement, verify_export
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[import]
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[import]

EXPORT = Path(__file__).resolve().parents[2] / "exports" / "python.aegis"
KEYS = EXPORT.with_suffix(".key").read_text(encoding="utf-8").split()


def chunks_of(content: bytes) -> list[ExportChunk]:
    chunks, position = [], 0
    while position < len(content):
        length, position = _DecodeVarint(content, position)
        chunks.append(ExportChunk.FromString(content[position : position + length]))
        position += length
    return chunks


def written(chunks: list[ExportChunk]) -> bytes:
    """The chunks as a file, with a trailer that fits them."""
    body = b"".join(_VarintBytes(c.ByteSize()) + c.SerializeToString() for c in chunks if not c.HasField("trailer"))
    trailer = chunks[-1].trailer
    trailer.sha256 = hashlib.sha256(body).digest()
    trailer.records = sum(c.HasField("record") for c in chunks)
    trailer.workflows = sum(c.HasField("workflow") for c in chunks)
    return body + _VarintBytes(chunks[-1].ByteSize()) + chunks[-1].SerializeToString()


class Signer:
    """A log's key, to sign what its holder could sign."""

    def __init__(self, name: str) -> None:
        self._private = Ed25519PrivateKey.generate()
        self.key = VerifierKey(name, self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def line(self, text: str, name: str = "") -> str:
        """The line of a signature over a text, under the name of a generation."""
        key = self.key.named(name or self.key.name)
        return f"\u2014 {key.name} {base64.b64encode(key.id + self._private.sign(text.encode())).decode()}\n"


class TestNotes(unittest.TestCase):
    def test_only_a_key_of_the_logs_own_name_signs_for_it(self) -> None:
        ours, other = Signer("log.example"), Signer("other.example")
        both = [ours.key, other.key]
        names = b"\x00\x07default\x00\x01w"
        said = base64.b64encode(names + (3).to_bytes(8, "big") + bytes(32)).decode()
        for texts, verify in (
            ("{}\n7\n" + base64.b64encode(bytes(32)).decode() + "\n", LogHead.verify),
            ("{}\naegis/workflow-head/v1\n7\n" + said + "\n", WorkflowStatement.verify),
        ):
            text = texts.format("log.example")
            self.assertIsNotNone(verify(f"{text}\n{ours.line(text)}", both))
            self.assertIsNone(verify(f"{text}\n{other.line(text)}", both))
            self.assertIsNone(verify(f"{text}\n{other.line(text)}", [ours.key]))
            # A witness beside the log's own signature changes nothing.
            self.assertIsNotNone(verify(f"{text}\n{other.line(text)}{ours.line(text)}", both))

            # A generation has a name, and so a key, of its own.
            later = texts.format("log.example/2")
            generations = [ours.key, ours.key.named("log.example/2")]
            self.assertIsNotNone(verify(f"{later}\n{ours.line(later, 'log.example/2')}", generations))
            self.assertIsNone(verify(f"{later}\n{ours.line(later)}", generations))
            self.assertIsNone(verify(f"{later}\n{ours.line(later)}", both))

    def test_an_export_of_one_log_that_another_logs_key_has_signed_is_not_intact(self) -> None:
        other = Signer("other.example")

        def signed_anew(note: str) -> str:
            text = note[: note.rfind("\n\n") + 1]
            return f"{text}\n{other.line(text)}"

        chunks = chunks_of(EXPORT.read_bytes())
        chunks[0].manifest.log_head = signed_anew(chunks[0].manifest.log_head)
        for chunk in chunks:
            if chunk.HasField("workflow"):
                chunk.workflow.statement = signed_anew(chunk.workflow.statement)
        report = verify_export(io.BytesIO(written(chunks)), [*KEYS, other.key])
        self.assertIsNone(report.head)
        self.assertIn("SIGNATURE_INVALID", [f.violation for f in report.findings])

        # Nor does it speak for the log of a head that is the log's own.
        chunks[0].manifest.log_head = chunks_of(EXPORT.read_bytes())[0].manifest.log_head
        report = verify_export(io.BytesIO(written(chunks)), [*KEYS, other.key])
        self.assertEqual(["SIGNATURE_INVALID"] * 3, [f.violation for f in report.findings], report.findings)


class TestExports(unittest.TestCase):
    def verified(self, change: Callable[[list[ExportChunk]], None]) -> ExportReport:
        chunks = chunks_of(EXPORT.read_bytes())
        change(chunks)
        return verify_export(io.BytesIO(written(chunks)), KEYS)

    def assert_found(self, change: Callable[[list[ExportChunk]], None], violation: str, sequence: int) -> None:
        report = self.verified(change)
        self.assertFalse(report.intact)
        self.assertIn((violation, sequence), [(f.violation, f.sequence) for f in report.findings], report.findings)

    @staticmethod
    def records(chunks: list[ExportChunk]) -> list[ExportChunk]:
        """Those of the first workflow: four, all with snapshots."""
        first = next(i for i, c in enumerate(chunks) if c.HasField("workflow"))
        end = next((i for i, c in enumerate(chunks) if i > first and c.HasField("workflow")), len(chunks))
        return [c for c in chunks[first:end] if c.HasField("record")]

    def test_unchanged_it_is_intact(self) -> None:
        report = self.verified(lambda chunks: None)
        self.assertEqual((True, []), (report.intact, report.findings))
        self.assertEqual((9, 3), (report.records, len(report.workflows)))

    def test_altered_fields_are_named(self) -> None:
        def alter(field: str) -> Callable[[list[ExportChunk]], None]:
            def change(chunks: list[ExportChunk]) -> None:
                record = self.records(chunks)[1].record.record
                setattr(record, field, getattr(record, field) + "x")

            return change

        for field in ("actor", "reason", "to_state", "from_state", "request_id", "workflow_type", "log_id"):
            with self.subTest(field):
                self.assert_found(alter(field), "FIELD_MODIFIED", 2)

        def metadata(chunks: list[ExportChunk]) -> None:
            self.records(chunks)[1].record.record.metadata["more"] = "x"

        self.assert_found(metadata, "FIELD_MODIFIED", 2)

    def test_missing_cut_and_swapped_records_are_named(self) -> None:
        def drop(index: int) -> Callable[[list[ExportChunk]], None]:
            def change(chunks: list[ExportChunk]) -> None:
                chunks.remove(self.records(chunks)[index])

            return change

        self.assert_found(drop(1), "RECORD_MISSING", 2)
        self.assert_found(drop(3), "TAIL_TRUNCATED", 4)

        def cut_and_hide(chunks: list[ExportChunk]) -> None:
            """With a header that fits what is left: the signed statement is what tells."""
            records = self.records(chunks)
            chunks.remove(records[3])
            header = next(c for c in chunks if c.HasField("workflow")).workflow
            header.records, header.head_hash = 3, records[2].record.record.hash

        report = self.verified(cut_and_hide)
        self.assertEqual(["TAIL_TRUNCATED"], [f.violation for f in report.findings], report.findings)
        self.assertIn("statement", report.findings[0].message)

        def swap(chunks: list[ExportChunk]) -> None:
            one, other = self.records(chunks)[1:3]
            i, j = chunks.index(one), chunks.index(other)
            chunks[i], chunks[j] = chunks[j], chunks[i]

        self.assert_found(swap, "RECORDS_REORDERED", 4)

    def test_proofs_statements_and_snapshots_are_judged(self) -> None:
        def proof(chunks: list[ExportChunk]) -> None:
            self.records(chunks)[0].record.inclusion_path[0] = bytes(32)

        self.assert_found(proof, "RECORD_INSERTED", 1)

        def statement(chunks: list[ExportChunk]) -> None:
            next(c for c in chunks if c.HasField("workflow")).workflow.statement = ""

        self.assert_found(statement, "SIGNATURE_INVALID", 0)

        def snapshot(chunks: list[ExportChunk]) -> None:
            part = next(c for c in chunks if c.HasField("snapshot")).snapshot
            part.data = part.data[:-1] + bytes([part.data[-1] ^ 1])

        self.assert_found(snapshot, "SNAPSHOT_MODIFIED", 0)

        def gone(chunks: list[ExportChunk]) -> None:
            chunks.remove(next(c for c in chunks if c.HasField("snapshot")))

        self.assertIn("SNAPSHOT_MISSING", [f.violation for f in self.verified(gone).findings])

        def fork(chunks: list[ExportChunk]) -> None:
            header = next(c for c in chunks if c.workflow.HasField("forked_from")).workflow
            header.forked_from.hash = bytes(31) + b"\x01"

        self.assert_found(fork, "WORKFLOW_HEAD_MODIFIED", 0)

        def head(chunks: list[ExportChunk]) -> None:
            chunks[0].manifest.log_head = chunks[0].manifest.log_head.replace("\n\n", "\nx\n\n")

        self.assert_found(head, "SIGNATURE_INVALID", 0)

    def test_what_is_no_export_is_told(self) -> None:
        content = EXPORT.read_bytes()
        for broken in (b"", content[:-1], content[: len(content) // 2], content + b"\x00", b"\xff" * 100):
            with self.assertRaises(FormatError):
                verify_export(io.BytesIO(broken), KEYS)
        with self.assertRaises(FormatError):
            verify_export(EXPORT, ["not a key"])
        with self.assertRaises(ValueError):
            verify_export(EXPORT, [])


if __name__ == "__main__":
    unittest.main()
