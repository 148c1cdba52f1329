"""The ends of `router_envoy.py`, each a process of its own: engines that answer at once, and clients that count.

    python benchmarks/router_envoy_http.py engines --ports P,P --told FILE
    python benchmarks/router_envoy_http.py client --ports P,P --size BYTES --seconds N --connections N [--rate N]

HTTP/1.1 by hand on asyncio and uvloop, so that both cost little of the processors that are measured. Without a rate
every connection sends its next request when the last is answered; with one, requests are due at an even pace whatever
became of the ones before, and their time counts from when they were due.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
sys.path[:] = [one for one in sys.path if one != _HERE]

import argparse  # noqa: E402
import asyncio  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import signal  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections import Counter, deque  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, cast  # noqa: E402

import uvloop  # noqa: E402

MODEL, TEXTS = "llama-3.1-8b", 64
LATE_SECONDS = 0.01
_USAGE = {"prompt_tokens": 500, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0}}
_SAID = {"index": 0, "message": {"role": "assistant", "content": "as you say"}, "finish_reason": "stop"}
_ANSWER = json.dumps(
    {"id": "a", "object": "chat.completion", "model": MODEL, "choices": [_SAID], "usage": _USAGE}
).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_ANSWER), _ANSWER)


class Messages(asyncio.Protocol):
    """Finds the end of each HTTP/1.1 message on a connection, of a known length or in chunks."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = b""
        self._left = -1
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Call `whole` for each message that ended."""
        self._buffer += data
        while self._one():
            pass

    def _one(self) -> bool:
        if not self._head:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            lower = self._head.lower()
            at = lower.find(b"content-length:")
            self._left = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if b"transfer-encoding: chunked" in lower:
                self._left = -1
        if self._left >= 0:
            if len(self._buffer) < self._left:
                return False
            del self._buffer[: self._left]
        elif not self._chunks():
            return False
        head, self._head = self._head, b""
        self.whole(head)
        return True

    def _chunks(self) -> bool:
        """Take chunks off; whether the last one came."""
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            size = int(self._buffer[:end], 16)
            if len(self._buffer) < end + 4 + size:
                return False
            del self._buffer[: end + 4 + size]
            if not size:
                return True

    def whole(self, head: bytes) -> None:
        """A message ended."""
        raise NotImplementedError


class Engine(Messages):
    """Answers every request at once."""

    def whole(self, head: bytes) -> None:
        self.transport.write(ANSWER)


class Client(Messages):
    """One connection of a client; ``done`` is called with each status."""

    def __init__(self, done: Callable[["Client", int], None]) -> None:
        super().__init__()
        self._done = done
        self.due = 0.0

    def whole(self, head: bytes) -> None:
        self._done(self, int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that was cut."""
        del exc
        if self.due:
            self._done(self, 0)


def bodies(size: int) -> list[bytes]:
    """Requests of about so many bytes: half of a prompt is shared by all, half is one of some texts."""
    found = []
    for number in range(TEXTS):
        half = size // 2 - 150
        shared = ("You are an assistant that answers in few words. " * (half // 48 + 1))[:half]
        own = (f"{number:04d} and what about the {number} words that follow it here? " * (half // 50 + 1))[:half]
        turns = [{"role": "system", "content": shared}, {"role": "user", "content": own}]
        body = json.dumps({"model": MODEL, "messages": turns, "max_tokens": 8}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\n"
        found.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return found


async def call(ports: Sequence[int], size: int, seconds: float, connections: int, rate: float) -> dict[str, Any]:
    """Send requests for so long; what came of them."""
    loop = asyncio.get_running_loop()
    texts = itertools.cycle(bodies(size))
    times: list[float] = []
    statuses: Counter[str] = Counter()
    waiting: deque[float] = deque()
    idle: deque[Client] = deque()
    late, stopped = 0, False

    def send(client: Client, due: float) -> None:
        client.due = due
        client.transport.write(next(texts))

    def done(client: Client, status: int) -> None:
        nonlocal late
        times.append(time.perf_counter() - client.due)
        statuses[str(status)] += 1
        client.due = 0.0
        if not rate and not stopped:
            send(client, time.perf_counter())
        elif waiting:
            due = waiting.popleft()
            late += time.perf_counter() - due > LATE_SECONDS
            send(client, due)
        else:
            idle.append(client)

    for index in range(connections):
        port = ports[index % len(ports)]
        _, client = await loop.create_connection(lambda: Client(done), "127.0.0.1", port)
        idle.append(client)
    began = time.perf_counter()
    if rate:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            if idle:
                send(idle.popleft(), due)
            else:
                waiting.append(due)
        until = time.perf_counter() + 10.0
        while len(idle) < connections and time.perf_counter() < until:  # noqa: ASYNC110 - a few turns at the end
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
    else:
        while idle:
            send(idle.popleft(), time.perf_counter())
        await asyncio.sleep(seconds)
        stopped, took = True, time.perf_counter() - began
        counted = len(times)
        while len(idle) < connections and time.perf_counter() - began < seconds + 10.0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        del times[counted:]
    marks = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    return {
        "count": sum(statuses.values()),
        "per_second": len(times) / took,
        "p50_ms": marks[49] * 1e3,
        "p95_ms": marks[94] * 1e3,
        "statuses": dict(statuses),
        "late": late,
    }


async def serve(ports: Sequence[int], told: Path) -> None:
    """Be the engines until SIGTERM."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    servers = [await loop.create_server(Engine, "127.0.0.1", port) for port in ports]
    told.write_text(json.dumps(list(ports)), encoding="utf-8")  # noqa: ASYNC240 - nothing runs yet
    await ended.wait()
    for one in servers:
        one.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("role", choices=("engines", "client"))
    parser.add_argument("--ports", required=True)
    parser.add_argument("--told", type=Path)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.0)
    asked = parser.parse_args()
    ports = [int(one) for one in asked.ports.split(",")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if asked.role == "engines":
            runner.run(serve(ports, asked.told))
        else:
            print(json.dumps(runner.run(call(ports, asked.size, asked.seconds, asked.connections, asked.rate))))


if __name__ == "__main__":
    main()
