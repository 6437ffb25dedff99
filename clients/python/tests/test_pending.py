"""How what is pending is read, from a server that is made up here."""

from __future__ import annotations

import asyncio
import types
import unittest
from collections.abc import AsyncIterator
from typing import Any

import grpc
from aegis.v1.recovery_service_pb2 import ResumePendingWorkflowsRequest, ResumePendingWorkflowsResponse
from aegis_client import AegisError, DeadlineExceeded, Overloaded, Unavailable, WorkflowQuarantined
from aegis_client.errors import OutcomeUnknown
from aegis_client.pending import PendingWorkflows


class Server:
    """Answers each pass as it is told, and from the last one on always so; takes the engine's place too."""

    def __init__(self, *passes: list[str | AegisError], broken: dict[str, Exception] | None = None) -> None:
        self.passes = 0
        self.asked: list[int] = []
        self.given_back: list[str] = []
        self.timeout = 0.5
        self.client = self
        self.leases = types.SimpleNamespace(duration=30.0)
        self._pending: set[object] = set()
        self._answers = passes
        self._broken = broken or {}

    async def stream(self, method: str, request: ResumePendingWorkflowsRequest) -> AsyncIterator[Any]:
        answer = self._answers[min(self.passes, len(self._answers) - 1)]
        self.passes += 1
        self.asked.append(request.max_workflows)
        for each in answer:
            if isinstance(each, AegisError):
                raise each
            message = ResumePendingWorkflowsResponse()
            message.resumed.workflow.workflow_id = each
            yield message

    async def _take_resumed(self, resumed: Any, workflow_id: str) -> Any:
        if workflow_id in self._broken:
            raise self._broken[workflow_id]
        return types.SimpleNamespace(workflow_id=workflow_id, lost=None, lease=object())

    async def _give_back(self, workflow_id: str, epoch: int) -> None:
        self.given_back.append(workflow_id)

    async def _release_quietly(self, workflows: list[Any]) -> None:
        pass

    def pending(self, poll_interval: float | None, max_workflows: int = 0) -> PendingWorkflows:
        request = ResumePendingWorkflowsRequest(max_workflows=max_workflows)
        return PendingWorkflows(self, request, poll_interval)  # type: ignore[arg-type]


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class TestPending(unittest.IsolatedAsyncioTestCase):
    async def take(self, pending: PendingWorkflows, count: int) -> list[str]:
        async with asyncio.timeout(20), pending:
            return [(await anext(pending)).workflow_id for _ in range(count)]

    async def test_who_polls_waits_for_the_server_whatever_fails(self) -> None:
        server = Server(
            ["a", Overloaded("too much")],
            [OutcomeUnknown("who knows", code=UNAVAILABLE)],
            [DeadlineExceeded("too late")],
            [Unavailable("away", code=UNAVAILABLE)],
            [Overloaded("too much")],
            ["b"],
            [],
        )
        # All of it takes longer than a call may.
        self.assertEqual(["a", "b"], await self.take(server.pending(0.01), 2))

    async def test_one_pass_is_begun_again_while_there_is_time(self) -> None:
        server = Server(["a", Overloaded("too much")], [OutcomeUnknown("who knows", code=UNAVAILABLE)], ["b"])
        self.assertEqual(["a", "b"], [workflow.workflow_id async for workflow in server.pending(None)])
        with self.assertRaises(DeadlineExceeded):
            _ = [workflow async for workflow in Server([Overloaded("too much")]).pending(None)]

    async def test_what_is_refused_ends_also_who_polls(self) -> None:
        refused = AegisError("no", code=grpc.StatusCode.PERMISSION_DENIED)
        with self.assertRaises(AegisError):
            await self.take(Server([refused]).pending(0.01), 1)

    async def test_one_that_stays_broken_is_one_failure_and_keeps_no_other_away(self) -> None:
        broken = {
            "codec": RuntimeError("no such key"),
            "closed": WorkflowQuarantined("altered", reason="WORKFLOW_QUARANTINED"),
        }
        server = Server(["codec", "closed", "a"], ["codec", "closed"], ["codec"], ["codec", "b"], [], broken=broken)
        pending = server.pending(0.01, max_workflows=1)
        self.assertEqual(["a", "b"], await self.take(pending, 2))
        self.assertEqual(
            [("codec", "CODEC"), ("closed", "WORKFLOW_QUARANTINED")],
            [(failure.workflow_id, failure.reason) for failure in pending.failures],
        )
        self.assertEqual({"codec", "closed"}, set(server.given_back))
        self.assertEqual([1, 3], server.asked[:2])

    async def test_a_server_that_fails_while_one_is_taken_is_no_failure_of_that_one(self) -> None:
        broken: dict[str, Exception] = {"a": Unavailable("away", code=UNAVAILABLE)}
        server = Server(["a"], ["b"], [], broken=broken)
        pending = server.pending(0.01)
        self.assertEqual(["b"], await self.take(pending, 1))
        self.assertEqual([], pending.failures)


if __name__ == "__main__":
    unittest.main()
