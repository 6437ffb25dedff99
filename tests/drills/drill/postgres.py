"""PostgreSQL clusters that a drill starts, kills and starts again, with the durability that production has."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import psycopg2

from .processes import DrillError, Process, Processes, as_user, children, database_user, free_port, run, until

_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "max_connections=200",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
)


def binaries() -> Path:
    """The directory of initdb and postgres, the newest where Debian has several."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise DrillError("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    return Path(on_path).resolve().parent


class Cluster:
    """One PostgreSQL server on a free port, which stays the same over restarts."""

    def __init__(
        self, processes: Processes, directory: Path, name: str = "postgres", settings: Sequence[str] = ()
    ) -> None:
        """
        :param directory: where it may make a directory of its name; its user has to be able to get there.
        :param settings: further ones, as in "wal_level=logical".
        """
        self.name = name
        self.port = free_port()
        self.directory = directory / name
        self.data = self.directory / "data"
        self.user = database_user()
        self._processes = processes
        self._settings = [*_SETTINGS, f"port={self.port}", f"unix_socket_directories={self.directory}", *settings]
        self._process: Process | None = None
        self._make_directory()

    @property
    def connection_string(self) -> str:
        """As AEGIS_DATABASE has it: Npgsql's."""
        return f"Host=127.0.0.1;Port={self.port};Username=postgres;Database=postgres"

    @property
    def process(self) -> Process:
        if self._process is None:
            raise DrillError(f"{self.name} was not started.")
        return self._process

    def create(self) -> None:
        """Makes an empty cluster. Only this goes unflushed to the disk: what is written later never does."""
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self.run("initdb", "-D", str(self.data), *options)

    def start(self, timeout: float = 60.0) -> float:
        """Starts it, again after an end, and waits until it accepts connections: gives the time at which it did."""
        self.launch()
        return self.until_accepting(timeout)

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        self._process = self._processes.start(self.name, self.command(), directory=self.directory, user=self.user)

    def start_script(self, directory: Path) -> Path:
        """A command that starts it in the background, for the page. After the page :meth:`adopt` it."""
        file = directory / f"start-{self.name}"
        return self._processes.script(self.name, self.command(), file, directory=self.directory, user=self.user)

    def adopt(self) -> None:
        """Takes over the process that the command of :meth:`start_script` has started."""
        self._process = self._processes.adopt(self.name)

    def command(self) -> list[str]:
        """What starts it, in the foreground."""
        options = [part for setting in self._settings for part in ("-c", setting)]
        return [str(binaries() / "postgres"), "-D", str(self.data), *options]

    def until_accepting(self, timeout: float = 60.0) -> float:
        """Waits until it accepts connections, and gives the time at which it did."""
        try:
            return until(self._accepts, f"{self.name} to accept connections", timeout)
        except DrillError as e:
            raise DrillError(f"{e}\n{self.process.tail()}") from e

    def kill(self) -> None:
        """SIGKILL for all of its processes at the same moment, as a machine that loses its power does."""
        postmaster = self.process
        # Stopped, so that it neither starts another nor tells them to end in order.
        postmaster.signal(signal.SIGSTOP)
        for backend in children(postmaster.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)
        postmaster.kill()

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, a last checkpoint is written."""
        self.process.signal(signal.SIGINT)
        self.process.wait()

    def execute(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """Runs a statement as superuser in a connection of its own, and gives its rows."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def connect(self) -> "psycopg2.extensions.connection":
        """A connection as superuser that commits each statement."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", connect_timeout=5
        )
        connection.autocommit = True
        return connection

    def run(self, program: str, *arguments: str, timeout: float = 120.0) -> str:
        """Runs one of PostgreSQL's programs as the cluster's user."""
        return run([binaries() / program, *arguments], directory=self.directory, user=self.user, timeout=timeout)

    def shown(self, program: str, *arguments: str) -> str:
        """One of PostgreSQL's programs as a line of a script, run as the cluster's user."""
        return shlex.join([*as_user(self.user), str(binaries() / program), *arguments])

    def _accepts(self) -> bool:
        if self._process is not None and self._process.has_ended:
            raise DrillError(f"{self.name} ended with {self._process.exit_code}:\n{self._process.tail()}")
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def _make_directory(self) -> None:
        self.directory.mkdir()
        if self.user is not None:
            shutil.chown(self.directory, self.user)
