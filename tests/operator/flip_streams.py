"""Clients that stream from the engines of a pool, as behind a router that knows which pods requests may go to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from operator_builders import MODEL, Place
from operator_objects import eventually

from tidefleet.cluster.kinds import POD

PORT = 8000
PATIENCE_SECONDS = 60.0
"""Real seconds without a byte after which a client gives up."""


@dataclass(slots=True)
class Stream:
    """One request.

    Attributes:
        pod: name of the pod that it was sent to.
        tokens: what it asks for; it is whole when it brought as many.
        problem: what went wrong; empty when nothing did, or it still runs.
    """

    pod: str
    tokens: int
    problem: str = ""
    ended: bool = False
    pieces: int = 0
    _begun: threading.Event = field(default_factory=threading.Event)

    @property
    def is_whole(self) -> bool:
        """Whether all that was asked for came."""
        return self.ended and not self.problem


def is_routable(pod: Mapping[str, Any]) -> bool:
    """Whether a router sends requests to a pod: it is ready, stays, and carries the label that routes."""
    meta, status = pod["metadata"], pod.get("status", {})
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
    labelled = meta.get("labels", {}).get("tidefleet.io/routable") == "true"
    return ready and labelled and "deletionTimestamp" not in meta and bool(status.get("podIP"))


class Streams:
    """Real clients of a namespace's pools, which all run in one thread.

    Attributes:
        sent: every stream so far.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._api = place.cluster.api()  # clients are called from several threads
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="clients", daemon=True)
        self._running: set[Future[None]] = set()
        self._turn = 0
        self.sent: list[Stream] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in list(self._running):
            one.cancel()
        eventually(lambda: not self._running, "the clients end")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def open(self) -> list[Stream]:
        """Those that still run."""
        return [one for one in list(self.sent) if not one.ended]

    @property
    def broken(self) -> list[str]:
        """What went wrong with all that did not come whole to their end."""
        return [f"{one.pod}: {one.problem}" for one in list(self.sent) if one.problem]

    @property
    def whole(self) -> int:
        """Streams that brought all that was asked for."""
        return sum(1 for one in list(self.sent) if one.is_whole)

    def routable(self, pool: str = "chat") -> list[dict[str, Any]]:
        """The pods that requests may be routed to now."""
        selector = f"tidefleet.io/pool={pool},tidefleet.io/routable=true"
        with self._lock:
            found = self._api.get(f"{self._place.path(POD)}?labelSelector={selector}")["items"]
        return [one for one in found if is_routable(one)]

    def route(self, tokens: int, pool: str = "chat") -> Stream | None:
        """A stream to one of the pods that requests may be routed to, one after the other; none without such a pod."""
        pods = self.routable(pool)
        if not pods:
            return None
        self._turn += 1
        return self.send(pods[self._turn % len(pods)], tokens)

    def send(self, pod: Mapping[str, Any], tokens: int) -> Stream:
        """A stream to a pod; it has reached the engine when this returns."""
        one = Stream(pod["metadata"]["name"], tokens)
        self.sent.append(one)
        running = asyncio.run_coroutine_threadsafe(self._stream(one, pod["status"]["podIP"]), self._loop)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        assert one._begun.wait(PATIENCE_SECONDS), f"{one.pod} did not answer"
        return one

    def wait(self, what: str = "all streams ended") -> None:
        """Wait until none runs."""
        eventually(lambda: not self.open, what)

    async def _stream(self, one: Stream, address: str) -> None:
        """Ask, and read to the end. The engines send each event as one chunk, so that its line is never cut."""
        body = json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": "When does the tide turn?"}],
                "max_tokens": one.tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        brought, done = 0, False
        try:
            reader, writer = await asyncio.open_connection(address, PORT)
            try:
                writer.write((head + body).encode())
                status = (await reader.readline()).decode()
                one._begun.set()
                if " 200 " not in status:
                    raise ConnectionError(f"the answer begins with {status!r}")
                while line := await asyncio.wait_for(reader.readline(), PATIENCE_SECONDS):
                    text = line.decode().strip()
                    if text == "data: [DONE]":
                        done = True
                    elif text.startswith("data: "):
                        one.pieces += 1
                        usage = json.loads(text.removeprefix("data: ")).get("usage") or {}
                        brought = usage.get("completion_tokens", brought)
            finally:
                writer.close()
            if not done or brought != one.tokens:
                raise ConnectionError(f"{brought} of {one.tokens} tokens, {'with' if done else 'without'} an end")
        except (OSError, ValueError, TimeoutError) as error:
            one.problem = f"{type(error).__name__}: {error}"
        finally:
            one.ended = True
            one._begun.set()
