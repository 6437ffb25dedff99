"""What goes wrong below the database: bytes of its files, its disk, its clock; and the standby that has another copy."""

from __future__ import annotations

import shlex
import shutil
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .postgres import Cluster, binaries
from .processes import DrillError, Processes, run, until

PAGE_BYTES = 8192

_FAKETIME = "usr/lib/*/faketime/libfaketimeMT.so.1"


class Standby(Cluster):
    """A copy of a cluster that follows it and can take its place."""

    def __init__(self, processes: Processes, directory: Path, primary: Cluster, name: str = "standby") -> None:
        super().__init__(processes, directory, name)
        self._primary = primary

    def create(self) -> None:
        source = ["-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "postgres", "--checkpoint=fast"]
        self.run("pg_basebackup", "-D", str(self.data), *source, "--write-recovery-conf", "--no-sync")

    def promote_script(self, directory: Path) -> Path:
        """A script that makes it the primary and waits until it is."""
        return _script(directory / "promote-standby", _as_user(self, "pg_ctl", "promote", "-w", "-D", str(self.data)))


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
    return f"Host={hosts};Username=postgres;Database=postgres;Target Session Attributes=primary"


def with_checksums(cluster: Cluster) -> None:
    """Has a cluster that is not running keep a checksum of each page."""
    cluster.run("pg_checksums", "--enable", "-D", str(cluster.data))


def stop_script(cluster: Cluster, directory: Path) -> Path:
    """A script that stops a cluster at once, as one does whose files are not to be trusted."""
    stop = _as_user(cluster, "pg_ctl", "stop", "-m", "immediate", "-w", "-D", str(cluster.data))
    status = _as_user(cluster, "pg_ctl", "status", "-D", str(cluster.data))
    return _script(directory / f"stop-{cluster.name}", f"{status} >/dev/null || exit 0\n{stop}")


def start_script(cluster: Cluster, directory: Path) -> Path:
    """A script that starts a cluster unless it runs, and waits until it accepts connections."""
    status = _as_user(cluster, "pg_ctl", "status", "-D", str(cluster.data))
    options, log = shlex.join(cluster.command()[3:]), cluster.directory / "server.log"
    start = _as_user(cluster, "pg_ctl", "start", "-w", "-D", str(cluster.data), "-l", str(log), "-o", options)
    pid = f"head -1 {shlex.quote(str(cluster.data / 'postmaster.pid'))} >{shlex.quote(str(pid_file(cluster)))}"
    return _script(directory / f"start-{cluster.name}", f"{status} >/dev/null && exit 0\n{start} >/dev/null\n{pid}")


def pid_file(cluster: Cluster) -> Path:
    """Where the script of :func:`start_script` writes the id of the process that it has started."""
    return cluster.directory / "pid"


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
        return _script(directory / "set-clock", f"echo +0 >{shlex.quote(str(self._file))}")


class Metrics:
    """Takes what servers export with OTLP over HTTP, and finds the values of a gauge in it."""

    def __init__(self) -> None:
        metrics = self
        self._bodies: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                metrics._bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What a server that exports to here has to be told."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        }

    def has(self, gauge: str, low: float, high: float) -> bool:
        """Whether a value of a gauge within these bounds has come: a double after its name, before the next metric's."""
        for body in list(self._bodies):
            at = body.find(gauge.encode())
            window = body[at + len(gauge) : at + len(gauge) + 400] if at >= 0 else b""
            values = (struct.unpack_from("<d", window, i)[0] for i in range(len(window) - 7))
            if any(low <= value <= high for value in values):
                return True
        return False

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _as_user(cluster: Cluster, program: str, *arguments: str) -> str:
    command = shlex.join([str(binaries() / program), *arguments])
    # A directory that the user may enter.
    return f"cd {shlex.quote(str(cluster.directory))} && " + (
        f"setpriv --reuid={cluster.user} --regid={cluster.user} --init-groups {command}" if cluster.user else command
    )


def _script(file: Path, body: str) -> Path:
    file.write_text(f"#!/bin/bash\nset -eu\n{body}\n")
    file.chmod(0o755)
    return file
