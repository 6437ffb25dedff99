"""Where the last head of a log is kept: out of the reach of whoever runs the log, or it proves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import HeadStoreError


@dataclass(frozen=True)
class KeptHead:
    """A head that was verified, and the keys under which it was trusted."""

    signed_note: str
    verifier_keys: tuple[str, ...]


class HeadStore(Protocol):
    """Keeps one head. Implement it over a table of your own to share one head among many processes."""

    async def load(self) -> KeptHead | None:
        """What is kept; None for nothing yet.

        :raises HeadStoreError: it cannot be read. Never take that for nothing.
        """

    async def save(self, head: KeptHead) -> None:
        """Replaces what is kept, as a whole and durably."""

    async def reject(self, signed_note: str) -> None:
        """Keeps a head beside it that contradicts it: the two are evidence."""


class MemoryHeadStore:
    """Keeps a head for the life of the process: a restart trusts the first head anew."""

    def __init__(self) -> None:
        self.head: KeptHead | None = None
        self.rejected: str | None = None

    async def load(self) -> KeptHead | None:
        """See :meth:`HeadStore.load`."""
        return self.head

    async def save(self, head: KeptHead) -> None:
        """See :meth:`HeadStore.save`."""
        self.head = head

    async def reject(self, signed_note: str) -> None:
        """See :meth:`HeadStore.reject`."""
        self.rejected = signed_note


class FileHeadStore:
    """Keeps a head in a file, in the format of ``aegis head watch --state``, and a rejected one in ``FILE.rejected``.

    A file under its name is whole: it is written beside it, synced, and renamed. Several processes may share one; each
    links what it finds there with what it has seen itself.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    async def load(self) -> KeptHead | None:
        """See :meth:`HeadStore.load`."""
        return await asyncio.to_thread(self._load)

    async def save(self, head: KeptHead) -> None:
        """See :meth:`HeadStore.save`."""
        kept = {"signed_note": head.signed_note, "verifier_keys": list(head.verifier_keys)}
        await asyncio.to_thread(_write, self.path, json.dumps(kept, indent=2) + "\n")

    async def reject(self, signed_note: str) -> None:
        """See :meth:`HeadStore.reject`."""
        await asyncio.to_thread(_write, self.path.with_name(self.path.name + ".rejected"), signed_note)

    def _load(self) -> KeptHead | None:
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return KeptHead(str(kept["signed_note"]), tuple(str(key) for key in kept["verifier_keys"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise HeadStoreError(
                f"{self.path} does not hold a head that was kept ({e}). It may be all that is left to compare with: "
                "restore it, or move it away to trust the next head anew."
            ) from e


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as e:
        raise HeadStoreError(f"{path} cannot be written: {e}") from e
