"""pgBackRest with a repository of its own: backups, and every piece of WAL, of one PostgreSQL cluster."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from .frame import Drill
from .postgres import Cluster, binaries
from .processes import DrillError, as_user, database_user, write_script

STANZA = "aegis"


class PgBackRest:
    """Makes a cluster that archives its WAL, and `pgbackrest` a command for the page that needs no options of this machine."""

    def __init__(self, drill: Drill, name: str = "postgres") -> None:
        program = shutil.which("pgbackrest")
        if program is None:
            raise DrillError("pgBackRest is not installed (Debian: apt-get install pgbackrest).")
        self.directory = drill.directory / f"{name}-pgbackrest"
        self.directory.mkdir()
        self._configuration = self.directory / "pgbackrest.conf"
        self._command = f"{program} --config={self._configuration} --log-level-console=warn --log-level-stderr=off"
        archive = f"{self._command} --stanza={STANZA} archive-push %p"
        self.cluster = Cluster(
            drill.processes,
            drill.directory,
            name,
            ["archive_mode=on", f"archive_command={archive}", "archive_timeout=60"],
        )
        self._configure()
        self._make_command(drill.commands)
        self.cluster.create()
        self.cluster.start()

    def start_script(self, directory: Path) -> Path:
        """A command that starts the cluster and waits until it accepts connections, for the page. After it, adopt the cluster."""
        started = self.cluster.start_script(directory)
        ready = shlex.join([str(binaries() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.cluster.port)])
        return write_script(
            directory / f"start-and-wait-{self.cluster.name}",
            f"{shlex.quote(str(started))}\nuntil {ready}; do sleep 0.1; done",
        )

    def new_directory(self, name: str) -> Path:
        """An empty directory of the database's user."""
        path = self.cluster.directory / name
        path.mkdir(mode=0o700)
        self._own(path)
        return path

    def _configure(self) -> None:
        places = {place: self.directory / place for place in ("repo1", "log", "lock", "spool")}
        for path in places.values():
            path.mkdir()
            self._own(path)
        self._own(self.directory)
        self._configuration.write_text(
            "[global]\nrepo1-retention-full=2\nstart-fast=y\nlog-level-file=off\nprocess-max=2\n"
            + "".join(f"{place}-path={path}\n" for place, path in places.items())
            + f"[{STANZA}]\npg1-path={self.cluster.data}\npg1-port={self.cluster.port}\n"
            f"pg1-socket-path={self.cluster.directory}\npg1-user=postgres\n"
        )

    def _make_command(self, directory: Path) -> None:
        identity = shlex.join(as_user(self.cluster.user))
        # It refuses environments and directories that its user cannot read.
        write_script(
            directory / "pgbackrest", f'cd {shlex.quote(str(self.directory))}\nexec {identity} {self._command} "$@"'
        )

    @staticmethod
    def _own(path: Path) -> None:
        user = database_user()
        if user is not None:
            shutil.chown(path, user, user)
