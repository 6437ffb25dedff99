"""What goes wrong below the database: bytes of its files, its disk, its clock; and the standby that has another copy."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .postgres import Cluster
from .processes import DrillError, run, until, write_script
from .standby import Standby

PAGE_BYTES = 8192

_FAKETIME = "usr/lib/*/faketime/libfaketimeMT.so.1"


def follow(primary: Cluster, standby: Standby) -> None:
    """From now on a commit is answered only once the standby has it too."""
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    until(
        lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"),
        f"{standby.name} to follow {primary.name} in step",
    )


def addresses(*clusters: Cluster) -> str:
    """Several clusters as AEGIS_DATABASE has them, of which the primary is the one to use."""
    hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in clusters)
    return f"Host={hosts};Username=postgres;Database=postgres"


def with_checksums(cluster: Cluster) -> None:
    """Has a cluster that is not running keep a checksum of each page."""
    cluster.run("pg_checksums", "--enable", "-D", str(cluster.data))


def stop_script(cluster: Cluster, directory: Path) -> Path:
    """A script that stops a cluster at once, as one does whose files are not to be trusted."""
    stop = _as_user(cluster, "pg_ctl", "stop", "-m", "immediate", "-w", "-D", str(cluster.data))
    status = _as_user(cluster, "pg_ctl", "status", "-D", str(cluster.data))
    return write_script(directory / f"stop-{cluster.name}", f"{status} >/dev/null || exit 0\n{stop}")


def start_script(cluster: Cluster, directory: Path) -> Path:
    """A script that starts a cluster unless it runs, and waits until it accepts connections."""
    status = _as_user(cluster, "pg_ctl", "status", "-D", str(cluster.data))
    options, log = shlex.join(cluster.command()[3:]), cluster.directory / "server.log"
    start = _as_user(cluster, "pg_ctl", "start", "-w", "-D", str(cluster.data), "-l", str(log), "-o", options)
    return write_script(directory / f"start-{cluster.name}", f"{status} >/dev/null && exit 0\n{start} >/dev/null")


def file_of(cluster: Cluster, table: str) -> Path:
    """The file of a table, once all of it is written there."""
    cluster.execute("CHECKPOINT")
    return cluster.data / str(cluster.execute("SELECT pg_relation_filepath(%s)", table)[0][0])


def flip(file: Path, offset: int) -> None:
    """Flips one bit."""
    with file.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def place_of(file: Path, text: str) -> int:
    """Where a text stands in a file for the first time."""
    place = file.read_bytes().find(text.encode())
    if place < 0:
        raise DrillError(f"{text} is not in {file}.")
    return place


@contextmanager
def tiny_disk(directory: Path, size: str, user: str | None) -> Iterator[Path]:
    """A file system of its own, that can be filled; only root can mount one."""
    directory.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory])
    try:
        if user:
            shutil.chown(directory, user)
        yield directory
    finally:
        run(["umount", "--lazy", directory])


def fill(directory: Path) -> Path:
    """Takes all the room that is left on a disk. Gives the file that has it."""
    file = directory / "filling"
    with file.open("ab", buffering=0) as stream:
        for size in (65536, 4096, 1):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                # Full, to this size.
                pass
    return file


class Clock:
    """A clock of its own for a process, which can be set while the process runs."""

    def __init__(self, file: Path, offset: str) -> None:
        """
        :param file: where it is kept.
        :param offset: as libfaketime has it: "-1h".
        """
        libraries = list(Path("/").glob(_FAKETIME))
        if not libraries:
            raise DrillError("libfaketime is not installed (Debian: apt-get install faketime).")
        file.write_text(offset)
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            # How long things take the process goes on measuring rightly.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else waits with a time limit end at once, or never.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        """The variables of the process."""

    def set_script(self, directory: Path) -> Path:
        """A script that sets it right."""
        return write_script(directory / "set-clock", f"echo +0 >{shlex.quote(str(self._file))}")


def _as_user(cluster: Cluster, program: str, *arguments: str) -> str:
    # A directory that the user may enter.
    return f"cd {shlex.quote(str(cluster.directory))} && {cluster.shown(program, *arguments)}"
