"""One of several router processes on one port: takes its orders from its supervisor's pipe, and ends with it.

`main` is run in a process of its own with `Orders`, pickled, on standard input. It tells the port of its HTTP on
standard output. The pipe stays open for as long as the supervisor lives; when it closes, the worker drains and ends.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
from dataclasses import dataclass
from typing import Literal

from tidefleet.cluster.connection import NoConnection
from tidefleet.router.discovery import Fleet
from tidefleet.router.process import RouterProcess, Settings, spare_the_collector
from tidefleet.telemetry import logs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told.

    Attributes:
        index: its number, from 0; its log lines carry it.
        fleet: what to serve instead of what the API server says.
    """

    settings: Settings
    index: int
    fleet: Fleet | None = None
    log_format: Literal["json", "text"] = "text"
    log_level: str = "info"


def main() -> int:
    """Be a worker; the exit status."""
    orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
    if not isinstance(orders, Orders):
        raise TypeError(f"standard input holds {type(orders).__name__}; expected the orders of a supervisor")
    logs.set_up(orders.log_format, orders.log_level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Numbered(orders.index))
    process = RouterProcess(orders.settings, fleet=orders.fleet, started=_tell)
    spare_the_collector()
    threading.Thread(target=_end_with_supervisor, args=(process,), daemon=True).start()
    try:
        return process.run()
    except (NoConnection, OSError) as error:
        log.error("%s", error)
        return 1


def _tell(_: int, http_port: int) -> None:
    sys.stdout.write(json.dumps({"http": http_port}) + "\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads the pipe any more


def _end_with_supervisor(process: RouterProcess) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    process.end()


class _Numbered(logging.Filter):
    """Adds the worker's number to every line."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index = index

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._index
        return True
