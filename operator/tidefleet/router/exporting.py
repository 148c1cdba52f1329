"""Usage records to an OpenTelemetry collector: OTLP over HTTP as JSON, each record one log record.

Records wait in a bounded queue. What a collector refuses, and what finds the queue full, is lost and counted; while it
is away, records are kept as far as the queue goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import aiohttp
import msgspec

from tidefleet.router.usage_values import Record

log = logging.getLogger(__name__)

PATH = "/v1/logs"
PERIOD_SECONDS, TIMEOUT_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 10.0, 30.0
AT_ONCE = 256
MOST_QUEUED = 20_000
END_SECONDS = 3.0
"""What a collector may take for the last records when the process ends."""
_INFO = 9
_PASSING = frozenset({429, 502, 503, 504})
"""Statuses after which OTLP has a client try again."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where records go.

    Attributes:
        url: of the collector, e.g. http://collector:4318; the path of logs is added where it is not there.
        headers: that it wants, e.g. for authorization.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"--otlp-endpoint is {self.url!r}; expected a URL, e.g. http://collector:4318")

    @property
    def logs(self) -> str:
        """Where logs are posted."""
        plain = self.url.rstrip("/")
        return plain if plain.endswith(PATH) else plain + PATH


def headers_of(text: str) -> tuple[tuple[str, str], ...]:
    """Headers out of OpenTelemetry's environment variable: ``name=value,name=value``, values percent-encoded."""
    pairs = (one.partition("=") for one in text.split(","))
    return tuple((name.strip(), unquote(value.strip())) for name, equals, value in pairs if equals and name.strip())


def log_record(record: Record) -> dict[str, Any]:
    """One record in OTLP's JSON; what is null is left out."""
    values: dict[str, Any] = msgspec.to_builtins(record)
    kind = values.pop("type")
    return {
        "timeUnixNano": str(int(record.end * 1e9)),
        "severityNumber": _INFO,
        "eventName": f"tidefleet.usage.{kind}",
        "body": {"stringValue": f"tidefleet usage: {kind}"},
        "attributes": [
            {"key": f"tidefleet.{name}", "value": _value(value)} for name, value in values.items() if value is not None
        ],
    }


def _value(value: object) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def payload(records: Sequence[Record], resource: Mapping[str, str]) -> bytes:
    """An ExportLogsServiceRequest."""
    attributes = [{"key": name, "value": {"stringValue": value}} for name, value in resource.items()]
    scope = {"scope": {"name": "tidefleet.usage", "version": "1"}, "logRecords": [log_record(one) for one in records]}
    return msgspec.json.encode(
        {"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": [scope]}]},
    )


class Exporter:
    """Sends records from the running event loop.

    Args:
        source: who sends, as ``service.instance.id``.
    """

    def __init__(self, collector: Collector, *, source: str, period_seconds: float = PERIOD_SECONDS) -> None:
        self._collector, self._period = collector, period_seconds
        self._resource = {"service.name": "tidefleet-router", "service.instance.id": source}
        self._queue: deque[Record] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wrong = ""
        self.written = self.lost = 0

    def add(self, record: Record) -> None:
        """Take a record; returns at once."""
        if len(self._queue) >= MOST_QUEUED:
            self.lost += 1
        else:
            self._queue.append(record)

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="otlp")

    async def close(self) -> None:
        """Send what is there, for as long as a collector may take, and end."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(END_SECONDS), self._session() as session:
                while self._queue and await self._send(session):
                    pass
        self.lost += len(self._queue)
        self._queue.clear()

    def _session(self) -> aiohttp.ClientSession:
        headers = {"content-type": "application/json", **dict(self._collector.headers)}
        return aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))

    async def _run(self) -> None:
        pause = self._period
        async with self._session() as session:
            while True:
                await asyncio.sleep(pause)
                pause = self._period
                while self._queue:
                    if not await self._send(session):
                        pause = min(LONGEST_PAUSE_SECONDS, max(pause, self._period) * 2.0)
                        break

    async def _send(self, session: aiohttp.ClientSession) -> bool:
        """Post some records; whether the collector answered, with whatever word."""
        some = [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]
        try:
            body = await asyncio.to_thread(payload, some, self._resource)
            async with session.post(self._collector.logs, data=body) as answer:
                status, text = answer.status, await answer.content.read(65_536)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._again(some, str(error) or type(error).__name__)
        except asyncio.CancelledError:
            self._queue.extendleft(reversed(some))
            raise
        if status in _PASSING:
            return self._again(some, f"status {status}")
        rejected = len(some) if status >= 300 else min(len(some), _rejected(text))
        if rejected:
            self._say(f"{rejected} of {len(some)} records were refused with status {status}")
        elif self._wrong:
            self._say("")
        self.lost += rejected
        self.written += len(some) - rejected
        return True

    def _again(self, some: Sequence[Record], why: str) -> bool:
        self._queue.extendleft(reversed(some))
        self._say(why)
        return False

    def _say(self, words: str) -> None:
        if words and words != self._wrong:
            log.warning("usage records to %s: %s", self._collector.logs, words)
        elif self._wrong and not words:
            log.info("usage records are taken by %s again", self._collector.logs)
        self._wrong = words


def _rejected(text: bytes) -> int:
    """Records that a collector says it did not take, of those of a request that went well."""
    try:
        found = json.loads(text) if text.strip() else {}
        return int(found.get("partialSuccess", {}).get("rejectedLogRecords", 0))
    except (ValueError, AttributeError, TypeError):
        return 0
