"""A cluster of PostgreSQL servers that Patroni keeps, with etcd beside it, and lines to each machine that can be
cut.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psycopg2

from . import DRILLS
from .aegis import clean_environment
from .postgres import binaries
from .processes import DrillError, Process, Processes, children, database_user, free_port, until

SCOPE = "aegis"
TTL_SECONDS = 20
"""How long a leader that is not heard of stays leader."""
LOOP_SECONDS = 2
RETRY_SECONDS = 5

_SETTINGS = {
    "max_connections": 200,
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "max_wal_senders": 10,
    "wal_keep_size": "256MB",
}


def _get(url: str, body: bytes | None = None, timeout: float = 3.0) -> bytes:
    # Never by way of a proxy that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, data=body), timeout=timeout) as response:
        return bytes(response.read())


class Etcd:
    """The store in which Patroni keeps who leads: one member, which this drill does not break."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self.port = free_port()
        self._peer_port = free_port()
        self._processes = processes
        self._directory = directory / "etcd"

    def start(self) -> None:
        program = _program("etcd", "etcd-server")
        url, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        self._processes.start(
            "etcd",
            [program, "--name", "etcd", "--data-dir", self._directory]
            + ["--listen-client-urls", url, "--advertise-client-urls", url]
            + ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"etcd={peer}"],
            environment=clean_environment(),
        )
        until(self._is_healthy, "etcd to be healthy")

    def read(self, key: str) -> str | None:
        """What is kept under a key of the cluster: of "leader", the name of the node that leads."""
        name = base64.b64encode(f"/service/{SCOPE}/{key}".encode()).decode()
        answer = json.loads(_get(f"http://127.0.0.1:{self.port}/v3/kv/range", json.dumps({"key": name}).encode()))
        found = answer.get("kvs")
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def _is_healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return json.loads(_get(f"http://127.0.0.1:{self.port}/health")).get("health") == "true"
        return False


class Node:
    """One machine: Patroni, the PostgreSQL that it keeps, and the line that leads there and away."""

    def __init__(self, processes: Processes, directory: Path, name: str, etcd: Etcd) -> None:
        self.name = name
        self.directory = directory / name
        self.port = free_port()
        """PostgreSQL's, by the line."""
        self.own_port = free_port()
        """PostgreSQL's, on the machine itself."""
        self._etcd_port = free_port()
        self._rest_port = free_port()
        self._processes = processes
        self._links = [(self.port, self.own_port), (self._etcd_port, etcd.port)]
        self._user = database_user()
        self._patroni: Process | None = None
        self._line: Process | None = None
        self.directory.mkdir(mode=0o711)
        if self._user:
            shutil.chown(self.directory, self._user)
        self.configuration = self.directory / "patroni.json"
        self.configuration.write_text(json.dumps(self._settings(), indent=2))
        self.configuration.chmod(0o644)

    def start(self) -> None:
        """Starts the line and Patroni, which starts PostgreSQL."""
        if self._line is None:
            self._line = self._processes.start(
                f"{self.name}-line",
                [sys.executable, "-m", "drill.link", json.dumps(self._links)],
                environment=clean_environment(PYTHONPATH=str(DRILLS)),
            )
        self._patroni = self._processes.start(
            self.name, self._command(), environment=clean_environment(), directory=self.directory, user=self._user
        )

    def start_script(self, directory: Path) -> Path:
        """A command that starts Patroni in the background, for the page. After the page :meth:`adopt` it."""
        return self._processes.script(
            self.name,
            self._command(),
            directory / f"start-{self.name}",
            environment=clean_environment(),
            directory=self.directory,
            user=self._user,
        )

    def adopt(self) -> None:
        """Takes over the process that the command of :meth:`start_script` has started."""
        self._patroni = self._processes.adopt(self.name)

    def _command(self) -> list[str]:
        return [str(_program("patroni", "patroni")), str(self.configuration)]

    def kill(self) -> None:
        """SIGKILL for Patroni and every process of its PostgreSQL, as a machine that loses its power does."""
        assert self._patroni
        self._patroni.signal(signal.SIGSTOP)
        try:
            postmaster = int((self.directory / "data" / "postmaster.pid").read_text().splitlines()[0])
            os.kill(postmaster, signal.SIGSTOP)
            for pid in [*children(postmaster), postmaster]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            # It keeps none at the moment.
            pass
        self._patroni.kill()

    def cut(self) -> None:
        """Pulls the cable: nothing passes from here or to here any more, and nobody is told."""
        assert self._line
        self._line.signal(signal.SIGSTOP)

    def mend(self) -> None:
        """Plugs it in again."""
        assert self._line
        self._line.signal(signal.SIGCONT)

    def connect(self) -> "psycopg2.extensions.connection":
        """A connection as superuser, made on the machine itself, that commits each statement."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.own_port, user="postgres", dbname="postgres", connect_timeout=5
        )
        connection.autocommit = True
        return connection

    def tells(self, question: str, *values: object) -> object:
        """What its PostgreSQL answers to a question of one value; None where it does not answer."""
        try:
            connection = self.connect()
        except psycopg2.OperationalError:
            return None
        try:
            with connection.cursor() as cursor:
                cursor.execute(question, values or None)
                row = cursor.fetchone()
                return row[0] if row else None
        except psycopg2.Error:
            return None
        finally:
            connection.close()

    def _settings(self) -> dict[str, object]:
        return {
            "scope": SCOPE,
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self._rest_port}", "connect_address": f"127.0.0.1:{self._rest_port}"},
            # By the line alone, and never by what etcd says of its own addresses.
            "etcd3": {"hosts": [f"127.0.0.1:{self._etcd_port}"], "use_proxies": True},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": LOOP_SECONDS,
                    "retry_timeout": RETRY_SECONDS,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "parameters": _SETTINGS},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums", {"auth": "trust"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.own_port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self.directory / "data"),
                "bin_dir": str(binaries()),
                "pgpass": str(self.directory / "pgpass"),
                "parameters": {"unix_socket_directories": str(self.directory)},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
                "authentication": {
                    "superuser": {"username": "postgres", "password": "postgres"},
                    "replication": {"username": "replicator", "password": "replicator"},
                },
            },
        }


class PatroniCluster:
    """Three nodes and etcd."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        # Patroni leaves its PostgreSQL to init, and does not believe that it has ended before init has seen to it.
        threading.Thread(target=_reap, args=[processes], daemon=True).start()
        self.etcd = Etcd(processes, directory)
        self.configuration = directory / "patronictl.json"
        """What `patronictl` needs to know of it."""
        self.configuration.write_text(json.dumps({"scope": SCOPE, "etcd3": {"hosts": [f"127.0.0.1:{self.etcd.port}"]}}))
        self.nodes = [Node(processes, directory, f"node-{number}", self.etcd) for number in (1, 2, 3)]

    @property
    def connection_string(self) -> str:
        """As AEGIS_DATABASE has it: all nodes, of which the primary is meant."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"Host={hosts};Username=postgres;Password=postgres;Database=postgres"

    def start(self, timeout: float = 120.0) -> None:
        """Starts all, and waits until there is a leader, a synchronous standby and another one that follows."""
        self.etcd.start()
        for node in self.nodes:
            node.start()
        self.until_whole(self.nodes, timeout)

    @property
    def leader(self) -> Node | None:
        """The node that leads, as etcd has it; None while none does."""
        name = self.etcd.read("leader")
        return next((node for node in self.nodes if node.name == name), None)

    def until_leader(self, other_than: Node | None = None, timeout: float = 90.0) -> tuple[Node, float]:
        """Waits until a node leads, another one than before, and gives it with the time at which it was elected."""
        found: list[Node] = []

        def check() -> bool:
            with contextlib.suppress(OSError):
                leader = self.leader
                if leader is not None and leader is not other_than:
                    found.append(leader)
            return bool(found)

        at = until(check, "a leader to be elected", timeout, interval=0.05)
        return found[0], at

    def until_whole(self, nodes: Sequence[Node], timeout: float = 120.0) -> None:
        """Waits until the leader takes writes, waits for a synchronous standby, and all other nodes follow."""

        def check() -> bool:
            leader = self.leader
            return leader in nodes and leader is not None and leader.tells(_IS_WHOLE, len(nodes) - 1) is True

        until(check, f"{len(nodes)} nodes to be a whole cluster", timeout, interval=0.2)


_IS_WHOLE = """
    SELECT NOT pg_is_in_recovery()
       AND (SELECT count(*) FILTER (WHERE state = 'streaming') >= %s AND bool_or(sync_state = 'sync')
            FROM pg_stat_replication)
    """


def _reap(processes: Processes) -> None:
    while True:
        processes.reap_orphans()
        time.sleep(0.1)


def _program(name: str, package: str) -> Path:
    found = shutil.which(name, path="/usr/bin:/usr/local/bin:/usr/sbin")
    if found is None:
        raise DrillError(f"{name} is not installed (Debian: apt-get install {package}).")
    return Path(found)
