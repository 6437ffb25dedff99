"""A collector of what a server measures of itself: it takes metrics over OTLP/HTTP and keeps the newest value of
each gauge.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Numbers of fields in opentelemetry/proto: requests of resources of scopes of metrics of points.
_RESOURCE, _SCOPE, _METRIC = 1, 2, 2
_NAME, _GAUGE, _POINT = 1, 5, 1
_AS_DOUBLE, _AS_INT = 4, 6


class Collector:
    """Listens until the drill ends."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._values.update(gauges(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}/",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        """What a server needs to know of it."""

    def value(self, name: str) -> float | None:
        """The newest value of a gauge; None before the first."""
        return self._values.get(name)


def gauges(request: bytes) -> dict[str, float]:
    """The values of all gauges of one ExportMetricsServiceRequest."""
    found: dict[str, float] = {}
    for resource in _parts(request, _RESOURCE):
        for scope in _parts(resource, _SCOPE):
            for metric in _parts(scope, _METRIC):
                for gauge in _parts(metric, _GAUGE):
                    for point in _parts(gauge, _POINT):
                        values = [*_numbers(point, _AS_INT, "<q"), *_numbers(point, _AS_DOUBLE, "<d")]
                        found.update({next(_parts(metric, _NAME)).decode(): value for value in values})
    return found


def _parts(message: bytes, number: int) -> Iterator[bytes]:
    return (value for found, value in _fields(message) if found == number)


def _numbers(message: bytes, number: int, form: str) -> Iterator[float]:
    return (struct.unpack(form, value)[0] for found, value in _fields(message) if found == number and len(value) == 8)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message as they are encoded, whatever they mean."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            start = at
            _, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                length, at = _varint(message, at)
            start, at = at, at + length
        yield key >> 3, message[start:at]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
