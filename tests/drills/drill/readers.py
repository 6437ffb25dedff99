"""Callers that read, beside a load that writes: what they ask for can be served by replicas."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from aegis.v1 import integrity_service_pb2_grpc, recovery_service_pb2_grpc, workflow_service_pb2_grpc
from aegis.v1.integrity_service_pb2 import VerifyLogRequest, VerifyWorkflowRequest
from aegis.v1.recovery_service_pb2 import ExportWorkflowsRequest
from aegis.v1.workflow_service_pb2 import (
    CountWorkflowsRequest,
    ListRecordsRequest,
    ListWorkflowsRequest,
    StartWorkflowRequest,
)

from .processes import DrillError

NAMESPACE = "default"
CALLS = ("ListWorkflows", "CountWorkflows", "ListRecords", "VerifyWorkflow", "VerifyLog", "ExportWorkflows")
_TIMEOUT = 30.0


class Reader:
    """Makes each of the calls, and raises when one of them fails."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._workflows = workflow_service_pb2_grpc.WorkflowServiceStub(self._channel)
        self._recovery = recovery_service_pb2_grpc.RecoveryServiceStub(self._channel)
        self._integrity = integrity_service_pb2_grpc.IntegrityServiceStub(self._channel)
        self._count = itertools.count()

    def close(self) -> None:
        self._channel.close()

    def call(self, name: str, workflow_id: str) -> None:
        """
        :param name: one of :data:`CALLS`.
        :param workflow_id: one that is there.
        :raises DrillError: something does not verify.
        """
        calls: dict[str, Callable[[], bool]] = {
            "ListWorkflows": lambda: bool(self._send(self._workflows.ListWorkflows, ListWorkflowsRequest()).workflows),
            "CountWorkflows": lambda: bool(self._send(self._workflows.CountWorkflows, CountWorkflowsRequest()).counts),
            "ListRecords": lambda: bool(
                self._send(self._workflows.ListRecords, ListRecordsRequest(page_size=500, descending=True)).records
            ),
            "VerifyWorkflow": lambda: bool(
                self._send(self._integrity.VerifyWorkflow, VerifyWorkflowRequest(workflow_id=workflow_id)).intact
            ),
            "VerifyLog": lambda: bool(
                list(self._send(self._integrity.VerifyLog, VerifyLogRequest()))[-1].summary.intact
            ),
            "ExportWorkflows": lambda: bool(
                list(self._send(self._recovery.ExportWorkflows, ExportWorkflowsRequest(workflow_types=["load"])))
            ),
        }
        if not calls[name]():
            raise DrillError(f"{name} gave what it must not.")

    def finds_own_write(self, prefix: str) -> bool:
        """Writes, and then lists what it wrote, with the log size that it has seen: whether it is there."""
        own = f"{prefix}-{next(self._count)}"
        start = StartWorkflowRequest(workflow_id=own, workflow_type=own, initial_state="NEW", request_id="start")
        seen = self._send(self._workflows.StartWorkflow, start).receipt.log_index + 1
        listed = self._send(
            self._workflows.ListWorkflows, ListWorkflowsRequest(workflow_types=[own], min_log_size=seen)
        )
        return [w.workflow_id for w in listed.workflows] == [own] and listed.log_size >= seen

    def _send(self, method: Any, request: Any) -> Any:
        return method(request, timeout=_TIMEOUT)


class Readers:
    """Some readers, each in a thread, from :meth:`start` to :meth:`stop`. No call of theirs is ever repeated."""

    def __init__(self, target: str, workflow_id: str, calls: Sequence[str] = CALLS, readers: int = 2) -> None:
        self._target = target
        self._workflow_id = workflow_id
        self._calls = calls
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(readers)]
        self.failed: list[str] = []
        self.served: Counter[str] = Counter()
        self.own, self.missed = 0, 0
        self.slowest = 0.0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def until_more(self, count: int, timeout: float = 120.0) -> None:
        """Waits until so many more calls of each kind were answered."""
        wanted = {name: self.served[name] + count for name in self._calls}
        end = time.monotonic() + timeout
        while any(self.served[name] < wanted[name] for name in self._calls) and not self.failed:
            if time.monotonic() > end:
                raise DrillError(f"Readers were served {dict(self.served)}, and {wanted} was waited for.")
            time.sleep(0.02)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(_TIMEOUT)

    def _run(self, number: int) -> None:
        reader = Reader(self._target)
        for turn in itertools.count(number):
            if self._stopping.is_set():
                break
            name = self._calls[turn % len(self._calls)]
            since = time.monotonic()
            try:
                reader.call(name, self._workflow_id)
                found = reader.finds_own_write(f"own-{number}")
            except (grpc.RpcError, DrillError) as e:
                self.failed.append(f"{name}: {e.details() if isinstance(e, grpc.Call) else e}")
                continue
            with self._lock:
                self.served[name] += 1
                self.own += 1
                self.missed += not found
                self.slowest = max(self.slowest, time.monotonic() - since)
        reader.close()
