"""The router process: discovery, KV events and observation on one side, gateways on the other, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tidefleet import __version__
from tidefleet.cluster.connection import connect
from tidefleet.router import ext_proc
from tidefleet.router.books import Books
from tidefleet.router.discovery import Discovery, Fleet, ServedPool
from tidefleet.router.health import Health
from tidefleet.router.hearing import Hearing
from tidefleet.router.http import RouterHttp
from tidefleet.router.limiting import Limiter
from tidefleet.router.metrics import RouterMeter
from tidefleet.router.observing import Observer
from tidefleet.router.picking import Picker
from tidefleet.router.pool_state import Limits
from tidefleet.router.recording import Recording, RecordSettings
from tidefleet.router.server import Server, serve, tls_context
from tidefleet.router.tokens import NoTokenizer, PromptTokens
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.05
"""Changes of the fleet that come within this time are taken in together."""
NOTICE_SECONDS, DRAIN_SECONDS = 2.0, 30.0
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Settings:
    """How a router runs.

    Attributes:
        tokenizers: a directory for each model (a name, or ``namespace/pool``) with its ``tokenizer.json``.
        secret: hashes names of sessions and tenants; the same in all replicas, so that they count alike.
        reuse_port: several processes share the port.
        listen_when_ready: gateways are let in once the fleet is known, not before: a process that shares its port
            would be asked by some while others know more.
        records: where usage records go.
        limits_share: of tenants' limits, that is this router's own.
        limits_file: in which the processes of one router count tenants' use together; see ``limiting``.
        worker: number of this process among them.
    """

    namespaces: tuple[str, ...] = ()
    kubeconfig: str | None = None
    host: str = "127.0.0.1"
    port: int = 9002
    http_host: str = "127.0.0.1"
    http_port: int = 9090
    pool_header: str = ""
    headers_only: bool = False
    tokenizers: tuple[tuple[str, Path], ...] = ()
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES))
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    reuse_port: bool = False
    listen_when_ready: bool = False
    limits: Limits = field(default_factory=Limits)
    observe_seconds: float = 1.0
    records: RecordSettings = field(default_factory=RecordSettings)
    limits_share: float = 1.0
    limits_file: Path | None = None
    worker: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.limits_share <= 1.0:
            raise ValueError(f"--limits-share is {self.limits_share}; expected more than 0 and at most 1, e.g. 0.5")


class RouterProcess:
    """One process; `run` returns when it was asked to end.

    Args:
        fleet: what to serve instead of what the API server says.
        started: called with the port of ext_proc and that of HTTP when both are open; with ``listen_when_ready`` when
            HTTP is.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fleet: Fleet | None = None,
        started: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.settings = settings
        self._fleet, self._started = fleet, started
        self.telemetry = Telemetry("router")
        self.meter = RouterMeter(self.telemetry)
        self._tokenizers: dict[str, PromptTokens | None] = {}
        self._ended: asyncio.Event | None = None
        self._known = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._discovery: Discovery | None = None
        self._server: Server | None = None
        self.picker: Picker | None = None
        self._recording: Recording | None = None

    def end(self) -> None:
        """Ask it to end; from any thread."""
        if self._loop is not None and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or `end`; the exit status.

        Raises:
            NoConnection: no credentials for the API server.
            OSError: an address cannot be bound.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._main())

    async def _main(self) -> int:
        settings, loop = self.settings, asyncio.get_running_loop()
        self._loop, self._ended, self._known = loop, asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):  # not in the main thread
                loop.add_signal_handler(number, self._ended.set)
        self.telemetry.set("build_info", 1.0, version=__version__)
        health = Health(ready=False)
        threads = ThreadPoolExecutor(max_workers=max(1, min(4, (os.cpu_count() or 2) - 1)), thread_name_prefix="tokens")
        recording = None
        if settings.records.is_on:
            recording = self._recording = Recording(settings.records, worker=settings.worker, now=loop.time)
        books = Books(
            secret=settings.secret,
            limiter=Limiter(share=settings.limits_share, shared=settings.limits_file),
            record=recording.add if recording is not None else None,
        )
        picker = self.picker = Picker(
            secret=settings.secret,
            now=loop.time,
            tokens_of=self._tokens_of,
            threads=threads,
            limits=settings.limits,
            pool_header=settings.pool_header,
            meter=self.meter,
            books=books,
            seed=os.getpid(),
        )
        hearing = Hearing(loop.time)
        observer = Observer(picker.pools.values, loop.time, period_seconds=settings.observe_seconds)
        if not settings.listen_when_ready:
            await self._listen(picker, health)
        http = RouterHttp(picker, self.telemetry, before=self._gauges, ready=self._wrong)
        await http.start(settings.http_host, settings.http_port)
        keeper = loop.create_task(self._keep_up(picker, hearing, health), name="fleet")
        observer.start()
        if recording is not None:
            recording.start()
        log.info("http on %s:%d", settings.http_host, http.port)
        self._started(settings.port if self._server is None else self._server.port, http.port)
        waiter = loop.create_task(self._ended.wait())
        known = loop.create_task(self._known.wait())
        try:
            if self._server is None:
                await asyncio.wait({waiter, keeper, known}, return_when=asyncio.FIRST_COMPLETED)
                if self._known.is_set() and not self._ended.is_set():
                    await self._listen(picker, health)
            await asyncio.wait({waiter, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done() and not keeper.cancelled() and keeper.exception() is not None:
                log.error("the fleet cannot be followed: %s", keeper.exception())
                return 1
            server = self._server
            if server is not None:
                log.info("ending: %d streams are open", server.streams)
                notice = NOTICE_SECONDS if server.streams else 0.0
                await server.drain(notice_seconds=notice, limit_seconds=DRAIN_SECONDS)
            return 0
        finally:
            for task in (waiter, known, keeper):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            if self._discovery is not None:
                await loop.run_in_executor(None, self._discovery.stop)
            await observer.close()
            await hearing.close()
            await picker.close()
            if self._server is not None:
                await self._server.close()
            if recording is not None:
                await recording.close()
            await http.close()
            threads.shutdown(wait=False, cancel_futures=True)

    async def _listen(self, picker: Picker, health: Health) -> None:
        """Let gateways in."""
        settings = self.settings
        self._server = await serve(
            picker,
            settings.host,
            settings.port,
            health=health,
            tls=self._tls(),
            reuse_port=settings.reuse_port,
            options=ext_proc.Options(headers_only=settings.headers_only),
        )
        log.info("listening on %s:%d", settings.host, self._server.port)

    def _gauges(self) -> None:
        """Set what is now, before the metrics are told."""
        telemetry = self.telemetry
        if self.picker is not None:
            self.meter.gauges(self.picker.pools.values())
        if self._recording is not None:
            for sink, written, lost in self._recording.counts():
                self.meter.records(sink, written, lost)
        if self._server is not None:
            telemetry.set("router_streams", float(self._server.streams))
            telemetry.set("router_held_bytes", float(self._server.budget.held_bytes))
        if self._discovery is not None:
            telemetry.set("router_sync_timestamp_seconds", self._discovery.last_contact)
        telemetry.set("router_workers", float(not self._wrong()))
        telemetry.count("router_worker_restarts_total", 0.0)

    async def _keep_up(self, picker: Picker, hearing: Hearing, health: Health) -> None:
        """Take in the fleet whenever it changes."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        if self._fleet is not None:
            await self._take(picker, hearing, health, self._fleet)
            await asyncio.Event().wait()
        api = connect(self.settings.kubeconfig)

        def changes() -> None:
            loop.call_soon_threadsafe(changed.set)

        discovery = self._discovery = Discovery(api, self.settings.namespaces, changes)
        discovery.start()
        while True:
            await changed.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            changed.clear()
            if discovery.synced:
                await self._take(picker, hearing, health, await loop.run_in_executor(None, discovery.fleet))
            else:
                loop.call_later(0.2, changed.set)

    async def _take(self, picker: Picker, hearing: Hearing, health: Health, fleet: Fleet) -> None:
        gone = set(picker.pools) - {one.key for one in fleet.pools}
        picker.update(fleet)
        if self._recording is not None:
            self._recording.take(fleet)
        await hearing.follow(picker.pools.values())
        for key in gone:
            self.meter.forget(key)
        self._known.set()
        if not health.ready:
            health.ready = True
            log.info("ready: %d pools, %d endpoints", len(fleet.pools), sum(len(one.ranks) for one in fleet.pools))

    def _wrong(self) -> str:
        if self.picker is None or not self.picker.ready:
            return "the fleet is not known yet"
        if self._server is None:
            return "the port is not open yet"
        return ""

    def _tls(self) -> ssl.SSLContext | None:
        settings = self.settings
        if settings.certificate is None or settings.key is None:
            return None
        return tls_context(settings.certificate, settings.key, client_ca=settings.client_ca)

    def _tokens_of(self, served: ServedPool) -> PromptTokens | None:
        """The tokenizer that a pool's prompts are encoded with: that of the pool, or of a model it serves."""
        for name, directory in self.settings.tokenizers:
            if name == served.key or name in served.models:
                if name not in self._tokenizers:
                    try:
                        self._tokenizers[name] = PromptTokens(directory)
                    except NoTokenizer as error:
                        log.error("%s: %s; its prompts are compared as text", served.key, error)
                        self._tokenizers[name] = None
                return self._tokenizers[name]
        return None


def write_ports(path: Path) -> Callable[[int, int], None]:
    """Tell the ports that were opened in a file, for whoever started the process on free ones."""

    def write(ext_proc_port: int, http_port: int) -> None:
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(json.dumps({"extProc": ext_proc_port, "http": http_port, "pid": os.getpid()}))
        fresh.replace(path)

    return write


def say_ports(ext_proc_port: int, http_port: int) -> None:
    """Tell the ports on standard output."""
    sys.stdout.write(json.dumps({"extProc": ext_proc_port, "http": http_port, "at": time.time()}) + "\n")
    sys.stdout.flush()


def spare_the_collector() -> None:
    """Have the garbage collector look seldom, in a process that only routes: what a request leaves has no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
