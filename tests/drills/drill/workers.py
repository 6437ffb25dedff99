"""A worker in a process of its own: `python3 -m drill.workers` with its settings in JSON as argument.

It takes what is pending and nobody holds, and works on each until it is killed or loses the lease, as in the client's
README. It writes down, a line in JSON each, what it took, each record it wrote, and each lease it lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aegis_client import AegisClient, AegisError, DurableWorkflowEngine, LeaseLost, Workflow

from . import DRILLS
from .aegis import clean_environment
from .processes import DrillError, Process, Processes, until


@dataclass
class Settings:
    """What a worker does."""

    targets: list[str]
    notes: str
    """The file it writes to."""
    owner: str
    namespace: str
    workflow_type: str
    lease_seconds: float
    poll_seconds: float | None
    """How long between two passes over what is pending; None for one pass."""
    step_seconds: float
    """How long a step of the work takes; then comes a transition."""
    workflows_max: int
    """How many it takes in one pass; 0 for all."""


@dataclass(frozen=True)
class Note:
    """One line of what a worker wrote down."""

    what: str
    """took, wrote, lost, or failed."""
    at: float
    workflow_id: str
    epoch: int
    sequence: int
    state: str
    hash: str
    """Of the workflow's newest record that it knows."""
    message: str = ""


class Worker:
    """A worker's process, and what it has written down."""

    def __init__(self, processes: Processes, directory: Path, **settings: object) -> None:
        """
        :param directory: where its notes go.
        :param settings: those of :class:`Settings`, but for the notes.
        """
        notes = directory / f"{settings['owner']}.notes"
        notes.touch()
        self.settings = Settings(notes=str(notes), **settings)  # type: ignore[arg-type]
        self._processes = processes
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        if self._process is None:
            raise DrillError(f"The worker {self.settings.owner} was not started.")
        return self._process

    def start(self) -> None:
        """Starts it and waits for nothing."""
        environment = clean_environment(PYTHONPATH=":".join(path for path in sys.path if path), GRPC_VERBOSITY="NONE")
        command = [sys.executable, "-m", "drill.workers", json.dumps(asdict(self.settings))]
        self._process = self._processes.start(self.settings.owner, command, environment=environment, directory=DRILLS)

    def notes(self, what: str = "") -> list[Note]:
        """What it has written down until now, or of that one kind."""
        lines = Path(self.settings.notes).read_text().split("\n")[:-1]
        notes = [Note(**json.loads(line)) for line in lines]
        return [note for note in notes if what in ("", note.what)]

    def held(self) -> dict[str, Note]:
        """What it has taken and not lost, each with its newest note."""
        held: dict[str, Note] = {}
        for note in self.notes():
            held.pop(note.workflow_id, None)
            if note.what != "lost":
                held[note.workflow_id] = note
        return held

    def until(self, condition: Callable[[], object], what: str, timeout: float = 60.0) -> float:
        """Waits for something that it is to do."""
        try:
            return until(condition, f"{self.settings.owner} {what}", timeout, interval=0.02)
        except DrillError as e:
            raise DrillError(f"{e}\n{self.process.tail()}") from e


def taken(workers: Sequence[Worker], since: float) -> dict[str, Note]:
    """What workers took after a moment, each workflow with the note of its first taking."""
    notes = [note for worker in workers for note in worker.notes("took") if note.at >= since]
    return {note.workflow_id: note for note in sorted(notes, key=lambda note: -note.at)}


class _Work:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._notes = open(settings.notes, "a", encoding="utf-8")

    async def run(self) -> None:
        settings = self._settings
        async with (
            AegisClient(*settings.targets) as client,
            DurableWorkflowEngine(
                client, namespace=settings.namespace, owner=settings.owner, lease_duration=settings.lease_seconds
            ) as engine,
        ):
            engine.register(settings.workflow_type)
            pending = engine.resume_all_pending(
                poll_interval=settings.poll_seconds, max_workflows=settings.workflows_max
            )
            async with asyncio.TaskGroup() as work:
                async for workflow in pending:
                    work.create_task(self._one(workflow))

    async def _one(self, workflow: Workflow) -> None:
        self._note("took", workflow, workflow.lease_epoch)
        epoch = workflow.lease_epoch
        try:
            async with workflow:
                while True:
                    await asyncio.sleep(self._settings.step_seconds)
                    await self._step(workflow, epoch)
        except LeaseLost as e:
            self._note("lost", workflow, epoch, f"{e.reason}: {e.message}")

    async def _step(self, workflow: Workflow, epoch: int) -> None:
        try:
            await workflow.transition(f"STEP-{workflow.sequence}")
            self._note("wrote", workflow, epoch)
        except LeaseLost:
            raise
        except AegisError as e:
            # The outcome is not known, or the service is away: a worker that goes on resumes anew. This one ends.
            self._note("failed", workflow, epoch, f"{e.reason or e.code.name}: {e.message}")
            raise

    def _note(self, what: str, workflow: Workflow, epoch: int, message: str = "") -> None:
        note = Note(
            what,
            time.monotonic(),
            workflow.workflow_id,
            epoch,
            workflow.sequence,
            workflow.state,
            workflow.head_hash.hex(),
            message,
        )
        self._notes.write(json.dumps(asdict(note)) + "\n")
        self._notes.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Work(Settings(**json.loads(sys.argv[1]))).run())
