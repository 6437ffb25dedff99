"""The account of a load: is every record that was acknowledged in the log, once, and the log whole?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from aegis.v1.integrity_service_pb2 import GetLogHeadRequest
from aegis.v1.integrity_service_pb2_grpc import IntegrityServiceStub
from aegis.v1.workflow_service_pb2 import WatchRecordsRequest
from aegis.v1.workflow_service_pb2_grpc import WorkflowServiceStub
from aegis_client.record_format import encode_record, hash_of

from .load import Acknowledged

_READ_SECONDS_MAX = 300.0
_SHOWN_MAX = 5


@dataclass
class Account:
    """What was found. Only records that were acknowledged can be lost; of others nobody was told anything."""

    recorded: int = 0
    acknowledged: int = 0
    lost: list[Acknowledged] = field(default_factory=list)
    """Not in the log, or not as acknowledged."""
    problems: list[str] = field(default_factory=list)
    """A request made two records, the log or a chain has a gap, a record is not what its hash says."""

    @property
    def is_whole(self) -> bool:
        """Whether the log is in order; what is lost is counted apart."""
        return not self.problems


def read_log(target: str) -> list[Any]:
    """All records of a server's log, of all namespaces, in its order, up to its head of now."""
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        head = IntegrityServiceStub(channel).GetLogHead(GetLogHeadRequest(), timeout=30)  # type: ignore[no-untyped-call]
        if head.size == 0:
            return []
        records: list[Any] = []
        request = WatchRecordsRequest(all_namespaces=True, from_log_index=0)
        call = WorkflowServiceStub(channel).WatchRecords(request, timeout=_READ_SECONDS_MAX)  # type: ignore[no-untyped-call]
        for event in call:
            kind = event.WhichOneof("event")
            if kind == "record" and event.record.log_index < head.size:
                records.append(event.record)
            is_at_end = kind == "record" and event.record.log_index + 1 >= head.size
            if is_at_end or (kind == "progress" and event.progress.next_log_index >= head.size):
                break
        call.cancel()
    return records


def settle(records: Sequence[Any], acknowledged: Iterable[Acknowledged]) -> Account:
    """Compares a whole log with what was acknowledged of it.

    :param records: the log in its order, as the contract's Record.
    """
    account = Account(recorded=len(records))
    by_index: dict[int, Any] = {record.log_index: record for record in records}
    for told in acknowledged:
        account.acknowledged += 1
        record = by_index.get(told.log_index)
        if (
            record is None
            or _place(record) != (told.namespace, told.workflow_id, told.sequence)
            or record.hash != told.hash
        ):
            account.lost.append(told)
    _check_log(records, account)
    _check_requests(records, account)
    _check_chains(records, account)
    return account


def _check_log(records: Sequence[Any], account: Account) -> None:
    gaps = [index for index, record in enumerate(records) if record.log_index != index]
    if gaps:
        account.problems.append(
            f"the log has a gap or a repetition at {gaps[0]}, where {records[gaps[0]].log_index} stands"
        )
    altered = [record.log_index for record in records if hash_of(encode_record(record)) != record.hash]
    _tell(account, "records are not what their hashes say, at", altered)


def _check_requests(records: Sequence[Any], account: Account) -> None:
    requests = Counter((r.namespace, r.workflow_id, r.request_id) for r in records if r.request_id)
    _tell(account, "requests have made more than one record:", [key for key, count in requests.items() if count > 1])


def _check_chains(records: Sequence[Any], account: Account) -> None:
    heads: dict[tuple[str, str], tuple[int, bytes]] = {}
    broken: list[tuple[str, str, int]] = []
    for record in records:
        sequence, head = heads.get((record.namespace, record.workflow_id), (0, b""))
        # The first of a fork follows from the record it forks from, in another chain.
        follows = record.sequence == 1 or record.previous_hash == head
        if record.sequence != sequence + 1 or not follows:
            broken.append(_place(record))
        heads[(record.namespace, record.workflow_id)] = (record.sequence, record.hash)
    _tell(account, "records do not follow from the ones before them:", broken)


def _place(record: Any) -> tuple[str, str, int]:
    return (record.namespace, record.workflow_id, record.sequence)


def _tell(account: Account, what: str, found: Sequence[object]) -> None:
    if found:
        more = f" and {len(found) - _SHOWN_MAX} more" if len(found) > _SHOWN_MAX else ""
        account.problems.append(f"{len(found)} {what} {', '.join(str(f) for f in found[:_SHOWN_MAX])}{more}")
