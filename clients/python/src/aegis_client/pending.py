"""Resumes what is pending, one after the other."""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aegis.v1.recovery_service_pb2 import ResumePendingWorkflowsRequest, ResumeWorkflowResponse

from .errors import AegisError, DeadlineExceeded, is_repeatable
from .workflow import Workflow

if TYPE_CHECKING:
    from .engine import DurableWorkflowEngine

_log = logging.getLogger("aegis_client")
_WAITING_MAX = 100


@dataclass(frozen=True)
class PendingFailure:
    """A workflow that could not be resumed; it holds no lease."""

    workflow_id: str
    reason: str
    """One of the contract's ErrorReason, or of IntegrityError's, or CODEC where its snapshot could not be decoded, or the
    code of a call that failed without a reason."""
    message: str


class PendingWorkflows:
    """Hands out pending workflows, each leased and verified. See :meth:`DurableWorkflowEngine.resume_all_pending`.

    Leases are renewed in the background, of what waits here and of what was handed out; what was lost meanwhile is not
    handed out. Closing it, or leaving ``async with``, takes no more and releases all that it took and that still has a
    lease. Merely dropping it, as by a ``break``, leaves what was handed out to whoever has it. So does running to its
    end.
    """

    def __init__(
        self, engine: DurableWorkflowEngine, request: ResumePendingWorkflowsRequest, poll_interval: float | None
    ) -> None:
        self._reader = PendingReader(engine, request, poll_interval)

    @property
    def failures(self) -> list[PendingFailure]:
        """The workflows that could not be resumed so far, each once."""
        return list(self._reader.failures.values())

    @property
    def held_by_others(self) -> int:
        """How many were held by others in the last pass that ended."""
        return self._reader.held_by_others

    def __aiter__(self) -> PendingWorkflows:
        return self

    async def __anext__(self) -> Workflow:
        reader = self._reader
        if not reader.is_begun:
            reader.begin()
            # The reader does not know this object, so that dropping it is noticed.
            loop = asyncio.get_running_loop()
            weakref.finalize(self, _abandon, loop, reader).atexit = False
        workflow = await reader.next()
        if workflow is None:
            raise StopAsyncIteration
        return workflow

    async def __aenter__(self) -> PendingWorkflows:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Takes no more, and releases what it took and is still leased."""
        await self._reader.close(release_handed_out=True)


def _abandon(loop: asyncio.AbstractEventLoop, reader: PendingReader) -> None:
    # Objects are collected on any thread, and after the end of their loop.
    if not loop.is_closed():
        loop.call_soon_threadsafe(reader.abandon)


class PendingReader:
    """Reads what is pending ahead of whoever takes it, up to 100 workflows."""

    def __init__(
        self, engine: DurableWorkflowEngine, request: ResumePendingWorkflowsRequest, poll_interval: float | None
    ) -> None:
        self._engine = engine
        self._request = request
        self._max_workflows = request.max_workflows
        self._poll_interval = poll_interval
        self._waiting: asyncio.Queue[Workflow | None] = asyncio.Queue(_WAITING_MAX)
        self._handed_out: list[Workflow] = []
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        # Whether reading once stood still for so long that what was leased ahead of it may have expired.
        self._is_late = False
        self.failures: dict[str, PendingFailure] = {}
        self.held_by_others = 0

    @property
    def is_begun(self) -> bool:
        return self._task is not None

    def begin(self) -> None:
        self._engine._pending.add(self)
        self._task = asyncio.create_task(self._read())

    async def next(self) -> Workflow | None:
        """The next workflow whose lease is not lost; None at the end."""
        while workflow := await self._waiting.get():
            if workflow.lost is None:
                self._handed_out = [w for w in self._handed_out if w.lease]
                self._handed_out.append(workflow)
                return workflow
        # For whoever asks once more.
        self._waiting.put_nowait(None)
        if self._error:
            raise self._error
        return None

    def abandon(self) -> None:
        self._closing = asyncio.create_task(self.close(release_handed_out=False))

    async def close(self, *, release_handed_out: bool) -> None:
        self._engine._pending.discard(self)
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        held = self._handed_out if release_handed_out else []
        while not self._waiting.empty():
            if workflow := self._waiting.get_nowait():
                held.append(workflow)
        self._waiting.put_nowait(None)
        await self._engine._release_quietly(held)

    async def _read(self) -> None:
        try:
            await self._pass_retried()
            while self._poll_interval is not None:
                await asyncio.sleep(self._poll_interval)
                await self._pass_retried()
        except Exception as e:
            self._error = e
        await self._waiting.put(None)
        self._engine._pending.discard(self)

    async def _pass_retried(self) -> None:
        """One pass over all that is pending. A stream that breaks strands nothing: it is begun anew."""
        until = asyncio.get_running_loop().time() + self._engine.client.timeout
        attempt = 0
        while True:
            try:
                await self._pass()
                return
            except AegisError as e:
                # Who polls waits for the server however long it takes.
                is_polling = self._poll_interval is not None
                if not is_repeatable(e) and not (is_polling and isinstance(e, DeadlineExceeded)):
                    raise
                delay = min(2.0, 0.1 * 2 ** min(attempt, 10)) * random.uniform(0.75, 1.25) + (e.retry_delay or 0.0)
                if not is_polling and asyncio.get_running_loop().time() + delay >= until:
                    raise DeadlineExceeded(f"The server was away for too long: {e.message}", code=e.code) from e
                _log.warning("Pending workflows could not be resumed, and will be tried again: %s", e)
                await asyncio.sleep(delay)
                attempt += 1

    async def _pass(self) -> None:
        if self._max_workflows:
            # Those that failed are free and come again: they must not keep all others away.
            self._request.max_workflows = self._max_workflows + len(self.failures)
        async for message in self._engine.client.stream("ResumePendingWorkflows", self._request):
            # Only the first pass is after a crash; later it would take from ourselves.
            self._request.take_over_own = False
            kind = message.WhichOneof("result")
            if kind == "failed":
                self._fail(message.failed.workflow_id, message.failed.reason, message.failed.message)
            elif kind == "summary":
                self.held_by_others = message.summary.held_by_others
            elif kind == "resumed":
                await self._take(message.resumed)

    async def _take(self, resumed: ResumeWorkflowResponse) -> None:
        workflow_id = resumed.workflow.workflow_id
        try:
            workflow = await self._engine._take_resumed(resumed, workflow_id)
        except Exception as e:
            await self._engine._give_back(workflow_id, resumed.lease.epoch)
            if not isinstance(e, AegisError):
                self._fail(workflow_id, "CODEC", f"Its snapshot could not be decoded: {e}")
            elif is_repeatable(e) or isinstance(e, DeadlineExceeded):
                # It is the server that failed, and not this workflow.
                raise
            else:
                self._fail(workflow_id, e.reason or e.code.name, e.message)
            return
        if self._is_late:
            await self._engine.leases.renew([workflow])
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self._waiting.put(workflow)
        except asyncio.CancelledError:
            await self._engine._release_quietly([workflow])
            raise
        # The server has leased more than it could send meanwhile.
        self._is_late = self._is_late or loop.time() - began > self._engine.leases.duration / 3

    def _fail(self, workflow_id: str, reason: str, message: str) -> None:
        known = self.failures.get(workflow_id)
        # Who polls meets the same failure again and again.
        if known is None or known.reason != reason:
            _log.error("The workflow %s could not be resumed: %s: %s", workflow_id, reason, message)
        self.failures[workflow_id] = PendingFailure(workflow_id, reason, message)
