"""The account of a load: nothing lost, doubled, missing or altered goes unseen."""

import unittest
from collections.abc import Callable

from aegis.v1.workflow_pb2 import Record
from aegis_client.record_format import encode_record, hash_of
from drill.accounts import settle
from drill.load import Acknowledged, longest_gap


def chain(workflow_id: str, count: int) -> list[Record]:
    """A workflow's records, not yet in a log."""
    records: list[Record] = []
    for sequence in range(1, count + 1):
        record = Record(
            log_id="aegis/1",
            namespace="default",
            workflow_id=workflow_id,
            sequence=sequence,
            kind=1 if sequence == 1 else 2,
            workflow_type="load",
            from_state="" if sequence == 1 else f"S{sequence - 1}",
            to_state=f"S{sequence}",
            status=1,
            request_id=f"move-{sequence}",
            previous_hash=records[-1].hash if records else bytes(32),
            person_digest=bytes(32),
            content_digest=bytes(32),
            snapshot_digest=bytes(32),
        )
        record.recorded_at.FromMicroseconds(1_000_000 * sequence)
        seal(record)
        records.append(record)
    return records


def seal(record: Record) -> None:
    record.hash = hash_of(encode_record(record))


def log() -> list[Record]:
    records = [record for pair in zip(chain("a", 3), chain("b", 3)) for record in pair]
    number(records)
    return records


def number(records: list[Record]) -> None:
    for index, record in enumerate(records):
        record.log_index = index


def told(record: Record) -> Acknowledged:
    return Acknowledged(
        at=2.0,
        began=1.0,
        namespace=record.namespace,
        workflow_id=record.workflow_id,
        sequence=record.sequence,
        hash=record.hash,
        log_index=record.log_index,
        request_id=record.request_id,
        recorded_at=0,
    )


class AccountTest(unittest.TestCase):
    def test_a_whole_log_has_everything(self) -> None:
        records = log()
        account = settle(records, [told(record) for record in records[:5]])
        self.assertEqual((6, 5, [], []), (account.recorded, account.acknowledged, account.lost, account.problems))
        self.assertTrue(account.is_whole)

    def test_what_is_not_in_the_log_as_it_was_told_is_lost(self) -> None:
        def cut(records: list[Record]) -> None:
            del records[5:]

        def replace(records: list[Record]) -> None:
            records[5].to_state = "ELSEWHERE"
            seal(records[5])

        def move(records: list[Record]) -> None:
            records[4:] = reversed(records[4:])
            number(records)

        for change in (cut, replace, move):
            with self.subTest(change.__name__):
                records = log()
                acknowledged = [told(record) for record in records]
                change(records)
                account = settle(records, acknowledged)
                self.assertIn(acknowledged[5], account.lost)
                # What is lost of a log's end leaves a log that is whole.
                self.assertTrue(account.is_whole, account.problems)

    def test_a_log_that_is_not_whole_is_told(self) -> None:
        def gap(records: list[Record]) -> None:
            del records[3]

        def twice(records: list[Record]) -> None:
            records.insert(3, records[2])

        def swap(records: list[Record]) -> None:
            records[2], records[4] = records[4], records[2]
            number(records)

        def alter(records: list[Record]) -> None:
            records[5].to_state = "ELSEWHERE"

        def double(records: list[Record]) -> None:
            # Both are records of their own right: only the request tells.
            records[5].request_id = records[3].request_id
            seal(records[5])

        def branch(records: list[Record]) -> None:
            records[5].previous_hash = bytes(32)
            seal(records[5])

        changes: list[tuple[Callable[[list[Record]], None], str]] = [
            (gap, "gap"),
            (twice, "repetition"),
            (swap, "do not follow"),
            (alter, "not what their hashes say"),
            (double, "more than one record"),
            (branch, "do not follow"),
        ]
        for change, expected in changes:
            with self.subTest(change.__name__):
                records = log()
                change(records)
                account = settle(records, [])
                self.assertFalse(account.is_whole)
                self.assertIn(expected, "; ".join(account.problems))


class GapTest(unittest.TestCase):
    def test_the_longest_gap_is_one_that_ends_after_the_fault(self) -> None:
        times = [1.0, 5.0, 5.1, 5.2, 7.2, 7.3]
        self.assertAlmostEqual(2.0, longest_gap(times, 0.0, 7.4, since=5.3))
        self.assertAlmostEqual(4.0, longest_gap(times, 0.0, 7.4, since=2.0))

    def test_an_outage_that_never_ended_goes_on_to_the_end(self) -> None:
        self.assertAlmostEqual(5.0, longest_gap([1.0, 2.0], 0.0, 7.0, since=2.5))
        self.assertAlmostEqual(7.0, longest_gap([], 0.0, 7.0, since=2.5))


if __name__ == "__main__":
    unittest.main()
