"""Writes the export that the clients of all languages verify: clients/exports/python.aegis, and its key beside it."""

import asyncio
import sys
from pathlib import Path

from aegis.v1.workflow_pb2 import ForkPoint
from aegis_client import AegisClient, DurableWorkflowEngine, JsonCodec, LogTrust, WorkflowStatus
from scenario import RawCodec
from servers import running_server


async def main(path: Path) -> None:
    async with running_server() as server:
        key = await server.verifier_key()
        async with AegisClient(server.target, trust=LogTrust([key])) as client, DurableWorkflowEngine(client) as engine:
            engine.register("genehmigung", JsonCodec())
            engine.register("raw", RawCodec())
            # Beyond the basic plane too, where orders of strings differ between languages.
            metadata = {"ort": "Groß-Gerau 🏛", "\uffee": "1", "\U0001f600": "2", "e\u0301": "é"}
            case = await engine.start(
                "genehmigung", "许可-1", "eingegangen", {"antrag": "Straße 1 🛣"}, actor="Ärztin 1", metadata=metadata
            )
            await case.transition("geprüft", actor="бюро", reason="vollständig ✓", metadata={"رقم": "٤٢"})
            await case.checkpoint(actor="бюро")
            await case.wait("wartet auf Freigabe")

            sizes = await engine.start("raw", "sizes", "EMPTY", b"", actor="tester")
            # More than one part of an export, and nothing that a compressor of the repository would mind.
            sizes.data = bytes(range(256)) * (5 * 1024)
            await sizes.transition("LARGE")
            await sizes.transition("NONE", checkpoint=False)

            origin = await engine.load_checkpoint("许可-1", sequence=2)
            fork = await engine.start(
                "genehmigung",
                "fork-许可-1",
                "",
                forked_from=ForkPoint(workflow_id="许可-1", sequence=2, hash=origin.record.hash),
                metadata={"why": "appeal"},
            )
            fork.data["einspruch"] = True
            await fork.transition("abgelehnt", status=WorkflowStatus.COMPLETED, reason="Einspruch 却下")
            await engine.export(path)
        path.with_suffix(".key").write_text(key + "\n", encoding="utf-8")


asyncio.run(main(Path(sys.argv[1])))
