"""Resumes what is pending, one after the other."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aegis.v1.recovery_service_pb2 import ResumePendingWorkflowsRequest

from .errors import AegisError, DeadlineExceeded, IntegrityError, Unavailable
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
    """One of the contract's ErrorReason, or of IntegrityError's, or CODEC where its snapshot could not be decoded."""
    message: str


class PendingWorkflows:
    """Hands out pending workflows, each leased and verified. See :meth:`DurableWorkflowEngine.resume_all_pending`.

    Leases of what waits here are renewed in the background, and what was lost meanwhile is not handed out. Closing (or leaving
    ``async with``) releases all that it took and that still has a lease; running to its end releases nothing.
    """

    def __init__(
        self, engine: DurableWorkflowEngine, request: ResumePendingWorkflowsRequest, poll_interval: float | None
    ) -> None:
        self._engine = engine
        self._request = request
        self._poll_interval = poll_interval
        self._waiting: asyncio.Queue[Workflow | None] = asyncio.Queue(_WAITING_MAX)
        self._taken: list[Workflow] = []
        self._reader: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        # Whether reading once stood still for so long that what was leased ahead of it may have expired.
        self._is_late = False
        self.failures: list[PendingFailure] = []
        """The workflows that could not be resumed so far."""
        self.held_by_others = 0
        """How many were held by others in the last pass that ended."""

    def __aiter__(self) -> PendingWorkflows:
        return self

    async def __anext__(self) -> Workflow:
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        while workflow := await self._waiting.get():
            if workflow.lost is None:
                return workflow
        # For whoever asks once more.
        self._waiting.put_nowait(None)
        if self._error:
            raise self._error
        raise StopAsyncIteration

    async def __aenter__(self) -> PendingWorkflows:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Takes no more, and releases what it took and is still leased."""
        if self._reader:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)
        taken, self._taken = self._taken, []
        await self._engine.release_quietly(taken)

    async def _read(self) -> None:
        try:
            await self._pass_retried()
            while self._poll_interval is not None:
                await asyncio.sleep(self._poll_interval)
                await self._pass_retried()
        except Exception as e:
            self._error = e
        await self._waiting.put(None)

    async def _pass_retried(self) -> None:
        """One pass over all that is pending. A stream that breaks strands nothing: it is begun anew."""
        until = asyncio.get_running_loop().time() + self._engine.client.timeout
        attempt = 0
        while True:
            try:
                await self._pass()
                return
            except Unavailable as e:
                delay = min(2.0, 0.1 * 2 ** min(attempt, 10)) * random.uniform(0.75, 1.25)
                if self._poll_interval is None and asyncio.get_running_loop().time() + delay >= until:
                    raise DeadlineExceeded(f"The server was away for too long: {e.message}", code=e.code) from e
                _log.warning("Pending workflows could not be resumed, and will be tried again: %s", e)
                await asyncio.sleep(delay)
                attempt += 1

    async def _pass(self) -> None:
        leases = self._engine.leases
        self._taken = [workflow for workflow in self._taken if workflow.lease]
        async for message in self._engine.client.stream("ResumePendingWorkflows", self._request):
            # Only the first pass is after a crash; later it would take from ourselves.
            self._request.take_over_own = False
            kind = message.WhichOneof("result")
            if kind == "failed":
                self._fail(message.failed.workflow_id, message.failed.reason, message.failed.message)
            elif kind == "summary":
                self.held_by_others = message.summary.held_by_others
            elif kind == "resumed":
                workflow_id, lease = message.resumed.workflow.workflow_id, message.resumed.lease
                try:
                    workflow = await self._engine.take_resumed(message.resumed, workflow_id)
                except IntegrityError as e:
                    self._fail(workflow_id, e.reason, e.message)
                except AegisError:
                    raise
                except Exception as e:
                    self._fail(workflow_id, "CODEC", f"Its snapshot could not be decoded: {e}")
                else:
                    self._taken.append(workflow)
                    if self._is_late:
                        await leases.renew([workflow])
                    await self._hand_over(workflow)
                    continue
                await self._engine.give_back(workflow_id, lease.epoch)

    async def _hand_over(self, workflow: Workflow) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._waiting.put(workflow)
        # The server has leased more than it could send meanwhile.
        self._is_late = self._is_late or loop.time() - began > self._engine.leases.duration / 3

    def _fail(self, workflow_id: str, reason: str, message: str) -> None:
        _log.error("The workflow %s could not be resumed: %s: %s", workflow_id, reason, message)
        self.failures.append(PendingFailure(workflow_id, reason, message))
