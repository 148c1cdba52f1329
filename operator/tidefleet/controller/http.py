"""The operator's HTTP endpoints: /metrics, /healthz (the loops turn) and /readyz (it serves)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tidefleet.telemetry import Telemetry

Probe = Callable[[], str]
"""Returns what is wrong; an empty string when nothing is."""


class HttpEndpoints:
    """Serves from a thread until closed.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, address: str, port: int, *, telemetry: Telemetry, healthy: Probe, ready: Probe) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0
            server_version = "tidefleet"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    kind, page = telemetry.render(self.headers.get("Accept", ""))
                    self._answer(200, page, kind)
                elif self.path in ("/healthz", "/readyz"):
                    wrong = (healthy if self.path == "/healthz" else ready)()
                    self._answer(503 if wrong else 200, (wrong or "ok").encode() + b"\n", "text/plain")
                else:
                    self._answer(404, b"not found; try /metrics, /healthz or /readyz\n", "text/plain")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server((address, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)
