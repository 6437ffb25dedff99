"""The operator's page, RUNBOOK.md. What it says to type is what a drill types: its named blocks are run as they stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import DRILLS
from .processes import Completed, DrillError, completed

PAGE = DRILLS / "RUNBOOK.md"
GENERAL = "general"
"""Blocks of this prefix are of no disaster: every drill runs them at its end."""

_FENCE = re.compile(r"^(?P<ticks>`{3,}) *(?P<info>[^`]*)$")
_NAME = re.compile(r"^[a-z][a-z0-9-]*\.[a-z][a-z0-9-]*$")
_VARIABLE = re.compile(r"\$\{?([A-Z][A-Z0-9_]*)")
_EXPLAINED = re.compile(r"^\| *((?:`[A-Z][A-Z0-9_]*`(?:, )?)+) *\|", re.MULTILINE)


@dataclass
class Runbook:
    """A page's blocks by name, and which of them were run."""

    blocks: dict[str, str]
    explained: set[str] = field(default_factory=set)
    """The variables that its tables explain."""
    ran: list[str] = field(default_factory=list)

    @staticmethod
    def read(page: Path = PAGE) -> Runbook:
        """Reads a page.

        :raises DrillError: a fence is not closed, a name is malformed or stands twice, or a block of commands has none,
            and so would never be tried.
        """
        blocks: dict[str, str] = {}
        text = page.read_text()
        lines = iter(enumerate(text.splitlines(), start=1))
        for number, line in lines:
            fence = _FENCE.match(line)
            if not fence:
                continue
            body: list[str] = []
            for _, inner in lines:
                if inner.strip() == fence["ticks"]:
                    break
                body.append(inner)
            else:
                raise DrillError(f"{page.name}:{number}: the block is not closed.")
            language, *names = fence["info"].split()[:2] or [""]
            if language not in ("sh", "bash", "shell", "console"):
                continue
            if language != "sh" or not names or not _NAME.match(names[0]):
                raise DrillError(
                    f"{page.name}:{number}: a block of commands is headed `sh disaster.step`, by which a drill finds it; "
                    f"this one `{fence['info']}`."
                )
            if names[0] in blocks:
                raise DrillError(f"{page.name}:{number}: there is a block {names[0]} before this one.")
            blocks[names[0]] = "\n".join(body) + "\n"
        explained = {name for row in _EXPLAINED.findall(text) for name in re.findall(r"[A-Z][A-Z0-9_]*", row)}
        return Runbook(blocks, explained)

    def of(self, disaster: str) -> list[str]:
        """The names of the blocks of a disaster."""
        return [name for name in self.blocks if name.split(".")[0] == disaster]

    def run(self, name: str, environment: Mapping[str, str], timeout: float = 120.0) -> Completed:
        """Runs a block with bash, which stops at its first failure, and gives what became of it.

        :param environment: all of it.
        :raises DrillError: the page has no such block, or it does not end in time.
        """
        if name not in self.blocks:
            raise DrillError(f"The page has no block {name}; it has {', '.join(sorted(self.blocks)) or 'none'}.")
        self.ran.append(name)
        return completed(
            ["bash", "-euo", "pipefail", "-c", self.blocks[name]],
            what=f"The block {name}",
            environment=environment,
            timeout=timeout,
        )

    def problems(self, drills: list[str]) -> list[str]:
        """What is wrong with the page as a whole: blocks that no drill would run, variables that it does not explain."""
        known = {*drills, GENERAL}
        strays = [
            f"no drill is named as the block {name} begins" for name in self.blocks if name.split(".")[0] not in known
        ]
        unexplained = [
            f"the block {name} uses {variable}, which no table of the page explains"
            for name, body in self.blocks.items()
            for variable in sorted(set(_VARIABLE.findall(body)) - self.explained - _assigned(body))
        ]
        return strays + unexplained


def _assigned(body: str) -> set[str]:
    return set(re.findall(r"(?:^|[\s;])([A-Z][A-Z0-9_]*)=", body)) | {"HOME", "PATH"}
