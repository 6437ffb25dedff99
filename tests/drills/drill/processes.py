"""Processes that a drill starts, breaks and ends, each by its process id; none outlives the drill."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 60.0
# By a name of its own: inside Process the module is hidden by a method.
_TERMINATE = int(signal.SIGTERM)
_TAIL_LINES = 40


class DrillError(Exception):
    """The drill cannot go on: something it needs did not come up, or went away unasked."""


class Process:
    """A process in a session of its own. What it writes goes to its log."""

    def __init__(self, name: str, pid: int, log: Path) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        self.exit_code: int | None = None
        """Once it has ended; negative for the signal that ended it."""

    @property
    def has_ended(self) -> bool:
        if self.exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # Not our child (yet): one that a script of the page started becomes ours when that script ends.
                return not Path(f"/proc/{self.pid}").exists()
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code is not None

    def signal(self, number: int) -> None:
        """Sends a signal to this process alone; nothing happens when it has ended."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is closed. Done when it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = _PATIENCE) -> int | None:
        """Waits for its end, and gives the exit code."""
        until(lambda: self.has_ended, f"the end of {self.name} (process {self.pid})", timeout)
        return self.exit_code

    def stop_script(self, directory: Path, number: int = _TERMINATE) -> Path:
        """A script that asks it to end and waits until it has, as `systemctl stop` does: for the page's commands."""
        # Until somebody has waited for it, one that has ended is still there.
        return write_script(
            directory / f"stop-{self.name}",
            f"kill -s {int(number)} {self.pid} 2>/dev/null || exit 0\n"
            f"while grep -qs '^State:.[^Z]' /proc/{self.pid}/status; do sleep 0.05; done",
        )

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as e:
            return f"(no log: {e})"


class Processes:
    """All processes of a drill. :meth:`end_all` ends them and whatever they have started, also in sessions of their own."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[Process] = []
        logs.mkdir(parents=True, exist_ok=True)
        # Whose parent ends becomes our child, not init's: so that it can be waited for, and nothing is left behind.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    def log_of(self, name: str) -> Path:
        """The file that a process of this name writes to, in all its lives."""
        return self._logs / f"{name}.log"

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: str | None = None,
    ) -> Process:
        """Starts a process and waits for nothing.

        :param environment: all of it; this process's own by default.
        :param user: as whom it runs; as we do by default.
        """
        identity = {} if user is None else _identity(user)
        with self.log_of(name).open("ab") as log:
            popen = subprocess.Popen(
                [str(part) for part in command],
                env=None if environment is None else dict(environment),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **identity,
            )
        process = Process(name, popen.pid, self.log_of(name))
        # Process waits for it; without this Popen would complain that nobody did.
        popen.returncode = 0
        self._started.append(process)
        return process

    def script(
        self,
        name: str,
        command: Sequence[str | Path],
        file: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path,
        user: str | None = None,
    ) -> Path:
        """Writes a script that starts a process in the background, as `systemctl start` does: for the page's commands.

        What the script has started :meth:`adopt` takes over. Parameters are those of :meth:`start`.

        :param file: where the script goes.
        """
        cleared = (
            [] if environment is None else ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        )
        shown = shlex.join([*cleared, *as_user(user), *(str(part) for part in command)])
        return write_script(
            file,
            f"cd {shlex.quote(str(directory))}\n"
            f"setsid {shown} </dev/null >>{shlex.quote(str(self.log_of(name)))} 2>&1 &\n"
            f"echo $! >{shlex.quote(str(self._pid_file(name)))}",
        )

    def adopt(self, name: str) -> Process:
        """Takes over the process that the script of this name has started."""
        process = Process(name, int(self._pid_file(name).read_text()), self.log_of(name))
        self._started.append(process)
        return process

    def _pid_file(self, name: str) -> Path:
        return self._logs / f"{name}.pid"

    def reap_orphans(self) -> None:
        """Waits for what was left to us by a process that we have started, as init does: else it looks as if it still ran."""
        ours = {process.pid for process in self._started}
        for pid in children(os.getpid()):
            with contextlib.suppress(OSError, IndexError):
                # pid (name) state parent group session
                state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
                if state == "Z" and int(session) != os.getsid(0) and pid not in ours:
                    os.waitpid(pid, os.WNOHANG)

    def tails(self) -> str:
        """The ends of the logs of all that were started, for a drill that failed."""
        logs = sorted({process.log: process for process in self._started}.values(), key=lambda p: p.name)
        return "\n\n".join(f"-- {process.log.name}\n{process.tail()}" for process in logs)

    def end_all(self) -> None:
        """Ends all of them, the last started first, and all that they have left behind."""
        # All at once and at first, and only then waited for: whoever ends the drill may lose patience with it.
        running = [process for process in reversed(self._started) if not process.has_ended]
        for process in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in running:
            process.kill()
        end = time.monotonic() + _PATIENCE
        while (left := children(os.getpid())) and time.monotonic() < end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not been waited for."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    user: str | None = None,
    timeout: float = 120.0,
) -> str:
    """Runs a command to its end and gives what it wrote. One that fails is a :class:`DrillError` with that."""
    done = completed(command, environment=environment, directory=directory, user=user, timeout=timeout)
    if done.exit_code != 0:
        raise DrillError(f"{_shown(command)} ended with {done.exit_code}:\n{done.output}")
    return done.output


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    exit_code: int
    output: str
    began: float
    """When it was begun, before anything was started."""
    seconds: float


def completed(
    command: Sequence[str | Path],
    *,
    what: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    user: str | None = None,
    timeout: float = 120.0,
) -> Completed:
    """Runs a command to its end, whatever that is.

    :param what: how it is called where it does not end in time, a :class:`DrillError`; the command itself by default.
    """
    identity = {} if user is None else _identity(user)
    began = time.monotonic()
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=None if environment is None else dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            **identity,
        )
    except subprocess.TimeoutExpired as e:
        raise DrillError(f"{what or _shown(command)} did not end within {timeout:.0f} s:\n{_written(e)}") from e
    return Completed(done.returncode, done.stdout, began, time.monotonic() - began)


def write_script(file: Path, body: str) -> Path:
    """Makes a command of some lines of bash, which stops at the first that fails: for the page."""
    file.write_text(f"#!/bin/bash\nset -eu\n{body}\n")
    file.chmod(0o755)
    return file


def as_user(user: str | None) -> list[str]:
    """What stands before a command that is to run as another user; nothing for our own."""
    if user is None:
        return []
    entry = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]


def _written(timeout: subprocess.TimeoutExpired) -> str:
    """What a command wrote before its time was over. It comes as bytes, also where text was asked for."""
    output: bytes | str = timeout.stdout or ""
    return output if isinstance(output, str) else output.decode(errors="replace")


def until(condition: Callable[[], object], what: str, timeout: float = _PATIENCE, interval: float = 0.01) -> float:
    """Waits until a condition holds, and gives the time at which it was seen to."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise DrillError(f"Waited {timeout:.0f} s in vain for {what}.")
        time.sleep(interval)
    return time.monotonic()


def free_port() -> int:
    """A port of this machine that is free now, and not one that the system gives to outgoing connections next."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def database_user() -> str | None:
    """As whom databases run, which refuse to as root; None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise DrillError("PostgreSQL refuses to run as root, and there is no user postgres or nobody.")


def _identity(user: str) -> dict[str, object]:
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _shown(command: Sequence[str | Path]) -> str:
    return " ".join(str(part) for part in command)
