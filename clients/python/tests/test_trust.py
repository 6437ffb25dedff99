"""The scenarios that every client passes by name: what is believed, and what is not."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aegis.v1.integrity_service_pb2 import AcceptRollbackRequest
from aegis.v1.workflow_pb2 import ForkPoint
from aegis_client import (
    AegisClient,
    AegisError,
    DurableWorkflowEngine,
    FileHeadStore,
    FormatError,
    HeadStoreError,
    HistoryRewritten,
    IntegrityError,
    LogHead,
    LogIdChanged,
    LogRolledBack,
    LogTrust,
    MemoryHeadStore,
    VerifierKey,
    WorkflowStatus,
    verify_export,
)
from aegis_client.heads import KeptHead
from scenario import RawCodec, ScenarioTest
from servers import Proxy, Server, running_server, temporary_directory

EXPORTS = Path(__file__).resolve().parents[2] / "exports"


class TestTrust(ScenarioTest):
    async def proxied(self) -> tuple[Server, Proxy, DurableWorkflowEngine, LogTrust]:
        """An engine behind a fault proxy, with trust, and a workflow that has some history."""
        server = await self.server()
        proxy = await self.proxy(server)
        trust = await self.trust(server, MemoryHeadStore())
        engine = await self.engine(await self.client(proxy.target, trust=trust))
        workflow = await engine.start("permit", "p-0", "S0", {"step": 0}, actor="alice", metadata={"fee": "120"})
        for step in range(1, 4):
            workflow.data["step"] = step
            await workflow.transition(f"S{step}", actor="alice", reason="because", metadata={"fee": "120"})
        await workflow.release()
        return server, proxy, engine, trust

    async def refused(
        self, proxy: Proxy, rule: str, call: Callable[[], Awaitable[Any]], reasons: tuple[str, ...]
    ) -> IntegrityError:
        """While a rule of the proxy holds a call is refused for a reason; without it the same call passes."""
        await proxy.tell(f"flip {rule}")
        with self.subTest(rule), self.assertRaises(IntegrityError) as refused:
            await call()
        await proxy.tell("forget")
        self.assertIn(refused.exception.reason, reasons, f"{rule}: {refused.exception}")
        return refused.exception

    async def test_trust_kept(self) -> None:
        server = await self.server()
        key = await server.verifier_key()
        path = server.directory / "head.json"
        sizes = []
        for life in range(3):
            trust = LogTrust([key], FileHeadStore(path))
            client = await self.client(server.target, trust=trust)
            engine = await self.engine(client)
            workflow = await engine.start("permit", f"p-{life}", "RECEIVED", {"life": life})
            written = await workflow.transition("CHECKED")
            kept = json.loads(path.read_text())
            head = LogHead.verify(kept["signed_note"], [VerifierKey.parse(key)])
            assert head
            self.assertEqual(written.receipt.log_head, kept["signed_note"])
            self.assertEqual([key], kept["verifier_keys"])
            self.assertGreater(head.size, written.record.log_index)
            self.assertEqual({"life": life}, (await engine.read(f"p-{life}")).data)
            sizes.append(head.size)
        self.assertEqual(sorted(set(sizes)), sizes)

        # Many writes at once, of two that share the file with the operators' command, are linked all the same, and none
        # puts back what another has kept.
        watch = await self.watch(server, path, key, "--interval", "10ms")
        assert watch.stdout
        self.assertTrue(await watch.stdout.readline())
        trusts = [LogTrust([key], FileHeadStore(path)) for _ in range(2)]
        engines = [await self.engine(await self.client(server.target, trust=trust)) for trust in trusts]
        await asyncio.gather(
            *(engine.start("permit", f"q-{e}-{i}", "NEW", {}) for e, engine in enumerate(engines) for i in range(20))
        )
        self.assertEqual([None, None], [trust.stopped_by for trust in trusts])
        head = LogHead.verify(json.loads(path.read_text())["signed_note"], [VerifierKey.parse(key)])
        assert head
        self.assertEqual(sizes[-1] + 40, head.size)
        watch.send_signal(signal.SIGINT)
        await watch.communicate()
        self.assertEqual(0, watch.returncode)
        self.assertEqual([path], list(server.directory.glob("head.json*")))

        # The command goes on from the same file, and this client from the command's.
        watch = await self.watch(server, path, key, "--once")
        await watch.communicate()
        self.assertEqual(0, watch.returncode)
        engine = await self.engine(await self.client(server.target, trust=LogTrust([key], FileHeadStore(path))))
        await engine.start("permit", "r-1", "NEW", {})

    async def watch(self, server: Server, path: Path, key: str, *options: str) -> asyncio.subprocess.Process:
        watch = await asyncio.create_subprocess_exec(
            *("dotnet", os.environ["AEGIS_CLI"], "head", "watch", *options),
            *("--server", server.url, "--state", str(path), "--key", key),
            env={name: value for name, value in os.environ.items() if not name.startswith("AEGIS_")},
            stdout=asyncio.subprocess.PIPE,
        )

        async def end() -> None:
            if watch.returncode is None:
                watch.kill()
                await watch.communicate()

        self.addAsyncCleanup(end)
        return watch

    async def test_a_head_file_that_cannot_be_read_is_left_alone(self) -> None:
        server = await self.server()
        path = server.directory / "head.json"
        path.write_text("{")
        engine = await self.engine(await self.client(server.target, trust=await self.trust(server)))
        with self.assertRaises(HeadStoreError):
            await engine.start("permit", "p-1", "NEW", {})
        self.assertEqual("{", path.read_text())
        # Nor is a head believed that another key has signed.
        async with running_server() as other:
            foreign = LogTrust([await other.verifier_key()], FileHeadStore(path.with_name("foreign.json")))
            engine = await self.engine(await self.client(other.target, trust=foreign))
            await engine.start("permit", "p-1", "NEW", {})
        trust = LogTrust([await server.verifier_key()], FileHeadStore(path.with_name("foreign.json")))
        engine = await self.engine(await self.client(server.target, trust=trust))
        with self.assertRaises(HeadStoreError):
            await engine.start("permit", "p-1", "NEW", {})

    async def take_back(self, server: Server, copy: Path) -> None:
        """Puts the database back to a copy, under a server without its memory."""
        await server.kill()
        for file in [*server.directory.glob("aegis.db*"), *server.directory.glob("memory-*.json")]:
            file.unlink()
        for file in copy.glob("aegis.db*"):
            shutil.copy(file, server.directory)
        await server.start()

    async def test_history_taken_back(self) -> None:
        server = await self.server()
        copy = self.enterContext(temporary_directory())
        path = server.directory / "head.json"
        trust = await self.trust(server)
        client = await self.client(server.target, trust=trust)
        engine = await self.engine(client)
        workflow = await engine.start("permit", "p-1", "S0", {})
        await server.kill()
        for file in server.directory.glob("aegis.db*"):
            shutil.copy(file, copy)
        await server.start()
        await workflow.transition("S1")
        kept = path.read_text()

        await self.take_back(server, copy)

        with self.assertRaises(HistoryRewritten) as taken_back:
            await workflow.transition("S2")
        self.assertEqual("LOG_ROLLED_BACK", taken_back.exception.reason)
        self.assertEqual(trust.signed_note, taken_back.exception.kept_note)
        # It stays stopped, for everything, also when it is started anew, and both heads are kept as evidence.
        for call in (engine.read("p-1"), engine.start("permit", "p-2", "S0", {}), engine.verify_integrity("p-1")):
            with self.assertRaises(HistoryRewritten):
                await call
        again = await self.engine(await self.client(server.target, trust=await self.trust(server)))
        with self.assertRaises(HistoryRewritten):
            await again.read("p-1")
        self.assertEqual(kept, path.read_text())
        rejected = path.with_name("head.json.rejected").read_text()
        keys = trust.verifier_keys
        smaller, larger = LogHead.verify(rejected, keys), LogHead.verify(json.loads(kept)["signed_note"], keys)
        assert smaller and larger
        self.assertLess(smaller.size, larger.size)

        # Nor does it help to grow beyond what was.
        careless = await self.engine(await self.client(server.target))
        for i in range(8):
            await careless.start("permit", f"q-{i}", "S0", {})
        late = await self.engine(await self.client(server.target, trust=await self.trust(server)))
        with self.assertRaises(HistoryRewritten) as forked:
            await late.read("p-1")
        self.assertEqual("LOG_FORKED", forked.exception.reason)

    async def test_history_taken_back_while_writing(self) -> None:
        """The log has grown beyond the kept head before the client notices."""
        server = await self.server()
        copy = self.enterContext(temporary_directory())
        engine = await self.engine(await self.client(server.target, trust=await self.trust(server)))
        await engine.start("permit", "p-1", "S0", {}, lease=False)
        await server.kill()
        for file in server.directory.glob("aegis.db*"):
            shutil.copy(file, copy)
        await server.start()
        await engine.start("permit", "p-2", "S0", {}, lease=False)
        await self.take_back(server, copy)
        careless = await self.engine(await self.client(server.target))
        for i in range(4):
            await careless.start("permit", f"q-{i}", "S0", {}, lease=False)
        with self.assertRaises(HistoryRewritten) as forked:
            await engine.start("permit", "p-3", "S0", {})
        self.assertEqual("LOG_FORKED", forked.exception.reason)

    async def test_new_log_id(self) -> None:
        server = await self.server()
        other = await self.server()
        keys = [await server.verifier_key(), await other.verifier_key()]
        path = server.directory / "head.json"
        trust = LogTrust(keys, FileHeadStore(path))
        engine = await self.engine(await self.client(server.target, trust=trust))
        workflow = await engine.start("permit", "p-1", "S0", {}, lease=False)
        # Another log behind the same address.
        await server.kill()
        await other.kill()
        other.port, other.target, other.url = server.port, server.target, server.url
        await other.start()

        for _ in range(2):
            with self.assertRaises(LogIdChanged):
                await engine.start("permit", "p-2", "S0", {})
        with self.assertRaises(LogIdChanged):
            await engine.read("p-1")
        restarted = LogTrust(keys, FileHeadStore(path))
        engine_2 = await self.engine(await self.client(other.target, trust=restarted))
        with self.assertRaises(LogIdChanged):
            await engine_2.start("permit", "p-2", "S0", {})
        restarted.accept_log_id(VerifierKey.parse(keys[1]).name)
        # The write that met the other log first has happened there; the client that came later wrote nothing.
        await engine_2.start("permit", "p-3", "S0", {})
        assert restarted.head
        self.assertEqual(VerifierKey.parse(keys[1]).name, restarted.head.log_id)
        # What was accepted does not make the way back open.
        with self.assertRaises(LogIdChanged):
            await engine.start("permit", "p-4", "S0", {})
        self.assertEqual("p-1", workflow.workflow_id)

    async def test_new_log_id_of_a_new_generation(self) -> None:
        server = await self.server()
        copy = self.enterContext(temporary_directory())
        trust = await self.trust(server)
        client = await self.client(server.target, trust=trust)
        engine = await self.engine(client)
        await engine.start("permit", "p-1", "S0", {}, lease=False)
        await server.kill()
        for file in server.directory.glob("aegis.db*"):
            shutil.copy(file, copy)
        await server.start()
        await engine.start("permit", "p-2", "S0", {}, lease=False)
        assert trust.head
        root = base64.b64encode(trust.head.root).decode()
        async with asyncio.timeout(30):
            # A head is remembered a moment after it was signed.
            while not any(root in json.dumps(remembered) for remembered in self.memories(server)):
                await asyncio.sleep(0.05)
        await server.kill()
        for file in server.directory.glob("aegis.db*"):
            file.unlink()
        for file in copy.glob("aegis.db*"):
            shutil.copy(file, server.directory)
        # With its memory this server takes no writes, and does not say that it takes them.
        await server.start(serving="")

        bystander = await self.engine(await self.client(server.target))
        with self.assertRaises(LogRolledBack):
            await bystander.start("permit", "p-3", "S0", {})
        async with AegisClient(server.target) as operator:
            accepted = await operator.integrity.AcceptRollback(AcceptRollbackRequest(actor="op", reason="disk lost"))
        self.assertTrue(accepted.log_id.endswith("/2"))
        with self.assertRaises(LogIdChanged):
            await engine.start("permit", "p-4", "S0", {})
        with self.assertRaises(LogIdChanged):
            await engine.start("permit", "p-5", "S0", {})
        trust.accept_log_id(accepted.log_id)
        workflow = await engine.start("permit", "p-6", "S0", {})
        await workflow.transition("S1")
        self.assertTrue((await engine.verify_integrity("p-6")).intact)
        # By option, after a restart.
        store = FileHeadStore(server.directory / "head.json")
        option = LogTrust(trust.verifier_keys, store, accepted_log_ids=[accepted.log_id])
        again = await self.engine(await self.client(server.target, trust=option))
        await again.start("permit", "p-7", "S0", {})

    @staticmethod
    def memories(server: Server) -> list[Any]:
        return [json.loads(file.read_text()) for file in server.directory.glob("memory-*.json")]

    async def test_tampered_record(self) -> None:
        _, proxy, engine, trust = await self.proxied()
        count = 0

        async def move() -> None:
            nonlocal count
            count += 1
            workflow = await engine.start("permit", f"q-{count}", "NEW", {}, lease=False)
            await workflow.transition(
                "MOVED", actor="alice", reason="because", metadata={"fee": "120"}, request_id=f"r-{count}"
            )

        for field in (
            *("log_id", "namespace", "workflow_id", "sequence", "kind", "workflow_type", "from_state", "to_state"),
            *("status", "request_id", "recorded_at.seconds", "person_digest", "content_digest", "snapshot_digest"),
            *("previous_hash", "person_salt", "actor", "content_salt", "reason", "metadata.fee", "snapshot_salt"),
            *("snapshot_content_type", "snapshot_size", "snapshot_sha256", "hash", "log_index"),
        ):
            await self.refused(proxy, f"TransitionWorkflow record.{field}", move, ("RECORD_ALTERED",))
        for field in ("record_hash", "log_index"):
            await self.refused(proxy, f"TransitionWorkflow receipt.{field}", move, ("RECORD_ALTERED",))
        await move()

        async def read() -> None:
            await engine.load_checkpoint("p-0", sequence=3)
            await engine.read("p-0")
            self.assertEqual(4, len([record async for record in engine.records("p-0")]))
            pending = engine.resume_all_pending(states=["S3"])
            found = [workflow.workflow_id async for workflow in pending]
            await pending.aclose()
            self.assertEqual(0, len(pending.failures) + pending.held_by_others)
            self.assertEqual(["p-0"], found)

        for rule in (
            *("GetCheckpoint record.reason", "GetCheckpoint record.sequence", "ListRecords records.1.actor"),
            *("ListRecords records.2.metadata.fee", "ResumeWorkflow checkpoint.record.to_state"),
            *("ResumeWorkflow workflow.state", "ResumeWorkflow workflow.head_hash", "ResumeWorkflow workflow.sequence"),
        ):
            error = await self.refused(proxy, rule, read, ("RECORD_ALTERED",))
            self.assertIn("p-", error.message)
        await proxy.tell("flip ResumePendingWorkflows resumed.checkpoint.record.actor")
        pending = engine.resume_all_pending(states=["S3"])
        self.assertEqual([], [workflow.workflow_id async for workflow in pending])
        self.assertEqual([("p-0", "RECORD_ALTERED")], [(f.workflow_id, f.reason) for f in pending.failures])
        await proxy.tell("forget")
        # Its lease was given back.
        await read()
        self.assertIsNone(trust.stopped_by)

    async def test_tampered_proof(self) -> None:
        server, proxy, _, _ = await self.proxied()
        key = await server.verifier_key()
        count = 0

        async def write() -> None:
            """By a client that has seen a head, which others have outgrown since."""
            nonlocal count
            count += 1
            store = MemoryHeadStore()
            store.head = KeptHead(first_head, (key,))
            trust = LogTrust([key], store)
            async with AegisClient(proxy.target, trust=trust) as client, DurableWorkflowEngine(client) as engine:
                engine.register("permit")
                await engine.start("permit", f"q-{count}", "NEW", {}, lease=False)

        trust = await self.trust(server, MemoryHeadStore())
        await trust.begin((await self.client(server.target)).source())
        assert trust.signed_note
        first_head = trust.signed_note
        await write()
        for at in (0, 31):
            rule = f"StartWorkflow receipt.inclusion_path.0 {at}"
            await self.refused(proxy, rule, write, ("PROOF_INVALID",))
            rule = f"StartWorkflow receipt.consistency_path.0 {at}"
            await self.refused(proxy, rule, write, ("LOG_FORKED",))
            # What links the first head that comes with the one that was kept before.
            rule = f"GetConsistencyProof path.0 {at}"
            await self.refused(proxy, rule, write, ("LOG_FORKED",))
        await write()

    async def test_tampered_head(self) -> None:
        server, proxy, engine, trust = await self.proxied()
        count = 0

        async def write() -> None:
            nonlocal count
            count += 1
            await engine.start("permit", f"q-{count}", "NEW", {}, lease=False)

        note = trust.signed_note
        assert note and trust.head
        length = len(note.encode())
        root_at = note.encode().index(b"\n", len(trust.head.log_id) + 1) + 5
        for at in (len(trust.head.log_id) + 1, root_at, length - 60, length - 20):
            await self.refused(proxy, f"StartWorkflow receipt.log_head {at}", write, ("SIGNATURE_INVALID",))
        await write()

        async def begin() -> None:
            fresh = LogTrust([await server.verifier_key()], MemoryHeadStore())
            async with AegisClient(proxy.target, trust=fresh) as client, DurableWorkflowEngine(client) as other:
                other.register("permit")
                await other.read("p-0")

        await self.refused(proxy, f"GetLogHead signed_note {root_at}", begin, ("SIGNATURE_INVALID",))
        # A name in which nobody has signed tells nothing of another log.
        await self.refused(proxy, "GetLogHead signed_note 10", begin, ("SIGNATURE_INVALID",))
        await begin()
        # A key that is not the log's proves nothing.
        async with running_server() as other:
            stranger = VerifierKey(trust.head.log_id, VerifierKey.parse(await other.verifier_key()).public_key)
        engine_2 = await self.engine(await self.client(server.target, trust=LogTrust([stranger])))
        with self.assertRaises(IntegrityError) as unsigned:
            await engine_2.start("permit", "p-9", "NEW", {})
        self.assertEqual("SIGNATURE_INVALID", unsigned.exception.reason)

    async def test_tampered_snapshot(self) -> None:
        _, proxy, engine, _ = await self.proxied()

        async def load() -> None:
            self.assertEqual({"step": 3}, (await engine.load_checkpoint("p-0")).data)

        async def resume() -> None:
            workflow = await engine.resume("p-0")
            await workflow.release()

        for field in ("content", "content_type"):
            await self.refused(proxy, f"GetCheckpoint snapshot.{field}", load, ("SNAPSHOT_ALTERED",))
            await self.refused(proxy, f"ResumeWorkflow checkpoint.snapshot.{field}", resume, ("SNAPSHOT_ALTERED",))
        await load()
        # The lease that came with it was given back.
        await resume()
        await proxy.tell("flip ResumePendingWorkflows resumed.checkpoint.snapshot.content")
        pending = engine.resume_all_pending()
        self.assertEqual([], [workflow.workflow_id async for workflow in pending])
        self.assertEqual([("p-0", "SNAPSHOT_ALTERED")], [(f.workflow_id, f.reason) for f in pending.failures])

    async def test_verify_integrity(self) -> None:
        _, proxy, engine, trust = await self.proxied()
        report = await engine.verify_integrity("p-0")
        self.assertTrue(report.intact)
        self.assertEqual((4, 4, []), (report.records, report.snapshots, report.findings))
        assert report.head and trust.head
        self.assertEqual(trust.head, report.head)
        for at in range(10, 2000, 97):
            await proxy.tell(f"flip ExportWorkflows chunk {at}")
            with self.subTest(at=at):
                report = await engine.verify_integrity("p-0")
                self.assertFalse(report.intact)
                self.assertTrue(report.findings)
            await proxy.tell("forget")
        self.assertTrue((await engine.verify_integrity("p-0")).intact)
        with self.assertRaises(ValueError):
            await (await self.engine(await self.client(proxy.target))).verify_integrity("p-0")

    async def test_export_import(self) -> None:
        server = await self.server()
        second = await self.server()
        key = await server.verifier_key()
        engine = await self.engine(await self.client(server.target, trust=await self.trust(server)), codec=RawCodec())
        target = await self.engine(await self.client(second.target, trust=await self.trust(second)), codec=RawCodec())
        hashes = {}
        for i in range(3):
            workflow = await engine.start("permit", f"p-{i}", "S0", os.urandom(10), actor="älice")
            await workflow.transition("S1", reason="許可")
            await workflow.transition("DONE", status=WorkflowStatus.COMPLETED)
            hashes[f"p-{i}"] = [record.hash async for record in engine.records(f"p-{i}")]
        path = server.directory / "cases.aegis"
        written = await engine.export(path)
        assert written
        self.assertTrue(written.intact)
        self.assertEqual([], list(server.directory.glob("*.part")))

        report = verify_export(path, [key])
        self.assertEqual((True, 9, 3), (report.intact, report.records, len(report.workflows)))
        self.assertFalse(verify_export(path, [await second.verifier_key()]).intact)
        with self.assertRaises(AegisError):
            await target.import_(path, trusted_keys=[await second.verifier_key()])
        results = await target.import_(path, trusted_keys=[key])
        self.assertEqual(["IMPORTED"] * 3, [result.outcome for result in results])
        for workflow_id, expected in hashes.items():
            self.assertEqual(expected, [record.hash async for record in target.records(workflow_id)])
            self.assertTrue((await target.verify_integrity(workflow_id)).intact)
        again = await target.import_(path, trusted_keys=[key])
        self.assertEqual(["UNCHANGED"] * 3, [result.outcome for result in again])

    async def test_exports_of_all(self) -> None:
        files = sorted(EXPORTS.glob("*.aegis"))
        self.assertIn("python.aegis", [file.name for file in files])
        directory = self.enterContext(temporary_directory())
        for file in files:
            with self.subTest(file.name):
                keys = file.with_suffix(".key").read_text(encoding="utf-8").split()
                report = verify_export(file, keys)
                self.assertEqual([], report.findings)
                self.assertTrue(report.intact)
                async with running_server() as server, AegisClient(server.target) as client:
                    engine = DurableWorkflowEngine(client)
                    content = file.read_bytes()
                    changed = directory / f"changed-{file.name}"
                    for at in range(0, len(content), max(1, len(content) // 40)):
                        changed.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
                        self.assertFalse(self.is_intact(changed, keys), f"byte {at}")
                    # The last one changed is no better to a server.
                    self.assertFalse(await self.is_taken(engine, changed, keys))
                    results = await engine.import_(file, trusted_keys=keys, take_over=True)
                    self.assertEqual({"IMPORTED"}, {result.outcome for result in results}, results)
                    self.assertEqual(len(report.workflows), len(results))

    @staticmethod
    def is_intact(path: Path, keys: list[str]) -> bool:
        try:
            return verify_export(path, keys).intact
        except FormatError:
            return False

    @staticmethod
    async def is_taken(engine: DurableWorkflowEngine, path: Path, keys: list[str]) -> bool:
        try:
            results = await engine.import_(path, trusted_keys=keys, take_over=True)
        except AegisError:
            return False
        return all(result.outcome != "REFUSED" for result in results)

    async def test_fork(self) -> None:
        _, _, engine, _ = await self.proxied()
        source = await engine.load_checkpoint("p-0", sequence=2)
        origin = ForkPoint(workflow_id="p-0", sequence=2, hash=source.record.hash)
        fork = await engine.start("permit", "p-0-again", "", forked_from=origin)
        self.assertEqual(("S1", {"step": 1}), (fork.state, fork.data))
        fork.data["step"] = 100
        await fork.transition("OTHER")
        self.assertTrue((await engine.verify_integrity("p-0-again")).intact)


if __name__ == "__main__":
    unittest.main()
