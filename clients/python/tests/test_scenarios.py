"""The scenarios that every client passes by name: work, conflicts, crashes and limits."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import sys
import time
import unittest
from pathlib import Path
from typing import Any

import grpc
from aegis.v1.recovery_service_pb2 import ReleaseLeasesRequest, ResumeWorkflowRequest
from aegis.v1.system_service_pb2 import GetServerInfoRequest
from aegis.v1.workflow_pb2 import RECORD_KIND_CHECKPOINT, LeaseReference
from aegis.v1.workflow_service_pb2 import GetCheckpointRequest, ListRecordsRequest, TransitionWorkflowRequest
from aegis_client import (
    CheckpointNotFound,
    DeadlineExceeded,
    DurableWorkflowEngine,
    InvalidField,
    JsonCodec,
    LeaseHeld,
    LeaseLost,
    LeaseRequired,
    RequestIdReused,
    SnapshotTooLarge,
    Workflow,
    WorkflowAlreadyExists,
    WorkflowClosed,
    WorkflowConflict,
    WorkflowNotFound,
    WorkflowStatus,
)
from cryptography.fernet import Fernet
from scenario import RawCodec, Recorder, ScenarioTest
from servers import free_port

SNAPSHOT_BYTES_MAX = 3 * 1024 * 1024


class TestScenarios(ScenarioTest):
    async def test_first_use(self) -> None:
        server = await self.server()
        engine = await self.engine(await self.client(server.target))
        workflow = await engine.start("permit", "p-1", "RECEIVED", {"pages": 3}, actor="alice")
        workflow.data["checked"] = True
        moved = await workflow.transition("CHECKED", actor="bob", reason="complete")
        workflow.data["pages"] = 4
        await workflow.checkpoint()

        seen = await engine.read("p-1")
        self.assertEqual(("CHECKED", WorkflowStatus.RUNNING, 3), (seen.state, seen.status, seen.sequence))
        self.assertEqual({"pages": 4, "checked": True}, seen.data)
        self.assertEqual("complete", moved.record.reason)
        self.assertFalse(moved.replayed)
        self.assertEqual({"pages": 3, "checked": True}, (await engine.load_checkpoint("p-1", sequence=2)).data)
        await workflow.transition("DONE", status=WorkflowStatus.COMPLETED, checkpoint=False)
        closed = await engine.read("p-1")
        self.assertEqual((WorkflowStatus.COMPLETED, 3), (closed.status, closed.checkpoint_sequence))

    async def test_codec(self) -> None:
        fernet = Fernet(Fernet.generate_key())

        class Encrypting:
            def encode(self, data: Any) -> tuple[str, bytes]:
                return "application/fernet", fernet.encrypt(JsonCodec[Any]().encode(data)[1])

            def decode(self, content_type: str, content: bytes) -> Any:
                return JsonCodec[Any]().decode("application/json", fernet.decrypt(content))

        server = await self.server()
        client = await self.client(server.target)
        engine = await self.engine(client, codec=Encrypting())
        await engine.start("permit", "p-1", "RECEIVED", {"name": "Ada Lovelace"})

        stored = await client.workflows.GetCheckpoint(GetCheckpointRequest(workflow_id="p-1"))
        self.assertEqual("application/fernet", stored.snapshot.content_type)
        self.assertNotIn(b"Lovelace", stored.snapshot.content)
        self.assertEqual(b'{"name":"Ada Lovelace"}', fernet.decrypt(stored.snapshot.content))
        for file in server.directory.glob("aegis.db*"):
            self.assertNotIn(b"Lovelace", file.read_bytes())
        self.assertEqual({"name": "Ada Lovelace"}, (await engine.read("p-1")).data)

    async def test_conflict(self) -> None:
        server = await self.server()
        recorder = Recorder()
        client = await self.client(server.target, interceptors=[recorder])
        engine = await self.engine(client)
        await engine.start("permit", "p-1", "RECEIVED", {}, lease=False)
        callers = [await engine.read("p-1"), await engine.read("p-1")]

        results = await asyncio.gather(
            *(caller.transition(f"MOVED_{i}") for i, caller in enumerate(callers)), return_exceptions=True
        )
        conflicts = [result for result in results if isinstance(result, WorkflowConflict)]
        winners = [i for i, result in enumerate(results) if not isinstance(result, BaseException)]
        self.assertEqual((1, 1), (len(conflicts), len(winners)), results)
        winner = callers[winners[0]]
        self.assertEqual(
            (f"MOVED_{winners[0]}", 2, winner.head_hash),
            (conflicts[0].current_state, conflicts[0].current_sequence, conflicts[0].current_hash),
        )
        self.assertEqual(2, len(recorder.requests("TransitionWorkflow")))

    async def test_dropped_reply(self) -> None:
        server = await self.server()
        proxy = await self.proxy(server)
        engine = await self.engine(await self.client(proxy.target))
        workflow = await engine.start("permit", "p-1", "RECEIVED", {})
        await proxy.tell("cut-reply TransitionWorkflow")

        moved = await workflow.transition("CHECKED")

        self.assertTrue(moved.replayed)
        self.assertEqual(["RECEIVED", "CHECKED"], [record.to_state async for record in engine.records("p-1")])
        # And the lease that a lost reply brought is ours.
        await workflow.release()
        await proxy.tell("cut-reply ResumeWorkflow")
        resumed = await engine.resume("p-1")
        await resumed.transition("DONE")
        await proxy.tell("cut-reply StartWorkflow")
        started = await engine.start("permit", "p-2", "RECEIVED", {})
        self.assertEqual(2, (await started.transition("CHECKED")).record.sequence)

    async def test_overloaded(self) -> None:
        writes = 32
        server = await self.server(AEGIS_QUEUE_COMMANDS_MAX="1")
        recorder = Recorder()
        client = await self.client(server.target, interceptors=[recorder], trust=await self.trust(server))
        engine = await self.engine(client)
        await engine.start("permit", "before", "RECEIVED", {}, lease=False)
        recorder.calls.clear()

        started = await asyncio.gather(
            *(engine.start("permit", f"p-{i}", "RECEIVED", {}, lease=False) for i in range(writes))
        )

        self.assertGreater(len(recorder.requests("StartWorkflow")), writes, "none was turned away")
        self.assertEqual({1}, {workflow.sequence for workflow in started})
        for workflow in started:
            self.assertEqual(1, len([record async for record in engine.records(workflow.workflow_id)]))

    async def test_typed_errors(self) -> None:
        server = await self.server()
        client = await self.client(server.target)
        engine = await self.engine(client, owner="worker-1")
        other = await self.engine(client, owner="worker-2")

        with self.assertRaises(WorkflowNotFound) as not_found:
            await engine.read("p-0")
        self.assertEqual("p-0", not_found.exception.metadata["workflow_id"])
        self.assertEqual(grpc.StatusCode.NOT_FOUND, not_found.exception.code)

        workflow = await engine.start("permit", "p-1", "RECEIVED")
        with self.assertRaises(WorkflowAlreadyExists) as exists:
            await engine.start("permit", "p-1", "RECEIVED")
        self.assertEqual("p-1", exists.exception.metadata["workflow_id"])
        self.assertTrue(exists.exception.request_id)
        with self.assertRaises(CheckpointNotFound):
            await engine.load_checkpoint("p-1")
        with self.assertRaises(LeaseHeld) as held:
            await other.resume("p-1")
        self.assertEqual("worker-1", held.exception.owner)
        assert workflow.lease and held.exception.expires_at
        expires_at = workflow.lease.expires_at.ToDatetime(tzinfo=datetime.timezone.utc)
        self.assertLess(abs(held.exception.expires_at - expires_at), datetime.timedelta(minutes=1))
        bystander = await other.read("p-1")
        with self.assertRaises(LeaseRequired) as required:
            await bystander.transition("CHECKED")
        self.assertEqual("worker-1", required.exception.metadata["owner"])

        await workflow.transition("CHECKED", request_id="r-1")
        with self.assertRaises(RequestIdReused) as reused:
            await workflow.transition("REFUSED", request_id="r-1")
        self.assertEqual("from_state", reused.exception.metadata["field"])
        with self.assertRaises(InvalidField) as invalid:
            await engine.start("permit", "x" * 256, "RECEIVED")
        self.assertEqual(["workflow_id"], [field for field, _ in invalid.exception.fields])

        await client.call(
            "ResumeWorkflow", ResumeWorkflowRequest(workflow_id="p-1", owner="worker-1", take_over_own=True)
        )
        with self.assertRaises(LeaseLost) as stale:
            await workflow.transition("DONE")
        self.assertEqual("LEASE_STALE", stale.exception.reason)
        self.assertEqual(stale.exception, workflow.lost)

        closed = await engine.start("permit", "p-2", "RECEIVED")
        await closed.transition("DONE", status=WorkflowStatus.COMPLETED)
        with self.assertRaises(WorkflowClosed) as after:
            await closed.transition("RECEIVED")
        self.assertEqual("p-2", after.exception.metadata["workflow_id"])

    async def test_shared_pending(self) -> None:
        server = await self.server()
        client = await self.client(server.target)
        starter = await self.engine(client)
        ids = [f"p-{i}" for i in range(40)]
        await asyncio.gather(*(starter.start("permit", i, "RECEIVED", {"id": i}, lease=False) for i in ids))
        handed: list[str] = []
        closed: list[str] = []

        async def worker() -> None:
            engine = await self.engine(await self.client(server.target))
            async with engine.resume_all_pending(max_workflows=3, poll_interval=0.05) as pending:
                async for workflow in pending:
                    async with workflow:
                        self.assertEqual(workflow.workflow_id, workflow.data["id"])
                        handed.append(workflow.workflow_id)
                        await workflow.transition("DONE", status=WorkflowStatus.COMPLETED)
                        closed.append(workflow.workflow_id)
                    if len(closed) == len(ids):
                        return

        workers = [asyncio.create_task(worker()), asyncio.create_task(worker())]
        await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        for task in workers:
            task.cancel()
        await asyncio.wait(workers)
        self.assertEqual(sorted(ids), sorted(handed))

        # In one pass, at once, one of them may take more than the other, and none twice.
        await asyncio.gather(*(starter.start("permit", f"q-{i}", "RECEIVED", lease=False) for i in range(40)))

        async def all_of(engine: DurableWorkflowEngine) -> list[str]:
            return [workflow.workflow_id async for workflow in engine.resume_all_pending()]

        engines = [await self.engine(await self.client(server.target)) for _ in range(2)]
        first, second = await asyncio.gather(*(all_of(engine) for engine in engines))
        self.assertEqual(sorted(f"q-{i}" for i in range(40)), sorted(first + second))

    async def test_killed_worker(self) -> None:
        server = await self.server()
        client = await self.client(server.target)
        engine = await self.engine(client, lease_duration=2.0)
        await engine.start("permit", "p-1", "RECEIVED", {"step": 0}, lease=False)
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("worker.py")),
            server.target,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            assert worker.stdout
            line = (await asyncio.wait_for(worker.stdout.readline(), 60)).decode().split()
            self.assertEqual("p-1", line[0])
        finally:
            # By its id, without a chance to release anything.
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
        stale_epoch = int(line[1])
        killed = time.monotonic()

        async for workflow in engine.resume_all_pending(poll_interval=0.1):
            break
        # Its lease of two seconds, and a machine that is busy.
        self.assertLess(time.monotonic() - killed, 2.0 + 10.0)
        self.assertEqual({"step": 1}, workflow.data)
        with self.assertRaises(LeaseLost):
            await client.write(
                "TransitionWorkflow",
                TransitionWorkflowRequest(
                    workflow_id="p-1", from_state="CHECKED", to_state="DONE", lease_epoch=stale_epoch
                ),
            )
        await workflow.transition("DONE", status=WorkflowStatus.COMPLETED)

    async def test_lost_lease(self) -> None:
        server = await self.server()
        recorder = Recorder()
        client = await self.client(server.target, interceptors=[recorder])
        engine = await self.engine(client, owner="worker-1", lease_duration=1.0)
        for i in range(3):
            await engine.start("permit", f"p-{i}", "RECEIVED", lease=False)
        told: list[str] = []
        worked: list[str] = []

        async def work(workflow: Workflow) -> None:
            try:
                async with workflow:
                    await asyncio.sleep(2.5)
                    worked.append(workflow.workflow_id)
            except LeaseLost:
                told.append(workflow.workflow_id)

        pending = engine.resume_all_pending()
        tasks = [asyncio.create_task(work(await anext(pending))) for _ in range(2)]
        await asyncio.sleep(0.1)
        # Another process in the same name takes over the first, which is worked on, and the third, which waits to be.
        for i in (0, 2):
            request = ResumeWorkflowRequest(workflow_id=f"p-{i}", owner="worker-1", take_over_own=True)
            request.lease_duration.FromSeconds(60)
            await client.recovery.ResumeWorkflow(request)
        await asyncio.wait_for(asyncio.gather(*tasks), 30)

        self.assertEqual((["p-0"], ["p-1"]), (told, worked))
        self.assertEqual([], [workflow.workflow_id async for workflow in pending])
        renewals = [[lease.workflow_id for lease in r.leases] for r in recorder.requests("RenewLeases")]
        self.assertIn("p-0", renewals[0])
        lost_at = max(i for i, renewed in enumerate(renewals) if "p-0" in renewed)
        self.assertGreater(len(renewals) - 1, lost_at, renewals)
        self.assertEqual(0, lost_at)

    async def test_periodic_checkpoint(self) -> None:
        server = await self.server()
        client = await self.client(server.target)
        engine = await self.engine(client, checkpoint_interval=0.1)
        workflow = await engine.start("permit", "p-1", "RECEIVED", {"step": 0})

        async def checkpoints() -> list[int]:
            history = [record async for record in engine.records("p-1")]
            return [record.sequence for record in history if record.kind == RECORD_KIND_CHECKPOINT]

        async with workflow:
            await asyncio.sleep(0.5)
            self.assertEqual([], await checkpoints(), "the object has not changed")
            for step in range(1, 4):
                workflow.data["step"] = step
                before = len(await checkpoints())
                async with asyncio.timeout(30):
                    while len(await checkpoints()) == before:
                        await asyncio.sleep(0.05)
            # A write in between knows where the checkpoints left the workflow.
            await workflow.transition("CHECKED")
            workflow.data["step"] = 4
        while_working = await checkpoints()
        self.assertGreaterEqual(len(while_working), 3)
        await asyncio.sleep(0.5)
        self.assertEqual(while_working, await checkpoints())
        # The last step is kept only where its turn came before the block ended.
        self.assertIn((await engine.load_checkpoint("p-1")).data, ({"step": 3}, {"step": 4}))

    async def test_waiting_for_a_human(self) -> None:
        server = await self.server()
        client = await self.client(server.target)
        worker = await self.engine(client, owner="worker-1")
        approver = await self.engine(await self.client(server.target), owner="desk")
        await worker.start("permit", "p-1", "RECEIVED", {"fee": 12}, lease=False, actor="applicant")

        async def pending() -> list[str]:
            async with worker.resume_all_pending() as found:
                return [workflow.workflow_id async for workflow in found]

        async for workflow in worker.resume_all_pending():
            async with workflow:
                workflow.data["checked"] = True
                await workflow.wait("AWAITING_APPROVAL", actor="worker-1")
                self.assertIsNone(workflow.lease)
        self.assertEqual([], await pending())
        waiting = await approver.read("p-1")
        self.assertEqual((WorkflowStatus.WAITING, {"fee": 12, "checked": True}), (waiting.status, waiting.data))
        waiting.data["approved"] = True
        await waiting.transition("APPROVED", actor="mayor", reason="in order")
        self.assertEqual(["p-1"], await pending())
        resumed = await worker.resume("p-1")
        self.assertEqual(("APPROVED", True), (resumed.state, resumed.data["approved"]))
        await resumed.transition("ISSUED", status=WorkflowStatus.COMPLETED, actor="worker-1")

        told = [(r.actor, r.to_state, r.lease_epoch > 0) async for r in worker.records("p-1")]
        self.assertEqual(
            [
                ("applicant", "RECEIVED", False),
                ("worker-1", "AWAITING_APPROVAL", True),
                ("mayor", "APPROVED", False),
                ("worker-1", "ISSUED", True),
            ],
            told,
        )

    async def test_server_restart(self) -> None:
        server = await self.server()
        trust = await self.trust(server)
        client = await self.client(server.target, trust=trust)
        engine = await self.engine(client)
        stop = asyncio.Event()
        acknowledged: dict[str, list[bytes]] = {}

        async def load(name: str) -> None:
            workflow = await engine.start("permit", name, "S0", {"step": 0})
            hashes = acknowledged[name] = [workflow.head_hash]
            while not stop.is_set():
                workflow.data["step"] = len(hashes)
                hashes.append((await workflow.transition(f"S{len(hashes)}")).record.hash)

        tasks = [asyncio.create_task(load(f"p-{i}")) for i in range(8)]
        for _ in range(2):
            await asyncio.sleep(0.5)
            before = sum(map(len, acknowledged.values()))
            await server.kill()
            await server.start()
            async with asyncio.timeout(30):
                while sum(map(len, acknowledged.values())) < before + 16:
                    await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*tasks)

        for name, hashes in acknowledged.items():
            self.assertEqual(hashes, [record.hash async for record in engine.records(name)])
            self.assertTrue((await engine.verify_integrity(name)).intact)

    async def test_snapshot_sizes(self) -> None:
        server = await self.server()
        engine = await self.engine(await self.client(server.target), codec=RawCodec())
        workflow = await engine.start("permit", "p-1", "RECEIVED", b"")
        largest = os.urandom(SNAPSHOT_BYTES_MAX)
        workflow.data = largest
        await workflow.transition("LARGE")
        workflow.data = largest + b"."
        with self.assertRaises(SnapshotTooLarge) as refused:
            await workflow.transition("TOO_LARGE")

        self.assertEqual(str(SNAPSHOT_BYTES_MAX), refused.exception.metadata["snapshot_bytes_max"])
        self.assertEqual(["RECEIVED", "LARGE"], [record.to_state async for record in engine.records("p-1")])
        self.assertEqual(b"", (await engine.load_checkpoint("p-1", sequence=1)).data)
        self.assertEqual(largest, (await engine.load_checkpoint("p-1")).data)
        self.assertEqual(largest, (await engine.read("p-1")).data)

    async def test_non_ascii(self) -> None:
        server = await self.server()
        trust = await self.trust(server)
        client = await self.client(server.target, trust=trust)
        words = ["Genehmigung äöüß", "許可証", "разрешение", "رخصة", "ब", "🛡️ 😀", "\uffee\U0001f600", "e\u0301 é"]
        engine = await self.engine(client, "t🛡️許", namespace="ns-許", owner="ärbeiter")
        for number, word in enumerate(words):
            workflow_id = f"{number}-{word}"
            data = {word: word, "list": [word]}
            metadata = {word: word, "\uffee": "1", "\U0001f600": "2"}
            workflow = await engine.start("t🛡️許", workflow_id, f"neu {word}", data, actor=word, metadata=metadata)
            await workflow.transition(f"zu {word}", actor=word, reason=word, metadata=metadata, request_id=f"r {word}")
            seen = await engine.read(workflow_id)
            self.assertEqual((f"zu {word}", data, metadata), (seen.state, seen.data, seen.metadata))
            last = [record async for record in engine.records(workflow_id)][-1]
            self.assertEqual(
                (word, word, metadata, f"r {word}"), (last.actor, last.reason, dict(last.metadata), last.request_id)
            )
            self.assertTrue((await engine.verify_integrity(workflow_id)).intact)

    async def test_empty_messages_gzip(self) -> None:
        server = await self.server()
        client = await self.client(server.target, compression=grpc.Compression.Gzip)
        engine = await self.engine(client)
        info = await client.call("GetServerInfo", GetServerInfoRequest())
        self.assertEqual(SNAPSHOT_BYTES_MAX, info.limits.snapshot_bytes_max)
        workflow = await engine.start("permit", "p-1", "RECEIVED", {"text": "long " * 10_000})
        lease = LeaseReference(workflow_id="p-1", epoch=workflow.lease_epoch)
        answer = await client.call("ReleaseLeases", ReleaseLeasesRequest(owner=engine.owner, leases=[lease]))
        self.assertEqual(0, answer.ByteSize())
        records = await client.call("ListRecords", ListRecordsRequest(namespace="empty"))
        self.assertEqual([], list(records.records))
        self.assertEqual({"text": "long " * 10_000}, (await engine.read("p-1")).data)

    async def test_deadline(self) -> None:
        server = await self.server()
        proxy = await self.proxy(server)
        engine = await self.engine(await self.client(proxy.target))
        workflow = await engine.start("permit", "p-1", "RECEIVED", {})
        await proxy.tell("hold TransitionWorkflow")
        began = time.monotonic()
        with self.assertRaises(DeadlineExceeded) as late:
            await workflow.transition("CHECKED", timeout=1.0)
        self.assertGreaterEqual(time.monotonic() - began, 0.9)
        self.assertLess(time.monotonic() - began, 6.0)
        await proxy.tell("forget")
        # Whoever repeats it with its request_id learns what became of it.
        again = await workflow.transition("CHECKED", request_id=late.exception.request_id)
        self.assertEqual((True, 2), (again.replayed, workflow.sequence))

        # A server that is not there is no reason to be late either.
        lost = await self.engine(await self.client(f"127.0.0.1:{free_port()}"))
        began = time.monotonic()
        with self.assertRaises(DeadlineExceeded):
            await lost.read("p-1", timeout=1.0)
        self.assertLess(time.monotonic() - began, 6.0)

    async def test_cancellation(self) -> None:
        server = await self.server()
        proxy = await self.proxy(server)
        engine = await self.engine(await self.client(proxy.target))
        workflow = await engine.start("permit", "p-1", "RECEIVED", {})
        await proxy.tell("hold TransitionWorkflow")
        task = asyncio.create_task(workflow.transition("CHECKED"))
        await asyncio.sleep(0.3)
        self.assertFalse(task.done())
        began = time.monotonic()
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertLess(time.monotonic() - began, 10.0)
        await proxy.tell("forget")
        again = await engine.read("p-1")
        self.assertIn(again.state, ("RECEIVED", "CHECKED"))
        await engine.start("permit", "p-2", "RECEIVED", {})

    async def test_time_travel(self) -> None:
        server = await self.server()
        engine = await self.engine(await self.client(server.target))
        workflow = await engine.start("permit", "p-1", "S1", {"step": 1})
        times = []
        for step in range(2, 6):
            await asyncio.sleep(0.02)
            workflow.data = {"step": step}
            written = await workflow.transition(f"S{step}", checkpoint=step != 4)
            times.append(written.record.recorded_at.ToDatetime(tzinfo=datetime.timezone.utc))
        for sequence, step in ((1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (99, 5)):
            self.assertEqual({"step": step}, (await engine.load_checkpoint("p-1", sequence=sequence)).data)
        loaded = await engine.load_checkpoint("p-1", as_of=times[1])
        self.assertEqual(({"step": 3}, "S3", times[1]), (loaded.data, loaded.record.to_state, loaded.recorded_at))
        self.assertEqual({"step": 3}, (await engine.load_checkpoint("p-1", as_of=times[2])).data)
        with self.assertRaises(CheckpointNotFound):
            await engine.load_checkpoint("p-1", as_of=times[0] - datetime.timedelta(days=1))

    async def test_a_history_longer_than_an_answer(self) -> None:
        """Records that do not fit into one answer are read on, and verified back to the checkpoint."""
        server = await self.server()
        engine = await self.engine(await self.client(server.target))
        workflow = await engine.start("permit", "p-1", "S0", {"step": 0})
        for step in range(1, 61):
            await workflow.transition(f"S{step}", metadata={"text": "x" * 16_000}, checkpoint=False)
        seen = await engine.read("p-1")
        self.assertTrue(seen.more_records)
        self.assertLess(len(seen.records_since), 60)
        self.assertEqual(("S60", 61, workflow.head_hash), (seen.state, seen.sequence, seen.head_hash))
        self.assertEqual(61, len([record async for record in engine.records("p-1")]))
        await workflow.release()
        pending = engine.resume_all_pending()
        self.assertEqual([("S60", {"step": 0})], [(w.state, w.data) async for w in pending])
        self.assertEqual([], pending.failures)

    async def test_several_addresses(self) -> None:
        server = await self.server()
        dead = f"127.0.0.1:{free_port()}"
        for targets in ((dead, server.target), (server.target, dead), (dead, f"localhost:{server.port}")):
            client = await self.client(*targets)
            engine = await self.engine(client)
            workflow = await engine.start("permit", "/".join(targets), "S0", {})
            for step in range(1, 11):
                await workflow.transition(f"S{step}", timeout=10)
        # And where the living one dies, the other takes over.
        second = await self.server()
        client = await self.client(server.target, second.target)
        await client.call("GetServerInfo", GetServerInfoRequest())
        await server.kill()
        for _ in range(5):
            await client.call("GetServerInfo", GetServerInfoRequest(), timeout=10)


if __name__ == "__main__":
    unittest.main()
