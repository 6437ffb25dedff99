"""Reads what was recorded of one namespace, and recomputes all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aegis.v1.recovery_service_pb2 import ResumeWorkflowResponse
from aegis.v1.workflow_pb2 import Record
from aegis.v1.workflow_service_pb2 import ListRecordsRequest, ListRecordsResponse

from .chain import Erasures
from .client import AegisClient
from .errors import IntegrityError
from .trust import check_record, check_snapshot


class RecordReader:
    """The records of one namespace's workflows, each recomputed and held against the one before."""

    def __init__(self, client: AegisClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def records(self, workflow_id: str) -> AsyncIterator[Record]:
        """All records of a workflow, oldest first, each recomputed and held against the one before.

        Only its end tells whether the values that are gone were erased.
        """
        request = ListRecordsRequest(namespace=self._namespace, workflow_id=workflow_id)
        previous: Record | None = None
        erasures = Erasures()
        while True:
            page: ListRecordsResponse = await self._client.call("ListRecords", request)
            for record in page.records:
                self._check_next(previous, record, workflow_id)
                previous = record
                erasures.add(record)
                yield record
            if not page.next_page_token:
                await self._check_erased(erasures, previous, workflow_id)
                return
            request.page_token = page.next_page_token

    async def check_resumed(self, response: ResumeWorkflowResponse, workflow_id: str) -> Record:
        """Recomputes what was resumed from the checkpoint to the head, and gives the newest record."""
        previous: Record | None = None
        erasures = Erasures()
        if response.HasField("checkpoint"):
            previous = response.checkpoint.record
            erasures.add(previous)
            check_record(previous, self._namespace, workflow_id)
            check_snapshot(previous, response.checkpoint.snapshot)
        for record in response.records_since:
            self._check_next(previous, record, workflow_id)
            previous = record
            erasures.add(record)
        if response.more_records and previous:
            previous = await self._check_rest(previous, response.workflow.sequence, workflow_id, erasures)
        said = response.workflow
        place = f"{self._namespace}/{workflow_id}"
        if previous is None:
            raise IntegrityError("RECORD_ALTERED", f"Of the workflow {place} no record came.")
        wrong = [
            field
            for field, came, recorded in (
                ("workflow_id", said.workflow_id, previous.workflow_id),
                ("workflow_type", said.workflow_type, previous.workflow_type),
                ("state", said.state, previous.to_state),
                ("status", said.status, previous.status),
                ("sequence", said.sequence, previous.sequence),
                ("head_hash", said.head_hash, previous.hash),
            )
            if came != recorded
        ]
        if wrong:
            raise IntegrityError(
                "RECORD_ALTERED",
                f"The workflow {place} is not where its newest record left it: {', '.join(wrong)} differ.",
            )
        await self._check_erased(erasures, previous, workflow_id)
        return previous

    async def _check_erased(self, erasures: Erasures, newest: Record | None, workflow_id: str) -> None:
        """Makes sure that values that are gone were erased on purpose, once all records up to the newest are known."""
        if newest and erasures.uncovered():
            # What was erased while the records were read is told after the newest of them.
            for record in await self._since(newest, workflow_id):
                erasures.add(record)
        for sequence, part in erasures.uncovered():
            raise IntegrityError(
                "RECORD_ALTERED",
                f'The values of the part "{part}" of record {sequence} of {workflow_id} are gone, and no ERASURE '
                "record covers them.",
            )

    async def _since(self, last: Record, workflow_id: str) -> list[Record]:
        """The records that follow one, checked, oldest first."""
        request = ListRecordsRequest(namespace=self._namespace, workflow_id=workflow_id, descending=True)
        records: list[Record] = []
        while True:
            page: ListRecordsResponse = await self._client.call("ListRecords", request)
            newer = [record for record in page.records if record.sequence > last.sequence]
            records += newer
            if len(newer) < len(page.records) or not page.next_page_token:
                break
            request.page_token = page.next_page_token
        records.reverse()
        previous = last
        for record in records:
            self._check_next(previous, record, workflow_id)
            previous = record
        return records

    async def _check_rest(self, last: Record, sequence: int, workflow_id: str, erasures: Erasures) -> Record:
        """Checks the records after the last that came with a resume, from the newest down to it, without keeping
        them."""
        request = ListRecordsRequest(namespace=self._namespace, workflow_id=workflow_id, descending=True)
        newest: Record | None = None
        after: Record | None = None
        while True:
            page: ListRecordsResponse = await self._client.call("ListRecords", request)
            for record in page.records:
                if record.sequence > sequence:
                    # Written since.
                    continue
                if after is not None:
                    self._check_next(record, after, workflow_id)
                else:
                    check_record(record, self._namespace, workflow_id)
                newest = newest or record
                if record.sequence <= last.sequence:
                    if record.hash != last.hash:
                        raise IntegrityError(
                            "RECORD_ALTERED", f"Record {last.sequence} of {workflow_id} came in two forms."
                        )
                    return newest
                erasures.add(record)
                after = record
            if not page.next_page_token:
                raise IntegrityError(
                    "RECORD_ALTERED", f"The records of {workflow_id} do not lead back to {last.sequence}."
                )
            request.page_token = page.next_page_token

    def _check_next(self, previous: Record | None, record: Record, workflow_id: str) -> None:
        """Recomputes a record and holds it against the one before; None for the first."""
        check_record(record, self._namespace, workflow_id)
        expected = previous.sequence + 1 if previous else 1
        if record.sequence != expected or (previous and record.previous_hash != previous.hash):
            raise IntegrityError(
                "RECORD_ALTERED", f"Record {record.sequence} of {workflow_id} does not follow from the one before."
            )
