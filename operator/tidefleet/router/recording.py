"""Where a router's usage records go, of requests, of minutes that were paid, and what of them was lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tidefleet.router.discovery import Fleet
from tidefleet.router.exporting import Collector, Exporter
from tidefleet.router.paying import Payments, chips_of
from tidefleet.router.records import FileSettings, RecordsFile
from tidefleet.router.usage_values import Record

PAY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """Where records go; nothing is written without a file or a collector."""

    file: FileSettings | None = None
    collector: Collector | None = None

    @property
    def is_on(self) -> bool:
        """Whether they go anywhere."""
        return self.file is not None or self.collector is not None


class Recording:
    """File and exporter of one process, fed with what is paid.

    Args:
        worker: its number where several processes write.
        now: the event loop's clock.
        wall: Unix seconds.
    """

    def __init__(
        self,
        settings: RecordSettings,
        *,
        worker: int | None,
        now: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        host = socket.gethostname()
        source = host if worker is None else f"{host}-{worker}"
        self._now, self._wall = now, wall
        self._file: RecordsFile | None = None
        if settings.file is not None:
            self._file = RecordsFile(settings.file.of(host, worker), source=source, wall=wall)
        self._exporter = Exporter(settings.collector, source=source) if settings.collector is not None else None
        self._payments = Payments(source)
        self._task: asyncio.Task[None] | None = None
        self._told: dict[str, tuple[int, int]] = {}

    def start(self) -> None:
        """Begin, on the running event loop."""
        if self._file is not None:
            self._file.start()
        if self._exporter is not None:
            self._exporter.start()
        self._task = asyncio.get_running_loop().create_task(self._pay(), name="paid")

    def add(self, record: Record) -> None:
        """Take a record; returns at once."""
        if self._file is not None:
            self._file.add(record)
        if self._exporter is not None:
            self._exporter.add(record)

    def take(self, fleet: Fleet) -> None:
        """These are the chips that are paid from now on."""
        for one in self._payments.take(chips_of(fleet), self._now(), self._wall()):
            self.add(one)

    def counts(self) -> list[tuple[str, int, int]]:
        """Of each sink: records written and lost since the last call."""
        found = []
        for name, sink in (("file", self._file), ("otlp", self._exporter)):
            if sink is not None:
                before = self._told.get(name, (0, 0))
                now = self._told[name] = (sink.written, sink.lost)
                found.append((name, now[0] - before[0], now[1] - before[1]))
        return found

    async def close(self) -> None:
        """Write all that is there, and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for one in self._payments.finish(self._now(), self._wall()):
            self.add(one)
        if self._exporter is not None:
            await self._exporter.close()
        if self._file is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._file.close)

    async def _pay(self) -> None:
        while True:
            await asyncio.sleep(PAY_SECONDS)
            for one in self._payments.pass_(self._now(), self._wall()):
                self.add(one)
