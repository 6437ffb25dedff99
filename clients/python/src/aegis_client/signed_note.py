"""What a log signs: its head, and what it says of one workflow's newest record.

Both are C2SP signed notes: a text that ends with a newline, an empty line, and lines
``- <key name> <base64( key id | signature )>`` with a dash that is U+2014. Signatures of keys that are not known are
passed over; one that claims a known key and is not valid spoils the note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .record_format import INTEGER_MAX, FormatError

_ED25519 = b"\x01"
_SIGNATURE_PREFIX = "\u2014 "
_SIGNATURES_MAX = 64
_NOTE_LENGTH_MAX = 64 * 1024
_STATEMENT_LABEL = "aegis/workflow-head/v1"


@dataclass(frozen=True)
class VerifierKey:
    """A log's public key as verifiers are given it: ``name+keyid+base64``. The name is the log_id."""

    name: str
    public_key: bytes

    @staticmethod
    def parse(text: str) -> VerifierKey:
        """Reads one key.

        :raises FormatError: it is none; the message says what is wrong.
        """
        # The name may not have a "+", the base64 may.
        parts = text.strip().split("+", 2)
        data = _base64(parts[2]) if len(parts) == 3 else None
        if data is None or not parts[0] or len(parts[1]) != 8:
            raise FormatError(f'"{text}" is not a verifier key: it has not the form name+keyid+base64')
        if len(data) != 33 or data[:1] != _ED25519:
            raise FormatError(f'"{text}" is not a verifier key of Ed25519')
        key = VerifierKey(parts[0], data[1:])
        if key.id.hex() != parts[1].lower():
            raise FormatError(f'"{text}" is not a verifier key: its id is not that of its name and bytes')
        return key

    @property
    def id(self) -> bytes:
        """Four bytes: the beginning of SHA-256( name | newline | 0x01 | public key )."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def named(self, name: str) -> VerifierKey:
        """The same key for another generation of the log."""
        return VerifierKey(name, self.public_key)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public_key).decode()}"


@dataclass(frozen=True)
class SignedNote:
    """A signed text, read but not yet verified."""

    text: str
    signatures: tuple[tuple[str, bytes], ...]

    @staticmethod
    def parse(note: str) -> SignedNote | None:
        """The note, or None where the text is none."""
        end = note.rfind("\n\n")
        if (
            end < 0
            or len(note) > _NOTE_LENGTH_MAX
            or not note.endswith("\n")
            or any(c < " " and c != "\n" for c in note)
        ):
            return None
        lines = note[end + 2 : -1].split("\n")
        if end + 2 >= len(note) or len(lines) > _SIGNATURES_MAX:
            return None
        signatures: list[tuple[str, bytes]] = []
        for line in lines:
            if not line.startswith(_SIGNATURE_PREFIX):
                return None
            name, _, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
            data = _base64(encoded)
            if not name or data is None or len(data) <= 4:
                return None
            signatures.append((name, data))
        return SignedNote(note[: end + 1], tuple(signatures))

    def is_signed_by(self, keys: Iterable[VerifierKey]) -> bool:
        """Whether one of the keys has signed, and no signature that claims to be of one of them is invalid."""
        is_signed = False
        for key in keys:
            for name, data in self.signatures:
                if name == key.name and data[:4] == key.id:
                    if not key.verifies(self.text.encode(), data[4:]):
                        return False
                    is_signed = True
        return is_signed


@dataclass(frozen=True)
class LogHead:
    """The head of a log: how many records it has, and the root over them."""

    log_id: str
    size: int
    root: bytes

    @staticmethod
    def parse(text: str) -> LogHead | None:
        """The head that a note's text says in three lines: log_id, size and root in base64. None for none."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not lines[0]:
            return None
        size, root = _decimal(lines[1]), _base64(lines[2])
        if size is None or root is None or len(root) != 32:
            return None
        return LogHead(lines[0], size, root)

    @staticmethod
    def claimed(note: str) -> LogHead | None:
        """The head that a note says, signed or not."""
        signed = SignedNote.parse(note)
        return LogHead.parse(signed.text) if signed else None

    @staticmethod
    def verify(note: str, keys: Iterable[VerifierKey]) -> LogHead | None:
        """The head that a note says under a valid signature of that of the keys which bears the log's name, or None."""
        return _verified(note, keys, LogHead.parse)

    def __str__(self) -> str:
        return f"{self.log_id}, size {self.size}, root {self.root.hex()}"


@dataclass(frozen=True)
class WorkflowStatement:
    """What a log says, signed, of a workflow's newest record: a shorter history shown later contradicts it."""

    log_id: str
    log_size: int
    namespace: str
    workflow_id: str
    sequence: int
    hash: bytes

    @staticmethod
    def parse(text: str) -> WorkflowStatement | None:
        """The statement that a note's text says: log_id, label, size, and base64 of names, sequence and hash."""
        lines = text.split("\n")
        if len(lines) != 5 or lines[4] or not lines[0] or lines[1] != _STATEMENT_LABEL:
            return None
        size, data = _decimal(lines[2]), _base64(lines[3])
        if size is None or data is None:
            return None
        names: list[str] = []
        for _ in range(2):
            length = int.from_bytes(data[:2], "big")
            if len(data) < 2 + length:
                return None
            try:
                names.append(data[2 : 2 + length].decode())
            except UnicodeDecodeError:
                return None
            data = data[2 + length :]
        sequence = int.from_bytes(data[:8], "big")
        if len(data) != 40 or sequence > INTEGER_MAX:
            return None
        return WorkflowStatement(lines[0], size, names[0], names[1], sequence, data[8:])

    @staticmethod
    def verify(note: str, keys: Iterable[VerifierKey]) -> WorkflowStatement | None:
        """The statement that a note says under a valid signature of that of the keys which bears the log's name, or None."""
        return _verified(note, keys, WorkflowStatement.parse)


_Said = TypeVar("_Said", LogHead, WorkflowStatement)


def _verified(note: str, keys: Iterable[VerifierKey], parse: Callable[[str], _Said | None]) -> _Said | None:
    """What a note says under a valid signature of a key that bears the name of its log: of several trusted logs none
    speaks for another."""
    signed = SignedNote.parse(note)
    said = parse(signed.text) if signed else None
    if signed is None or said is None:
        return None
    return said if signed.is_signed_by(key for key in keys if key.name == said.log_id) else None


def split_log_id(log_id: str) -> tuple[str, int]:
    """The base of a log's name and its generation: 1 for the base, 2 for ``base/2``, begun by an accepted rollback."""
    base, slash, number = log_id.rpartition("/")
    generation = _decimal(number)
    return (base, generation) if base and slash and generation is not None and generation >= 2 else (log_id, 1)


def _decimal(text: str) -> int | None:
    is_decimal = text.isascii() and text.isdigit() and len(text) <= 19 and (text == "0" or text[0] != "0")
    return int(text) if is_decimal and int(text) <= INTEGER_MAX else None


def _base64(text: str) -> bytes | None:
    """None for anything but the standard encoding of some bytes: there must be one way to write what is signed."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None
