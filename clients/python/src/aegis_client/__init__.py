"""A client for Aegis, which keeps the durable state of workflows and can prove that nobody rewrote it.

Begin with :class:`AegisClient` and :class:`DurableWorkflowEngine`. The generated stubs are in :mod:`aegis.v1`.
"""

from aegis.v1.workflow_pb2 import ForkPoint, Record

from .chain import ChainVerifier, Finding
from .client import AegisClient
from .codec import Codec, JsonCodec
from .engine import DurableWorkflowEngine, LoadedCheckpoint
from .errors import (
    AegisError,
    CheckpointNotFound,
    CursorAheadOfLog,
    DeadlineExceeded,
    HeadStoreError,
    HistoryDamaged,
    HistoryRewritten,
    IntegrityError,
    InvalidField,
    LeaseHeld,
    LeaseLost,
    LeaseRequired,
    LogIdChanged,
    LogRolledBack,
    OutcomeUnknown,
    Overloaded,
    RecordNotFound,
    RequestIdReused,
    SnapshotErased,
    SnapshotTooLarge,
    StoreFull,
    Unavailable,
    WorkflowAlreadyExists,
    WorkflowClosed,
    WorkflowConflict,
    WorkflowNotFound,
    WorkflowQuarantined,
)
from .evidence import ImportResult
from .export_check import ExportedWorkflow, ExportReport, verify_export
from .heads import FileHeadStore, HeadStore, KeptHead, MemoryHeadStore
from .pending import PendingFailure, PendingWorkflows
from .record_format import FormatError
from .signed_note import LogHead, VerifierKey, WorkflowStatement
from .trust import LogTrust
from .workflow import Workflow, WorkflowStatus, Written

__all__ = [
    "AegisClient",
    "AegisError",
    "ChainVerifier",
    "CheckpointNotFound",
    "Codec",
    "CursorAheadOfLog",
    "DeadlineExceeded",
    "DurableWorkflowEngine",
    "ExportReport",
    "ExportedWorkflow",
    "FileHeadStore",
    "Finding",
    "ForkPoint",
    "FormatError",
    "HeadStore",
    "HeadStoreError",
    "HistoryDamaged",
    "HistoryRewritten",
    "ImportResult",
    "IntegrityError",
    "InvalidField",
    "JsonCodec",
    "KeptHead",
    "LeaseHeld",
    "LeaseLost",
    "LeaseRequired",
    "LoadedCheckpoint",
    "LogHead",
    "LogIdChanged",
    "LogRolledBack",
    "LogTrust",
    "MemoryHeadStore",
    "OutcomeUnknown",
    "Overloaded",
    "PendingFailure",
    "PendingWorkflows",
    "Record",
    "RecordNotFound",
    "RequestIdReused",
    "SnapshotErased",
    "SnapshotTooLarge",
    "StoreFull",
    "Unavailable",
    "VerifierKey",
    "Workflow",
    "WorkflowAlreadyExists",
    "WorkflowClosed",
    "WorkflowConflict",
    "WorkflowNotFound",
    "WorkflowQuarantined",
    "WorkflowStatement",
    "WorkflowStatus",
    "Written",
    "verify_export",
]
