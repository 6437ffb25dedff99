"""A permit, from the application to the letter: a state machine whose worker may be killed at any moment.

    python3 permit.py 127.0.0.1:50051

A worker examines the application, and is killed in the middle. Another goes on where it stood. Then the case waits for
a decision, for days if need be, and nobody runs meanwhile. At last the whole history is proven.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import uuid

from aegis.v1.system_service_pb2 import GetServerInfoRequest
from aegis.v1.workflow_pb2 import RecordKind
from aegis_client import (
    AegisClient,
    DurableWorkflowEngine,
    JsonCodec,
    LeaseRequired,
    LogTrust,
    Workflow,
    WorkflowStatus,
)

PERMIT = "permit"
EXAMINATIONS = ["zoning plan", "structure", "fire safety", "monuments", "neighbours"]


@dataclasses.dataclass
class Permit:
    """All that a worker needs to go on where another stopped."""

    applicant: str
    findings: list[str] = dataclasses.field(default_factory=list)
    decision: str = ""


async def step(permit: Workflow) -> None:
    """Does what the state asks for. A crash at any line loses at most the examination at hand."""
    case: Permit = permit.data
    if permit.state == "CONFIRMED":
        await permit.transition("IN_EXAMINATION", reason="the application is complete")
    elif permit.state == "IN_EXAMINATION":
        for examination in EXAMINATIONS[len(case.findings) :]:
            await asyncio.sleep(0.3)
            case.findings.append(f"{examination}: no objection")
            await permit.checkpoint(reason=f"examined: {examination}")
            print(f"  worker    examined: {examination}", flush=True)
        await permit.wait("AWAITING_DECISION", reason="examined")
    elif permit.state == "DECIDED":
        await permit.transition(
            "LETTER_SENT", status=WorkflowStatus.COMPLETED, reason=f"letter sent to {case.applicant}"
        )
    else:
        raise RuntimeError(f"{permit.workflow_id} is in the state {permit.state}, in which there is nothing to do.")


async def work(address: str, namespace: str) -> None:
    """One of any number of workers: takes what is pending and moves it."""
    async with AegisClient(address) as client:
        async with DurableWorkflowEngine(client, namespace=namespace, lease_duration=2.0) as engine:
            engine.register(PERMIT, JsonCodec(Permit))
            async for permit in engine.resume_all_pending(poll_interval=0.1):
                print(f"  worker    takes {permit.state}, {len(permit.data.findings)} findings so far", flush=True)
                # Ends with LeaseLost, and the work with it, should another have taken over.
                async with permit:
                    while permit.status == WorkflowStatus.RUNNING:
                        await step(permit)


async def tell(address: str) -> None:
    """The desk's side: takes the application in, and lets workers come and go."""
    namespace = f"permits-{uuid.uuid4()}"
    async with AegisClient(address) as asking:
        # In earnest the key comes by another way than the server's own word: aegis key show --file …
        key = (await asking.call("GetServerInfo", GetServerInfoRequest())).verifier_keys[0]
    async with AegisClient(address, trust=LogTrust([key])) as client:
        async with DurableWorkflowEngine(client, namespace=namespace, owner="desk") as desk:
            desk.register(PERMIT, JsonCodec(Permit))
            await desk.start(PERMIT, "permit-1", "CONFIRMED", Permit("J. Jansen"), lease=False, actor="desk")

            async def until(condition: str) -> Workflow:
                while True:
                    permit = await desk.read("permit-1")
                    if condition in (permit.state, f"{len(permit.data.findings)} findings"):
                        return permit
                    await asyncio.sleep(0.05)

            first = await start_worker(address, namespace)
            await until("2 findings")
            await kill(first)
            print("  story     the worker was killed in the middle of its work")

            second = await start_worker(address, namespace)
            permit = await until("AWAITING_DECISION")
            await kill(second)
            print("  story     no worker runs; days go by; then somebody decides")

            permit.data.decision = "granted"
            await decide(permit)

            third = await start_worker(address, namespace)
            await until("LETTER_SENT")
            await kill(third)

            async for record in desk.records("permit-1"):
                kind = RecordKind.Name(record.kind).removeprefix("RECORD_KIND_")
                print(f"  {record.sequence:2}  {kind:10}  {record.to_state:17}  {record.actor:8}  {record.reason}")
            report = await desk.verify_integrity("permit-1")
            if not report.intact:
                raise RuntimeError(f"The history is not proven: {report.findings}")
            print(f"  proven: {report.records} records and {report.snapshots} snapshots under the head {report.head}")


async def decide(permit: Workflow) -> None:
    """A worker that was killed before it gave its lease back keeps it while it lasts: seconds here, days before a decision."""
    while True:
        try:
            await permit.transition("DECIDED", actor="alderman", reason="no objections")
            return
        except LeaseRequired:
            await asyncio.sleep(0.2)


async def start_worker(address: str, namespace: str) -> asyncio.subprocess.Process:
    """A process of its own, as it would be elsewhere."""
    return await asyncio.create_subprocess_exec(sys.executable, __file__, "--worker", address, namespace)


async def kill(process: asyncio.subprocess.Process) -> None:
    """No handler runs, nothing is released."""
    process.kill()
    await process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(work(*sys.argv[2:4]))
    else:
        asyncio.run(tell(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))
