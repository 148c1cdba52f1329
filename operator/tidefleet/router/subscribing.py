"""KV events off the wire: a subscription per engine rank that watches sequences, replays gaps and bounds floods.

The wire is vLLM's, which SGLang speaks too: a PUB socket sends ``[topic, sequence, payload]`` with a big-endian 8-byte
sequence and a msgpack payload ``[timestamp, events, dp_rank?]``; a ROUTER socket answers ``["", sequence]`` with what
it still has from there on and ends with the sequence -1. Whose events they are is told by the socket, never the topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import zmq
import zmq.asyncio

log = logging.getLogger(__name__)

LARGEST_MESSAGE, MOST_WAITING = 8 * 2**20, 128
"""Bytes of one message (a larger one breaks the connection), and messages that wait while a replay goes on; more are
lost and asked for. So the worst engine takes 1 GiB; a step of a real one, 65,536 tokens say, makes 0.4 MB."""
MOST_EVENTS = 65_536
"""Events of one message that are looked at."""
REPLAY_SECONDS, MOST_REPLAYED = 10.0, 100_000
"""A replay is given up after so long, or so many messages: an engine's buffer holds 10,000 by default (vLLM 0.32)."""
SUBSCRIBED_SECONDS = 0.1
"""From a new connection until the engine knows that we subscribe, well above a round trip."""
REPLAY_PAUSE_SECONDS = 1.0
"""Least time between two replays of one rank, so that a lossy link does not end in nothing but replays."""
END = (-1).to_bytes(8, "big", signed=True)


class Heard(Protocol):
    """Who takes the events of one rank; all calls come from the event loop."""

    def batch(self, events: list[Any], rank: int | None) -> None:
        """Take the events of one message, in order."""
        ...

    def lost(self, why: str) -> None:
        """Forget what is known of this rank: messages are missing, or it started afresh."""
        ...

    def malformed(self, why: str) -> None:
        """Count a message that cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where a rank publishes: ``tcp://10.0.0.7:5557``, and where it replays (empty: nowhere)."""

    events: str
    replay: str = ""


@dataclass(slots=True)
class Progress:
    """How far a subscription has come, for metrics.

    Attributes:
        sequence: of the last message taken; -1 before the first.
        gaps, replays, messages: counts.
    """

    sequence: int = -1
    messages: int = 0
    gaps: int = 0
    replays: int = 0
    malformed: int = 0


class Subscription:
    """Follows one rank until it is closed. It first asks for a replay: what was stored before we came counts, too.

    A connection that was made anew may lead to an engine that was started anew, and what was published in between is
    lost without a gap until something else is. So each new connection, and each gap, is followed by a replay from the
    last message that we have: if that one is not the same, byte for byte, the engine is another one.

    Args:
        context: of the process; sockets are made of it and closed with this.
        now: seconds of a monotonic clock.
    """

    def __init__(
        self,
        source: Source,
        heard: Heard,
        *,
        context: zmq.asyncio.Context,
        now: Callable[[], float],
        replay_seconds: float = REPLAY_SECONDS,
        most_replayed: int = MOST_REPLAYED,
    ) -> None:
        self.source, self.progress = source, Progress()
        self._heard, self._context, self._now = heard, context, now
        self._replay_seconds, self._most_replayed = replay_seconds, most_replayed
        self._replayed_at: float | None = None
        self._live: int | None = None  # sequence of the last message that was published to us
        self._digest = 0  # of the last message that was taken
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"kv-events {self.source.events}")

    async def close(self) -> None:
        """End; safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _follow(self) -> None:
        socket = self._context.socket(zmq.SUB)
        monitor = socket.get_monitor_socket(zmq.Event.HANDSHAKE_SUCCEEDED)
        watcher: asyncio.Task[None] | None = None
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
            socket.setsockopt(zmq.RCVHWM, MOST_WAITING)
            socket.setsockopt(zmq.IPV6, 1)
            # Lost connections are found by heartbeats: a pod that vanishes sends no FIN.
            socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5_000)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(self.source.events)
            if self.source.replay:
                await self._replay()
            watcher = asyncio.get_running_loop().create_task(self._watch(monitor))
            while True:
                frames = await socket.recv_multipart()
                async with self._lock:
                    await self._take(frames)
        finally:
            if watcher is not None:
                watcher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watcher
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close()

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """After each new connection, see whether what we know is still so."""
        first = True
        while True:
            await monitor.recv_multipart()
            await asyncio.sleep(SUBSCRIBED_SECONDS)
            async with self._lock:
                if self.source.replay:
                    await self._replay()
                elif not first:
                    self._forget("its connection was made anew, and it replays nothing")
            first = False
            await asyncio.sleep(REPLAY_PAUSE_SECONDS)

    async def _take(self, frames: list[bytes]) -> None:
        if len(frames) < 2 or len(frames[-2]) != 8:
            self._bad(f"{len(frames)} frames; expected a topic, a sequence of 8 bytes and a payload")
            return
        sequence = int.from_bytes(frames[-2], "big", signed=True)
        last = self.progress.sequence
        if sequence < 0:
            self._bad("a sequence below 0")
            return
        before, self._live = self._live, sequence
        if sequence <= last and (before is None or sequence > before) and (sequence == last or before is not None):
            return  # a replay has overtaken it
        if sequence <= last:
            self._forget("the engine counts from the start again")
            if sequence:
                await self._fill(sequence)
        elif sequence > last + 1:
            self.progress.gaps += 1
            if not await self._fill(sequence):
                self._forget(f"{sequence - last - 1} messages are missing")
        if sequence > self.progress.sequence:
            self._hand(sequence, frames[-1])

    async def _fill(self, until: int) -> bool:
        """Have messages up to before `until` replayed; whether all came."""
        if not self.source.replay:
            return False
        if self._replayed_at is not None and self._now() - self._replayed_at < REPLAY_PAUSE_SECONDS:
            return False
        await self._replay()
        return self.progress.sequence >= until - 1

    async def _replay(self) -> None:
        """Have everything replayed that came after what we have; from the start where the engine is another one."""
        self._replayed_at = self._now()
        if self.progress.sequence >= 0 and not await self._ask(self.progress.sequence):
            self._forget("it does not have the last message that we know of it")
        if self.progress.sequence < 0:
            await self._ask(0)

    async def _ask(self, first: int) -> bool:
        """Ask for everything from `first` on; what comes in order is taken.

        Returns:
            Whether the first message that came is the last one that we have; if it should be and is not, none is taken.
        """
        self.progress.replays += 1
        known, confirmed = self.progress.sequence, False
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
            socket.setsockopt(zmq.RCVHWM, MOST_WAITING)
            socket.setsockopt(zmq.IPV6, 1)
            socket.connect(self.source.replay)
            async with asyncio.timeout(self._replay_seconds):
                await socket.send_multipart([b"", first.to_bytes(8, "big")])
                for _ in range(self._most_replayed):
                    frames = await socket.recv_multipart()
                    if len(frames) < 2 or len(frames[-2]) != 8:
                        self._bad("a replayed message without a sequence of 8 bytes")
                        return confirmed
                    if frames[-2] == END:
                        return confirmed
                    sequence = int.from_bytes(frames[-2], "big", signed=True)
                    if known >= 0 and not confirmed:
                        confirmed = sequence == known and hash(frames[-1]) == self._digest
                        if not confirmed:
                            return False
                    self._replayed(sequence, frames[-1])
        except TimeoutError:
            log.info("replay of %s not over after %g s", self.source.replay, self._replay_seconds)
        finally:
            socket.close()
        return confirmed

    def _replayed(self, sequence: int, payload: bytes) -> None:
        last = self.progress.sequence
        if sequence <= last:
            return
        if last >= 0 and sequence > last + 1:
            self._forget(f"{sequence - last - 1} messages are no longer kept by the engine")
        self._hand(sequence, payload)

    def _hand(self, sequence: int, payload: bytes) -> None:
        self.progress.sequence, self._digest = sequence, hash(payload)
        self.progress.messages += 1
        try:
            message = msgspec.msgpack.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            self._bad("a payload that is no msgpack")
            return
        if not isinstance(message, list | tuple) or len(message) < 2 or not isinstance(message[1], list | tuple):
            self._bad("a payload that is no [timestamp, events]")
            return
        events = list(message[1])
        if len(events) > MOST_EVENTS:
            self._bad(f"{len(events)} events in one message; at most {MOST_EVENTS}")
            self._forget("a message was too large to be taken")
            return
        rank = message[2] if len(message) > 2 and isinstance(message[2], int) else None
        self._heard.batch(events, rank)

    def _bad(self, why: str) -> None:
        self.progress.malformed += 1
        self._heard.malformed(why)

    def _forget(self, why: str) -> None:
        self.progress.sequence = -1
        self._heard.lost(why)
