"""Verifies an export, from end to end, trusting nothing but verifier keys.

An export is a sequence of ``ExportChunk`` messages, each with its length as a varint before it: a manifest with the
signed head of the log, then for each workflow a header with the log's signed statement of its last record, its
snapshots, and its records with their inclusion paths, and last a trailer with counts and the SHA-256 of all before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from aegis.v1.recovery_service_pb2 import (
    ExportChunk,
    ExportManifest,
    ExportRecord,
    ExportSnapshotPart,
    ExportTrailer,
    ExportWorkflow,
)
from aegis.v1.workflow_pb2 import Record
from google.protobuf.message import DecodeError

from .chain import FINDINGS_MAX, ChainVerifier, Finding
from .merkle import verify_inclusion
from .record_format import ZERO, FormatError
from .signed_note import LogHead, VerifierKey, WorkflowStatement

EXPORT_FORMAT = "aegis/export/v1"
_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
_SNAPSHOT_BYTES_MAX = 3 * 1024 * 1024


@dataclass(frozen=True)
class ExportedWorkflow:
    """One workflow of a verified export."""

    namespace: str
    workflow_id: str
    records: int
    head_hash: bytes
    """The hash of its last record, as recomputed."""


@dataclass
class ExportReport:
    """What an export was found to be, once all of it was read."""

    manifest: ExportManifest
    head: LogHead | None
    """The head that a trusted key has signed and that its proofs lead to; None when none has."""
    workflows: list[ExportedWorkflow] = field(default_factory=list)
    records: int = 0
    snapshots: int = 0
    findings: list[Finding] = field(default_factory=list)
    """All that is wrong, at most 1,000 a workflow."""

    @property
    def intact(self) -> bool:
        """Whether a trusted key proves all of it, and that each history goes as far as the log knew."""
        return self.head is not None and not self.findings


def verify_export(source: str | Path | BinaryIO, verifier_keys: Sequence[str | VerifierKey]) -> ExportReport:
    """Verifies an export without a server: every record, link, snapshot, inclusion path, the signed head and
    statements.

    :param source: a file, or a binary stream at the export's beginning.
    :param verifier_keys: the keys of the logs whose exports are trusted, ``name+keyid+base64``; at least one. Never
        take them from the export itself.
    :raises FormatError: it is not a whole export, or a key is none. What was altered is no exception but a finding.
    """
    keys = [VerifierKey.parse(key) if isinstance(key, str) else key for key in verifier_keys]
    if not keys:
        raise ValueError("verify_export needs at least one verifier key: without a key nothing is proven")
    if not isinstance(source, (str, Path)):
        return _verify(source, keys)
    with open(source, "rb") as stream:
        return _verify(stream, keys)


def _verify(stream: BinaryIO, keys: list[VerifierKey]) -> ExportReport:
    chunks = _Chunks(stream)
    first = chunks.next()
    if first is None or first.WhichOneof("part") != "manifest":
        raise FormatError("not an export: it does not begin with a manifest")
    manifest = first.manifest
    if manifest.format != EXPORT_FORMAT:
        raise FormatError(f'not an export of this version: its format is "{manifest.format}", not "{EXPORT_FORMAT}"')
    report = ExportReport(manifest, LogHead.verify(manifest.log_head, keys))
    head = report.head
    signers = [key for key in keys if head and LogHead.verify(manifest.log_head, [key])]
    if head is None:
        _damage(report, "SIGNATURE_INVALID", "None of the trusted keys has signed its head.")
    elif (head.log_id, head.size) != (manifest.log_id, manifest.log_size):
        _damage(report, "FIELD_MODIFIED", "The manifest tells another log or size than its head.")
    current: _WorkflowCheck | None = None

    def complete() -> None:
        if current:
            workflow, findings = current.complete()
            report.workflows.append(workflow)
            report.findings += findings
            report.snapshots += current.snapshots

    while chunk := chunks.next():
        part = chunk.WhichOneof("part")
        if part == "workflow":
            complete()
            current = _WorkflowCheck(chunk.workflow, head, signers)
        elif part == "snapshot" and current:
            current.add_snapshot_part(chunk.snapshot)
        elif part == "record" and current and chunk.record.HasField("record"):
            current.add_record(chunk.record)
            report.records += 1
        elif part == "trailer":
            complete()
            _check_trailer(chunks, chunk.trailer, report)
            return report
        else:
            raise FormatError(f"not an export: the message before byte {chunks.position} does not belong there")
    raise FormatError("not a whole export: it ends early, without a trailer")


def _check_trailer(chunks: _Chunks, trailer: ExportTrailer, report: ExportReport) -> None:
    digest = chunks.digest_before
    if chunks.next() is not None:
        raise FormatError("not an export: something follows the trailer")
    if trailer.sha256 != digest:
        _damage(
            report, "FIELD_MODIFIED", "Its SHA-256 is not that of the trailer: it was altered, or damaged on the way."
        )
    said = (trailer.workflows, trailer.records, trailer.snapshots)
    if said != (len(report.workflows), report.records, report.snapshots):
        _damage(report, "FIELD_MODIFIED", "It does not hold as much as its trailer says.")


def _damage(report: ExportReport, violation: str, message: str) -> None:
    report.findings.append(Finding(violation, "", "", 0, message))


class _Chunks:
    """Reads messages and hashes them on the way. No length makes it take more memory than one message may have."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        # The message last read with its length: hashed when the next one is.
        self._last = b""
        self.position = 0

    @property
    def digest_before(self) -> bytes:
        """The SHA-256 of all messages before the one last read."""
        return self._sha256.digest()

    def next(self) -> ExportChunk | None:
        self._sha256.update(self._last)
        self._last = b""
        begin = self.position
        length = shift = 0
        prefix = bytearray()
        while True:
            byte = self._stream.read(1)
            if not byte:
                if prefix:
                    raise FormatError("not a whole export: it ends early")
                return None
            prefix += byte
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
            if len(prefix) == 5:
                raise FormatError(f"not an export: there is no message at byte {begin}")
        if length > _MESSAGE_BYTES_MAX:
            raise FormatError(f"not an export: there is no message at byte {begin}")
        body = bytearray()
        while len(body) < length:
            piece = self._stream.read(length - len(body))
            if not piece:
                raise FormatError("not a whole export: it ends early")
            body += piece
        self._last = bytes(prefix + body)
        self.position += len(self._last)
        try:
            chunk: ExportChunk = ExportChunk.FromString(bytes(body))
        except (DecodeError, ValueError) as e:
            raise FormatError(f"not an export: there is no message at byte {begin}") from e
        return chunk


class _WorkflowCheck:
    """Judges one workflow of an export, message by message."""

    def __init__(self, header: ExportWorkflow, head: LogHead | None, signers: list[VerifierKey]) -> None:
        self._header = header
        self._head = head
        self._signers = signers
        self._verifier = ChainVerifier(header.namespace, header.workflow_id)
        self._findings: list[Finding] = []
        self._first: Record | None = None
        self._last: Record | None = None
        # By the SHA-256 they came under: the SHA-256 and size that the bytes have.
        self._contents: dict[bytes, tuple[bytes, int]] = {}
        self._open: tuple[bytes, int, bytearray] | None = None

    @property
    def snapshots(self) -> int:
        return len(self._contents)

    def add_snapshot_part(self, part: ExportSnapshotPart) -> None:
        if len(part.sha256) != 32 or part.size > _SNAPSHOT_BYTES_MAX:
            raise FormatError("not an export: a part of a snapshot is malformed")
        sha256, size, content = self._open or (part.sha256, part.size, bytearray())
        is_next = (part.sha256, part.size, part.offset) == (sha256, size, len(content))
        if not is_next or len(content) + len(part.data) > size:
            raise FormatError("not an export: the parts of a snapshot are out of order")
        content += part.data
        if len(content) < size:
            self._open = (sha256, size, content)
            return
        self._open = None
        actual = hashlib.sha256(content).digest()
        if actual != sha256:
            self._find(
                "SNAPSHOT_MODIFIED", 0, "The bytes of a snapshot have another SHA-256 than the one they come under."
            )
        self._contents[sha256] = (actual, size)

    def add_record(self, message: ExportRecord) -> None:
        record = message.record
        if self._open:
            self._find("SNAPSHOT_MODIFIED", record.sequence, "A snapshot is not whole before this record.")
            self._open = None
        head = self._head
        if head and not verify_inclusion(record.log_index, head.size, record.hash, message.inclusion_path, head.root):
            self._find(
                "RECORD_INSERTED",
                record.sequence,
                f"Its inclusion path does not lead to the head: the log of {head.size} records has another record at "
                f"{record.log_index}, or the path was altered.",
            )
        self._verifier.add(record)
        self._verifier.add_snapshot(record, self._contents.get(record.snapshot_sha256))
        self._first = self._first or record
        self._last = record

    def complete(self) -> tuple[ExportedWorkflow, list[Finding]]:
        header = self._header
        if self._open:
            self._find("SNAPSHOT_MODIFIED", 0, "A snapshot is not whole.")
        last = self._last.sequence if self._last else 0
        if header.records > last or not self._last:
            self._find(
                "TAIL_TRUNCATED",
                last + 1,
                f"Its header tells of {header.records} records, and the last that follows is {last}.",
            )
        elif (header.records, header.head_hash) != (last, self._verifier.head_hash):
            self._find("WORKFLOW_HEAD_MODIFIED", 0, "Its records are not those that its header says.")
        origin = header.forked_from.hash if header.HasField("forked_from") else ZERO
        if self._first and (self._first.previous_hash != origin or (header.HasField("forked_from") and origin == ZERO)):
            self._find("WORKFLOW_HEAD_MODIFIED", 0, "Its first record does not follow from what forked_from names.")
        self._check_statement(last)
        findings = self._findings + self._verifier.complete()
        workflow = ExportedWorkflow(
            header.namespace, header.workflow_id, self._verifier.records, self._verifier.head_hash
        )
        return workflow, findings[:FINDINGS_MAX]

    def _check_statement(self, last: int) -> None:
        header, head = self._header, self._head
        if head is None:
            return
        said = WorkflowStatement.verify(header.statement, self._signers)
        if said is None:
            self._find("SIGNATURE_INVALID", 0, "The log's key has not signed the statement of its last record.")
        elif (said.log_id, said.log_size, said.namespace, said.workflow_id) != (
            head.log_id,
            head.size,
            header.namespace,
            header.workflow_id,
        ):
            self._find(
                "WORKFLOW_HEAD_MODIFIED",
                0,
                f"The statement is of {said.namespace}/{said.workflow_id} at size {said.log_size} of {said.log_id}.",
            )
        elif said.sequence > last:
            self._find(
                "TAIL_TRUNCATED",
                last + 1,
                f"The log's statement names record {said.sequence} as its last, and the export ends with {last}.",
            )
        elif (said.sequence, said.hash) != (last, self._verifier.head_hash):
            self._find("WORKFLOW_HEAD_MODIFIED", last, "Its last record is not the one that the log's statement names.")

    def _find(self, violation: str, sequence: int, message: str) -> None:
        self._findings.append(Finding(violation, self._header.namespace, self._header.workflow_id, sequence, message))
