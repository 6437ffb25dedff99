"""One workflow that the engine handed out."""

from __future__ import annotations

import asyncio
import datetime
import enum
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aegis.v1.workflow_pb2 import Lease, Receipt, Record, Snapshot

from .errors import AegisError

if TYPE_CHECKING:
    from .engine import DurableWorkflowEngine

_log = logging.getLogger("aegis_client")


class WorkflowStatus(enum.IntEnum):
    """Where a workflow stands; numbered as in the contract."""

    RUNNING = 1
    """Open, and a worker should move it: the workflow is pending."""
    WAITING = 2
    """Open, and waiting for a human, a date or another system."""
    COMPLETED = 3
    """Closed: reached its end."""
    FAILED = 4
    """Closed: ended by a failure."""
    CANCELLED = 5
    """Closed: given up on purpose."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing moves it any more."""
        return self >= WorkflowStatus.COMPLETED

    @property
    def contract_name(self) -> str:
        """Its name in the contract."""
        return f"WORKFLOW_STATUS_{self.name}"


@dataclass(frozen=True)
class Written:
    """What a write left, verified."""

    record: Record
    receipt: Receipt
    replayed: bool
    """Whether an earlier request with the same request_id had made the record."""


class Workflow:
    """A workflow: its state object, where it stands, and its lease if it has one.

    ``async with workflow:`` is the time in which it is worked on: its object is checkpointed at the engine's interval
    while it has changed, the body is cancelled and :class:`LeaseLost` raised when the lease is lost, and the lease is
    released at the end. Writes of one workflow are made one after the other. Use it on the engine's event loop.

    A write whose outcome stayed unknown (:class:`DeadlineExceeded`, a cancellation) leaves this object where it was:
    repeat it with the error's request_id, or resume the workflow anew.
    """

    def __init__(
        self,
        engine: DurableWorkflowEngine,
        *,
        record: Record,
        metadata: Mapping[str, str],
        checkpoint_sequence: int,
        data: Any,
        lease: Lease | None,
    ) -> None:
        self._engine = engine
        self.workflow_id = record.workflow_id
        self.workflow_type = record.workflow_type
        self.state = record.to_state
        """Its state, after its newest record that this object knows."""
        self.status = WorkflowStatus(record.status)
        self.sequence = record.sequence
        """The sequence of its newest record."""
        self.head_hash = record.hash
        """The hash of its newest record: what the next write expects."""
        self.checkpoint_sequence = checkpoint_sequence
        """The sequence of the newest record that carries a snapshot; 0 when none does."""
        self.metadata = dict(metadata)
        """What it can be found by: the metadata of its first record, as the server tells it."""
        self.data = data
        """The state object; None for none. Change it as you like, on the event loop: writes take it as it is then."""
        self.lease = lease
        """The lease; None when it is worked on without one."""
        self.records_since: list[Record] = []
        """When it was resumed: the records after the checkpoint (without one: from the first), oldest first."""
        self.more_records = False
        """Whether :attr:`records_since` was cut; :meth:`DurableWorkflowEngine.records` has all."""
        # Held by each write, so that the next one knows where the workflow stands.
        self._lock = asyncio.Lock()
        # What the last snapshot was, to tell whether the object has changed since.
        self._stored: bytes | None = None
        self._failure: AegisError | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False
        self._cancelling = 0
        self._checkpoints: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    @property
    def lost(self) -> AegisError | None:
        """Why it must not be worked on any more: its lease is lost, or the client has stopped. None while it may be."""
        return self._failure

    @property
    def lease_epoch(self) -> int:
        """The fencing token of the lease, to be passed to whatever else the work touches; 0 without a lease."""
        return self.lease.epoch if self.lease else 0

    async def transition(
        self,
        to_state: str,
        *,
        status: WorkflowStatus = WorkflowStatus.RUNNING,
        actor: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        occurred_at: datetime.datetime | None = None,
        checkpoint: bool | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Written:
        """See :meth:`DurableWorkflowEngine.transition`."""
        return await self._engine.transition(
            self,
            to_state,
            status=status,
            actor=actor,
            reason=reason,
            metadata=metadata,
            occurred_at=occurred_at,
            checkpoint=checkpoint,
            request_id=request_id,
            timeout=timeout,
        )

    async def checkpoint(
        self,
        *,
        actor: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        occurred_at: datetime.datetime | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Written:
        """See :meth:`DurableWorkflowEngine.checkpoint`."""
        return await self._engine.checkpoint(
            self,
            actor=actor,
            reason=reason,
            metadata=metadata,
            occurred_at=occurred_at,
            request_id=request_id,
            timeout=timeout,
        )

    async def wait(
        self,
        to_state: str,
        *,
        actor: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        occurred_at: datetime.datetime | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Written:
        """See :meth:`DurableWorkflowEngine.wait`."""
        return await self._engine.wait(
            self,
            to_state,
            actor=actor,
            reason=reason,
            metadata=metadata,
            occurred_at=occurred_at,
            request_id=request_id,
            timeout=timeout,
        )

    async def release(self) -> None:
        """Gives the lease up, so that another can go on at once. Does nothing without a lease."""
        await self._engine.release(self)

    async def __aenter__(self) -> Workflow:
        if self._task:
            raise RuntimeError(f"The workflow {self.workflow_id} is worked on already.")
        self._raise_if_lost()
        self._task = asyncio.current_task()
        self._is_cancelled = False
        self._cancelling = self._task.cancelling() if self._task else 0
        self._stop.clear()
        if self._engine.checkpoint_interval:
            self._checkpoints = asyncio.create_task(self._checkpoint_periodically(self._engine.checkpoint_interval))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        task, self._task = self._task, None
        failure = None
        if self._is_cancelled and task:
            # Ours, unless somebody else has cancelled the task too.
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                failure = self._failure
        checkpoints, self._checkpoints = self._checkpoints, None
        if checkpoints:
            # A checkpoint on its way is let arrive, so that it is known where the workflow stands.
            self._stop.set()
            if self._failure:
                checkpoints.cancel()
            await asyncio.wait([checkpoints])
        await self._engine._release_quietly([self])
        if failure:
            raise failure from error

    async def _checkpoint_periodically(self, interval: float) -> None:
        while not self._failure:
            try:
                await asyncio.wait_for(self._stop.wait(), interval)
                return
            except asyncio.TimeoutError:
                pass
            if self.status != WorkflowStatus.RUNNING or self._failure:
                continue
            try:
                await self._engine._checkpoint_if_changed(self)
            except AegisError as e:
                # What is lost is told by the lease; what cannot be stored now may be at the next turn.
                _log.warning("The workflow %s could not be checkpointed: %s", self.workflow_id, e)
            except Exception:
                _log.exception("The state object of the workflow %s could not be encoded.", self.workflow_id)

    def _raise_if_lost(self) -> None:
        if self._failure:
            raise self._failure

    def _fail(self, failure: AegisError) -> None:
        """Tells whoever works on it to stop."""
        if self._failure:
            return
        self._failure = failure
        self.lease = None
        # The task that met it by itself is told by the error that it gets.
        if self._task and self._task is not asyncio.current_task():
            self._is_cancelled = True
            self._task.cancel()

    def _advance(self, record: Record, snapshot: Snapshot | None) -> None:
        """Takes over where a write left the workflow. An old record that a request_id brought back moves nothing."""
        if record.previous_hash != self.head_hash or record.sequence != self.sequence + 1:
            return
        self.state = record.to_state
        self.status = WorkflowStatus(record.status)
        self.sequence = record.sequence
        self.head_hash = record.hash
        if snapshot is not None:
            self.checkpoint_sequence = record.sequence
            self._stored = digest_of(snapshot)

    def _has_changed(self, snapshot: Snapshot) -> bool:
        return digest_of(snapshot) != self._stored


def digest_of(snapshot: Snapshot) -> bytes:
    """Tells one snapshot from another, their content types included."""
    return hashlib.sha256(snapshot.content_type.encode() + b"\x00" + snapshot.content).digest()
