"""Verifies a workflow's chain from its records' fields, trusting no hash that came with them."""

from __future__ import annotations

from dataclasses import dataclass

from aegis.v1.workflow_pb2 import (
    RECORD_KIND_CHECKPOINT,
    RECORD_KIND_ERASURE,
    RECORD_KIND_STARTED,
    RECORD_KIND_TRANSITION,
    WORKFLOW_STATUS_COMPLETED,
    Record,
    RecordKind,
    WorkflowStatus,
)

from .record_format import (
    INTEGER_MAX,
    ZERO,
    FormatError,
    encode_record,
    hash_of,
    is_checkpoint,
    malformation,
    microseconds,
    part_digests,
)

FINDINGS_MAX = 1000
"""Findings beyond these are not kept."""

_KINDS = frozenset(RecordKind.values()) - {0}
_STATUSES = frozenset(WorkflowStatus.values()) - {0}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was recorded."""

    violation: str
    """Its kind, as ViolationClass names it: FIELD_MODIFIED, RECORD_MISSING, TAIL_TRUNCATED and so on."""
    namespace: str
    workflow_id: str
    """Empty where it concerns a whole export."""
    sequence: int
    """The record; 0 where it concerns the workflow as a whole."""
    message: str
    """What is wrong, for people to read."""

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.workflow_id}" if self.workflow_id else "export"
        return f"{place}{f' record {self.sequence}' if self.sequence else ''}: {self.violation}: {self.message}"


@dataclass(frozen=True)
class _Erasure:
    """What an ERASURE record says was erased from its own chain."""

    ranges: tuple[tuple[int, int], ...]
    parts: frozenset[str]

    @staticmethod
    def of(record: Record) -> _Erasure | None:
        if record.kind != RECORD_KIND_ERASURE:
            return None
        ranges: list[tuple[int, int]] = []
        for text in record.metadata.get("aegis.erased", "").split(","):
            ends = text.split("-")
            if len(ends) > 2 or not all(end.isascii() and end.isdigit() for end in ends):
                return None
            first, last = int(ends[0]), int(ends[-1])
            if last < first or last > INTEGER_MAX:
                return None
            # Only what came before can be erased: an erasure excuses neither its own values nor later ones.
            ranges.append((first, min(last, record.sequence - 1)))
        return _Erasure(tuple(ranges), frozenset(record.metadata.get("aegis.parts", "").split(",")))

    def covers(self, sequence: int, part: str) -> bool:
        return part in self.parts and any(first <= sequence <= last for first, last in self.ranges)

    def covers_bytes(self, sequence: int) -> bool:
        return self.covers(sequence, "snapshot") or self.covers(sequence, "snapshot-bytes")


class Erasures:
    """Which values of one chain are gone, and which of them an ERASURE record covers. Give the records in any order."""

    def __init__(self) -> None:
        self._missing: list[tuple[int, int, str]] = []
        self._erasures: list[_Erasure] = []

    def add(self, record: Record) -> None:
        """Takes a record into account, whose digests were recomputed as far as it has values."""
        for part, digest, salt in (
            ("person", record.person_digest, record.person_salt),
            ("content", record.content_digest, record.content_salt),
            ("snapshot", record.snapshot_digest, record.snapshot_salt),
        ):
            if not salt and digest != ZERO:
                self._missing.append((record.sequence, record.kind, part))
        if erasure := _Erasure.of(record):
            self._erasures.append(erasure)

    def uncovered(self) -> list[tuple[int, str]]:
        """Sequence and part of all values that are gone without an ERASURE record that covers them."""
        return [
            (sequence, part)
            for sequence, kind, part in self._missing
            # What an ERASURE says can never be erased itself.
            if (kind == RECORD_KIND_ERASURE and part == "content")
            or not any(e.covers(sequence, part) for e in self._erasures)
        ]

    def covers_bytes(self, sequence: int) -> bool:
        """Whether the bytes of a record's snapshot may be gone."""
        return any(e.covers_bytes(sequence) for e in self._erasures)


class ChainVerifier:
    """Recomputes a chain record by record, so that one of any length can stream through.

    Give the records in the order in which they come, from the first, then call :meth:`complete`. Used by one thread.
    """

    def __init__(self, namespace: str, workflow_id: str) -> None:
        self._key = (namespace, workflow_id)
        self._findings: list[Finding] = []
        self._missing_bytes: list[Record] = []
        self._erasures = Erasures()
        # The last record that was read, and the hashes one of which its successor has to name. None where that is
        # unknown: after a gap, and for the first record, which in a fork names a record of another chain. Two where
        # fields and claimed hash of the record disagree, and only the successor can tell which was altered.
        self._previous: Record | None = None
        self._links: tuple[bytes, ...] | None = None
        self._next = 1
        self._lease_epoch = 0
        self.records = 0
        """How many records were recomputed."""
        self.snapshots = 0
        """How many snapshots were held against their records."""
        self.head_hash = ZERO
        """The hash of the last record, as recomputed."""

    def add(self, record: Record) -> None:
        """Checks the next record."""
        self.records += 1
        sequence = record.sequence
        if problem := malformation(record):
            self._find("FIELD_MODIFIED", sequence, f"It is malformed: {problem}.")
        try:
            digest = hash_of(encode_record(record))
            parts = part_digests(record)
        except FormatError as e:
            self._find("FIELD_MODIFIED", sequence, f"It is malformed: {e}.")
            self._previous, self._links, self._next = None, None, max(self._next, sequence) + 1
            return
        is_sound = digest == record.hash
        if not is_sound:
            self._find("FIELD_MODIFIED", sequence, "Its fields do not give its hash.")
        if sequence < self._next:
            self._find("RECORDS_REORDERED", self._next, f"Record {self._next} was expected here, and {sequence} came.")
            self._previous, self._links = record, None
            return
        if sequence > self._next:
            last = sequence - 1
            gone = f"Record {last} is" if last == self._next else f"The records {self._next} to {last} are"
            self._find("RECORD_MISSING", self._next, f"{gone} gone.")
            self._previous, self._links = None, None
        if is_sound:
            self._check_rules(record)
        for part, (expected, actual) in parts.items():
            if actual is not None and actual != expected:
                self._find(
                    "FIELD_MODIFIED", sequence, f'The values of the part "{part}" are not those that were recorded.'
                )
        self._erasures.add(record)
        self._lease_epoch = max(self._lease_epoch, record.lease_epoch)
        self._previous, self.head_hash = record, digest
        self._links = (digest,) if is_sound else (digest, record.hash)
        self._next = sequence + 1

    def add_snapshot(self, record: Record, found: tuple[bytes, int] | None) -> None:
        """Checks the snapshot of a record against the SHA-256 and size of the bytes that came, None where none came.

        Bytes that are gone are judged at the end, since a later ERASURE may cover them.
        """
        if not record.snapshot_salt:
            return
        if found is None:
            self._missing_bytes.append(record)
            return
        self.snapshots += 1
        if found != (record.snapshot_sha256, record.snapshot_size):
            self._find(
                "SNAPSHOT_MODIFIED", record.sequence, "The bytes of the snapshot are not those that were recorded."
            )

    def complete(self) -> list[Finding]:
        """Judges what only the end of the chain can tell, and gives all findings by sequence."""
        for sequence, part in self._erasures.uncovered():
            self._find(
                "ERASED_WITHOUT_RECORD",
                sequence,
                f'The values of the part "{part}" are gone and no ERASURE record covers them.',
            )
        for record in self._missing_bytes:
            if not self._erasures.covers_bytes(record.sequence):
                self._find(
                    "SNAPSHOT_MISSING",
                    record.sequence,
                    "The bytes of the snapshot are gone and no ERASURE record covers them.",
                )
        return sorted(self._findings, key=lambda finding: finding.sequence or INTEGER_MAX)

    def _check_rules(self, record: Record) -> None:
        if record.kind not in _KINDS or record.status not in _STATUSES:
            self._find("FIELD_MODIFIED", record.sequence, "Its kind or status is unknown.")
            return
        if (record.namespace, record.workflow_id) != self._key:
            self._find(
                "RECORD_INSERTED",
                record.sequence,
                f"It is a record of the workflow {record.namespace}/{record.workflow_id}.",
            )
            return
        if self._links is not None and record.previous_hash not in self._links:
            self._find(
                "RECORD_INSERTED",
                record.sequence,
                "It does not follow from the record before: its previous_hash is another.",
            )
            return
        if problem := _rule_broken(record, self._previous):
            self._find("RECORD_INSERTED", record.sequence, problem)
        if self._previous and microseconds(record.recorded_at) < microseconds(self._previous.recorded_at):
            self._find("CLOCK_REGRESSION", record.sequence, "Its recorded_at is before that of the record before.")
        if record.lease_epoch != 0 and record.lease_epoch < self._lease_epoch:
            self._find("CLOCK_REGRESSION", record.sequence, "Its lease_epoch is lower than one before.")

    def _find(self, violation: str, sequence: int, message: str) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(violation, *self._key, sequence, message))


def _rule_broken(record: Record, previous: Record | None) -> str | None:
    """What is wrong with a record after the one before (None when that is unknown), or None."""
    if (record.sequence == 1) != (record.kind == RECORD_KIND_STARTED):
        return "A chain has exactly one STARTED record, its first."
    if (record.kind == RECORD_KIND_STARTED) != (record.from_state == ""):
        return "A STARTED record has no from_state, and every other has one."
    if record.kind == RECORD_KIND_ERASURE and (record.namespace, record.workflow_id) == ("aegis.system", "log"):
        return "Nothing of the log's own history is ever erased."
    if record.kind in (RECORD_KIND_CHECKPOINT, RECORD_KIND_ERASURE) and record.from_state != record.to_state:
        return "A record of this kind cannot change the state."
    if record.kind == RECORD_KIND_CHECKPOINT and not is_checkpoint(record):
        return "A CHECKPOINT carries a snapshot, and this one has none."
    if previous is None or record.kind == RECORD_KIND_STARTED:
        return None
    if record.workflow_type != previous.workflow_type:
        return "The workflow_type is not that of the record before."
    if record.from_state != previous.to_state:
        return "The from_state is not the state that the record before left."
    if record.kind != RECORD_KIND_TRANSITION and record.status != previous.status:
        return "A record of this kind cannot change the status."
    if previous.status >= WORKFLOW_STATUS_COMPLETED and record.kind != RECORD_KIND_ERASURE:
        return "The workflow was closed by the record before."
    return None
