"""What a call can fail with: one class for each reason that a caller acts upon."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from . import status_pb2

DOMAIN = "aegis.v1"
_DETAILS = "grpc-status-details-bin"


class AegisError(Exception):
    """A call failed. Reasons without a class of their own come as this one."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        """The canonical code of gRPC."""
        self.reason = reason
        """One of the contract's ErrorReason without its prefix; empty where the service did not tell."""
        self.metadata: dict[str, str] = dict(metadata or {})
        """The facts of the message, by name."""
        self.retry_delay = retry_delay
        """Seconds after which the server says a retry makes sense; None where it says nothing."""
        self.request_id = ""
        """Of a failed write: who repeats it with this request_id never doubles a record."""


class InvalidField(AegisError):
    """INVALID_FIELD: a field is missing, malformed, too long or contradicts another. Correct the request."""

    fields: list[tuple[str, str]] = []
    """Each field with what is wrong with it, at most 16."""


class SnapshotTooLarge(AegisError):
    """SNAPSHOT_TOO_LARGE: keep large content elsewhere and its reference and digest here."""


class WorkflowNotFound(AegisError):
    """WORKFLOW_NOT_FOUND: no workflow has this id."""


class CheckpointNotFound(AegisError):
    """CHECKPOINT_NOT_FOUND: the workflow has no checkpoint, or none that early."""


class RecordNotFound(AegisError):
    """RECORD_NOT_FOUND: the workflow has no record with this sequence."""


class WorkflowAlreadyExists(AegisError):
    """WORKFLOW_ALREADY_EXISTS: a workflow with this id was started before. Read it."""


class RequestIdReused(AegisError):
    """REQUEST_ID_REUSED: the request_id was used on this workflow for another request. Take a new one."""


class WorkflowConflict(AegisError):
    """STATE_, SEQUENCE_ or HASH_MISMATCH: somebody else moved the workflow. Decide again from where it is now."""

    @property
    def current_state(self) -> str:
        """The state the workflow is in."""
        return self.metadata.get("current_state", "")

    @property
    def current_sequence(self) -> int:
        """The sequence of its newest record; 0 where the server did not say."""
        return int(self.metadata.get("current_sequence", "0"))

    @property
    def current_hash(self) -> bytes:
        """The hash of its newest record; empty where the server did not say."""
        return bytes.fromhex(self.metadata.get("current_hash", ""))


class WorkflowClosed(AegisError):
    """WORKFLOW_CLOSED: the case is closed, or is being imported. A closed case is not reopened: fork it."""


class LeaseHeld(AegisError):
    """LEASE_HELD: another holds the lease. Retry once it has ended."""

    @property
    def owner(self) -> str:
        """Who holds it."""
        return self.metadata.get("owner", "")

    @property
    def expires_at(self) -> datetime.datetime | None:
        """When it ends unless renewed, by the database's clock."""
        text = self.metadata.get("expires_at", "")
        try:
            return datetime.datetime.fromisoformat(text)
        except ValueError:
            return None


class LeaseRequired(AegisError):
    """LEASE_REQUIRED: the workflow is leased and the write came without. Resume it, or wait until the lease ends."""


class LeaseLost(AegisError):
    """LEASE_STALE, or a lease that could not be renewed: stop working on this workflow, and resume it to go on."""


class SnapshotErased(AegisError):
    """SNAPSHOT_ERASED: the bytes of the snapshot were erased on purpose."""


class HistoryDamaged(AegisError):
    """CHAIN_BROKEN, SNAPSHOT_CORRUPT or LOG_FORKED: what the server stores was altered. Tell the operator."""


class CursorAheadOfLog(AegisError):
    """CURSOR_AHEAD_OF_LOG: the log is shorter than the request supposes."""


class Overloaded(AegisError):
    """OVERLOADED: nothing was written. Retried by itself while the deadline lasts."""


class StoreFull(AegisError):
    """STORE_FULL: nothing was written. Retry once the operator has made room."""


class Unavailable(AegisError):
    """The server, or its store, cannot be reached. Retried by itself while the deadline lasts."""


class OutcomeUnknown(AegisError):
    """OUTCOME_UNKNOWN: the write may or may not have happened. Retried by itself, with the same request_id."""


class WorkflowQuarantined(AegisError):
    """WORKFLOW_QUARANTINED: a violation closed the workflow to writes. The operator releases or repairs it."""


class LogRolledBack(AegisError):
    """LOG_ROLLED_BACK: the server says that its database was taken back behind a signed head. Tell the operator."""


class DeadlineExceeded(AegisError):
    """The deadline is over. Whether a write happened is unknown: repeat it with its request_id, or read."""


class HeadStoreError(AegisError):
    """The kept head could not be read or written. A write that met this has happened."""


class IntegrityError(AegisError):
    """What came from the server does not fit what was proven. Never retried.

    Its reason is one of RECORD_ALTERED, SNAPSHOT_ALTERED, PROOF_INVALID, SIGNATURE_INVALID, LOG_FORKED, LOG_ROLLED_BACK
    and LOG_ID_CHANGED. The last three stop the client: see :class:`aegis_client.LogTrust`.
    """

    def __init__(self, reason: str, message: str, *, kept_note: str = "", new_note: str = "") -> None:
        super().__init__(message, code=grpc.StatusCode.DATA_LOSS, reason=reason)
        self.kept_note = kept_note
        """The head that was kept, a signed note; empty where it is not about heads."""
        self.new_note = new_note
        """The head that came instead of a continuation. Two signed notes that contradict each other are evidence."""


class HistoryRewritten(IntegrityError):
    """LOG_FORKED or LOG_ROLLED_BACK: history that was seen was taken back or rewritten."""


class LogIdChanged(IntegrityError):
    """LOG_ID_CHANGED: another log, or another generation of it, is behind the address."""


_CLASSES: dict[str, type[AegisError]] = {
    "INVALID_FIELD": InvalidField,
    "SNAPSHOT_TOO_LARGE": SnapshotTooLarge,
    "WORKFLOW_NOT_FOUND": WorkflowNotFound,
    "CHECKPOINT_NOT_FOUND": CheckpointNotFound,
    "RECORD_NOT_FOUND": RecordNotFound,
    "WORKFLOW_ALREADY_EXISTS": WorkflowAlreadyExists,
    "REQUEST_ID_REUSED": RequestIdReused,
    "STATE_MISMATCH": WorkflowConflict,
    "SEQUENCE_MISMATCH": WorkflowConflict,
    "HASH_MISMATCH": WorkflowConflict,
    "WORKFLOW_CLOSED": WorkflowClosed,
    "LEASE_HELD": LeaseHeld,
    "LEASE_REQUIRED": LeaseRequired,
    "LEASE_STALE": LeaseLost,
    "SNAPSHOT_ERASED": SnapshotErased,
    "CHAIN_BROKEN": HistoryDamaged,
    "SNAPSHOT_CORRUPT": HistoryDamaged,
    "LOG_FORKED": HistoryDamaged,
    "CURSOR_AHEAD_OF_LOG": CursorAheadOfLog,
    "OVERLOADED": Overloaded,
    "STORE_FULL": StoreFull,
    "STORE_UNAVAILABLE": Unavailable,
    "OUTCOME_UNKNOWN": OutcomeUnknown,
    "SHUTTING_DOWN": Unavailable,
    "WORKFLOW_QUARANTINED": WorkflowQuarantined,
    "LOG_ROLLED_BACK": LogRolledBack,
}

_CLASSES_OF_CODES: dict[grpc.StatusCode, type[AegisError]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def is_repeatable(error: AegisError) -> bool:
    """Whether a call that is safe to repeat may succeed when it is repeated: UNAVAILABLE or OVERLOADED."""
    return error.code == grpc.StatusCode.UNAVAILABLE or isinstance(error, Overloaded)


def from_rpc_error(error: Any) -> AegisError:
    """The typed error for a failed call of grpc."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or code.name
    info = _details(error)
    made = _CLASSES[info.reason] if info.reason in _CLASSES else _CLASSES_OF_CODES.get(code, AegisError)
    result = made(message, code=code, reason=info.reason, metadata=info.metadata, retry_delay=info.retry_delay)
    if isinstance(result, InvalidField):
        result.fields = info.fields
    return result


class _Details:
    def __init__(self) -> None:
        self.reason = ""
        self.metadata: dict[str, str] = {}
        self.fields: list[tuple[str, str]] = []
        self.retry_delay: float | None = None


def _details(error: Any) -> _Details:
    """What the trailer tells. A trailer that cannot be read tells nothing: the code remains."""
    details = _Details()
    trailer = next((value for key, value in error.trailing_metadata() or () if key == _DETAILS), b"")
    try:
        status = status_pb2.Status.FromString(trailer)
        for detail in status.details:
            name = detail.type_url.rpartition("/")[2]
            if name == "google.rpc.ErrorInfo":
                info = status_pb2.ErrorInfo.FromString(detail.value)
                if info.domain == DOMAIN:
                    details.reason, details.metadata = info.reason, dict(info.metadata)
            elif name == "google.rpc.BadRequest":
                request = status_pb2.BadRequest.FromString(detail.value)
                details.fields = [(v.field, v.description) for v in request.field_violations]
            elif name == "google.rpc.RetryInfo":
                delay = status_pb2.RetryInfo.FromString(detail.value).retry_delay
                details.retry_delay = delay.seconds + delay.nanos / 1e9
    except DecodeError:
        pass
    return details
