"""Copies of a PostgreSQL cluster that stream from it, directly or over a line that can be cut."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import DRILLS
from .aegis import clean_environment
from .postgres import Cluster
from .processes import Process, Processes, free_port, until, write_script


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
    """A copy of a cluster that streams from it."""

    def __init__(
        self,
        processes: Processes,
        directory: Path,
        primary: Cluster,
        name: str = "standby",
        *,
        settings: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        """
        :param port: where it reaches the primary: that of a line; the primary's own by default.
        """
        super().__init__(processes, directory, name, settings)
        self.primary = primary
        self._source = dsn(port or primary.port)

    @property
    def dsn(self) -> str:
        """As psql and pg_basebackup take it."""
        return dsn(self.port)

    def create(self) -> None:
        """Copies the primary, and remembers to follow it."""
        self.run("pg_basebackup", *self.copying())

    def copying(self) -> list[str]:
        """The arguments of pg_basebackup."""
        return ["-D", str(self.data), "-d", self._source, "--checkpoint=fast", "--write-recovery-conf", "--no-sync"]

    def promote_script(self, directory: Path) -> Path:
        """A command that makes it the primary and waits until it is, for the page."""
        return write_script(
            directory / f"promote-{self.name}", f"cd /\n{self.shown('pg_ctl', 'promote', '-w', '-D', str(self.data))}"
        )

    def log_size(self) -> int:
        """How many records the log has that it holds now."""
        size = self.execute("SELECT max(size) FROM log_head")[0][0]
        return int(str(size or 0))


def dsn(port: int) -> str:
    """A cluster of this machine as psql and pg_basebackup take it."""
    return f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
