from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
RECORD_KIND_CHECKPOINT: RecordKind
RECORD_KIND_ERASURE: RecordKind
RECORD_KIND_STARTED: RecordKind
RECORD_KIND_TRANSITION: RecordKind
RECORD_KIND_UNSPECIFIED: RecordKind
WORKFLOW_STATUS_CANCELLED: WorkflowStatus
WORKFLOW_STATUS_COMPLETED: WorkflowStatus
WORKFLOW_STATUS_FAILED: WorkflowStatus
WORKFLOW_STATUS_RUNNING: WorkflowStatus
WORKFLOW_STATUS_UNSPECIFIED: WorkflowStatus
WORKFLOW_STATUS_WAITING: WorkflowStatus

class Checkpoint(_message.Message):
    __slots__ = ["record", "snapshot"]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    record: Record
    snapshot: Snapshot
    def __init__(self, record: _Optional[_Union[Record, _Mapping]] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class ForkPoint(_message.Message):
    __slots__ = ["hash", "sequence", "workflow_id"]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    sequence: int
    workflow_id: str
    def __init__(self, workflow_id: _Optional[str] = ..., sequence: _Optional[int] = ..., hash: _Optional[bytes] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ["epoch", "expires_at", "owner"]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    expires_at: _timestamp_pb2.Timestamp
    owner: str
    def __init__(self, owner: _Optional[str] = ..., epoch: _Optional[int] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LeaseReference(_message.Message):
    __slots__ = ["epoch", "workflow_id"]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    workflow_id: str
    def __init__(self, workflow_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ["consistency_path", "inclusion_path", "log_head", "log_index", "record_hash"]
    CONSISTENCY_PATH_FIELD_NUMBER: _ClassVar[int]
    INCLUSION_PATH_FIELD_NUMBER: _ClassVar[int]
    LOG_HEAD_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    RECORD_HASH_FIELD_NUMBER: _ClassVar[int]
    consistency_path: _containers.RepeatedScalarFieldContainer[bytes]
    inclusion_path: _containers.RepeatedScalarFieldContainer[bytes]
    log_head: str
    log_index: int
    record_hash: bytes
    def __init__(self, record_hash: _Optional[bytes] = ..., log_index: _Optional[int] = ..., log_head: _Optional[str] = ..., inclusion_path: _Optional[_Iterable[bytes]] = ..., consistency_path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ["actor", "content_digest", "content_salt", "from_state", "hash", "kind", "lease_epoch", "log_id", "log_index", "metadata", "namespace", "occurred_at", "person_digest", "person_salt", "previous_hash", "principal", "reason", "recorded_at", "request_id", "sequence", "snapshot_content_type", "snapshot_digest", "snapshot_salt", "snapshot_sha256", "snapshot_size", "status", "to_state", "workflow_id", "workflow_type"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SALT_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEASE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    PERSON_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PERSON_SALT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SALT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SHA256_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_SIZE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPE_FIELD_NUMBER: _ClassVar[int]
    actor: str
    content_digest: bytes
    content_salt: bytes
    from_state: str
    hash: bytes
    kind: RecordKind
    lease_epoch: int
    log_id: str
    log_index: int
    metadata: _containers.ScalarMap[str, str]
    namespace: str
    occurred_at: _timestamp_pb2.Timestamp
    person_digest: bytes
    person_salt: bytes
    previous_hash: bytes
    principal: str
    reason: str
    recorded_at: _timestamp_pb2.Timestamp
    request_id: str
    sequence: int
    snapshot_content_type: str
    snapshot_digest: bytes
    snapshot_salt: bytes
    snapshot_sha256: bytes
    snapshot_size: int
    status: WorkflowStatus
    to_state: str
    workflow_id: str
    workflow_type: str
    def __init__(self, log_id: _Optional[str] = ..., namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., sequence: _Optional[int] = ..., kind: _Optional[_Union[RecordKind, str]] = ..., workflow_type: _Optional[str] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., status: _Optional[_Union[WorkflowStatus, str]] = ..., request_id: _Optional[str] = ..., lease_epoch: _Optional[int] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., recorded_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., person_digest: _Optional[bytes] = ..., content_digest: _Optional[bytes] = ..., snapshot_digest: _Optional[bytes] = ..., previous_hash: _Optional[bytes] = ..., person_salt: _Optional[bytes] = ..., actor: _Optional[str] = ..., principal: _Optional[str] = ..., content_salt: _Optional[bytes] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., snapshot_salt: _Optional[bytes] = ..., snapshot_content_type: _Optional[str] = ..., snapshot_size: _Optional[int] = ..., snapshot_sha256: _Optional[bytes] = ..., hash: _Optional[bytes] = ..., log_index: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ["content", "content_type", "sha256"]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    content_type: str
    sha256: bytes
    def __init__(self, content_type: _Optional[str] = ..., content: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Workflow(_message.Message):
    __slots__ = ["checkpoint_sequence", "created_at", "forked_from", "head_hash", "lease", "metadata", "namespace", "quarantined", "sequence", "state", "status", "updated_at", "workflow_id", "workflow_type"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHECKPOINT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    FORKED_FROM_FIELD_NUMBER: _ClassVar[int]
    HEAD_HASH_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_TYPE_FIELD_NUMBER: _ClassVar[int]
    checkpoint_sequence: int
    created_at: _timestamp_pb2.Timestamp
    forked_from: ForkPoint
    head_hash: bytes
    lease: Lease
    metadata: _containers.ScalarMap[str, str]
    namespace: str
    quarantined: bool
    sequence: int
    state: str
    status: WorkflowStatus
    updated_at: _timestamp_pb2.Timestamp
    workflow_id: str
    workflow_type: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., workflow_type: _Optional[str] = ..., state: _Optional[str] = ..., status: _Optional[_Union[WorkflowStatus, str]] = ..., sequence: _Optional[int] = ..., head_hash: _Optional[bytes] = ..., checkpoint_sequence: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., forked_from: _Optional[_Union[ForkPoint, _Mapping]] = ..., quarantined: bool = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WorkflowStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class RecordKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
