"""An agent whose steps survive it: what it did and why, and who allowed it, is on record and not done again.

    python3 agent.py 127.0.0.1:50051

The agent works through its plan, one tool call after the other, and keeps what it learned after each. It is cut off in
the middle, goes on in another engine, and asks a human before it does what cannot be undone.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aegis.v1.system_service_pb2 import GetServerInfoRequest
from aegis_client import AegisClient, DurableWorkflowEngine, LogTrust, Workflow, WorkflowStatus

AGENT = "agent"
STOCK = {"bolts M8": 40, "bolts M10": 900, "washers": 15}


async def look_up_stock(memory: dict[str, Any]) -> str:
    """What there is."""
    memory["stock"] = dict(STOCK)
    return f"{len(STOCK)} articles in stock"


async def find_shortages(memory: dict[str, Any]) -> str:
    """What there is too little of."""
    memory["short"] = sorted(article for article, count in memory["stock"].items() if count < 100)
    return f"short of {', '.join(memory['short'])}"


async def draft_order(memory: dict[str, Any]) -> str:
    """What would be ordered."""
    memory["order"] = {article: 500 for article in memory["short"]}
    return f"an order of {len(memory['order'])} articles"


async def send_order(memory: dict[str, Any]) -> str:
    """Cannot be undone. A call to the outside carries an idempotency key of its own, since a crash may repeat it."""
    return f"sent {memory['order']} under the key {memory['order_key']}"


PLAN: list[tuple[str, Callable[[dict[str, Any]], Awaitable[str]]]] = [
    ("look_up_stock", look_up_stock),
    ("find_shortages", find_shortages),
    ("draft_order", draft_order),
    ("send_order", send_order),
]
NEEDS_APPROVAL = {"send_order"}


async def act(run: Workflow, calls: list[str], crash_after: int) -> None:
    """Goes through the plan from where its memory says it stands."""
    memory: dict[str, Any] = run.data
    while memory["done"] < len(PLAN):
        name, tool = PLAN[memory["done"]]
        if name in NEEDS_APPROVAL and not memory.get("approved"):
            await run.wait("AWAITING_APPROVAL", actor="agent", reason=f"asks for leave to {name}")
            return
        calls.append(name)
        told = await tool(memory)
        memory["done"] += 1
        # The step and what was learned from it are one record: there is no moment between the two.
        await run.transition("ACTING", actor="agent", reason=told, metadata={"tool": name})
        print(f"  agent     {name}: {told}")
        if len(calls) == crash_after:
            raise ConnectionAbortedError("the agent's machine is gone")
    await run.transition("DONE", status=WorkflowStatus.COMPLETED, actor="agent")


async def main(address: str) -> None:
    """Runs the agent until its plan is done, whatever becomes of it on the way."""
    namespace = f"agents-{uuid.uuid4()}"
    calls: list[str] = []
    async with AegisClient(address) as asking:
        # In earnest the key comes by another way than the server's own word: aegis key show --file …
        key = (await asking.call("GetServerInfo", GetServerInfoRequest())).verifier_keys[0]
    async with AegisClient(address, trust=LogTrust([key])) as client:
        for life, crash_after in enumerate((2, 0, 0)):
            async with DurableWorkflowEngine(client, namespace=namespace, owner=f"agent-{life}") as engine:
                engine.register(AGENT)
                if life == 0:
                    memory = {"done": 0, "order_key": str(uuid.uuid4())}
                    await engine.start(AGENT, "run-1", "PLANNED", memory, lease=False, actor="purchasing")
                try:
                    async for run in engine.resume_all_pending():
                        print(f"  life {life}    goes on after {run.data['done']} of {len(PLAN)} steps")
                        async with run:
                            await act(run, calls, crash_after)
                except ConnectionAbortedError as e:
                    print(f"  life {life}    {e}")
                run = await engine.read("run-1")
                if run.state == "AWAITING_APPROVAL":
                    run.data["approved"] = "purchasing"
                    await run.transition("APPROVED", actor="purchasing", reason="the quantities are right")
                    print("  human     allows it")
        async with DurableWorkflowEngine(client, namespace=namespace) as auditor:
            auditor.register(AGENT)
            async for record in auditor.records("run-1"):
                print(f"  {record.sequence:2}  {record.to_state:17}  {record.actor:10}  {record.reason}")
            report = await auditor.verify_integrity("run-1")
    if not report.intact or calls != [name for name, _ in PLAN]:
        raise RuntimeError(f"Steps {calls}, findings {report.findings}")
    print(f"  proven: {report.records} records under the head {report.head}; every step was done once")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))
