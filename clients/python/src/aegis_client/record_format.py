"""Record format v1: what is hashed, byte for byte.

Integers are unsigned, big-endian and at most 2^63 - 1. ``opaqueN`` is an N-bit length in bytes, then the bytes. Strings
are UTF-8 as received::

    record = opaque8 "aegis/record/v1" | opaque16 log_id | opaque16 namespace | opaque16 workflow_id
           | u64 sequence | u8 kind | opaque16 workflow_type | opaque16 from_state | opaque16 to_state
           | u8 status | opaque16 request_id
           | u64 lease_epoch | u64 occurred_at | u64 recorded_at
           | person_digest | content_digest | snapshot_digest | previous_hash
    hash   = SHA-256( 0x00 | record )
    person_digest   = SHA-256( opaque8 "aegis/person/v1" | salt | opaque16 actor | opaque16 principal )
    content_digest  = SHA-256( opaque8 "aegis/content/v1" | salt | opaque32 reason
                               | u16 n | n x ( opaque16 key | opaque32 value ) )
    snapshot_digest = SHA-256( opaque8 "aegis/snapshot/v1" | salt | opaque16 content_type | u64 size | sha256 )

Keys of metadata ascend by their UTF-8 bytes. The leading 0x00 makes the hash the RFC 6962 leaf hash of the record.
Everything here works on the contract's ``Record``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from aegis.v1.workflow_pb2 import Record
from google.protobuf.timestamp_pb2 import Timestamp

ZERO = bytes(32)
"""Stands for an absent digest or hash."""

INTEGER_MAX = 2**63 - 1

_HASH_BYTES = 32
_SALT_BYTES = 16


class FormatError(ValueError):
    """Something cannot be what it claims to be: a record, a key, a note or an export. The message says why."""


def encode_record(record: Record) -> bytes:
    """The record's bytes. Kind and status are written as they are, known or not.

    :raises FormatError: a field has no encoding.
    """
    return b"".join(
        (
            _label("aegis/record/v1"),
            _opaque16("log_id", record.log_id),
            _opaque16("namespace", record.namespace),
            _opaque16("workflow_id", record.workflow_id),
            _u64("sequence", record.sequence),
            _u8("kind", record.kind),
            _opaque16("workflow_type", record.workflow_type),
            _opaque16("from_state", record.from_state),
            _opaque16("to_state", record.to_state),
            _u8("status", record.status),
            _opaque16("request_id", record.request_id),
            _u64("lease_epoch", record.lease_epoch),
            _u64("occurred_at", microseconds(record.occurred_at) if record.HasField("occurred_at") else 0),
            _u64("recorded_at", microseconds(record.recorded_at) if record.HasField("recorded_at") else 0),
            _fixed("person_digest", record.person_digest, _HASH_BYTES),
            _fixed("content_digest", record.content_digest, _HASH_BYTES),
            _fixed("snapshot_digest", record.snapshot_digest, _HASH_BYTES),
            _fixed("previous_hash", record.previous_hash, _HASH_BYTES),
        )
    )


def hash_of(encoded: bytes) -> bytes:
    """The hash of an encoded record: leaf of the log and link of the chain."""
    return hashlib.sha256(b"\x00" + encoded).digest()


def encode_person(salt: bytes, actor: str, principal: str) -> bytes:
    """The part of a record that can name a person."""
    return b"".join(
        (
            _label("aegis/person/v1"),
            _fixed("person_salt", salt, _SALT_BYTES),
            _opaque16("actor", actor),
            _opaque16("principal", principal),
        )
    )


def encode_content(salt: bytes, reason: str, metadata: Mapping[str, str]) -> bytes:
    """The part of a record that carries its reason and metadata."""
    # By their bytes, which for UTF-8 is by code points, as Python compares strings.
    entries = sorted(metadata.items())
    if len(entries) > 0xFFFF:
        raise FormatError("metadata has more than 65,535 entries")
    encoded = [
        _label("aegis/content/v1"),
        _fixed("content_salt", salt, _SALT_BYTES),
        _opaque32(reason),
        len(entries).to_bytes(2, "big"),
    ]
    for key, value in entries:
        encoded += (_opaque16("a key of metadata", key), _opaque32(value))
    return b"".join(encoded)


def encode_snapshot(salt: bytes, content_type: str, size: int, sha256: bytes) -> bytes:
    """The part of a record that describes its snapshot."""
    return b"".join(
        (
            _label("aegis/snapshot/v1"),
            _fixed("snapshot_salt", salt, _SALT_BYTES),
            _opaque16("snapshot_content_type", content_type),
            _u64("snapshot_size", size),
            _fixed("snapshot_sha256", sha256, _HASH_BYTES),
        )
    )


def part_digests(record: Record) -> dict[str, tuple[bytes, bytes | None]]:
    """For each part of a record (person, content, snapshot) the digest it has and the one its values give.

    The second is None where the record has no values of the part: there are none, or they were erased.
    """
    return {
        "person": (
            record.person_digest,
            _sha256(encode_person(record.person_salt, record.actor, record.principal)) if record.person_salt else None,
        ),
        "content": (
            record.content_digest,
            _sha256(encode_content(record.content_salt, record.reason, record.metadata))
            if record.content_salt
            else None,
        ),
        "snapshot": (
            record.snapshot_digest,
            _sha256(
                encode_snapshot(
                    record.snapshot_salt, record.snapshot_content_type, record.snapshot_size, record.snapshot_sha256
                )
            )
            if record.snapshot_salt
            else None,
        ),
    }


def is_checkpoint(record: Record) -> bool:
    """Whether a record carries a snapshot, be its description erased or not."""
    return record.snapshot_digest != ZERO


def malformation(record: Record) -> str | None:
    """What a reader would see and the hash does not cover, or what no record can have; None for nothing."""
    if not record.person_salt and (record.actor or record.principal):
        return 'the values of the part "person" come without their salt'
    if not record.content_salt and (record.reason or record.metadata):
        return 'the values of the part "content" come without their salt'
    if not record.snapshot_salt and (record.snapshot_content_type or record.snapshot_size or record.snapshot_sha256):
        return 'the values of the part "snapshot" come without their salt'
    if record.HasField("occurred_at") and microseconds(record.occurred_at) == 0:
        return "occurred_at is not one of whole microseconds after 1970"
    if record.occurred_at.nanos % 1000 or record.recorded_at.nanos % 1000:
        return "a time is not one of whole microseconds"
    if len(record.hash) != _HASH_BYTES:
        return f"hash has {len(record.hash)} bytes instead of {_HASH_BYTES}"
    if record.log_index > INTEGER_MAX:
        return "log_index is larger than 2^63 - 1"
    return None


def record_problem(record: Record) -> str | None:
    """What is wrong with one record by itself, or None: its hash and its digests are recomputed from its fields.

    Values that were erased are no problem here: only the whole chain can tell whether they may be gone.
    """
    if problem := malformation(record):
        return problem
    try:
        if hash_of(encode_record(record)) != record.hash:
            return "its fields do not give its hash"
        for part, (expected, actual) in part_digests(record).items():
            if actual is not None and actual != expected:
                return f'the values of the part "{part}" do not give its digest'
    except FormatError as e:
        return str(e)
    return None


def microseconds(time: Timestamp) -> int:
    """A time in microseconds since 1970, truncated; -1 where it is no time of the contract's."""
    if not (0 <= time.seconds <= 253_402_300_799 and 0 <= time.nanos <= 999_999_999):
        return -1
    return int(time.seconds) * 1_000_000 + int(time.nanos) // 1000


def _sha256(encoded: bytes) -> bytes:
    return hashlib.sha256(encoded).digest()


def _label(label: str) -> bytes:
    return bytes((len(label),)) + label.encode("ascii")


def _u8(field: str, value: int) -> bytes:
    if not 0 <= value <= 0xFF:
        raise FormatError(f"{field} is {value}, which is unknown")
    return bytes((value,))


def _u64(field: str, value: int) -> bytes:
    if not 0 <= value <= INTEGER_MAX:
        raise FormatError(f"{field} is out of range")
    return value.to_bytes(8, "big")


def _opaque16(field: str, text: str) -> bytes:
    encoded = text.encode("utf-8")
    if len(encoded) > 0xFFFF:
        raise FormatError(f"{field} has more than 65,535 bytes")
    return len(encoded).to_bytes(2, "big") + encoded


def _opaque32(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return len(encoded).to_bytes(4, "big") + encoded


def _fixed(field: str, value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise FormatError(f"{field} has {len(value)} bytes instead of {size}")
    return value
