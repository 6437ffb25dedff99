"""Workflows that were under way when the disaster came, and the worker that takes them up again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from aegis.v1.workflow_service_pb2 import StartWorkflowRequest
from aegis.v1.workflow_pb2 import Snapshot
from aegis_client import AegisClient, DurableWorkflowEngine
from google.protobuf.duration_pb2 import Duration

from .processes import DrillError

WORKER = "worker"
"""The owner of their leases. Started again under the same name, it takes up at once what it held."""

TYPE = "case"
"""The type of the workflows."""
_LEASE_SECONDS = 3600
_AT_ONCE = 128


def start_pending(
    targets: Sequence[str], namespace: str, count: int, *, owner: str = WORKER, snapshot_bytes: int = 1024
) -> None:
    """Starts workflows, each with a snapshot, each leased to a worker that will die.

    :param owner: that worker; empty for workflows that nobody has taken yet.
    """
    asyncio.run(_start(targets, namespace, count, owner, snapshot_bytes))


def resume_pending(targets: Sequence[str], namespace: str, count: int, timeout: float = 120.0) -> float:
    """Resumes all of them as the worker does that is started again, and gives the time at which the last one was there.

    The server may still be away when this is called.

    :raises DrillError: not each of them came, once, with its snapshot.
    """
    return asyncio.run(_resume(targets, namespace, count, timeout))


async def _start(targets: Sequence[str], namespace: str, count: int, owner: str, snapshot_bytes: int) -> None:
    places = asyncio.Semaphore(_AT_ONCE)
    async with AegisClient(*targets) as client:

        async def one(number: int) -> None:
            content = b'"%s"' % (b"%d" % number).rjust(snapshot_bytes - 2)
            request = StartWorkflowRequest(
                namespace=namespace,
                workflow_id=f"{TYPE}-{number}",
                workflow_type=TYPE,
                initial_state="OPEN",
                snapshot=Snapshot(content_type="application/json", content=content),
                request_id="start",
            )
            if owner:
                request.owner = owner
                request.lease_duration.CopyFrom(Duration(seconds=_LEASE_SECONDS))
            async with places:
                await client.call("StartWorkflow", request)

        await asyncio.gather(*(one(number) for number in range(count)))


async def _resume(targets: Sequence[str], namespace: str, count: int, timeout: float) -> float:
    resumed: dict[str, int] = {}
    async with (
        AegisClient(*targets, timeout=timeout) as client,
        DurableWorkflowEngine(client, namespace=namespace, owner=WORKER, lease_duration=_LEASE_SECONDS) as engine,
    ):
        engine.register(TYPE)
        pending = engine.resume_all_pending(take_over_own=True)
        async for workflow in pending:
            resumed[workflow.workflow_id] = resumed.get(workflow.workflow_id, 0) + 1
            if workflow.data is None or workflow.data.strip() != workflow.workflow_id.removeprefix(f"{TYPE}-"):
                raise DrillError(f"{workflow.workflow_id} came back with another snapshot: {workflow.data!r}")
        at = time.monotonic()
        if pending.failures:
            raise DrillError(f"Not resumed: {pending.failures[:5]}")
    # A stream that broke is begun anew, and then hands out again what it had; nobody else can have it.
    if len(resumed) != count:
        raise DrillError(f"{len(resumed)} of {count} pending workflows were resumed.")
    return at
