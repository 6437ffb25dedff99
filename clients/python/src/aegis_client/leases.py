"""Holds the leases of an engine: renews them in the background, and tells the work whose lease is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from aegis.v1.recovery_service_pb2 import LeaseRenewal, ReleaseLeasesRequest, RenewLeasesRequest
from aegis.v1.workflow_pb2 import LeaseReference
from google.protobuf.duration_pb2 import Duration

from .client import AegisClient
from .errors import AegisError, IntegrityError, LeaseLost
from .workflow import Workflow

_log = logging.getLogger("aegis_client")
_LEASES_MAX = 1000


class LeaseKeeper:
    """The leases of one owner in one namespace, renewed at a third of their duration.

    A lease that has merely expired, since the server was away, is not lost: writes under it are fenced by its epoch,
    and the next renewal tells whether another has taken it.
    """

    def __init__(self, client: AegisClient, namespace: str, owner: str, duration: float) -> None:
        self._client = client
        self._namespace = namespace
        self.owner = owner
        self.duration = duration
        # By workflow_id.
        self._held: dict[str, Workflow] = {}
        self._task: asyncio.Task[None] | None = None
        # Kept here since the event loop keeps only weak references.
        self._losing: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> list[Workflow]:
        """The workflows whose leases are held."""
        return list(self._held.values())

    def lease_duration(self) -> Duration:
        """The duration as requests carry it."""
        duration = Duration()
        duration.FromMicroseconds(round(self.duration * 1_000_000))
        return duration

    def hold(self, workflow: Workflow) -> None:
        """Renews the lease of a workflow from now on."""
        former = self._held.get(workflow.workflow_id)
        self._held[workflow.workflow_id] = workflow
        if former and former is not workflow:
            former._fail(LeaseLost(f"The workflow {workflow.workflow_id} was resumed anew.", reason="LEASE_STALE"))
        if self._task is None:
            self._task = asyncio.create_task(self._renew_periodically())

    def holds(self, workflow_id: str) -> bool:
        """Whether a lease on this workflow is held."""
        return workflow_id in self._held

    def drop(self, workflow: Workflow) -> None:
        """Renews it no more."""
        if self._held.get(workflow.workflow_id) is workflow:
            del self._held[workflow.workflow_id]

    def lose(self, workflow: Workflow, failure: AegisError) -> None:
        """Renews it no more, and tells whoever works on it."""
        self.drop(workflow)
        workflow._fail(failure)

    async def renew(self, workflows: Sequence[Workflow]) -> None:
        """Renews leases now; those that are lost are told so."""
        leased = [(workflow, workflow.lease_epoch) for workflow in workflows if workflow.lease]
        for begin in range(0, len(leased), _LEASES_MAX):
            some = leased[begin : begin + _LEASES_MAX]
            request = RenewLeasesRequest(
                namespace=self._namespace,
                owner=self.owner,
                leases=_references(some),
                lease_duration=self.lease_duration(),
            )
            response = await self._client.call("RenewLeases", request, timeout=self.duration)
            for (workflow, epoch), result in zip(some, response.results):
                await self._take(workflow, epoch, result)

    async def release(self, workflows: Iterable[Workflow], *, timeout: float | None = None) -> None:
        """Gives leases up, so that others can take them at once."""
        leased = [(workflow, workflow.lease_epoch) for workflow in workflows if workflow.lease]
        for workflow, _ in leased:
            self.drop(workflow)
            workflow.lease = None
        for begin in range(0, len(leased), _LEASES_MAX):
            request = ReleaseLeasesRequest(
                namespace=self._namespace, owner=self.owner, leases=_references(leased[begin : begin + _LEASES_MAX])
            )
            await self._client.call("ReleaseLeases", request, timeout=timeout)

    async def close(self) -> None:
        """Stops renewing. What is held stays so until it runs out or is released."""
        task, self._task = self._task, None
        if task:
            task.cancel()
            await asyncio.wait([task])

    async def _renew_periodically(self) -> None:
        while True:
            await asyncio.sleep(self.duration / 3)
            try:
                await self.renew(self.held)
            except IntegrityError as e:
                # The client has stopped: nothing that is worked on can be written any more.
                for workflow in self.held:
                    self.lose(workflow, e)
            except AegisError as e:
                _log.warning("Leases could not be renewed, and will be tried again: %s", e)

    async def _take(self, workflow: Workflow, epoch: int, result: LeaseRenewal) -> None:
        if result.WhichOneof("outcome") != "lost":
            if workflow.lease_epoch == epoch:
                workflow.lease = result.renewed
            return
        lost = self._lose_after_write(workflow, epoch, result)
        if workflow._lock.locked():
            # It may be long, and others need renewing.
            task = asyncio.create_task(lost)
            self._losing.add(task)
            task.add_done_callback(self._losing.discard)
        else:
            await lost

    async def _lose_after_write(self, workflow: Workflow, epoch: int, result: LeaseRenewal) -> None:
        # A write on its way may have closed the workflow, which is no loss: it is waited for.
        async with workflow._lock:
            if self._held.get(workflow.workflow_id) is workflow and workflow.lease_epoch == epoch:
                lost = result.lost
                self.lose(workflow, LeaseLost(f"The lease is lost: {lost.message}", reason=lost.reason))


def _references(leased: Iterable[tuple[Workflow, int]]) -> list[LeaseReference]:
    return [LeaseReference(workflow_id=workflow.workflow_id, epoch=epoch) for workflow, epoch in leased]
