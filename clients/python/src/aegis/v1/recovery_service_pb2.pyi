from aegis.v1 import workflow_pb2 as _workflow_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
IMPORT_OUTCOME_EXTENDED: ImportOutcome
IMPORT_OUTCOME_IMPORTED: ImportOutcome
IMPORT_OUTCOME_REFUSED: ImportOutcome
IMPORT_OUTCOME_UNCHANGED: ImportOutcome
IMPORT_OUTCOME_UNSPECIFIED: ImportOutcome

class ExportChunk(_message.Message):
    __slots__ = ["manifest", "record", "snapshot", "trailer", "workflow"]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    manifest: ExportManifest
    record: ExportRecord
    snapshot: ExportSnapshotPart
    trailer: ExportTrailer
    workflow: ExportWorkflow
    def __init__(self, manifest: _Optional[_Union[ExportManifest, _Mapping]] = ..., workflow: _Optional[_Union[ExportWorkflow, _Mapping]] = ..., snapshot: _Optional[_Union[ExportSnapshotPart, _Mapping]] = ..., record: _Optional[_Union[ExportRecord, _Mapping]] = ..., trailer: _Optional[_Union[ExportTrailer, _Mapping]] = ...) -> None: ...

class ExportManifest(_message.Message):
    __slots__ = ["exported_at", "filter", "format", "log_head", "log_id", "log_size", "verifier_keys"]
    EXPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    LOG_HEAD_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_KEYS_FIELD_NUMBER: _ClassVar[int]
    exported_at: _timestamp_pb2.Timestamp
    filter: ExportWorkflowsRequest
    format: str
    log_head: str
    log_id: str
    log_size: int
    verifier_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, format: _Optional[str] = ..., log_id: _Optional[str] = ..., log_size: _Optional[int] = ..., filter: _Optional[_Union[ExportWorkflowsRequest, _Mapping]] = ..., exported_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., log_head: _Optional[str] = ..., verifier_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ExportRecord(_message.Message):
    __slots__ = ["inclusion_path", "record"]
    INCLUSION_PATH_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    inclusion_path: _containers.RepeatedScalarFieldContainer[bytes]
    record: _workflow_pb2.Record
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., inclusion_path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ExportSnapshotPart(_message.Message):
    __slots__ = ["data", "offset", "sha256", "size"]
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    offset: int
    sha256: bytes
    size: int
    def __init__(self, sha256: _Optional[bytes] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class ExportTrailer(_message.Message):
    __slots__ = ["records", "sha256", "snapshots", "workflows"]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    WORKFLOWS_FIELD_NUMBER: _ClassVar[int]
    records: int
    sha256: bytes
    snapshots: int
    workflows: int
    def __init__(self, workflows: _Optional[int] = ..., records: _Optional[int] = ..., snapshots: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class ExportWorkflow(_message.Message):
    __slots__ = ["forked_from", "head_hash", "namespace", "records", "statement", "workflow_id"]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    HEAD_HASH_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    forked_from: _workflow_pb2.ForkPoint
    head_hash: bytes
    namespace: str
    records: int
    statement: str
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., records: _Optional[int] = ..., head_hash: _Optional[bytes] = ..., forked_from: _Optional[_Union[_workflow_pb2.ForkPoint, _Mapping]] = ..., statement: _Optional[str] = ...) -> None: ...

class ExportWorkflowsRequest(_message.Message):
    __slots__ = ["allow_quarantined", "metadata", "namespace", "states", "statuses", "updated_after", "updated_before", "workflow_id", "workflow_types"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ALLOW_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    UPDATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPES_FIELD_NUMBER: _ClassVar[int]
    allow_quarantined: bool
    metadata: _containers.ScalarMap[str, str]
    namespace: str
    states: _containers.RepeatedScalarFieldContainer[str]
    statuses: _containers.RepeatedScalarFieldContainer[_workflow_pb2.WorkflowStatus]
    updated_after: _timestamp_pb2.Timestamp
    updated_before: _timestamp_pb2.Timestamp
    workflow_id: str
    workflow_types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., workflow_types: _Optional[_Iterable[str]] = ..., states: _Optional[_Iterable[str]] = ..., statuses: _Optional[_Iterable[_Union[_workflow_pb2.WorkflowStatus, str]]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., updated_before: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., updated_after: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., allow_quarantined: bool = ...) -> None: ...

class ExportWorkflowsResponse(_message.Message):
    __slots__ = ["chunk"]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class ImportOptions(_message.Message):
    __slots__ = ["allow_unproven", "take_over", "trusted_keys"]
    ALLOW_UNPROVEN_FIELD_NUMBER: _ClassVar[int]
    TAKE_OVER_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_KEYS_FIELD_NUMBER: _ClassVar[int]
    allow_unproven: bool
    take_over: bool
    trusted_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, take_over: bool = ..., allow_unproven: bool = ..., trusted_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ImportWorkflowsRequest(_message.Message):
    __slots__ = ["chunk", "options"]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    options: ImportOptions
    def __init__(self, options: _Optional[_Union[ImportOptions, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class ImportWorkflowsResponse(_message.Message):
    __slots__ = ["message", "namespace", "outcome", "reason", "workflow_id"]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    message: str
    namespace: str
    outcome: ImportOutcome
    reason: str
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., outcome: _Optional[_Union[ImportOutcome, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class LeaseRenewal(_message.Message):
    __slots__ = ["lost", "renewed", "workflow_id"]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RENEWED_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    lost: LostLease
    renewed: _workflow_pb2.Lease
    workflow_id: str
    def __init__(self, workflow_id: _Optional[str] = ..., renewed: _Optional[_Union[_workflow_pb2.Lease, _Mapping]] = ..., lost: _Optional[_Union[LostLease, _Mapping]] = ...) -> None: ...

class LostLease(_message.Message):
    __slots__ = ["message", "reason"]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    message: str
    reason: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ReleaseLeasesRequest(_message.Message):
    __slots__ = ["leases", "namespace", "owner"]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[_workflow_pb2.LeaseReference]
    namespace: str
    owner: str
    def __init__(self, namespace: _Optional[str] = ..., owner: _Optional[str] = ..., leases: _Optional[_Iterable[_Union[_workflow_pb2.LeaseReference, _Mapping]]] = ...) -> None: ...

class ReleaseLeasesResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class RenewLeasesRequest(_message.Message):
    __slots__ = ["lease_duration", "leases", "namespace", "owner"]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    lease_duration: _duration_pb2.Duration
    leases: _containers.RepeatedCompositeFieldContainer[_workflow_pb2.LeaseReference]
    namespace: str
    owner: str
    def __init__(self, namespace: _Optional[str] = ..., owner: _Optional[str] = ..., leases: _Optional[_Iterable[_Union[_workflow_pb2.LeaseReference, _Mapping]]] = ..., lease_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RenewLeasesResponse(_message.Message):
    __slots__ = ["results"]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[LeaseRenewal]
    def __init__(self, results: _Optional[_Iterable[_Union[LeaseRenewal, _Mapping]]] = ...) -> None: ...

class ResumeFailure(_message.Message):
    __slots__ = ["message", "reason", "workflow_id"]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    message: str
    reason: str
    workflow_id: str
    def __init__(self, workflow_id: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ResumePendingWorkflowsRequest(_message.Message):
    __slots__ = ["lease_duration", "max_workflows", "namespace", "omit_snapshots", "owner", "states", "statuses", "take_over_own", "workflow_types"]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    MAX_WORKFLOWS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OMIT_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    TAKE_OVER_OWN_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPES_FIELD_NUMBER: _ClassVar[int]
    lease_duration: _duration_pb2.Duration
    max_workflows: int
    namespace: str
    omit_snapshots: bool
    owner: str
    states: _containers.RepeatedScalarFieldContainer[str]
    statuses: _containers.RepeatedScalarFieldContainer[_workflow_pb2.WorkflowStatus]
    take_over_own: bool
    workflow_types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespace: _Optional[str] = ..., workflow_types: _Optional[_Iterable[str]] = ..., states: _Optional[_Iterable[str]] = ..., statuses: _Optional[_Iterable[_Union[_workflow_pb2.WorkflowStatus, str]]] = ..., owner: _Optional[str] = ..., lease_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., take_over_own: bool = ..., max_workflows: _Optional[int] = ..., omit_snapshots: bool = ...) -> None: ...

class ResumePendingWorkflowsResponse(_message.Message):
    __slots__ = ["failed", "resumed", "summary"]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    failed: ResumeFailure
    resumed: ResumeWorkflowResponse
    summary: ResumeSummary
    def __init__(self, resumed: _Optional[_Union[ResumeWorkflowResponse, _Mapping]] = ..., failed: _Optional[_Union[ResumeFailure, _Mapping]] = ..., summary: _Optional[_Union[ResumeSummary, _Mapping]] = ...) -> None: ...

class ResumeSummary(_message.Message):
    __slots__ = ["failed", "held_by_others", "resumed"]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_OTHERS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    failed: int
    held_by_others: int
    resumed: int
    def __init__(self, resumed: _Optional[int] = ..., failed: _Optional[int] = ..., held_by_others: _Optional[int] = ...) -> None: ...

class ResumeWorkflowRequest(_message.Message):
    __slots__ = ["allow_quarantined", "lease_duration", "namespace", "owner", "take_over_own", "workflow_id"]
    ALLOW_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TAKE_OVER_OWN_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    allow_quarantined: bool
    lease_duration: _duration_pb2.Duration
    namespace: str
    owner: str
    take_over_own: bool
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., owner: _Optional[str] = ..., lease_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., take_over_own: bool = ..., allow_quarantined: bool = ...) -> None: ...

class ResumeWorkflowResponse(_message.Message):
    __slots__ = ["checkpoint", "lease", "more_records", "records_since", "workflow"]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    MORE_RECORDS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_SINCE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _workflow_pb2.Checkpoint
    lease: _workflow_pb2.Lease
    more_records: bool
    records_since: _containers.RepeatedCompositeFieldContainer[_workflow_pb2.Record]
    workflow: _workflow_pb2.Workflow
    def __init__(self, workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ..., checkpoint: _Optional[_Union[_workflow_pb2.Checkpoint, _Mapping]] = ..., records_since: _Optional[_Iterable[_Union[_workflow_pb2.Record, _Mapping]]] = ..., more_records: bool = ..., lease: _Optional[_Union[_workflow_pb2.Lease, _Mapping]] = ...) -> None: ...

class ImportOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
