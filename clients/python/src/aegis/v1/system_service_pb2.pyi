from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerInfoRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ["features", "limits", "log_id", "store", "verifier_keys", "version"]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_KEYS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    log_id: str
    store: str
    verifier_keys: _containers.RepeatedScalarFieldContainer[str]
    version: str
    def __init__(self, version: _Optional[str] = ..., log_id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., features: _Optional[_Iterable[str]] = ..., store: _Optional[str] = ..., verifier_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ["lease_duration_ms_default", "lease_duration_ms_max", "lease_duration_ms_min", "leases_max", "metadata_bytes_max", "metadata_entries_max", "name_bytes_max", "page_size_default", "page_size_max", "principal_bytes_max", "reason_bytes_max", "request_bytes_max", "request_id_bytes_max", "response_bytes_max", "snapshot_bytes_max"]
    LEASES_MAX_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_MS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_MS_MIN_FIELD_NUMBER: _ClassVar[int]
    METADATA_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    METADATA_ENTRIES_MAX_FIELD_NUMBER: _ClassVar[int]
    NAME_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_MAX_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    REASON_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    lease_duration_ms_default: int
    lease_duration_ms_max: int
    lease_duration_ms_min: int
    leases_max: int
    metadata_bytes_max: int
    metadata_entries_max: int
    name_bytes_max: int
    page_size_default: int
    page_size_max: int
    principal_bytes_max: int
    reason_bytes_max: int
    request_bytes_max: int
    request_id_bytes_max: int
    response_bytes_max: int
    snapshot_bytes_max: int
    def __init__(self, name_bytes_max: _Optional[int] = ..., principal_bytes_max: _Optional[int] = ..., request_id_bytes_max: _Optional[int] = ..., reason_bytes_max: _Optional[int] = ..., metadata_entries_max: _Optional[int] = ..., metadata_bytes_max: _Optional[int] = ..., snapshot_bytes_max: _Optional[int] = ..., page_size_max: _Optional[int] = ..., page_size_default: _Optional[int] = ..., leases_max: _Optional[int] = ..., lease_duration_ms_min: _Optional[int] = ..., lease_duration_ms_max: _Optional[int] = ..., lease_duration_ms_default: _Optional[int] = ..., request_bytes_max: _Optional[int] = ..., response_bytes_max: _Optional[int] = ...) -> None: ...
