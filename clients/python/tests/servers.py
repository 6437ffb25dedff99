"""Servers and fault proxies in processes of their own, for the tests. Each ends by its process id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
from aegis_client import AegisClient

HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"


def _assembly(variable: str) -> str:
    path = os.environ.get(variable, "")
    if not path:
        raise RuntimeError(f"{variable} is not set: run `. clients/testbed` first, or clients/python/check")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server over SQLite in a directory of its own, on a free port that stays the same over restarts."""

    def __init__(self, directory: Path, environment: dict[str, str] | None = None, scheme: str = "http") -> None:
        self.directory = directory
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.url = f"{scheme}://{self.target}"
        self._environment = environment or {}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, serving: str = "aegis.writes") -> None:
        """Starts it, again after its end, and waits until a health service of its is SERVING."""
        # What a developer has set for a server of their own must not change those of the tests.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AEGIS_", "ASPNETCORE_", "OTEL_"))
        }
        environment |= {"AEGIS_DATA_DIR": str(self.directory), "AEGIS_DATABASE": "sqlite:aegis.db"}
        environment |= self._environment
        with open(self.directory / "server.log", "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "dotnet",
                _assembly("AEGIS_SERVER"),
                "--urls",
                self.url,
                cwd=self.directory,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if self.url.startswith("http:"):
            await self._until_serving(serving)

    async def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is closed."""
        process, self._process = self._process, None
        if process and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()

    def terminate(self) -> None:
        """SIGTERM: it drains, and ends by itself."""
        assert self._process
        self._process.send_signal(signal.SIGTERM)

    async def verifier_key(self) -> str:
        async with AegisClient(self.target) as client:
            from aegis.v1.system_service_pb2 import GetServerInfoRequest

            info = await client.call("GetServerInfo", GetServerInfoRequest())
        return str(info.verifier_keys[0])

    async def _until_serving(self, service: str) -> None:
        request = b"\x0a" + bytes([len(service)]) + service.encode()
        deadline = asyncio.get_running_loop().time() + 120
        while asyncio.get_running_loop().time() < deadline:
            assert self._process
            if self._process.returncode is not None:
                break
            async with grpc.aio.insecure_channel(self.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
                try:
                    check = channel.unary_unary(HEALTH)
                    if await check(request, timeout=2) == _SERVING:
                        return
                except grpc.aio.AioRpcError:
                    pass
            await asyncio.sleep(0.05)
        raise RuntimeError("The server does not serve:\n" + (self.directory / "server.log").read_text())


class Proxy:
    """A fault proxy before a server: see SCENARIOS.md."""

    def __init__(self, process: asyncio.subprocess.Process, target: str) -> None:
        self.process = process
        self.target = target

    async def tell(self, command: str) -> None:
        """Gives a command and waits until it holds."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(command.encode() + b"\n")
        await self.process.stdin.drain()
        answer = (await asyncio.wait_for(self.process.stdout.readline(), 30)).decode().strip()
        if answer != "ok":
            raise RuntimeError(f"The proxy answers {command!r} with {answer!r}")


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="aegis-python-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def running_server(**environment: str) -> AsyncIterator[Server]:
    with temporary_directory() as directory:
        server = Server(directory, environment)
        try:
            await server.start()
            yield server
        finally:
            await server.kill()


@contextlib.asynccontextmanager
async def running_proxy(server: Server) -> AsyncIterator[Proxy]:
    process = await asyncio.create_subprocess_exec(
        "dotnet",
        _assembly("AEGIS_FAULT_PROXY"),
        server.url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        target = line.strip().rpartition("http://")[2]
        if not target:
            raise RuntimeError(f"The proxy says {line!r}")
        yield Proxy(process, target)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
