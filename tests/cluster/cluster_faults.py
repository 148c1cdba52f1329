"""A proxy before a real API server that fails, stalls, cuts and forgets on demand."""

from __future__ import annotations

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import urllib3
from kubernetes.client import ApiClient, Configuration


class FaultyApi:
    """An HTTP endpoint on loopback that forwards to the API server of `upstream`, with faults.

    Attributes:
        status: when set, every request is answered with it instead of being forwarded.
        retry_after: sent along with `status`.
        stalled: watches stay open and nothing arrives on them any more.
        forgetful: watches are asked for from resourceVersion 1, which a real API server answers with 410.
        requests: "<method> <path>" of everything that came, queries included.
    """

    def __init__(self, upstream: ApiClient) -> None:
        self.status = 0
        self.retry_after = ""
        self.stalled = False
        self.forgetful = False
        self.requests: list[str] = []
        self._upstream = upstream
        self._open: set[urllib3.BaseHTTPResponse] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{self._server.server_port}"
        configuration.connection_pool_maxsize = 32
        self.api = ApiClient(configuration)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self.api.close()
        self._server.shutdown()
        self._server.server_close()

    def cut(self) -> None:
        """Break off all open watches."""
        for response in list(self._open):
            with contextlib.suppress(Exception):
                response.shutdown()

    @property
    def open_watches(self) -> int:
        """How many watches are open."""
        return len(self._open)

    def count(self, pattern: str) -> int:
        """Return how many requests matched."""
        return sum(bool(re.search(pattern, one)) for one in list(self.requests))


def _handler(proxy: FaultyApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.requests.append(f"{self.command} {self.path}")
            if proxy.status:
                self.send_response(proxy.status)
                self.send_header("Content-Length", "2")
                if proxy.retry_after:
                    self.send_header("Retry-After", proxy.retry_after)
                self.end_headers()
                self.wfile.write(b"{}")
                return
            watch = "watch=true" in self.path
            path = re.sub(r"resourceVersion=\d+", "resourceVersion=1", self.path) if proxy.forgetful else self.path
            upstream = proxy._upstream
            response = upstream.rest_client.pool_manager.request(
                self.command,
                upstream.configuration.host + path,
                body=body or None,
                headers={k: v for k, v in self.headers.items() if k in ("Accept", "Content-Type")},
                preload_content=False,
                retries=False,
                timeout=urllib3.Timeout(connect=5.0, read=600.0),
            )
            self.send_response(response.status)
            self.send_header("Content-Type", "application/json")
            if not watch:
                data = response.read()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                response.release_conn()
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            proxy._open.add(response)
            try:
                for chunk in response.stream(65536):
                    if not proxy.stalled:
                        self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                        self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
                self.close_connection = True
            finally:
                proxy._open.discard(response)
                response.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    return Handler
