"""The load a drill breaks things under, and what became of it: see callers.py for what it does."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from . import DRILLS
from .aegis import clean_environment
from .callers import Settings
from .processes import DrillError, Process, Processes, until


# What the contract says of a write whose outcome is unknown.
_OUTCOME_UNKNOWN = "may or may not have happened"


@dataclass(frozen=True)
class Acknowledged:
    """A record that a caller was told of."""

    at: float
    began: float
    namespace: str
    workflow_id: str
    sequence: int
    hash: bytes
    log_index: int
    request_id: str
    recorded_at: int
    """By the database's clock, in microseconds since 1970."""


@dataclass(frozen=True)
class Failed:
    """An attempt that failed, which the client mostly repeats by itself; or a call that the client gave up."""

    is_call: bool
    method: str
    code: str
    """Of a call the reason where there is one, else the canonical code."""
    message: str
    began: float
    at: float

    @property
    def is_outcome_unknown(self) -> bool:
        """Whether it was told that the write may have been recorded."""
        return self.code in ("OUTCOME_UNKNOWN", "UNKNOWN") or _OUTCOME_UNKNOWN in self.message

    def __str__(self) -> str:
        return f"{self.method}: {self.code}: {self.message}"


class Load:
    """Callers in a process of their own, from :meth:`start` to :meth:`stop`, with a ledger of what was acknowledged."""

    def __init__(
        self, processes: Processes, directory: Path, targets: Sequence[str], name: str = "load", **settings: object
    ) -> None:
        """
        :param directory: where the ledger goes.
        :param settings: those of :class:`callers.Settings`.
        """
        self.file = directory / f"{name}.ledger"
        self.file.touch()
        self._processes = processes
        self._settings = Settings(list(targets), str(self.file), name, **settings)  # type: ignore[arg-type]
        self._process: Process | None = None
        self._acknowledged: list[Acknowledged] = []
        self._failed: list[Failed] = []
        self._offset = 0
        self.began = 0.0
        self.ended = 0.0

    def start(self) -> None:
        """Starts the callers and waits until each has been answered, on average."""
        settings = json.dumps(asdict(self._settings))
        environment = clean_environment(PYTHONPATH=":".join(path for path in sys.path if path), GRPC_VERBOSITY="NONE")
        command = [sys.executable, "-m", "drill.callers", settings]
        self._process = self._processes.start(self._settings.name, command, environment=environment, directory=DRILLS)
        self.began = time.monotonic()
        self.until_more(self._settings.callers)

    def until_more(self, count: int, timeout: float = 60.0) -> float:
        """Waits until so many more records are acknowledged, and gives the time at which they were."""
        before = len(self.acknowledged)

        def check() -> bool:
            self._raise_if_ended()
            return len(self.acknowledged) >= before + count

        until(check, f"{count} more acknowledged records", timeout, interval=0.02)
        return self.acknowledged[before + count - 1].at

    def run_for(self, seconds: float) -> None:
        """Lets it go on for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._raise_if_ended()
            time.sleep(0.05)

    def stop(self, timeout: float = 120.0) -> None:
        """Stops the callers, each once its last write is answered."""
        self._raise_if_ended()
        assert self._process
        # What comes after this is no gap in the service.
        self.ended = time.monotonic()
        self._process.signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except DrillError as e:
            raise DrillError(f"Callers still have no answer {timeout:.0f} s after the end of the load.") from e
        if self._process.exit_code != 0:
            raise DrillError(f"The load ended with {self._process.exit_code}:\n{self._process.tail()}")

    @property
    def acknowledged(self) -> list[Acknowledged]:
        """All that was acknowledged until now, in order of time."""
        self._read()
        return self._acknowledged

    @property
    def failed_attempts(self) -> list[Failed]:
        """The attempts that failed, those included that the client repeated by itself."""
        self._read()
        return [failed for failed in self._failed if not failed.is_call]

    @property
    def failed_calls(self) -> list[Failed]:
        """The calls that failed in spite of the client's repetitions."""
        self._read()
        return [failed for failed in self._failed if failed.is_call]

    def outage(self, since: float) -> float:
        """The longest time without an acknowledgement that ended after a moment, that of the fault, in seconds."""
        if not self.began:
            raise DrillError("The load was not started.")
        return longest_gap([a.at for a in self.acknowledged], self.began, self.ended or time.monotonic(), since)

    def first_after(self, since: float) -> float:
        """Seconds from a moment to the first acknowledgement of a write that was begun or tried again after it."""
        return next((a.at - since for a in self.acknowledged if a.at >= since), float("inf"))

    def in_flight(self, at: float) -> int:
        """How many calls were begun and not answered at a moment."""
        return sum(a.began <= at < a.at for a in self.acknowledged)

    def _raise_if_ended(self) -> None:
        if self._process is None:
            raise DrillError("The load was not started.")
        if self._process.has_ended:
            raise DrillError(f"The load ended with {self._process.exit_code}:\n{self._process.tail()}")

    def _read(self) -> None:
        with self.file.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        # The last line may be half written.
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            fields = json.loads(line)
            if kind := fields.pop("failed", None):
                self._failed.append(Failed(kind == "call", **fields))
            else:
                self._acknowledged.append(Acknowledged(**{**fields, "hash": bytes.fromhex(fields["hash"])}))


def longest_gap(times: Sequence[float], began: float, ended: float, since: float) -> float:
    """The longest time between two neighbours of `times`, or an end of the whole, of those gaps that end after `since`."""
    marks = sorted([began, *(time for time in times if began <= time <= ended), ended])
    return max((later - earlier for earlier, later in zip(marks, marks[1:]) if later >= since), default=0.0)
