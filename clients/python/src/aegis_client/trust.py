"""What a client believes of a log, and why: keys that it was given, and the last head that it saw."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aegis.v1.workflow_pb2 import (
    RECORD_KIND_CHECKPOINT,
    RECORD_KIND_STARTED,
    RECORD_KIND_TRANSITION,
    WORKFLOW_STATUS_RUNNING,
    Receipt,
    Record,
    Snapshot,
)
from aegis.v1.workflow_service_pb2 import StartWorkflowRequest, TransitionWorkflowRequest

from .errors import CursorAheadOfLog, HeadStoreError, HistoryDamaged, HistoryRewritten, IntegrityError, LogIdChanged
from .heads import HeadStore, KeptHead, MemoryHeadStore
from .merkle import EMPTY_ROOT, verify_consistency, verify_inclusion
from .record_format import ZERO, microseconds, record_problem
from .signed_note import LogHead, SignedNote, VerifierKey, split_log_id

_log = logging.getLogger("aegis_client")


class LogSource(Protocol):
    """What a head needs to be linked with another. It is believed nothing that it does not prove."""

    async def log_head(self) -> str:
        """The newest head, a signed note."""

    async def consistency_path(self, first_size: int, second_size: int) -> Sequence[bytes]:
        """The path that proves that the log of the first size is the beginning of that of the second."""


@dataclass(frozen=True)
class Kept:
    """A head that was verified and linked with all that were before."""

    head: LogHead
    note: str


class LogTrust:
    """Trusts a log as far as its key and the last head seen go.

    Every head that comes must be signed by one of the keys and be linked, by a consistency proof, with the head that is
    kept: whoever takes history back or rewrites it, even with the log's own key, cannot do so. A head that contradicts
    the kept one (:class:`HistoryRewritten`) or bears another log_id (:class:`LogIdChanged`) stops the client: every
    later call fails with the same error, also after a restart over the same store.

    One may serve several clients of the same log, on one event loop.
    """

    def __init__(
        self,
        verifier_keys: Sequence[str | VerifierKey],
        head_store: HeadStore | None = None,
        *,
        accepted_log_ids: Iterable[str] = (),
    ) -> None:
        """
        :param verifier_keys: the log's keys, ``name+keyid+base64``, at least one. Take them from whoever runs the log
            by another way than the server's own word.
        :param head_store: where the last head is kept; in memory by default, which a restart forgets.
        :param accepted_log_ids: log_ids that may follow the kept one: a new generation (``base/2``) that an operator
            accepted a loss for, or another log, whose key is then among the keys.
        :raises FormatError: one of the keys is none.
        """
        self._keys = [VerifierKey.parse(key) if isinstance(key, str) else key for key in verifier_keys]
        if not self._keys:
            raise ValueError("LogTrust needs at least one verifier key: without a key nothing is proven")
        self._store: HeadStore = head_store or MemoryHeadStore()
        self._accepted = set(accepted_log_ids)
        # Read and replaced without an await between: the event loop is the lock.
        self._kept: Kept | None = None
        self._stopped: IntegrityError | None = None
        # Whether the log behind the address was held against what is kept, since the start or since an acceptance.
        self._is_begun = False
        self._begin_lock = asyncio.Lock()
        self._save_lock = asyncio.Lock()
        self._saved: Kept | None = None

    @property
    def verifier_keys(self) -> list[VerifierKey]:
        """The keys that are trusted: once a later generation of the log was accepted, under its name too."""
        named = self._keys_of(self._kept.head.log_id) if self._kept else []
        return list(dict.fromkeys(self._keys + named))

    @property
    def head(self) -> LogHead | None:
        """The head that is kept; None before the first call."""
        return self._kept.head if self._kept else None

    @property
    def signed_note(self) -> str | None:
        """The head that is kept, as it was signed; None before the first call."""
        return self._kept.note if self._kept else None

    @property
    def stopped_by(self) -> IntegrityError | None:
        """What has stopped the client; None while nothing has."""
        return self._stopped

    def accept_log_id(self, log_id: str) -> None:
        """Goes on with another log_id: to be called when whoever runs the log has told why it changed.

        A later generation of the kept log has the same key. Of another log the key has to be among the trusted ones. A
        log that was rolled back or forked stays refused.
        """
        self._accepted.add(log_id)
        if isinstance(self._stopped, LogIdChanged):
            self._stopped = None
        self._is_begun = False

    async def begin(self, source: LogSource) -> None:
        """Holds the log behind a source against the kept head, once: before the first call, nothing is written to
        another log.

        :raises IntegrityError: it does not continue the kept head, or has stopped the client before.
        """
        self._raise_if_stopped()
        async with self._begin_lock:
            if self._is_begun:
                return
            if self._kept is None and (stored := await self._store.load()):
                self._kept = self._saved = self._kept_of(stored)
            await self.take_head(await source.log_head(), source, before=self._kept)
            self._is_begun = True

    async def take_head(
        self,
        note: str,
        source: LogSource,
        *,
        before: Kept | None = None,
        path: Sequence[bytes] | None = None,
    ) -> LogHead:
        """Verifies a head, links it with the kept one, and keeps it if it is newer.

        :param note: the signed note.
        :param source: proves what ``path`` does not.
        :param before: what was kept when the head was asked for: an older one than that takes history back.
        :param path: a consistency path from ``before`` to the head, where one came with it.
        :raises IntegrityError: it is not signed, or does not continue what was seen.
        """
        head = await self._verify(note)
        await self._link(Kept(head, note), source, before, path)
        await self._save(source)
        return head

    async def check_receipt(
        self, record: Record, receipt: Receipt, source: LogSource, *, before: Kept | None, replayed: bool
    ) -> None:
        """Verifies that a record is under a head that continues all that were seen.

        :raises IntegrityError: it is not.
        """
        head = await self._verify(receipt.log_head)
        if record.log_id != head.log_id and not replayed:
            raise IntegrityError(
                "RECORD_ALTERED", f'A new record of the log "{head.log_id}" says it is of "{record.log_id}".'
            )
        if not verify_inclusion(record.log_index, head.size, record.hash, receipt.inclusion_path, head.root):
            raise IntegrityError(
                "PROOF_INVALID",
                f"The inclusion path of record {record.sequence} of {record.workflow_id} does not lead to the head.",
                kept_note=self.signed_note or "",
                new_note=receipt.log_head,
            )
        await self._link(Kept(head, receipt.log_head), source, before, receipt.consistency_path)
        await self._save(source)

    def kept(self) -> Kept | None:
        """What is kept now: what the next write supposes."""
        self._raise_if_stopped()
        return self._kept

    async def _verify(self, note: str) -> LogHead:
        """The head that a note says, if a trusted key of its log has signed it."""
        self._raise_if_stopped()
        claimed = LogHead.claimed(note)
        if claimed is None:
            raise await self._alarm("SIGNATURE_INVALID", "What the server gives is not a signed head.", note)
        await self._check_log_id(claimed.log_id, note)
        head = LogHead.verify(note, self._keys_of(claimed.log_id))
        if head is None:
            raise await self._alarm("SIGNATURE_INVALID", f"No trusted key has signed the head {claimed}.", note)
        return head

    async def _check_log_id(self, log_id: str, note: str) -> None:
        kept = self._kept.head.log_id if self._kept else None
        known = {key.name for key in self._keys} if kept is None else {kept}
        if log_id in known:
            return
        base, generation = split_log_id(log_id)
        # A generation that ended does not come back.
        is_later = all(before_base != base or number < generation for before_base, number in map(split_log_id, known))
        if log_id not in self._accepted or not is_later:
            signed = SignedNote.parse(note)
            if signed is None or all(name != log_id for name, _ in signed.signatures):
                # A log signs in its own name: where it does not, the text was altered and tells nothing of another log.
                raise await self._alarm("SIGNATURE_INVALID", f'The head of "{log_id}" is not signed by that log.', note)
            raise await self._alarm(
                "LOG_ID_CHANGED",
                f'The log is "{log_id}" and not "{kept or ", ".join(sorted(known))}". A new generation begins only '
                "when an operator accepts that records are lost: go on with accept_log_id once told why.",
                note,
            )

    async def _link(self, new: Kept, source: LogSource, before: Kept | None, path: Sequence[bytes] | None) -> None:
        head = new.head
        if before and before.head.log_id == head.log_id and head.size < before.head.size:
            raise await self._rolled_back(f"The log has {head.size} records and had {before.head.size}", new.note)
        while True:
            self._raise_if_stopped()
            kept = self._kept
            if kept is None or kept.head.log_id != head.log_id:
                # The first one is trusted as it is. Of another log_id it was accepted that it does not continue the
                # kept one; once more, since another head may have been kept while this one was on its way.
                await self._check_log_id(head.log_id, new.note)
                if self._kept is kept:
                    self._kept = new
                    return
                continue
            if kept.head == head:
                return
            if not await self._is_continuation(kept, new, source, path if kept is before else None):
                raise await self._alarm(
                    "LOG_FORKED",
                    f"The log of {head.size} records and the one of {kept.head.size} do not continue each other: "
                    "history was rewritten.",
                    new.note,
                )
            if head.size < kept.head.size:
                return
            # Unless another head was kept meanwhile: then this one has to be linked with that.
            if self._kept is kept:
                self._kept = new
                return

    async def _is_continuation(self, kept: Kept, new: Kept, source: LogSource, path: Sequence[bytes] | None) -> bool:
        first, second = sorted((kept.head, new.head), key=lambda head: head.size)
        if first.size == second.size:
            return first.root == second.root
        if first.size == 0:
            return first.root == EMPTY_ROOT
        if path is None or first is not kept.head:
            try:
                path = await source.consistency_path(first.size, second.size)
            except CursorAheadOfLog as e:
                raise await self._rolled_back(
                    f"The log no longer has the {second.size} records it had", new.note
                ) from e
            except HistoryDamaged as e:
                raise await self._alarm(
                    "LOG_FORKED", f"The server cannot prove that its log continues the kept head: {e.message}", new.note
                ) from e
        return verify_consistency(first.size, second.size, first.root, second.root, path)

    async def _save(self, source: LogSource) -> None:
        """Keeps the newest head. Of many that wait each saves what the last one left, which for most is nothing."""
        async with self._save_lock:
            if self._saved is self._kept:
                return
            while True:
                stored = await self._store.load()
                if stored and (self._saved is None or stored.signed_note != self._saved.note):
                    # Another process shares the store.
                    await self._link(self._kept_of(stored), source, None, None)
                kept = self._kept
                if kept is None or (stored and stored.signed_note == kept.note):
                    break
                if await self._store.save(KeptHead(kept.note, tuple(str(key) for key in self._keys)), stored):
                    break
                # Another process was faster: what that one has kept is linked first.
            self._saved = kept

    def _kept_of(self, stored: KeptHead) -> Kept:
        claimed = LogHead.claimed(stored.signed_note)
        head = LogHead.verify(stored.signed_note, self._keys_of(claimed.log_id)) if claimed else None
        if head is None:
            raise HeadStoreError("The head that was kept is not signed by a trusted key.")
        return Kept(head, stored.signed_note)

    def _keys_of(self, log_id: str) -> list[VerifierKey]:
        """The keys of a log, under the name of whatever generation they were given."""
        base = split_log_id(log_id)[0]
        return [key.named(log_id) for key in self._keys if split_log_id(key.name)[0] == base]

    def _raise_if_stopped(self) -> None:
        if self._stopped:
            stopped = self._stopped
            raise type(stopped)(
                stopped.reason, stopped.message, kept_note=stopped.kept_note, new_note=stopped.new_note
            ) from stopped

    async def _rolled_back(self, what: str, note: str) -> IntegrityError:
        return await self._alarm("LOG_ROLLED_BACK", f"{what}: what was acknowledged was taken back.", note)

    async def _alarm(self, reason: str, message: str, note: str) -> IntegrityError:
        made = {"LOG_ROLLED_BACK": HistoryRewritten, "LOG_FORKED": HistoryRewritten, "LOG_ID_CHANGED": LogIdChanged}
        error = made.get(reason, IntegrityError)(reason, message, kept_note=self.signed_note or "", new_note=note)
        if reason in made:
            self._stopped = error
        try:
            await self._store.reject(note)
        except HeadStoreError as e:
            _log.error("The head that contradicts the kept one could not be kept beside it: %s", e)
        return error


def check_record(record: Record, namespace: str, workflow_id: str = "") -> None:
    """Recomputes a record that was read, and makes sure that it is one that was asked for.

    :raises IntegrityError: it is not what it says.
    """
    place = f"record {record.sequence} of {record.namespace}/{record.workflow_id}"
    if problem := record_problem(record):
        raise IntegrityError("RECORD_ALTERED", f"What came as {place} was altered: {problem}.")
    if record.namespace != namespace or (workflow_id and record.workflow_id != workflow_id):
        raise IntegrityError("RECORD_ALTERED", f"What came for {namespace}/{workflow_id} is {place}.")


def check_snapshot(record: Record, snapshot: Snapshot) -> None:
    """Holds the content of a snapshot against the digest of the record that carries it, which was checked before.

    :raises IntegrityError: it is another.
    """
    place = f"the snapshot of record {record.sequence} of {record.workflow_id}"
    if (
        hashlib.sha256(snapshot.content).digest() != record.snapshot_sha256
        or len(snapshot.content) != record.snapshot_size
    ):
        raise IntegrityError("SNAPSHOT_ALTERED", f"The content of {place} is not what was recorded.")
    if snapshot.content_type != record.snapshot_content_type:
        raise IntegrityError("SNAPSHOT_ALTERED", f"The content type of {place} is not what was recorded.")


def check_written(request: Any, response: Any) -> None:
    """Makes sure that the record of a write says what was sent.

    :param request: of StartWorkflow, TransitionWorkflow or CheckpointWorkflow, with its request_id.
    :param response: what came back.
    :raises IntegrityError: it says something else, or is not what it says.
    """
    record: Record = response.record
    check_record(record, request.namespace or "default", request.workflow_id)
    wrong = [field for field, sent, came in _sent_and_came(request, response) if sent != came]
    if wrong:
        raise IntegrityError(
            "RECORD_ALTERED",
            f"Record {record.sequence} of {record.workflow_id} does not say what was sent: {', '.join(wrong)} differ.",
        )


def _sent_and_came(request: Any, response: Any) -> Iterable[tuple[str, object, object]]:
    record: Record = response.record
    receipt: Receipt = response.receipt
    yield "record_hash", record.hash, receipt.record_hash
    yield "log_index", record.log_index, receipt.log_index
    yield "request_id", request.request_id, record.request_id
    yield "occurred_at", microseconds(request.occurred_at), microseconds(record.occurred_at)
    # What was erased since an earlier request wrote the record is no longer there to compare.
    if record.person_salt or not response.replayed:
        yield "actor", request.actor, record.actor
    if record.content_salt or not response.replayed:
        yield "reason", request.reason, record.reason
        yield "metadata", dict(request.metadata), dict(record.metadata)
    is_start = isinstance(request, StartWorkflowRequest)
    is_fork = isinstance(request, StartWorkflowRequest) and request.HasField("forked_from")
    has_snapshot = request.HasField("snapshot")
    # A fork without a snapshot, or without a state, takes over that of the record forked from.
    if (has_snapshot or not is_fork) and (record.snapshot_salt or not response.replayed):
        content = request.snapshot.content
        digest = hashlib.sha256(content).digest() if has_snapshot else b""
        yield "snapshot_sha256", digest, record.snapshot_sha256
        yield "snapshot_size", len(content), record.snapshot_size
        yield "snapshot_content_type", request.snapshot.content_type, record.snapshot_content_type
    if isinstance(request, StartWorkflowRequest):
        yield "kind", RECORD_KIND_STARTED, record.kind
        yield "sequence", 1, record.sequence
        yield "workflow_type", request.workflow_type, record.workflow_type
        yield "status", request.status or WORKFLOW_STATUS_RUNNING, record.status
        if request.initial_state or not is_fork:
            yield "to_state", request.initial_state, record.to_state
        if not is_fork:
            yield "previous_hash", ZERO, record.previous_hash
        elif request.forked_from.hash:
            yield "previous_hash", request.forked_from.hash, record.previous_hash
    elif isinstance(request, TransitionWorkflowRequest):
        yield "kind", RECORD_KIND_TRANSITION, record.kind
        yield "from_state", request.from_state, record.from_state
        yield "to_state", request.to_state, record.to_state
        yield "status", request.status or WORKFLOW_STATUS_RUNNING, record.status
    else:
        yield "kind", RECORD_KIND_CHECKPOINT, record.kind
    if not is_start and not response.replayed:
        yield "lease_epoch", request.lease_epoch, record.lease_epoch
        if request.WhichOneof("expected") == "expected_hash":
            yield "previous_hash", request.expected_hash, record.previous_hash
        elif request.WhichOneof("expected") == "expected_sequence":
            yield "sequence", request.expected_sequence + 1, record.sequence
