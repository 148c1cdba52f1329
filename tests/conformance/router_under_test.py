"""This project's server with a chooser of a few lines, in a thread."""

import asyncio
import contextlib
import hashlib
import json
import ssl
import threading
from collections.abc import Iterator

from tidefleet.router import Choice, Refusal, RequestHead, Server, serve
from tidefleet.router.ext_proc import Options
from tidefleet.router.subset import allows


class SmallChooser:
    """Chooses by a hash of the prompt's middle; refuses what is no request."""

    def __init__(self, endpoints: tuple[str, ...]) -> None:
        self._endpoints = endpoints
        self.open = 0

    def choose(self, head: RequestHead, body: bytes | None) -> Choice | Refusal:
        if body is not None:
            try:
                document = json.loads(body)
            except (ValueError, RecursionError):
                return Refusal(400, "the body is no JSON")
            if not isinstance(document, dict) or not isinstance(document.get("model"), str):
                return Refusal(400, "the body is no object with a model")
        allowed = [one for one in self._endpoints if allows(head.subset, one)]
        if not allowed:
            return Refusal(503, "no endpoint")
        at = hashlib.sha256((body or b"")[2_000:27_000]).digest()[0] % len(allowed)
        self.open += 1
        return Choice((*allowed[at:], *allowed[:at]))

    def served(self, ticket: object, address: str | None, status: int | None, now: float) -> None:
        pass

    def body(self, ticket: object, chunk: bytes, end: bool, now: float) -> None:
        pass

    def closed(self, ticket: object, now: float) -> None:
        self.open -= 1


@contextlib.contextmanager
def router(
    chooser: SmallChooser, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, headers_only: bool = False
) -> Iterator[Server]:
    """A running server."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    options = Options(headers_only=headers_only)
    starting = serve(chooser, host, 0, tls=tls, options=options)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
