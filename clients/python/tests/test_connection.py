"""What passes through to gRPC: TLS, call credentials and interceptors; and what is asked of a server's health."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from aegis.v1.system_service_pb2 import GetServerInfoRequest
from aegis_client import AegisClient, AegisError, DeadlineExceeded, Unavailable
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scenario import Recorder, ScenarioTest
from servers import Server, temporary_directory


class Metadata(grpc.AuthMetadataPlugin):  # type: ignore[misc]
    """Call credentials that count how often they are asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, context: Any, callback: Callable[[Any, Any], None]) -> None:
        self.calls += 1
        callback((("authorization", "Bearer token"),), None)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.utcnow()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = (directory / "certificate.pem", directory / "key.pem")
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


class TestConnection(ScenarioTest):
    async def test_tls_call_credentials_and_interceptors(self) -> None:
        directory = self.enterContext(temporary_directory())
        pem, key = certificate(directory)
        environment = {
            "ASPNETCORE_Kestrel__Certificates__Default__Path": str(pem),
            "ASPNETCORE_Kestrel__Certificates__Default__KeyPath": str(key),
        }
        server = Server(directory, environment, scheme="https")
        self.addAsyncCleanup(server.kill)
        await server.start()
        plugin, recorder = Metadata(), Recorder()
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(pem.read_bytes()), grpc.metadata_call_credentials(plugin)
        )
        client = await self.client(server.target, credentials=credentials, interceptors=[recorder], timeout=60)
        engine = await self.engine(client)
        workflow = await engine.start("permit", "p-1", "RECEIVED", {})
        await workflow.transition("CHECKED")
        self.assertEqual(["CHECKED"], [request.to_state for request in recorder.requests("TransitionWorkflow")])
        self.assertGreaterEqual(plugin.calls, 2)

        # A certificate that nobody vouches for is not spoken to, nor a server that wants TLS without it.
        for refused in (grpc.ssl_channel_credentials(), None):
            stranger = await self.engine(await self.client(server.target, credentials=refused))
            with self.assertRaises(DeadlineExceeded):
                await stranger.read("p-1", timeout=1.0)

    async def test_a_server_that_is_not_serving_is_passed_over(self) -> None:
        """A server that drains says so by its health: calls go to the other while it still would take them."""
        draining = await self.server(AEGIS_DRAIN_SECONDS="20")
        other = await self.server()
        only = await self.engine(await self.client(draining.target))
        both = await self.engine(await self.client(draining.target, other.target))
        await only.start("permit", "p-1", "S0", {}, lease=False)
        await both.client.call("GetServerInfo", GetServerInfoRequest())
        draining.terminate()
        # One that asks for no health is still served.
        careless = await self.engine(
            await self.client(
                draining.target, options=[("grpc.service_config", "{}"), ("grpc.use_local_subchannel_pool", 1)]
            )
        )
        async with asyncio.timeout(15):
            # Each connection is told by a stream of its own.
            while any(engine.client._open()[0].is_ready for engine in (only, both)):
                await asyncio.sleep(0.02)
        with self.assertRaises(DeadlineExceeded) as passed_over:
            await only.read("p-1", timeout=0.5)
        self.assertIsInstance(passed_over.exception.__cause__, Unavailable)
        self.assertEqual("S0", (await careless.read("p-1")).state)
        for i in range(6):
            await both.start("permit", f"q-{i}", "S0", {}, lease=False)
        bystander = await self.engine(await self.client(other.target))
        for i in range(6):
            self.assertEqual("S0", (await bystander.read(f"q-{i}")).state)

    async def test_what_cannot_be_an_address_is_told(self) -> None:
        with self.assertRaisesRegex(ValueError, "host:port"):
            AegisClient("http://127.0.0.1:50051")
        with self.assertRaisesRegex(ValueError, "at least one address"):
            AegisClient()
        client = AegisClient("127.0.0.1:1")
        await client.close()
        with self.assertRaisesRegex(AegisError, "closed"):
            await client.source().log_head()


if __name__ == "__main__":
    unittest.main()
