"""HAProxy in front of two servers, with the configuration that operators get, clients/haproxy.cfg, on ports of its own."""

from __future__ import annotations

import csv
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from . import ROOT
from .aegis import Server
from .processes import DrillError, Process, Processes, free_port, until

_CONFIGURATION = ROOT / "clients" / "haproxy.cfg"
_BACKENDS = ("writes", "calls")


@dataclass(frozen=True)
class Seen:
    """What HAProxy tells of a server in a backend."""

    status: str
    """UP or DOWN; "UP 1/3" on the way from one to the other."""
    running: int
    """How many calls it has now."""
    calls: int
    """How many it had in all."""


class Haproxy:
    """Behind it the first server is aegis-1, the second aegis-2."""

    def __init__(self, processes: Processes, directory: Path, first: Server, second: Server) -> None:
        self.target = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.target}"
        self.statistics = f"http://127.0.0.1:{free_port()}/;csv"
        """What it tells of its servers."""
        self._processes = processes
        self._file = directory / "haproxy.cfg"
        self._process: Process | None = None
        statistics_port = self.statistics.split(":")[2].split("/")[0]
        ports = {50050: self.target.split(":")[1], 50051: first.port, 50052: second.port, 8404: statistics_port}
        text = _CONFIGURATION.read_text()
        for shown, port in ports.items():
            if f"127.0.0.1:{shown}" not in text:
                raise DrillError(f"{_CONFIGURATION} has no 127.0.0.1:{shown} any more.")
            text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{port}")
        self._file.write_text(text)

    def start(self) -> None:
        """Starts it and waits until both servers have passed a check and are in the rotation."""
        program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None:
            raise DrillError("HAProxy is not installed (Debian: apt-get install haproxy).")
        # -db: in the foreground, the process that is started is the one that works.
        self._process = self._processes.start("haproxy", [program, "-db", "-f", self._file])
        until(self._answers, "HAProxy to answer")
        for server in ("aegis-1", "aegis-2"):
            self.until_up(server)

    def look(self, backend: str, server: str) -> Seen:
        """What it tells of a server in a backend."""
        row = self._rows()[(backend, server)]
        return Seen(row["status"], int(row["scur"] or 0), int(row["stot"] or 0))

    def until_up(self, server: str, timeout: float = 60.0) -> float:
        """Waits until its checks find a server well in every backend, and gives the time at which they did."""
        return until(lambda: self._all(server, "UP", "L7OK"), f"HAProxy to find {server} well", timeout)

    def until_down(self, server: str, timeout: float = 60.0) -> float:
        """Waits until a server is out of the rotation in every backend, and gives the time at which it was."""
        return until(lambda: self._all(server, "DOWN", ""), f"HAProxy to take {server} out", timeout)

    def _all(self, server: str, status: str, check: str) -> bool:
        rows = self._rows()
        # "UP 1/3" is a server that is about to go down.
        return all(
            rows[(backend, server)]["status"] == status and check in rows[(backend, server)]["check_status"]
            for backend in _BACKENDS
        )

    def _answers(self) -> bool:
        assert self._process
        if self._process.has_ended:
            raise DrillError(f"HAProxy ended with {self._process.exit_code}:\n{self._process.tail()}")
        try:
            self._rows()
        except OSError:
            return False
        return True

    def _rows(self) -> dict[tuple[str, str], dict[str, str]]:
        # Never by way of a proxy that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.statistics, timeout=5) as response:
            lines = response.read().decode().removeprefix("# ").splitlines()
        return {(row["pxname"], row["svname"]): row for row in csv.DictReader(lines)}
