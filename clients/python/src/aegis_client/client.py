"""The connection to Aegis: one address or several, with retries, health checks and, with a LogTrust, proofs."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from aegis.v1 import integrity_service_pb2, integrity_service_pb2_grpc
from aegis.v1 import recovery_service_pb2_grpc, system_service_pb2_grpc, workflow_service_pb2_grpc

from .errors import AegisError, CursorAheadOfLog, DeadlineExceeded, from_rpc_error, is_repeatable
from .trust import LogTrust, check_written

T = TypeVar("T")

DEFAULT_TIMEOUT = 30.0
"""Seconds that a call may take, retries included, unless it says otherwise."""

_BACKOFF_MIN = 0.1
_BACKOFF_MAX = 2.0
_CONNECT_WAIT = 5.0
_STATE_POLL = 0.005

_OPTIONS: list[tuple[str, Any]] = [
    # This layer retries itself, so that request ids, deadlines and outcomes that are not known are its own.
    ("grpc.enable_retries", 0),
    # gRPC's own wait of a second would be most of a short recovery.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # In spite of its name: how long one attempt to connect may take. A smaller one never connects over a slow network.
    ("grpc.min_reconnect_backoff_ms", int(_CONNECT_WAIT * 1000)),
    # A connection that died without a word is noticed.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Health checking works under round_robin only. The empty name says that the server can be called.
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}),
    ),
]


class AegisClient:
    """Calls Aegis at one address or several; an address that is down or not SERVING is passed over.

    Calls are retried on UNAVAILABLE (and OVERLOADED) with backoff and jitter, inside their deadline. Use it on one
    event loop, from any number of tasks; close it, or use it as ``async with``.
    """

    def __init__(
        self,
        *targets: str,
        credentials: grpc.ChannelCredentials | None = None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        compression: grpc.Compression | None = None,
        options: Sequence[tuple[str, Any]] = (),
        trust: LogTrust | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """
        :param targets: ``host:port``, or any other target that gRPC takes; several are tried in turn.
        :param credentials: ``grpc.ssl_channel_credentials(…)`` for TLS, with call credentials by
            ``grpc.composite_channel_credentials(…)``. None for plaintext.
        :param interceptors: of ``grpc.aio``; they see every attempt.
        :param compression: of requests, ``grpc.Compression.Gzip`` say.
        :param options: further channel arguments of gRPC, which come before those of this layer.
        :param trust: verifies every write's proofs; without one records are recomputed all the same, but not proven.
        :param timeout: seconds that a call may take by default, retries included.
        """
        if not targets:
            raise ValueError("AegisClient needs at least one address, such as 127.0.0.1:50051")
        for target in targets:
            if target.startswith(("http://", "https://")):
                raise ValueError(f'"{target}" has a scheme: give host:port, and credentials for TLS')
        self._targets = targets
        self._credentials = credentials
        self._interceptors = list(interceptors)
        self._compression = compression
        names = {name for name, _ in options}
        self._options = [*options, *(option for option in _OPTIONS if option[0] not in names)]
        self.trust = trust
        self.timeout = timeout
        # Made at first use: a channel belongs to the event loop that it is made on.
        self._connections: list[_Connection] = []
        self._turn = 0
        self._is_closed = False

    async def __aenter__(self) -> AegisClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Calls that run are cancelled."""
        self._is_closed = True
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.channel.close()

    @property
    def workflows(self) -> Any:
        """The generated stub of WorkflowService: neither retried nor verified, and failing with grpc's errors."""
        return self._connection().workflows

    @property
    def recovery(self) -> Any:
        """The generated stub of RecoveryService, as :attr:`workflows`."""
        return self._connection().recovery

    @property
    def integrity(self) -> Any:
        """The generated stub of IntegrityService, as :attr:`workflows`."""
        return self._connection().integrity

    @property
    def system(self) -> Any:
        """The generated stub of SystemService, as :attr:`workflows`."""
        return self._connection().system

    async def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """Calls a unary RPC of the contract that may be repeated: any that reads, and writes with a request_id.

        :param method: its name in the contract, ``GetWorkflow`` say.
        :param timeout: seconds, retries included; the client's own by default.
        :raises AegisError: of the class of its reason.
        """
        deadline = self._deadline(timeout)
        if self.trust:
            await self.trust.begin(_Source(self, deadline))
        return await self._attempt(method, request, deadline)

    async def write(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """Calls StartWorkflow, TransitionWorkflow or CheckpointWorkflow, and verifies what it returns.

        Gives it a request_id where it has none, so that a lost reply never doubles the record. With a trust the record
        is proven to be under a head that continues all that were seen, before this returns.

        :raises IntegrityError: what came back does not fit what was sent or proven. The record may be there all the
            same.
        :raises AegisError: of the class of its reason, with the request_id.
        """
        deadline = self._deadline(timeout)
        sent = type(request)()
        sent.CopyFrom(request)
        sent.request_id = sent.request_id or str(uuid.uuid4())
        try:
            return await self._write(method, sent, deadline)
        except AegisError as e:
            e.request_id = sent.request_id
            raise

    async def call_once(self, method: str, request: Any, timeout: float) -> Any:
        """As :meth:`call`, without a retry: for who decides about the next attempt, with :meth:`repeated`."""
        deadline = self._deadline(timeout)
        if self.trust:
            await self.trust.begin(_Source(self, deadline))
        try:
            connection = await self._ready(deadline)
            return await connection.method(method)(request, timeout=max(0.0, deadline - _now()))
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from e

    async def repeated(self, attempt: Callable[[float], Awaitable[T]], timeout: float) -> T:
        """Does something again, with backoff and jitter, for as long as it fails with UNAVAILABLE or OVERLOADED.

        :param attempt: is given the seconds that are left.
        :param timeout: seconds for all attempts.
        :raises DeadlineExceeded: there was no time for the next attempt.
        """
        deadline = self._deadline(timeout)
        count = 0
        while True:
            try:
                return await attempt(max(0.0, deadline - _now()))
            except AegisError as e:
                if not is_repeatable(e) or self._is_closed:
                    raise
                await self._pause(count, deadline, e)
            count += 1

    async def stream(self, method: str, request: Any, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """Yields what one of the contract's streaming RPCs sends. Not retried.

        :param request: the request, or for ImportWorkflows an async iterator of requests.
        :param timeout: seconds for all of it; None for no end.
        :raises AegisError: of the class of its reason.
        """
        if self.trust:
            await self.trust.begin(_Source(self, self._deadline(None)))
        connection = await self._ready(self._deadline(timeout))
        call = connection.method(method)(request, timeout=timeout)
        task = asyncio.current_task()
        cancellations = task.cancelling() if task else 0
        try:
            async for message in call:
                yield message
            # grpc loses a cancellation that meets the end of a stream.
            if task and task.cancelling() > cancellations:
                raise asyncio.CancelledError()
        except grpc.aio.AioRpcError as e:
            raise from_rpc_error(e) from e
        finally:
            call.cancel()

    def source(self, timeout: float | None = None) -> _Source:
        """The log behind this client, for :meth:`LogTrust.take_head`."""
        return _Source(self, self._deadline(timeout))

    async def _write(self, method: str, request: Any, deadline: float) -> Any:
        if self.trust is None:
            response = await self._attempt(method, request, deadline)
            check_written(request, response)
            return response
        source = _Source(self, deadline)
        await self.trust.begin(source)
        request.include_proof = True
        attempt = 0
        while True:
            before = self.trust.kept()
            request.known_log_size = before.head.size if before else 0
            try:
                response = await self._attempt(method, request, deadline)
            except CursorAheadOfLog as e:
                # The log says it is shorter than the kept head. Its own signed head tells: either it was taken back,
                # which raises, or another log_id was accepted and is kept from here on, or another server is behind for
                # a moment.
                await self.trust.take_head(await source.log_head(), source, before=before)
                await self._pause(attempt, deadline, e)
                attempt += 1
                continue
            check_written(request, response)
            await self.trust.check_receipt(
                response.record, response.receipt, source, before=before, replayed=response.replayed
            )
            return response

    async def _attempt(self, method: str, request: Any, deadline: float) -> Any:
        async def attempt(remaining: float) -> Any:
            connection = await self._ready(deadline)
            try:
                return await connection.method(method)(request, timeout=remaining)
            except grpc.aio.AioRpcError as e:
                raise from_rpc_error(e) from e

        return await self.repeated(attempt, deadline - _now())

    async def _pause(self, attempt: int, deadline: float, error: AegisError) -> None:
        # Many callers that were turned away together must not come back together.
        delay = min(_BACKOFF_MAX, _BACKOFF_MIN * 2 ** min(attempt, 10)) * random.uniform(0.5, 1.0)
        delay += error.retry_delay or 0.0
        if _now() + delay >= deadline:
            raise DeadlineExceeded(
                f"The deadline would be over before the next attempt; the last one failed: {error.message}",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
            ) from error
        await asyncio.sleep(delay)

    def _deadline(self, timeout: float | None) -> float:
        return _now() + (self.timeout if timeout is None else timeout)

    def _open(self) -> list[_Connection]:
        if self._is_closed:
            raise AegisError("The client is closed.", code=grpc.StatusCode.CANCELLED)
        if not self._connections:
            self._connections = [self._connect(target) for target in self._targets]
        return self._connections

    def _connect(self, target: str) -> _Connection:
        common: dict[str, Any] = {
            "options": self._options,
            "compression": self._compression,
            "interceptors": self._interceptors,
        }
        if self._credentials is None:
            return _Connection(grpc.aio.insecure_channel(target, **common))
        return _Connection(grpc.aio.secure_channel(target, self._credentials, **common))

    def _connection(self) -> _Connection:
        """The next connection in turn, of those that are ready if any is."""
        connections = self._open()
        self._turn += 1
        in_turn = [connections[(self._turn + i) % len(connections)] for i in range(len(connections))]
        return next((c for c in in_turn if c.is_ready), in_turn[0])

    async def _ready(self, deadline: float) -> _Connection:
        """A connection that is ready; after a while one that is not, which then fails by itself.

        Of a single one gRPC does the waiting. Among several none is waited for that hangs while another connects.
        """
        connections = self._open()
        until = min(deadline, _now() + _CONNECT_WAIT)
        while len(connections) > 1 and not any(c.is_ready for c in connections):
            if all(c.has_failed for c in connections) or _now() >= until:
                break
            await asyncio.sleep(_STATE_POLL)
        return self._connection()


class _Connection:
    """One channel with its stubs."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        # Of the generated stubs grpc knows no types.
        self.workflows = workflow_service_pb2_grpc.WorkflowServiceStub(channel)  # type: ignore[no-untyped-call]
        self.recovery = recovery_service_pb2_grpc.RecoveryServiceStub(channel)  # type: ignore[no-untyped-call]
        self.integrity = integrity_service_pb2_grpc.IntegrityServiceStub(channel)  # type: ignore[no-untyped-call]
        self.system = system_service_pb2_grpc.SystemServiceStub(channel)  # type: ignore[no-untyped-call]

    @property
    def is_ready(self) -> bool:
        return bool(self.channel.get_state(try_to_connect=True) == grpc.ChannelConnectivity.READY)

    @property
    def has_failed(self) -> bool:
        return bool(self.channel.get_state() == grpc.ChannelConnectivity.TRANSIENT_FAILURE)

    def method(self, name: str) -> Any:
        for stub in (self.workflows, self.recovery, self.integrity, self.system):
            if method := getattr(stub, name, None):
                return method
        raise ValueError(f'the contract has no RPC "{name}"')


class _Source:
    """The log behind a client, asked inside the deadline of the call that needs it."""

    def __init__(self, client: AegisClient, deadline: float) -> None:
        self._client = client
        self._deadline = deadline

    async def log_head(self) -> str:
        request = integrity_service_pb2.GetLogHeadRequest()
        head = await self._client._attempt("GetLogHead", request, self._deadline)
        return str(head.signed_note)

    async def consistency_path(self, first_size: int, second_size: int) -> Sequence[bytes]:
        request = integrity_service_pb2.GetConsistencyProofRequest(first_size=first_size, second_size=second_size)
        proof = await self._client._attempt("GetConsistencyProof", request, self._deadline)
        return list(proof.path)


def _now() -> float:
    return asyncio.get_running_loop().time()
