"""Takes the metrics that a server exports, to see which of them it has."""

from __future__ import annotations

import http.server
import threading


class Collector:
    """An OTLP endpoint on a free port, in a thread of this process."""

    def __init__(self) -> None:
        self._received = b""
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._received = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a server export to it."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}/",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
        }

    def has(self, metric: str) -> bool:
        """Whether the newest export has a metric."""
        return metric.encode() in self._received

    def close(self) -> None:
        """Takes no more."""
        self._server.shutdown()
        self._server.server_close()
