"""KV events of one engine on ZMQ sockets: a PUB socket for what happens, a ROUTER socket that replays what happened.

As in vLLM: ``[topic, number in 8 bytes, payload]`` is published; a request ``["", number]`` is answered by the messages
kept from that number on, each as ``["", number, payload]``, and the number -1 at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time

import zmq
import zmq.asyncio

from tidefleet.emulator.kv_events import Journal
from tidefleet.emulator.pods import KvEvents
from tidefleet.emulator.prefix import Change, PrefixCache

log = logging.getLogger(__name__)

END = (-1).to_bytes(8, "big", signed=True)
BIND_TRIES, BIND_PAUSE_SECONDS = 100, 0.02
"""ZMQ gives up an address in the background, so the one of an engine that ended is free a moment later."""


class Publisher:
    """The sockets of one engine while it runs; the event loop that owns its cache owns this.

    Args:
        context: of the process.
        topic: of every message.
    """

    def __init__(self, context: zmq.asyncio.Context, cache: PrefixCache, topic: str) -> None:
        self._cache, self._topic = cache, topic.encode()
        self._journal = Journal()
        self._events: zmq.Socket[bytes] = zmq.Context(context).socket(zmq.PUB)
        self._replay = context.socket(zmq.ROUTER)
        self._task: asyncio.Task[None] | None = None
        self._due = False

    async def start(self, host: str, facts: KvEvents) -> None:
        """Bind, and tell every change of the cache from now on.

        Raises:
            OSError: an address cannot be bound.
        """
        name = f"[{host}]" if ":" in host else host
        for socket, port in ((self._events, facts.port), (self._replay, facts.replay_port)):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IPV6, int(":" in host))
            if port:
                await _bind(socket, f"tcp://{name}:{port}")
        self._cache.tell(self._changed)
        if facts.replay_port:
            self._task = asyncio.get_running_loop().create_task(self._answer(), name=f"replay of {host}")

    async def close(self) -> None:
        """End; what the engine held is forgotten with it."""
        self._cache.tell(None)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._events.close(linger=0)
        self._replay.close(linger=0)

    def _changed(self, change: Change) -> None:
        self._journal.note(change)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._publish)

    def _publish(self) -> None:
        self._due = False
        made = self._journal.message(time.time())
        if made is None or self._events.closed:
            return
        number, payload = made
        with contextlib.suppress(zmq.Again):  # a PUB socket drops what a subscriber has no room for
            self._events.send_multipart([self._topic, number.to_bytes(8, "big"), payload], zmq.NOBLOCK)

    async def _answer(self) -> None:
        while True:
            frames = await self._replay.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue
            client, wanted = frames[0], int.from_bytes(frames[2], "big")
            for number, payload in self._journal.since(wanted):
                await self._replay.send_multipart([client, b"", number.to_bytes(8, "big"), payload])
            await self._replay.send_multipart([client, b"", END, b""])


async def _bind(socket: zmq.Socket[bytes] | zmq.asyncio.Socket, address: str) -> None:
    for tries in range(BIND_TRIES):
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or tries == BIND_TRIES - 1:
                raise OSError(error.errno, f"cannot publish on {address}: {error.strerror}") from None
            await asyncio.sleep(BIND_PAUSE_SECONDS)
        else:
            return
