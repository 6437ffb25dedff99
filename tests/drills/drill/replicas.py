"""Standbys that serve reads, and how much each cluster was read."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from .postgres import Cluster
from .processes import Processes, write_script
from .standby import Standby


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


class Replica(Standby):
    """A standby that serves reads, and counts them."""

    def __init__(self, processes: Processes, directory: Path, name: str, primary: Cluster) -> None:
        super().__init__(processes, directory, primary, name, settings=[*STATEMENTS, "hot_standby_feedback=on"])

    @property
    def address(self) -> str:
        """As the server names it in its log."""
        return f"127.0.0.1:{self.port}"

    def pause(self) -> None:
        """It goes on receiving, and replays nothing."""
        self.execute("SELECT pg_wal_replay_pause()")

    def commands(self, directory: Path) -> dict[str, str]:
        """Scripts for a page: to start and to stop it, as systemctl does. After such a page :meth:`adopt` the process."""
        stop = self.shown("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-s")
        copy = self.shown("pg_basebackup", *self.copying())
        scripts = {
            "START_REPLICA": self.start_script(directory),
            "STOP_REPLICA": write_script(directory / f"stop-{self.name}", f"cd /\n{stop}"),
            "CLONE_REPLICA": write_script(
                directory / f"clone-{self.name}", f"cd /\nrm -rf {shlex.quote(str(self.data))}\n{copy}"
            ),
        }
        return {variable: str(script) for variable, script in scripts.items()}

    def adopt(self) -> None:
        """Takes over the process that the script has started."""
        super().adopt()
        self.until_accepting()


READING = r"^\s*(SELECT|COPY|WITH)"
"""Statements that read, as :func:`reads` takes them."""

STATEMENTS = ("shared_preload_libraries=pg_stat_statements", "pg_stat_statements.max=1000")
"""Settings of a cluster whose reads are counted. Its database needs the extension, once, at the primary."""


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
