"""How heads are linked, kept and refused, against a log that is made here and can lie."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import unittest
from collections.abc import Awaitable, Callable, Sequence

from aegis_client import (
    FileHeadStore,
    HistoryRewritten,
    IntegrityError,
    LogIdChanged,
    LogTrust,
    MemoryHeadStore,
    VerifierKey,
    merkle,
)
from aegis_client.heads import KeptHead
from aegis_client.trust import Kept
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from servers import temporary_directory


class Log:
    """A log of random leaves that signs heads of any size, and proves what is so."""

    def __init__(self, log_id: str = "log", leaves: int = 64, key: Ed25519PrivateKey | None = None) -> None:
        self.log_id = log_id
        self.leaves = [hashlib.sha256(f"{log_id} {i}".encode()).digest() for i in range(leaves)]
        self.private_key = key or Ed25519PrivateKey.generate()
        public = self.private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key = VerifierKey(log_id, public)
        self.size = 1
        self.proofs = 0

    def note(self, size: int) -> str:
        root = base64.b64encode(merkle.root(self.leaves[:size])).decode()
        text = f"{self.log_id}\n{size}\n{root}\n"
        signature = base64.b64encode(self.key.id + self.private_key.sign(text.encode())).decode()
        return f"{text}\n\u2014 {self.log_id} {signature}\n"

    async def log_head(self) -> str:
        return self.note(self.size)

    async def consistency_path(self, first_size: int, second_size: int) -> Sequence[bytes]:
        self.proofs += 1
        await asyncio.sleep(0)
        return self.path(first_size, second_size)

    def path(self, first: int, second: int) -> list[bytes]:
        """RFC 6962, 2.1.2."""

        def subproof(m: int, leaves: list[bytes], is_whole: bool) -> list[bytes]:
            n = len(leaves)
            if m == n:
                return [] if is_whole else [merkle.root(leaves)]
            k = 1 << (n - 1).bit_length() - 1
            if m <= k:
                return subproof(m, leaves[:k], is_whole) + [merkle.root(leaves[k:])]
            return subproof(m - k, leaves[k:], False) + [merkle.root(leaves[:k])]

        return subproof(first, self.leaves[:second], True)


class OvertakenStore(FileHeadStore):
    """A head file in which something happens between what is loaded and what is saved, once."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def save(self, head: KeptHead, replaced: KeptHead | None) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            await meanwhile()
        return await super().save(head, replaced)


class TestHeads(unittest.IsolatedAsyncioTestCase):
    async def begun(self, log: Log, size: int, store: MemoryHeadStore | None = None) -> LogTrust:
        trust = LogTrust([str(log.key)], store or MemoryHeadStore())
        log.size = size
        await trust.begin(log)
        return trust

    def size_of(self, trust: LogTrust) -> int:
        assert trust.head
        return trust.head.size

    async def test_every_proof_between_small_sizes_links(self) -> None:
        log = Log(leaves=20)
        for first in range(1, 20):
            for second in range(first, 21):
                roots = merkle.root(log.leaves[:first]), merkle.root(log.leaves[:second])
                self.assertTrue(merkle.verify_consistency(first, second, *roots, log.path(first, second)))

    async def test_an_older_head_than_the_one_it_was_asked_after_is_refused(self) -> None:
        """Even one that is signed and proven: whoever was asked has hidden what came since."""
        log = Log()
        store = MemoryHeadStore()
        trust = await self.begun(log, 10, store)
        before = trust.kept()
        with self.assertRaises(HistoryRewritten) as refused:
            await trust.take_head(log.note(7), log, before=before)
        self.assertEqual("LOG_ROLLED_BACK", refused.exception.reason)
        self.assertEqual((log.note(10), log.note(7)), (refused.exception.kept_note, refused.exception.new_note))
        self.assertEqual(log.note(7), store.rejected)
        self.assertEqual(log.note(10), store.head and store.head.signed_note)
        with self.assertRaises(HistoryRewritten):
            await trust.begin(log)
        restarted = LogTrust([log.key], store)
        log.size = 7
        with self.assertRaises(HistoryRewritten):
            await restarted.begin(log)

    async def test_heads_that_overtake_each_other_are_linked_and_the_largest_is_kept(self) -> None:
        log = Log()
        store = MemoryHeadStore()
        trust = await self.begun(log, 3, store)
        before = trust.kept()
        sizes = [9, 64, 30, 4, 17, 30, 3, 12, 5]
        await asyncio.gather(
            *(trust.take_head(log.note(size), log, before=before, path=log.path(3, size)) for size in sizes)
        )
        self.assertEqual(64, self.size_of(trust))
        self.assertEqual(log.note(64), store.head and store.head.signed_note)
        self.assertGreater(log.proofs, 0)

    async def test_one_of_many_heads_that_is_of_another_history_is_found(self) -> None:
        log = Log()
        for lying_size in (4, 17, 40):
            trust = await self.begun(log, 3)
            before = trust.kept()
            forked = Log(key=log.private_key)
            # The same up to 3, so that its path from there holds by itself.
            forked.leaves = log.leaves[:3] + [bytes(32)] + log.leaves[4:]
            heads = [trust.take_head(log.note(n), log, before=before, path=log.path(3, n)) for n in (9, 17, 30)]
            heads.append(trust.take_head(forked.note(lying_size), log, before=before, path=forked.path(3, lying_size)))
            results = await asyncio.gather(*heads, return_exceptions=True)
            found = [result for result in results if isinstance(result, HistoryRewritten)]
            self.assertTrue(found, lying_size)
            self.assertIsInstance(trust.stopped_by, HistoryRewritten)

    async def test_what_another_process_kept_is_linked_too(self) -> None:
        log = Log()
        store = MemoryHeadStore()
        trust = await self.begun(log, 3, store)
        keys = (str(log.key),)
        store.head = KeptHead(log.note(20), keys)
        await trust.take_head(log.note(10), log)
        self.assertEqual(20, self.size_of(trust))
        self.assertEqual(log.note(20), store.head.signed_note)
        store.head = KeptHead(log.note(15), keys)
        await trust.take_head(log.note(25), log)
        self.assertEqual(log.note(25), store.head.signed_note)
        # Two processes that were shown two histories.
        forked = Log(key=log.private_key)
        forked.leaves = [bytes(32)] + log.leaves[1:]
        store.head = KeptHead(forked.note(25), keys)
        with self.assertRaises(HistoryRewritten):
            await trust.take_head(log.note(30), log)

    async def test_what_another_process_keeps_just_before_is_not_put_back(self) -> None:
        log = Log()
        path = self.enterContext(temporary_directory()) / "head.json"
        store = OvertakenStore(path)
        slow, fast = LogTrust([log.key], store), LogTrust([log.key], FileHeadStore(path))
        # The first one of all, a later one, and one that is older: that one is linked too, and does not stay.
        for mine, others in (3, 9), (20, 33), (50, 40):
            store.meanwhile = lambda others=others: fast.take_head(log.note(others), log)
            await slow.take_head(log.note(mine), log)
            newest = max(mine, others)
            self.assertEqual(KeptHead(log.note(newest), (str(log.key),)), await store.load())
            self.assertEqual(newest, self.size_of(slow))
        self.assertEqual([path], list(path.parent.iterdir()))
        # Two processes that were shown two histories.
        forked = Log(key=log.private_key)
        forked.leaves = [bytes(32)] + log.leaves[1:]
        kept = KeptHead(forked.note(55), (str(log.key),))

        async def keep_forked() -> None:
            self.assertTrue(await FileHeadStore(path).save(kept, await store.load()))

        store.meanwhile = keep_forked
        with self.assertRaises(HistoryRewritten):
            await slow.take_head(log.note(60), log)
        self.assertEqual(kept, await store.load())

    async def test_a_store_saves_only_over_what_was_loaded(self) -> None:
        path = self.enterContext(temporary_directory()) / "head.json"
        first, second, third = (KeptHead(note, ("key",)) for note in "123")
        for store in FileHeadStore(path), MemoryHeadStore():
            self.assertFalse(await store.save(second, first))
            self.assertIsNone(await store.load())
            self.assertTrue(await store.save(first, None))
            self.assertFalse(await store.save(second, None))
            self.assertFalse(await store.save(second, third))
            self.assertEqual(first, await store.load())
            self.assertTrue(await store.save(second, first))
            self.assertEqual(second, await store.load())
        self.assertEqual('{\n  "signed_note": "2",\n  "verifier_keys": [\n    "key"\n  ]\n}\n', path.read_text())

    async def test_of_many_that_count_in_a_file_none_counts_for_another(self) -> None:
        path = self.enterContext(temporary_directory()) / "head.json"
        await FileHeadStore(path).save(KeptHead("0", ()), None)

        async def count() -> int:
            store, saved = FileHeadStore(path), 0
            for _ in range(20):
                kept = await store.load()
                assert kept
                saved += await store.save(KeptHead(str(int(kept.signed_note) + 1), ()), kept)
            return saved

        saved = sum(await asyncio.gather(*(count() for _ in range(8))))
        self.assertEqual(KeptHead(str(saved), ()), await FileHeadStore(path).load())
        self.assertEqual([path], list(path.parent.iterdir()))

    async def test_a_lock_that_a_process_left_when_it_ended_is_taken_away(self) -> None:
        path = self.enterContext(temporary_directory()) / "head.json"
        store = FileHeadStore(path)
        lock = path.with_name("head.json.lock")
        lock.mkdir()
        (lock / "crashed").write_text("half of a h")
        self.assertTrue(await store.save(KeptHead("1", ()), None))
        lock.mkdir()
        self.assertTrue(await store.save(KeptHead("2", ()), KeptHead("1", ())))
        self.assertEqual([path], list(path.parent.iterdir()))

    async def test_other_names_need_acceptance_and_their_own_key(self) -> None:
        log = Log()
        trust = await self.begun(log, 10)
        second = Log("log/2", key=log.private_key)
        second.leaves = log.leaves[:6] + second.leaves[6:]
        with self.assertRaises(LogIdChanged):
            await trust.take_head(second.note(8), second)
        trust.accept_log_id("log/2")
        second.size = 8
        await trust.begin(second)
        self.assertEqual(8, self.size_of(trust))
        # What was accepted is not a way back, nor is a key taken for that of another log.
        trust.accept_log_id("log")
        with self.assertRaises(LogIdChanged):
            await trust.take_head(log.note(12), log)
        stranger = Log("other")
        trust.accept_log_id("other")
        with self.assertRaises(IntegrityError) as unsigned:
            await trust.begin(stranger)
        self.assertEqual("SIGNATURE_INVALID", unsigned.exception.reason)

    async def test_a_head_under_another_name_that_nobody_signed_in_that_name_stops_nothing(self) -> None:
        log = Log()
        for name in ("loh", "log/2", "other"):
            trust = LogTrust([log.key, Log("other").key])
            await trust.begin(log)
            with self.subTest(name), self.assertRaises(IntegrityError) as unsigned:
                await trust.take_head(log.note(1).replace("log\n", f"{name}\n", 1), log)
            self.assertEqual("SIGNATURE_INVALID", unsigned.exception.reason)
            self.assertIsNone(trust.stopped_by)
            await trust.take_head(log.note(1), log)

    async def test_what_was_rolled_back_or_forked_is_not_gone_on_with_by_accepting_a_log_id(self) -> None:
        log = Log()
        forked = Log(key=log.private_key)
        forked.leaves = [bytes(32)] + log.leaves[1:]
        for reason, note in (("LOG_ROLLED_BACK", log.note(7)), ("LOG_FORKED", forked.note(10))):
            trust = await self.begun(log, 10)
            with self.subTest(reason), self.assertRaises(HistoryRewritten) as refused:
                await trust.take_head(note, log, before=trust.kept())
            self.assertEqual(reason, refused.exception.reason)
            for log_id in ("log", "log/2"):
                trust.accept_log_id(log_id)
            for call in (trust.take_head(log.note(10), log), trust.begin(log)):
                with self.assertRaises(HistoryRewritten):
                    await call

    async def test_equal_sizes_have_equal_roots(self) -> None:
        log = Log()
        trust = await self.begun(log, 10)
        forked = Log(key=log.private_key)
        forked.leaves = [bytes(32)] + log.leaves[1:]
        with self.assertRaises(HistoryRewritten) as refused:
            await trust.take_head(forked.note(10), forked)
        self.assertEqual("LOG_FORKED", refused.exception.reason)

    async def test_a_kept_head_is_what_the_next_write_supposes(self) -> None:
        log = Log()
        trust = await self.begun(log, 10)
        kept = trust.kept()
        assert isinstance(kept, Kept)
        self.assertEqual((10, log.note(10)), (kept.head.size, kept.note))


if __name__ == "__main__":
    unittest.main()
