"""What the scenarios share: servers, clients and engines that end with their test."""

from __future__ import annotations

import logging
import unittest
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from aegis_client import AegisClient, Codec, DurableWorkflowEngine, FileHeadStore, HeadStore, LogTrust
from servers import Proxy, Server, running_proxy, running_server

# What the layer tells of trouble is part of the tests, and not of their output.
logging.getLogger("aegis_client").addHandler(logging.NullHandler())
logging.getLogger("aegis_client").propagate = False


class RawCodec:
    """Bytes as they are."""

    def encode(self, data: bytes) -> tuple[str, bytes]:
        return "application/octet-stream", data

    def decode(self, content_type: str, content: bytes) -> bytes:
        return content


class Recorder(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Sees every attempt of every unary call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        self.calls.append((method.rpartition("/")[2], request))
        return await continuation(details, request)

    def requests(self, method: str) -> list[Any]:
        return [request for name, request in self.calls if name == method]


class ScenarioTest(unittest.IsolatedAsyncioTestCase):
    async def server(self, **environment: str) -> Server:
        return await self.enterAsyncContext(running_server(**environment))

    async def proxy(self, server: Server) -> Proxy:
        return await self.enterAsyncContext(running_proxy(server))

    async def client(self, *targets: str, **options: Any) -> AegisClient:
        return await self.enterAsyncContext(AegisClient(*targets, **options))

    async def engine(
        self, client: AegisClient, *workflow_types: str, codec: Codec[Any] | None = None, **options: Any
    ) -> DurableWorkflowEngine:
        engine = await self.enterAsyncContext(DurableWorkflowEngine(client, **options))
        for workflow_type in workflow_types or ("permit",):
            engine.register(workflow_type, codec)
        return engine

    async def trust(self, server: Server, store: HeadStore | None = None) -> LogTrust:
        return LogTrust([await server.verifier_key()], store or FileHeadStore(server.directory / "head.json"))
