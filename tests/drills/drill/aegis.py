"""Aegis servers and the `aegis` command, as operators run them."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from aegis.v1.system_service_pb2 import GetServerInfoRequest
from aegis.v1.system_service_pb2_grpc import SystemServiceStub

from . import ROOT
from .processes import DrillError, Process, Processes, free_port, run, until, write_script

WRITES = "aegis.writes"
INTEGRITY = "aegis.integrity"
LIVENESS = "liveness"

_BUILD_SECONDS_MAX = 900.0
_SERVING = b"\x08\x01"
# What a developer has set for a server of their own must not change those of a drill.
_FOREIGN = ("AEGIS_", "ASPNETCORE_", "OTEL_", "PG")


@dataclass(frozen=True)
class Programs:
    """Where the server and the command are."""

    server: str
    """Aegis.Server.dll"""
    command: str
    """aegis.dll"""


def build(root: Path = ROOT) -> Programs:
    """Builds server and command of a source tree, unless AEGIS_SERVER, AEGIS_CLI and AEGIS_FAULT_PROXY tell where they are."""
    script = '. "$1/clients/testbed" >&2 && printf "%s\\n" "$AEGIS_SERVER" "$AEGIS_CLI"'
    environment = dict(os.environ)
    if root != ROOT:
        # Those are of this tree.
        for name in ("AEGIS_SERVER", "AEGIS_CLI", "AEGIS_FAULT_PROXY"):
            environment.pop(name, None)
    built = subprocess.run(
        ["bash", "-c", script, "bash", str(root)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS_MAX,
    )
    if built.returncode != 0:
        raise DrillError(f"Aegis does not build:\n{built.stdout}{built.stderr}")
    server, command = built.stdout.splitlines()[-2:]
    return Programs(server, command)


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what is meant for other servers, and with some variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "DOTNET_NOLOGO": "1", "DOTNET_CLI_TELEMETRY_OPTOUT": "1", **variables}


class Server:
    """A server with a data directory and a memory of its own, on a free port that stays the same over restarts.

    Servers of one database share a signing key: give the others that of the first.
    """

    def __init__(
        self,
        processes: Processes,
        programs: Programs,
        directory: Path,
        database: str,
        *,
        name: str = "aegis",
        signing_key: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        :param directory: where it makes its data directory.
        :param database: its AEGIS_DATABASE.
        :param environment: further variables of it.
        """
        self.name = name
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.target}"
        self.data = directory / name
        self.data.mkdir(parents=True)
        self.signing_key = signing_key or self.data / "signing-key.pem"
        self.programs = programs
        self.environment = {
            "AEGIS_DATABASE": database,
            "AEGIS_DATA_DIR": str(self.data),
            "AEGIS_SIGNING_KEY": str(self.signing_key),
            "AEGIS_MEMORY_FILE": str(self.data / "memory.json"),
            **(environment or {}),
        }
        self._processes = processes
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        if self._process is None:
            raise DrillError(f"{self.name} was not started.")
        return self._process

    def start(self, service: str = WRITES) -> float:
        """Starts it, again after its end, and waits until a health service of its is SERVING: gives the time it was."""
        self.launch()
        return self.until_serving(service)

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        environment = clean_environment(**self.environment)
        self._process = self._processes.start(self.name, self.command(), environment=environment, directory=self.data)

    def command(self) -> list[str]:
        """What starts it, in the foreground."""
        return ["dotnet", self.programs.server, "--urls", self.url]

    def start_script(self, directory: Path) -> Path:
        """A command that starts it in the background, for the page. After the page :meth:`adopt` it."""
        environment = clean_environment(**self.environment)
        file = directory / f"start-{self.name}"
        return self._processes.script(self.name, self.command(), file, environment=environment, directory=self.data)

    def stop_script(self, directory: Path) -> Path:
        """A command that stops it in order and returns when it has ended, for the page."""
        return self.process.stop_script(directory)

    def adopt(self) -> None:
        """Takes over the process that the command of :meth:`start_script` has started."""
        self._process = self._processes.adopt(self.name)

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is closed. Done when it is gone."""
        self.process.kill()

    def terminate(self) -> None:
        """SIGTERM: it drains, and ends by itself. Waits for nothing."""
        self.process.signal(signal.SIGTERM)

    def is_serving(self, service: str = WRITES, timeout: float = 2.0) -> bool:
        """Whether a health service of its is SERVING now."""
        return is_serving(self.target, service, timeout)

    def until_serving(self, service: str = WRITES, timeout: float = 60.0) -> float:
        """Waits until a health service of its is SERVING, and gives the time at which it was."""

        def check() -> bool:
            if self._process is not None and self._process.has_ended:
                raise DrillError(f"{self.name} ended with {self._process.exit_code}.")
            return self.is_serving(service)

        try:
            return until(check, f"{self.name} to be SERVING {service or '(all)'}", timeout)
        except DrillError as e:
            raise DrillError(f"{e}\n{self.process.tail()}") from e

    def verifier_key(self) -> str:
        """The key that its log is verified by, from the key's file and not by the server's own word."""
        return run(
            ["dotnet", self.programs.command, "key", "show", "--file", self.signing_key, "--log-id", self.log_id()],
            environment=clean_environment(),
        ).strip()

    def log_id(self) -> str:
        """The name of its log."""
        with grpc.insecure_channel(self.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = SystemServiceStub(channel)  # type: ignore[no-untyped-call]
            return str(stub.GetServerInfo(GetServerInfoRequest(), timeout=10).log_id)


def is_serving(target: str, service: str, timeout: float = 2.0) -> bool:
    """Whether a health service is SERVING now, asked over a connection of its own."""
    host, _, port = target.rpartition(":")
    try:
        # A port that nobody listens on is told at once; gRPC would wait before it tries again.
        socket.create_connection((host, int(port)), timeout).close()
    except OSError:
        return False
    request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            return bool(channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=timeout) == _SERVING)
        except grpc.RpcError:
            return False


def command_script(programs: Programs, directory: Path) -> Path:
    """Makes `aegis` a command in a directory that then belongs on PATH."""
    return write_script(directory / "aegis", f'exec dotnet {shlex.quote(programs.command)} "$@"')
