"""Values that are gone: read only where an ERASURE record of the chain covers them."""

from __future__ import annotations

import unittest
from typing import Any

from aegis.v1.recovery_service_pb2 import ResumeWorkflowResponse
from aegis.v1.workflow_pb2 import Record
from aegis.v1.workflow_service_pb2 import ListRecordsRequest, ListRecordsResponse
from aegis_client import IntegrityError
from aegis_client.reading import RecordReader
from aegis_client.record_format import encode_record, hash_of
from test_vectors import load, record_of


class Listing:
    """A client of a server that has some records and lists them, a few on each page."""

    def __init__(self, records: list[Record], page_size: int = 100) -> None:
        self.records = records
        self._page_size = page_size

    async def call(self, method: str, request: ListRecordsRequest) -> ListRecordsResponse:
        assert method == "ListRecords"
        records = list(reversed(self.records)) if request.descending else self.records
        begin = int(request.page_token or "0")
        end = begin + self._page_size
        token = str(end) if end < len(records) else ""
        return ListRecordsResponse(records=records[begin:end], next_page_token=token)


def erased_chain() -> list[Record]:
    """Three records: the first two have lost their person and content, and the last says so."""
    chains = load("records.json")["chains"]
    return [record_of(e) for c in chains if c["name"].startswith("person and content") for e in c["records"]]


def whole_chain() -> list[Record]:
    """Five records that have all their values."""
    return [record_of(entry) for entry in load("records.json")["chains"][2]["records"]]


def strip(record: Record, part: str) -> None:
    for field in {
        "person": ("person_salt", "actor", "principal"),
        "content": ("content_salt", "reason", "metadata"),
        "snapshot": ("snapshot_salt", "snapshot_content_type", "snapshot_size", "snapshot_sha256"),
    }[part]:
        record.ClearField(field)


def resumed(records: list[Record], upto: int, **fields: Any) -> ResumeWorkflowResponse:
    """What a server resumes that takes the workflow to end with one of the records."""
    newest = records[upto - 1]
    response = ResumeWorkflowResponse(records_since=records[: fields.pop("sent", upto)], **fields)
    response.workflow.workflow_id, response.workflow.workflow_type = newest.workflow_id, newest.workflow_type
    response.workflow.state, response.workflow.status = newest.to_state, newest.status
    response.workflow.sequence, response.workflow.head_hash = newest.sequence, newest.hash
    return response


class TestReading(unittest.IsolatedAsyncioTestCase):
    async def read(self, records: list[Record], page_size: int = 100) -> int:
        reader = RecordReader(Listing(records, page_size), records[0].namespace)  # type: ignore[arg-type]
        return len([record async for record in reader.records(records[0].workflow_id)])

    async def resume(self, stored: list[Record], response: ResumeWorkflowResponse, page_size: int = 100) -> None:
        reader = RecordReader(Listing(stored, page_size), stored[0].namespace)  # type: ignore[arg-type]
        await reader.check_resumed(response, stored[0].workflow_id)

    async def test_values_that_were_erased_may_be_gone(self) -> None:
        records = erased_chain()
        for page_size in (1, 2, 100):
            self.assertEqual(3, await self.read(records, page_size))
        await self.resume(records, resumed(records, 3))
        await self.resume(records, resumed(records, 3, sent=1, more_records=True), page_size=1)

    async def test_values_that_were_never_erased_may_not(self) -> None:
        for part in ("person", "content", "snapshot"):
            records = whole_chain()
            strip(records[1], part)
            with self.subTest(part):
                for page_size in (1, 100):
                    with self.assertRaisesRegex(IntegrityError, f'"{part}" of record 2 '):
                        await self.read(records, page_size)
                for response in (resumed(records, 5), resumed(records, 5, sent=1, more_records=True)):
                    with self.assertRaisesRegex(IntegrityError, f'"{part}" of record 2 '):
                        await self.resume(records, response)

    async def test_what_an_erasure_does_not_name_may_not_be_gone(self) -> None:
        records = erased_chain()
        strip(records[0], "snapshot")
        with self.assertRaisesRegex(IntegrityError, '"snapshot" of record 1 '):
            await self.read(records)
        with self.assertRaisesRegex(IntegrityError, '"snapshot" of record 1 '):
            await self.resume(records, resumed(records, 3))

    async def test_what_was_erased_while_it_was_read_is_told_after_the_newest(self) -> None:
        records = erased_chain()
        for page_size in (1, 100):
            await self.resume(records, resumed(records, 2), page_size)
            await self.resume(records, resumed(records, 2, sent=1, more_records=True), page_size)
        # Only by a record that follows from the newest.
        forged = erased_chain()
        forged[2].previous_hash = forged[0].hash
        forged[2].hash = hash_of(encode_record(forged[2]))
        with self.assertRaises(IntegrityError):
            await self.resume(forged, resumed(forged, 2))


if __name__ == "__main__":
    unittest.main()
