"""A worker that takes a workflow, moves it, tells so, and works on it until it is killed."""

import asyncio
import sys

from aegis_client import AegisClient, DurableWorkflowEngine


async def main(target: str) -> None:
    async with AegisClient(target) as client, DurableWorkflowEngine(client, lease_duration=2.0) as engine:
        engine.register("permit")
        async for workflow in engine.resume_all_pending():
            async with workflow:
                workflow.data["step"] += 1
                await workflow.transition("CHECKED")
                print(workflow.workflow_id, workflow.lease_epoch, flush=True)
                await asyncio.sleep(3600)


asyncio.run(main(sys.argv[1]))
