from aegis.v1 import integrity_service_pb2 as _integrity_service_pb2
from aegis.v1 import workflow_pb2 as _workflow_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckpointWorkflowRequest(_message.Message):
    __slots__ = ["actor", "expected_hash", "expected_sequence", "include_proof", "known_log_size", "lease_epoch", "metadata", "namespace", "occurred_at", "reason", "request_id", "snapshot", "workflow_id"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_HASH_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PROOF_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEASE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    actor: str
    expected_hash: bytes
    expected_sequence: int
    include_proof: bool
    known_log_size: int
    lease_epoch: int
    metadata: _containers.ScalarMap[str, str]
    namespace: str
    occurred_at: _timestamp_pb2.Timestamp
    reason: str
    request_id: str
    snapshot: _workflow_pb2.Snapshot
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., snapshot: _Optional[_Union[_workflow_pb2.Snapshot, _Mapping]] = ..., expected_sequence: _Optional[int] = ..., expected_hash: _Optional[bytes] = ..., lease_epoch: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ..., known_log_size: _Optional[int] = ..., include_proof: bool = ...) -> None: ...

class CheckpointWorkflowResponse(_message.Message):
    __slots__ = ["receipt", "record", "replayed"]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    receipt: _workflow_pb2.Receipt
    record: _workflow_pb2.Record
    replayed: bool
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., receipt: _Optional[_Union[_workflow_pb2.Receipt, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class CountWorkflowsRequest(_message.Message):
    __slots__ = ["min_log_size", "namespace"]
    MIN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    min_log_size: int
    namespace: str
    def __init__(self, namespace: _Optional[str] = ..., min_log_size: _Optional[int] = ...) -> None: ...

class CountWorkflowsResponse(_message.Message):
    __slots__ = ["counts", "log_size"]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedCompositeFieldContainer[WorkflowCount]
    log_size: int
    def __init__(self, counts: _Optional[_Iterable[_Union[WorkflowCount, _Mapping]]] = ..., log_size: _Optional[int] = ...) -> None: ...

class GetCheckpointRequest(_message.Message):
    __slots__ = ["allow_quarantined", "as_of", "min_log_size", "namespace", "sequence", "workflow_id"]
    ALLOW_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    MIN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    allow_quarantined: bool
    as_of: _timestamp_pb2.Timestamp
    min_log_size: int
    namespace: str
    sequence: int
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., sequence: _Optional[int] = ..., as_of: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., min_log_size: _Optional[int] = ..., allow_quarantined: bool = ...) -> None: ...

class GetCheckpointResponse(_message.Message):
    __slots__ = ["log_size", "record", "snapshot"]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    log_size: int
    record: _workflow_pb2.Record
    snapshot: _workflow_pb2.Snapshot
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., snapshot: _Optional[_Union[_workflow_pb2.Snapshot, _Mapping]] = ..., log_size: _Optional[int] = ...) -> None: ...

class GetWorkflowRequest(_message.Message):
    __slots__ = ["allow_quarantined", "min_log_size", "namespace", "workflow_id"]
    ALLOW_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    MIN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    allow_quarantined: bool
    min_log_size: int
    namespace: str
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., min_log_size: _Optional[int] = ..., allow_quarantined: bool = ...) -> None: ...

class GetWorkflowResponse(_message.Message):
    __slots__ = ["log_size", "workflow"]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    log_size: int
    workflow: _workflow_pb2.Workflow
    def __init__(self, workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ..., log_size: _Optional[int] = ...) -> None: ...

class ListRecordsRequest(_message.Message):
    __slots__ = ["actor", "allow_quarantined", "descending", "min_log_size", "namespace", "page_size", "page_token", "principal", "recorded_after", "recorded_before", "workflow_id"]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ALLOW_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    DESCENDING_FIELD_NUMBER: _ClassVar[int]
    MIN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AFTER_FIELD_NUMBER: _ClassVar[int]
    RECORDED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    actor: str
    allow_quarantined: bool
    descending: bool
    min_log_size: int
    namespace: str
    page_size: int
    page_token: str
    principal: str
    recorded_after: _timestamp_pb2.Timestamp
    recorded_before: _timestamp_pb2.Timestamp
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., actor: _Optional[str] = ..., principal: _Optional[str] = ..., recorded_after: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., recorded_before: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., descending: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., min_log_size: _Optional[int] = ..., allow_quarantined: bool = ...) -> None: ...

class ListRecordsResponse(_message.Message):
    __slots__ = ["log_size", "next_page_token", "records", "violations"]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    log_size: int
    next_page_token: str
    records: _containers.RepeatedCompositeFieldContainer[_workflow_pb2.Record]
    violations: _containers.RepeatedCompositeFieldContainer[_integrity_service_pb2.Violation]
    def __init__(self, records: _Optional[_Iterable[_Union[_workflow_pb2.Record, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., log_size: _Optional[int] = ..., violations: _Optional[_Iterable[_Union[_integrity_service_pb2.Violation, _Mapping]]] = ...) -> None: ...

class ListWorkflowsRequest(_message.Message):
    __slots__ = ["metadata", "min_log_size", "namespace", "page_size", "page_token", "states", "statuses", "updated_after", "updated_before", "workflow_types"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MIN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    UPDATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPES_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.ScalarMap[str, str]
    min_log_size: int
    namespace: str
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[str]
    statuses: _containers.RepeatedScalarFieldContainer[_workflow_pb2.WorkflowStatus]
    updated_after: _timestamp_pb2.Timestamp
    updated_before: _timestamp_pb2.Timestamp
    workflow_types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespace: _Optional[str] = ..., workflow_types: _Optional[_Iterable[str]] = ..., states: _Optional[_Iterable[str]] = ..., statuses: _Optional[_Iterable[_Union[_workflow_pb2.WorkflowStatus, str]]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., updated_before: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., updated_after: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., min_log_size: _Optional[int] = ...) -> None: ...

class ListWorkflowsResponse(_message.Message):
    __slots__ = ["log_size", "next_page_token", "workflows"]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WORKFLOWS_FIELD_NUMBER: _ClassVar[int]
    log_size: int
    next_page_token: str
    workflows: _containers.RepeatedCompositeFieldContainer[_workflow_pb2.Workflow]
    def __init__(self, workflows: _Optional[_Iterable[_Union[_workflow_pb2.Workflow, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., log_size: _Optional[int] = ...) -> None: ...

class StartWorkflowRequest(_message.Message):
    __slots__ = ["actor", "forked_from", "include_proof", "initial_state", "known_log_size", "lease_duration", "metadata", "namespace", "occurred_at", "owner", "reason", "request_id", "snapshot", "status", "workflow_id", "workflow_type"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PROOF_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPE_FIELD_NUMBER: _ClassVar[int]
    actor: str
    forked_from: _workflow_pb2.ForkPoint
    include_proof: bool
    initial_state: str
    known_log_size: int
    lease_duration: _duration_pb2.Duration
    metadata: _containers.ScalarMap[str, str]
    namespace: str
    occurred_at: _timestamp_pb2.Timestamp
    owner: str
    reason: str
    request_id: str
    snapshot: _workflow_pb2.Snapshot
    status: _workflow_pb2.WorkflowStatus
    workflow_id: str
    workflow_type: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., workflow_type: _Optional[str] = ..., initial_state: _Optional[str] = ..., status: _Optional[_Union[_workflow_pb2.WorkflowStatus, str]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., snapshot: _Optional[_Union[_workflow_pb2.Snapshot, _Mapping]] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., forked_from: _Optional[_Union[_workflow_pb2.ForkPoint, _Mapping]] = ..., owner: _Optional[str] = ..., lease_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., known_log_size: _Optional[int] = ..., include_proof: bool = ...) -> None: ...

class StartWorkflowResponse(_message.Message):
    __slots__ = ["lease", "receipt", "record", "replayed", "workflow"]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    lease: _workflow_pb2.Lease
    receipt: _workflow_pb2.Receipt
    record: _workflow_pb2.Record
    replayed: bool
    workflow: _workflow_pb2.Workflow
    def __init__(self, workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ..., record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., receipt: _Optional[_Union[_workflow_pb2.Receipt, _Mapping]] = ..., lease: _Optional[_Union[_workflow_pb2.Lease, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class TransitionWorkflowRequest(_message.Message):
    __slots__ = ["actor", "expected_hash", "expected_sequence", "from_state", "include_proof", "known_log_size", "lease_epoch", "metadata", "namespace", "occurred_at", "reason", "request_id", "snapshot", "status", "to_state", "workflow_id"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_HASH_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PROOF_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEASE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    actor: str
    expected_hash: bytes
    expected_sequence: int
    from_state: str
    include_proof: bool
    known_log_size: int
    lease_epoch: int
    metadata: _containers.ScalarMap[str, str]
    namespace: str
    occurred_at: _timestamp_pb2.Timestamp
    reason: str
    request_id: str
    snapshot: _workflow_pb2.Snapshot
    status: _workflow_pb2.WorkflowStatus
    to_state: str
    workflow_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., status: _Optional[_Union[_workflow_pb2.WorkflowStatus, str]] = ..., expected_sequence: _Optional[int] = ..., expected_hash: _Optional[bytes] = ..., lease_epoch: _Optional[int] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., snapshot: _Optional[_Union[_workflow_pb2.Snapshot, _Mapping]] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ..., known_log_size: _Optional[int] = ..., include_proof: bool = ...) -> None: ...

class TransitionWorkflowResponse(_message.Message):
    __slots__ = ["receipt", "record", "replayed"]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    receipt: _workflow_pb2.Receipt
    record: _workflow_pb2.Record
    replayed: bool
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., receipt: _Optional[_Union[_workflow_pb2.Receipt, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class WatchProgress(_message.Message):
    __slots__ = ["next_log_index"]
    NEXT_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    next_log_index: int
    def __init__(self, next_log_index: _Optional[int] = ...) -> None: ...

class WatchRecordsRequest(_message.Message):
    __slots__ = ["after_hash", "all_namespaces", "from_log_index", "namespace", "workflow_id", "workflow_type"]
    AFTER_HASH_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    FROM_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPE_FIELD_NUMBER: _ClassVar[int]
    after_hash: bytes
    all_namespaces: bool
    from_log_index: int
    namespace: str
    workflow_id: str
    workflow_type: str
    def __init__(self, namespace: _Optional[str] = ..., all_namespaces: bool = ..., workflow_id: _Optional[str] = ..., workflow_type: _Optional[str] = ..., from_log_index: _Optional[int] = ..., after_hash: _Optional[bytes] = ...) -> None: ...

class WatchRecordsResponse(_message.Message):
    __slots__ = ["progress", "record", "violations"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    progress: WatchProgress
    record: _workflow_pb2.Record
    violations: _containers.RepeatedCompositeFieldContainer[_integrity_service_pb2.Violation]
    def __init__(self, record: _Optional[_Union[_workflow_pb2.Record, _Mapping]] = ..., progress: _Optional[_Union[WatchProgress, _Mapping]] = ..., violations: _Optional[_Iterable[_Union[_integrity_service_pb2.Violation, _Mapping]]] = ...) -> None: ...

class WorkflowCount(_message.Message):
    __slots__ = ["count", "state", "status", "workflow_type"]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPE_FIELD_NUMBER: _ClassVar[int]
    count: int
    state: str
    status: _workflow_pb2.WorkflowStatus
    workflow_type: str
    def __init__(self, workflow_type: _Optional[str] = ..., state: _Optional[str] = ..., status: _Optional[_Union[_workflow_pb2.WorkflowStatus, str]] = ..., count: _Optional[int] = ...) -> None: ...
