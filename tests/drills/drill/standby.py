"""A PostgreSQL cluster in another region, fed asynchronously over a line that can be cut, and promoted when the
first region is lost.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from . import DRILLS
from .aegis import clean_environment
from .postgres import Cluster, binaries
from .processes import Process, Processes, free_port, until


class Line:
    """What leads from one region to the other."""

    def __init__(self, processes: Processes, name: str, target: int) -> None:
        self.port = free_port()
        self._process: Process = processes.start(
            name,
            [sys.executable, "-m", "drill.link", json.dumps([(self.port, target)])],
            environment=clean_environment(PYTHONPATH=str(DRILLS)),
        )
        until(lambda: "passing" in self._process.tail(), f"{name} to pass")

    def cut(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._process.signal(signal.SIGSTOP)


class Standby(Cluster):
    """A copy of a cluster that follows it."""

    def __init__(
        self, processes: Processes, directory: Path, primary: Cluster, line: Line, name: str = "standby"
    ) -> None:
        super().__init__(processes, directory, name)
        self._primary = primary
        self._line = line

    def create(self) -> None:
        """Copies the primary, by way of the line, and remembers to follow it."""
        source = ["-h", "127.0.0.1", "-p", str(self._line.port), "-U", "postgres"]
        self.run(
            "pg_basebackup", "-D", str(self.data), *source, "--checkpoint=fast", "--write-recovery-conf", "--no-sync"
        )

    def promote_command(self) -> list[str]:
        """What makes it a primary, for the page; as the user it runs as."""
        command = [str(binaries() / "pg_ctl"), "promote", "-D", str(self.data)]
        return (
            command
            if self.user is None
            else ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *command]
        )

    def log_size(self) -> int:
        """How many records the log has that it holds now."""
        size = self.execute("SELECT max(size) FROM log_head")[0][0]
        return int(str(size or 0))
