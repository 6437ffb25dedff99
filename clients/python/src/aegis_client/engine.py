"""What a service uses: workflows as objects that survive it."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis.v1.recovery_service_pb2 import (
    ExportWorkflowsRequest,
    ImportOptions,
    ReleaseLeasesRequest,
    ResumePendingWorkflowsRequest,
    ResumeWorkflowRequest,
    ResumeWorkflowResponse,
)
from aegis.v1.workflow_pb2 import ForkPoint, Lease, LeaseReference, Record, Snapshot
from aegis.v1.workflow_service_pb2 import (
    CheckpointWorkflowRequest,
    GetCheckpointRequest,
    GetCheckpointResponse,
    StartWorkflowRequest,
    StartWorkflowResponse,
    TransitionWorkflowRequest,
)
from google.protobuf.timestamp_pb2 import Timestamp

from .client import AegisClient
from .codec import Codec, JsonCodec
from .errors import AegisError, CheckpointNotFound, IntegrityError, LeaseLost, Unavailable
from .evidence import ImportResult, send_export, verify_workflow, write_export
from .export_check import ExportReport
from .leases import LeaseKeeper
from .pending import PendingReader, PendingWorkflows
from .reading import RecordReader
from .record_format import microseconds
from .signed_note import VerifierKey
from .trust import check_record, check_snapshot
from .workflow import Workflow, WorkflowStatus, Written, digest_of

_log = logging.getLogger("aegis_client")
_STREAM_TIMEOUT = 300.0
# A server that is away is not waited for to give leases up.
_RELEASE_TIMEOUT = 3.0


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint: the record that carries the snapshot, and the state object of then."""

    record: Record
    data: Any

    @property
    def recorded_at(self) -> datetime.datetime:
        """When it was recorded, by the database's clock, in UTC."""
        time: datetime.datetime = self.record.recorded_at.ToDatetime(tzinfo=datetime.timezone.utc)
        return time


class DurableWorkflowEngine:
    """Starts, moves, checkpoints, resumes and verifies the workflows of one namespace.

    Use it as ``async with``: leaving it stops its background work and releases the leases it holds. It belongs to the
    event loop of its client, which it does not close.
    """

    def __init__(
        self,
        client: AegisClient,
        *,
        namespace: str = "default",
        owner: str = "",
        lease_duration: float = 30.0,
        checkpoint_on_transition: bool = True,
        checkpoint_interval: float | None = 300.0,
    ) -> None:
        """
        :param client: the connection.
        :param namespace: the namespace of all its workflows.
        :param owner: in whose name leases are taken, up to 255 bytes; by default a name that no other process has. Give
            one that stays the same over restarts, and that no two processes share, to take up one's own at once after a
            crash.
        :param lease_duration: seconds, 1 to 3,600; renewed at a third of it. After a crash others take over when it is
            over.
        :param checkpoint_on_transition: whether a transition carries the state object, unless it says otherwise.
        :param checkpoint_interval: seconds between the checkpoints of a workflow that is worked on; None for none.
        """
        if not 1 <= lease_duration <= 3600:
            raise ValueError(f"lease_duration is {lease_duration} s, and must be 1 to 3600")
        if checkpoint_interval is not None and checkpoint_interval <= 0:
            raise ValueError("checkpoint_interval must be more than 0 s; None for no periodic checkpoints")
        self.client = client
        self.namespace = namespace or "default"
        self.owner = owner or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.checkpoint_on_transition = checkpoint_on_transition
        self.checkpoint_interval = checkpoint_interval
        self.leases = LeaseKeeper(client, self.namespace, self.owner, lease_duration)
        """The leases that are held, for whoever wants to look."""
        self._reader = RecordReader(client, self.namespace)
        self._codecs: dict[str, Codec[Any]] = {}
        # What reads pending workflows now.
        self._pending: set[PendingReader] = set()

    async def __aenter__(self) -> DurableWorkflowEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stops taking and renewing, and releases what is held, so that others can go on at once."""
        for reader in list(self._pending):
            await reader.close(release_handed_out=True)
        await self.leases.close()
        await self._release_quietly(self.leases.held)

    def register(self, workflow_type: str, codec: Codec[Any] | None = None) -> None:
        """Makes a workflow type known with what turns its state objects into bytes: JSON by default."""
        self._codecs[workflow_type] = codec or JsonCodec()

    async def start(
        self,
        workflow_type: str,
        workflow_id: str,
        state: str,
        data: Any = None,
        *,
        status: WorkflowStatus = WorkflowStatus.RUNNING,
        lease: bool = True,
        actor: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        occurred_at: datetime.datetime | None = None,
        forked_from: ForkPoint | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Workflow:
        """Starts a workflow and gives it back, leased.

        :param workflow_type: one that was registered.
        :param workflow_id: its id, up to 255 bytes. Must not hold personal data, nor may any other name.
        :param state: the state it starts in; empty in a fork for the state forked from.
        :param data: its state object; None for none, and in a fork for the one forked from.
        :param status: RUNNING, or WAITING for one that no worker should take yet.
        :param lease: whether it is worked on here. False leaves it to whoever resumes what is pending.
        :param actor: who acts, up to 255 bytes.
        :param reason: why, for people to read, up to 4 KiB.
        :param metadata: facts to find it by, up to 64 entries and 16 KiB in all.
        :param occurred_at: when it happened, with a time zone; None for not said.
        :param forked_from: the record of another workflow from which this one goes on.
        :param request_id: the idempotency key; made here by default.
        :param timeout: seconds, retries included; the client's own by default.
        :raises WorkflowAlreadyExists: the id is taken.
        """
        request = StartWorkflowRequest(
            namespace=self.namespace,
            workflow_id=workflow_id,
            workflow_type=workflow_type,
            initial_state=state,
            status=status.contract_name,
            actor=actor,
            reason=reason,
            metadata=metadata,
            occurred_at=_timestamp(occurred_at),
            forked_from=forked_from,
            request_id=request_id,
        )
        if lease:
            request.owner = self.owner
            request.lease_duration.CopyFrom(self.leases.lease_duration())
        snapshot = self._encode(workflow_type, data)
        if snapshot:
            request.snapshot.CopyFrom(snapshot)
        response: StartWorkflowResponse = await self.client.write("StartWorkflow", request, timeout=timeout)
        granted = response.lease if response.HasField("lease") else None
        if response.replayed and response.workflow.sequence > 1:
            # It was started long ago and has moved since.
            workflow = await self.read(workflow_id, timeout=timeout)
        else:
            if forked_from and data is None:
                data = await self._data_at_start(workflow_id, timeout)
            workflow = Workflow(
                self,
                record=response.record,
                metadata=response.record.metadata,
                checkpoint_sequence=1 if response.record.snapshot_salt else 0,
                data=data,
                lease=None,
            )
            workflow._stored = digest_of(snapshot) if snapshot else None
        self._lease(workflow, granted)
        return workflow

    async def transition(
        self,
        workflow: Workflow,
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
        """Moves a workflow from exactly where this object knows it to be.

        :param status: the status after the move; a closed one closes the workflow and ends its lease.
        :param checkpoint: whether the state object goes with it; the engine's ``checkpoint_on_transition`` by default.
        :param request_id: the idempotency key; made here by default. The other parameters are those of :meth:`start`.
        :raises WorkflowConflict: somebody else moved it first; tells where it is now.
        :raises LeaseLost: its lease is lost: stop working on it.
        """
        async with workflow._lock:
            workflow._raise_if_lost()
            request = TransitionWorkflowRequest(
                namespace=self.namespace,
                workflow_id=workflow.workflow_id,
                from_state=workflow.state,
                to_state=to_state,
                status=status.contract_name,
                expected_hash=workflow.head_hash,
                lease_epoch=workflow.lease_epoch,
                actor=actor,
                reason=reason,
                metadata=metadata,
                occurred_at=_timestamp(occurred_at),
                request_id=request_id,
            )
            has_snapshot = self.checkpoint_on_transition if checkpoint is None else checkpoint
            snapshot = self._encode(workflow.workflow_type, workflow.data) if has_snapshot else None
            return await self._write(workflow, "TransitionWorkflow", request, snapshot, timeout)

    async def checkpoint(
        self,
        workflow: Workflow,
        *,
        actor: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        occurred_at: datetime.datetime | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Written:
        """Stores the state object of a workflow without moving it. Parameters and errors as of :meth:`transition`.

        :raises ValueError: it has no state object.
        """
        async with workflow._lock:
            snapshot = self._encode(workflow.workflow_type, workflow.data)
            if snapshot is None:
                raise ValueError(
                    f"The workflow {workflow.workflow_id} has no state object to checkpoint: its data is None."
                )
            request = self._checkpoint_request(workflow)
            request.actor, request.reason, request.request_id = actor, reason, request_id
            request.metadata.update(metadata or {})
            if time := _timestamp(occurred_at):
                request.occurred_at.CopyFrom(time)
            return await self._write(workflow, "CheckpointWorkflow", request, snapshot, timeout)

    async def _checkpoint_if_changed(self, workflow: Workflow) -> Written | None:
        """Stores the state object unless it is the one that was stored last; None then."""
        async with workflow._lock:
            snapshot = self._encode(workflow.workflow_type, workflow.data)
            if snapshot is None or not workflow._has_changed(snapshot):
                return None
            request = self._checkpoint_request(workflow)
            return await self._write(workflow, "CheckpointWorkflow", request, snapshot, None)

    async def wait(
        self,
        workflow: Workflow,
        to_state: str,
        *,
        actor: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        occurred_at: datetime.datetime | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Written:
        """Moves a workflow to a state in which it waits for a human, a date or another system, and releases its lease.

        Nobody needs to run meanwhile. Whoever it waits for moves it on with status RUNNING, without a lease
        (:meth:`read`, then :meth:`transition`), and with that it is pending again.
        """
        written = await self.transition(
            workflow,
            to_state,
            status=WorkflowStatus.WAITING,
            actor=actor,
            reason=reason,
            metadata=metadata,
            occurred_at=occurred_at,
            request_id=request_id,
            timeout=timeout,
        )
        await self._release_quietly([workflow])
        return written

    async def read(self, workflow_id: str, *, timeout: float | None = None) -> Workflow:
        """A workflow without a lease: to look at, also when it is closed, or to move on while nobody holds it.

        :raises WorkflowNotFound: there is none of this id.
        """
        request = ResumeWorkflowRequest(namespace=self.namespace, workflow_id=workflow_id)
        response: ResumeWorkflowResponse = await self.client.call("ResumeWorkflow", request, timeout=timeout)
        return await self._take_resumed(response, workflow_id)

    async def resume(self, workflow_id: str, *, take_over_own: bool = False, timeout: float | None = None) -> Workflow:
        """Takes the lease of a workflow, to go on from its newest checkpoint and the records since, verified.

        :param take_over_own: take over at once what the same owner held before it crashed.
        :raises LeaseHeld: another holds it; tells who and until when.
        :raises WorkflowClosed: there is nothing to go on with: :meth:`read` it to look.
        """
        request = ResumeWorkflowRequest(
            namespace=self.namespace,
            workflow_id=workflow_id,
            owner=self.owner,
            lease_duration=self.leases.lease_duration(),
            take_over_own=take_over_own,
        )
        deadline = asyncio.get_running_loop().time() + (self.client.timeout if timeout is None else timeout)
        response = await self._resume(request, deadline)
        try:
            return await self._take_resumed(response, workflow_id)
        except BaseException:
            await self._give_back(workflow_id, response.lease.epoch)
            raise

    def resume_all_pending(
        self,
        *,
        workflow_types: Sequence[str] | None = None,
        states: Sequence[str] = (),
        take_over_own: bool = False,
        max_workflows: int = 0,
        poll_interval: float | None = None,
    ) -> PendingWorkflows:
        """Resumes pending workflows (status RUNNING) that nobody holds; of many workers each goes to exactly one.

        ::

            async for workflow in engine.resume_all_pending(poll_interval=1.0):
                async with workflow:
                    ...

        :param workflow_types: only these; by default all that were registered.
        :param states: only these; empty for all.
        :param take_over_own: take over at once what the same owner held before it crashed. Only when starting.
        :param max_workflows: how many to take in one pass; 0 for all. Up to 100 wait here, leased, to be handed out:
            take few where several workers should share.
        :param poll_interval: seconds between passes; None for one pass over what is pending now.
        """
        types = list(self._codecs) if workflow_types is None else list(workflow_types)
        if not types:
            raise ValueError("No workflow type is registered: there is nothing to resume.")
        for workflow_type in types:
            self._codec(workflow_type)
        request = ResumePendingWorkflowsRequest(
            namespace=self.namespace,
            workflow_types=types,
            states=states,
            owner=self.owner,
            lease_duration=self.leases.lease_duration(),
            take_over_own=take_over_own,
            max_workflows=max_workflows,
        )
        return PendingWorkflows(self, request, poll_interval)

    async def release(self, workflow: Workflow) -> None:
        """Gives the lease of a workflow up, so that another can go on at once. Does nothing without a lease."""
        await self.leases.release([workflow])

    async def _release_quietly(self, workflows: Iterable[Workflow]) -> None:
        """Gives leases up; what cannot be given up now runs out by itself."""
        try:
            await self.leases.release(workflows, timeout=_RELEASE_TIMEOUT)
        except AegisError as e:
            _log.warning("Leases could not be released, and will run out: %s", e)

    async def load_checkpoint(
        self,
        workflow_id: str,
        *,
        sequence: int | None = None,
        as_of: datetime.datetime | None = None,
        timeout: float | None = None,
    ) -> LoadedCheckpoint:
        """The newest checkpoint, or the newest not after a sequence or a time: time travel.

        :param sequence: from 1.
        :param as_of: by the database's clock, with a time zone.
        :raises CheckpointNotFound: there is none that early.
        """
        if sequence is not None and as_of is not None:
            raise ValueError("Give a sequence or a time, not both.")
        request = GetCheckpointRequest(namespace=self.namespace, workflow_id=workflow_id)
        if sequence is not None:
            request.sequence = sequence
        if time := _timestamp(as_of):
            request.as_of.CopyFrom(time)
        response: GetCheckpointResponse = await self.client.call("GetCheckpoint", request, timeout=timeout)
        check_record(response.record, self.namespace, workflow_id)
        is_later = sequence is not None and response.record.sequence > sequence
        if is_later or (time and microseconds(response.record.recorded_at) > microseconds(time)):
            raise IntegrityError(
                "RECORD_ALTERED", f"Record {response.record.sequence} is later than the checkpoint that was asked for."
            )
        check_snapshot(response.record, response.snapshot)
        return LoadedCheckpoint(response.record, self._decode(response.record, response.snapshot))

    def records(self, workflow_id: str) -> AsyncIterator[Record]:
        """All records of a workflow, oldest first, each recomputed and held against the one before."""
        return self._reader.records(workflow_id)

    async def verify_integrity(self, workflow_id: str, *, timeout: float = _STREAM_TIMEOUT) -> ExportReport:
        """Reads a whole workflow and proves it, believing nothing that the server says.

        Every record is recomputed, linked with the one before and proven to be in the log; every snapshot is held
        against its digest; the log's signed statement tells that no record is missing at the end; and the log's head is
        signed and continues the kept one. Needs a client with a :class:`LogTrust`.

        :returns: whether it is intact, and else what is not.
        :raises HistoryRewritten: the log itself does not continue what was seen.
        :raises WorkflowNotFound: there is none of this id.
        """
        return await verify_workflow(self.client, self.namespace, workflow_id, timeout)

    async def export(
        self,
        path: str | Path,
        workflow_id: str = "",
        *,
        workflow_types: Sequence[str] = (),
        states: Sequence[str] = (),
        statuses: Sequence[WorkflowStatus] = (),
        metadata: Mapping[str, str] | None = None,
        updated_before: datetime.datetime | None = None,
        updated_after: datetime.datetime | None = None,
        allow_quarantined: bool = False,
        timeout: float = _STREAM_TIMEOUT,
    ) -> ExportReport | None:
        """Writes workflows into a file that proves itself: one workflow, or all that the filter matches.

        A file under its name is whole. With a :class:`LogTrust` it was also verified, and its head continues the kept
        one.

        :param allow_quarantined: export what is altered too, for whoever judges it; then findings are returned, not
            raised.
        :returns: what it was verified to be; None without a LogTrust.
        :raises IntegrityError: it does not verify. No file is left.
        """
        request = ExportWorkflowsRequest(
            namespace=self.namespace,
            workflow_id=workflow_id,
            workflow_types=workflow_types,
            states=states,
            statuses=[status.contract_name for status in statuses],
            metadata=metadata,
            updated_before=_timestamp(updated_before),
            updated_after=_timestamp(updated_after),
            allow_quarantined=allow_quarantined,
        )
        return await write_export(self.client, request, Path(path), timeout)

    async def import_(
        self,
        path: str | Path,
        *,
        trusted_keys: Sequence[str | VerifierKey] = (),
        take_over: bool = False,
        allow_unproven: bool = False,
        timeout: float = _STREAM_TIMEOUT,
    ) -> list[ImportResult]:
        """Takes an export into the server's log, every hash kept. Sent again it finishes what broke off.

        :param trusted_keys: the keys of the logs whose exports are trusted: one of them must have signed it.
        :param take_over: also take workflows that are RUNNING, once their workers at the source have stopped.
        :param allow_unproven: take an export whose origin no signature of ``trusted_keys`` proves.
        :raises InvalidField: it is not an export, or not signed by a trusted key.
        """
        options = ImportOptions(
            take_over=take_over, allow_unproven=allow_unproven, trusted_keys=[str(key) for key in trusted_keys]
        )
        return await send_export(self.client, Path(path), options, timeout)

    async def _take_resumed(self, response: ResumeWorkflowResponse, workflow_id: str) -> Workflow:
        """A workflow from what the server sent of it, verified, its lease held from here on."""
        newest = await self._reader.check_resumed(response, workflow_id)
        data = None
        snapshot = None
        if response.HasField("checkpoint"):
            snapshot = response.checkpoint.snapshot
            data = self._decode(response.checkpoint.record, snapshot)
        workflow = Workflow(
            self,
            record=newest,
            metadata=response.workflow.metadata,
            checkpoint_sequence=response.checkpoint.record.sequence,
            data=data,
            lease=None,
        )
        workflow.records_since = list(response.records_since)
        workflow.more_records = response.more_records
        workflow._stored = digest_of(snapshot) if snapshot else None
        self._lease(workflow, response.lease if response.HasField("lease") else None)
        return workflow

    async def _give_back(self, workflow_id: str, epoch: int) -> None:
        """Gives up a lease that came with something that cannot be worked on."""
        lease = LeaseReference(workflow_id=workflow_id, epoch=epoch)
        request = ReleaseLeasesRequest(namespace=self.namespace, owner=self.owner, leases=[lease])
        try:
            await self.client.call("ReleaseLeases", request, timeout=_RELEASE_TIMEOUT)
        except AegisError as e:
            _log.warning("The lease of %s could not be released, and will run out: %s", workflow_id, e)

    async def _resume(self, request: ResumeWorkflowRequest, deadline: float) -> ResumeWorkflowResponse:
        """A lease that was taken and whose reply was lost is ours: the next attempt may take it over."""

        async def attempt(remaining: float) -> ResumeWorkflowResponse:
            try:
                response: ResumeWorkflowResponse = await self.client.call_once("ResumeWorkflow", request, remaining)
                return response
            except Unavailable:
                if not self.leases.holds(request.workflow_id):
                    request.take_over_own = True
                raise

        return await self.client.repeated(attempt, deadline - asyncio.get_running_loop().time())

    async def _write(
        self, workflow: Workflow, method: str, request: Any, snapshot: Snapshot | None, timeout: float | None
    ) -> Written:
        """Writes; the workflow's lock is held."""
        workflow._raise_if_lost()
        if snapshot:
            request.snapshot.CopyFrom(snapshot)
        try:
            response = await self.client.write(method, request, timeout=timeout)
        except LeaseLost as e:
            self.leases.lose(workflow, e)
            raise
        workflow._advance(response.record, snapshot)
        if workflow.status.is_closed:
            self.leases.drop(workflow)
            workflow.lease = None
        return Written(response.record, response.receipt, response.replayed)

    def _checkpoint_request(self, workflow: Workflow) -> CheckpointWorkflowRequest:
        return CheckpointWorkflowRequest(
            namespace=self.namespace,
            workflow_id=workflow.workflow_id,
            expected_hash=workflow.head_hash,
            lease_epoch=workflow.lease_epoch,
        )

    async def _data_at_start(self, workflow_id: str, timeout: float | None) -> Any:
        try:
            return (await self.load_checkpoint(workflow_id, sequence=1, timeout=timeout)).data
        except CheckpointNotFound:
            return None

    def _lease(self, workflow: Workflow, lease: Lease | None) -> None:
        if lease:
            workflow.lease = lease
            self.leases.hold(workflow)

    def _codec(self, workflow_type: str) -> Codec[Any]:
        codec = self._codecs.get(workflow_type)
        if codec is None:
            raise ValueError(f'The workflow type "{workflow_type}" is not registered: register it with its codec.')
        return codec

    def _encode(self, workflow_type: str, data: Any) -> Snapshot | None:
        codec = self._codec(workflow_type)
        if data is None:
            return None
        content_type, content = codec.encode(data)
        return Snapshot(content_type=content_type, content=content)

    def _decode(self, record: Record, snapshot: Snapshot) -> Any:
        return self._codec(record.workflow_type).decode(snapshot.content_type, snapshot.content)


def _timestamp(time: datetime.datetime | None) -> Timestamp | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{time.isoformat()} has no time zone: give one, datetime.timezone.utc say")
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
