"""The emulator as a process, and the same in a thread: event loop, sockets, admin server, pods from a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from tidefleet.cluster.clock import Clock
from tidefleet.cluster.connection import connect
from tidefleet.cluster.inventory import Inventory
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.emulator.admin import Admin
from tidefleet.emulator.fleet import Fleet
from tidefleet.emulator.pods import KvEvents, Pod
from tidefleet.emulator.server import Sites, raise_file_limit

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK_SECONDS = 0.2
"""Real time between two steps of all engines when nobody asks."""

LEISURE = 4.0
"""Pause after a step of all engines in multiples of what the step took: many engines leave time to answer in."""

RETRY_SECONDS = 2.0
"""Real time between two tries of an address that could not be bound."""


class _Service:
    """A fleet with its sockets and its admin server inside a running event loop."""

    def __init__(self, fleet: Fleet, admin: tuple[str, int]) -> None:
        self.fleet, self.sites = fleet, Sites(fleet)
        self.admin_address = admin

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        runner = web.AppRunner(Admin(self.fleet, self.sites).application(), access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        ticker: asyncio.Task[None] | None = None
        try:
            host, port = self.admin_address
            site = web.TCPSite(runner, host, port)
            await site.start()
            bound = runner.addresses[0]
            self.admin_address = (str(bound[0]), int(bound[1]))
            ticker = asyncio.create_task(self._tick())
            yield self
        finally:
            if ticker is not None:
                ticker.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ticker
            await self.sites.close()
            await runner.cleanup()

    async def set_pods(self, pods: Iterable[Pod]) -> None:
        self.fleet.set_pods(pods)
        await self.sites.sync()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        retry_at = loop.time() + RETRY_SECONDS
        took = 0.0
        while True:
            await asyncio.sleep(max(TICK_SECONDS, LEISURE * took))
            began = loop.time()
            self.fleet.tick()
            took = loop.time() - began
            if self.sites.problems and loop.time() >= retry_at:
                await self.sites.sync()
                retry_at = loop.time() + RETRY_SECONDS


class Running:
    """A fleet on real sockets in a thread of its own, for tests and tools in the same process.

    Use as a context manager::

        with Running(Fleet(accelerators, models, RealClock())) as emulator:
            emulator.set_pods([SimulatedPod(...)])
            requests.get(f"http://{emulator.admin}/load")
    """

    def __init__(self, fleet: Fleet, admin: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._service = _Service(fleet, admin)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)

    @property
    def admin(self) -> str:
        """``host:port`` of the admin server."""
        return "{}:{}".format(*self._service.admin_address)

    def __enter__(self) -> Self:
        raise_file_limit()
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def set_pods(self, pods: Iterable[Pod]) -> None:
        """Take these pods; returns when their sockets are open."""
        held = list(pods)
        assert self._loop is not None  # noqa: S101  entered
        asyncio.run_coroutine_threadsafe(self._service.set_pods(held), self._loop).result()

    def call(self, function: Callable[[Fleet], T]) -> T:
        """Call a function with the fleet on the thread that owns it."""

        async def inside() -> T:
            return function(self._service.fleet)

        assert self._loop is not None  # noqa: S101  entered
        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result()

    def _run(self) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with self._service.running():
                self._ready.set()
                await self._stop.wait()

        try:
            with _runner() as runner:
                runner.run(serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()


def run(
    *,
    kubeconfig: str | None,
    clock: Clock,
    accelerators: Mapping[str, Accelerator],
    models: Mapping[str, Architecture],
    admin: tuple[str, int] = ("127.0.0.1", 0),
    namespaces: Sequence[str] = (),
    exit_with_parent: bool = False,
    kv_events: KvEvents | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Emulate the engines of a cluster's pods until SIGTERM or SIGINT.

    Args:
        kubeconfig: path; ``None`` for the usual places.
        clock: what all timing runs on.
        accelerators: by catalogue name; models: likewise.
        admin: host and port of the admin server, port 0 for a free one.
        namespaces: where to look for pods; none means everywhere.
        exit_with_parent: also end when the parent process does.
        kv_events: where engines publish their KV blocks whose pods say nothing of it.
        announce: gets one line with the admin server's address once it listens.

    Raises:
        NoConnection: there is no cluster to connect to.
    """
    parent = os.getppid()
    raise_file_limit()
    fleet = Fleet(accelerators, models, clock, kv_events=kv_events)

    async def serve() -> None:
        loop, stop, changed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

        def on_change(plural: str) -> None:
            if plural == "pods":
                loop.call_soon_threadsafe(changed.set)

        api = connect(kubeconfig)
        inventory = Inventory(api, list(namespaces) or None, None, on_change)
        async with _Service(fleet, admin).running() as service:
            announce("emulator admin http://{}:{}".format(*service.admin_address))
            inventory.start()
            try:
                following = asyncio.create_task(_follow(service, inventory, changed))
                watching = asyncio.create_task(_watch_parent(parent, stop) if exit_with_parent else stop.wait())
                ending = asyncio.create_task(stop.wait())
                done, left = await asyncio.wait({following, watching, ending}, return_when=asyncio.FIRST_COMPLETED)
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                for task in done:
                    task.result()
            finally:
                await asyncio.to_thread(inventory.stop)

    with _runner() as runner:
        runner.run(serve())


async def _follow(service: _Service, inventory: Inventory, changed: asyncio.Event) -> None:
    """Give the fleet the cluster's pods whenever they change, bursts taken together."""
    while not await asyncio.to_thread(inventory.wait_synced, 2.0):
        log.warning("still waiting for the list of pods")
    loop = asyncio.get_running_loop()
    while True:
        changed.clear()
        began = loop.time()
        await service.set_pods(inventory.pods())
        took = loop.time() - began
        await changed.wait()
        await asyncio.sleep(max(0.02, took))


async def _watch_parent(parent: int, stop: asyncio.Event) -> None:
    """End when the parent process does. (Linux's own signal for this comes when the parent's *thread* ends.)"""
    while os.getppid() == parent and not stop.is_set():  # noqa: ASYNC110  nothing tells of a parent's end
        await asyncio.sleep(0.5)
    stop.set()


def _runner() -> asyncio.Runner:
    try:
        import uvloop  # noqa: PLC0415  absent on Windows
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
