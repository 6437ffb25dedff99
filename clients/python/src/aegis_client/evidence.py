"""Histories that prove themselves: verified whole, written to a file, and taken from one."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aegis.v1.recovery_service_pb2 import (
    ExportManifest,
    ExportWorkflowsRequest,
    ImportOptions,
    ImportOutcome,
    ImportWorkflowsRequest,
)

from .chain import Finding
from .client import AegisClient
from .errors import IntegrityError
from .export_check import ExportReport, verify_export
from .record_format import FormatError
from .signed_note import VerifierKey
from .trust import Kept

_PIECE_BYTES = 256 * 1024
_MEMORY_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True)
class ImportResult:
    """What became of one workflow of an import."""

    namespace: str
    workflow_id: str
    outcome: str
    """IMPORTED, EXTENDED, UNCHANGED or REFUSED."""
    reason: str
    """Why it was refused, one of the contract's ErrorReason; empty otherwise."""
    message: str


async def verify_workflow(client: AegisClient, namespace: str, workflow_id: str, timeout: float) -> ExportReport:
    """See :meth:`DurableWorkflowEngine.verify_integrity`."""
    trust = client.trust
    if trust is None:
        raise ValueError("Without a verifier key nothing is proven: give the AegisClient a LogTrust.")
    # With what is quarantined too: it is here that it is judged.
    request = ExportWorkflowsRequest(namespace=namespace, workflow_id=workflow_id, allow_quarantined=True)
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES_MAX) as file:
        before = await _download(client, request, file, timeout)  # type: ignore[arg-type]
        try:
            report = await asyncio.to_thread(verify_export, file, trust.verifier_keys)  # type: ignore[arg-type]
        except FormatError as e:
            damage = Finding("FIELD_MODIFIED", namespace, workflow_id, 0, f"What came is {e}.")
            return ExportReport(ExportManifest(), None, findings=[damage])
    if [(w.namespace, w.workflow_id) for w in report.workflows] != [(namespace, workflow_id)]:
        report.findings.append(
            Finding("WORKFLOW_DELETED", namespace, workflow_id, 0, "What came is not this workflow.")
        )
    if report.head:
        await trust.take_head(report.manifest.log_head, client.source(), before=before)
    return report


async def write_export(
    client: AegisClient, request: ExportWorkflowsRequest, path: Path, timeout: float
) -> ExportReport | None:
    """See :meth:`DurableWorkflowEngine.export`."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "x+b") as file:
            before = await _download(client, request, file, timeout)
            report = None
            if trust := client.trust:
                report = await asyncio.to_thread(_verified, file, trust.verifier_keys)
                if report.findings and not request.allow_quarantined:
                    raise IntegrityError("RECORD_ALTERED", f"The export does not verify: {report.findings[0]}")
                await trust.take_head(report.manifest.log_head, client.source(), before=before)
            await asyncio.to_thread(os.fsync, file.fileno())
        os.replace(temporary, path)
        return report
    finally:
        temporary.unlink(missing_ok=True)


async def send_export(client: AegisClient, path: Path, options: ImportOptions, timeout: float) -> list[ImportResult]:
    """See :meth:`DurableWorkflowEngine.import_`."""

    async def requests() -> AsyncIterator[ImportWorkflowsRequest]:
        yield ImportWorkflowsRequest(options=options)
        with open(path, "rb") as file:
            while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                yield ImportWorkflowsRequest(chunk=piece)

    async def send(remaining: float) -> list[ImportResult]:
        return [
            ImportResult(
                message.namespace,
                message.workflow_id,
                ImportOutcome.Name(message.outcome).removeprefix("IMPORT_OUTCOME_"),
                message.reason,
                message.message,
            )
            async for message in client.stream("ImportWorkflows", requests(), timeout=remaining)
        ]

    return await client.repeated(send, timeout)


async def _download(
    client: AegisClient, request: ExportWorkflowsRequest, file: BinaryIO, timeout: float
) -> Kept | None:
    """Writes an export into a file, and goes back to its beginning. Gives the head that was kept before."""
    trust = client.trust
    if trust:
        await trust.begin(client.source())
    before = trust.kept() if trust else None

    async def receive(remaining: float) -> None:
        file.seek(0)
        file.truncate()
        async for message in client.stream("ExportWorkflows", request, timeout=remaining):
            file.write(message.chunk)
        file.flush()
        file.seek(0)

    await client.repeated(receive, timeout)
    return before


def _verified(file: BinaryIO, keys: Sequence[VerifierKey]) -> ExportReport:
    try:
        return verify_export(file, keys)
    except FormatError as e:
        raise IntegrityError("RECORD_ALTERED", f"The export does not verify: it is {e}.") from e
