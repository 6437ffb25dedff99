from aegis.v1 import workflow_pb2 as _workflow_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
VIOLATION_CLASS_CLOCK_REGRESSION: ViolationClass
VIOLATION_CLASS_ERASED_WITHOUT_RECORD: ViolationClass
VIOLATION_CLASS_FIELD_MODIFIED: ViolationClass
VIOLATION_CLASS_LOG_FORKED: ViolationClass
VIOLATION_CLASS_LOG_ROLLED_BACK: ViolationClass
VIOLATION_CLASS_RECORDS_REORDERED: ViolationClass
VIOLATION_CLASS_RECORD_INSERTED: ViolationClass
VIOLATION_CLASS_RECORD_MISSING: ViolationClass
VIOLATION_CLASS_SIGNATURE_INVALID: ViolationClass
VIOLATION_CLASS_SNAPSHOT_MISSING: ViolationClass
VIOLATION_CLASS_SNAPSHOT_MODIFIED: ViolationClass
VIOLATION_CLASS_TAIL_TRUNCATED: ViolationClass
VIOLATION_CLASS_TILE_MODIFIED: ViolationClass
VIOLATION_CLASS_UNSPECIFIED: ViolationClass
VIOLATION_CLASS_WORKFLOW_DELETED: ViolationClass
VIOLATION_CLASS_WORKFLOW_HEAD_MODIFIED: ViolationClass

class AcceptRollbackRequest(_message.Message):
    __slots__ = ["actor", "dry_run", "reason"]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    actor: str
    dry_run: bool
    reason: str
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ..., dry_run: bool = ...) -> None: ...

class AcceptRollbackResponse(_message.Message):
    __slots__ = ["log_id", "lost_from_log_index", "lost_head", "lost_to_log_index", "record", "surviving_head"]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    LOST_FROM_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOST_HEAD_FIELD_NUMBER: _ClassVar[int]
    LOST_TO_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SURVIVING_HEAD_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    lost_from_log_index: int
    lost_head: str
    lost_to_log_index: int
    record: _workflow_pb2.Record
    surviving_head: str
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., log_id: _Optional[str] = ..., lost_from_log_index: _Optional[int] = ..., lost_to_log_index: _Optional[int] = ..., lost_head: _Optional[str] = ..., surviving_head: _Optional[str] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ["field", "found", "original"]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    field: str
    found: str
    original: str
    def __init__(self, field: _Optional[str] = ..., original: _Optional[str] = ..., found: _Optional[str] = ...) -> None: ...

class GetConsistencyProofRequest(_message.Message):
    __slots__ = ["first_size", "second_size"]
    FIRST_SIZE_FIELD_NUMBER: _ClassVar[int]
    SECOND_SIZE_FIELD_NUMBER: _ClassVar[int]
    first_size: int
    second_size: int
    def __init__(self, first_size: _Optional[int] = ..., second_size: _Optional[int] = ...) -> None: ...

class GetConsistencyProofResponse(_message.Message):
    __slots__ = ["path", "second_size", "signed_note"]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SECOND_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNED_NOTE_FIELD_NUMBER: _ClassVar[int]
    path: _containers.RepeatedScalarFieldContainer[bytes]
    second_size: int
    signed_note: str
    def __init__(self, path: _Optional[_Iterable[bytes]] = ..., second_size: _Optional[int] = ..., signed_note: _Optional[str] = ...) -> None: ...

class GetInclusionProofRequest(_message.Message):
    __slots__ = ["log_size", "namespace", "sequence", "workflow_id"]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    log_size: int
    namespace: str
    sequence: int
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., sequence: _Optional[int] = ..., log_size: _Optional[int] = ...) -> None: ...

class GetInclusionProofResponse(_message.Message):
    __slots__ = ["log_index", "log_size", "path", "record_hash", "signed_note"]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RECORD_HASH_FIELD_NUMBER: _ClassVar[int]
    SIGNED_NOTE_FIELD_NUMBER: _ClassVar[int]
    log_index: int
    log_size: int
    path: _containers.RepeatedScalarFieldContainer[bytes]
    record_hash: bytes
    signed_note: str
    def __init__(self, log_index: _Optional[int] = ..., log_size: _Optional[int] = ..., path: _Optional[_Iterable[bytes]] = ..., signed_note: _Optional[str] = ..., record_hash: _Optional[bytes] = ...) -> None: ...

class GetLogHeadRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class GetLogHeadResponse(_message.Message):
    __slots__ = ["root", "signed_note", "size", "verifier_keys"]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    SIGNED_NOTE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_KEYS_FIELD_NUMBER: _ClassVar[int]
    root: bytes
    signed_note: str
    size: int
    verifier_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, size: _Optional[int] = ..., root: _Optional[bytes] = ..., signed_note: _Optional[str] = ..., verifier_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ListViolationsRequest(_message.Message):
    __slots__ = ["all_namespaces", "include_released", "namespace", "page_size", "page_token", "workflow_id"]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_RELEASED_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    all_namespaces: bool
    include_released: bool
    namespace: str
    page_size: int
    page_token: str
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., all_namespaces: bool = ..., workflow_id: _Optional[str] = ..., include_released: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListViolationsResponse(_message.Message):
    __slots__ = ["next_page_token", "violations"]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    next_page_token: str
    violations: _containers.RepeatedCompositeFieldContainer[Violation]
    def __init__(self, violations: _Optional[_Iterable[_Union[Violation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RecordBackupRequest(_message.Message):
    __slots__ = ["actor", "kind", "location", "reason", "signed_head"]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNED_HEAD_FIELD_NUMBER: _ClassVar[int]
    actor: str
    kind: str
    location: str
    reason: str
    signed_head: str
    def __init__(self, signed_head: _Optional[str] = ..., kind: _Optional[str] = ..., location: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RecordBackupResponse(_message.Message):
    __slots__ = ["covered_until", "record"]
    COVERED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    covered_until: _timestamp_pb2.Timestamp
    record: _workflow_pb2.Record
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., covered_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReleaseQuarantineRequest(_message.Message):
    __slots__ = ["actor", "namespace", "reason", "violation_ids", "workflow_id"]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VIOLATION_IDS_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    actor: str
    namespace: str
    reason: str
    violation_ids: _containers.RepeatedScalarFieldContainer[str]
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., violation_ids: _Optional[_Iterable[str]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseQuarantineResponse(_message.Message):
    __slots__ = ["record", "released"]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    record: _workflow_pb2.Record
    released: int
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., released: _Optional[int] = ...) -> None: ...

class RepairRecordRequest(_message.Message):
    __slots__ = ["actor", "namespace", "reason", "record", "sequence", "snapshot", "workflow_id"]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    actor: str
    namespace: str
    reason: str
    record: _workflow_pb2.Record
    sequence: int
    snapshot: _workflow_pb2.Snapshot
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., sequence: _Optional[int] = ..., record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., snapshot: _Optional[_Union[_workflow_pb2.Snapshot, _Mapping]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RepairRecordResponse(_message.Message):
    __slots__ = ["record", "released"]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    record: _workflow_pb2.Record
    released: int
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., released: _Optional[int] = ...) -> None: ...

class VerifyLogProgress(_message.Message):
    __slots__ = ["total", "verified"]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    total: int
    verified: int
    def __init__(self, verified: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class VerifyLogRequest(_message.Message):
    __slots__ = ["from_log_index", "to_log_index"]
    FROM_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    TO_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    from_log_index: int
    to_log_index: int
    def __init__(self, from_log_index: _Optional[int] = ..., to_log_index: _Optional[int] = ...) -> None: ...

class VerifyLogResponse(_message.Message):
    __slots__ = ["progress", "summary", "violation"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    VIOLATION_FIELD_NUMBER: _ClassVar[int]
    progress: VerifyLogProgress
    summary: VerifyLogSummary
    violation: Violation
    def __init__(self, progress: _Optional[_Union[VerifyLogProgress, _Mapping]] = ..., violation: _Optional[_Union[Violation, _Mapping]] = ..., summary: _Optional[_Union[VerifyLogSummary, _Mapping]] = ...) -> None: ...

class VerifyLogSummary(_message.Message):
    __slots__ = ["intact", "log_head", "records_verified", "snapshots_verified", "violations"]
    INTACT_FIELD_NUMBER: _ClassVar[int]
    LOG_HEAD_FIELD_NUMBER: _ClassVar[int]
    RECORDS_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    intact: bool
    log_head: str
    records_verified: int
    snapshots_verified: int
    violations: int
    def __init__(self, intact: bool = ..., records_verified: _Optional[int] = ..., snapshots_verified: _Optional[int] = ..., violations: _Optional[int] = ..., log_head: _Optional[str] = ...) -> None: ...

class VerifyWorkflowRequest(_message.Message):
    __slots__ = ["min_log_size", "namespace", "workflow_id"]
    MIN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    min_log_size: int
    namespace: str
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., min_log_size: _Optional[int] = ...) -> None: ...

class VerifyWorkflowResponse(_message.Message):
    __slots__ = ["head_hash", "intact", "log_size", "records_verified", "snapshots_verified", "statement", "violations"]
    HEAD_HASH_FIELD_NUMBER: _ClassVar[int]
    INTACT_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    head_hash: bytes
    intact: bool
    log_size: int
    records_verified: int
    snapshots_verified: int
    statement: str
    violations: _containers.RepeatedCompositeFieldContainer[Violation]
    def __init__(self, intact: bool = ..., records_verified: _Optional[int] = ..., snapshots_verified: _Optional[int] = ..., head_hash: _Optional[bytes] = ..., violations: _Optional[_Iterable[_Union[Violation, _Mapping]]] = ..., log_size: _Optional[int] = ..., statement: _Optional[str] = ...) -> None: ...

class Violation(_message.Message):
    __slots__ = ["actual_hash", "differences", "expected_hash", "found_at", "last_good_log_size", "log_index", "message", "namespace", "released", "sequence", "violation_id", "workflow_id"]
    ACTUAL_HASH_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_HASH_FIELD_NUMBER: _ClassVar[int]
    FOUND_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_GOOD_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VIOLATION_ID_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    actual_hash: bytes
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    expected_hash: bytes
    found_at: _timestamp_pb2.Timestamp
    last_good_log_size: int
    log_index: int
    message: str
    namespace: str
    released: bool
    sequence: int
    violation_id: str
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., sequence: _Optional[int] = ..., log_index: _Optional[int] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ..., expected_hash: _Optional[bytes] = ..., actual_hash: _Optional[bytes] = ..., found_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., message: _Optional[str] = ..., last_good_log_size: _Optional[int] = ..., released: bool = ..., violation_id: _Optional[str] = ..., **kwargs) -> None: ...

class ViolationClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
