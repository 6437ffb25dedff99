"""Where the last head of a log is kept: out of the reach of whoever runs the log, or it proves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import time
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
    """Keeps one head. Implement it over a table of your own to share one head among many processes: what one of them
    has kept is never replaced by another that has not seen it."""

    async def load(self) -> KeptHead | None:
        """What is kept; None for nothing yet.

        :raises HeadStoreError: it cannot be read. Never take that for nothing.
        """

    async def save(self, head: KeptHead, replaced: KeptHead | None) -> bool:
        """Replaces what is kept, as a whole and durably, if it still is what was loaded.

        :param head: the newer head.
        :param replaced: what was loaded, told apart by its signed note; None for nothing.
        :return: whether it did. False changes nothing: another was kept meanwhile, and is to be loaded before anything
            is saved.
        """

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

    async def save(self, head: KeptHead, replaced: KeptHead | None) -> bool:
        """See :meth:`HeadStore.save`."""
        if _note(self.head) != _note(replaced):
            return False
        self.head = head
        return True

    async def reject(self, signed_note: str) -> None:
        """See :meth:`HeadStore.reject`."""
        self.rejected = signed_note


# How long one holder of a lock is waited for, who needs milliseconds, before it is taken to have crashed.
_CRASHED_SECONDS = 2.0
# How long all of them together are waited for.
_LOCKED_SECONDS_MAX = 30.0
_POLL_SECONDS = 0.005


class FileHeadStore:
    """Keeps a head in a file, in the format of ``aegis head watch --state``, and a rejected one in ``FILE.rejected``.

    A file under its name is whole: it is written beside it, synced, and renamed. Several processes may share one; each
    links what it finds there with what it has seen itself.
    """

    # All who write the file, in whatever language, do it alike. A draft, of a name that no other has, is written in a
    # directory of its own, which is then renamed to FILE.lock: that succeeds for one at a time, since no directory is
    # renamed over one that is not empty. Whoever holds the lock so compares what is kept, and renames the draft out of
    # the lock over the file. A holder that crashed leaves its draft there, and one who has waited for it long enough
    # takes the draft away. Was it slow and not dead, it no longer finds its draft and has replaced nothing: so no clock
    # and no pause can make two of them write. What a crash leaves elsewhere, a FILE.*.part, hinders nobody.

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = self.path.with_name(self.path.name + ".lock")

    async def load(self) -> KeptHead | None:
        """See :meth:`HeadStore.load`."""
        return await asyncio.to_thread(self._load)

    async def save(self, head: KeptHead, replaced: KeptHead | None) -> bool:
        """See :meth:`HeadStore.save`.

        :raises HeadStoreError: it cannot be read or written, or others held its lock for half a minute.
        """
        return await asyncio.to_thread(self._save, head, replaced)

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

    def _save(self, head: KeptHead, replaced: KeptHead | None) -> bool:
        kept = {"signed_note": head.signed_note, "verifier_keys": list(head.verifier_keys)}
        draft = secrets.token_hex(8)
        directory = self.path.with_name(f"{self.path.name}.{draft}.part")
        try:
            directory.mkdir()
            try:
                _write_new(directory / draft, json.dumps(kept, indent=2) + "\n")
                self._take_lock(directory)
                if _note(self._load()) != _note(replaced):
                    return False
                try:
                    os.replace(self._lock / draft, self.path)
                except FileNotFoundError:
                    # Taken away by who took this for a crashed one.
                    return False
            finally:
                # The lock may be another's by now: its draft has another name, and a directory that holds one is not
                # removed.
                for each in (directory, self._lock):
                    with contextlib.suppress(OSError):
                        (each / draft).unlink()
                    with contextlib.suppress(OSError):
                        each.rmdir()
            _sync(self.path.parent)
            return True
        except OSError as e:
            raise HeadStoreError(f"{self.path} cannot be written: {e}") from e

    def _take_lock(self, directory: Path) -> None:
        began = held_since = time.monotonic()
        holder: str | None = None
        while True:
            try:
                os.rename(directory, self._lock)
                return
            except OSError as e:
                # It is held, which not all systems tell by the same code; whatever else it may be is told in the end.
                cause = e
            now = time.monotonic()
            if now - began > _LOCKED_SECONDS_MAX:
                raise HeadStoreError(
                    f"{self._lock} is held by others; where nobody writes {self.path} any more, remove it ({cause})."
                ) from cause
            with contextlib.suppress(OSError):
                other = next(iter(os.listdir(self._lock)), None)
                if other != holder:
                    holder, held_since = other, now
                if other is None:
                    self._lock.rmdir()
                elif now - held_since > _CRASHED_SECONDS:
                    (self._lock / other).unlink()
            time.sleep(_POLL_SECONDS * random.uniform(0.5, 1.5))


def _note(head: KeptHead | None) -> str | None:
    return head.signed_note if head else None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            _write_new(temporary, text)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as e:
        raise HeadStoreError(f"{path} cannot be written: {e}") from e


def _write_new(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
