"""The load, in a process of its own: `python3 -m drill.callers` with its settings in JSON as argument.

Each caller has workflows of its own: it starts one, moves it and checkpoints it, and begins the next. Each write has a
request_id, and is repeated with it until it is answered, as a good client does. A line of the ledger is written for each
answer and for each attempt that failed, before the caller goes on. It ends on SIGTERM, or when the drill has ended, once
every caller's last write is answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import grpc
from aegis.v1.workflow_pb2 import Snapshot
from aegis.v1.workflow_service_pb2 import CheckpointWorkflowRequest, StartWorkflowRequest, TransitionWorkflowRequest
from aegis_client import AegisClient, AegisError, FileHeadStore, IntegrityError, LogTrust
from aegis_client.record_format import microseconds

_REPEAT_SECONDS = 0.1
# Answers that say nothing of the write: it is repeated until there is another.
_REPEATABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Killed in the middle of an answer, a connection can also end so.
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)


@dataclass
class Settings:
    """What the callers do."""

    targets: list[str]
    """As AegisClient takes them: one, or several to take turns."""
    ledger: str
    """The file of the ledger, which is appended to."""
    name: str = "load"
    """What their workflows' ids begin with."""
    namespace: str = "default"
    callers: int = 16
    moves: int = 10
    """Writes on a workflow after its start; each fourth is a checkpoint."""
    snapshot_bytes: int = 1024
    timeout: float = 30.0
    """Seconds of one call, the client's own retries included."""
    pause: float = 0.0
    """Seconds that a caller rests between two writes."""
    metadata: dict[str, str] = field(default_factory=dict)
    head_file: str = ""
    """Where the newest head is kept; with it each write has to be proven before it counts as acknowledged."""
    verifier_key: str = ""
    """The log's, for `head_file`."""
    accepted_log_ids: list[str] = field(default_factory=list)
    """Generations of the log that `head_file` may go on to."""


class Ledger:
    """The file of what was acknowledged and what failed: a line in JSON each."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def acknowledged(self, request: Any, response: Any, began: float) -> None:
        record = response.record
        self._write(
            at=time.monotonic(),
            began=began,
            namespace=record.namespace,
            workflow_id=record.workflow_id,
            sequence=record.sequence,
            hash=record.hash.hex(),
            log_index=record.log_index,
            request_id=request.request_id,
            recorded_at=microseconds(record.recorded_at),
        )

    def failed(self, kind: str, method: str, code: str, message: str, began: float) -> None:
        """An attempt, or a call of all its attempts."""
        self._write(failed=kind, method=method, code=code, message=message, began=began, at=time.monotonic())

    def _write(self, **line: object) -> None:
        # In one piece, since the drill reads while we write.
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class Attempts(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Sees every attempt, those included that the client repeats by itself."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        began = time.monotonic()
        call = await continuation(details, request)
        code = await call.code()
        if code != grpc.StatusCode.OK:
            method = details.method.decode() if isinstance(details.method, bytes) else details.method
            self._ledger.failed("attempt", method.rpartition("/")[2], code.name, await call.details(), began)
        return call


class Callers:
    """All callers, on one connection to each target."""

    def __init__(self, settings: Settings, client: AegisClient, ledger: Ledger, stop: asyncio.Event) -> None:
        self._settings = settings
        self._client = client
        self._ledger = ledger
        self._stop = stop

    async def run(self) -> None:
        await asyncio.gather(*(self._call(caller) for caller in range(self._settings.callers)))

    async def _call(self, caller: int) -> None:
        count = 0
        while not self._stop.is_set():
            await self._one_workflow(f"{self._settings.name}-{caller}-{count}")
            count += 1

    async def _one_workflow(self, workflow_id: str) -> None:
        settings = self._settings
        identity = {"namespace": settings.namespace, "workflow_id": workflow_id}
        start = StartWorkflowRequest(
            **identity, workflow_type="load", initial_state="S0", request_id="start", metadata=settings.metadata
        )
        state, head = "S0", await self._write("StartWorkflow", start)
        for move in range(1, settings.moves + 1):
            if head is None or self._stop.is_set():
                return
            snapshot = Snapshot(content_type="application/octet-stream", content=os.urandom(settings.snapshot_bytes))
            common = {**identity, "snapshot": snapshot, "expected_hash": head, "request_id": f"move-{move}"}
            if move % 4 == 0:
                head = await self._write("CheckpointWorkflow", CheckpointWorkflowRequest(**common))
            else:
                state, former = f"S{move}", state
                request = TransitionWorkflowRequest(**common, from_state=former, to_state=state)
                head = await self._write("TransitionWorkflow", request)
            if settings.pause:
                await asyncio.sleep(settings.pause)

    async def _write(self, method: str, request: Any) -> bytes | None:
        """Writes until there is an answer, and gives the record's hash; None when it is refused, which ends the workflow."""
        while True:
            began = time.monotonic()
            try:
                response = await self._client.write(method, request, timeout=self._settings.timeout)
            except AegisError as e:
                self._ledger.failed("call", method, e.reason or e.code.name, e.message, began)
                await asyncio.sleep(_REPEAT_SECONDS)
                # One that does not believe the log any more believes no answer of its, whatever its code.
                if e.code not in _REPEATABLE or isinstance(e, IntegrityError):
                    return None
                continue
            self._ledger.acknowledged(request, response, began)
            return bytes(response.record.hash)


async def main(settings: Settings) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with open(settings.ledger, "a", encoding="utf-8") as file:
        ledger = Ledger(file)
        trust = None
        if settings.head_file:
            store = FileHeadStore(settings.head_file)
            trust = LogTrust([settings.verifier_key], store, accepted_log_ids=settings.accepted_log_ids)
        async with AegisClient(*settings.targets, interceptors=[Attempts(ledger)], trust=trust) as client:
            await Callers(settings, client, ledger, stop).run()


if __name__ == "__main__":
    asyncio.run(main(Settings(**json.loads(sys.argv[1]))))
