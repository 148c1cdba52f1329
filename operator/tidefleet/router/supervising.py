"""Several router processes on one port, kept running: `tidefleet router run --workers N`.

The kernel spreads connections over the workers (SO_REUSEPORT). They share nothing but their settings, the secret that
names are hashed with among them. One that ends, or hangs, is started again after a pause that grows while it keeps
ending; it joins the port when it knows the fleet. Their HTTP is on loopback, and `front` shows it as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import pickle
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tidefleet import __version__
from tidefleet.router.discovery import Fleet
from tidefleet.router.front import Front, Gathered
from tidefleet.router.process import DRAIN_SECONDS, NOTICE_SECONDS, Settings
from tidefleet.router.worker import Orders
from tidefleet.routing.caps import bytes_for
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0
"""Before a worker is started again: the first, doubled each time, and the most."""
SETTLED_SECONDS = 60.0
"""A worker that ran for so long is started again after the first pause."""
GATHER_SECONDS = 1.0
HUNG_SECONDS = 15.0
SLOWEST_START_SECONDS = 120.0
"""A worker that has not told where its HTTP is after so long is killed."""
END_SECONDS = NOTICE_SECONDS + DRAIN_SECONDS + 5.0
_BE_A_WORKER = "import sys; from tidefleet.router.worker import main; sys.exit(main())"


@dataclass(slots=True, eq=False)
class Worker:
    """A process; see ``front.Asked``."""

    index: int
    process: asyncio.subprocess.Process
    answered: float
    url: str = ""

    @property
    def key(self) -> object:
        return self


class Supervisor:
    """Runs workers; `run` returns when it was asked to end.

    Args:
        settings: of every worker; their port is shared, and their HTTP is the supervisor's.
        fleet: what to serve instead of what the API server says.
        started: called with the port of ext_proc and that of HTTP when both are taken.
        hung_seconds: a worker whose HTTP, on the event loop of its port, has not answered for so long is killed.
    """

    def __init__(
        self,
        settings: Settings,
        workers: int,
        *,
        fleet: Fleet | None = None,
        started: Callable[[int, int], None] = lambda *_: None,
        log_format: Literal["json", "text"] = "text",
        log_level: str = "info",
        hung_seconds: float = HUNG_SECONDS,
    ) -> None:
        self._hung_seconds = hung_seconds
        self._settings, self._count, self._fleet, self._started = settings, workers, fleet, started
        self._log_format: Literal["json", "text"] = log_format
        self._log_level = log_level
        self._telemetry = Telemetry("router")
        self._gathered = Gathered(self._telemetry)
        self._workers: dict[int, Worker] = {}
        self._limits_file: Path | None = None
        self._was_ready = False
        self._status = 0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit status.

        Raises:
            OSError: an address cannot be bound.
        """
        return asyncio.run(self._main())

    async def _main(self) -> int:
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        self._telemetry.set("build_info", 1.0, version=__version__)
        front = Front(
            lambda: list(self._workers.values()),
            self._gathered,
            wrong=lambda: "the router ends" if ending.is_set() else "",
        )
        with _held_port(self._settings.host, self._settings.port) as port, tempfile.NamedTemporaryFile() as limits:
            limits.truncate(bytes_for())
            self._limits_file = Path(limits.name)
            await front.start(self._settings.http_host, self._settings.http_port)
            keepers = [loop.create_task(self._keep(index, port, ending)) for index in range(self._count)]
            watcher = loop.create_task(self._watch(front))
            log.info("%d workers on %s:%d, http on port %d", self._count, self._settings.host, port, front.port)
            self._started(port, front.port)
            try:
                waiter = loop.create_task(ending.wait())
                await asyncio.wait({waiter, watcher}, return_when=asyncio.FIRST_COMPLETED)
                if watcher.done():
                    log.error("the workers cannot be watched: %s", watcher.exception())
                    self._status = 1
                    ending.set()
                log.info("ending: %d workers are told", len(self._workers))
                for one in self._workers.values():
                    _send(one, signal.SIGTERM)
                done, late = await asyncio.wait(keepers, timeout=END_SECONDS)
                for one in self._workers.values():
                    _send(one, signal.SIGKILL)
                if late:
                    await asyncio.wait(late)
                for task in done:
                    task.result()
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
                await front.close()
        return self._status

    async def _keep(self, index: int, port: int, ending: asyncio.Event) -> None:
        """Have worker number `index` run until the end."""
        loop, failures = asyncio.get_running_loop(), 0
        while not ending.is_set():
            began = loop.time()
            try:
                worker = await self._begin(index, port)
            except OSError as error:  # no process, or no memory, is left
                log.error("worker %d cannot be started: %s", index, error)
                status, pid = 1, 0
            else:
                if ending.is_set():
                    _send(worker, signal.SIGTERM)
                status, pid = await worker.process.wait(), worker.process.pid
                del self._workers[index]
                self._gathered.ended(worker.key)
            if ending.is_set():
                return
            if not self._was_ready:
                log.error("worker %d ended with status %d before any was ready", index, status)
                self._status = status if status > 0 else 1
                ending.set()
                return
            failures = 0 if loop.time() - began >= SETTLED_SECONDS else failures
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**failures)
            failures += 1
            self._telemetry.count("router_worker_restarts_total")
            log.warning(
                "worker %d (process %d) ended with status %d; it is started again in %g s", index, pid, status, pause
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), pause)

    async def _begin(self, index: int, port: int) -> Worker:
        """Start a process and give it its orders; where its HTTP is comes later."""
        settings = dataclasses.replace(
            self._settings,
            port=port,
            reuse_port=True,
            listen_when_ready=True,
            http_host="127.0.0.1",
            http_port=0,
            limits_file=self._limits_file,
            worker=index,
        )
        orders = Orders(settings, index, self._fleet, self._log_format, self._log_level)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _BE_A_WORKER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)},
        )
        now = asyncio.get_running_loop().time()
        worker = self._workers[index] = Worker(index, process, now)
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        with contextlib.suppress(ConnectionError):
            process.stdin.write(pickle.dumps(orders))
            await process.stdin.drain()
        return worker

    async def _watch(self, front: Front) -> None:
        """Keep what workers count, so that it outlives them, and end those that do not answer."""
        loop = asyncio.get_running_loop()
        telling: dict[Worker, asyncio.Task[None]] = {}
        while True:
            for one in self._workers.values():
                if one not in telling:
                    telling[one] = loop.create_task(_hear(one))
            answered = await front.gather()
            self._was_ready = self._was_ready or self._gathered.ready > 0
            now = loop.time()
            for one in list(self._workers.values()):
                if one in answered:
                    one.answered = now
                elif now - one.answered > (self._hung_seconds if one.url else SLOWEST_START_SECONDS):
                    log.error("worker %d (process %d) does not answer; it is killed", one.index, one.process.pid)
                    _send(one, signal.SIGKILL)
            for one in [one for one in telling if self._workers.get(one.index) is not one]:
                telling.pop(one).cancel()
            await asyncio.sleep(GATHER_SECONDS if self._was_ready else GATHER_SECONDS / 10.0)


async def _hear(worker: Worker) -> None:
    """Learn where a worker's HTTP is."""
    assert worker.process.stdout is not None  # noqa: S101 - PIPE was asked for
    line = await worker.process.stdout.readline()
    with contextlib.suppress(ValueError, KeyError):
        worker.answered = asyncio.get_running_loop().time()
        worker.url = f"http://127.0.0.1:{int(json.loads(line)['http'])}"


def _send(worker: Worker, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.process.send_signal(number)


@contextlib.contextmanager
def _held_port(host: str, port: int) -> Iterator[int]:
    """Hold a port, a free one for 0, that workers listen on; a socket that does not listen is given no connections.

    Raises:
        OSError: it cannot be bound.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.bind(address)
        yield int(held.getsockname()[1])
