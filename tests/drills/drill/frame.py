"""The frame of a drill: its arguments, its directory, what it may start, and the end of it all whatever happens."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from . import DRILLS
from .accounts import read_log, settle
from .aegis import INTEGRITY, Programs, Server, build, clean_environment, command_script
from .load import Acknowledged, Load
from .postgres import Cluster
from .processes import Completed, DrillError, Processes
from .report import Figure, Report, Scenario, table
from .runbook import Runbook


class Drill:
    """What a drill has at hand."""

    def __init__(self, name: str, is_quick: bool, directory: Path) -> None:
        self.name = name
        self.is_quick = is_quick
        """Whether it is to be short, as in CI: smaller, and each thing once."""
        self.directory = directory
        """Gone with the drill."""
        self.processes = Processes(directory / "logs")
        self.report = Report(name)
        self.runbook = Runbook.read()
        self.commands = directory / "bin"
        """Scripts here are commands for the page."""
        self.commands.mkdir()
        self._programs: Programs | None = None

    @property
    def programs(self) -> Programs:
        """The server and the command, built at first use."""
        if self._programs is None:
            self.say("building")
            self._programs = build()
            command_script(self._programs, self.commands)
        return self._programs

    def say(self, what: str) -> None:
        """Tells whoever watches what is going on."""
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {what}", flush=True)

    def postgres(self, name: str = "postgres", settings: Sequence[str] = ()) -> Cluster:
        """A new PostgreSQL cluster that accepts connections."""
        cluster = Cluster(self.processes, self.directory, name, settings)
        cluster.create()
        cluster.start()
        return cluster

    def server(
        self, database: str, name: str = "aegis", *, signing_key: Path | None = None, **environment: str
    ) -> Server:
        """A server that is not started yet.

        :param signing_key: that of the first server of the same database; a key of its own by default.
        :param environment: further variables of it.
        """
        return Server(
            self.processes,
            self.programs,
            self.directory,
            database,
            name=name,
            signing_key=signing_key,
            environment=environment,
        )

    def load(self, targets: Sequence[str], name: str = "load", **settings: object) -> Load:
        """A load that is not started yet. Settings are those of :class:`callers.Settings`."""
        return Load(self.processes, self.directory, targets, name, **settings)

    def environment(self, **variables: str) -> dict[str, str]:
        """That of the page's commands: with `aegis` on PATH, and the page's variables."""
        path = f"{self.commands}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        return clean_environment(**{"PATH": path, **variables})

    def page(self, block: str, *, exit_code: int | None = 0, timeout: float = 120.0, **variables: str) -> Completed:
        """Runs a block of the page with variables of the page, and gives what became of it.

        :param exit_code: what it has to end with; None for whatever.
        :raises DrillError: it ended otherwise; tells what it wrote.
        """
        ran = self.runbook.run(block, self.environment(**variables), timeout)
        if exit_code is not None and ran.exit_code != exit_code:
            raise DrillError(f"The page's {block} ended with {ran.exit_code}, not {exit_code}:\n{ran.output}")
        return ran

    def account(
        self, scenario: Scenario, server: Server, acknowledged: Sequence[Acknowledged], *, lost_max: int | None = 0
    ) -> None:
        """Settles the account of a load at a server, and has the page's own commands verify the log.

        :param lost_max: how many acknowledged records may be lost: 0 wherever the promise is RPO 0; None for no limit.
        """
        self.say("settling the account")
        account = settle(read_log(server.target), acknowledged)
        scenario.recorded, scenario.acknowledged = account.recorded, account.acknowledged
        scenario.lost = Figure("lost", len(account.lost), lost_max)
        scenario.problems += account.problems
        scenario.expect(account.acknowledged > 0, "nothing was acknowledged")
        # Of a server that has just started the first audit is still to come.
        server.until_serving(INTEGRITY)
        ran = self.page("general.well", exit_code=None, timeout=300.0, AEGIS_SERVER=server.url)
        scenario.verified = ran.exit_code == 0 and account.is_whole
        if ran.exit_code != 0:
            scenario.problems.append(f"the page's general.well ended with {ran.exit_code}:\n{ran.output}")


def main(name: str, run: Callable[[Drill], None]) -> None:
    """Runs a drill as the program that it is, and ends this process: with 0 when all was met, else with 1."""
    parser = argparse.ArgumentParser(prog=name, description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, as in CI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found to a file as well")
    parser.add_argument("--keep", action="store_true", help="leave its directory, with all logs and data")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    # Databases run as another user, who has to get to directories of their own below.
    directory = Path(tempfile.mkdtemp(prefix=f"aegis-{name}-"))
    directory.chmod(0o711)
    report = _run(name, run, arguments.quick, directory, arguments.keep)
    print(f"\n{table([report])}", flush=True)
    if arguments.json:
        report.write(arguments.json)
    sys.exit(1 if report.missed else 0)


def _run(name: str, run: Callable[[Drill], None], is_quick: bool, directory: Path, is_kept: bool) -> Report:
    since = time.monotonic()
    drill: Drill | None = None
    report = Report(name)
    try:
        drill = Drill(name, is_quick, directory)
        report = drill.report
        run(drill)
        unused = [block for block in drill.runbook.of(name) if block not in drill.runbook.ran]
        if unused:
            report.failure = f"the drill did not run these blocks of the page: {', '.join(unused)}"
    except (Exception, KeyboardInterrupt, SystemExit) as e:
        report.failure = str(e) if isinstance(e, DrillError) else "".join(traceback.format_exception(e))
        if drill:
            drill.processes.end_all()
            print(f"\n{drill.processes.tails()}", file=sys.stderr, flush=True)
    finally:
        if drill:
            drill.processes.end_all()
        if is_kept:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    report.seconds = time.monotonic() - since
    return report


def _end(number: int, _: object) -> None:
    # Once: a second one must not stop the end.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(f"ended by {signal.Signals(number).name}")


def drills() -> list[str]:
    """The names of all drills: the programs in their directory, but `all`."""
    names = (path.name for path in DRILLS.iterdir() if path.is_file() and os.access(path, os.X_OK))
    return sorted(name for name in names if name != "all")
