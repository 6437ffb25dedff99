"""Standbys that stream from a PostgreSQL cluster, and how much each cluster was read."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from .postgres import Cluster, binaries
from .processes import Processes


@dataclass(frozen=True)
class Reading:
    """How much was read."""

    calls: int = 0
    rows: int = 0
    milliseconds: float = 0.0

    def __add__(self, other: Reading) -> Reading:
        return Reading(self.calls + other.calls, self.rows + other.rows, self.milliseconds + other.milliseconds)

    def __sub__(self, other: Reading) -> Reading:
        return Reading(self.calls - other.calls, self.rows - other.rows, self.milliseconds - other.milliseconds)


class Standby(Cluster):
    """A standby, on a port of its own."""

    def __init__(self, processes: Processes, directory: Path, name: str, primary: Cluster) -> None:
        super().__init__(processes, directory, name, [*STATEMENTS, "hot_standby_feedback=on"])
        self.primary = primary

    @property
    def address(self) -> str:
        """As the server names it in its log."""
        return f"127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        """As psql and pg_basebackup take it."""
        return dsn(self)

    def create(self) -> None:
        """Copies the primary."""
        self.run("pg_basebackup", *self._copy())

    def pause(self) -> None:
        """It goes on receiving, and replays nothing."""
        self.execute("SELECT pg_wal_replay_pause()")

    def commands(self, directory: Path) -> dict[str, str]:
        """Scripts for a page: to start and to stop it, as systemctl does. After such a page :meth:`adopt` the process."""
        start = self.start_script(directory)
        stop = directory / f"stop-{self.name}"
        ctl = shlex.join([str(binaries() / "pg_ctl"), "stop", "-D", str(self.data), "-m", "fast", "-s"])
        stop.write_text(f"#!/bin/bash\nset -eu\ncd /\n{self._as_user()}{ctl}\n")
        clone = directory / f"clone-{self.name}"
        copy = shlex.join([str(binaries() / "pg_basebackup"), *self._copy()])
        clone.write_text(f"#!/bin/bash\nset -eu\ncd /\nrm -rf {shlex.quote(str(self.data))}\n{self._as_user()}{copy}\n")
        for script in (stop, clone):
            script.chmod(0o755)
        return {"START_REPLICA": str(start), "STOP_REPLICA": str(stop), "CLONE_REPLICA": str(clone)}

    def adopt(self) -> None:
        """Takes over the process that the script has started."""
        super().adopt()
        self.until_accepting()

    def _copy(self) -> list[str]:
        return ["-D", str(self.data), "-d", dsn(self.primary), "--checkpoint=fast", "--write-recovery-conf"]

    def _as_user(self) -> str:
        return f"setpriv --reuid={self.user} --regid={self.user} --clear-groups " if self.user else ""


READING = r"^\s*(SELECT|COPY|WITH)"
"""Statements that read, as :func:`reads` takes them."""

STATEMENTS = ("shared_preload_libraries=pg_stat_statements", "pg_stat_statements.max=1000")
"""Settings of a cluster whose reads are counted. Its database needs the extension, once, at the primary."""


def dsn(cluster: Cluster) -> str:
    return f"host=127.0.0.1 port={cluster.port} user=postgres dbname=postgres"


def reads(cluster: Cluster, statements: str = READING) -> Reading:
    """What its statements have read since it started.

    :param statements: a regular expression that their text has to match.
    """
    ((count, rows, milliseconds),) = cluster.execute(
        "SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(rows), 0)::bigint, coalesce(sum(total_exec_time), 0)"
        " FROM pg_stat_statements WHERE query ~ %s AND query !~ 'pg_stat_statements'",
        statements,
    )
    return Reading(int(str(count)), int(str(rows)), float(str(milliseconds)))
